"""One credential in one run, whatever the run reads with it: its race list, its waits, its proof, its stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog

from startlist.errors import (
    BudgetSpent,
    CallerRefused,
    ConfigurationError,
    CredentialRefused,
    CredentialRemoved,
    DatabaseError,
    EventsGone,
    PermissionDenied,
    RaceGone,
    RequestRefused,
    RunSignupError,
    StartlistError,
    Throttled,
)
from startlist.runsignup import BadRecord, Race, RunSignup
from startlist.store import budget, history, partners
from startlist.store.history import Figures
from startlist.store.partners import Credential
from startlist.store.races import StoredRace
from startlist.store.sealing import open_key_ring
from startlist.sync.context import Context
from startlist.sync.gate import LONGEST_WAIT, BudgetGate, Hours
from startlist.sync.job import Means
from startlist.sync.race import PATIENCE

log = structlog.get_logger()

TRIED_AGAIN_AFTER = timedelta(hours=1)  # a stopped credential


class Told(Protocol):
    """Where a run writes down what concerns a whole partner."""

    errors: list[str]
    other_calls: int


class RaceJob(Protocol):
    """A race to be read; `throttled`: how often it was put off by RunSignup's throttling."""

    @property
    def race_id(self) -> int: ...

    @property
    def throttled(self) -> int: ...


class RaceOutcome(Protocol):
    """How reading a race ended; `until` is set when it waits for its budget, with the reason as its error."""

    figures: Figures
    seconds: float
    wait: float
    until: datetime | None
    error: StartlistError | None


J = TypeVar("J", bound=RaceJob)
Ended = TypeVar("Ended", bound=RaceOutcome)


