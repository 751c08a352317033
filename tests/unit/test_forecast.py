"""What the hours to come will ask for: as many calls as the cadence then makes, and stretched as the scheduler does."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from startlist.schedule.cadence import Cadence, CountingEvent, Rhythm
from startlist.schedule.forecast import Forecast, PlannedRace, forecast
from startlist.store.budget import Rank

BEGIN = datetime(2027, 11, 25, 5, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")
HOUR = timedelta(hours=1)
PLENTY = 1e9
RHYTHM = Rhythm(record=(PLENTY, PLENTY, PLENTY))  # passes only


def race(
    number: int, start: datetime, rhythm: Rhythm = RHYTHM, *, full: int = 2, distrusted: bool = False
) -> PlannedRace:
    event = CountingEvent(start, start.date(), start + timedelta(days=8))
    return PlannedRace(1, Cadence(1, number, [event], rhythm), full, distrusted)


def told(races: list[PlannedRace], *, calls: int = 1000, lane_calls: float = PLENTY, hours: int = 24) -> Forecast:
    return forecast(races, {1: calls}, lane_calls=lane_calls, begin=BEGIN, hours=hours, zone=NEW_YORK)


def test_as_many_calls_as_the_cadence_makes() -> None:
    chance = random.Random(7)
    races = [race(n, BEGIN + HOUR * chance.uniform(-30, 60)) for n in range(60)]
    hours = 48
    made: Counter[int] = Counter()
    for one in races:
        at = BEGIN
        while (due := one.cadence.next_due(at)) is not None and due.at < BEGIN + hours * HOUR:
            made[int((due.at - BEGIN) / HOUR)] += 2
            at = due.at
    found = told(races, hours=hours).lanes
    for number, hour in enumerate(found):
        local = hour.at.astimezone(NEW_YORK).hour
        extra = {2: 1 + 2 * len(races), 6: 1, 18: 1}.get(local, 0)  # the race list, and every race at 02:00
        asked = hour.need.pressing + hour.need.routine - extra
        assert asked == pytest.approx(made[number], rel=0.05, abs=2 * 8)  # a pass or two at each edge
    total = sum(hour.need.pressing + hour.need.routine for hour in found) - 2 * (3 + 2 * len(races))
    assert total == pytest.approx(made.total(), rel=0.01)


def test_hours_that_do_not_fit_are_stretched_as_the_scheduler_stretches() -> None:
    races = [race(n, BEGIN + 4 * HOUR) for n in range(10)]  # 1,200 calls an hour from the first hour on
    hours = told(races, calls=1000).credentials[1]
    assert [hour.fits for hour in hours[:7]] == [False] * 5 + [True] * 2
    assert hours[0].need.calls[Rank.RACE_DAY] == pytest.approx(1200)
    assert hours[0].stretch == pytest.approx(1200 / 920)
    assert hours[0].period == 60
    assert hours[0].planned == pytest.approx(920)
    assert hours[0].for_backfill == 0
    assert hours[0].crowds_out
    assert not hours[7].crowds_out


@pytest.mark.parametrize(("races", "fit"), [(500, True), (2_500, False)])
def test_routine_takes_its_share_and_what_is_left_waits(races: int, fit: bool) -> None:
    far = [race(n, BEGIN + timedelta(days=60)) for n in range(races)]
    hours = told(far).credentials[1]
    assert all(hour.planned <= 850.001 for hour in hours)
    assert hours[2].waiting > 0  # of all races, which are read at 02:00
    made, asked = sum(hour.planned for hour in hours), sum(hour.need.routine + hour.need.pressing for hour in hours)
    assert made + hours[-1].waiting == pytest.approx(asked)
    assert all(hour.fits for hour in hours) is fit
    assert (hours[-1].waiting == 0) is fit


def test_lanes_stretch_all_keys() -> None:
    found = told([race(n, BEGIN + 4 * HOUR) for n in range(5)], lane_calls=300)
    assert found.lanes[1].stretch == pytest.approx(600 / 276)
    assert found.credentials[1][1].stretch == found.lanes[1].stretch


def test_full_passes_records_and_distrust_cost_what_they_cost() -> None:
    day = Rhythm()
    small, large = (told([race(1, BEGIN + 4 * HOUR, day, full=full)]).lanes[1].need for full in (2, 12))
    assert small.pressing == pytest.approx(120 + 4)  # the record four times an hour
    more = large.pressing - small.pressing
    assert 10 <= more <= 10 / 0.75  # a full pass of a large race every hour, somewhat sooner
    wary = told([race(1, BEGIN + 4 * HOUR, day, full=12, distrusted=True)]).lanes[1].need
    assert wary.pressing == pytest.approx(60 * 12 + 4)


def test_what_is_over_for_good_asks_for_nothing() -> None:
    hours = told([race(1, BEGIN - timedelta(days=30))]).lanes
    assert {hour.at.astimezone(NEW_YORK).hour: hour.planned for hour in hours if hour.planned} == {2: 1, 6: 1, 18: 1}
    assert all(hour.period is None for hour in hours)


def test_fifty_thousand_races_are_planned_in_seconds() -> None:
    races = [race(n, BEGIN + HOUR * (n % 2_000)) for n in range(50_000)]
    began = datetime.now(UTC)
    found = told(races, hours=8 * 24)
    assert datetime.now(UTC) - began < timedelta(seconds=30)
    assert len(found.lanes) == 8 * 24
