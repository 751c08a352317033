"""The two feeds of a pass, fetched and merged page by page: the next page is fetched while one is merged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from startlist.errors import StartlistError
from startlist.runsignup import KEPT_WHEN_ABSENT, BadRecord, ParticipantsPage, RemovedPage
from startlist.store import cursors, history, quarantine, registrations, removals
from startlist.store.changes import write_changes
from startlist.store.cursors import Cursor
from startlist.store.database import Connection
from startlist.store.history import Figures
from startlist.store.registrations import Range, Scope
from startlist.sync.checkpoint import Checkpoint
from startlist.sync.job import Means
from startlist.sync.plan import Kind

log = structlog.get_logger()

T = TypeVar("T")


class Ledger:
    """Where a pass writes down what it does: its history row, its checkpoint, its quarantine, its changes."""

    def __init__(self, conn: Connection, means: Means, key: tuple[int, int], history_id: int) -> None:
        self.conn = conn
        self.key = key  # timing_partner_id, race_id
        self.figures = Figures()
        self._means = means
        self._history_id = history_id

    @asynccontextmanager
    async def page(self, asked_at: float | None = None, event_ids: Collection[int] = ()) -> AsyncIterator[None]:
        """A page's transaction; what is rolled back is taken out of the figures too.

        For those who do not hold the race: `asked_at` is when RunSignup was asked for it, by the monotonic clock,
        `event_ids` are the events that it is about.
        """
        before = replace(self.figures)
        try:
            async with self.conn.transaction():
                yield
        except BaseException:
            self.figures = before
            raise

    async def set_aside(self, checkpoint: Checkpoint, bad: Sequence[BadRecord]) -> None:
        """Quarantine records that cannot be stored."""
        if bad:
            await quarantine.set_aside(
                self.conn, bad, timing_partner_id=self.key[0], race_id=self.key[1], sync_history_id=self._history_id
            )
            checkpoint.quarantined += len(bad)
            for record in bad:
                log.warning("record.quarantined", race_id=self.key[1], endpoint=record.endpoint, reason=record.reason)

    async def end_page(self, checkpoint: Checkpoint, changes: int) -> None:
        """A page's last statements: checkpoint, figures, and the changes under their lock."""
        await self.keep(checkpoint)
        await self.save_figures()
        await self.write_changes(changes)

    async def keep(self, checkpoint: Checkpoint) -> None:
        """Keep where the pass stands."""
        await cursors.save_checkpoint(self.conn, *self.key, checkpoint.to_json())

    async def save_figures(self) -> None:
        """The counts so far, with the calls made so far."""
        self.figures.api_calls = self._means.calls()
        await history.save_figures(self.conn, self._history_id, self.figures)

    async def write_changes(self, changes: int) -> None:
        """The changes gathered in this transaction, as its last statements."""
        if changes:
            await write_changes(
                self._means.database,
                self.conn,
                timing_partner_id=self.key[0],
                race_id=self.key[1],
                sync_history_id=self._history_id,
            )


