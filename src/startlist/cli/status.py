"""`startlist status`: what is wrong first, then since when each race is complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from startlist.cli import freshness, words
from startlist.cli.app import begin, run
from startlist.cli.output import (
    Event,
    Json,
    Limit,
    Race,
    Since,
    TimingPartner,
    cell,
    note,
    print_json,
    say,
    table,
    zone_of,
)
from startlist.config import Settings
from startlist.store.backfill import BackfillState
from startlist.store.database import Database
from startlist.store.partners import CredentialState
from startlist.store.reading import Filters
from startlist.store.status import RaceState, Status, read_status

NAMED = 5  # of the registrations whose newer version is bad; --json has all


@dataclass(frozen=True, slots=True)
class _Judged:
    """A race with what is wrong with it, and whether a pass is at work."""

    race: RaceState
    problems: list[str]
    running: bool | None
    pid: int | None


def status(
    timing_partner: TimingPartner = None,
    race: Race = None,
    event: Event = None,
    since: Since = None,
    limit: Limit = 100,
    check: Annotated[
        bool, typer.Option("--check", help="Only tell what is stale; exit status 1 if anything is.")
    ] = False,
    json: Json = False,
) -> None:
    """Tell what is wrong, what state the API keys are in, how far a backfill is, and since when each race is complete.

    Races are those with an event that is coming or was over less than a day ago, and others where something waits;
    --since leaves out races that started before. The exit status is 0 whatever is found, but for --check: 1 when a race
    was not read when it should have been, or an API key is stopped.

    Examples:
        startlist status                  on race morning
        startlist status --race 12345
        startlist status --json           for monitoring
        startlist status --check          for a cron job
    """
    settings = begin()
    filters = Filters(timing_partner, race, event, since)

    async def work() -> tuple[Database, Status]:
        database = await Database.open(settings)
        return database, await read_status(database, settings, filters)

    database, found = run(work())
    judged = [_judge(database, found, one) for one in found.races]
    judged.sort(key=lambda one: not one.problems)  # stable: the next start first within both
    general = list(_general(database, found, filters))
    overdue = list(_overdue(database, found)) if check else []
    if len(judged) > limit:
        note(f"Only {limit} of {len(judged)} races are shown; --limit N shows more.")
        judged = judged[:limit]
    if json:
        print_json(_document(database, found, judged, general))
    elif check:
        for sentence in overdue:
            say(cell(sentence))
    else:
        _print(database, found, judged, general, settings)
    if overdue:
        raise typer.Exit(1)


def _overdue(database: Database, found: Status) -> Iterator[str]:
    """What a watch is to tell: races that are stale, keys that are stopped, and what may be the cause."""
    stopped = [one for one in found.credentials if one.stopped_at is not None]
    late = [race for race in found.races if freshness.is_stale(race, found.holders.at)]
    if any(race.planned_at is not None for race in late) and not found.holders.leads(database):
        yield "no scheduler runs: startlist serve"
    for one in stopped:
        yield f"timing partner {one.timing_partner_id} ({one.company_name}): API key {one.principal} is stopped"
    for one in found.credentials:
        if one.unlisted and one.stopped_at is None:
            yield f"timing partner {one.timing_partner_id} ({one.company_name}): {_unlisted(one)}"
    for race in late:
        yield f"{_title(race)}: {freshness.stale(race, found.holders.at)}"


def _unlisted(one: CredentialState) -> str:
    return (
        f"the race list of API key {one.principal} could not be read, or nothing showed that the key is good,"
        f" {one.list_failures} times in a row: new races may be missing; startlist sync says why"
    )


def _judge(database: Database, found: Status, race: RaceState) -> _Judged:
    alive = found.holders.alive(database, race)
    return _Judged(race, list(_problems(race, alive, found.holders.at)), alive, found.holders.pid(database, race))


def _general(database: Database, found: Status, filters: Filters) -> Iterator[str]:
    """What is wrong with more than one race."""
    if not found.credentials:
        yield "there is no timing partner yet: startlist partner add NAME --api-key K"
    for one in found.credentials:
        who = f"timing partner {one.timing_partner_id} ({one.company_name})"
        if one.credential_id is None:
            yield f"{who} has no API key: startlist partner add NAME --id {one.timing_partner_id} --api-key K"
        elif one.stopped_at is not None:
            yield (
                f"{who}: API key {one.principal} is stopped since {_utc(one.stopped_at)}: {one.stopped_reason};"
                f" give it the right secret: startlist partner rotate {one.timing_partner_id}"
            )
        elif one.paused_until is not None:
            yield f"{who}: RunSignup asked API key {one.principal} for patience until {_utc(one.paused_until)}"
        elif one.unlisted:
            yield f"{who}: {_unlisted(one)}"
        elif not _calls_left(one):
            yield f"{who}: API key {one.principal} has used its {one.calls_per_hour} calls of this hour"
    for partner, count in sorted(found.unlisted_quarantine.items()):
        yield f"timing partner {partner}: {count} records of the race list are in quarantine"
    for past in found.backfills:
        if past.left and not found.holders.backfilling(database, past):
            yield (
                f"the backfill of timing partner {past.timing_partner_id} ({past.company_name}) stands still with"
                f" {past.left} of {words.counted(past.races, 'race')} left: startlist backfill goes on with it"
            )
    yield from freshness.stretched(found.races, found.credentials)
    yield from freshness.distrusted(found.credentials, found.holders.at)
    for worker in found.workers:
        if not found.holders.works(database, worker):
            yield f"the {worker.command} of run {worker.run_id} ended without a word; others do its jobs"
    for name, number in (("race", filters.race_id), ("event", filters.event_id)):
        if number is not None and not found.races:
            yield f"no {name} {number} is stored or was tried within a day: startlist races shows what is"


def _problems(race: RaceState, alive: bool | None, now: datetime) -> Iterator[str]:
    """What is wrong with a race, in the order of what a timer should look at first."""
    if race.gone_at is not None:
        yield f"RunSignup no longer knows this race, since {_utc(race.gone_at)}; its registrations are kept"
    if race.complete_as_of is None and not alive:
        yield "it was never read to the end"
    if race.planned_at is not None and (sentence := freshness.stale(race, now)):
        yield sentence
    if race.last_status in ("failed", "partial"):
        code = f" (code {race.last_error_code})" if race.last_error_code is not None else ""
        ago = f" {_ago(race.last_pass_at, now)}" if race.last_pass_at else ""
        why = race.last_error_message or race.last_reason or "no reason was noted"
        ended = "was put off" if race.last_reason == "waiting" else "failed" if race.last_status == "failed" else None
        yield f"its last pass{ago} {ended or 'is partial'}: {why}{code}"
    if alive is False and race.running_since is not None:
        yield (
            f"the pass that began {words.span(now - race.running_since)} ago was left by a process that is gone;"
            " the next sync goes on from it"
        )
    elif race.checkpoint is not None and not alive and race.last_status not in ("failed", "partial"):
        yield f"an unfinished {race.checkpoint['kind']} pass waits for the next sync to go on"
    if race.suspicion is not None:
        yield _suspicion(race)
    if race.uncovered:
        names = ", ".join(f"{event['name'] or 'event'} ({event['event_id']})" for event in race.uncovered)
        yield f"not read yet: {names}"
    if race.quarantined:
        yield _quarantine(race)


def _suspicion(race: RaceState) -> str:
    suspicion = race.suspicion or {}
    lost = [f"event {event}: {absent} of {active}" for event, (absent, active) in sorted(suspicion["events"].items())]
    return (
        f"registrations are absent from RunSignup's list without a removal ({'; '.join(lost)}); nothing was marked;"
        f" if that is right: startlist sync --timing-partner {race.timing_partner_id} --race {race.race_id}"
        " --accept-missing"
    )


def _quarantine(race: RaceState) -> str:
    many = "1 record is" if race.quarantined == 1 else f"{race.quarantined} records are"
    said = f"{many} in quarantine: RunSignup sent what cannot be stored"
    if not race.bad_registrations:
        return said
    names = []
    for one in race.bad_registrations[:NAMED]:
        bib = f"bib {one['bib_num']}, " if one["bib_num"] else ""
        who = words.runner(one["first_name"], one["last_name"], one["registration_id"])
        names.append(f"{who} ({bib}registration {one['registration_id']})")
    more = len(race.bad_registrations) - NAMED
    names += [f"{more} more"] if more > 0 else []
    return f"{said}; an older version is stored of {', '.join(names)}"


def _document(database: Database, found: Status, judged: list[_Judged], general: list[str]) -> dict[str, Any]:
    now = found.holders.at
    races = []
    for one in judged:
        complete = one.race.complete_as_of
        races.append(
            asdict(one.race)
            | {
                "seconds_behind": None if complete is None else round((now - complete).total_seconds()),
                "lag_seconds": _seconds(freshness.lag(one.race, now)),
                "stale": freshness.is_stale(one.race, now),
                "running": one.running,
                "running_pid": one.pid if one.running else None,
                "problems": one.problems,
            }
        )
    credentials = [asdict(one) | {"calls_left": _calls_left(one)} for one in found.credentials]
    backfills = [
        asdict(one) | {"left": one.left, "running": found.holders.backfilling(database, one)} for one in found.backfills
    ]
    workers = [asdict(one) | {"alive": found.holders.works(database, one)} for one in found.workers]
    return {
        "checked_at": now,
        "scheduler_leads": found.holders.leads(database),
        "workers": workers,
        "problems": general,
        "credentials": credentials,
        "backfills": backfills,
        "races": races,
    }


def _seconds(length: timedelta | None) -> int | None:
    return None if length is None else round(length.total_seconds())


def _print(database: Database, found: Status, judged: list[_Judged], general: list[str], settings: Settings) -> None:
    zone, now = zone_of(settings.timezone), found.holders.at
    say(f"Checked {cell(now, zone=zone)}")
    wrong = [one for one in judged if one.problems]
    if general or wrong:
        say("\nNeeds a look:")
        for sentence in general:
            say(f"  {cell(sentence)}")
        for one in wrong:
            say(f"  {cell(_title(one.race))}:")
            for sentence in one.problems:
                say(f"    {cell(sentence)}")
    else:
        say("\nNothing needs a look.")
    if found.credentials:
        say("\nAPI keys")
        headings = ["partner", "name", "API key", "state", "calls left", "of"]
        table(headings, [_key(one) for one in found.credentials if one.credential_id is not None], zone=zone)
    if lines := [line for one in found.backfills if (line := _past(database, found, one)) is not None]:
        say("\nBackfill")
        table(["partner", "name", "races", "read", "not readable", "left", "registrations", "state"], lines, zone=zone)
    if alive := [one for one in found.workers if found.holders.works(database, one)]:
        say("\nWorkers")
        headings = ["run", "command", "began", "reads"]
        table(headings, [(one.run_id, one.command, _ago(one.started_at, now), one.race_ids) for one in alive])
    if judged:
        say("\nRaces")
        headings = ["race", "name", "start", "complete as of", "behind", "full", "incremental", "pass"]
        planned = any(one.race.next_sync_at is not None for one in judged)
        headings += ["class", "next"] if planned else []
        times = Counter(one.race.race_id for one in judged)
        table(headings, [_line(one, now, whose=times[one.race.race_id] > 1, planned=planned) for one in judged],
              zone=zone)  # fmt: skip


def _title(race: RaceState) -> str:
    begins = words.start(race.start_time, race.timezone)
    told = [f"race {race.race_id}"] if race.name else ["not stored"]
    told += [race.company_name, *([begins] if begins else [])]
    return f"{words.named(race.name, race.race_id)} ({', '.join(told)})"


def _line(one: _Judged, now: datetime, *, whose: bool, planned: bool) -> list[object]:
    """A race's line; `whose`: with its partner, because another has the same race; `planned`: with its next turn."""
    race = one.race
    name = words.named(race.name, race.race_id)
    behind = None if race.complete_as_of is None else words.span(max(now - race.complete_as_of, timedelta()))
    complete = None
    if race.complete_as_of is not None:
        complete = f"{words.local(race.complete_as_of, race.timezone):%Y-%m-%d %H:%M:%S %Z}"
    return [
        race.race_id,
        f"{name} ({race.company_name})" if whose else name,
        words.start(race.start_time, race.timezone),
        complete or "never",
        behind,
        _ago(race.last_full_at, now),
        _ago(race.last_incremental_at, now),
        _work(one, now),
        *([freshness.name(race), freshness.due(race, now)] if planned else []),
    ]


