"""One turn of one race in the schedule: see whether it is due, have it read, plan its next turn in the database."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from startlist.errors import CallerRefused, CredentialRefused, DatabaseError, PermissionDenied, Retry, StartlistError
from startlist.schedule.cadence import CALLS_OF_A_PASS
from startlist.schedule.crew import Crew
from startlist.schedule.decision import (
    AFFORDED,
    FURTHEST,
    PAGE_ROWS,
    Ended,
    asks_of,
    cadence_of,
    distrusted,
    full_every,
    next_turn,
    share_of,
    undated_events,
)
from startlist.store import budget, cursors, races, schedule
from startlist.store.budget import Rank
from startlist.store.database import Connection
from startlist.store.partners import Credential
from startlist.store.races import StoredRace
from startlist.store.schedule import Standing
from startlist.sync.credential import CredentialInUse
from startlist.sync.job import Job, Outcome
from startlist.sync.plan import Options, counts, estimated_calls, suspicion_retry_at
from startlist.sync.race import run_pass

log = structlog.get_logger()


@dataclass(slots=True)
class Told:
    """What a turn has to say of a credential goes to the log only."""

    errors: list[str]
    other_calls: int = 0


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known before a pass. `share` is that of the hour's calls, `full_calls` are those of a full pass.

    `silent`: the key's incremental passes are known not to show every bib. `borrowed`: the race's own key is stopped.
    """

    standing: Standing
    credentials: list[Credential]
    options: Options
    share: float
    stretch: float
    full_calls: int
    silent: bool
    borrowed: bool


