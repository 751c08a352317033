"""`startlist sync`: full and incremental passes of every timing partner's races, now."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from startlist.cli import faults, words
from startlist.cli.app import begin, run
from startlist.cli.output import Json, Race, TimingPartner, cell, fits, note, print_json, say, table, whole
from startlist.config import Settings
from startlist.errors import ConfigurationError, StartlistError

if TYPE_CHECKING:
    from startlist.sync.plan import Options
    from startlist.sync.run import PlannedPass
    from startlist.sync.summary import PartnerSummary, Summary


_DAYS = whole(0, 36_500)


def sync(
    timing_partner: TimingPartner = None,
    race: Race = None,
    test: Annotated[bool, typer.Option("--test", help="The first timing partner only.")] = False,
    force_full_sync: Annotated[
        bool, typer.Option("--force-full-sync", help="Read every registration, whatever was read before.")
    ] = False,
    incremental_days: Annotated[
        int,
        typer.Option("--incremental-days", parser=_DAYS, metavar="N", help="Full again when the last full is older."),
    ] = 7,
    include_past_days: Annotated[
        int,
        typer.Option(
            "--include-past-days", parser=_DAYS, metavar="N", help="Keep events fresh so long after their end."
        ),
    ] = 1,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="With --race: believe that what is absent is missing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done; asks RunSignup for its race lists only.")
    ] = False,
    summary: Annotated[
        Path | None, typer.Option("--summary", metavar="FILE", help="Write the run's figures as JSON.")
    ] = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no table; problems are still said.")] = False,
) -> None:
    """Sync all timing partners' races: what is new in full, else what changed since the last sync.

    Exit status: 0 done; 1 something failed or is partial; 2 wrong settings or nobody to sync for; 3 another run held
    every race. Ctrl-C is safe: the next sync goes on where this one stopped.

    Examples:
        startlist sync                                   all that is due
        startlist sync --race 12345                      one race, now
        startlist sync --dry-run                         what would be done
        startlist sync --race 12345 --force-full-sync    all of it anew
        startlist sync --quiet --summary sync.json       for a script
    """
    from startlist.sync.plan import Options

    if accept_missing and race is None:
        raise ConfigurationError("--accept-missing needs --race: it accepts one race's missing registrations")
    settings = begin()
    if summary is not None:
        _writable(summary)
    options = Options(timing_partner, race, force_full_sync, incremental_days, include_past_days, accept_missing)
    if dry_run:
        _print_plan(*run(_plan(settings, options, test=test)), json=json)
        return
    done = run(_sync(settings, options, test=test, live=sys.stderr.isatty() and not (quiet or json)))
    if json:
        print_json(done.to_json())
    elif not quiet:
        print_summary(done)
    for line in _failures(done):
        note(f"startlist: {line}")
    if summary is not None:
        _write(summary, done)
    if done.error is not None:
        raise done.error
    raise typer.Exit(done.exit_status)


async def _sync(settings: Settings, options: Options, *, test: bool, live: bool) -> Summary:
    from startlist.cli.logs import shown_progress
    from startlist.store.database import Database
    from startlist.sync.context import Context
    from startlist.sync.run import run as run_sync

    database = await Database.open(settings)
    with shown_progress(settings, live=live) as progress:
        async with Context(database, settings, progress=progress) as context:
            return await run_sync(context, options, only_first_partner=test)


async def _plan(settings: Settings, options: Options, *, test: bool) -> tuple[list[PlannedPass], list[str]]:
    from startlist.store.database import Database
    from startlist.sync.context import Context
    from startlist.sync.progress import Progress
    from startlist.sync.run import dry_run

    database = await Database.open(settings)
    async with Context(database, settings, progress=Progress(), dry_run=True) as context:
        return await dry_run(context, options, only_first_partner=test)


def print_summary(done: Summary) -> None:
    """A line per partner, in a table where the terminal is wide enough, and one line for the whole."""
    columns = ("partner", "races", "events", "passes", "received", "added", "updated", "removed", "bib changes",
               "quarantined", "calls", "seconds")  # fmt: skip
    rows = [_line(partner) for partner in sorted(done.partners, key=lambda p: p.timing_partner_id)]
    if fits(columns, rows):
        table(columns, rows)
    else:
        for row in rows:
            say(
                f"{row[0]}: "
                + ", ".join(f"{name} {cell(value)}" for name, value in zip(columns[1:], row[1:], strict=True))
            )
    found = done.to_json()
    skipped = sum(outcome.status == "skipped" for outcome in done.outcomes)
    held = f", {skipped} held by another run" if skipped else ""
    say(
        f"{done.status}: {words.counted(found['total_races'], 'race')}"
        f" with {words.counted(found['total_events'], 'event')},"
        f" {words.counted(found['total_participants'], 'registration')} on their start lists{held};"
        f" {words.counted(found['api_calls'], 'call')}, {done.seconds:.1f} s (run {done.run_id})"
    )


def _line(partner: PartnerSummary) -> tuple[object, ...]:
    found = partner.to_json()
    passes = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(found["passes"].items()))
    return (
        f"{partner.timing_partner_id} {partner.company_name}", found["races_synced"], found["events"], passes,
        found["rows_received"], found["rows_inserted"], found["rows_updated"], found["rows_removed"],
        found["bib_changes"], found["quarantined"], found["api_calls"], round(partner.seconds, 1),
    )  # fmt: skip


def _print_plan(planned: list[PlannedPass], errors: list[str], *, json: bool) -> None:
    if json:
        import dataclasses

        print_json([dataclasses.asdict(one) for one in planned])
    else:
        columns = ("partner", "race", "name", "pass", "why", "events", "calls")
        rows = []
        for one in planned:
            why = one.reason + (f"; its record first: {one.record}" if one.record else "")
            kind, events = one.sync_type, len(one.event_ids)
            rows.append((one.timing_partner_id, one.race_id, one.name, kind, why, events, one.calls))
        table(columns, rows)
        calls = words.counted(sum(one.calls for one in planned), "call")
        say(f"{words.counted(len(planned), 'race')}, about {calls}; nothing was read or stored yet")
    for error in errors:
        note(f"startlist: {error}")
    if errors:
        raise typer.Exit(1)


def _failures(done: Summary) -> Iterator[str]:
    """A line for each API key and each race that is not as it should be: what is wrong, and what to do."""
    for partner in sorted(done.partners, key=lambda p: p.timing_partner_id):
        for error in partner.errors:
            yield f"timing partner {partner.timing_partner_id} ({partner.company_name}): {error}"
        for race in partner.races:
            if race.outcome.status in ("failed", "partial"):
                name = words.named(race.name, race.race_id)
                said = race.to_json()["error_message"]
                if not partner.errors:  # else the key is to blame, which is said above
                    said = faults.with_advice(race.outcome.error, said)
                yield f"race {race.race_id} ({name}; {partner.company_name}): {said}"


def _writable(path: Path) -> None:
    """Refuse an impossible summary file before hours of work, not after."""
    folder = path.absolute().parent
    if path.is_dir():
        raise ConfigurationError(f"--summary: {path} is a folder; name a file")
    if not folder.is_dir():
        raise ConfigurationError(f"--summary: {path} cannot be written: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigurationError(f"--summary: {path} cannot be written: permission denied")


def _write(path: Path, done: Summary) -> None:
    """Write the figures: into the place of a file, whole or not at all, or to a device or pipe."""
    from startlist.cli.output import json_document

    document = json_document(done.to_json()) + "\n"
    try:
        if path.exists() and (path.is_symlink() or not path.is_file()):  # /dev/stdout must not become a file
            path.write_text(document)
            return
        part = path.with_name(path.name + ".part")
        part.write_text(document)
        part.replace(path)
    except OSError as error:
        raise StartlistError(
            f"--summary: {path} could not be written: {error.strerror}; the sync itself is done and stored"
        ) from None