class CredentialInUse:
    """A credential's part in a run, which may use a `share` of the hour's calls, and those within its `hours`."""

    def __init__(
        self,
        context: Context,
        credential: Credential,
        told: Told,
        *,
        list_from: date,
        share: float = 1.0,
        hours: Hours | None = None,
        patience: float = LONGEST_WAIT,
    ) -> None:
        self.context = context
        self.credential = credential
        self.told = told
        self.proof = asyncio.Event()
        self.listed: dict[int, Race] = {}
        self.bad: list[BadRecord] = []  # records of the list that cannot be stored
        self.refusal: str | None = None  # why this credential is not used any more in this run
        self.mine: set[int] = set()  # races that no other credential of the partner reads
        self.calls_left: int | None = None  # of its share of the hour, after its last call in this run
        self._list_from = list_from
        self._share = share
        self._hours = hours
        self._patience = patience

    @property
    def key(self) -> tuple[int, int]:
        """Timing partner and credential."""
        return self.credential.timing_partner_id, self.credential.credential_id

    def means(self, race_id: int) -> Means:
        """What one pass of a race works with."""
        context, gate = self.context, self._gate()
        return Means(
            database=context.database,
            run_id=context.run_id,
            client=context.client(self.credential, gate),
            calls=lambda: gate.calls,
            now=context.now,
            on_page=lambda rows: context.progress.page_stored(self.key[0], race_id, rows),
            room=context.room,
            proof=self.proof,
        )

    def _gate(self) -> BudgetGate:
        return self.context.gate(
            self.credential, share=self._share, hours=self._hours, patience=self._patience, on_call=self._called
        )

    def _called(self, calls_left: int) -> None:
        self.calls_left = calls_left
        self.context.progress.call_made(*self.key, calls_left)

    # -- the list of races -----------------------------------------------------------------------------------------

    async def list_races(self) -> None:
        """Read the credential's race list; a refusal is kept and reported, the other credentials go on."""
        gate = self._gate()
        client = self.context.client(self.credential, gate)
        try:
            if self.credential.stopped_at is not None and not await self._try_again(client):
                return None
            throttled = 0
            while True:
                try:
                    return await self._read_list(client)
                except BudgetSpent as wait:
                    await self.wait(wait.seconds, wait.until, str(wait))
                except Throttled as error:
                    throttled += 1
                    if throttled > PATIENCE:
                        raise
                    async with self.context.admin() as conn:
                        seconds, until = await budget.pause_left(conn, self.key[1])
                    await self.wait(seconds, until, str(error))
        except CallerRefused:
            raise
        except CredentialRefused as error:
            await self._stop(str(error))
        except RunSignupError as error:
            if not self.context.dry_run:
                async with self.context.admin() as conn:
                    await partners.note_unlisted(conn, self.key[1])
            self._give_up(f"the race list could not be read: {error}")
            log.error("list.failed", timing_partner_id=self.key[0], credential_id=self.key[1], message=str(error))
        finally:
            self.told.other_calls += gate.calls

    async def _read_list(self, client: RunSignup) -> None:
        self.listed.clear()
        self.bad.clear()
        async for page in client.races(start_date=self._list_from):
            self.listed.update((race.race_id, race) for race in page.races)
            self.bad.extend(page.bad)
        log.info("races.listed", timing_partner_id=self.key[0], credential_id=self.key[1], races=len(self.listed))

    async def _try_again(self, client: RunSignup) -> bool:
        """Try a stopped credential with one call that needs its rights, at most once an hour."""
        credential = self.credential
        async with self.context.admin() as conn:
            last = await budget.last_call_at(conn, credential.credential_id)
        because = f"stopped since {credential.stopped_at:%Y-%m-%d %H:%M} UTC: {credential.stopped_reason}"
        advice = f"give it the right secret: startlist partner rotate {credential.timing_partner_id}"
        if self.context.dry_run or (last is not None and self.context.now() - last < TRIED_AGAIN_AFTER):
            self.refuse(f"{because}; {advice}")
            return False
        try:
            question = await self._question(answered=False)
            accepted = question is not None and await self._answers(client, *question)
        except (CredentialRefused, PermissionDenied) as error:
            self.refuse(f"{because}; tried again: {error}; {advice}")
            return False
        if accepted:
            async with self.context.admin() as conn:
                await partners.mark_verified(conn, credential)
        return True

    async def _question(self, *, answered: bool) -> tuple[int, list[int]] | None:
        """A small question that this credential asked before, and was `answered`: a race and events of it."""
        async with self.context.admin() as conn:
            return await history.last_asked(conn, self.key[1], answered=answered)

    async def _answers(self, client: RunSignup, race_id: int, event_ids: Collection[int]) -> bool:
        """Whether RunSignup has an answer, which needs the credential's rights; raises what refuses it now."""
        try:
            async for _ in client.participants(race_id, event_ids, modified_after=int(self.context.now().timestamp())):
                break
        except (RaceGone, EventsGone, RequestRefused):
            return False  # that race is no more; this says nothing of the credential
        return True

    async def prove(self) -> bool | None:
        """Prove the credential by a question of which the answer is known, as `ask` does."""
        question = await self._question(answered=True)
        return None if question is None else await self.ask(*question)

    async def ask(self, race_id: int, event_ids: Collection[int]) -> bool | None:
        """Prove the credential by a call that needs its rights; None when nothing can be said of it.

        False when it is refused; what refuses every caller is raised.
        """
        gate = self._gate()
        try:
            if not await self._answers(self.context.client(self.credential, gate), race_id, event_ids):
                return None
        except CallerRefused:
            raise
        except (CredentialRefused, PermissionDenied) as error:
            await self.judge(error)
            return False
        except RunSignupError:
            return None
        finally:
            self.told.other_calls += gate.calls
        self.proof.set()
        return True

    # -- what its calls showed -------------------------------------------------------------------------------------

    async def wait(self, seconds: float, until: datetime, why: str) -> None:
        """Let time pass until a call may be made again; nothing is held meanwhile."""
        self.context.progress.waiting(*self.key, until, why)
        log.info(
            "credential.waiting",
            timing_partner_id=self.key[0],
            credential_id=self.key[1],
            until=until.isoformat(timespec="seconds"),
            why=why,
        )
        await self.context.sleep(max(seconds, 0.1))

    # -- races -----------------------------------------------------------------------------------------------------

    async def over_waits(
        self, job: J, leg: Callable[[J, Means], Awaitable[Ended]], go_on: Callable[[J, Ended, int], J]
    ) -> Ended | None:
        """Read a race with this credential, leg after leg over all waits; None when the credential is refused.

        `go_on` makes the next leg's job of the last one's, its outcome and how often RunSignup has throttled it.
        """
        began = time.monotonic()
        total: Ended | None = None
        while not self.refusal:
            async with self.context.slots:
                means = self.means(job.race_id)
                try:
                    outcome = await leg(job, means)
                except (StartlistError, asyncio.CancelledError):
                    self.told.other_calls += means.calls()  # no outcome tells of them
                    raise
            if total is not None:
                outcome.figures.add(total.figures)
            total = outcome
            total.seconds = time.monotonic() - began
            if outcome.until is None:
                break
            await self.wait(outcome.wait, outcome.until, str(outcome.error))
            job = go_on(job, outcome, job.throttled + isinstance(outcome.error, Throttled))
        if total is not None and total.error is not None:
            await self.judge(total.error)
        return total

    async def judge(self, error: Exception, listed: Collection[int] | None = None) -> None:
        """Whether this error is the credential's: code 6, or three races that answered 7 with no success between.

        `listed`: the races that it lists, where this run has not read its list.
        """
        if isinstance(error, CredentialRemoved):
            self.refuse(str(error))
        elif isinstance(error, CredentialRefused):
            await self._stop(str(error))
        elif isinstance(error, PermissionDenied) and not self.refusal:
            async with self.context.admin() as conn:
                refused = await budget.refused_races(conn, self.key[1])
            if budget.refusals_stop(refused, self.listed if listed is None else listed):
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
        self.refuse(f"stopped: {reason}; {advice}")

    def refuse(self, reason: str) -> None:
        """Use the credential no more in this run, and say why."""
        self._give_up(reason)
        log.error("credential.refused", timing_partner_id=self.key[0], credential_id=self.key[1], reason=reason)

    def _give_up(self, reason: str) -> None:
        self.refusal = reason
        self.told.errors.append(f"API key {self.credential.principal}: {reason}")