def _past(database: Database, found: Status, one: BackfillState) -> list[object] | None:
    """The line of a partner's backfill, if it goes on or stands still; None once it is done."""
    running = found.holders.backfilling(database, one)
    if not running and not one.left:
        return None
    unreadable = one.refused + one.gone
    read = one.done + one.partial + one.empty
    state = "running" if running else f"stands still for {words.span(found.holders.at - one.updated_at)}"
    return [
        one.timing_partner_id, one.company_name, one.races, read, unreadable, one.left, one.rows_received, state,
    ]  # fmt: skip


def _ago(instant: datetime | None, now: datetime) -> str | None:
    return None if instant is None else f"{words.span(now - instant)} ago"


def _work(one: _Judged, now: datetime) -> str | None:
    race = one.race
    if race.running_since is None:
        return race.last_status
    length = words.span(now - race.running_since)
    if not one.running:
        return f"left {length} ago"
    return (
        f"{race.running_sync_type} pass for {length}: {race.running_rows_received} rows, {race.running_api_calls} calls"
    )


def _key(one: CredentialState) -> list[object]:
    state = "stopped" if one.stopped_at else "paused" if one.paused_until else "verified" if one.verified_at else "new"
    return [one.timing_partner_id, one.company_name, one.principal, state, _calls_left(one), one.calls_per_hour]


def _calls_left(one: CredentialState) -> int | None:
    return None if one.calls_per_hour is None else max(0, one.calls_per_hour - one.calls_last_hour)


def _utc(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
