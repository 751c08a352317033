"""`startlist purge`: delete the people of events that are over."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import date
from typing import Annotated

import typer

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.output import Json, Race, cell, note, print_json, say, table, whole
from startlist.config import Settings
from startlist.errors import ConfigurationError
from startlist.store import purge as store
from startlist.store.cursors import clock
from startlist.store.database import Database
from startlist.store.purge import Chosen, Part
from startlist.store.reading import Filters, check_filters, reader

NAMED = 5  # of the events that are kept, and of the races that go
LOCK_WAIT_SECONDS = 60.0


def _day(text: str | date) -> date:
    try:
        return date.fromisoformat(str(text).strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a date such as 2024-01-01") from None


def purge(
    timing_partner: Annotated[
        int | None,
        typer.Option(
            "--timing-partner", "--partner", metavar="ID", parser=whole(), help="Only this partner's; all its races."
        ),
    ] = None,
    race: Race = None,
    before: Annotated[
        date | None,
        typer.Option("--before", metavar="DATE", parser=_day, help="Only events of days before this one."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete people's data of events that are over: registrations, changes, bib changes, records in quarantine.

    It counts first and asks. Races, events and the history of passes stay. Events that are coming or were over less
    than 8 days ago are kept and named: the next sync would bring their people back. What was deleted is not read again
    by itself, but by `backfill --restart`, and by a sync that names the race when its latest event is over. Backups
    that were made before still hold it.

    Exit status: 0 done, or nothing to delete; 1 not confirmed, or another run held some of the races; 2 wrong usage; 3
    other runs held them all.

    Examples:
        startlist purge --before 2024-01-01             counts, and asks
        startlist purge --race 12345 --yes              for a script
        startlist purge --timing-partner 3 --before 2025-01-01
    """
    settings = begin()
    if timing_partner is None and race is None and before is None:
        raise ConfigurationError("say of what: --timing-partner ID, --race RACE_ID, --before DATE, or several of these")
    chosen, parts = run(_count(settings, timing_partner, race, before))
    kept = [one for one in chosen if one.asked and not one.over]
    _tell_kept(kept)
    if not parts:
        if json:
            print_json({"deleted": [], "kept_event_ids": [one.event_id for one in kept]})
        else:
            note("There is nothing to delete.")
        return
    if not yes:
        _confirm(parts)
    done = run(_purge(settings, parts, LOCK_WAIT_SECONDS if race is not None else 0))
    held = [part for part in done if part.held]
    if json:
        print_json({"deleted": [part for part in done if not part.held], "held": [part.race_id for part in held],
                    "kept_event_ids": [one.event_id for one in kept]})  # fmt: skip
    else:
        _totals([part for part in done if not part.held])
    for part in held:
        note(f"Race {part.race_id} of timing partner {part.timing_partner_id} is kept: another run reads it now.")
    raise typer.Exit(0 if not held else 3 if len(held) == len(done) else 1)


async def _count(
    settings: Settings, timing_partner: int | None, race: int | None, before: date | None
) -> tuple[list[Chosen], list[Part]]:
    async with reader(await Database.open(settings)) as conn:
        if before is not None and before > (await clock(conn)).date():
            raise ConfigurationError(f"--before: {before} is still to come; a purge deletes what is over")
        because = await check_filters(conn, Filters(timing_partner, race))
        if because is not None:
            raise ConfigurationError(because)
        chosen = await store.choose(
            conn, timing_partner_id=timing_partner, race_id=race, before=before, kept_days=settings.cadence_days_after
        )
        return chosen, await store.counted(conn, chosen)


async def _purge(settings: Settings, parts: list[Part], wait_seconds: float) -> list[Part]:
    database, done = await Database.open(settings), []
    shows = sys.stderr.isatty()
    async for part in store.purge(database, parts, wait_seconds=wait_seconds):
        done.append(part)
        if shows and not part.held:
            name = words.named(part.race_name, part.race_id)
            note(f"{len(done)} of {words.counted(len(parts), 'race')}: {name}, {words.counted(part.rows, 'row')}")
    return done


def _tell_kept(kept: list[Chosen]) -> None:
    for one in kept[:NAMED]:
        day = f" of {one.race_day}" if one.race_day is not None else ""
        note(
            f"Kept: event {one.event_id} ({cell(words.named(one.event_name, one.event_id))}){day} of race"
            f" {one.race_id}: syncs still read it, and would bring its people back."
        )
    if len(kept) > NAMED:
        note(f"Kept as well: {len(kept) - NAMED} more events that syncs still read.")


def _confirm(parts: list[Part]) -> None:
    total, races = words.counted(sum(part.rows for part in parts), "row"), words.counted(len(parts), "race")
    if not sys.stdin.isatty():
        raise ConfigurationError(f"this deletes {total} of {races} for good: confirm with --yes")
    note(f"This deletes for good, of {races}:")
    for name, many in _sums(parts):
        note(f"  {many:>9,} {name}")
    for part in parts[:NAMED]:
        events = words.counted(len(part.event_ids), "event")
        note(f"  race {part.race_id} {words.named(part.race_name, part.race_id)}: {events}, {part.rows:,} rows")
    if len(parts) > NAMED:
        note(f"  and {len(parts) - NAMED} more races")
    try:
        sure = typer.confirm("Delete them?", err=True)
    except typer.Abort as error:
        note("Nothing was deleted.")
        raise typer.Exit(130 if isinstance(error.__context__, KeyboardInterrupt) else 1) from None
    if not sure:
        note("Nothing was deleted.")
        raise typer.Exit(1)


def _sums(parts: Sequence[Part]) -> list[tuple[str, int]]:
    return [
        ("registrations", sum(part.registrations for part in parts)),
        ("changes", sum(part.changes for part in parts)),
        ("bib changes", sum(part.bib_changes for part in parts)),
        ("records in quarantine", sum(part.quarantined for part in parts)),
    ]


def _totals(parts: list[Part]) -> None:
    say(f"Deleted for good, of {words.counted(len(parts), 'race')}:")
    table(["rows", "of"], [(many, name) for name, many in _sums(parts)])
