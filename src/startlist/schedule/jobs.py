"""The jobs: what the queue knows by name. One reads a race, one reads a timing partner's race lists.

Jobs hold nothing: what is due, and when, stands in our tables. A job that is lost is queued again, one that comes
twice finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job, Status

from startlist.schedule.crew import Crew
from startlist.schedule.discovery import PartnerTurn
from startlist.schedule.race import RaceTurn
from startlist.store import processes, schedule
from startlist.store.budget import Rank
from startlist.store.database import Database
from startlist.store.schedule import DueRace

QUEUE = "startlist"
RACE, LIST = "startlist:race", "startlist:list"  # the tasks' names, which jobs in the queue carry
CREW = "crew"  # under which a job finds what its worker shares
CONNECTIONS = 4  # of the queue, in one process: it fetches, ends and listens

PRIORITIES = {schedule.name(rank): int(rank) * 10 for rank in (Rank.ROUTINE, Rank.RACE_WEEK, Rank.RACE_DAY)}
LIST_PRIORITY = PRIORITIES["race_week"] + 5


async def read_race(context: JobContext, timing_partner_id: int, race_id: int) -> None:
    """Read a race, if it is due."""
    crew = _crew(context)
    with crew.at_work(context.job.id, context.job.worker_id):
        await RaceTurn(crew, timing_partner_id, race_id).take()


async def read_list(context: JobContext, timing_partner_id: int) -> None:
    """Read a timing partner's race lists."""
    crew = _crew(context)
    with crew.at_work(context.job.id, context.job.worker_id):
        await PartnerTurn(crew, timing_partner_id).take()


def _crew(context: JobContext) -> Crew:
    crew = context.additional_context[CREW]
    assert isinstance(crew, Crew)  # noqa: S101  # the worker put it there
    return crew


def make_app(database: Database) -> App:
    """The queue on our database, in our schema; it is opened by who uses it."""
    connector = PsycopgConnector(
        kwargs=database.parameters("startlist queue"), min_size=1, max_size=CONNECTIONS, timeout=10, reconnect_timeout=5
    )
    app = App(connector=connector)
    for name, task in ((RACE, read_race), (LIST, read_list)):
        app.task(name=name, queue=QUEUE, pass_context=True)(task)
    return app


async def make_tables(database: Database, app: App) -> None:
    """Make the queue's tables in our schema, once, whoever comes first."""
    async with await database.connect(name="startlist queue") as conn:
        if await processes.has_queue(conn):
            return
        await conn.execute("select pg_advisory_lock(%s)", [database.lock_key("queue")])
        if not await processes.has_queue(conn):
            await app.schema_manager.apply_schema_async()


async def defer_races(app: App, due: Sequence[DueRace]) -> None:
    """Queue races that are due."""
    task = app.tasks[RACE]
    await _defer(
        app,
        [
            task.configure(lock=one.key, queueing_lock=one.key, priority=PRIORITIES[one.rank]).make_new_job(
                timing_partner_id=one.timing_partner_id, race_id=one.race_id
            )
            for one in due
        ],
    )


async def defer_lists(app: App, partners: Sequence[int]) -> None:
    """Queue the reading of these partners' race lists."""
    task = app.tasks[LIST]
    await _defer(
        app,
        [
            task.configure(lock=f"list:{one}", queueing_lock=f"list:{one}", priority=LIST_PRIORITY).make_new_job(
                timing_partner_id=one
            )
            for one in partners
        ],
    )


async def _defer(app: App, jobs: list[Job]) -> None:
    if not jobs:
        return
    try:
        await app.job_manager.batch_defer_jobs_async(jobs)
    except AlreadyEnqueued:  # one of them, by a scheduler that led until a moment ago
        for job in jobs:
            with suppress(AlreadyEnqueued):
                await app.job_manager.defer_job_async(job)


async def end_stalled(app: App, silent_seconds: float) -> int:
    """End the jobs of workers that have been silent for so long; what they read is still due, and queued anew."""
    stalled = {job.id for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=silent_seconds)}
    await end(app, stalled)
    await app.job_manager.prune_stalled_workers(silent_seconds)
    return len(stalled)


async def lost(app: App, crew: Crew) -> set[int | None]:
    """Jobs that the queue takes for being in this worker's hands: a connection broke as one was taken, or ended."""
    if crew.worker_id is None:
        return set()
    found = await app.job_manager.list_jobs_async(status=Status.DOING.value, worker_id=crew.worker_id)
    return {job.id for job in found} - crew.job_ids


async def end(app: App, job_ids: Collection[int | None]) -> None:
    """Take jobs out of the queue; those that ended in this moment are out already."""
    for job_id in job_ids:
        assert job_id is not None  # noqa: S101  # they come from the table
        with suppress(ConnectorException):
            await app.job_manager.finish_job_by_id_async(job_id=job_id, status=Status.FAILED, delete_job=True)
