"""The cadence: how often a race is read, from how near its starts are. Pure.

Time is cut into windows around the race days; where several overlap, the shortest period wins. A race is due on a grid:
at its phase, and every period from there on. All periods share one phase and each divides the next longer one, so that
the grids nest and no gap is longer than the longest period in it, also where one window meets the next. Where calls do
not suffice, the periods of race day and race week are stretched, routine's never.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from startlist.config import Settings
from startlist.store.budget import Rank

DAY = 86_400.0
HOUR = 3_600.0
CALLS_OF_A_PASS = 2  # participants, then the removed list
FIRST_RETRY = 15.0  # seconds after the first failure
EPOCH = datetime.fromtimestamp(0, UTC)
LATEST = datetime.max.replace(tzinfo=UTC).timestamp() - DAY  # what lies beyond is not a time that anybody meant
SPREAD = 0.25  # of the interval between full passes, by which races differ
HEADROOM = 0.92  # of an hour or of the lanes: what the cadence may plan to use
LEAST = 0.1  # of an hour or of the lanes: what race week and race day get, whatever routine needs


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What the settings say about the cadence; all spans in seconds.

    `full_small` and `full_large` are the ages at which the last full pass is too old, for a race that fits one page and
    for a larger one: on race day, in race week, else. `record` the same for the race's own record.
    """

    race: float = 60.0
    near: float = 900.0
    evening: float = 3_600.0
    routine: float = 14_400.0
    over: float = 86_400.0
    near_before: float = 24 * HOUR
    race_before: float = 4 * HOUR
    race_after: float = HOUR
    near_after: float = 6 * HOUR
    evening_after: float = 24 * HOUR
    week_before: float = 7 * DAY
    days_after: int = 8
    full_small: tuple[float, float, float] = (600.0, 4 * HOUR, DAY)
    full_large: tuple[float, float, float] = (HOUR, 12 * HOUR, DAY)
    record: tuple[float, float, float] = (900.0, HOUR, DAY)
    retry_cap: float = 900.0

    @classmethod
    def of(cls, settings: Settings) -> Rhythm:
        """As the settings have it."""
        s, minute = settings, 60.0
        return cls(
            race=s.cadence_race_seconds,
            near=s.cadence_near_seconds,
            evening=s.cadence_evening_seconds,
            routine=s.cadence_routine_seconds,
            over=s.cadence_over_seconds,
            near_before=s.cadence_near_hours * HOUR,
            race_before=s.cadence_race_hours * HOUR,
            race_after=s.cadence_race_hours_after * HOUR,
            near_after=s.cadence_near_hours_after * HOUR,
            evening_after=s.cadence_evening_hours_after * HOUR,
            week_before=s.cadence_week_days * DAY,
            days_after=s.cadence_days_after,
            full_small=(
                s.full_race_minutes * minute,
                s.full_week_minutes * minute,
                s.full_routine_minutes * minute,
            ),
            full_large=(
                s.full_large_race_minutes * minute,
                s.full_large_week_minutes * minute,
                s.full_large_routine_minutes * minute,
            ),
            record=(
                s.record_race_minutes * minute,
                s.record_near_minutes * minute,
                s.record_routine_minutes * minute,
            ),
            retry_cap=s.retry_seconds,
        )


@dataclass(frozen=True, slots=True)
class CountingEvent:
    """An event that is kept fresh `until` an instant; None where that is not known, or never comes.

    `race_day` is the local day of its start.
    """

    start: datetime | None
    race_day: date | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Due:
    """When a race is to be read next, how often that is, unstretched, in seconds, and what rank it has then."""

    at: datetime
    period: float
    rank: Rank


@dataclass(frozen=True, slots=True)
class Span:
    """A time, in epoch seconds, through which a race has one period, unstretched, and one rank."""

    begin: float
    end: float
    period: float
    rank: Rank


@dataclass(frozen=True, slots=True)
class _Window:
    begin: float
    end: float
    period: float
    rank: Rank


