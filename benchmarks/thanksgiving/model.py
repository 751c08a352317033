"""The scheduler in virtual time: the leader's tick, the queue, workers, calls; what is decided, the real code decides.

Modelled are only what is SQL or a library in earnest: the order of what is due and of the queue, the hour of each API
key, lanes, the notice that is taken of dead workers, and RunSignup.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import TypeVar

from benchmarks.thanksgiving.engine import LANE, Engine, Running, Work
from benchmarks.thanksgiving.hour import free_at, reserve
from benchmarks.thanksgiving.order import ahead, in_order, on_day, rank_of
from benchmarks.thanksgiving.world import BEGIN, HOURS, Credential, Race
from startlist.schedule.cadence import CALLS_OF_A_PASS
from startlist.schedule.crew import LOOK_AGAIN, USUAL_SECONDS
from startlist.schedule.decision import (
    AFFORDED,
    PAGE_ROWS,
    Ended,
    Wanted,
    asks_of,
    full_every,
    next_turn,
    share_of,
    stretch_of,
)
from startlist.schedule.leader import LISTS_EVERY, SILENT, TICK
from startlist.store.budget import Rank, calls_of_share
from startlist.store.schedule import Demand, name

T = TypeVar("T")
Step = Generator[float | str, None, T]  # a part of some work, and what comes of it

PROCESSES, PASSES = 3, 8  # workers, and the races that each reads at once
QUEUE_SECONDS = 0.02  # of a job beside its calls, as measured
RESTART_SECONDS = 10.0  # until a killed worker is there again
DATABASE_AWAY = 6.0
CRASHES_EVERY = 1_200.0  # seconds, on average, of any worker
PATIENCE, ATTEMPTS = 30.0, 3  # of a call
SPREAD = 0.25  # of the logarithm of a call's length, whose median is given
MEAN = math.exp(SPREAD**2 / 2)  # length of a call, in medians


@dataclass(frozen=True, slots=True)
class Faults:
    """How often a call meets which fault."""

    server: float = 0.003
    timeout: float = 0.0002
    throttled: float = 0.00005


@dataclass
class Told:
    """What came of it. Delays are of changes: from RunSignup to the database, in seconds, and as a part of the period
    that was planned; by the class of their race.
    """

    delays: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)  # between two complete passes, in planned periods
    stretches: list[tuple[float, float]] = field(
        default_factory=list
    )  # as planned for race day, and the least possible
    calls: int = 0
    most_calls: int = 0  # of any API key in any hour
    passes: Counter[str] = field(default_factory=Counter)
    twice_at_once: int = 0
    killed: int = 0
    never_read: int = 0  # changes that were not stored at the end
    worst_race: tuple[int, float] = (0, 0.0)


class Model:
    """A morning under way."""

    def __init__(self, credentials: list[Credential], latency: float, *, lanes: int, seed: int, faults: Faults) -> None:
        self.credentials = {one.credential_id: one for one in credentials}
        self.races = [race for one in credentials for race in one.races]
        self.latency, self.lanes, self.faults = latency, lanes, faults
        self.chance = random.Random(seed)
        self.engine = Engine(BEGIN.timestamp(), lanes)
        self.told = Told()
        self._due: list[tuple[float, int, Race]] = []
        self._queue: list[tuple[int, int, Race]] = []
        self._low: dict[int, Race] = {}  # queued below race day, by their place
        self._queued = 0
        self._free = [PASSES] * PROCESSES
        self._alive = [True] * PROCESSES
        self._jobs: list[dict[Race, Running]] = [{} for _ in range(PROCESSES)]
        self._newest: deque[float] = deque(maxlen=1_000)  # lengths of calls
        self._asked: tuple[float, Wanted, float] = (-1.0, Wanted.of([]), 0.0)
        self._leads_from = 0.0
        self._floor: dict[int, float] = {}

    def run(self) -> Told:
        """The whole of it."""
        now = self.engine.now
        for race in self.races:
            due = race.cadence.next_due(_at(now))
            assert due is not None
            self._plan(race, due.at.timestamp(), due.rank, due.period, 1.0)
            race.planned = due.period
        self.engine.at(now, self._tick)
        self.engine.at(now + self.chance.expovariate(1 / CRASHES_EVERY), self._crash)
        self.engine.at(now + 13.5 * 3600, self._database_restarts)  # 07:30 in New York
        self.engine.at(now, self._look)
        self.engine.run(now + HOURS * 3600)
        self.told.never_read = sum(sum(at < self.engine.now - 4 * 3600 for at in race.changes) for race in self.races)
        return self.told

    # -- the leader ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self.engine.now
        self.engine.at(now + TICK, self._tick)
        if now < self._leads_from:
            return
        due = []
        while self._due and self._due[0][0] <= now:
            at, _, race = heapq.heappop(self._due)
            if at == race.next_sync_at and not race.queued and not race.doing:
                due.append(race)
        for race in in_order(due, now):
            self._put(race, rank_of(race, now))
        if self._low:  # those that press more by now
            for place, race in list(self._low.items()):
                if race.queued != place:
                    del self._low[place]
                elif rank_of(race, now) is Rank.RACE_DAY:
                    del self._low[place]
                    heapq.heappush(self._queue, (-Rank.RACE_DAY, place, race))
        self._hand_out()

    def _put(self, race: Race, rank: Rank) -> None:
        self._queued += 1
        race.queued = self._queued
        heapq.heappush(self._queue, (-rank, self._queued, race))
        if rank is not Rank.RACE_DAY:
            self._low[self._queued] = race

    def _plan(self, race: Race, at: float, rank: Rank, period: float, stretch: float) -> None:
        race.next_sync_at, race.rank, race.period, race.stretch = at, rank, period, stretch
        race.asks = asks_of(race.cadence, _at(self.engine.now), _at(at), full_calls=race.full_calls, silent=False)
        if race.asks.race_day_at and race.asks.race_day_until:
            race.race_day = race.asks.race_day_at.timestamp(), race.asks.race_day_until.timestamp()
        heapq.heappush(self._due, (at, race.race_id, race))

    def _hand_out(self) -> None:
        for number in range(PROCESSES):
            while self._alive[number] and self._free[number] and self._queue:
                _, place, race = heapq.heappop(self._queue)
                if race.queued != place:
                    continue
                race.queued, race.doing = 0, True
                self._free[number] -= 1
                ended = partial(self._job_ended, number, race)
                running = Running(self.engine, self._turn(race, partial(self._running, number, race)), ended)
                self._jobs[number][race] = running
                running.step()

    def _running(self, number: int, race: Race) -> Running:
        return self._jobs[number][race]

    def _job_ended(self, number: int, race: Race) -> None:
        race.doing = False
        del self._jobs[number][race]
        self._free[number] += 1
        self._hand_out()

    # -- what dies -------------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        self.engine.at(self.engine.now + self.chance.expovariate(1 / CRASHES_EVERY), self._crash)
        self._kill(self.chance.randrange(PROCESSES), RESTART_SECONDS)

    def _database_restarts(self) -> None:
        self._leads_from = self.engine.now + DATABASE_AWAY
        for number in range(PROCESSES):
            self._kill(number, DATABASE_AWAY)

    def _kill(self, number: int, away: float) -> None:
        if not self._alive[number]:
            return
        self._alive[number] = False
        noticed = self.engine.now + SILENT + self.chance.uniform(0, LISTS_EVERY * TICK)
        for race, running in list(self._jobs[number].items()):
            self.told.killed += 1
            running.kill()
            race.locked = False
            self.engine.at(noticed, partial(self._job_lost, race))
        self._jobs[number].clear()
        self.engine.at(self.engine.now + away, partial(self._back, number))

    def _job_lost(self, race: Race) -> None:
        race.doing = False
        heapq.heappush(self._due, (race.next_sync_at, race.race_id, race))

    def _back(self, number: int) -> None:
        self._alive[number], self._free[number] = True, PASSES
        self._hand_out()

    # -- a turn ----------------------------------------------------------------------------------------------------

    def _turn(self, race: Race, me: Callable[[], Running]) -> Work:
        yield QUEUE_SECONDS
        now, credential, cadence = self.engine.now, self.credentials[race.credential_id], race.cadence
        if race.next_sync_at > now:
            return
        since, period, rank = race.waits_since or race.next_sync_at, cadence.period(_at(now)), cadence.rank(_at(now))
        stretch = self._stretch(credential)
        share = share_of(rank, _at(now), _at(race.completed_at), period, stretch, cadence.rhythm)
        limit = calls_of_share(credential.calls_per_hour, share)
        until = free_at(credential, now, limit, ahead(credential, race, rank, since))
        if until is not None:
            race.waits_since = since
            self._plan(race, until, rank, period or cadence.rhythm.routine, stretch)
            return
        race.waits_since = None
        if race.locked:
            self.told.twice_at_once += 1
        race.locked = True
        outcome = yield from self._pass(race, credential, limit, stretch, me)
        race.locked = False
        race.failures = race.failures + 1 if outcome.try_again else 0
        race.waits_since = since if outcome.until is not None else None
        due = next_turn(cadence, _at(self.engine.now), outcome, race.failures, self.chance.random(), stretch)
        if due is not None:
            self._plan(race, due.at.timestamp(), due.rank, due.period, stretch)
            if outcome == Ended():  # who is put off, or failed, is late by what was planned before
                longest = due.period * cadence.stretched(due.at, stretch)
                race.planned = max(longest, race.next_sync_at - self.engine.now)
                race.stale_at = race.next_sync_at + longest + 60
            if due.rank is Rank.RACE_DAY:
                self.told.stretches.append((stretch, self._floor[race.credential_id]))

    def _pass(
        self, race: Race, credential: Credential, limit: int, stretch: float, me: Callable[[], Running]
    ) -> Step[Ended]:
        full, record, begun, asked_at = race.checkpoint or (*self._chosen(race, credential, limit, stretch), 0, 0.0)
        race.checkpoint = None
        for number in range(begun, (race.full_calls if full else CALLS_OF_A_PASS) + record):
            if number == record:
                asked_at = self.engine.now
            ended = yield from self._call(credential, limit, 2 if number == begun else 1, me)
            if ended is not None:
                race.checkpoint = full, record, number, asked_at
                self.told.passes["put off" if ended.until else "failed"] += 1
                return ended
        self._complete(race, asked_at, full=full, record=record)
        return Ended()

    def _chosen(self, race: Race, credential: Credential, limit: int, stretch: float) -> tuple[bool, bool]:
        """Whether the pass is a full one, and whether the race's own record is read."""
        cadence, now = race.cadence, self.engine.now
        left = limit - len(credential.calls)
        large = race.registrations >= PAGE_ROWS
        every = full_every(
            cadence, _at(now), large=large, affords=race.full_calls <= left * AFFORDED, silent=False, stretch=stretch
        )
        full = now - race.full_at > every.total_seconds()
        return full, now - race.record_at >= cadence.record_every(_at(now), stretch).total_seconds()

    def _call(self, credential: Credential, limit: int, needed: int, me: Callable[[], Running]) -> Step[Ended | None]:
        """One call with its attempts; None: it succeeded."""
        for attempt in range(ATTEMPTS):
            yield LANE
            until = reserve(credential, self.engine.now, limit, min(needed, limit))
            if until is not None:
                me().give_lane_back()
                return Ended(until=_at(until))
            self.told.calls += 1
            self.told.most_calls = max(self.told.most_calls, len(credential.calls))
            fate = self.chance.random()
            lost = fate < self.faults.timeout
            seconds = PATIENCE if lost else self.latency * self.chance.lognormvariate(0, SPREAD)
            yield seconds
            me().give_lane_back()
            if not lost:
                self._newest.append(seconds)
            fate -= self.faults.timeout
            if 0 <= fate < self.faults.throttled:
                credential.paused_until = self.engine.now + 60
                return Ended(until=_at(credential.paused_until))
            if fate >= self.faults.throttled + self.faults.server:
                return None
            yield 0.5 * 2**attempt * self.chance.uniform(0.5, 1.5)
        return Ended(try_again=True)

    def _complete(self, race: Race, asked_at: float, *, full: bool, record: bool) -> None:
        now, planned = self.engine.now, race.planned
        self.told.passes["full" if full else "incremental"] += 1
        delays = self.told.delays.setdefault(name(race.rank), [])
        ratios = self.told.ratios.setdefault(name(race.rank), [])
        while race.changes and race.changes[-1] <= asked_at:
            delay = now - race.changes.pop()
            delays.append(delay)
            ratios.append(delay / planned)
        gap = (now - race.completed_at) / planned
        self.told.gaps.append(gap)
        if gap > self.told.worst_race[1]:
            self.told.worst_race = race.race_id, gap
        race.completed_at = now
        race.full_at = now if full else race.full_at
        race.record_at = now if record else race.record_at

    # -- what all races ask for ------------------------------------------------------------------------------------

    def _stretch(self, credential: Credential) -> float:
        if self.engine.now - self._asked[0] >= LOOK_AGAIN:
            wanted = Wanted.of(self._demand())
            self._asked = self.engine.now, wanted, median(self._newest) if self._newest else USUAL_SECONDS
        _, wanted, seconds = self._asked
        return stretch_of(
            wanted, credential.credential_id, credential.calls_per_hour, self.lanes * 3600 / seconds
        )  # fmt: skip

    def _demand(self) -> list[Demand]:
        found: defaultdict[tuple[int, Rank], float] = defaultdict(float)
        for race in self.races:
            day = on_day(race, self.engine.now)
            calls = race.asks.race_day_calls if day else race.asks.calls_per_hour
            rank = Rank.RACE_DAY if day else min(race.rank, Rank.RACE_WEEK)
            found[race.credential_id, rank] += calls or 0
        return [Demand(credential, name(rank), calls) for (credential, rank), calls in found.items()]

    def _look(self) -> None:
        """Work out the least by which periods have to be stretched, by lanes and budgets and arithmetic alone."""
        self.engine.at(self.engine.now + 60, self._look)
        pressing: defaultdict[int, float] = defaultdict(float)
        routine: defaultdict[int, float] = defaultdict(float)
        now = _at(self.engine.now)
        for race in self.races:
            period = race.cadence.period(now)
            if period is not None:
                to = routine if race.cadence.rank(now) is Rank.ROUTINE else pressing
                to[race.credential_id] += race.cadence.calls_per_hour(now, full_calls=race.full_calls)
        lanes = self.lanes * 3600 / (self.latency * MEAN)
        by_lanes = sum(pressing.values()) / max(lanes - sum(routine.values()), 1)
        for number, credential in self.credentials.items():
            own = pressing[number] / max(credential.calls_per_hour - routine[number], 1)
            self._floor[number] = max(1.0, by_lanes, own)


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
