"""The work of one credential: list its races, prove that it is what it says, then read them by their starts."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from startlist.errors import (
    BudgetSpent,
    CallerRefused,
    CredentialRefused,
    EventsGone,
    PermissionDenied,
    RaceGone,
    RequestRefused,
    RunSignupError,
    StartlistError,
    Throttled,
)
from startlist.runsignup import BadRecord, Race, RunSignup
from startlist.store import budget, cursors, history, partners, quarantine, races
from startlist.store.partners import Credential
from startlist.store.races import StoredRace
from startlist.sync.context import Context
from startlist.sync.job import Job, Means, Outcome
from startlist.sync.plan import Wanted, needs_record, wanted_events
from startlist.sync.race import PATIENCE, run_pass
from startlist.sync.summary import PartnerSummary, RaceSummary

log = structlog.get_logger()

TRIED_AGAIN_AFTER = timedelta(hours=1)  # a stopped credential


@dataclass(frozen=True, slots=True)
class Planned:
    """A race of the plan. `record`: why its own record is read first, if it is."""

    job: Job
    name: str | None
    known: bool
    wanted: Wanted
    record: str | None


class CredentialWork:
    """One credential in one run."""

    def __init__(self, context: Context, credential: Credential, summary: PartnerSummary) -> None:
        self.context = context
        self.credential = credential
        self.summary = summary
        self.proof = asyncio.Event()
        self.listed: dict[int, Race] = {}
        self.bad: list[BadRecord] = []  # records of the list that cannot be stored
        self.refusal: str | None = None  # why this credential is not used any more in this run
        self.mine: set[int] = set()  # races that no other credential of the partner reads
        self.planned: list[Planned] = []

    @property
    def key(self) -> tuple[int, int]:
        return self.credential.timing_partner_id, self.credential.credential_id

    # -- the list of races -----------------------------------------------------------------------------------------

    async def list_races(self) -> None:
        """Read the credential's race list; a refusal is kept and reported, the other credentials go on."""
        gate = self.context.gate(self.credential)
        client = self.context.client(self.credential, gate)
        try:
            if self.credential.stopped_at is not None and not await self._try_again(client):
                return None
            throttled = 0
            while True:
                try:
                    return await self._read_list(client)
                except BudgetSpent as wait:
                    await self._wait(wait.seconds, wait.until, str(wait))
                except Throttled as error:
                    throttled += 1
                    if throttled > PATIENCE:
                        raise
                    async with self.context.admin() as conn:
                        seconds, until = await budget.pause_left(conn, self.key[1])
                    await self._wait(seconds, until, str(error))
        except CallerRefused:
            raise
        except CredentialRefused as error:
            await self._stop(str(error))
        except RunSignupError as error:
            self._refuse(f"the race list could not be read: {error}")
        finally:
            self.summary.other_calls += gate.calls

    async def _read_list(self, client: RunSignup) -> None:
        self.listed.clear()
        self.bad.clear()
        async for page in client.races(start_date=self.context.options.list_from(self.context.now())):
            self.listed.update((race.race_id, race) for race in page.races)
            self.bad.extend(page.bad)
        log.info("races.listed", timing_partner_id=self.key[0], credential_id=self.key[1], races=len(self.listed))

    async def _try_again(self, client: RunSignup) -> bool:
        """Try a stopped credential with one call that needs its rights, at most once an hour."""
        credential = self.credential
        async with self.context.admin() as conn:
            last = await budget.last_call_at(conn, credential.credential_id)
            question = await history.last_asked(conn, credential.credential_id)
        because = f"stopped since {credential.stopped_at:%Y-%m-%d %H:%M} UTC: {credential.stopped_reason}"
        advice = f"give it the right secret: startlist partner rotate {credential.timing_partner_id}"
        if self.context.dry_run or (last is not None and self.context.now() - last < TRIED_AGAIN_AFTER):
            self._refuse(f"{because}; {advice}")
            return False
        try:
            if question is not None:
                race_id, event_ids = question
                async for _ in client.participants(
                    race_id, event_ids, modified_after=int(self.context.now().timestamp())
                ):
                    break
        except (CredentialRefused, PermissionDenied) as error:
            self._refuse(f"{because}; tried again: {error}; {advice}")
            return False
        except (RaceGone, EventsGone, RequestRefused):
            return True  # that race is no more; this says nothing of the credential
        if question is not None:
            async with self.context.admin() as conn:
                await partners.mark_verified(conn, credential)
        return True

    # -- the passes ------------------------------------------------------------------------------------------------

    def plan(self, stored: dict[int, StoredRace]) -> None:
        """Plan those of its races that have something to read, in order of their next start."""
        now, options = self.context.now(), self.context.options
        for race_id in sorted(self.mine):
            known, listed = stored.get(race_id), self.listed.get(race_id)
            wanted = wanted_events(known, [listed] if listed else [], options, now)
            record = needs_record(known, listed, wanted.next_start, now)
            if not wanted.event_ids and record is None and options.race_id is None:
                continue  # a race that the user named is answered for, even if it has no event any more
            name = listed.name if listed else known.name if known else None
            job = Job(*self.key, race_id, listed, options)
            self.planned.append(Planned(job, name, known is not None, wanted, record))
        self.planned.sort(key=lambda p: (not p.wanted.event_ids, p.wanted.next_start, p.job.race_id))

    async def run(self, others: list[CredentialWork]) -> None:
        """Read the planned races. Until one participants call succeeded, one after the other, known races first."""
        waiting = list(self.planned)
        while waiting and not self.proof.is_set() and not self.refusal:
            first = next((p for p in waiting if p.known and p.wanted.event_ids), waiting[0])
            waiting.remove(first)
            await self._one(first, others)
        if self.proof.is_set():
            await self._proved()
        async with asyncio.TaskGroup() as group:
            for _ in range(self.context.settings.concurrent_calls):
                group.create_task(self._rest(waiting, others))

    async def _rest(self, waiting: list[Planned], others: list[CredentialWork]) -> None:
        while waiting:
            await self._one(waiting.pop(0), others)

    async def _proved(self) -> None:
        """The credential may be believed: keep its list, but for races that store themselves.

        Those whose own record is still to be read, and those just read, who may know better than the list by now.
        """
        later = {p.job.race_id for p in self.planned if p.record is not None}
        later.update(race.race_id for race in self.summary.synced)
        keep = [
            (race, self.key[1])
            for race_id, race in sorted(self.listed.items())  # in one order, or two runs could lock each other out
            if race_id in self.mine and race_id not in later
        ]
        bad = self.bad + [record for race, _ in keep for record in race.bad]
        async with self.context.admin() as conn:
            began = await cursors.clock(conn)  # before the transaction, by whose beginning its rows are dated
            async with conn.transaction():
                await races.store_races(conn, self.key[0], keep)
                await quarantine.set_aside(conn, bad, timing_partner_id=self.key[0], race_id=None, sync_history_id=None)
                await quarantine.resolve_unseen(conn, self.key[0], None, ("races",), began)
                await partners.mark_verified(conn, self.credential)
        if bad:
            self.summary.errors.append(f"{len(bad)} records of the race list quarantined")

    async def _one(self, planned: Planned, others: list[CredentialWork]) -> None:
        context, race_id = self.context, planned.job.race_id
        outcome = await self._pass(planned.job)
        for other in others:
            if outcome is not None and not isinstance(outcome.error, PermissionDenied):
                break
            if not other.refusal and (race_id in other.listed or race_id not in self.listed):
                again = await other._pass(replace(planned.job, credential_id=other.key[1]))
                if again is not None:
                    if outcome is not None:
                        again.figures.add(outcome.figures)
                    outcome = again
        if outcome is None:
            return  # this credential is not used any more, which is reported once for all its races
        self.summary.races.append(RaceSummary(race_id, planned.name, outcome))
        context.progress.race_ended(self.key[0], race_id, outcome)

    async def _pass(self, job: Job) -> Outcome | None:
        """One race with this credential, over all its waits; None when the credential is refused."""
        began = time.monotonic()
        total: Outcome | None = None
        while not self.refusal:
            async with self.context.slots:
                outcome = await self._leg(job)
            if total is not None:
                outcome.figures.add(total.figures)
            total = outcome
            total.seconds = time.monotonic() - began
            if outcome.until is None:
                break
            await self._wait(outcome.wait, outcome.until, str(outcome.error))
            throttled = job.throttled + isinstance(outcome.error, Throttled)
            job = replace(job, resume=True, record=outcome.record, throttled=throttled)
        if total is not None and total.error is not None:
            await self._judge(total.error)
        return total

    async def _leg(self, job: Job) -> Outcome:
        context = self.context
        gate = context.gate(self.credential)
        means = Means(
            database=context.database,
            run_id=context.run_id,
            client=context.client(self.credential, gate),
            calls=lambda: gate.calls,
            now=context.now,
            on_page=lambda rows: context.progress.page_stored(job.timing_partner_id, job.race_id, rows),
            room=context.room,
            proof=self.proof,
        )
        try:
            return await run_pass(job, means)
        except StartlistError:
            self.summary.other_calls += gate.calls  # no outcome tells of them
            raise

    async def _wait(self, seconds: float, until: datetime, why: str) -> None:
        self.context.progress.waiting(*self.key, until, why)
        log.warning(
            "credential.waiting", timing_partner_id=self.key[0], credential_id=self.key[1], until=until, why=why
        )
        await self.context.sleep(max(seconds, 0.1))

    async def _judge(self, error: Exception) -> None:
        """Whether this error is the credential's: code 6, or three races that answered 7 with no success between."""
        if isinstance(error, CredentialRefused):
            await self._stop(str(error))
        elif isinstance(error, PermissionDenied) and not self.refusal:
            async with self.context.admin() as conn:
                refused = await budget.refused_races(conn, self.key[1])
            if budget.refusals_stop(refused, self.listed):
                await self._stop(
                    f"{len(refused)} races answered: permission denied; the key or its secret may be wrong"
                )

    async def _stop(self, reason: str) -> None:
        if self.refusal:
            return
        if not self.context.dry_run:
            async with self.context.admin() as conn:
                await partners.stop(conn, self.credential, reason)
        advice = f"give it the right secret: startlist partner rotate {self.key[0]}"
        self._refuse(f"stopped: {reason}; {advice}")

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self.summary.errors.append(f"API key {self.credential.principal}: {reason}")
        log.error("credential.refused", timing_partner_id=self.key[0], credential_id=self.key[1], reason=reason)
