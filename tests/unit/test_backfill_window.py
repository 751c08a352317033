"""The hours of a backfill: how they are written, when they open, over midnight and both changes of the clocks."""

from __future__ import annotations

import time as system
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from startlist.errors import ConfigurationError
from startlist.sync.backfill.window import Window

NEW_YORK = ZoneInfo("America/New_York")  # clocks: 2026-03-08 2:00 to 3:00, 2026-11-01 2:00 to 1:00
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # by half an hour: 2026-04-05 2:00 to 1:30, 2026-10-04 2:00 to 2:30
NIGHT = Window(time(22), time(5), NEW_YORK)


def at(text: str, zone: ZoneInfo = NEW_YORK, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).astimezone(UTC)


# -- how they are written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("22:00-05:00", time(22), time(5)),
        (" 9:05 - 17:30 ", time(9, 5), time(17, 30)),
        ("00:00\N{EN DASH}6:00", time(0), time(6)),
    ],
)
def test_two_times_of_the_day(text: str, begin: time, end: time) -> None:
    window = Window.parse(text, NEW_YORK)
    assert (window.begin, window.end, window.zone) == (begin, end, NEW_YORK)


@pytest.mark.parametrize(
    "text",
    ["", "22:00", "22-05", "22:00-", "-05:00", "24:00-05:00", "22:60-05:00", "22:00-05:00-06:00", "10pm-5am",
     "22:00:00-05:00:00", "22:00 to 05:00", "-22:00-05:00", "22:00-05:00\nand more"],
)  # fmt: skip
def test_anything_else_is_no_window(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--between: write two times of the day, as 22:00-05:00"):
        Window.parse(text, NEW_YORK)


def test_a_window_of_no_length_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="both times are the same"):
        Window.parse("7:00-07:00", NEW_YORK)


def test_it_names_its_times() -> None:
    assert str(Window.parse("22:00-5:00", None)) == "22:00 and 05:00"


@pytest.mark.parametrize(
    ("text", "hours"), [("22:00-05:00", 7), ("09:00-17:30", 8.5), ("00:00-12:00", 12), ("12:00-00:00", 12)]
)
def test_share_of_the_day(text: str, hours: float) -> None:
    assert Window.parse(text, None).share_of_day == pytest.approx(hours / 24)


# -- when they open ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-07-01T21:59:59", "2026-07-01T22:00"),
        ("2026-07-01T22:00", None),
        ("2026-07-01T23:59:59", None),
        ("2026-07-02T00:00", None),
        ("2026-07-02T04:59:59", None),
        ("2026-07-02T05:00", "2026-07-02T22:00"),
        ("2026-12-31T12:00", "2026-12-31T22:00"),
    ],
)
def test_over_midnight(now: str, opens: str | None) -> None:
    assert NIGHT.closed_until(at(now)) == (None if opens is None else at(opens))


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-07-01T08:59", "2026-07-01T09:00"),
        ("2026-07-01T09:00", None),
        ("2026-07-01T17:00", "2026-07-02T09:00"),
        ("2026-12-31T18:00", "2027-01-01T09:00"),
    ],
)
def test_within_a_day(now: str, opens: str | None) -> None:
    day = Window(time(9), time(17), NEW_YORK)
    assert day.closed_until(at(now)) == (None if opens is None else at(opens))


def test_the_clocks_go_forward() -> None:
    before = at("2026-03-07T21:00")
    assert NIGHT.closed_until(before) == datetime(2026, 3, 8, 3, tzinfo=UTC)
    assert NIGHT.closed_until(datetime(2026, 3, 8, 8, 59, tzinfo=UTC)) is None  # 4:59, an hour earlier than in winter
    assert NIGHT.closed_until(datetime(2026, 3, 8, 9, tzinfo=UTC)) == datetime(2026, 3, 9, 2, tzinfo=UTC)


def test_the_clocks_go_back() -> None:
    assert NIGHT.closed_until(at("2026-10-31T21:00")) == datetime(2026, 11, 1, 2, tzinfo=UTC)
    for fold in (0, 1):
        assert NIGHT.closed_until(at("2026-11-01T01:30", fold=fold)) is None
    assert NIGHT.closed_until(datetime(2026, 11, 1, 9, 59, tzinfo=UTC)) is None
    assert NIGHT.closed_until(datetime(2026, 11, 1, 10, tzinfo=UTC)) == datetime(2026, 11, 2, 3, tzinfo=UTC)


def test_a_zone_whose_clocks_move_by_half_an_hour() -> None:
    window = Window(time(1, 45), time(4), LORD_HOWE)
    assert window.closed_until(at("2026-04-05T01:00", LORD_HOWE)) == at("2026-04-05T01:45", LORD_HOWE)
    assert window.closed_until(at("2026-10-04T01:00", LORD_HOWE)) == at("2026-10-04T01:45", LORD_HOWE)
    assert window.closed_until(at("2026-10-04T04:00", LORD_HOWE)) == at("2026-10-05T01:45", LORD_HOWE)


def test_a_window_that_this_night_does_not_have_opens_in_the_next() -> None:
    window = Window(time(2, 10), time(2, 50), NEW_YORK)
    opens = window.closed_until(at("2026-03-08T01:00"))
    assert opens == at("2026-03-09T02:10")


@pytest.fixture
def machine_in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        system.tzset()
        yield
    system.tzset()


@pytest.mark.usefixtures("machine_in_tokyo")
def test_without_a_zone_it_is_the_machines() -> None:
    window = Window(time(22), time(5), None)
    assert window.closed_until(datetime(2026, 7, 1, 12, tzinfo=UTC)) == datetime(2026, 7, 1, 13, tzinfo=UTC)
    assert window.closed_until(datetime(2026, 7, 1, 13, tzinfo=UTC)) is None
    assert window.closed_until(datetime(2026, 7, 1, 20, tzinfo=UTC)) == datetime(2026, 7, 2, 13, tzinfo=UTC)


times = st.integers(0, 24 * 60 - 1).map(lambda minutes: time(minutes // 60, minutes % 60))
moments = st.builds(
    lambda night, seconds: night + timedelta(seconds=seconds),
    st.sampled_from([at("2026-03-08T00:00"), at("2026-11-01T00:00"), at("2026-04-05T00:00", LORD_HOWE)]),
    st.integers(-86_400, 86_400) | st.integers(0, 400 * 86_400),
)


@given(now=moments, begin=times, end=times, zone=st.sampled_from([NEW_YORK, LORD_HOWE, ZoneInfo("UTC"), None]))
def test_it_opens_later_than_now_and_is_open_then(now: datetime, begin: time, end: time, zone: ZoneInfo | None) -> None:
    if begin == end:
        return
    window = Window(begin, end, zone)
    opens = window.closed_until(now)
    if opens is not None:
        assert now < opens <= now + timedelta(days=2, hours=2)
        assert opens.tzinfo is UTC
        assert window.closed_until(opens) is None
