"""How many calls the cadence will need in each hour to come, against what there is. Pure.

The scheduler stretches by the same rule, so that what is said here is what will be done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from itertools import accumulate

from startlist.schedule.cadence import CALLS_OF_A_PASS, HOUR, Cadence, Span, stretch_factor
from startlist.schedule.daily import BASE, LISTINGS, upcoming
from startlist.store.budget import Rank, calls_of_share

CALLS_OF_A_LIST = 1.0


@dataclass(frozen=True, slots=True)
class PlannedRace:
    """A race, the credential that reads it, and how many calls a full pass takes: two where it fits one page.

    `distrusted`: its passes every minute are full ones.
    """

    credential_id: int
    cadence: Cadence
    full_calls: int
    distrusted: bool = False


@dataclass(slots=True)
class Need:
    """The calls that one hour asks for before anything is stretched, by rank."""

    calls: dict[Rank, float] = field(default_factory=lambda: dict.fromkeys(Rank, 0.0))

    @property
    def pressing(self) -> float:
        """Those of race day and race week, whose periods are stretched when there are too few."""
        return self.calls[Rank.RACE_DAY] + self.calls[Rank.RACE_WEEK]

    @property
    def routine(self) -> float:
        """Those that are never stretched."""
        return self.calls[Rank.ROUTINE]


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of one credential, or of the lanes: calls asked for, calls there are, and what comes of it.

    `period` is the shortest of its races, unstretched, in seconds; None where no race is read by its cadence.
    `waited` and `waiting` are the routine calls that come from the hour before, and that are left to the next one;
    `late` whether those are more than an hour has room for.
    """

    at: datetime
    need: Need
    capacity: float
    stretch: float
    period: float | None
    waited: float
    waiting: float
    late: bool

    @property
    def planned(self) -> float:
        """The calls that will be made."""
        return self.waited + self.need.routine - self.waiting + self.need.pressing / self.stretch

    @property
    def fits(self) -> bool:
        """Whether every race is read as often as its nearness asks for."""
        return self.stretch == 1.0 and not self.late

    @property
    def for_backfill(self) -> int:
        """The calls that a backfill may make in it without taking any from the races to come."""
        return max(0, calls_of_share(int(self.capacity), Rank.BACKFILL.share) - round(self.planned))

    @property
    def crowds_out(self) -> bool:
        """Whether a backfill that takes its whole share would leave too few calls."""
        return self.planned > self.capacity * (1 - Rank.BACKFILL.share)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to come: the lanes' hours, and each credential's."""

    lanes: list[Hour]
    credentials: dict[int, list[Hour]]


class _Hours:
    """What the races of one credential ask for, hour by hour; a steady rate costs the same however long it lasts."""

    def __init__(self, hours: int) -> None:
        self._hours = hours
        self._single = {rank: [0.0] * hours for rank in Rank}  # calls of single hours
        self._steady = {rank: [0.0] * (hours + 1) for rank in Rank}  # calls of whole hours, where they begin and end
        self._periods: dict[float, list[int]] = defaultdict(lambda: [0] * (hours + 1))  # races, likewise

    def add(self, rank: Rank, hour: int, calls: float) -> None:
        self._single[rank][hour] += calls

    def add_span(self, span: Span, since: float, calls_a_second: float) -> None:
        """A span that lies within the hours, which begin at `since`."""
        begin, end = span.begin - since, span.end - since
        first, last = int(begin // HOUR), min(int(end // HOUR), self._hours - 1)
        single, steady = self._single[span.rank], self._steady[span.rank]
        if first == last:
            single[first] += (end - begin) * calls_a_second
        else:
            single[first] += ((first + 1) * HOUR - begin) * calls_a_second
            single[last] += (end - last * HOUR) * calls_a_second
            steady[first + 1] += HOUR * calls_a_second
            steady[last] -= HOUR * calls_a_second
        self._periods[span.period][first] += 1
        self._periods[span.period][last + 1] -= 1

    def needs(self) -> list[Need]:
        each = {
            rank: [a + b for a, b in zip(self._single[rank], accumulate(self._steady[rank]), strict=False)]
            for rank in Rank
        }
        return [Need({rank: each[rank][hour] for rank in Rank}) for hour in range(self._hours)]

    def shortest(self) -> list[float | None]:
        races = {period: list(accumulate(of_period)) for period, of_period in self._periods.items()}
        return [
            min((period for period, many in races.items() if many[hour]), default=None) for hour in range(self._hours)
        ]


def forecast(
    races: Iterable[PlannedRace],
    budgets: Mapping[int, int],
    *,
    lane_calls: float,
    begin: datetime,
    hours: int,
    zone: tzinfo | None,
) -> Forecast:
    """The hours from `begin` on. `budgets`: calls an hour by credential; `lane_calls`: those of all lanes together.

    `zone` is that of the daily times.
    """
    asked = {credential: _Hours(hours) for credential in budgets}
    end = begin + timedelta(hours=hours)
    base = _hours_of(begin, end, (BASE,), zone)
    for race in races:
        of_credential = asked[race.credential_id]
        for span in race.cadence.spans(begin, end):
            calls = race.cadence.calls_per_hour(
                datetime.fromtimestamp(span.begin, UTC), full_calls=race.full_calls, all_full=race.distrusted
            )
            of_credential.add_span(span, begin.timestamp(), calls / HOUR)
        for hour in base:
            if race.cadence.period(begin + timedelta(hours=hour)) is not None:
                of_credential.add(Rank.ROUTINE, hour, CALLS_OF_A_PASS)
    for hour in _hours_of(begin, end, LISTINGS, zone):
        for of_credential in asked.values():
            of_credential.add(Rank.RACE_WEEK, hour, CALLS_OF_A_LIST)
    starts = [begin + timedelta(hours=hour) for hour in range(hours)]
    needs = {credential: of_credential.needs() for credential, of_credential in asked.items()}
    periods = {credential: of_credential.shortest() for credential, of_credential in asked.items()}
    together = [_sum(of[hour] for of in needs.values()) for hour in range(hours)]
    shortest = [
        min((p for of in periods.values() if (p := of[hour]) is not None), default=None) for hour in range(hours)
    ]
    lanes = _follow(starts, together, shortest, lane_calls, 1.0, [1.0] * hours)
    by_lanes = [hour.stretch for hour in lanes]
    return Forecast(
        lanes,
        {
            credential: _follow(starts, need, periods[credential], budgets[credential], Rank.ROUTINE.share, by_lanes)
            for credential, need in needs.items()
        },
    )


def _follow(
    starts: list[datetime], needs: list[Need], periods: list[float | None], capacity: float, share: float,
    least: list[float],
) -> list[Hour]:  # fmt: skip
    """Hour after hour: what is pressing is stretched, routine takes the rest of its share and waits for the next."""
    found, waited = [], 0.0
    for at, need, period, by_lanes in zip(starts, needs, periods, least, strict=True):
        stretch = max(by_lanes, stretch_factor(need.pressing, need.routine, capacity))
        room = max(capacity * share - need.pressing / stretch, 0.0)
        waiting = max(waited + need.routine - room, 0.0)
        found.append(Hour(at, need, capacity, stretch, period, waited, waiting, waiting > room))
        waited = waiting
    return found


def _hours_of(begin: datetime, end: datetime, times: tuple[time, ...], zone: tzinfo | None) -> list[int]:
    """The hours in which these times of day come."""
    found, at = [], begin - timedelta(microseconds=1)
    while (at := upcoming(at, times, zone)) < end:
        found.append(int((at - begin).total_seconds() // HOUR))
    return found


def _sum(needs: Iterable[Need]) -> Need:
    total = Need()
    for need in needs:
        for rank, calls in need.calls.items():
            total.calls[rank] += calls
    return total
