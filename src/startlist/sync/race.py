"""One pass of one race: lock, decide, fetch, merge, settle. Pages overlap: the next is fetched while one is merged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import psycopg
import structlog

from startlist.errors import (
    BadAnswer,
    BudgetSpent,
    DatabaseError,
    EventsGone,
    NetworkError,
    RaceGone,
    RequestRefused,
    RunSignupError,
    ServerError,
    StartlistError,
    Throttled,
)
from startlist.runsignup import KEPT_WHEN_ABSENT, BadRecord, ParticipantsPage, Race, RemovedPage, RunSignup, fingerprint
from startlist.store import budget, cursors, history, quarantine, races, registrations, removals
from startlist.store.changes import GATHERED, write_changes
from startlist.store.database import Connection, Database, translated
from startlist.store.history import Figures
from startlist.store.registrations import Arrived, Range, Scope
from startlist.sync.checkpoint import OVERLAP_SECONDS, Checkpoint
from startlist.sync.plan import Decision, Kind, Options, Wanted, decide, needs_record, wanted_events

log = structlog.get_logger()

CURED_BY_A_FULL_PASS = (3, 9)  # error codes that say the question was wrong
LOCK_WAIT_SECONDS = 60.0
PATIENCE = 3  # waits that RunSignup's throttling may cost one pass before it fails
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """A race to be read with one credential. `listed`: as the race list showed it, None when it did not.

    `resume`: this goes on after a wait, so even a forced pass takes up its checkpoint.
    """

    timing_partner_id: int
    credential_id: int
    race_id: int
    listed: Race | None
    options: Options
    resume: bool = False
    throttled: int = 0  # how often it was put off by RunSignup's throttling


@dataclass(frozen=True, slots=True)
class Means:
    """What a pass works with. `calls` tells how many attempts its client has sent so far."""

    database: Database
    run_id: int | None
    client: RunSignup
    calls: Callable[[], int]
    now: Callable[[], datetime]
    on_page: Callable[[int], None]  # participants rows of a page that has been committed
    proof: asyncio.Event  # set once a participants call of this credential succeeded in this run


@dataclass(slots=True)
class Outcome:
    """How a pass ended. `status` as in `sync_history`; `until` is set when it waits for its budget."""

    status: str
    kind: str
    reason: str
    event_ids: frozenset[int]
    figures: Figures
    seconds: float = 0.0
    until: datetime | None = None
    error: StartlistError | None = None
    notes: list[str] = field(default_factory=list)


async def run_pass(job: Job, means: Means) -> Outcome:
    """Read one race and store it, under its lock. Database faults that concern more than this race are raised."""
    with translated():
        conn = await means.database.connect(name="startlist pass")
        try:
            wait = LOCK_WAIT_SECONDS if job.options.race_id is not None else 0
            race_pass = _Pass(job, means, conn)
            if not await cursors.lock_race(means.database, conn, job.timing_partner_id, job.race_id, wait_seconds=wait):
                return await race_pass.skip()
            return await race_pass.run()
        finally:
            await conn.close()


class _Pass:
    def __init__(self, job: Job, means: Means, conn: Connection) -> None:
        self.job = job
        self.means = means
        self.conn = conn
        self.key = (job.timing_partner_id, job.race_id)
        self.figures = Figures()
        self.notes: list[str] = []
        self.record: Race | None = None
        self.wanted = Wanted(frozenset(), means.now())
        self.decision = Decision(Kind.FULL, "")
        self.cursor = cursors.Cursor()
        self.stored: races.StoredRace | None = None
        self.checkpoint: Checkpoint
        self.scope: Scope
        self.history_id = 0
        self.fell_back = False
        self.first_page = True
        self.open_quarantine = False
        self.begun = means.now()  # then the database's clock, as rows are dated by it

    # -- the way of a pass -----------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        await self._prepare()
        try:
            await self._read_record()
            await self._read_feeds()
            return await self._settle()
        except BudgetSpent as wait:
            outcome = await self._close("partial", "waiting", wait)
            outcome.until = wait.until
            return outcome
        except Throttled as error:
            if self.job.throttled >= PATIENCE:
                return await self._close("failed", self.decision.reason, error)
            outcome = await self._close("partial", "waiting", error)
            outcome.until = await budget.paused_until(self.conn, self.job.credential_id)
            return outcome
        except (NetworkError, ServerError) as error:  # the checkpoint stays: the next run goes on from it
            return await self._close("failed", self.decision.reason, error)
        except RunSignupError as error:
            if isinstance(error, RaceGone):
                await races.mark_race_gone(self.conn, *self.key)
            await self._clear_checkpoint()
            return await self._close("failed", self.decision.reason, error)
        except psycopg.Error as error:
            if _concerns_all(error):
                raise
            try:
                with translated():
                    raise error
            except DatabaseError as shown:
                return await self._close("failed", self.decision.reason, shown)
        except asyncio.CancelledError:
            await self._interrupted()
            raise

    async def skip(self) -> Outcome:
        wanted = wanted_events(None, self._sent(), self.job.options, self.means.now()).event_ids
        reason = "another run holds this race"
        await history.record_skipped(
            self.conn, run_id=self.means.run_id, timing_partner_id=self.key[0],
            credential_id=self.job.credential_id, race_id=self.key[1], event_ids=wanted, reason=reason,
        )  # fmt: skip
        return Outcome("skipped", Kind.INCREMENTAL, reason, wanted, Figures())

    async def _prepare(self) -> None:
        conn = self.conn
        # Stages are never analysed: without this a large table would be scanned to be joined with a small page.
        await conn.execute("set enable_hashjoin = off; set enable_mergejoin = off; set jit = off")
        for statement in (GATHERED, registrations.STAGE, removals.STAGE):
            await conn.execute(statement)
        closed = await history.close_interrupted(conn, *self.key)
        if closed:
            log.warning("pass.interrupted", timing_partner_id=self.key[0], race_id=self.key[1], passes=closed)
        self.begun = await cursors.clock(conn)
        self.cursor = await cursors.load_cursor(conn, *self.key)
        self.stored = (await races.stored_races(conn, *self.key)).get(self.job.race_id)
        self.open_quarantine = await quarantine.open_records(conn, *self.key) > 0
        self._decide()
        self.history_id = await history.open_pass(
            conn, run_id=self.means.run_id, timing_partner_id=self.key[0], credential_id=self.job.credential_id,
            race_id=self.key[1], event_ids=self.wanted.event_ids, sync_type=self.decision.kind,
            reason=self.decision.reason,
        )  # fmt: skip

    def _decide(self) -> None:
        now = self.means.now()
        self.wanted = wanted_events(self.stored, self._sent(), self.job.options, now)
        self.decision = decide(self.cursor, self.wanted.event_ids, self.job.options, now)

    def _sent(self) -> list[Race]:
        return [race for race in (self.job.listed, self.record) if race is not None]

    async def _read_record(self) -> None:
        job = self.job
        if needs_record(self.stored, job.listed, self.wanted.next_start, self.means.now()):
            everything = job.listed is None  # asked for by its number: which of its events is not known yet
            self.record = await self.means.client.race(job.race_id, future_events_only=not everything)
            self._decide()
        for race in self._sent():
            if not race.zone_known:
                log.warning("race.zone_unknown", race_id=race.race_id, used="America/New_York")
                break

    async def _read_feeds(self) -> None:
        asked_again = False
        await self._begin()
        while self.checkpoint.events:
            try:
                await self._fetch_and_merge()
                return
            except EventsGone:
                if asked_again:
                    raise
                asked_again = True
                await self._leave_gone_events()
            except (BadAnswer, RequestRefused) as error:
                if self.decision.kind is Kind.FULL or not _cured_by_a_full_pass(error):
                    raise
                self.fell_back = True
                self.decision = Decision(Kind.FULL, str(error))
                log.warning("pass.fell_back", race_id=self.key[1], cause=str(error))
                await self._begin()

    async def _begin(self) -> None:
        """Take up the checkpoint of the same pass, or begin one."""
        options, now, kind, events = self.job.options, self.begun, self.decision.kind, self.wanted.event_ids
        anew = (options.force_full or options.accept_missing) and not self.job.resume
        found = None if anew or self.fell_back else Checkpoint.stored(self.cursor, kind, events, now)
        if found is None:
            active = await races.active_rows(self.conn, self.key[0], events) if kind is Kind.FULL else {}
            found = Checkpoint.fresh(kind, events, self.cursor, active, now)
        self.checkpoint = found
        known = {e.event_id for e in (self.stored.events if self.stored else ()) if e.first_full_at is not None}
        last_query = self.cursor.participants_watermark if kind is Kind.FULL else None
        self.scope = Scope(
            *self.key, asked=events, quiet=events - known, race_is_new=self.cursor.last_full_at is None,
            last_query=None if last_query is None else datetime.fromtimestamp(last_query, UTC),
        )  # fmt: skip

    async def _leave_gone_events(self) -> None:
        race = await self.means.client.race(self.job.race_id)
        gone = self.wanted.event_ids - {event.event_id for event in race.events}
        if gone:
            await races.mark_events_gone(self.conn, self.key[0], gone)
            self.notes.append("gone: event " + ", ".join(map(str, sorted(gone))))
            self.wanted = Wanted(self.wanted.event_ids - gone, self.wanted.next_start)
        await self._begin()

    # -- fetch and merge -------------------------------------------------------------------------------------------

    async def _merges(self) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
        """Fetch page after page; each comes as the merge of it, still to be done."""
        client, at = self.means.client, self.checkpoint
        feed, start, race_id, events = at.feed, at.start(), self.job.race_id, at.events
        if feed == "participants":
            async for page in client.participants(race_id, events, modified_after=at.participants_bound, start=start):
                yield partial(self._merge_participants, page)
                del page  # megabytes
            feed, start = "removed", None
        if feed == "removed":
            async for removed in client.removed_participants(
                race_id, events, modified_after=at.removed_bound, start=start
            ):
                yield partial(self._merge_removed, removed)
                del removed

    async def _fetch_and_merge(self) -> None:
        async with aclosing(_ahead(self._merges())) as merges:
            async for merge in merges:
                await merge()
                del merge
        if self.checkpoint.feed == "successors":
            if await removals.successors_unknown(self.conn, *self.key, self.checkpoint.successors):
                since = max((self.checkpoint.participants_candidate or 0) - OVERLAP_SECONDS, 0)
                events = self.checkpoint.events
                async for page in self.means.client.participants(self.job.race_id, events, modified_after=since):
                    await self._merge_participants(page)
            self.checkpoint.next_feed("settle")

    async def _merge_participants(self, page: ParticipantsPage) -> None:
        at, full = self.checkpoint, self.checkpoint.kind is Kind.FULL
        in_feed = at.feed == "participants"  # else: asked once more for successors
        if in_feed and at.position is None:
            at.participants_candidate = _either(page.candidate, self.cursor.participants_watermark)
        answered, present = None, frozenset(b.registration_id for b in page.bad if b.registration_id is not None)
        if full and in_feed and page.complete_range and all(b.registration_id is not None for b in page.bad):
            asked = [page.event_id] if page.event_id is not None else at.events
            answered = Range(asked, page.after, page.up_to)
        arrived = [Arrived(r.event_id, r.registration_id, fingerprint(r.raw), r.decode) for r in page.rows]
        async with self.conn.transaction():
            await self._store_race()
            merged = await registrations.merge_registrations(
                self.conn, self.scope, arrived, answered=answered, present=present
            )
            keys = [(a.event_id, a.registration_id) for a in arrived]
            at.saw(keys)
            at.absent.update(merged.absent)
            if full:
                at.contested.update(merged.contested)
                self._note_keys(page)
            await self._set_aside(page.bad)
            if self.open_quarantine and keys:
                await quarantine.resolve_stored(self.conn, *self.key, "participants", [key[1] for key in keys])
            if in_feed:
                at.position = None if page.next is None else page.next.to_json()
                if page.next is None:
                    at.next_feed("removed")
            figures = self.figures
            figures.rows_received += len(page.rows) + len(page.bad)
            figures.quarantined += len(page.bad)
            figures.rows_inserted += merged.inserted
            figures.rows_updated += merged.updated
            figures.rows_unchanged += merged.unchanged
            figures.silent_edits += merged.silent_edits
            figures.bib_changes += merged.bib_changes
            await self._end_page(merged.changes)
        self.means.proof.set()
        self.means.on_page(len(page.rows) + len(page.bad))

    async def _merge_removed(self, page: RemovedPage) -> None:
        at = self.checkpoint
        if at.position is None:
            at.removed_candidate = _either(page.candidate, self.cursor.removed_watermark)
        async with self.conn.transaction():
            applied = await removals.apply_removals(self.conn, scope=self.scope, removals=page.rows, absent=at.absent)
            at.named_as_removed((r.event_id, r.registration_id) for r in page.rows)
            at.successors.update(applied.successors)
            await self._set_aside(page.bad)
            self.figures.rows_removed += applied.removed
            at.position = None if page.next is None else page.next.to_json()
            if page.next is None:
                at.next_feed("successors")
            await self._end_page(applied.changes)

    async def _store_race(self) -> None:
        if self.first_page:
            self.first_page = False
            for race in self._sent():
                await races.store_races(
                    self.conn, self.key[0], [(race, self.job.credential_id)], record=race is self.record
                )
                await self._set_aside(race.bad)
            if self.open_quarantine:
                await quarantine.resolve_unseen(self.conn, *self.key, ("races", "race"), self.begun)

    def _note_keys(self, page: ParticipantsPage) -> None:
        lacking = self.checkpoint.lacking
        for row in page.rows:
            missing = lacking.setdefault(row.event_id, set(KEPT_WHEN_ABSENT))
            if missing:
                missing.intersection_update(row.keys_absent())

    async def _set_aside(self, bad: Sequence[BadRecord]) -> None:
        if bad:
            await quarantine.set_aside(
                self.conn, bad, timing_partner_id=self.key[0], race_id=self.key[1], sync_history_id=self.history_id
            )
            self.checkpoint.quarantined += len(bad)
            for record in bad:
                log.warning("record.quarantined", race_id=self.key[1], endpoint=record.endpoint, reason=record.reason)

    async def _end_page(self, changes: int) -> None:
        """The page's last statements: checkpoint, figures, and the changes under their lock."""
        await cursors.save_checkpoint(self.conn, *self.key, self.checkpoint.to_json())
        await self._save_figures()
        await self._write_changes(changes)

    async def _save_figures(self) -> None:
        self.figures.api_calls = self.means.calls()
        await history.save_figures(self.conn, self.history_id, self.figures)

    async def _write_changes(self, changes: int) -> None:
        if changes:
            await write_changes(
                self.means.database, self.conn, timing_partner_id=self.key[0], race_id=self.key[1],
                sync_history_id=self.history_id,
            )  # fmt: skip

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _settle(self) -> Outcome:
        at, full, key = self.checkpoint, self.checkpoint.kind is Kind.FULL, self.key
        suspicious = at.suspicious() if full and not self.job.options.accept_missing else {}
        if at.quarantined:
            self.notes.append(f"{at.quarantined} records quarantined")
        for event_id, keys in sorted(at.lacking.items()):
            if keys:
                self.notes.append(f"event {event_id} came without {', '.join(sorted(keys))}")
        for event_id, (lost, active) in sorted(suspicious.items()):
            self.notes.append(
                f"event {event_id}: {lost} of {active} registrations are absent without a removal; nothing was marked"
                f" (accept with: startlist sync --race {key[1]} --accept-missing)"
            )
        partial = bool(at.quarantined or suspicious or any(at.lacking.values()))
        async with self.conn.transaction():
            if self.stored is not None or self.means.proof.is_set():
                await self._store_race()  # a race without events to read shows no page
            changes = 0
            if suspicious:
                await cursors.suspect(self.conn, *key, self._suspicion(suspicious))
            elif at.events:
                if full:
                    self.figures.rows_missing = await removals.mark_missing(self.conn, key[0], at.absent)
                    restored = await removals.restore(self.conn, key[0], at.contested)
                    changes = self.figures.rows_missing + restored
                    await races.mark_first_full(self.conn, key[0], at.events)
                    await quarantine.resolve_unseen(self.conn, *key, ("participants", "removed-participants"), at.begun)
                await cursors.finish_pass(
                    self.conn, *key, full=full, participants=at.participants_candidate,
                    removed=at.removed_candidate, event_ids=at.events,
                )  # fmt: skip
            await self._save_figures()
            outcome = await self._close("partial" if partial else "completed", self.decision.reason)
            await self._write_changes(changes)
        return outcome

    def _suspicion(self, suspicious: dict[int, tuple[int, int]]) -> dict[str, object]:
        before, now = self.cursor.suspicion or {}, self.means.now().isoformat()
        return {
            "since": before.get("since", now),
            "last_at": now,
            "tries": int(before.get("tries", 0)) + 1,
            "events": {str(event_id): list(counts) for event_id, counts in suspicious.items()},
        }

    async def _close(self, status: str, reason: str, error: StartlistError | None = None) -> Outcome:
        kind = "full_fallback" if self.fell_back else str(self.decision.kind)
        message = str(error) if error is not None else "; ".join(self.notes) or None
        code = error.code if isinstance(error, RunSignupError) else None
        await self._save_figures()
        await history.close_pass(
            self.conn, self.history_id, status=status, sync_type=kind, reason=reason,
            event_ids=self.wanted.event_ids, error_code=code, error_message=message,
        )  # fmt: skip
        level = log.info if status == "completed" else log.warning
        level(
            "pass." + status, timing_partner_id=self.key[0], race_id=self.key[1], kind=kind, reason=reason,
            received=self.figures.rows_received, changed=self.figures.rows_inserted + self.figures.rows_updated,
            removed=self.figures.rows_removed, calls=self.figures.api_calls, message=message,
        )  # fmt: skip
        return Outcome(status, kind, reason, self.wanted.event_ids, self.figures, error=error, notes=self.notes)

    async def _clear_checkpoint(self) -> None:
        if self.cursor.checkpoint is not None or not self.first_page:
            await cursors.save_checkpoint(self.conn, *self.key, None)

    async def _interrupted(self) -> None:
        """Close the row if the connection still answers; otherwise the race's next holder does."""
        with suppress(psycopg.Error, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(2):
                await self.conn.rollback()
                await history.close_interrupted(self.conn, *self.key)


def _either(candidate: int | None, old: int | None) -> int | None:
    return old if candidate is None else candidate


def _cured_by_a_full_pass(error: RunSignupError) -> bool:
    return isinstance(error, BadAnswer) or error.code in CURED_BY_A_FULL_PASS


def _concerns_all(error: psycopg.Error) -> bool:
    """Whether a database fault would hit every race: anything but bad data or a violated constraint."""
    return error.sqlstate is None or error.sqlstate[:2] not in ("21", "22", "23")


async def _ahead(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items, the next one already on its way while the consumer works on one."""
    coming = asyncio.ensure_future(anext(source, None))
    try:
        while (item := await coming) is not None:
            coming = asyncio.ensure_future(anext(source, None))
            yield item
            del item
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, StartlistError):
            await coming
        await source.aclose()