class Cadence:
    """The cadence of one race, from its counting events."""

    def __init__(self, timing_partner_id: int, race_id: int, events: Iterable[CountingEvent], rhythm: Rhythm) -> None:
        self.rhythm = rhythm
        self.phase = _fraction(timing_partner_id, race_id) * DAY
        self._spread = _fraction(timing_partner_id, race_id, "full")
        self._windows = list(_windows(list(events), rhythm))

    def rank(self, now: datetime) -> Rank:
        """How the race ranks at an instant."""
        return self._rank(now.timestamp())

    def period(self, now: datetime) -> float | None:
        """The seconds between two passes at an instant, unstretched; None when the race is not read any more."""
        return self._period(now.timestamp())

    def next_due(self, now: datetime, stretch: float = 1.0) -> Due | None:
        """The first instant after `now` at which the race is due; None when it will not be again.

        `stretch` is what race day and race week are stretched by; routine never is.
        """
        at = now.timestamp()
        edges = sorted({edge for w in self._windows for edge in (w.begin, w.end) if at < edge < math.inf})
        begin, before = at, None
        for end in (*edges, math.inf):
            period = self._period(begin)
            if period is not None:
                found = self._on_grid(now if begin == at else None, begin, period, self._stretched(begin, stretch))
                if before is not None and period <= before[0]:  # a stretched grid need not meet the one before it
                    found = min(found, before[1])
                if found.timestamp() < end:
                    return Due(found, period, self._rank(found.timestamp()))
                before = period, found
            begin = end
        return None

    def race_day(self, now: datetime) -> tuple[datetime, datetime] | None:
        """From when to when the race next ranks as race day, or does already; None when it will not again."""
        at = now.timestamp()
        days = [(w.begin, w.end) for w in self._windows if w.rank is Rank.RACE_DAY and at < w.end]
        if not days:
            return None
        begin, end = min(days)
        return EPOCH + timedelta(seconds=begin), EPOCH + timedelta(seconds=end)

    def spans(self, begin: datetime, end: datetime) -> Iterator[Span]:
        """The spans of a time in which the race has one period and one rank; those in which it is not read left out."""
        first, last = begin.timestamp(), end.timestamp()
        edges = {edge for w in self._windows for edge in (w.begin, w.end) if first < edge < last}
        for since, until in pairwise((first, *sorted(edges), last)):
            period = self._period(since)
            if period is not None:
                yield Span(since, until, period, self._rank(since))

    def full_every(self, now: datetime, *, fits_one_page: bool, stretch: float = 1.0) -> timedelta:
        """How old the last full pass may be; somewhat different for each race, so that they do not all come at once."""
        ages = self.rhythm.full_small if fits_one_page else self.rhythm.full_large
        age = {Rank.RACE_DAY: ages[0], Rank.RACE_WEEK: ages[1]}.get(self.rank(now), ages[2])
        return timedelta(seconds=age * (1 - SPREAD * self._spread) * self.stretched(now, stretch))

    def record_every(self, now: datetime, stretch: float = 1.0) -> timedelta:
        """How old the race's own record may be."""
        on_race_day, near, else_ = self.rhythm.record
        if self.rank(now) is Rank.RACE_DAY:
            age = on_race_day
        else:
            age = near if self.period(now) == self.rhythm.near else else_
        return timedelta(seconds=age * self.stretched(now, stretch))

    def stretched(self, now: datetime, stretch: float) -> float:
        """By what the race's periods are lengthened at an instant: of race day and race week only."""
        return self._stretched(now.timestamp(), stretch)

    def calls_per_hour(self, now: datetime, *, full_calls: int = CALLS_OF_A_PASS, all_full: bool = False) -> float:
        """The calls that the race asks for in an hour as it is at an instant, before anything is stretched.

        Passes, what a full one of `full_calls` takes beyond others, and readings of the race's own record. `all_full`:
        every pass of race day's period is a full one.
        """
        period = self.period(now)
        if period is None:
            return 0.0
        full = self.full_every(now, fits_one_page=full_calls <= CALLS_OF_A_PASS).total_seconds()
        if all_full and period == self.rhythm.race:
            full = period
        record = self.record_every(now).total_seconds()
        more = full_calls - CALLS_OF_A_PASS
        return HOUR * (CALLS_OF_A_PASS / period + more / max(full, period) + 1 / max(record, period))

    def retry_at(self, now: datetime, failures: int, jitter: float, stretch: float = 1.0) -> Due | None:
        """When a race whose last so many passes failed is tried again: sooner than by its cadence, never later.

        `jitter` is between 0 and 1.
        """
        due = self.next_due(now, stretch)
        if due is None:
            return None
        wait = timedelta(seconds=retry_delay(failures, jitter, cap=self.rhythm.retry_cap))
        return due if now + wait >= due.at else Due(now + wait, due.period, self.rank(now))

    def _period(self, at: float) -> float | None:
        return min((w.period for w in self._windows if w.begin <= at < w.end), default=None)

    def _rank(self, at: float) -> Rank:
        return max((w.rank for w in self._windows if w.begin <= at < w.end), default=Rank.ROUTINE)

    def _stretched(self, at: float, stretch: float) -> float:
        return max(stretch, 1.0) if self._rank(at) > Rank.ROUTINE else 1.0

    def _on_grid(self, after: datetime | None, begin: float, period: float, stretch: float) -> datetime:
        """The first instant of a grid after an instant, or else from `begin` on. In whole microseconds: no rounding."""
        step = timedelta(seconds=period) * math.ceil(stretch * 100) // 100
        origin = EPOCH + timedelta(seconds=self.phase)
        if after is not None:
            return after + (step - (after - origin) % step)
        first = EPOCH + timedelta(seconds=begin)
        return first + (origin - first) % step


