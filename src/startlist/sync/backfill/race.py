"""The past of one race: its record, then page by page what is over; a sync that wants the race gets it in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

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

STUMBLES = (NetworkError, ServerError, BadAnswer)  # may be cured by asking later
REFUSALS = (PermissionDenied, RequestRefused)  # would be answered likewise
OVERTAKEN_TOO_OFTEN, UNTIL_QUIETER = 5, timedelta(minutes=1)
NO_MORE = "no event of it is over"
RECORD = "past-race"  # a race's own record as a backfill reads it, with the events of all years


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
        self.stumble: RunSignupError | None = None  # the last one over some of its events
        self.answered = False  # though it stumbled over some of its events, RunSignup answers otherwise
        self.resumed = False
        self.open_quarantine = False
        self.begun = means.now()
        self.before = Progress(job.race_id)

    # -- the way of a race's past ----------------------------------------------------------------------------------

    async def run(self) -> PastOutcome:
        try:
            return await self._prepare() or await self._read()
        except psycopg.errors.ForeignKeyViolation:
            return self._removed()
        except asyncio.CancelledError:
            await self._interrupted()
            raise

    async def _read(self) -> PastOutcome:
        try:
            if self.at.events or await self._read_record():
                await self._read_feeds()
                await self._confirm_refusals()
            return await self._settle()
        except psycopg.errors.ForeignKeyViolation:  # which other faults of the database are not: see run()
            raise
        except BudgetSpent as wait:
            return await self._put_off(wait, wait.seconds, wait.until)
        except Throttled as error:
            if self.job.throttled >= PATIENCE:
                return await self._fail("failed", error, keep=True)
            return await self._put_off(error, *await budget.pause_left(self.conn, self.job.credential_id))
        except STUMBLES as error:  # the next try goes on from the checkpoint
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
        found = PastCheckpoint.of(self.before.checkpoint)
        self.resumed = found is not None
        self.at = found or PastCheckpoint.begin([], None, self.begun)
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
            await self.ledger.write_down(self._keep_place)
        return bool(self.at.events)

    async def _keep_place(self) -> None:
        """Store what was read of the race itself, and where it stands: the calls so far are not made again."""
        await self._store_race()
        await self.ledger.end_page(self.at, 0)

    async def _read_feeds(self) -> None:
        overtaken = 0
        while self.at.events:
            if self.at.feed != "participants" and not self._may_be_stored:
                return  # all its events were refused, and only they could have shown whose race it is
            await self._let_syncs_pass()
            received = self.ledger.figures.rows_received
            try:
                await self._feeds().read()
                break
            except Overtaken:
                overtaken = overtaken + 1 if self.ledger.figures.rows_received == received else 1
                log.info("backfill.overtaken", timing_partner_id=self.key[0], race_id=self.key[1])
                if overtaken >= OVERTAKEN_TOO_OFTEN:
                    said = "syncs read the same events of the race all the time"
                    until = self.means.now() + UNTIL_QUIETER
                    raise BudgetSpent(said, until=until, seconds=UNTIL_QUIETER.total_seconds()) from None
            except EventsGone as error:
                if not await self._leave_gone_events():
                    self.at.leave_out(str(error), final=True)
            except REFUSALS as error:
                self.at.denied = self.at.denied or isinstance(error, PermissionDenied)
                if not self.at.leave_out(str(error), final=True, whole_race=isinstance(error, PermissionDenied)):
                    raise
            except STUMBLES as error:
                self.stumble = error
                if self.at.asks_one:  # is it this event, or is RunSignup away altogether?
                    self.answered = False
                    await self.means.client.race(self.job.race_id)
                    self.answered = True
                if not self.at.leave_out(str(error), final=False):
                    raise

    async def _confirm_refusals(self) -> None:
        """Before a part of the race counts as refused for good: whether the credential still reads another part."""
        at = self.at
        if at.denied:
            readable = [event_id for event_id in at.events if event_id not in at.unread]
            if not readable:
                raise PermissionDenied(_reasons(at.unread | at.removals_unread))
            since = int(self.means.now().timestamp())
            async for _ in self.means.client.participants(self.job.race_id, readable[:1], modified_after=since):
                break

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
        current = {event.event_id for event in self.job.listed.events} if self.job.listed is not None else set()
        over = past_events(self.record.events, current, replace(self.job.options, since=None), self.means.now())
        await races.store_past(self.conn, self.key[0], self.record, self.job.credential_id, over)
        bad = [replace(record, endpoint=RECORD) for record in self.record.bad]
        await self.ledger.set_aside(self.at, bad)
        await quarantine.resolve_unseen(self.conn, *self.key, (RECORD,), self.begun)

    @property
    def _may_be_stored(self) -> bool:
        """Whether the race is the partner's: known before, or listed to a credential that has proved itself."""
        return self.stored is not None or self.means.proof.is_set()

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _settle(self) -> PastOutcome:
        at = self.at
        if not self._may_be_stored:  # nobody has shown yet that the credential reaches this race
            lost = at.unread | at.later
            said = f"the registrations of event {_numbers(lost)} could not be read: {_reasons(lost)}"
            await self._close("failed" if lost else "completed", said if lost else NO_MORE)
            return PastOutcome("waiting", said if lost else NO_MORE, self.ledger.figures, record=self.record)
        read = [event_id for event_id in at.events if event_id not in at.unread and event_id not in at.later]
        await self.ledger.write_down(lambda: self._store_end(read))
        progress = self.ledger.progress
        error = self.stumble if at.later else None
        return PastOutcome(
            progress.state, progress.reason, self.ledger.figures, error=error, resumed=self.resumed,
            answered=self.answered,
        )  # fmt: skip

    async def _store_end(self, read: list[int]) -> None:
        at = self.at
        refused = frozenset(at.unread) | frozenset(at.removals_unread)
        known = frozenset(read) - refused
        await self._store_race()
        await races.mark_first_full(self.conn, self.key[0], read, if_stored=True)
        await quarantine.resolve_unseen_of_events(self.conn, *self.key, read, at.begun, backfill=True)
        state, reason = await self._verdict(read)
        self.ledger.progress = replace(
            self.ledger.progress,
            state=state,
            reason=reason,
            record_modified=at.record_modified,
            event_ids=self.before.event_ids | known,
            unread_event_ids=(self.before.unread_event_ids - known) | refused,
            checkpoint=None,
        )
        await self.ledger.save_progress()
        await self._close({"partial": "partial", "failed": "failed"}.get(state, "completed"), reason)

    async def _verdict(self, read: list[int]) -> tuple[str, str | None]:
        """The race's state now that all was asked, and what is to be said of it."""
        at = self.at
        said = [at.said] if at.said else []
        unread = self.before.unread_event_ids - set(read) - set(at.unread)
        if unread and not said:
            said.append(f"the registrations of event {_numbers(unread)} could not be read before")
        for what, lost in (("registrations", at.unread), ("removed list", at.removals_unread), ("rest", at.later)):
            for why in dict.fromkeys(lost.values()):
                events = [event_id for event_id, reason in lost.items() if reason == why]
                said.append(f"the {what} of event {_numbers(events)} could not be read: {why}")
        said += [
            f"event {event_id} came without {', '.join(sorted(keys))}"
            for event_id, keys in sorted(at.lacking.items())
            if keys
        ]
        if at.quarantined:
            said.append(f"{at.quarantined} records quarantined")
        if at.later:
            return "failed", "; ".join(said)
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
        return PastOutcome(state, str(error), self.ledger.figures, error=error, answered=self.answered)

    async def _close(self, status: str, reason: str | None, error: StartlistError | None = None) -> None:
        await self.ledger.save_figures()
        await history.close_pass(
            self.conn, self.history_id, status=status, sync_type=Kind.BACKFILL,
            reason="waiting" if status == "partial" and error is not None else self.job.reason,
            event_ids=self.at.events, error_code=error.code if isinstance(error, RunSignupError) else None,
            error_message=str(error) if error is not None else reason,
        )  # fmt: skip

    def _removed(self) -> PastOutcome:
        removed = CredentialRemoved("the timing partner or its API key was removed meanwhile")
        return PastOutcome("failed", str(removed), error=removed)

    async def _interrupted(self) -> None:
        """Close the row if the connection still answers; otherwise the race's next holder does."""
        with suppress(psycopg.Error, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(2):
                await self.conn.rollback()
                if self.history_id:
                    await self.ledger.save_figures()
                await history.close_interrupted(self.conn, *self.key, backfill=True)


def _reasons(lost: Mapping[int, str]) -> str:
    return "; ".join(dict.fromkeys(lost.values()))


def _numbers(event_ids: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(event_ids)))
