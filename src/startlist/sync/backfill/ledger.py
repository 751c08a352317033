"""The pages of a race's past: each stored while the race is its own, and told in the backfill's own table."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from startlist.store import backfill
from startlist.store.backfill import Progress
from startlist.store.cursors import LONGEST_PAGE
from startlist.store.database import Connection
from startlist.store.history import Figures
from startlist.sync.checkpoint import Checkpoint
from startlist.sync.feeds import Ledger
from startlist.sync.job import Means


class Overtaken(Exception):
    """A sync has read the race since this page was asked for: the page is asked for anew."""


class PastLedger(Ledger):
    """Writes a page while it has the race to itself, and keeps the place in the backfill's own table."""

    def __init__(self, conn: Connection, means: Means, key: tuple[int, int], history_id: int, before: Figures) -> None:
        super().__init__(conn, means, key, history_id)
        self.database = means.database
        self.progress = Progress(key[1], state="reading")
        self._before = before  # of earlier legs

    @asynccontextmanager
    async def page(self, asked_at: float | None = None, event_ids: Collection[int] = ()) -> AsyncIterator[None]:
        async with backfill.turn(self.database, self.conn, *self.key, wait_seconds=LONGEST_PAGE) as mine:
            if not mine:
                raise Overtaken
            age = 0.0 if asked_at is None else time.monotonic() - asked_at
            if event_ids and await backfill.synced_since(self.conn, *self.key, event_ids, age):
                raise Overtaken
            async with super().page():
                yield

    async def write_down(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do a piece of work that no sync can have overtaken, in a transaction, while the race is its own."""
        while True:
            with suppress(Overtaken):
                async with self.page():
                    await work()
                return

    async def keep(self, checkpoint: Checkpoint) -> None:
        self.progress = replace(self.progress, state="reading", checkpoint=checkpoint.to_json())
        await self.save_progress()

    async def save_progress(self) -> None:
        """Keep where the race stands, with all that was counted so far."""
        self.figures.api_calls = self._means.calls()
        self.progress = replace(self.progress, figures=self.total())
        await backfill.save(self.conn, self.key[0], self.progress)

    def total(self) -> Figures:
        """What was counted of the race in all its legs so far."""
        total = replace(self._before)
        total.add(self.figures)
        return total
