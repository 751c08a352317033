"""The daily times, also on the days on which the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from startlist.schedule.daily import BASE, LISTINGS, latest, upcoming

NEW_YORK, BERLIN = ZoneInfo("America/New_York"), ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "last", "following"),
    [
        ("2027-05-01T12:00-04:00", "2027-05-01T06:00-04:00", "2027-05-01T18:00-04:00"),
        ("2027-05-01T06:00-04:00", "2027-05-01T06:00-04:00", "2027-05-01T18:00-04:00"),
        ("2027-05-01T23:00-04:00", "2027-05-01T18:00-04:00", "2027-05-02T02:00-04:00"),
        ("2027-05-01T01:00-04:00", "2027-04-30T18:00-04:00", "2027-05-01T02:00-04:00"),
        ("2027-03-14T01:59-05:00", "2027-03-13T18:00-05:00", "2027-03-14T03:00-04:00"),  # 02:00 is skipped
        ("2027-11-07T01:30-04:00", "2027-11-06T18:00-04:00", "2027-11-07T02:00-05:00"),
        ("2027-11-07T01:30-05:00", "2027-11-06T18:00-04:00", "2027-11-07T02:00-05:00"),
    ],
)
def test_the_times_are_local_times(now: str, last: str, following: str) -> None:
    at = datetime.fromisoformat(now)
    assert latest(at, LISTINGS, NEW_YORK) == datetime.fromisoformat(last)
    assert upcoming(at, LISTINGS, NEW_YORK) == datetime.fromisoformat(following)


def test_a_time_that_comes_twice_is_the_first_and_comes_once() -> None:
    before = datetime(2027, 10, 31, 0, 30, tzinfo=BERLIN)
    base = upcoming(before, (BASE,), BERLIN)
    assert base == datetime.fromisoformat("2027-10-31T02:00+02:00")
    assert upcoming(base, (BASE,), BERLIN) == datetime.fromisoformat("2027-11-01T02:00+01:00")


@given(
    st.integers(0, 800 * 1440).map(lambda minutes: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)),
    st.sampled_from([NEW_YORK, BERLIN, ZoneInfo("America/Phoenix"), ZoneInfo("Australia/Lord_Howe")]),
    st.sampled_from([(BASE,), LISTINGS, (time(2, 30),)]),
)
def test_what_comes_next_is_then_the_latest(now: datetime, zone: ZoneInfo, times: tuple[time, ...]) -> None:
    following = upcoming(now, times, zone)
    assert latest(now, times, zone) <= now < following
    assert latest(following, times, zone) == following
    assert latest(following - timedelta(microseconds=1), times, zone) == latest(now, times, zone)
    assert following - now <= timedelta(hours=25)
