"""`startlist import-legacy`: take over the rows of the system that startlist replaces."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.output import Json, note, print_json, say, table
from startlist.config import Settings
from startlist.errors import ConfigurationError

if TYPE_CHECKING:
    from startlist.store.legacy.importing import Imported

REASONS = {
    "stored": "stored already; ours stays",
    "duplicate": "there twice; the newest by fetched_date counts",
    "no_registration_id": "without a registration id",
    "no_event_id": "without an event id",
    "no_race_id": "of an event of an unknown race",
    "no_partner": "of no timing partner that is known",
    "unknown_partner": "of a timing partner that is not in timing_partners",
    "not_in_runsignup": "of an event that a sync has read in full, where RunSignup does not list it",
    "purged": "of an event whose registrations were purged here",
    "no_race": "of no race that was taken",
    "other_provider": "of another provider than RunSignUp",
    "no_key_or_secret": "without a key or a readable secret",
    "key_of_another_partner": "an API key that another timing partner has already",
}


def import_legacy(
    url: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="The old database, if it is not the one that ours lives in."),
    ] = None,
    schema: Annotated[
        str, typer.Option("--from-schema", metavar="NAME", help="The schema of the old tables.")
    ] = "public",
    rejected: Annotated[
        Path | None,
        typer.Option("--rejected", metavar="FILE", help="Write the registrations that were not taken to a new file."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; nothing is stored.")] = False,
    json: Json = False,
) -> None:
    """Take over timing partners, API keys, races, events and registrations of the scripts that startlist replaces.

    Without --from the old tables are looked for in our own database. They are read in one read-only transaction and
    stay as they are. What is stored already stays too: only what is not there is added, all of it or nothing, and a
    second run adds nothing. API secrets are sealed. It says what was not taken, and why. Then run startlist sync: it
    reads all future events in full and puts right what is stale.

    Exit status: 0 done, or nothing to do; 1 the database failed; 2 the old tables cannot be found or read.

    Examples:
        startlist import-legacy --dry-run     what it would take over
        startlist import-legacy               from schema public of our database
        startlist import-legacy --from postgresql://ann@db1/app
    """
    settings = begin()
    with nullcontext() if rejected is None else _new_file(rejected) as file:
        done = run(_import(settings, url, schema, file, dry_run=dry_run, quiet=json))
    if json:
        print_json(_document(done))
    else:
        _print(done)


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """For its owner only: what is written there is personal data. It goes again where the import fails."""
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")
    except FileExistsError:
        raise ConfigurationError(f"--rejected: {path} is there already; name a new file") from None
    except OSError as error:
        raise ConfigurationError(f"--rejected: cannot write {path}: {error.strerror}") from None
    try:
        with file:
            yield file
    except BaseException:
        path.unlink()
        raise


async def _import(
    settings: Settings, url: str | None, schema: str, rejected: TextIO | None, *, dry_run: bool, quiet: bool
) -> Imported:
    from startlist.store.database import Database
    from startlist.store.legacy.importing import import_legacy as take_over

    def tell(step: str) -> None:
        if not quiet and sys.stderr.isatty():
            note(f"{step} ...")

    database = await Database.open(settings)
    return await take_over(database, settings, url=url, schema=schema, dry_run=dry_run, rejected=rejected, report=tell)


def _document(done: Imported) -> dict[str, Any]:
    return {
        "place": done.place,
        "from_schema": done.from_schema,
        "timezone": done.timezone,
        "dry_run": done.dry_run,
        "changed": done.changed,
        "tables": {
            name: {"read": taken.read, "inserted": taken.inserted, "left": {k: n for k, n in taken.left.items() if n}}
            for name, taken in done.tables.items()
        },
        "renumbered": [{"old": old, "timing_partner_id": number} for old, number in done.renumbered],
        "warnings": done.warnings,
    }


def _print(done: Imported) -> None:
    added = "would add" if done.dry_run else "added"
    table(
        ["table", "read", added, "left out"],
        [(name, taken.read, taken.inserted, taken.left.total()) for name, taken in done.tables.items()],
    )
    for name, taken in done.tables.items():
        for reason, count in taken.left.items():
            if count:
                say(f"{name}: {count:,} {REASONS[reason]}")
    for old, number in done.renumbered:
        say(f"timing partner {old} is {number} here")
    for warning in done.warnings:
        note(f"startlist: {warning}")
    say(f"Times without a zone, other than of races, were read on the old server's clock: {done.timezone}.")
    if not done.changed:
        say("Nothing was added: everything that can be taken over is stored already.")
    elif done.dry_run:
        say("Nothing was stored, this was a dry run.")
    else:
        rows = done.tables["runsignup_participants"].inserted
        say(f"{words.counted(rows, 'registration')} taken over. Next: startlist sync")