def retry_delay(failures: int, jitter: float, *, cap: float) -> float:
    """Seconds to wait after so many failures in a row: doubling, spread by a quarter to both sides, capped."""
    doubled = FIRST_RETRY * 2.0 ** min(max(failures, 1) - 1, 32)
    return min(doubled * (0.75 + 0.5 * jitter), cap)


def stretch_factor(pressing: float, routine: float, capacity: float) -> float:
    """By how much periods are lengthened so that what race day and race week need fits beside routine; 1 if it does.

    All in the same unit: calls an hour, or seconds of lanes in an hour.
    """
    room = max(capacity * HEADROOM - routine, capacity * LEAST)
    return max(1.0, pressing / room)


def _windows(events: list[CountingEvent], rhythm: Rhythm) -> Iterable[_Window]:
    days: dict[date | None, list[CountingEvent]] = {}
    for event in events:
        days.setdefault(event.race_day if event.start is not None else None, []).append(event)
    if days.pop(None, None):
        yield _Window(-math.inf, math.inf, rhythm.routine, Rank.ROUTINE)
    for of_day in days.values():
        starts = [min(event.start.timestamp(), LATEST) for event in of_day if event.start is not None]
        first, last = min(starts), max(starts)
        until = max((math.inf if e.until is None else e.until.timestamp()) for e in of_day)
        for begin, end, period, rank in (
            (-math.inf, first, rhythm.routine, Rank.ROUTINE),
            (first - rhythm.week_before, first, rhythm.routine, Rank.RACE_WEEK),
            (first - rhythm.near_before, last + rhythm.near_after, rhythm.near, Rank.RACE_WEEK),
            (first - rhythm.race_before, last + rhythm.race_after, rhythm.race, Rank.RACE_DAY),
            (first, last + rhythm.evening_after, rhythm.evening, Rank.RACE_WEEK),
            (first, until, rhythm.over, Rank.ROUTINE),
        ):
            yield _Window(begin, min(end, until), period, rank)


def _fraction(*parts: object) -> float:
    """A number from 0 to below 1 that is the same for the same parts on every machine."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=6).digest()
    return (int.from_bytes(digest, "big") % 86_400_000) / 86_400_000
