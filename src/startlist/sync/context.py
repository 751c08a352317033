"""What all parts of one run share: the database, the lanes, the HTTP connections, the clock, the progress."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Self

import httpx2
import stamina.instrumentation
import structlog

from startlist import runsignup
from startlist.config import Settings
from startlist.errors import DatabaseError, StartlistError
from startlist.runsignup import CallerRegistration, RunSignup
from startlist.store import history
from startlist.store.database import Connection, Database, translated
from startlist.store.lanes import Lanes
from startlist.store.partners import Credential
from startlist.sync.gate import LONGEST_WAIT, BudgetGate, Hours, utc_now
from startlist.sync.progress import Progress

log = structlog.get_logger()

BEAT = 5.0  # seconds


class Context:
    """Open while a run goes on. `slots` bounds how many passes go on at once, `room` how many pages they hold."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        progress: Progress,
        dry_run: bool = False,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.database = database
        self.settings = settings
        self.progress = progress
        self.dry_run = dry_run  # ask for race lists only, store nothing
        self.now = now
        self.sleep = sleep
        self.run_id: int | None = None
        self.room = asyncio.Semaphore(settings.concurrent_calls + 1)
        self.slots = asyncio.Semaphore(settings.concurrent_calls + 1)
        self._admin_turn = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._admin: Connection
        self._lanes: Lanes
        self._http: httpx2.AsyncClient

    async def __aenter__(self) -> Self:
        stamina.instrumentation.set_on_retry_hooks([_tell_retry])
        beats = not self.database.label  # else it is a worker's, which is heard of all the time
        if beats:
            self.database = replace(self.database, label=secrets.token_hex(4))
        self._admin = await self._stack.enter_async_context(await self.database.connect(name="startlist run"))
        if beats:
            self._stack.callback(asyncio.create_task(self._beat()).cancel)
        self._lanes = await self._stack.enter_async_context(Lanes(self.database, self.settings.concurrent_calls))
        self._http = await self._stack.enter_async_context(runsignup.http_client())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Connection]:
        """The run's own connection, for short statements, one user at a time."""
        async with self._admin_turn:
            with translated():
                yield self._admin

    async def _beat(self) -> None:
        """Show that this process lives: who was paused is cut off, so that it keeps no lane and no race to itself."""
        with suppress(DatabaseError):  # it is said by whatever needs the connection
            while True:
                await asyncio.sleep(BEAT)
                async with self.admin() as conn:
                    await conn.execute("select")

    async def close_run(self, status: str, error: StartlistError | None) -> None:
        """Close the run's row, on a connection of its own: the run's may be the one that was lost."""
        with suppress(DatabaseError):
            async with await self.database.connect(name="startlist run") as conn:
                with translated():
                    await history.close_run(conn, self.run_id, status, None if error is None else str(error))

    def gate(
        self,
        credential: Credential,
        *,
        share: float = 1.0,
        hours: Hours | None = None,
        patience: float = LONGEST_WAIT,
        on_call: Callable[[int], None] = lambda calls_left: None,
    ) -> BudgetGate:
        """The gate of one pass or one question: counts its calls, wants two free ones before the first."""
        return BudgetGate(
            self._lanes,
            credential,
            run_id=self.run_id,
            share=share,
            hours=hours,
            patience=patience,
            now=self.now,
            sleep=self.sleep,
            on_call=on_call,
        )

    def client(self, credential: Credential, gate: BudgetGate) -> RunSignup:
        """RunSignup as this credential sees it."""
        settings, registration = self.settings, None
        if settings.api_registration is not None and settings.api_registration_secret is not None:
            registration = CallerRegistration(
                settings.api_registration.get_secret_value(), settings.api_registration_secret.get_secret_value()
            )
        return RunSignup(
            # Without a secret the gate lets nothing through.
            runsignup.Credential(credential.principal, credential.secret or "", credential.credential_type),
            url=settings.api_url,
            registration=registration,
            gate=gate,
            http=self._http,
        )


def _tell_retry(details: stamina.instrumentation.RetryDetails) -> None:
    endpoint, race_id = details.args
    log.warning(
        "call.retried",
        endpoint=endpoint,
        race_id=race_id,
        attempt=details.retry_num,
        seconds=round(details.wait_for, 1),
        because=str(details.caused_by),
    )
