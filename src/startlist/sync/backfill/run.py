"""A backfill: the past of all timing partners' races, begun or gone on with, however long the database is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from startlist.errors import DatabaseError
from startlist.store import backfill, budget, history, races
from startlist.store.partners import Credential
from startlist.sync.backfill.plan import SHARE, Options, begun_anew, calls_to_come, past_events, seconds_to_come
from startlist.sync.backfill.progress import BackfillProgress
from startlist.sync.backfill.summary import BackfillSummary, PartnerPast
from startlist.sync.backfill.work import PastWork
from startlist.sync.context import Context
from startlist.sync.credential import list_all, open_credentials, owner_of, together

log = structlog.get_logger()

DATABASE_PATIENCE = 900.0  # seconds for a database that restarts, or a network that comes back
FIRST_LOOK, LONGEST_LOOK = 1.0, 60.0  # seconds between two looks whether it is back
# SQLSTATEs of a database that is away for a while: lost connections, too many of them, shutdown and start.
AWAY = ("08", "53300", "57P01", "57P02", "57P03")
USUAL_SECONDS = 1.4  # of a call, where none was made yet


@dataclass(frozen=True, slots=True)
class PlannedPast:
    """A line of `backfill --dry-run`: what one partner's past would take, as far as it is known.

    `events` are those known to be over; a race's record, which is not read here, may tell of more. `calls_per_hour` and
    `calls_left` are the backfill's share; `seconds` is by that share, the lanes and the hours.
    """

    timing_partner_id: int
    company_name: str
    races: int
    events: int
    finished_before: int
    left_alone: int
    calls: int
    calls_left: int
    calls_per_hour: int
    seconds: float
    errors: list[str] = field(default_factory=list)


async def run(open_context: Callable[[], Context], options: Options, progress: BackfillProgress) -> BackfillSummary:
    """Backfill what the options select and say what happened; when the database goes away, go on once it is back.

    Raises `ConfigurationError` when there is nobody to backfill for. On cancellation the run is closed as interrupted;
    the next one goes on from what is stored.
    """
    earlier: BackfillSummary | None = None
    patience = DATABASE_PATIENCE
    while True:
        context = open_context()
        try:
            async with context:
                done = await _run(context, options, progress)
        except DatabaseError as error:  # away again, before it had begun
            if earlier is None:
                raise
            done = BackfillSummary(earlier.run_id, earlier.started_at, context.now(), error)
        if any(race.outcome.figures.rows_received for partner in done.partners for race in partner.races):
            patience = DATABASE_PATIENCE  # it got on
        if earlier is not None:
            done.absorb(earlier)
        if not _away(done.error):
            return done
        log.warning("backfill.database_away", because=str(done.error), waits_seconds=patience)
        patience = await _wait_for_database(context, patience)
        if patience <= 0:
            return done
        log.warning("backfill.goes_on", after=str(done.error))
        earlier, options = done, replace(options, restart=False, retry=False)


async def dry_run(context: Context, options: Options) -> list[PlannedPast]:
    """What a backfill would take; RunSignup is asked for its race lists only."""
    return [
        await _planned(context, options, own)
        for own in (await open_credentials(context, options.timing_partner_id))[: options.first_partners]
    ]


async def _run(context: Context, options: Options, progress: BackfillProgress) -> BackfillSummary:
    selected = (await open_credentials(context, options.timing_partner_id))[: options.first_partners]
    numbers = [own[0].timing_partner_id for own in selected]
    async with context.admin() as conn:
        async with conn.transaction():
            context.run_id = await history.open_run(conn, "backfill", "backfill")
            await backfill.begin_run(context.database, conn, context.run_id, numbers)
        if options.restart or options.retry:
            await (backfill.forget if options.restart else backfill.retry)(conn, numbers)
    summary = BackfillSummary(context.run_id, context.now())
    try:
        summary.error = await together([_backfill(context, options, own, summary, progress) for own in selected])
    except BaseException as error:
        await context.close_run("interrupted" if isinstance(error, asyncio.CancelledError) else "failed", None)
        raise
    summary.finished_at = context.now()
    await context.close_run(summary.status, summary.error)
    return summary


async def _backfill(
    context: Context, options: Options, own: list[Credential], summary: BackfillSummary, progress: BackfillProgress
) -> None:
    began = time.monotonic()
    partner = PartnerPast(own[0].timing_partner_id, own[0].company_name)
    summary.partners.append(partner)
    works = await _plan(context, options, own, partner, progress)
    queued, per_hour = sum(len(work.queue) for work in works), _per_hour(works)
    progress.past_planned(
        partner.timing_partner_id, partner.company_name, queued + partner.finished_before, partner.finished_before,
        per_hour,
    )  # fmt: skip
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work.run([other for other in works if other is not work]))
    finally:
        partner.races.sort(key=lambda race: race.race_id)
        partner.calls_left = sum(work.calls_left or 0 for work in works) if works else None
        partner.seconds = time.monotonic() - began


async def _plan(
    context: Context, options: Options, own: list[Credential], partner: PartnerPast, progress: BackfillProgress
) -> list[PastWork]:
    """List the races of all the partner's credentials from far back on and give each race to one of them."""
    works = [PastWork(context, options, credential, partner, progress) for credential in own]
    await list_all(works)
    async with context.admin() as conn:
        stored = await races.stored_races(conn, partner.timing_partner_id)
        known = await backfill.load_all(conn, partner.timing_partner_id)
        known = begun_anew(known, options) if context.dry_run else known
    usable = [work for work in works if not work.refusal]
    if usable:
        listed = {race_id for work in usable for race_id in work.listed}
        for race_id in listed | {race_id for race_id, race in stored.items() if race.gone_at is None}:
            owner_of(usable, race_id, stored).mine.add(race_id)
        if usable == works and options.since is None and not context.dry_run:
            async with context.admin() as conn:
                kept = {race_id for race_id, race in stored.items() if race.gone_at is None}
                await backfill.close_unlisted(conn, partner.timing_partner_id, listed | kept)
    for work in usable:
        work.plan(stored, known)
    return usable


