"""The past of one race: its record, then page by page what is over; a sync that wants the race gets it in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import psycopg
import structlog

from startlist.errors import (
    BadAnswer,
    BudgetSpent,
    CallerRefused,
    CredentialRefused,
    DatabaseError,
    EventsGone,
    NetworkError,
    PermissionDenied,
    RaceGone,
    RequestRefused,
    RunSignupError,
    ServerError,
    StartlistError,
    Throttled,
)
from startlist.runsignup import Race
from startlist.store import backfill, budget, cursors, history, quarantine, races, stages
from startlist.store.backfill import Progress
from startlist.store.cursors import LONGEST_PAGE, Cursor
from startlist.store.database import Connection, translated
from startlist.store.registrations import Scope
from startlist.sync.backfill.checkpoint import PastCheckpoint
from startlist.sync.backfill.job import PastJob, PastOutcome
from startlist.sync.backfill.ledger import Overtaken, PastLedger
from startlist.sync.backfill.plan import due, past_events
from startlist.sync.feeds import Feeds
from startlist.sync.job import Means
from startlist.sync.plan import Kind
from startlist.sync.race import PATIENCE, concerns_all

log = structlog.get_logger()

PASSING = (NetworkError, ServerError, BadAnswer)  # RunSignup may be away for everybody; the checkpoint stays
ONE_BY_ONE = (PermissionDenied, RequestRefused, *PASSING)  # may concern some of a race's events only
EVENTS_TRIED = 2  # alone, before the whole race is given up
NO_MORE = "no event of it is over"


async def read_past(job: PastJob, means: Means) -> PastOutcome:
    """Read a race's past on from where it stands. Database faults that concern more than this race are raised."""
    with translated():
        conn = await means.database.connect(name="startlist backfill")
        try:
            if not await backfill.claim(means.database, conn, job.timing_partner_id, job.race_id):
                return PastOutcome("held", "another backfill reads this race")
            return await _Past(job, means, conn).run()
        finally:
            try:
                await cursors.unlock_race(conn)
            finally:  # also when it is cancelled in that moment
                await conn.close()