class Feeds:
    """Participants, then removed ones, then the successors that the removed list names."""

    def __init__(
        self,
        ledger: Ledger,
        means: Means,
        scope: Scope,
        checkpoint: Checkpoint,
        cursor: Cursor,
        *,
        on_first_page: Callable[[], Awaitable[None]],
        resolves: bool,
    ) -> None:
        """`on_first_page` runs in the first page's transaction; `resolves`: there are quarantined records to close."""
        self._ledger = ledger
        self._means = means
        self._scope = scope
        self._checkpoint = checkpoint
        self._cursor = cursor
        self._on_first_page = on_first_page
        self._resolves = resolves

    async def read(self) -> None:
        """Read on from the checkpoint to the end of both feeds."""
        async with aclosing(_ahead(self._merges(), self._means.room)) as merges:
            async for merge in merges:
                await merge()
                del merge  # it holds its page
        at = self._checkpoint
        if at.feed == "successors":
            if await removals.successors_unknown(self._ledger.conn, *self._ledger.key, at.successors):
                since = at.successors_since()
                race_id, asked_at = self._scope.race_id, time.monotonic()
                async for page in self._means.client.participants(race_id, at.events, modified_after=since):
                    await self._merge_participants(page, asked_at)
                    asked_at = time.monotonic()
            at.next_feed("settle")

    async def _merges(self) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
        """Fetch page after page; each comes as the merge of it, still to be done."""
        client, at, race_id = self._means.client, self._checkpoint, self._scope.race_id
        feed, start, events = at.feed, at.start(), at.events
        asked_at = time.monotonic()
        if feed == "participants":
            async for page in client.participants(race_id, events, modified_after=at.participants_bound, start=start):
                yield partial(self._merge_participants, page, asked_at)
                del page  # megabytes
                asked_at = time.monotonic()
            feed, start = "removed", None
        if feed == "removed":
            async for removed in client.removed_participants(
                race_id, events, modified_after=at.removed_bound, start=start
            ):
                yield partial(self._merge_removed, removed, asked_at)
                del removed
                asked_at = time.monotonic()

    async def _merge_participants(self, page: ParticipantsPage, asked_at: float) -> None:
        ledger, at, full = self._ledger, self._checkpoint, self._checkpoint.kind is Kind.FULL
        in_feed = at.feed == "participants"  # else: asked once more for successors
        begins = at.position is None or (at.kind is Kind.BACKFILL and at.participants_candidate is None)
        if in_feed and begins:
            at.participants_candidate = _either(page.candidate, self._cursor.participants_watermark)
        async with ledger.page(asked_at, self._about(page)):
            await self._on_first_page()
            merged = await registrations.merge_registrations(
                ledger.conn,
                self._scope,
                page.rows,
                answered=self._answered(page) if full and in_feed else None,
                present=frozenset(b.registration_id for b in page.bad if b.registration_id is not None),
            )
            at.saw((row.event_id, row.registration_id) for row in page.rows)
            at.absent.update(merged.absent)
            at.imported.update(merged.imported)
            if full and in_feed:  # later the removed list has had its say
                at.contested.update(merged.contested)
            if in_feed and at.kind is not Kind.INCREMENTAL:
                self._note_keys(page)
            await ledger.set_aside(at, page.bad)
            if self._resolves and page.rows:
                good = [(row.event_id, row.registration_id) for row in page.rows]
                await quarantine.resolve_stored(ledger.conn, *ledger.key, "participants", good)
            if in_feed:
                at.position = None if page.next is None else page.next.to_json()
                if page.next is None:
                    at.next_feed("removed")
            figures = ledger.figures
            figures.rows_received += len(page.rows) + len(page.bad)
            figures.quarantined += len(page.bad)
            figures.rows_inserted += merged.inserted
            figures.rows_updated += merged.updated
            figures.rows_unchanged += merged.unchanged
            figures.silent_edits += merged.silent_edits
            figures.silent_bibs += merged.silent_bibs
            figures.bib_changes += merged.bib_changes
            await ledger.end_page(at, merged.changes)
        self._means.proof.set()
        self._means.on_page(len(page.rows) + len(page.bad))

    def _about(self, page: ParticipantsPage | RemovedPage) -> Collection[int]:
        """The events that a page is about: those asked, and others that its rows name."""
        if self._checkpoint.kind is not Kind.BACKFILL:
            return ()  # who reads the race to keep it fresh has it alone
        return {*self._checkpoint.events, *(row.event_id for row in page.rows)}

    def _answered(self, page: ParticipantsPage) -> Range | None:
        """For which ids the page is complete. A bad record without an id could be any of them: then for none."""
        if not page.complete_range or any(bad.registration_id is None for bad in page.bad):
            return None
        asked = self._checkpoint.events if page.event_id is None else [page.event_id]
        return Range(asked, page.after, page.up_to)

    async def _merge_removed(self, page: RemovedPage, asked_at: float) -> None:
        ledger, at = self._ledger, self._checkpoint
        if at.position is None:
            at.removed_candidate = _either(page.candidate, self._cursor.removed_watermark)
        async with ledger.page(asked_at, self._about(page)):
            applied = await removals.apply_removals(
                ledger.conn, scope=self._scope, removals=page.rows, absent=at.absent | at.imported
            )
            at.named_as_removed((r.event_id, r.registration_id) for r in page.rows)
            for bad in page.bad:
                at.named_unreadably(bad.event_id, bad.registration_id)
            at.successors.update(applied.successors)
            await ledger.set_aside(at, page.bad)
            ledger.figures.rows_removed += applied.removed
            at.position = None if page.next is None else page.next.to_json()
            if page.next is None:
                at.next_feed("successors")
            await ledger.end_page(at, applied.changes)

    def _note_keys(self, page: ParticipantsPage) -> None:
        """Which keys no record of an event had so far: a credential that lost rights shows so."""
        lacking = self._checkpoint.lacking
        for row in page.rows:
            missing = lacking.setdefault(row.event_id, set(KEPT_WHEN_ABSENT))
            if missing:
                missing.intersection_update(row.keys_absent())


def _either(candidate: int | None, old: int | None) -> int | None:
    return old if candidate is None else candidate


async def _ahead(source: AsyncGenerator[T, None], room: asyncio.Semaphore) -> AsyncGenerator[T, None]:
    """The same items, the next one already on its way while the consumer works on one.

    Each takes a place of `room`, from before it is fetched until the consumer asks for the one after it.
    """

    async def fetch() -> T | None:
        await room.acquire()
        item = None
        try:
            item = await anext(source, None)
        finally:
            if item is None:
                room.release()
        return item

    coming = asyncio.ensure_future(fetch())
    try:
        while (item := await coming) is not None:
            coming = asyncio.ensure_future(fetch())
            try:
                yield item
            finally:
                del item
                room.release()
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, StartlistError):
            if await coming is not None:
                room.release()
        await source.aclose()
