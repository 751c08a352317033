"""`startlist bibs`: the log of bib assignments, and a bib compared with RunSignup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.following import AfterId, Follow, Many, Printer
from startlist.cli.output import (
    Event,
    Json,
    Race,
    Since,
    TimingPartner,
    cell,
    note,
    print_json,
    say,
    table,
    whole,
    zone_of,
)
from startlist.store.changelog import BIBS, BibChange, Entry
from startlist.store.reading import Filters

if TYPE_CHECKING:
    from startlist.sync.lookup import Lookup

app = typer.Typer()


@app.callback(invoke_without_command=True)
def bibs(
    context: typer.Context,
    timing_partner: TimingPartner = None,
    race: Race = None,
    event: Event = None,
    since: Since = None,
    after_id: AfterId = None,
    limit: Many = None,
    follow: Follow = False,
    json: Json = False,
) -> None:
    """List bibs assigned, changed and cleared, the newest last; --follow prints new ones as they come.

    Ids become visible in their order: a script that keeps the last one and asks with --after-id misses nothing.

    Examples:
        startlist bibs --race 12345
        startlist bibs --race 12345 --follow      as they come
        startlist bibs --after-id 4711 --json     for a script
    """
    if context.invoked_subcommand is not None:
        return
    settings = begin()
    filters = Filters(timing_partner, race, event, since)
    headings = ["id", "found", "race", "event", "registration", "runner", "bib"]
    printer = Printer(BIBS, headings, _bib, settings=settings, json=json)
    (printer.follow if follow else printer.list)(filters, after_id, limit)


def _bib(entry: Entry[BibChange]) -> list[object]:
    row = entry.row
    return [
        row.bib_change_id,
        row.detected_at,
        words.named(entry.race_name, row.race_id),
        words.named(entry.event_name, row.event_id),
        row.registration_id,
        words.runner(entry.first_name, entry.last_name, row.registration_id),
        words.bibs(row.kind, row.old_bib, row.new_bib, row.old_chip, row.new_chip),
    ]


@app.command("lookup")
def lookup_(
    race_id: Annotated[int, typer.Argument(metavar="RACE_ID", parser=whole(), help="The race's number in RunSignup.")],
    bib: Annotated[str, typer.Argument(metavar="BIB", help="A bib; RunSignup searches for numbers only.")],
    timing_partner: TimingPartner = None,
    json: Json = False,
) -> None:
    """Ask RunSignup who has a bib, and compare with what is stored; costs one call.

    Exit status: 0 the same; 1 it differs, or nobody has it here, there or in both; 2 the race is stored for two
    partners and --timing-partner is missing.

    Examples:
        startlist bibs lookup 12345 117
        startlist bibs lookup 12345 117 --timing-partner 2
    """
    from startlist.sync.lookup import Verdict

    settings = begin()

    async def work() -> Lookup:
        from startlist.store.database import Database
        from startlist.sync.context import Context
        from startlist.sync.lookup import lookup
        from startlist.sync.progress import Progress

        database = await Database.open(settings)
        async with Context(database, settings, progress=Progress()) as context:
            return await lookup(context, race_id, bib, timing_partner)

    found = run(work())
    if json:
        print_json(found)
    else:
        _say(found, settings.timezone)
    raise typer.Exit(0 if found.verdict is Verdict.SAME else 1)


def _say(found: Lookup, timezone: str | None) -> None:
    from startlist.sync.lookup import Verdict

    if found.verdict is Verdict.NOT_FOUND:
        say(f"Nobody has bib {found.bib} in race {found.race_id}, neither in RunSignup nor here.")
        return
    verdicts = {
        Verdict.SAME: "the same in RunSignup and here",
        Verdict.DIFFERS: "stored otherwise than RunSignup has it",
        Verdict.ONLY_THERE: "only in RunSignup: not stored",
        Verdict.ONLY_HERE: "only here: in RunSignup this registration does not have the bib",
    }
    for one in found.registrations:
        who = cell(words.runner(one.first_name, one.last_name, one.registration_id))
        which = f"registration {one.registration_id}, event {one.event_id}"
        say(f"Bib {found.bib}: {who} ({which}): {verdicts[one.verdict]}")
    lines = [
        [one.registration_id, difference.name, difference.stored, difference.runsignup]
        for one in found.registrations
        for difference in one.differences
    ]
    if lines:
        table(["registration", "field", "stored", "RunSignup"], lines, zone=zone_of(timezone))
    if found.verdict is not Verdict.SAME:
        note(f"startlist sync --timing-partner {found.timing_partner_id} --race {found.race_id} brings what changed.")
