"""One pass of one race: take its lock, decide, read the feeds, settle; whatever happens, its history row says so."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import structlog

from startlist.errors import (
    BadAnswer,
    BudgetSpent,
    CallerRefused,
    CredentialRemoved,
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
from startlist.runsignup import Race
from startlist.store import budget, cursors, history, partners, quarantine, races, removals, stages
from startlist.store.database import Connection, translated
from startlist.store.history import Figures
from startlist.store.registrations import Scope
from startlist.sync.checkpoint import Checkpoint
from startlist.sync.feeds import Feeds, Ledger
from startlist.sync.job import Job, Means, Outcome
from startlist.sync.plan import Decision, Kind, Wanted, decide, needs_record, wanted_events

log = structlog.get_logger()

CURED_BY_A_FULL_PASS = (3, 9)  # error codes that say the question was wrong
LOCK_WAIT_SECONDS = 60.0
PATIENCE = 3  # waits that RunSignup's throttling may cost one pass before it fails
# SQLSTATE classes of faults that would hit every race: the server, its resources, its schema, our rights in it.
_CONCERN_ALL = ("08", "0A", "25", "28", "3D", "3F", "42", "53", "57", "58", "XX")


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
            await cursors.unlock_race(conn)
            await conn.close()


class _Pass:
    def __init__(self, job: Job, means: Means, conn: Connection) -> None:
        self.job = job
        self.means = means
        self.conn = conn
        self.key = (job.timing_partner_id, job.race_id)
        self.notes: list[str] = []
        self.listed = job.listed
        self.record = job.record
        self.wanted = Wanted(frozenset(), means.now())
        self.decision = Decision(Kind.FULL, "")
        self.cursor = cursors.Cursor()
        self.stored: races.StoredRace | None = None
        self.checkpoint: Checkpoint
        self.feeds: Feeds
        self.ledger: Ledger
        self.history_id = 0
        self.fell_back = False
        self.unread = False  # the race's own record was due and could not be read
        self.race_stored = False
        self.gone: set[int] = set()  # events that went after they had been listed
        self.open_quarantine = False
        self.begun = means.now()  # then the database's clock, as rows are dated by it

    # -- the way of a pass -----------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        try:
            await self._prepare()
        except psycopg.errors.ForeignKeyViolation:  # while it waited
            return self._removed()
        try:
            await self._read_record()
            await self._read_feeds()
            return await self._settle()
        except BudgetSpent as wait:
            return await self._put_off(wait, wait.seconds, wait.until)
        except Throttled as error:
            if self.job.throttled >= PATIENCE:
                return await self._close("failed", self.decision.reason, error)
            return await self._put_off(error, *await budget.pause_left(self.conn, self.job.credential_id))
        except (NetworkError, ServerError) as error:  # the checkpoint stays: the next run goes on from it
            return await self._close("failed", self.decision.reason, error)
        except RunSignupError as error:
            if isinstance(error, RaceGone):
                await races.mark_race_gone(self.conn, *self.key)
            await cursors.clear_checkpoint(self.conn, *self.key)
            outcome = await self._close("failed", self.decision.reason, error)
            if isinstance(error, CallerRefused):  # no call of any race can succeed
                raise
            return outcome
        except psycopg.Error as error:
            if concerns_all(error):
                raise
            try:
                with translated():
                    raise error
            except DatabaseError as shown:
                return await self._close("failed", self.decision.reason, shown)
        except DatabaseError as error:  # of a lane's connection; this one may still answer
            with suppress(psycopg.Error):
                await self._close("failed", self.decision.reason, error)
            raise
        except asyncio.CancelledError:
            await self._interrupted()
            raise

    async def skip(self) -> Outcome:
        wanted = wanted_events(None, self._sent(), self.job.options, self.means.now()).event_ids
        reason = "another run holds this race"
        try:
            await history.record_skipped(
                self.conn, run_id=self.means.run_id, timing_partner_id=self.key[0],
                credential_id=self.job.credential_id, race_id=self.key[1], event_ids=wanted, reason=reason,
            )  # fmt: skip
        except psycopg.errors.ForeignKeyViolation:  # by whoever held the race: to remove it
            return self._removed()
        return Outcome("skipped", Kind.INCREMENTAL, reason, wanted, Figures())

    def _removed(self) -> Outcome:
        removed = CredentialRemoved("the timing partner or its API key was removed meanwhile")
        return Outcome("failed", self.decision.kind, self.decision.reason, frozenset(), Figures(), error=removed)

    async def _prepare(self) -> None:
        conn = self.conn
        await stages.prepare(conn)
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
        self.ledger = Ledger(conn, self.means, self.key, self.history_id)

    def _decide(self) -> None:
        now = self.means.now()
        self.wanted = wanted_events(self.stored, self._sent(), self.job.options, now)
        self.decision = decide(self.cursor, self.wanted.event_ids, self.job.options, now)

    def _sent(self) -> list[Race]:
        return [race for race in (self.listed, self.record) if race is not None]

    async def _read_record(self) -> None:
        """Read the race's own record if that is due. A race that is known is synced even when this fails."""
        job = self.job
        due = needs_record(
            self.stored, job.listed, self.wanted.next_start, self.means.now(), job.options.record_every
        )  # fmt: skip
        if due and self.record is None:
            everything = job.listed is None  # asked for by its number: which of its events count is not known yet
            try:
                self.record = await self.means.client.race(job.race_id, future_events_only=not everything)
            except (NetworkError, ServerError, BadAnswer, RequestRefused) as error:
                if self.stored is None or not self.wanted.event_ids:
                    raise
                self.unread = True
                if job.listed is not None:  # its last change stays news until the record has been read
                    self.listed = replace(job.listed, last_modified=self.stored.last_modified)
                self.notes.append(f"the race's own record could not be read: {error}")
            self._decide()
        if any(not race.zone_known for race in self._sent()):
            log.warning("race.zone_unknown", race_id=job.race_id, used="America/New_York")

    async def _read_feeds(self) -> None:
        asked_again = False
        await self._begin()
        while self.checkpoint.events:
            try:
                await self.feeds.read()
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
                await history.note_fallback(self.conn, self.history_id)
                log.warning("pass.fell_back", race_id=self.key[1], cause=str(error))
                await self._begin()

    async def _begin(self) -> None:
        """Take up the checkpoint of the same pass, or begin one."""
        options, now, kind, events = self.job.options, self.begun, self.decision.kind, self.wanted.event_ids
        forced = options.force_full or options.accept_missing
        anew = (forced and not self.job.resume) or self.fell_back
        found = None if anew else Checkpoint.stored(self.cursor, events, now)
        if found is not None and self.job.resume and found.kind is not kind and not forced:
            kind, self.decision = found.kind, Decision(found.kind, "going on after a wait")  # so does a fallback
        if found is None or found.kind is not kind:
            active = await races.active_rows(self.conn, self.key[0], events) if kind is Kind.FULL else {}
            found = Checkpoint.fresh(kind, events, self.cursor, active, now)
            if self.cursor.checkpoint is not None:  # else what goes on after a wait would take up the old one
                await self.ledger.keep(found)
        self.checkpoint = found
        last_query = self.cursor.participants_watermark if kind is Kind.FULL and not options.repair else None
        scope = Scope(
            *self.key, asked=events, quiet=self._quiet(), race_is_new=self.cursor.last_full_at is None,
            last_query=None if last_query is None else datetime.fromtimestamp(last_query, UTC), doubted=options.doubted,
        )  # fmt: skip
        self.feeds = Feeds(
            self.ledger, self.means, scope, found, self.cursor,
            on_first_page=self._store_race, resolves=self.open_quarantine,
        )  # fmt: skip

    def _quiet(self) -> frozenset[int]:
        """The events of a full pass that never had one."""
        if self.decision.kind is Kind.INCREMENTAL:
            return frozenset()
        had = {e.event_id for e in (self.stored.events if self.stored else ()) if e.first_full_at is not None}
        return self.wanted.event_ids - had - self.cursor.event_ids

    async def _leave_gone_events(self) -> None:
        race = await self.means.client.race(self.job.race_id)
        gone = self.wanted.event_ids - {event.event_id for event in race.events}
        if gone:
            self.gone |= gone
            await races.mark_events_gone(self.conn, self.key[0], gone)
            self.notes.append("gone: event " + ", ".join(map(str, sorted(gone))))
            self.wanted = Wanted(self.wanted.event_ids - gone, self.wanted.next_start)
        await self._begin()

    async def _store_race(self) -> None:
        """Store what was sent of the race itself, once, in the transaction of the pass's first page."""
        if self.race_stored:
            return
        self.race_stored = True
        for race in self._sent():
            await races.store_races(
                self.conn, self.key[0], [(race, self.job.credential_id)], record=race is self.record
            )
            await self.ledger.set_aside(self.checkpoint, race.bad)
        if self.gone:
            await races.mark_events_gone(self.conn, self.key[0], self.gone)
        if self.open_quarantine:
            await quarantine.resolve_unseen(self.conn, *self.key, ("races", "race"), self.begun)

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _settle(self) -> Outcome:
        at, full, key = self.checkpoint, self.checkpoint.kind is Kind.FULL, self.key
        suspicious = at.suspicious() if full and not self.job.options.accept_missing else {}
        for event_id, keys in sorted(at.lacking.items()):
            if keys:
                self.notes.append(f"event {event_id} came without {', '.join(sorted(keys))}")
        for event_id, (lost, active) in sorted(suspicious.items()):
            self.notes.append(
                f"event {event_id}: {lost} of {active} registrations are absent without a removal; nothing was marked"
                f" (accept with: startlist sync --race {key[1]} --accept-missing)"
            )
        async with self.ledger.page():
            if self.stored is not None or self.means.proof.is_set():
                await self._store_race()  # a race without events to read shows no page
            if at.quarantined:
                self.notes.append(f"{at.quarantined} records quarantined")
            partial = bool(at.quarantined or suspicious or any(at.lacking.values()) or self.unread)
            changes = 0
            if suspicious:
                await races.mark_first_full(self.conn, key[0], set(at.events) - set(suspicious))
                await cursors.suspect(self.conn, *key, self._suspicion(suspicious))
            elif at.events:
                if full:
                    self.ledger.figures.rows_missing = await removals.mark_missing(
                        self.conn, key[0], at.absent | at.imported
                    )
                    restored = await removals.restore(self.conn, key[0], at.contested)
                    changes = self.ledger.figures.rows_missing + restored
                    await races.mark_first_full(self.conn, key[0], at.events)
                    await quarantine.resolve_unseen_of_events(self.conn, *key, at.events, at.begun)
                await cursors.finish_pass(
                    self.conn, *key, full=full, participants=at.participants_candidate,
                    removed=at.removed_candidate, event_ids=at.events,
                )  # fmt: skip
            else:
                await cursors.clear_checkpoint(self.conn, *key)
            if self.ledger.figures.silent_bibs:
                await partners.note_silent_bibs(self.conn, self.job.credential_id)
            outcome = await self._close("partial" if partial else "completed", self.decision.reason)
            outcome.participants = await races.counted_rows(self.conn, key[0], outcome.event_ids)
            await self.ledger.write_changes(changes)
        return outcome

    def _suspicion(self, suspicious: dict[int, tuple[int, int]]) -> dict[str, object]:
        before, now = self.cursor.suspicion or {}, self.means.now().isoformat()
        return {
            "since": before.get("since", now),
            "last_at": now,
            "tries": int(before.get("tries", 0)) + 1,
            "events": {str(event_id): list(counts) for event_id, counts in suspicious.items()},
            "asked": self.checkpoint.events,
        }

    async def _put_off(self, why: StartlistError, seconds: float, until: datetime) -> Outcome:
        outcome = await self._close("partial", "waiting", why)
        outcome.wait, outcome.until, outcome.record = seconds, until, self.record
        return outcome

    async def _close(self, status: str, reason: str, error: StartlistError | None = None) -> Outcome:
        kind = "full_fallback" if self.fell_back else str(self.decision.kind)
        message = str(error) if error is not None else "; ".join(self.notes) or None
        code = error.code if isinstance(error, RunSignupError) else None
        await self.ledger.save_figures()
        await history.close_pass(
            self.conn, self.history_id, status=status, sync_type=kind, reason=reason,
            event_ids=self.wanted.event_ids, error_code=code, error_message=message,
        )  # fmt: skip
        figures = self.ledger.figures
        level = log.info if status == "completed" else log.warning
        level(
            "pass." + status, timing_partner_id=self.key[0], race_id=self.key[1], kind=kind, reason=reason,
            received=figures.rows_received, added=figures.rows_inserted, updated=figures.rows_updated,
            removed=figures.rows_removed, calls=figures.api_calls, **({"message": message} if message else {}),
        )  # fmt: skip
        return Outcome(status, kind, reason, self.wanted.event_ids, figures, error=error, notes=self.notes)

    async def _interrupted(self) -> None:
        """Close the row if the connection still answers; otherwise the race's next holder does."""
        with suppress(psycopg.Error, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(2):
                await self.conn.rollback()
                await self.ledger.save_figures()
                await history.close_interrupted(self.conn, *self.key)


def concerns_all(error: psycopg.Error) -> bool:
    """Whether a fault of the database would meet every race, or is this one's alone."""
    if error.sqlstate is None:
        return not isinstance(error, psycopg.DataError)  # a stored value that cannot be read
    return error.sqlstate.startswith(_CONCERN_ALL)


def _cured_by_a_full_pass(error: RunSignupError) -> bool:
    return isinstance(error, BadAnswer) or error.code in CURED_BY_A_FULL_PASS
