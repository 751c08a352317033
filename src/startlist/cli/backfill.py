"""`startlist backfill`: what is over, read once, while the syncs go on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from startlist.cli import faults, words
from startlist.cli.app import begin, run
from startlist.cli.output import Json, TimingPartner, note, print_json, say, table, whole, zone_of
from startlist.config import Settings
from startlist.errors import ConfigurationError

if TYPE_CHECKING:
    from startlist.sync.backfill.plan import Options
    from startlist.sync.backfill.progress import BackfillProgress
    from startlist.sync.backfill.run import PlannedPast
    from startlist.sync.backfill.summary import BackfillSummary


STATES = ("done", "empty", "partial", "refused", "gone", "failed", "held", "waiting")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter("write a day as 2024-01-31") from None


def backfill(
    timing_partner: TimingPartner = None,
    since: Annotated[
        date | None, typer.Option("--since", parser=_day, metavar="DATE", help="Only events of this day and later.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", parser=whole(1), metavar="N", help="Only the first N timing partners."),
    ] = None,
    between: Annotated[
        str | None,
        typer.Option("--between", metavar="22:00-05:00", help="Make calls in these hours only (STARTLIST_TIMEZONE)."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Read everything again, from the beginning.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Ask again for races that could not be read, are gone or were empty.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would take; asks RunSignup for its race lists only.")
    ] = False,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no table; problems are still said.")] = False,
) -> None:
    """Read the past of all timing partners' races: every event that is over, the newest first.

    It takes at most 70 % of each API key's calls of an hour, waits when they are used up, and lets a sync that wants
    the same race go first. End it at any moment (Ctrl-C, a reboot): the same command goes on where it was. Several
    backfills, on several machines, share the work. Events that are coming are the sync's.

    Exit status: 0 done; 1 a race failed, is partial or could not be read; 2 wrong settings or nobody to read for; 3
    other backfills hold every race that is left.

    Examples:
        startlist backfill --dry-run                what it would take
        startlist backfill                          all of it
        startlist backfill --since 2024-01-01       the last years only
        startlist backfill --between 22:00-05:00    at night only
        startlist backfill --retry                  what could not be read
    """
    from startlist.sync.backfill.plan import Options
    from startlist.sync.backfill.window import Window

    settings = begin()
    if restart and retry:
        raise ConfigurationError("--restart reads everything again; --retry is not needed beside it")
    if since is not None and since > datetime.now(zone_of(settings.timezone)).date():
        raise ConfigurationError(f"--since: {since} is still to come; a backfill reads what is over")
    hours = None if between is None else Window.parse(between, zone_of(settings.timezone))
    options = Options(timing_partner, since, limit, hours, restart, retry)
    if dry_run:
        _print_plan(run(_plan(settings, options)), json=json)
        return
    done = run(_backfill(settings, options, live=sys.stderr.isatty() and not (quiet or json)))
    if json:
        print_json(done.to_json())
    elif not quiet:
        _print(done)
    for line in _problems(done):
        note(f"startlist: {line}")
    if done.error is not None:
        raise done.error
    raise typer.Exit(done.exit_status)


async def _backfill(settings: Settings, options: Options, *, live: bool) -> BackfillSummary:
    from startlist.cli import logs
    from startlist.store.database import Database
    from startlist.sync.backfill.progress import BackfillProgress
    from startlist.sync.backfill.run import run as run_backfill
    from startlist.sync.context import Context

    database = await Database.open(settings)

    async def work(progress: BackfillProgress) -> BackfillSummary:
        return await run_backfill(lambda: Context(database, settings, progress=progress), options, progress)

    if not live:
        return await work(BackfillProgress())
    from startlist.cli.backfill_live import LiveBackfill

    logs.beside_progress(settings)
    with LiveBackfill(zone_of(settings.timezone), options.between) as progress:
        return await work(progress)


async def _plan(settings: Settings, options: Options) -> list[PlannedPast]:
    from startlist.store.database import Database
    from startlist.sync.backfill.run import dry_run
    from startlist.sync.context import Context
    from startlist.sync.progress import Progress

    database = await Database.open(settings)
    async with Context(database, settings, progress=Progress(), dry_run=True) as context:
        return await dry_run(context, options)


def _print(done: BackfillSummary) -> None:
    """A line per partner, and one for the whole."""
    columns = ("partner", "races", "before", "now", "received", "added", "updated", "removed", "calls", "left", "time")
    rows = []
    for partner in sorted(done.partners, key=lambda p: p.timing_partner_id):
        states, figures = partner.states, partner.figures
        rows.append((
            f"{partner.timing_partner_id} {partner.company_name}", partner.finished_before + len(partner.races),
            partner.finished_before, ", ".join(f"{states[state]} {state}" for state in STATES if states[state]),
            figures.rows_received, figures.rows_inserted, figures.rows_updated, figures.rows_removed,
            figures.api_calls, partner.calls_left, words.length(partner.seconds),
        ))  # fmt: skip
    table(columns, rows)
    found = done.to_json()
    read = sum(states["done"] + states["empty"] + states["partial"] for states in (p.states for p in done.partners))
    received = sum(partner.figures.rows_received for partner in done.partners)
    say(
        f"{done.status}: the past of {words.counted(read, 'race')} read,"
        f" {words.counted(received, 'registration')}; {words.counted(found['api_calls'], 'call')},"
        f" {words.length(done.seconds or 0)} (run {done.run_id})"
    )
    left_alone = sum(partner.left_alone for partner in done.partners)
    if left_alone:
        say(f"{words.counted(left_alone, 'race')} not asked for again (refused, gone or partial before): --retry does")


def _print_plan(planned: list[PlannedPast], *, json: bool) -> None:
    if json:
        print_json([asdict(one) for one in planned])
    else:
        columns = ("partner", "races", "read before", "events", "calls", "left this hour", "an hour", "time")
        rows = [
            (
                f"{one.timing_partner_id} {one.company_name}", one.races, one.finished_before, one.events, one.calls,
                one.calls_left, one.calls_per_hour, words.length(one.seconds),
            )
            for one in planned
        ]  # fmt: skip
        table(columns, rows)
        races, calls = sum(one.races for one in planned), sum(one.calls for one in planned)
        longest = max((one.seconds for one in planned), default=0.0)
        say(
            f"{words.counted(races, 'race')} to read, about {words.counted(calls, 'call')} and"
            f" {words.length(longest)} within the backfill's share of the budget; large races take more. Events are"
            " those known to be over by now: a race's own record may tell of more. Nothing was read or stored."
        )
    errors = [f"{one.company_name}: {error}" for one in planned for error in one.errors]
    for error in errors:
        note(f"startlist: {error}")
    if errors:
        raise typer.Exit(1)


def _problems(done: BackfillSummary) -> Iterator[str]:
    """A line for each API key and each race that is not as it should be: what is wrong, and what to do."""
    from startlist.sync.backfill.summary import AMISS

    for partner in sorted(done.partners, key=lambda p: p.timing_partner_id):
        for error in partner.errors:
            yield f"timing partner {partner.timing_partner_id} ({partner.company_name}): {error}"
        for race in partner.races:
            if race.outcome.state in AMISS:
                said = race.outcome.reason or race.outcome.state
                if not partner.errors:  # else the key is to blame, which is said above
                    said = faults.with_advice(race.outcome.error, said)
                name = words.named(race.name, race.race_id)
                yield f"race {race.race_id} ({name}; {partner.company_name}): {race.outcome.state}: {said}"
