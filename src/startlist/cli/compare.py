"""`startlist compare`: what an incremental pass of a race saves, and that it leaves what a full one leaves."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.output import Json, TimingPartner, note, print_json, say, table, whole

if TYPE_CHECKING:
    from startlist.sync.compare import Comparison

SHOWN = 10  # differing registrations that are named


def compare(
    race_id: Annotated[int, typer.Argument(metavar="RACE_ID", parser=whole(), help="The race's number in RunSignup.")],
    timing_partner: TimingPartner = None,
    json: Json = False,
) -> None:
    """Read a race incrementally and then in full, and say what each cost and whether both leave the same data.

    Both passes store what they find, as any sync does. What RunSignup changed between them is no difference.

    Exit status: 0 the same data; 1 the full pass found more, or a pass failed; 2 wrong settings, or the race is not
    stored; 3 another run holds the race.

    Examples:
        startlist compare 12345            calls, seconds, rows and bytes of both
        startlist compare 12345 --json     for a program
    """
    settings = begin()
    from startlist.sync.compare import NotCompared
    from startlist.sync.summary import ALL_HELD

    async def work() -> Comparison:
        from startlist.cli.logs import shown_progress
        from startlist.store.database import Database
        from startlist.sync.compare import compare
        from startlist.sync.context import Context

        database = await Database.open(settings)
        with shown_progress(settings, live=sys.stderr.isatty() and not json) as progress:
            async with Context(database, settings, progress=progress) as context:
                return await compare(context, race_id, timing_partner)

    try:
        found = run(work())
    except NotCompared as error:
        if not error.held:
            raise
        note(f"startlist: race {race_id}: {error}")
        raise typer.Exit(ALL_HELD) from None
    if json:
        print_json(dataclasses.asdict(found) | {"same": found.same})
    else:
        _print(found)
    raise typer.Exit(0 if found.same else 1)


def _print(found: Comparison) -> None:
    columns = ("pass", "calls", "seconds", "rows", "bytes", "registrations")
    lines = [
        (one.sync_type, one.calls, round(one.seconds, 2), one.rows, one.bytes, one.registrations)
        for one in (found.incremental, found.full)
    ]
    table(columns, lines)
    newer = (
        f"; {words.counted(found.newer, 'registration')} changed in RunSignup between the two" if found.newer else ""
    )
    if found.same:
        say(f"Both leave the same data{newer}.")
        return
    more = words.counted(len(found.differing), "registration")
    say(f"The full pass found {more} that the incremental did not{newer}:")
    table(("event", "registration"), found.differing[:SHOWN])
    say("RunSignup does not show every change to an incremental pass of this race; full passes bring them.")
