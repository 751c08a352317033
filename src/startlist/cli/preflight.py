"""`startlist preflight`: whether a race's start list can be raced with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from startlist.cli import freshness, words
from startlist.cli.app import begin, run
from startlist.cli.output import Event, Json, TimingPartner, cell, note, print_json, say, table, whole
from startlist.config import Settings
from startlist.errors import ConfigurationError
from startlist.store.database import Database
from startlist.store.preflight import Checked, DayEvent, day_events, run_checks
from startlist.store.reading import Filters, reader
from startlist.store.search import partner_of_race
from startlist.store.status import RaceState, Status, read_status

SHOWN = 10  # people of a check, unless --all


@dataclass(frozen=True)
class _Flight:
    """What was looked at and what was found; `warnings` are doubts about how complete the data is."""

    race: RaceState
    events: list[DayEvent]
    checks: list[Checked]
    warnings: list[str]
    seconds_behind: int | None

    @property
    def timed(self) -> list[DayEvent]:
        return [event for event in self.events if not event.volunteer] or self.events


def preflight(
    race_id: Annotated[int, typer.Argument(metavar="RACE_ID", parser=whole(), help="The race's number in RunSignup.")],
    timing_partner: TimingPartner = None,
    event: Event = None,
    everyone: Annotated[bool, typer.Option("--all", help="List everybody, not only the first of each check.")] = False,
    json: Json = False,
) -> None:
    """Check a start list before the race: bibs, chips, categories, doubles, transfers, records that could not be read.

    It looks at the events of the race's next race day, or of its latest one if the race is over, and names the people
    behind each fault, the gravest first. Volunteers' events are left out, unless --event names one. It asks the
    database only, and says as of when that is complete.

    Exit status: 0 all checks passed; 1 a check failed; 2 the race is not stored, or for two partners and
    --timing-partner is missing.

    Examples:
        startlist preflight 12345                 the next race day
        startlist preflight 12345 --event 678     one event
        startlist preflight 12345 --all --json    for a program
    """
    settings = begin()
    found = run(_fly(settings, race_id, timing_partner, event, limit=None if everyone else SHOWN))
    if json:
        print_json(_document(found))
    else:
        _print(found)
    raise typer.Exit(0 if all(check.passed for check in found.checks) else 1)


async def _fly(
    settings: Settings, race_id: int, timing_partner: int | None, event: int | None, *, limit: int | None
) -> _Flight:
    database = await Database.open(settings)
    async with reader(database) as conn:
        partner = await partner_of_race(conn, race_id, timing_partner)
        events = await day_events(conn, partner, race_id, event)
        if not events:
            which = f"has no event {event}" if event is not None else "has no event that RunSignup still knows"
            raise ConfigurationError(f"race {race_id} {which}: startlist races --race {race_id} shows what is stored")
        timed = [one.event_id for one in events if not one.volunteer] or [one.event_id for one in events]
        checks = await run_checks(conn, partner, race_id, timed, limit=limit)
    status = await read_status(database, settings, Filters(partner, race_id))
    state = status.races[0]
    behind = None
    if state.complete_as_of is not None:
        behind = max(0, round((status.holders.at - state.complete_as_of).total_seconds()))
    return _Flight(state, events, checks, list(_doubts(status, state, timed)), behind)


def _doubts(status: Status, race: RaceState, timed: list[int]) -> list[str]:
    """Why the start list may not be what RunSignup has."""
    said = []
    how = f"startlist sync --timing-partner {race.timing_partner_id} --race {race.race_id}"
    if race.complete_as_of is None:
        said.append(f"the race was never read to the end: {how}")
    elif (stale := freshness.stale(race, status.holders.at)) is not None:
        said.append(f"{stale}: {how}")
    if race.suspicion is not None:
        said.append(
            "registrations vanished from RunSignup's list in suspicious number, and nothing was marked; if that is"
            f" right: {how} --accept-missing"
        )
    said += [
        f"event {words.named(one['name'], one['event_id'])} was never read to the end: {how}"
        for one in race.uncovered
        if one["event_id"] in timed
    ]
    if race.gone_at is not None:
        said.append("RunSignup no longer knows this race; its registrations are kept as they were")
    return said


def _document(found: _Flight) -> dict[str, Any]:
    race = found.race
    return {
        "timing_partner_id": race.timing_partner_id,
        "race_id": race.race_id,
        "name": race.name,
        "race_day": found.timed[0].race_day,
        "events": [asdict(event) for event in found.events],
        "complete_as_of": race.complete_as_of,
        "seconds_behind": found.seconds_behind,
        "warnings": found.warnings,
        "passed": all(check.passed for check in found.checks),
        "checks": [asdict(check) | {"passed": check.passed} for check in found.checks],
    }


def _print(found: _Flight) -> None:
    race = found.race
    day = next((event.race_day for event in found.timed if event.race_day is not None), None)
    names = ", ".join(words.named(event.name, event.event_id) for event in found.timed)
    when = f" on {day:%a %Y-%m-%d}" if day is not None else ""
    say(cell(f"{words.named(race.name, race.race_id)} (race {race.race_id}, {race.company_name}){when}: {names}"))
    for event in found.events:
        if event not in found.timed:
            say(cell(f"Not checked: {words.named(event.name, event.event_id)}, which is for volunteers."))
    if race.complete_as_of is not None and found.seconds_behind is not None:
        at = words.local(race.complete_as_of, race.timezone)
        say(f"Complete as of {at:%Y-%m-%d %H:%M:%S %Z}, {words.length(found.seconds_behind)} ago.")
    for doubt in found.warnings:
        say(cell(f"Attention: {doubt}."))
    for check in found.checks:
        if not check.passed:
            _print_failed(check)
    passed = [check for check in found.checks if check.passed]
    if passed:
        say("")
    for check in passed:
        say(f"pass  none: {check.title}")


def _print_failed(check: Checked) -> None:
    say(f"\nFAIL  {check.count:,}: {check.title}")
    lines = [
        [
            one.bib_num,
            one.chip_num,
            "" if one.registration_id is None else words.runner(one.first_name, one.last_name, one.registration_id),
            None if one.event_id is None else words.named(one.event_name, one.event_id),
            one.registration_id,
            one.detail,
        ]
        for one in check.people
    ]
    headings = ["bib", "chip", "runner", "event", "registration", "what"]
    used = [column for column in range(len(headings)) if any(line[column] not in (None, "") for line in lines)]
    table([headings[column] for column in used], [[line[column] for column in used] for line in lines])
    say(f"  What to do: {check.advice}.")
    if check.count > len(check.people):
        note(f"Only {len(check.people)} of {check.count:,} are shown; --all shows everybody.")