class RaceTurn:
    """A race's turn; nothing of it is kept but what stands in the database."""

    def __init__(self, crew: Crew, timing_partner_id: int, race_id: int) -> None:
        self.crew = crew
        self.context = crew.context
        self.key = (timing_partner_id, race_id)

    async def take(self) -> None:
        """Read the race if it is due, and plan its next turn. Cancelled, it stays due."""
        found: _Plan | None = None
        outcome: Outcome | None = None
        try:
            found = await self._prepare()
            if found is None:
                return
            outcome = await self._read(found)
        except CallerRefused as error:
            self.crew.give_up(error)
        except StartlistError as error:  # of the database, most likely
            log.warning("race.failed", timing_partner_id=self.key[0], race_id=self.key[1], message=str(error))
        except Exception:  # the outermost loop around a pass: one race's fault must not stop the others
            log.exception("race.failed", timing_partner_id=self.key[0], race_id=self.key[1])
        await self._plan(outcome, found)

    # -- before ----------------------------------------------------------------------------------------------------

    async def _prepare(self) -> _Plan | None:
        """What is to be done now; None when there is nothing to do, or no call may be made yet."""
        async with self.context.admin() as conn:
            standing = await schedule.standing(conn, *self.key)
            if standing is None or not standing.due:
                return None
            stored = await self._stored(conn, standing.now)
            if stored is None or stored.gone_at is not None:
                await schedule.plan(conn, *self.key, at=None)
                return None
            cadence, now = cadence_of(self.key[0], stored, self.crew.rhythm), standing.now
            undated = undated_events(stored)
            period = cadence.period(now)
            if period is None and not undated and stored.has_events:
                await schedule.plan(conn, *self.key, at=None)
                return None
            credentials = await self._usable(conn, stored)
            if not credentials:
                return None  # it stays due until there is one
            stretch = await self.crew.stretch(conn, credentials[0])
            rank = cadence.rank(now)
            share = share_of(rank, now, standing.completed_at, period, stretch, self.crew.rhythm)
            longer = cadence.stretched(now, stretch)
            if await self._waits_in_line(conn, credentials[0], share, rank, period, longer, standing):
                return None
            days = self.crew.rhythm.days_after
            wanted = [e.event_id for e in stored.events if e.gone_at is None and counts(e, days, now, listed=True)]
            rows = await races.counted_rows(conn, self.key[0], wanted)
            large = rows >= PAGE_ROWS
            full_calls = estimated_calls(rows, len(wanted))
            affords = not large or full_calls <= AFFORDED * await budget.calls_left(conn, credentials[0], share)
            silent = distrusted(credentials[0].silent_bibs_at, now)
            borrowed = stored.credential_id not in (None, credentials[0].credential_id)
        options = Options(
            include_past_days=days,
            full_every=full_every(cadence, now, large=large, affords=affords, silent=silent, stretch=stretch),
            # Whether RunSignup still lists an event without a start is seen in the record only.
            record_every=timedelta() if undated or not stored.has_events else cadence.record_every(now, stretch),
        )
        return _Plan(standing, credentials, options, share, stretch, full_calls, silent, borrowed)

    async def _waits_in_line(
        self, conn: Connection, credential: Credential, share: float, rank: Rank, period: float | None, stretch: float,
        standing: Standing,
    ) -> bool:  # fmt: skip
        """Whether no call is left for it yet: then it comes again when its own is free, behind those who came before.

        Each gets the moment of its own call, so that nobody overtakes and nobody comes in vain.
        """
        before = await schedule.ahead(conn, *self.key, credential.credential_id, rank, standing.waits_since)
        until = await budget.free_at(conn, credential, share, ahead=before)
        if until is None:
            await schedule.leave_line(conn, *self.key)
            return False
        await schedule.plan(
            conn, *self.key, at=until, rank=rank, period=period, stretch=stretch, failures=standing.failures,
            waits_since=standing.waits_since,
        )  # fmt: skip
        log.info("race.waiting", timing_partner_id=self.key[0], race_id=self.key[1], until=until.isoformat())
        return True

    async def _usable(self, conn: Connection, stored: StoredRace) -> list[Credential]:
        """The partner's credentials that are not stopped, the one that reads this race first."""
        found = [c for c in await self.crew.credentials(conn, self.key[0]) if c.stopped_at is None]
        return sorted(found, key=lambda credential: credential.credential_id != stored.credential_id)

    async def _stored(self, conn: Connection, now: datetime) -> StoredRace | None:
        since = now - timedelta(days=self.crew.rhythm.days_after + 2)
        return (await races.stored_races(conn, *self.key, ended_after=since)).get(self.key[1])

    # -- the pass --------------------------------------------------------------------------------------------------

    async def _read(self, found: _Plan) -> Outcome:
        """With its own credential; on a refusal once with each other one that the partner has."""
        partner, race_id = self.key
        outcome: Outcome | None = None
        for credential in found.credentials:
            with_it = CredentialInUse(
                self.context, credential, Told([]),
                list_from=found.standing.now.date(), share=found.share, patience=0,
            )  # fmt: skip
            job = Job(
                partner, credential.credential_id, race_id, None, found.options, resume=found.standing.waited
            )  # fmt: skip
            outcome = await run_pass(job, with_it.means(race_id))
            if outcome.error is not None:
                await with_it.judge(outcome.error, await self._others(credential, outcome.error))
            if not isinstance(outcome.error, PermissionDenied):
                if outcome.error is None and credential is not found.credentials[0]:
                    async with self.context.admin() as conn:
                        await schedule.use_credential(conn, *self.key, credential.credential_id)
                break
        assert outcome is not None  # noqa: S101  # there is a credential
        return outcome

    async def _others(self, credential: Credential, error: StartlistError) -> Collection[int]:
        """The races that a refused credential reads."""
        if not isinstance(error, PermissionDenied):
            return ()
        async with self.context.admin() as conn:
            return await schedule.races_of(conn, credential.credential_id)

    # -- after -----------------------------------------------------------------------------------------------------

    async def _plan(self, outcome: Outcome | None, found: _Plan | None) -> None:
        """Plan the next turn from what is stored now: the pass may have moved a start."""
        stretch = found.stretch if found else 1.0
        async with self.context.admin() as conn, conn.transaction():
            standing = await schedule.standing(conn, *self.key, lock=True)
            if standing is None:
                return  # the partner was removed
            stored = await self._stored(conn, standing.now)
            if stored is None or stored.gone_at is not None:
                await schedule.plan(conn, *self.key, at=None)
                return
            if outcome is not None and isinstance(outcome.error, CredentialRefused):
                return  # due, until its credential is accepted again or there is another one
            failed = outcome is None or outcome.status == "failed"
            failures = standing.failures + 1 if failed else 0
            read = outcome is not None and outcome.until is None and outcome.status in ("completed", "partial")
            # Whether RunSignup lists an event without a start is known only once the race was read.
            undated = {event.event_id for event in undated_events(stored)}
            cadence = cadence_of(
                self.key[0], stored, self.crew.rhythm,
                listed=outcome.event_ids if outcome is not None and read else undated, read=read,
            )  # fmt: skip
            ended = _ended(outcome, borrowed=found is not None and found.borrowed)
            due = next_turn(cadence, standing.now, ended, failures, self.crew.jitter(), stretch)
            if due is None:
                await schedule.plan(conn, *self.key, at=None, failures=failures)
                return
            at = due.at
            cursor = await cursors.load_cursor(conn, *self.key)
            if cursor.suspicion is not None and not failed:
                again = suspicion_retry_at(cursor.suspicion, FURTHEST)
                at = min(at, again) if again > standing.now else at
            await schedule.plan(
                conn, *self.key, at=at, rank=due.rank, period=due.period,
                stretch=cadence.stretched(due.at, stretch), failures=failures, read=read,
                # Who is put off on the way keeps its place in line.
                waits_since=found.standing.waits_since if found and outcome and outcome.until else None,
            )  # fmt: skip
            full_calls, silent = (found.full_calls, found.silent) if found else (CALLS_OF_A_PASS, False)
            asks = asks_of(cadence, standing.now, due.at, full_calls=full_calls, silent=silent)
            await schedule.note_asked(conn, *self.key, asks)


def _ended(outcome: Outcome | None, *, borrowed: bool) -> Ended:
    if outcome is None:
        return Ended(try_again=True)
    failed = outcome.status == "failed" and isinstance(outcome.error, Retry | DatabaseError)
    return Ended(
        try_again=failed, until=outcome.until, held=outcome.status == "skipped",
        borrowed=borrowed and isinstance(outcome.error, PermissionDenied),
    )  # fmt: skip