class _Past:
    def __init__(self, job: PastJob, means: Means, conn: Connection) -> None:
        self.job = job
        self.means = means
        self.conn = conn
        self.key = (job.timing_partner_id, job.race_id)
        self.record: Race | None = None
        self.stored: races.StoredRace | None = None
        self.at: PastCheckpoint
        self.ledger: PastLedger
        self.history_id = 0
        self.race_stored = False
        self.asked_again = False
        self.doubted: object = None  # the place at which RunSignup answered wrongly or not at all
        self.hopeless = False  # no event of it can be read, though RunSignup answers otherwise
        self.open_quarantine = False
        self.begun = means.now()
        self.before = Progress(job.race_id)

    # -- the way of a race's past ----------------------------------------------------------------------------------

    async def run(self) -> PastOutcome:
        try:
            return await self._prepare() or await self._read()
        except psycopg.errors.ForeignKeyViolation:
            return self._removed()

    async def _read(self) -> PastOutcome:
        try:
            if self.at.events or await self._read_record():
                await self._read_feeds()
            return await self._settle()
        except psycopg.errors.ForeignKeyViolation:  # the partner or its key is gone
            raise
        except BudgetSpent as wait:
            return await self._put_off(wait, wait.seconds, wait.until)
        except Throttled as error:
            if self.job.throttled >= PATIENCE:
                return await self._fail("failed", error, keep=True)
            return await self._put_off(error, *await budget.pause_left(self.conn, self.job.credential_id))
        except PASSING as error:  # the next try goes on from the checkpoint
            return await self._fail("failed", error, keep=True)
        except RunSignupError as error:
            gone, refused = isinstance(error, RaceGone), isinstance(error, PermissionDenied)
            state = "gone" if gone else "refused" if refused else "failed"
            if gone:
                await races.mark_race_gone(self.conn, *self.key)
            outcome = await self._fail(state, error)
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
                return await self._fail("failed", shown, keep=True)
        except asyncio.CancelledError:
            await self._interrupted()
            raise

    async def _prepare(self) -> PastOutcome | None:
        """Look where the race stands, under the claim; an outcome when there is nothing to do any more."""
        conn, job = self.conn, self.job
        await stages.prepare(conn)
        closed = await history.close_interrupted(conn, *self.key, backfill=True)
        if closed:
            log.warning("backfill.interrupted", timing_partner_id=self.key[0], race_id=self.key[1], legs=closed)
        self.begun = await cursors.clock(conn)
        self.before = await backfill.load(conn, *self.key)
        self.stored = (await races.stored_races(conn, *self.key)).get(job.race_id)
        if due(self.before, self.stored, job.listed, job.options, self.means.now()) is None:
            return PastOutcome(self.before.state, self.before.reason, elsewhere=True)
        self.open_quarantine = await quarantine.open_records(conn, *self.key) > 0
        self.at = PastCheckpoint.of(self.before.checkpoint) or PastCheckpoint.begin([], None, self.begun)
        self.history_id = await history.open_pass(
            conn, run_id=self.means.run_id, timing_partner_id=self.key[0], credential_id=job.credential_id,
            race_id=self.key[1], event_ids=self.at.events, sync_type=Kind.BACKFILL, reason=job.reason,
        )  # fmt: skip
        self.ledger = PastLedger(conn, self.means, self.key, self.history_id, self.before.figures)
        self.ledger.progress = replace(self.before, state="reading", reason=None, finished_at=None)
        return None

    async def _read_record(self) -> bool:
        """Read the race with its events of all years; whether some of them are over and were not read yet."""
        self.record = self.job.record or await self.means.client.race(self.job.race_id)
        if not self.record.zone_known:
            log.warning("race.zone_unknown", race_id=self.job.race_id, used="America/New_York")
        listed = self.job.listed
        modified = listed.last_modified if listed is not None else self.record.last_modified
        current = {event.event_id for event in listed.events} if listed is not None else set()
        over = past_events(self.record.events, current, self.job.options, self.means.now())
        asked = self.before.event_ids | self.before.unread_event_ids
        said = self.before.reason if self.before.state == "partial" else None
        self.at = PastCheckpoint.begin([event for event in over if event not in asked], modified, self.begun, said)
        if self._may_be_stored:  # else with its first page
            await self._keep_place()
        return bool(self.at.events)

    async def _keep_place(self) -> None:
        """Store what was read of the race itself, and where it stands: the calls so far are not made again."""
        while True:
            with suppress(Overtaken):
                async with self.ledger.page():
                    await self._store_race()
                    await self.ledger.end_page(self.at, 0)
                return

    async def _read_feeds(self) -> None:
        while True:
            await self._let_syncs_pass()
            try:
                return await self._feeds().read()
            except Overtaken:
                log.info("backfill.overtaken", timing_partner_id=self.key[0], race_id=self.key[1])
            except EventsGone as error:
                if not await self._leave_gone_events() and not self._leave_out(error):
                    raise
                if not self.at.events:
                    return None
            except ONE_BY_ONE as error:
                if isinstance(error, PASSING) and await self._in_passing():
                    continue
                if not self._leave_out(error):
                    self.hopeless = not isinstance(error, NetworkError)
                    raise

    async def _in_passing(self) -> bool:
        """Whether to ask once more before an event is noted as unread; raises when RunSignup is away altogether."""
        place = self.at.doubtful()
        if place is None:
            return False
        await self.means.client.race(self.job.race_id)
        before, self.doubted = self.doubted, place
        return before != place

    def _leave_out(self, error: RunSignupError) -> bool:
        # Permission is the race's: where the newest event is refused as well, all of them are.
        return self.at.leave_out(str(error), patience=1 if isinstance(error, PermissionDenied) else EVENTS_TRIED)

    async def _let_syncs_pass(self) -> None:
        """While a sync reads the race, hold nothing that it waits for, and no page that would be stale after it."""
        while True:
            async with backfill.turn(self.means.database, self.conn, *self.key, wait_seconds=LONGEST_PAGE) as mine:
                if mine:
                    return

    def _feeds(self) -> Feeds:
        had = {e.event_id for e in (self.stored.events if self.stored else ()) if e.first_full_at is not None}
        scope = Scope(
            *self.key, asked=frozenset(self.at.events), quiet=frozenset(self.at.events) - had,
            race_is_new=not had, last_query=None,
        )  # fmt: skip
        return Feeds(
            self.ledger, self.means, scope, self.at, Cursor(),
            on_first_page=self._store_race, resolves=self.open_quarantine,
        )  # fmt: skip

    async def _leave_gone_events(self) -> bool:
        """Read the race once more and leave those events that it no longer has; False when it has them all."""
        if self.asked_again:
            return False
        self.asked_again = True
        self.record, self.race_stored = await self.means.client.race(self.job.race_id), False
        gone = set(self.at.events) - {event.event_id for event in self.record.events}
        if not gone:
            return False
        await races.mark_events_gone(self.conn, self.key[0], gone)
        log.warning("events.gone", race_id=self.key[1], event_ids=sorted(gone))
        self.at = self.at.without(gone)
        return True

    async def _store_race(self) -> None:
        """Store what was sent of the race itself, once for each time it was read."""
        if self.record is None or self.race_stored:
            return
        self.race_stored = True
        await races.store_races(self.conn, self.key[0], [(self.record, self.job.credential_id)], record=True)
        await self.ledger.set_aside(self.at, self.record.bad)

    @property
    def _may_be_stored(self) -> bool:
        """Whether the race is the partner's: known before, or listed to a credential that has proved itself."""
        return self.stored is not None or self.means.proof.is_set()

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _settle(self) -> PastOutcome:
        at = self.at
        if not self._may_be_stored:  # nobody has shown yet that the credential reaches this race
            await self._close("completed", NO_MORE)
            return PastOutcome("waiting", NO_MORE, self.ledger.figures, record=self.record)
        read = [event_id for event_id in at.events if event_id not in at.unread]
        while True:
            with suppress(Overtaken):
                async with self.ledger.page():
                    await self._store_race()
                    await races.mark_first_full(self.conn, self.key[0], read, if_stored=True)
                    state, reason = await self._verdict(read)
                    self.ledger.progress = replace(
                        self.ledger.progress,
                        state=state,
                        reason=reason,
                        record_modified=at.record_modified,
                        event_ids=self.before.event_ids | frozenset(read),
                        unread_event_ids=(self.before.unread_event_ids - frozenset(read)) | frozenset(at.unread),
                        checkpoint=None,
                    )
                    await self.ledger.save_progress()
                    await self._close("partial" if state == "partial" else "completed", reason)
                break
        return PastOutcome(state, reason, self.ledger.figures)

    async def _verdict(self, read: list[int]) -> tuple[str, str | None]:
        """The race's state now that all was asked, and what is to be said of it."""
        at = self.at
        said = [at.said] if at.said else []
        unread = self.before.unread_event_ids - set(read) - set(at.unread)
        if unread and not said:
            said.append(f"the registrations of event {_numbers(unread)} could not be read before")
        for feed, lost in (("registrations", at.unread), ("removed list", at.removals_unread)):
            for why in dict.fromkeys(lost.values()):
                events = [event_id for event_id, reason in lost.items() if reason == why]
                said.append(f"the {feed} of event {_numbers(events)} could not be read: {why}")
        if at.quarantined:
            said.append(f"{at.quarantined} records quarantined")
        if said:
            return "partial", "; ".join(said)
        if not at.events and not self.before.event_ids:
            return "empty", NO_MORE
        total = self.ledger.total()
        if not total.rows_received and not total.rows_removed:
            kept = await races.counted_rows(self.conn, self.key[0], read)
            stays = f"; the {kept} that are stored of it stay" if kept else ""
            return "empty", f"RunSignup has no registrations of its past{stays}"
        return "done", None

    async def _put_off(self, why: StartlistError, seconds: float, until: datetime) -> PastOutcome:
        """End this leg; what goes on later is another, from the checkpoint that is stored."""
        if self._may_be_stored:
            self.ledger.progress = await backfill.load(self.conn, *self.key)
            await self.ledger.save_progress()  # the calls since its last page
        await self._close("partial", None, why)
        record = None if self._may_be_stored else self.record
        return PastOutcome(
            "waiting", str(why), self.ledger.figures, wait=seconds, until=until, record=record, error=why
        )

    async def _fail(self, state: str, error: StartlistError, *, keep: bool = False) -> PastOutcome:
        """Note why the race could not be read; that it was refused notes who knows that the credential is good."""
        if self._may_be_stored:
            stands = await backfill.load(self.conn, *self.key)
            noted = "failed" if state == "refused" else state
            checkpoint = stands.checkpoint if keep else None
            self.ledger.progress = replace(stands, state=noted, reason=str(error), checkpoint=checkpoint)
            await self.ledger.save_progress()
        await self._close("failed", self.job.reason, error)
        return PastOutcome(state, str(error), self.ledger.figures, error=error, hopeless=self.hopeless)

    async def _close(self, status: str, reason: str | None, error: StartlistError | None = None) -> None:
        await self.ledger.save_figures()
        await history.close_pass(
            self.conn, self.history_id, status=status, sync_type=Kind.BACKFILL,
            reason="waiting" if status == "partial" and error is not None else self.job.reason,
            event_ids=self.at.events, error_code=error.code if isinstance(error, RunSignupError) else None,
            error_message=str(error) if error is not None else reason,
        )  # fmt: skip

    def _removed(self) -> PastOutcome:
        removed = CredentialRefused("the timing partner or its API key was removed meanwhile")
        return PastOutcome("failed", str(removed), error=removed)

    async def _interrupted(self) -> None:
        """Close the row if the connection still answers; otherwise the race's next holder does."""
        with suppress(psycopg.Error, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(2):
                await self.conn.rollback()
                await self.ledger.save_figures()
                await history.close_interrupted(self.conn, *self.key, backfill=True)


def _numbers(event_ids: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(event_ids)))
