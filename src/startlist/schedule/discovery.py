"""A timing partner's race lists: new races are stored once their credential is proved, and are due at once.

At the base time, and when a credential is listed for the first time, all its races are made due.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from startlist.errors import CallerRefused, StartlistError
from startlist.schedule.cadence import retry_delay
from startlist.schedule.crew import Crew
from startlist.schedule.daily import BASE, LISTINGS, latest, upcoming
from startlist.store import cursors, listings, races, schedule
from startlist.store.budget import Rank
from startlist.store.database import Connection
from startlist.store.listings import Listing
from startlist.store.partners import Credential
from startlist.store.races import StoredRace
from startlist.sync.context import Context
from startlist.sync.credential import TRIED_AGAIN_AFTER, owner_of
from startlist.sync.plan import Options, changed
from startlist.sync.summary import PartnerSummary
from startlist.sync.work import CredentialWork

log = structlog.get_logger()

TRIES = 4  # races asked for a proof: three refusals stop a credential
MARGIN = timedelta(seconds=5)  # after the hour in which a stopped credential is not tried again


class PutOff(Exception):
    """No call may be made now; nothing waits here for it."""

    def __init__(self, until: datetime) -> None:
        super().__init__(until)
        self.until = until


class Listed(CredentialWork):
    """One credential whose race list is read. `new` are races not stored before, `moved` those that changed."""

    def __init__(self, context: Context, options: Options, credential: Credential, summary: PartnerSummary) -> None:
        super().__init__(context, options, credential, summary, share=Rank.RACE_WEEK.share, patience=0)
        self.new: set[int] = set()
        self.moved: set[int] = set()

    async def wait(self, seconds: float, until: datetime, why: str) -> None:
        """Nobody waits in a job: it comes again when its time has come."""
        raise PutOff(until)

    def plan(self, stored: dict[int, StoredRace]) -> None:
        """Those that may prove the credential, known ones first; and what the list tells of others."""
        super().plan(stored)
        self.planned = [planned for planned in self.planned if planned.wanted.event_ids or planned.record]
        self.planned.sort(key=lambda planned: not (planned.known and planned.wanted.event_ids))
        for race_id in self.mine & set(self.listed):
            if race_id not in stored:
                self.new.add(race_id)
            elif changed(stored[race_id], self.listed[race_id], self.context.now()):
                self.moved.add(race_id)

    async def find_proof(self, others: list[Listed]) -> bool:
        """Ask until one answer shows its rights, then store the list; whether the credential may be believed."""
        waiting, self.planned = self.planned[:TRIES], []
        if any(planned.known for planned in waiting):
            await self.prove()
        for planned in waiting:
            if self.proof.is_set() or self.refusal:
                break
            await self._one(planned, list(others))
        if self.proof.is_set():
            await self._proved()
        return self.proof.is_set()


class PartnerTurn:
    """The reading of one partner's race lists."""

    def __init__(self, crew: Crew, timing_partner_id: int) -> None:
        self.crew = crew
        self.context = crew.context
        self.timing_partner_id = timing_partner_id
        self.options = Options(include_past_days=crew.rhythm.days_after)

    async def take(self) -> None:
        """Read the lists, store what is new, make races due, and plan the next reading."""
        async with self.context.admin() as conn:
            now = await cursors.clock(conn)
            own = await self.crew.credentials(conn, self.timing_partner_id)
            known = await listings.of_partner(conn, self.timing_partner_id)
        if not own:
            return
        summary = PartnerSummary(self.timing_partner_id, own[0].company_name)
        works = [Listed(self.context, self.options, credential, summary) for credential in own]
        try:
            await self._read(works, known, now)
        except CallerRefused as error:
            self.crew.give_up(error)
            await self._failed(works, known, now)
        except StartlistError as error:
            log.warning("list.failed", timing_partner_id=self.timing_partner_id, message=str(error))
            await self._failed(works, known, now)
        except Exception:  # the outermost loop: one partner's fault must not stop the others
            log.exception("list.failed", timing_partner_id=self.timing_partner_id)
            await self._failed(works, known, now)

    async def _read(self, works: list[Listed], known: dict[int, Listing], now: datetime) -> None:
        for work in list(works):
            try:
                await work.list_races()
            except PutOff as wait:  # this key's alone; the others go on
                await self._again(work, known, wait.until)
                works.remove(work)
        async with self.context.admin() as conn:
            stored = await races.stored_races(
                conn, self.timing_partner_id, ended_after=self.options.events_from(self.context.now())
            )
        usable = [work for work in works if not work.refusal]
        away = known.keys() - {work.key[1] for work in usable}  # theirs would prove nothing of another key
        kept = {race_id for race_id, race in stored.items() if race.credential_id not in away}
        if usable:
            for race_id in {race_id for work in usable for race_id in work.listed} | kept:
                owner_of(usable, race_id, stored).mine.add(race_id)
        for work in usable:
            work.plan(stored)
        for work in works:
            before = known.get(work.key[1], Listing(work.key[1], 0, None))
            try:
                proved = not work.refusal and await work.find_proof([other for other in usable if other is not work])
            except PutOff as wait:
                await self._again(work, known, wait.until)
                continue
            await self._store(work, before, now, proved=proved)

    async def _store(self, work: Listed, before: Listing, now: datetime, *, proved: bool) -> None:
        """What one credential's list leads to."""
        partner, days = self.timing_partner_id, self.crew.rhythm.days_after
        # Where all it lists is over, nothing can prove it; and nothing of it is wanted.
        nothing_to_ask = not work.refusal and not any(race.outcome.error for race in work.summary.races)
        base = before.base_at is None or before.base_at < latest(now, (BASE,), self.crew.zone)
        async with self.context.admin() as conn, conn.transaction():
            woken = 0
            if proved:
                moved = work.moved - {race.race_id for race in work.summary.synced}  # those have read their record
                if moved:
                    await schedule.record_unread(conn, partner, moved)
                    woken += await schedule.wake(conn, partner, moved, days, everything=True)
                await schedule.adopt(conn, days)
                woken += await schedule.wake(conn, partner, work.mine, days, everything=base)
            if proved or nothing_to_ask:
                await listings.plan(
                    conn, work.key[1], at=upcoming(now, LISTINGS, self.crew.zone), base=base
                )  # fmt: skip
            elif work.refusal and await self._is_stopped(conn, work):
                await listings.plan(conn, work.key[1], at=now + TRIED_AGAIN_AFTER + MARGIN)
            else:
                await self._plan_again(conn, before, now)
        log.info(
            "races.discovered", timing_partner_id=partner, credential_id=work.key[1], listed=len(work.listed),
            new=len(work.new) if proved else 0, due=woken, proved=proved,
        )  # fmt: skip

    async def _is_stopped(self, conn: Connection, work: Listed) -> bool:
        found = await self.crew.credentials(conn, self.timing_partner_id)
        return any(c.credential_id == work.key[1] and c.stopped_at is not None for c in found)

    async def _plan_again(self, conn: Connection, before: Listing, now: datetime) -> None:
        failures = before.failures + 1
        delay = retry_delay(failures, self.crew.jitter(), cap=self.crew.rhythm.retry_cap)
        at = min(now + timedelta(seconds=delay), upcoming(now, LISTINGS, self.crew.zone))
        await listings.plan(conn, before.credential_id, at=at, failures=failures)

    async def _failed(self, works: list[Listed], known: dict[int, Listing], now: datetime) -> None:
        async with self.context.admin() as conn:
            for work in works:
                await self._plan_again(conn, known.get(work.key[1], Listing(work.key[1], 0, None)), now)

    async def _again(self, work: Listed, known: dict[int, Listing], until: datetime) -> None:
        failures = known[work.key[1]].failures if work.key[1] in known else 0
        async with self.context.admin() as conn:
            await listings.plan(conn, work.key[1], at=until, failures=failures)
        log.info(
            "list.waiting", timing_partner_id=work.key[0], credential_id=work.key[1], until=until.isoformat()
        )  # fmt: skip
