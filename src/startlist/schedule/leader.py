"""The leader: the one scheduler that queues, every second, what is due; another takes over when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from procrastinate import App

from startlist.schedule import jobs
from startlist.schedule.cadence import Rhythm
from startlist.store import history, listings, processes, schedule
from startlist.store.budget import Rank
from startlist.store.database import Connection, Database, translated

log = structlog.get_logger()

TICK = 1.0  # seconds
LOOK_AT_LEADER = 2.0  # seconds between two tries to become it
SILENT = 20.0  # seconds without a heartbeat after which a worker is taken for dead
LISTS_EVERY = 5  # ticks
CHORES_EVERY = 60  # ticks
PURGE_EVERY = 86_400  # ticks


class Leader:
    """A scheduler that leads, or waits to."""

    def __init__(
        self,
        database: Database,
        app: App,
        rhythm: Rhythm,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.database = database
        self.app = app
        self.rhythm = rhythm
        self._sleep = sleep
        self._watch = processes.Watch(database.label)
        self._ticks = 0

    async def run(self) -> None:
        """Lead once nobody else does, for as long as the connection lasts. Raises `DatabaseError` when it is lost."""
        async with await self.database.connect(name="startlist scheduler") as conn:
            with translated():
                while not await processes.lead(self.database, conn):
                    await self._cut_off(conn)  # it may be the one that leads
                    await self._sleep(LOOK_AT_LEADER)
                log.info("scheduler.leads")
                while True:
                    await self.tick(conn)
                    await self._sleep(TICK)

    async def tick(self, conn: Connection) -> None:
        """Queue what is due; now and then look at race lists, dead workers' jobs, races that are not planned yet."""
        if self._ticks % CHORES_EVERY == 0:
            adopted = await schedule.adopt(conn, self.rhythm.days_after)
            if adopted:
                log.info("races.adopted", races=adopted)
            await schedule.note_adopted(conn)
            for run_id in await processes.close_dead_runs(self.database, conn):
                log.warning("worker.vanished", run_id=run_id)
        if self._ticks % PURGE_EVERY == CHORES_EVERY // 2:
            dropped = await history.purge(conn)
            if dropped:
                log.info("history.purged", rows=dropped)
        if self._ticks % LISTS_EVERY == 0:
            await self._cut_off(conn)
            stalled = await jobs.end_stalled(self.app, SILENT)
            if stalled:
                log.warning("jobs.stalled", jobs=stalled)
            await jobs.defer_lists(self.app, await listings.due(conn))
        await schedule.raise_queued(conn, jobs.RACE, jobs.PRIORITIES[schedule.name(Rank.RACE_DAY)])
        await jobs.defer_races(self.app, await schedule.due_races(conn))
        self._ticks += 1

    async def _cut_off(self, conn: Connection) -> None:
        cut = await self._watch.cut_off(conn, SILENT)
        if cut:
            log.warning("worker.silent", connections=cut, seconds=SILENT)