async def _planned(context: Context, options: Options, own: list[Credential]) -> PlannedPast:
    partner = PartnerPast(own[0].timing_partner_id, own[0].company_name)
    works = await _plan(context, options, own, partner, BackfillProgress())
    queue = [planned.job for work in works for planned in work.queue]
    async with context.admin() as conn:
        stored = await races.stored_races(conn, partner.timing_partner_id)
        left = sum([await budget.calls_left(conn, work.credential, SHARE) for work in works])
        seconds_a_call = await budget.usual_seconds(conn) or USUAL_SECONDS
    events = 0
    for job in queue:
        known = {event.event_id: event for event in (stored[job.race_id].events if job.race_id in stored else ())}
        listed = {event.event_id: event for event in job.listed.events} if job.listed is not None else {}
        events += len(past_events((known | listed).values(), listed, options, context.now()))
    calls, per_hour = calls_to_come(len(queue), 0, 0), _per_hour(works)
    seconds = seconds_to_come(calls, left, per_hour, seconds_a_call, options.between) if works else 0.0
    return PlannedPast(
        partner.timing_partner_id, partner.company_name, len(queue), events, partner.finished_before,
        partner.left_alone, calls, left, per_hour, round(seconds, 3), partner.errors,
    )  # fmt: skip


def _per_hour(works: list[PastWork]) -> int:
    return sum(budget.calls_of_share(work.credential.calls_per_hour, SHARE) for work in works)


def _away(error: Exception | None) -> bool:
    """Whether a fault of the database is one that waiting cures."""
    return isinstance(error, DatabaseError) and (error.sqlstate is None or error.sqlstate.startswith(AWAY))


async def _wait_for_database(context: Context, patience: float) -> float:
    """Wait until the database answers, and return what is left of the seconds of patience; 0: it stays away."""
    pause = FIRST_LOOK * 2 ** round((DATABASE_PATIENCE - patience) / LONGEST_LOOK)  # longer each time it goes again
    while patience > 0:
        pause = min(pause, LONGEST_LOOK, patience)
        await context.sleep(pause)
        patience, pause = patience - pause, pause * 2
        try:
            await (await context.database.connect(name="startlist backfill")).close()
        except DatabaseError as error:
            if not _away(error):
                return 0.0
        else:
            return patience
    return 0.0
