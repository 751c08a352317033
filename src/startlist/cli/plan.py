"""`startlist plan`: what the hours to come will ask of each API key and of the lanes, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.output import Json, note, print_json, say, table, whole, zone_of

if TYPE_CHECKING:
    from startlist.config import Settings
    from startlist.schedule.forecast import Forecast, Hour
    from startlist.store.partners import CredentialState

BAR = 32  # characters for all calls that the lanes can make in an hour
LONGEST = 31  # days
EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A forecast, and of what it is: `races` by credential, `seconds` the usual length of a call, None before any."""

    at: datetime
    forecast: Forecast
    credentials: dict[int, CredentialState]
    races: dict[int, int]
    unread: list[CredentialState]  # stopped ones, and partners without any, with races to come
    lanes: int
    seconds: float
    seconds_known: bool
    backfilling: set[int]  # timing partners


def plan(
    days: Annotated[
        int, typer.Option("--days", metavar="N", parser=whole(1, LONGEST), help="How many days to look ahead.")
    ] = 2,
    json: Json = False,
) -> None:
    """Show the calls that keeping all races fresh will take, hour by hour, and what will not fit.

    It goes by the stored race calendar and the cadence that `serve` keeps, against each API key's calls of an hour and
    against the lanes: the calls that all keys together may have under way at once. Asks RunSignup nothing.

    Exit status: 0 all fits; 1 some hour does not, and races will be read less often in it, or not at all.

    Examples:
        startlist plan                  the next two days
        startlist plan --days 7         the week to come
        startlist plan --json
    """
    settings = begin()
    zone = zone_of(settings.timezone)
    found = run(_plan(settings, days))
    problems = list(_problems(found, zone))
    if json:
        print_json(_document(found, problems))
    else:
        _print(found, problems, zone)
    raise typer.Exit(1 if problems else 0)


async def _plan(settings: Settings, days: int) -> _Plan:
    from startlist.schedule.cadence import Rhythm
    from startlist.schedule.crew import USUAL_SECONDS
    from startlist.schedule.decision import cadence_of, distrusted, undated_events
    from startlist.schedule.forecast import PlannedRace, forecast
    from startlist.store import backfill, budget, calendar, cursors, partners
    from startlist.store.database import Database
    from startlist.sync.plan import estimated_calls

    database, rhythm = await Database.open(settings), Rhythm.of(settings)
    async with await database.connect(name="startlist plan") as conn:
        now = await cursors.clock(conn)
        states = await partners.states(conn, settings)
        seconds = await budget.usual_seconds(conn)
        running = {one.timing_partner_id for one in await backfill.states(conn) if one.left}
        usable = {s.credential_id: s for s in states if s.credential_id is not None and s.stopped_at is None}
        races, counted, unread = [], dict.fromkeys(usable, 0), []
        since = now - timedelta(days=rhythm.days_after + 2)
        for partner, own in groupby(states, key=lambda state: state.timing_partner_id):
            keys = list(own)
            first = next((s.credential_id for s in keys if s.credential_id in usable), None)
            coming = 0
            for race in await calendar.races_to_come(conn, partner, ended_after=since):
                cadence = cadence_of(
                    partner, race.stored, rhythm, listed={e.event_id for e in undated_events(race.stored)}
                )  # fmt: skip
                if cadence.next_due(now) is None:
                    continue
                coming += 1
                reads = race.stored.credential_id if race.stored.credential_id in usable else first
                if reads is None:
                    continue
                counted[reads] += 1
                full = estimated_calls(race.rows, len(race.stored.events))
                races.append(PlannedRace(reads, cadence, full, distrusted(usable[reads].silent_bibs_at, now)))
            if coming and first is None:
                unread.append(keys[0])
    usual = seconds or USUAL_SECONDS
    return _Plan(
        now,
        forecast(
            races,
            {credential: state.calls_per_hour or 0 for credential, state in usable.items()},
            lane_calls=settings.concurrent_calls * 3600 / usual,
            begin=now.astimezone(UTC).replace(minute=0, second=0, microsecond=0),
            hours=24 * days,
            zone=zone_of(settings.timezone),
        ),
        usable, counted, unread, settings.concurrent_calls, usual, seconds is not None, running,
    )  # fmt: skip


def _problems(found: _Plan, zone: tzinfo | None) -> Iterator[str]:
    """A sentence for each stretch of hours that will not fit, the lanes first."""
    for one in found.unread:
        why = "has no API key" if one.credential_id is None else "has no API key that RunSignup accepts"
        yield (
            f"timing partner {one.timing_partner_id} ({one.company_name}) {why}, so that its races are not read at all:"
            " startlist status says what to do"
        )
    for hours in _runs(found.forecast.lanes):
        yield (
            f"all API keys together, {_when(hours, zone)}: up to {_asked(hours):,} calls an hour, of which"
            f" {_lanes(found)} can make {hours[0].capacity:,.0f}; {_outcome(hours)}"
        )
    for credential, of_credential in found.forecast.credentials.items():
        state = found.credentials[credential]
        own = [h for h, all_together in zip(of_credential, found.forecast.lanes, strict=True)
               if h.stretch > all_together.stretch or (h.late and not all_together.late)]  # fmt: skip
        for hours in _runs(own):
            yield (
                f"timing partner {state.timing_partner_id} ({state.company_name}), API key {state.principal},"
                f" {_when(hours, zone)}: up to {_asked(hours):,} calls an hour of {state.calls_per_hour:,};"
                f" {_outcome(hours)}"
            )


def _runs(hours: list[Hour]) -> Iterator[list[Hour]]:
    """The hours that do not fit, those that follow each other together."""
    together: list[Hour] = []
    for hour in hours:
        if together and (hour.fits or hour.at - together[-1].at > timedelta(hours=1)):
            yield together
            together = []
        if not hour.fits:
            together.append(hour)
    if together:
        yield together


