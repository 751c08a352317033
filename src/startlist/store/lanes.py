"""Lanes: the few calls that may be under way at once, over all processes on one database.

A lane is a session advisory lock. Each process has one connection per lane, because such locks are re-entrant within a
connection; a killed process loses its connections and so frees its lanes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Self

import psycopg

from startlist.errors import DatabaseError
from startlist.store.database import Connection, Database, global_lock_key, translated

_LAST_WORDS = 5.0  # seconds for what is still written when a process ends


class Lane:
    """One lane as this process sees it: its connection, opened when first needed and again when lost."""

    def __init__(self, database: Database, number: int) -> None:
        self._database = database
        self._key = global_lock_key("lane", number)
        self._conn: Connection | None = None

    @property
    def held(self) -> Connection:
        """The connection that holds the lane (autocommit); it is not opened again when it was lost."""
        if self._conn is None:
            raise DatabaseError("the connection that held a lane was lost")
        return self._conn

    async def lock(self, *, wait: bool) -> bool:
        """Take the lane's lock; without `wait` only if nobody holds it."""
        query = "select pg_advisory_lock(%s), true" if wait else "select null, pg_try_advisory_lock(%s)"
        with translated():
            try:
                row = await (await (await self._connected()).execute(query, [self._key])).fetchone()
            except psycopg.OperationalError:  # lost while it was idle, or while it waited
                await self.close()
                row = await (await (await self._connected()).execute(query, [self._key])).fetchone()
        return bool(row and row[1])

    async def _connected(self) -> Connection:
        if self._conn is None or self._conn.closed:
            self._conn = await self._database.connect(autocommit=True, name="startlist lane")
            # A limit that the role or the database carries must not end the wait for a lane.
            await self._conn.execute("set statement_timeout = 0; set lock_timeout = 0")
        return self._conn

    async def unlock(self) -> None:
        """Free the lane; a lost connection has freed it already."""
        if self._conn is not None and not self._conn.closed:
            try:
                await self._conn.execute("select pg_advisory_unlock(%s)", [self._key])
            except psycopg.Error:
                await self.close()

    async def close(self) -> None:
        """Close the connection, which frees the lane."""
        if self._conn is not None:
            await self._conn.close()
            self._conn = None


class Lanes:
    """All lanes of a database for this process; whoever asks first is served first."""

    def __init__(self, database: Database, count: int) -> None:
        self._lanes = [Lane(database, number) for number in range(count)]
        self._idle = list(reversed(self._lanes))
        self._waiters: deque[asyncio.Future[Lane]] = deque()
        self._serving: set[asyncio.Task[None]] = set()
        self._freeing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._freeing:  # a call that was cancelled is still being written down
            await asyncio.wait(self._freeing, timeout=_LAST_WORDS)
        unfinished = self._freeing | self._serving
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        for lane in self._lanes:
            await lane.close()

    async def acquire(self) -> Lane:
        """Wait for a lane and take it. Raises `DatabaseError` when the database cannot be reached."""
        waiter: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._seek(1)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                _keep(self._free(waiter.result()), self._freeing)
            raise

    async def release(self, lane: Lane, last: Callable[[], Awaitable[None]] | None = None) -> None:
        """Free a lane after a `last` piece of work; both are done also when the caller is cancelled meanwhile."""
        await asyncio.shield(_keep(self._free(lane, last), self._freeing))

    def _seek(self, many: int) -> None:
        """Let so many more of the idle lanes look for a waiter to serve."""
        for _ in range(min(many, len(self._idle))):
            _keep(self._serve(self._idle.pop()), self._serving)

    async def _serve(self, lane: Lane) -> None:
        """Take the lane's lock for the waiter at the head; a lane that nobody wants any more goes idle."""
        try:
            while self._wanted():
                if not await lane.lock(wait=False):
                    self._seek(len(self._lanes))  # another process has it: wait for whichever lane is free first
                    await lane.lock(wait=True)
                if self._wanted():
                    self._waiters.popleft().set_result(lane)
                    return
                await lane.unlock()
        except DatabaseError as error:
            await lane.close()
            while self._wanted():
                self._waiters.popleft().set_exception(error)
        self._idle.append(lane)

    def _wanted(self) -> bool:
        while self._waiters and self._waiters[0].done():
            self._waiters.popleft()  # its task was cancelled
        return bool(self._waiters)

    async def _free(self, lane: Lane, last: Callable[[], Awaitable[None]] | None = None) -> None:
        try:
            if last is not None:
                await last()
        finally:
            await lane.unlock()
            _keep(self._serve(lane), self._serving)


def _keep(work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
