"""Turns of the schedule in this process, on a `Rig`: what a job does, without the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from procrastinate import App

from startlist.schedule import jobs
from startlist.schedule.crew import Crew
from startlist.schedule.discovery import PartnerTurn
from startlist.schedule.leader import Leader
from startlist.schedule.race import RaceTurn
from startlist.store import history, schedule
from startlist.store.sealing import open_key_ring
from tests.syncing import RACE, Rig, Row

NEW_YORK = ZoneInfo("America/New_York")
DAYS = 8


def in_zone(at: datetime) -> str:
    """An instant as RunSignup writes the time of a race in New York, to the minute."""
    return f"{at.astimezone(NEW_YORK):%m/%d/%Y %H:%M}"


class Schedule:
    """The schedule of a rig's database."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    @classmethod
    async def of_synced(cls, rig: Rig) -> Self:
        """That of a rig whose race was synced and is known to the schedule."""
        await rig.sync()
        schedule = cls(rig)
        await schedule.adopt()
        return schedule

    @asynccontextmanager
    async def crew(self) -> AsyncIterator[Crew]:
        """That of a worker whose jitter is always the same."""
        async with self.rig.context() as context:
            async with context.admin() as conn:
                ring = await open_key_ring(conn, self.rig.settings)
                context.run_id = await history.open_run(conn, "serve", "schedule")
            yield Crew(context, ring, NEW_YORK, jitter=lambda: 0.5)

    async def turn(self, race_id: int = RACE, partner: int = 1) -> list[Row]:
        """One race's job; the calls that it made."""
        return await self._job(lambda crew: RaceTurn(crew, partner, race_id))

    async def lists(self, partner: int = 1) -> list[Row]:
        """The job of a partner's race lists; the calls that it made."""
        return await self._job(lambda crew: PartnerTurn(crew, partner))

    async def _job(self, made: Callable[[Crew], RaceTurn | PartnerTurn]) -> list[Row]:
        self.rig.control.reset_log()
        async with self.crew() as crew:
            await made(crew).take()
        calls: list[Row] = self.rig.control.log()
        await self.rig.check()
        return calls

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[App]:
        """The queue, its tables made."""
        app = jobs.make_app(self.rig.database)
        async with app.open_async():
            await jobs.make_tables(self.rig.database, app)
            yield app

    async def tick(self, *, times: int = 1) -> list[tuple[str, int]]:
        """Ticks of a leader; name and priority of each job that waits then, the first one first."""
        async with self.queue() as app, self.crew() as crew:
            leader = Leader(self.rig.database, app, crew.rhythm)
            for _ in range(times):
                await leader.tick(self.rig.conn)
        found = await self.rig.rows(
            "select lock, priority from procrastinate_jobs where status = 'todo' order by priority desc, id"
        )
        return [(row["lock"], row["priority"]) for row in found]

    async def adopt(self) -> None:
        """Take up what the schedule does not know."""
        await schedule.adopt(self.rig.conn, DAYS)

    async def due(self) -> list[int]:
        """The races that are due and not queued."""
        async with self.queue():
            return [one.race_id for one in await schedule.due_races(self.rig.conn)]

    async def wait(self, race_id: int = RACE) -> timedelta:
        """How long a race's next turn is off."""
        row = await self.rig.one("select next_sync_at - now() as wait from sync_cursors where race_id = %s", race_id)
        assert isinstance(row["wait"], timedelta)
        return row["wait"]

    async def make_due(self, race_id: int = RACE) -> None:
        """Let a race's next turn have come."""
        await self.rig.conn.execute(
            "update sync_cursors set next_sync_at = now(), planned_at = now() where race_id = %s", [race_id]
        )

    async def gun(self, event_id: int, within: timedelta) -> None:
        """Let an event start so far from now, in RunSignup and in the database."""
        row = await self.rig.one("select now() + %s as at", within)
        at = row["at"].replace(second=0, microsecond=0)
        self.rig.control.edit_event(event_id, start_time=in_zone(at))
        day = at.astimezone(NEW_YORK).date()
        await self.rig.conn.execute(
            "update runsignup_events set start_time = %s, race_day = %s where event_id = %s", [at, day, event_id]
        )
