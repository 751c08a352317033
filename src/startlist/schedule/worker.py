"""`serve` and `worker`: take jobs until told to stop, and outlive a database that restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import tzinfo
from zoneinfo import ZoneInfo

import psycopg
import structlog
from procrastinate import App
from procrastinate.exceptions import ConnectorException

from startlist.config import Settings
from startlist.errors import ConfigurationError, DatabaseError, SchemaError
from startlist.schedule import jobs
from startlist.schedule.crew import Crew, Stopping
from startlist.schedule.leader import SILENT, Leader
from startlist.store import history, processes
from startlist.store.database import Database
from startlist.store.sealing import open_key_ring
from startlist.sync.context import Context

log = structlog.get_logger()

HEARTBEAT = 5.0  # seconds
GRACE = 4.0  # seconds for passes that are under way when the worker is told to stop
PULSE = 5.0  # seconds between two looks at the connection that all jobs share
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0  # seconds before the database is looked for again
POLLING = 5.0  # seconds after which the queue is looked at even if nobody told of a job


class Worker:
    """A process that takes jobs; with `leads` it is a scheduler as well, if no other is."""

    def __init__(
        self,
        settings: Settings,
        *,
        leads: bool,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.leads = leads
        self.stop = asyncio.Event()
        self._sleep = sleep
        self._elapsed = elapsed

    async def run(self) -> None:
        """Work until `stop` is set.

        Raises `ConfigurationError` when it cannot begin, `SchemaError` when the schema has become another one,
        `CallerRefused` when RunSignup takes calls from nobody with this registration.
        """
        database = await Database.open(self.settings)
        pause = FIRST_PAUSE
        while True:
            begun = self._elapsed()
            try:
                await self._session(database)
            except (DatabaseError, psycopg.Error, ConnectorException, OSError) as error:
                log.warning("database.lost", message=_said(error))
            if self.stop.is_set():
                return
            pause = FIRST_PAUSE if self._elapsed() - begun > LONGEST_PAUSE else min(pause * 2, LONGEST_PAUSE)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), pause)
                return
            with suppress(DatabaseError):  # not back yet: the session will say so
                database = await self._reopened()

    async def _reopened(self) -> Database:
        try:
            return await Database.open(self.settings)
        except SchemaError:
            raise
        except ConfigurationError as error:
            raise DatabaseError(str(error)) from None

    async def _session(self, database: Database) -> None:
        """Work for as long as the connections last."""
        async with await database.connect(name="startlist run") as conn:
            ring = await open_key_ring(conn, self.settings)
            run_id = await history.open_run(conn, "serve" if self.leads else "worker", "schedule")
        database = replace(database, label=processes.label(database, run_id))
        app = jobs.make_app(database)
        progress = Stopping()
        async with app.open_async(), Context(database, self.settings, progress=progress) as context:
            context.run_id = run_id
            async with context.admin() as conn:
                await processes.show_alive(database, conn, run_id)
            await jobs.make_tables(database, app)
            crew = Crew(context, ring, zone_of(self.settings.timezone))
            log.info("worker.ready", run_id=context.run_id, passes=self.settings.worker_passes)
            work = asyncio.create_task(
                app.run_worker_async(
                    queues=[jobs.QUEUE],
                    name="startlist",
                    concurrency=self.settings.worker_passes,
                    install_signal_handlers=False,
                    delete_jobs="always",
                    additional_context={jobs.CREW: crew},
                    update_heartbeat_interval=HEARTBEAT,
                    stalled_worker_timeout=SILENT,
                    shutdown_graceful_timeout=GRACE,
                    fetch_job_polling_interval=POLLING,
                    abort_job_polling_interval=60.0,
                )
            )
            others = [
                asyncio.create_task(one)
                for one in (self.stop.wait(), crew.broken.wait(), self._pulse(context, app, crew))
            ]
            if self.leads:
                others.append(asyncio.create_task(Leader(database, app, crew.rhythm, sleep=self._sleep).run()))
            try:
                done, _ = await asyncio.wait({work, *others}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                progress.stopping = True
                for task in (*others, work):
                    task.cancel()
                await asyncio.gather(work, *others, return_exceptions=True)
                await context.close_run("completed" if self.stop.is_set() else "interrupted", crew.refused)
            if crew.refused is not None:
                raise crew.refused
            for task in done:
                await task

    async def _pulse(self, context: Context, app: App, crew: Crew) -> None:
        """Notice when the connection that the jobs share is lost and nothing else is, and when a job is."""
        suspected: set[int | None] = set()
        while True:
            await self._sleep(PULSE)
            async with context.admin() as conn:
                await conn.execute("select 1")
            found = await jobs.lost(app, crew)
            if again := found & suspected:  # one that ends just now is not in hand any more either
                log.warning("jobs.lost", jobs=len(again))
                await jobs.end(app, again)
            suspected = found


def zone_of(name: str | None) -> tzinfo | None:
    """The zone of the daily times; none: the machine's."""
    return None if name is None else ZoneInfo(name)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, DatabaseError) else type(error).__name__
