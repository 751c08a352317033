"""What stands before every call: a lane, then a reservation in the database, then the call, then its row in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Protocol

import structlog

from startlist.errors import BudgetSpent, CredentialRefused, DatabaseError
from startlist.runsignup import Attempt
from startlist.store import budget
from startlist.store.budget import Reservation, Wait
from startlist.store.lanes import Lane, Lanes
from startlist.store.partners import Credential

log = structlog.get_logger()

LONGEST_WAIT = 5.0  # seconds of waiting for budget before what asked is put off
BEGIN_A_PASS = ("race", "participants")


def utc_now() -> datetime:
    """The present instant."""
    return datetime.now(UTC)


class Hours(Protocol):
    """The hours of the day in which calls are wanted; its text names them."""

    def closed_until(self, now: datetime) -> datetime | None:
        """When calls may be made again; None while they may."""


class BudgetGate:
    """The client's gate for one pass, or one question: every attempt within the lanes and the credential's budget.

    `share` is the part of the hour's calls, those of everybody, below which this class may make one. The first call of
    a pass is granted only while two are free, so that both feeds can be asked. `calls` counts the attempts sent;
    `on_call` hears of each, and how many calls the share has left. `patience`: the longest wait, in seconds.
    """

    def __init__(
        self,
        lanes: Lanes,
        credential: Credential,
        *,
        run_id: int | None = None,
        share: float = 1.0,
        hours: Hours | None = None,
        patience: float = LONGEST_WAIT,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_call: Callable[[int], None] = lambda calls_left: None,
    ) -> None:
        self.calls = 0
        self._lanes = lanes
        self._credential = credential
        self._run_id = run_id
        self._share = share
        self._hours = hours
        self._patience = patience
        self._now = now
        self._sleep = sleep
        self._on_call = on_call
        self._begun = False

    @asynccontextmanager
    async def attempt(self, endpoint: str, race_id: int | None) -> AsyncIterator[Attempt]:
        """One attempt at a call.

        Raises `BudgetSpent` when it would have to wait longer than its patience or for its hours, `CredentialRefused`
        when there is no secret to call with.
        """
        if self._credential.secret is None:
            raise CredentialRefused("its stored secret is damaged and cannot be opened")
        if self._hours is not None and (until := self._hours.closed_until(self._now())) is not None:
            seconds = (until - self._now()).total_seconds()
            raise BudgetSpent(
                f"calls are made between {self._hours}; goes on {until:%Y-%m-%d %H:%M} UTC",
                until=until,
                seconds=seconds,
            )
        lane, reservation = await self._enter(endpoint, race_id)
        attempt = Attempt()
        try:
            yield attempt
        except BaseException:
            with suppress(DatabaseError):  # what ended the attempt says more
                await self._leave(lane, reservation, attempt)
            raise
        await self._leave(lane, reservation, attempt)

    async def _enter(self, endpoint: str, race_id: int | None) -> tuple[Lane, Reservation]:
        slept = 0.0
        while True:
            lane = await self._lanes.acquire()
            answer: Reservation | Wait | None = None
            try:
                answer = await budget.reserve(
                    lane.held,
                    self._credential,
                    endpoint=endpoint,
                    race_id=race_id,
                    run_id=self._run_id,
                    share=self._share,
                    first=not self._begun and endpoint in BEGIN_A_PASS,
                )
            finally:
                if not isinstance(answer, Reservation):
                    await self._lanes.release(lane)
            if isinstance(answer, Reservation):
                self._begun = True
                return lane, answer
            if slept + answer.seconds > self._patience:
                raise self._spent(answer)
            slept += answer.seconds
            await self._sleep(answer.seconds)

    def _spent(self, wait: Wait) -> BudgetSpent:
        key, until = self._credential.principal, f"{wait.until:%Y-%m-%d %H:%M:%S} UTC"
        if wait.paused:
            return BudgetSpent(
                f"RunSignup asked for patience: API key {key} pauses until {until}",
                until=wait.until,
                seconds=wait.seconds,
            )
        limit = self._credential.calls_per_hour
        share = "" if self._share == 1 else f"the {self._share:.0%} share of "
        return BudgetSpent(
            f"API key {key} has used {share}its {limit} calls an hour; free again {until}",
            until=wait.until,
            seconds=wait.seconds,
        )

    async def _leave(self, lane: Lane, reservation: Reservation, attempt: Attempt) -> None:
        if attempt.started:
            self.calls += 1
            self._on_call(reservation.calls_left)
        await self._lanes.release(lane, lambda: self._write_down(lane, reservation.call_id, attempt))

    async def _write_down(self, lane: Lane, call_id: int, attempt: Attempt) -> None:
        if not attempt.started:
            return  # the place in the hour stays used: this call may be unsent, but nothing is known for certain
        await budget.record(
            lane.held,
            call_id,
            seconds=attempt.seconds or 0.0,
            http_status=attempt.http_status,
            error_code=attempt.error_code,
            rows=attempt.rows,
            nbytes=attempt.bytes,
        )
        if attempt.http_status == 429 or attempt.error_code == 14:
            await budget.pause(lane.held, self._credential.credential_id, attempt.retry_after)
            log.warning(
                "credential.paused",
                timing_partner_id=self._credential.timing_partner_id,
                credential_id=self._credential.credential_id,
                retry_after=attempt.retry_after,
            )