def _asked(hours: list[Hour]) -> int:
    return round(max(hour.need.pressing + hour.need.routine for hour in hours))


def _outcome(hours: list[Hour]) -> str:
    said = []
    worst = max(hours, key=lambda hour: hour.stretch)
    if worst.stretch > 1 and worst.period is None:
        said.append(f"races will be read {worst.stretch:.1f} times less often")
    elif worst.stretch > 1 and worst.period is not None:
        often, then = _length(worst.period), _length(worst.period * worst.stretch)
        said.append(f"races to be read every {often} will be read every {then}")
    if late := [hour.waiting for hour in hours if hour.late and hour.waiting >= 1]:
        said.append(f"up to {max(late):,.0f} calls for races that are not near wait longer than an hour")
    return "; ".join(said)


def _length(seconds: float) -> str:
    """A period, fine enough that one which is stretched a little is seen to be."""
    return f"{seconds:.0f} s" if seconds < 120 else words.length(seconds)


def _when(hours: list[Hour], zone: tzinfo | None) -> str:
    first, last = (hour.at.astimezone(zone) for hour in (hours[0], hours[-1]))
    end = (hours[-1].at + timedelta(hours=1)).astimezone(zone)
    same_day = first.date() == last.date()
    return f"{first:%a %Y-%m-%d %H:%M} to {end:%H:%M}" if same_day else f"{first:%a %Y-%m-%d %H:%M} to {end:%a %H:%M}"


def _lanes(found: _Plan) -> str:
    length = f"{found.seconds * 1000:,.0f} ms a call"
    return f"{words.counted(found.lanes, 'lane')} at {length}{'' if found.seconds_known else ' (supposed)'}"


def _document(found: _Plan, problems: list[str]) -> dict[str, Any]:
    return {
        "checked_at": found.at,
        "lanes": found.lanes,
        "seconds_a_call": round(found.seconds, 3),
        "seconds_known": found.seconds_known,
        "problems": problems,
        "hours": [_hour(hour) for hour in found.forecast.lanes],
        "credentials": [
            {
                "timing_partner_id": found.credentials[credential].timing_partner_id,
                "company_name": found.credentials[credential].company_name,
                "credential_id": credential,
                "principal": found.credentials[credential].principal,
                "calls_per_hour": found.credentials[credential].calls_per_hour,
                "races": found.races[credential],
                "hours": [_hour(hour) for hour in hours],
            }
            for credential, hours in found.forecast.credentials.items()
        ],
    }


def _hour(hour: Hour) -> dict[str, Any]:
    from startlist.store.schedule import name

    return {
        "hour": hour.at,
        "calls_needed": {name(rank): round(calls, 1) for rank, calls in hour.need.calls.items() if calls},
        "calls_possible": round(hour.capacity),
        "calls_planned": round(hour.planned, 1),
        "calls_waiting": round(hour.waiting, 1),
        "shortest_period_seconds": hour.period,
        "stretch": round(hour.stretch, 3),
        "fits": hour.fits,
        "calls_for_backfill": hour.for_backfill,
    }


def _print(found: _Plan, problems: list[str], zone: tzinfo | None) -> None:
    lanes = found.forecast.lanes
    say(f"Calls an hour, of {lanes[0].capacity:,.0f} that {_lanes(found)} can make:\n")
    day = None
    for hour in lanes:
        at = hour.at.astimezone(zone)
        if at.date() != day:
            day = at.date()
            say(f"{at:%a %Y-%m-%d %Z}")
        asked = hour.need.pressing + hour.need.routine
        mark = "" if hour.fits else f"  asks for {asked:,.0f}"
        if hour.stretch > 1 and hour.period is not None:
            mark += f": every {_length(hour.period * hour.stretch)}"
        say(f"  {at:%H:%M} {hour.planned:>8,.0f} {hour.planned / hour.capacity:>5.0%}  {_bar(hour)}{mark}".rstrip())
    rows = []
    for credential, hours in found.forecast.credentials.items():
        state = found.credentials[credential]
        busiest = max(hours, key=lambda hour: (hour.stretch, hour.late, hour.planned))
        rows.append((
            state.timing_partner_id, state.company_name, words.short(state.principal), found.races[credential],
            f"{busiest.at.astimezone(zone):%a %H:%M}", round(busiest.need.pressing + busiest.need.routine),
            state.calls_per_hour, f"{busiest.stretch:.1f}" if busiest.stretch > 1 else "1",
            min(hour.for_backfill for hour in hours),
        ))  # fmt: skip
    if rows:
        say("\nAPI keys, each in its busiest hour")
        headings = ["partner", "name", "API key", "races", "hour", "calls", "of", "periods times", "for a backfill"]
        table(headings, rows)
    elif not found.unread:
        note("startlist: there is no API key yet: startlist partner add NAME --api-key K")
    for credential, hours in found.forecast.credentials.items():
        state = found.credentials[credential]
        crowded = [hour for hour in hours if hour.crowds_out]
        if crowded and state.timing_partner_id in found.backfilling:
            say(
                f"\nThe backfill of timing partner {state.timing_partner_id} ({state.company_name}) is not done: in"
                f" {words.counted(len(crowded), 'hour')}, first {_when(crowded[:1], zone)}, it must leave up to"
                f" {max(round(hour.planned) for hour in crowded):,} calls to the races to come; --between keeps it out"
            )
    say("\nWill not fit:" if problems else "\nAll of it fits.")
    for problem in problems:
        say(f"  {problem}")


def _bar(hour: Hour) -> str:
    eighths = min(round(hour.planned / hour.capacity * BAR * 8), BAR * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
