"""The work of one credential in a backfill: its races' past, the newest first, once it is proved what it is."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from startlist.store import backfill, cursors, partners, quarantine, races
from startlist.store.backfill import Progress
from startlist.store.history import Figures
from startlist.store.partners import Credential
from startlist.store.races import StoredRace
from startlist.sync.backfill.job import PastJob, PastOutcome
from startlist.sync.backfill.plan import SHARE, Options, due, newest_past, past_events
from startlist.sync.backfill.progress import BackfillProgress
from startlist.sync.backfill.race import NO_MORE, STUMBLES, read_past
from startlist.sync.backfill.summary import AMISS, PartnerPast, PastSummary
from startlist.sync.context import Context
from startlist.sync.credential import CredentialInUse, read_by_one

log = structlog.get_logger()

TRIES = 3  # of a race whose reading RunSignup or the network breaks off
TRIES_OF_EVENTS = 2  # where it stumbles over some events only, which waiting hardly cures
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 900.0  # seconds, when one race after the other is broken off
REFUSALS_BELIEVED = 3  # without asking what RunSignup answered before
LIST = "past-races"  # the race list as a backfill reads it, far beyond the sync's


@dataclass(slots=True)
class Planned:
    """A race in the queue. `tried`: how often its reading was broken off; `figures`: of what was read until then."""

    job: PastJob
    name: str | None
    known: bool
    tried: int = 0
    figures: Figures | None = None

    @property
    def untouched(self) -> bool:
        """Whether this run has read nothing of it."""
        return self.figures is None or not self.figures.api_calls


class PastWork(CredentialInUse):
    """One credential in one backfill."""

    def __init__(
        self, context: Context, options: Options, credential: Credential, partner: PartnerPast, told: BackfillProgress
    ) -> None:
        hours = None if context.dry_run else options.between  # a question or two are answered at any hour
        super().__init__(context, credential, partner, list_from=options.list_from, share=SHARE, hours=hours)
        self.options = options
        self.partner = partner
        self.progress = told
        self.queue: deque[Planned] = deque()
        self.held: list[Planned] = []  # by another backfill
        self.unproved: list[tuple[Planned, PastOutcome]] = []  # nothing of them is over, and nobody is proved
        self.early: list[tuple[int, PastOutcome]] = []  # gone or failed before it was known whether to note that
        self.refused: list[tuple[Planned, PastOutcome]] = []  # until it is known that the credential is not to blame
        self._noted = False  # that it is proved
        self._broken_off = 0  # one after the other

    def plan(self, stored: dict[int, StoredRace], progress: dict[int, Progress]) -> None:
        """Queue those of its races that are to be read, the newest past first; count the others."""
        now, options, found = self.context.now(), self.options, []
        for race_id in sorted(self.mine):
            known, listed = stored.get(race_id), self.listed.get(race_id)
            before = progress.get(race_id, Progress(race_id))
            begun = race_id in progress and not before.finished
            unlisted = options.since is not None and listed is None and not begun
            if unlisted and known is not None and not past_events(known.events, (), options, now):
                continue  # RunSignup does not list it for this time, and nothing of it is known to lie in it
            reason = due(before, known, listed, options, now)
            if reason is None:
                self.partner.finished_before += 1
                self.partner.left_alone += before.state in AMISS
                continue
            name = listed.name if listed else known.name if known else None
            job = PastJob(*self.key, race_id, listed, options, reason)
            found.append((newest_past(known, listed, now), race_id, Planned(job, name, known is not None)))
        found.sort(key=lambda one: one[:2], reverse=True)
        self.queue.extend(planned for _, _, planned in found)

    async def run(self, others: list[PastWork]) -> None:
        """Read the queue, then once more what another backfill had at first."""
        await self._read_queue(others)
        self.queue.extend(self.held)  # whoever had them may have died
        self.held.clear()
        if self.unproved and not self.proof.is_set():
            await self.prove()
        await self._read_queue(others)
        await self._judge_refusals(last=True)
        for planned in self.held:
            self._ended(planned, PastOutcome("held", "another backfill reads this race"))
        for planned, outcome in self.unproved:
            outcome.state = "empty" if outcome.reason == NO_MORE else "failed"  # which a later run may ask again
            self._ended(planned, outcome)

    async def _read_queue(self, others: list[PastWork]) -> None:
        """Until one participants call succeeded, one race after the other, known ones first; then several at once."""
        while self.queue and not self.proof.is_set() and not self.refusal:
            first = next((planned for planned in self.queue if planned.known), self.queue[0])
            self.queue.remove(first)
            await self._one(first, others)
        if self.proof.is_set() and not self._noted:
            await self._proved()
        async with asyncio.TaskGroup() as group:
            for _ in range(self.context.settings.concurrent_calls):
                group.create_task(self._rest(others))

    async def _rest(self, others: list[PastWork]) -> None:
        while self.queue:
            await self._one(self.queue.popleft(), others)

    async def _proved(self) -> None:
        """The credential may be believed: its races are the partner's, and what it was refused was refused."""
        self._noted = True
        bad = [replace(record, endpoint=LIST) for record in self.bad]
        async with self.context.admin() as conn:
            began = await cursors.clock(conn)
            async with conn.transaction():
                await backfill.expect(conn, self.key[0], [planned.job.race_id for planned in self.queue])
                for race_id, outcome in self.early:
                    await backfill.note(conn, self.key[0], race_id, outcome.state, outcome.reason or "")
                await quarantine.set_aside(conn, bad, timing_partner_id=self.key[0], race_id=None, sync_history_id=None)
                if self.options.since is None:  # a shorter list does not show what is wrong in the longer one
                    await quarantine.resolve_unseen(conn, self.key[0], None, (LIST,), began)
                await partners.mark_verified(conn, self.credential)
        if bad:
            self.partner.errors.append(f"{len(bad)} records of the race list quarantined")
        unproved, self.unproved = self.unproved, []
        for planned, outcome in unproved:
            planned.job = replace(planned.job, record=outcome.record)
            self.queue.append(planned)

    async def _one(self, planned: Planned, others: list[PastWork]) -> None:
        job = planned.job
        outcome = await read_by_one([self, *others], job.race_id, lambda work: work._read(job))
        if outcome is None:  # this credential is not used any more, which is reported once for all its races
            self.partner.other_calls += planned.figures.api_calls if planned.figures else 0
            return
        if planned.figures is not None:
            outcome.figures.add(planned.figures)
        planned.figures = outcome.figures
        if outcome.state == "held":
            self.held.append(planned)
        elif outcome.state == "waiting" and outcome.until is None:
            self.unproved.append((planned, outcome))
        elif outcome.state == "refused":
            self.refused.append((planned, outcome))
            if not self.proof.is_set() or len(self.refused) >= REFUSALS_BELIEVED:
                await self._judge_refusals()
        elif isinstance(outcome.error, STUMBLES) and planned.tried + 1 < (
            TRIES_OF_EVENTS if outcome.answered else TRIES
        ):
            planned.tried += 1
            self.queue.append(planned)
            if not outcome.answered:
                await self._stumble(str(outcome.error))
        elif outcome.resumed and (reason := await self._left_over(job)) is not None:
            planned.job = replace(job, reason=reason)  # what an earlier run had begun was less than this one wants
            self.queue.append(planned)
        else:
            if not planned.known and not self.proof.is_set() and outcome.state in ("gone", "failed"):
                self.early.append((job.race_id, outcome))
            self._ended(planned, outcome)

    async def _left_over(self, job: PastJob) -> str | None:
        async with self.context.admin() as conn:
            progress = await backfill.load(conn, self.key[0], job.race_id)
            stored = (await races.stored_races(conn, self.key[0], job.race_id)).get(job.race_id)
        return due(progress, stored, job.listed, self.options, self.context.now()) if progress.finished else None

    async def _judge_refusals(self, *, last: bool = False) -> None:
        """Note races as refused if RunSignup still answers this credential; else its key or secret is to blame.

        Where nothing is known that it answered before, a later race may tell, until the `last`.
        """
        pending, self.refused = self.refused, []
        if not pending:
            return
        accepted = await self.prove()
        if accepted is None and not last:
            self.refused.extend(pending)
            return
        for planned, outcome in pending:
            if accepted:
                async with self.context.admin() as conn:
                    await backfill.note(conn, self.key[0], planned.job.race_id, "refused", outcome.reason or "")
            else:
                outcome.state = "failed"
            self._ended(planned, outcome)
        if accepted is False and not self.refusal:
            self.refuse(
                "RunSignup refuses now what it answered before; is the key or its secret still good?"
                f" startlist partner check {self.key[0]}"
            )

    async def _stumble(self, why: str) -> None:
        """When one race after the other is broken off, RunSignup or the network is away: wait, longer each time."""
        self._broken_off += 1
        if self._broken_off > 1:
            seconds = min(FIRST_PAUSE * 2 ** (self._broken_off - 2), LONGEST_PAUSE)
            await self.wait(seconds, self.context.now() + timedelta(seconds=seconds), why)

    def _ended(self, planned: Planned, outcome: PastOutcome) -> None:
        job, figures = planned.job, outcome.figures
        self.progress.past_ended(self.key[0], job.race_id, outcome)
        if outcome.elsewhere and planned.untouched:
            self.partner.finished_before += 1
            self.partner.left_alone += outcome.state in AMISS
            return
        self.partner.races.append(PastSummary(job.race_id, planned.name, outcome))
        level = log.info if outcome.state not in AMISS else log.warning
        level(
            "backfill.race", timing_partner_id=self.key[0], race_id=job.race_id, state=outcome.state,
            received=figures.rows_received, added=figures.rows_inserted, updated=figures.rows_updated,
            removed=figures.rows_removed, calls=figures.api_calls, calls_left=self.calls_left,
            seconds=round(outcome.seconds, 1),
            **({"message": outcome.reason} if outcome.reason else {}),
        )  # fmt: skip

    async def _read(self, job: PastJob) -> PastOutcome | None:
        def go_on(job: PastJob, outcome: PastOutcome, throttled: int) -> PastJob:
            return replace(job, reason="going on after a wait", record=outcome.record, throttled=throttled)

        outcome = await self.over_waits(replace(job, credential_id=self.key[1]), read_past, go_on)
        if outcome is not None and outcome.error is None:
            self._broken_off = 0
        return outcome
