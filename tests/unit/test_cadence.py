"""The cadence: when a race is due, with what rank, and which pass it gets."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from startlist.config import Settings
from startlist.schedule.cadence import (
    Cadence,
    CountingEvent,
    Due,
    Rhythm,
    retry_delay,
    stretch_factor,
)
from startlist.store.budget import Rank

RHYTHM = Rhythm()
HOUR = timedelta(hours=1)
NEW_YORK = ZoneInfo("America/New_York")
GUN = datetime(2027, 5, 1, 11, 0, tzinfo=UTC)


def event(start: datetime | None, days: int = 8) -> CountingEvent:
    if start is None:
        return CountingEvent(None, None, None)
    local = start.astimezone(NEW_YORK)
    return CountingEvent(start, local.date(), (local + timedelta(days=days)).astimezone(UTC))


def cadence(*starts: datetime | None, race_id: int = 7, rhythm: Rhythm = RHYTHM) -> Cadence:
    return Cadence(1, race_id, [event(start) for start in starts], rhythm)


def walk(of: Cadence, begin: datetime, end: datetime, stretch: float = 1.0) -> list[Due]:
    """All due instants between two instants."""
    found: list[Due] = []
    now = begin
    while (due := of.next_due(now, stretch)) is not None and due.at < end:
        assert due.at > now
        found.append(due)
        now = due.at
    return found


def changes(starts: list[datetime]) -> list[datetime]:
    """Where the period may change: before the first and after the last start of a race day, and in between."""
    return [start + hours * HOUR for start in starts for hours in (-168, -24, -4, 0, 1, 6, 24)]


@pytest.mark.parametrize(
    ("hours", "period", "rank"),
    [
        (-24 * 7.1, 14_400, Rank.ROUTINE),
        (-24 * 6.9, 14_400, Rank.RACE_WEEK),
        (-24.1, 14_400, Rank.RACE_WEEK),
        (-23.9, 900, Rank.RACE_WEEK),
        (-4.1, 900, Rank.RACE_WEEK),
        (-4, 60, Rank.RACE_DAY),
        (0, 60, Rank.RACE_DAY),
        (2.9, 60, Rank.RACE_DAY),  # an hour after the last start
        (3.1, 900, Rank.RACE_WEEK),
        (7.9, 900, Rank.RACE_WEEK),
        (8.1, 3_600, Rank.RACE_WEEK),
        (25.9, 3_600, Rank.RACE_WEEK),
        (26.1, 86_400, Rank.ROUTINE),
        (2 + 24 * 7.9, 86_400, Rank.ROUTINE),
        (2 + 24 * 8.1, None, Rank.ROUTINE),
    ],
)
def test_the_period_and_the_rank_go_by_the_first_and_the_last_start(
    hours: float, period: float | None, rank: Rank
) -> None:
    of, now = cadence(GUN, GUN + 2 * HOUR), GUN + hours * HOUR
    assert (of.period(now), of.rank(now)) == (period, rank)


def test_each_race_day_counts_by_itself() -> None:
    of = cadence(GUN, GUN + 24 * HOUR)
    assert of.period(GUN + 2 * HOUR) == 900
    assert of.period(GUN + 21 * HOUR) == 60
    far = cadence(GUN, GUN + timedelta(days=7))
    assert far.period(GUN + 30 * HOUR) == 14_400  # not daily: another start is coming
    assert far.rank(GUN + 30 * HOUR) is Rank.RACE_WEEK
    assert far.period(GUN + timedelta(days=14)) == 86_400
    assert far.period(GUN + timedelta(days=15, hours=1)) is None


def test_race_days_are_local_days() -> None:
    evening = datetime(2027, 5, 1, 23, 0, tzinfo=UTC)  # 19:00 in New York
    night = datetime(2027, 5, 2, 3, 0, tzinfo=UTC)  # 23:00, the same day
    assert cadence(evening, night).period(evening + 2 * HOUR) == 60


def test_an_event_without_a_start_is_routine_beside_whatever_there_is() -> None:
    assert cadence(None).period(GUN) == 14_400
    assert cadence(None).rank(GUN) is Rank.ROUTINE
    assert cadence(None, GUN).period(GUN) == 60
    assert cadence(None, GUN).period(GUN + timedelta(days=400)) == 14_400


def test_nothing_is_due_without_events_and_when_all_are_long_over() -> None:
    assert cadence().next_due(GUN) is None
    assert cadence(GUN).next_due(GUN + timedelta(days=8)) is None
    last = walk(cadence(GUN), GUN + timedelta(days=5), GUN + timedelta(days=99))[-1]
    assert GUN + timedelta(days=7) <= last.at < GUN + timedelta(days=8)


def test_a_race_in_the_year_9999_is_routine() -> None:
    never = CountingEvent(datetime.max.replace(tzinfo=UTC), date.max, None)
    due = Cadence(1, 1, [never], RHYTHM).next_due(GUN)
    assert due is not None
    assert due.at - GUN <= timedelta(hours=4)


@given(
    starts=st.lists(st.integers(0, 14 * 86_400).map(lambda s: GUN + timedelta(seconds=s)), min_size=1, max_size=5),
    race_id=st.integers(1, 10**9),
    begin=st.integers(-10 * 86_400, 20 * 86_400),
    stretch=st.one_of(st.just(1.0), st.floats(1.0, 9.0)),
)
def test_no_gap_is_longer_than_the_longest_period_in_it(
    starts: list[datetime], race_id: int, begin: int, stretch: float
) -> None:
    of = cadence(*starts, race_id=race_id)
    now = GUN + timedelta(seconds=begin)
    for _ in range(30):
        due = of.next_due(now, stretch)
        if due is None:
            return
        longest = max(of.period(at) or 0 for at in (now, due.at, *changes(starts)) if now <= at <= due.at)
        assert timedelta() < due.at - now <= timedelta(seconds=longest * (stretch + 0.01))
        assert due.period == of.period(due.at)
        assert due.rank is of.rank(due.at)
        now = due.at


@given(race_id=st.integers(1, 10**9), offset=st.floats(0, 86_400), stretch=st.floats(1.0, 5.0))
def test_the_grids_nest(race_id: int, offset: float, stretch: float) -> None:
    now = GUN - timedelta(days=5, seconds=offset)
    week = cadence(GUN, race_id=race_id).next_due(now, stretch)
    minute = cadence(GUN - timedelta(days=5), race_id=race_id)
    assert week is not None
    assert week.at in [due.at for due in walk(minute, week.at - 2 * HOUR, week.at + HOUR, stretch)]


@given(race_id=st.integers(1, 10**9), offset=st.floats(0, 86_400), stretch=st.floats(1.0, 5.0))
def test_race_day_and_race_week_are_stretched_and_routine_never_is(race_id: int, offset: float, stretch: float) -> None:
    of = cadence(GUN, race_id=race_id)
    far = GUN - timedelta(days=30, seconds=offset)
    assert of.next_due(far, stretch) == of.next_due(far)
    assert of.stretched(far, stretch) == 1
    assert of.full_every(far, fits_one_page=True, stretch=stretch) == of.full_every(far, fits_one_page=True)
    begin, end = GUN - timedelta(days=6), GUN - timedelta(days=2)
    few, many = (len(list(walk(of, begin, end, by))) for by in (stretch, 1.0))
    assert few <= many / stretch + 2


@given(race_id=st.integers(1, 10**9), stretch=st.floats(1.0, 5.0))
def test_where_race_week_begins_no_gap_is_longer_than_what_was_planned_before(race_id: int, stretch: float) -> None:
    of, begins = cadence(GUN, race_id=race_id), GUN - timedelta(days=7)
    times = [due.at for due in walk(of, begins - timedelta(days=1), begins + timedelta(days=1), stretch)]
    assert min(at for at in times if at >= begins) - max(at for at in times if at < begins) <= 4 * HOUR


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_races_have_phases_of_their_own(one: int, other: int) -> None:
    first, second = cadence(GUN, race_id=one), cadence(GUN, race_id=other)
    assert (first.phase == second.phase) == (one == other) or abs(one - other) > 0
    assert 0 <= first.phase < 86_400


@pytest.mark.parametrize("day", [date(2027, 3, 14), date(2027, 11, 7)])
def test_a_race_on_the_day_of_a_clock_change_has_all_its_minutes(day: date) -> None:
    gun = datetime(day.year, day.month, day.day, 7, 0, tzinfo=NEW_YORK).astimezone(UTC)
    of = cadence(gun)
    minutes = [due for due in walk(of, gun - 26 * HOUR, gun + 26 * HOUR) if due.rank is Rank.RACE_DAY]
    assert len(minutes) == 5 * 60
    assert of.period(gun - 23 * HOUR) == 900
    assert of.period(gun - 25 * HOUR) == 14_400


def test_the_last_full_pass_may_be_older_the_farther_the_start_and_the_larger_the_race() -> None:
    of = cadence(GUN)
    ages = [
        of.full_every(GUN + hours * HOUR, fits_one_page=small).total_seconds() / 60
        for small in (True, False)
        for hours in (0, -48, -24 * 20)
    ]
    for age, most in zip(ages, (10, 240, 1440, 60, 720, 1440), strict=True):
        assert 0.75 * most <= age <= most
    assert of.full_every(GUN, fits_one_page=True, stretch=3) > 2.9 * of.full_every(GUN, fits_one_page=True)
    differing = {cadence(GUN, race_id=n).full_every(GUN, fits_one_page=True) for n in range(20)}
    assert len(differing) > 10


def test_the_record_is_read_more_often_near_the_start() -> None:
    of = cadence(GUN)
    ages = [of.record_every(GUN + hours * HOUR) for hours in (-48, -23, -3, 0, 3, 30)]
    assert [age.total_seconds() / 60 for age in ages] == [1440, 60, 15, 15, 60, 1440]


@given(st.integers(1, 1000), st.floats(0, 1))
def test_a_retry_waits_longer_each_time_and_never_longer_than_the_cap(failures: int, jitter: float) -> None:
    delay = retry_delay(failures, jitter, cap=900)
    assert 10 < delay <= 900
    assert retry_delay(failures + 2, jitter, cap=900) >= delay
    assert retry_delay(1, jitter, cap=900) < 20
    assert retry_delay(3, 0.4, cap=900) < retry_delay(3, 0.6, cap=900)  # those that failed together come apart


@given(st.integers(1, 50), st.floats(0, 1), st.integers(-20 * 86_400, 7 * 86_400))
def test_a_retry_is_never_later_than_the_cadence(failures: int, jitter: float, seconds: int) -> None:
    of, now = cadence(GUN), GUN + timedelta(seconds=seconds)
    again, due = of.retry_at(now, failures, jitter), of.next_due(now)
    assert again is not None
    assert due is not None
    assert now < again.at <= due.at
    assert again.at - now <= timedelta(seconds=900)
    if of.rank(now) is Rank.RACE_DAY:
        assert again.at - now <= timedelta(minutes=1)


def test_periods_stretch_only_when_race_day_needs_more_than_there_is() -> None:
    assert stretch_factor(100, 50, 1000) == 1
    assert stretch_factor(1840, 0, 1000) == pytest.approx(2)
    assert stretch_factor(1640, 100, 1000) == pytest.approx(2)
    assert stretch_factor(200, 5000, 1000) == pytest.approx(2)  # routine never takes all


def test_a_stretched_cadence_is_as_regular() -> None:
    times = [due.at for due in walk(cadence(GUN), GUN - 3 * HOUR, GUN, stretch=2.5)]
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(seconds=150)}


def test_the_settings_say_the_same_as_the_defaults() -> None:
    assert Rhythm.of(Settings(_env_file=None)) == Rhythm()  # type: ignore[call-arg]