W = TypeVar("W", bound=CredentialInUse)


# -- several of them -------------------------------------------------------------------------------------------------


async def open_credentials(context: Context, timing_partner_id: int | None) -> list[list[Credential]]:
    """The credentials of one partner or of all, opened, by partner; raises `ConfigurationError` when there are none."""
    async with context.admin() as conn:
        ring = await open_key_ring(conn, context.settings)
        found = await partners.credentials(conn, ring, context.settings, timing_partner_id=timing_partner_id)
        if not found and timing_partner_id is not None:
            await partners.states(conn, context.settings, timing_partner_id=timing_partner_id)
    if not found:
        raise ConfigurationError("there is no timing partner with a key yet: startlist partner add NAME --api-key KEY")
    by_partner: dict[int, list[Credential]] = {}
    for credential in found:
        by_partner.setdefault(credential.timing_partner_id, []).append(credential)
    return [by_partner[number] for number in sorted(by_partner)]


async def read_by_one(works: Sequence[W], race_id: int, read: Callable[[W], Awaitable[Ended | None]]) -> Ended | None:
    """Read a race with the first of its partner's credentials, or once with another one that may, where that answers 7.

    None when no credential that could be asked is usable.
    """
    own = works[0]
    outcome = await read(own)
    for other in works[1:]:
        if outcome is not None and not isinstance(outcome.error, PermissionDenied):
            break
        if not other.refusal and (race_id in other.listed or race_id not in own.listed):
            again = await read(other)
            if again is not None:
                if outcome is not None:
                    again.figures.add(outcome.figures)
                outcome = again
    return outcome


async def list_all(works: Sequence[CredentialInUse]) -> None:
    """Read the race lists of all a partner's credentials at once."""
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work.list_races())


def owner_of(works: Sequence[W], race_id: int, stored: dict[int, StoredRace]) -> W:
    """The credential that reads a race: the one it was read with before, else the first that lists it."""
    before = stored[race_id].credential_id if race_id in stored else None
    able = [work for work in works if race_id in work.listed] or works
    return next((work for work in works if work.key[1] == before), able[0])


async def together(partner_runs: Sequence[Coroutine[Any, Any, None]]) -> StartlistError | None:
    """Run all partners at once; return what stopped everything: the database, the caller registration, a setting."""
    stopped: StartlistError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for partner_run in partner_runs:
                group.create_task(partner_run)
    except* (CallerRefused, DatabaseError, ConfigurationError) as errors:
        stopped = _first(errors)
    return stopped


def _first(errors: BaseExceptionGroup[StartlistError]) -> StartlistError:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, StartlistError)  # noqa: S101 - the group was split by these types
    return found
