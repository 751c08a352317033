"""The work of one credential in a sync: read its races by their starts, once it is proved that it is what it says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from startlist.store import cursors, partners, quarantine, races
from startlist.store.partners import Credential
from startlist.store.races import StoredRace
from startlist.sync.context import Context
from startlist.sync.credential import CredentialInUse, read_by_one
from startlist.sync.gate import LONGEST_WAIT
from startlist.sync.job import Job, Outcome
from startlist.sync.plan import Options, Wanted, needs_record, wanted_events
from startlist.sync.race import run_pass
from startlist.sync.summary import PartnerSummary, RaceSummary


@dataclass(frozen=True, slots=True)
class Planned:
    """A race of the plan. `record`: why its own record is read first, if it is."""

    job: Job
    name: str | None
    known: bool
    wanted: Wanted
    record: str | None


class CredentialWork(CredentialInUse):
    """One credential in one sync."""

    def __init__(
        self,
        context: Context,
        options: Options,
        credential: Credential,
        summary: PartnerSummary,
        *,
        share: float = 1.0,
        patience: float = LONGEST_WAIT,
    ) -> None:
        list_from = options.list_from(context.now())
        super().__init__(context, credential, summary, list_from=list_from, share=share, patience=patience)
        self.options = options
        self.summary = summary
        self.planned: list[Planned] = []

    # -- the passes ------------------------------------------------------------------------------------------------

    def plan(self, stored: dict[int, StoredRace]) -> None:
        """Plan those of its races that have something to read, in order of their next start."""
        now, options = self.context.now(), self.options
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
                await partners.note_listed(conn, self.key[1])
        if bad:
            self.summary.errors.append(f"{len(bad)} records of the race list quarantined")

    async def _one(self, planned: Planned, others: list[CredentialWork]) -> None:
        job = planned.job
        outcome = await read_by_one([self, *others], job.race_id, lambda work: work._pass(job))
        if outcome is None:
            return  # this credential is not used any more, which is reported once for all its races
        self.summary.races.append(RaceSummary(job.race_id, planned.name, outcome))
        self.context.progress.race_ended(self.key[0], job.race_id, outcome)

    async def _pass(self, job: Job) -> Outcome | None:
        def go_on(job: Job, outcome: Outcome, throttled: int) -> Job:
            return replace(job, resume=True, record=outcome.record, throttled=throttled)

        return await self.over_waits(replace(job, credential_id=self.key[1]), run_pass, go_on)
