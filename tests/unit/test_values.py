"""How RunSignup's values are read: traps 13, 27, 29 and the rest of the facts on formats."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from startlist.runsignup import values
from startlist.runsignup.values import MisfitError

DENVER = ZoneInfo("America/Denver")


@pytest.mark.parametrize(("sent", "meant"), [("T", True), ("F", False), (True, True), (False, False), ("true", True)])
def test_a_flag_is_t_or_f(sent: object, meant: bool) -> None:
    assert values.flag(sent) is meant


@pytest.mark.parametrize("sent", ["t", "Y", "", 1, 0, "yes", [], {}])
def test_nothing_else_is_a_flag(sent: object) -> None:
    with pytest.raises(MisfitError):
        values.flag(sent)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("$55.00", "55.00"),
        ("$1,055.00", "1055.00"),
        ("$1,234,567.89", "1234567.89"),
        ("-$5.00", "-5.00"),
        ("$-5.00", "-5.00"),
        ("$0.00", "0.00"),
        ("12.50", "12.50"),
        ("$7", "7"),
    ],
)
def test_trap_27_money_is_exact(sent: str, meant: str) -> None:
    assert str(values.money(sent)) == meant
    assert isinstance(values.money(sent), Decimal)


@pytest.mark.parametrize("sent", ["", "free", "$", "$1,05,5.00", "$1.234", "-$-5.00", "$ 5", 5, 5.5, None, "$5.00\n"])
def test_trap_27_what_is_not_money_is_not_guessed(sent: object) -> None:
    with pytest.raises(MisfitError):
        values.money(sent)


@pytest.mark.parametrize(("sent", "bib"), [(3, "3"), ("3", "3"), ("007", "007"), ("A12", "A12"), (0, "0")])
def test_trap_29_a_bib_is_text_or_number(sent: object, bib: str) -> None:
    assert values.label(sent) == bib


@pytest.mark.parametrize("sent", [7.0, "", True, [], 10**30])
def test_trap_29_what_is_no_bib(sent: object) -> None:
    with pytest.raises(MisfitError):
        values.label(sent)


@pytest.mark.parametrize("sent", [0, -1, 2**63, "0", "x", "1.0", 1.0, "", True, "12345678901234567890"])
def test_ids_are_whole_numbers_that_the_database_can_hold(sent: object) -> None:
    with pytest.raises(MisfitError):
        values.identifier(sent)
    assert values.identifier("2645624") == values.identifier(2645624) == 2645624


def test_trap_13_eastern_is_neither_utc_nor_race_time() -> None:
    assert values.eastern("9/7/2021 15:15") == datetime(2021, 9, 7, 19, 15, tzinfo=UTC)
    assert values.eastern("12/19/2011 11:47") == datetime(2011, 12, 19, 16, 47, tzinfo=UTC)
    start = values.local_time("6/14/2026 07:00", DENVER)
    assert start.astimezone(DENVER).isoformat() == "2026-06-14T07:00:00-06:00"


def test_trap_13_a_repeated_hour_is_the_first_and_a_skipped_one_goes_forward() -> None:
    assert values.eastern("11/1/2026 01:30") == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)  # still daylight time
    assert values.eastern("3/8/2026 02:30") == datetime(2026, 3, 8, 7, 30, tzinfo=UTC)  # 03:30 daylight time


def test_trap_12_removed_dates_are_the_same_instant_in_the_other_format() -> None:
    assert values.eastern("2021-09-23 09:54:37") == values.epoch(1632405277)
    assert values.eastern("9/7/2021 15:15") == values.eastern("2021-09-07 15:15:00")
    assert values.epoch("1631042122").replace(second=0) == values.eastern("9/7/2021 15:15")


@pytest.mark.parametrize(
    "sent",
    [
        "13/1/2021 10:00",
        "2/30/2021 10:00",
        "9/7/2021 24:00",
        "9/7/21 10:00",
        "9/7/2021",
        "",
        "now",
        5,
        "12/31/9999 23:00",
    ],
)
def test_a_time_that_is_none(sent: object) -> None:
    with pytest.raises(MisfitError):
        values.eastern(sent)


@pytest.mark.parametrize("sent", [-1, 253_402_300_800, 1_631_042_122_000, "soon", 1.5])
def test_an_epoch_that_is_none(sent: object) -> None:
    with pytest.raises(MisfitError):
        values.epoch(sent)


def test_days() -> None:
    assert values.day("04/06/2019") == values.day("2019-04-06") == values.day("4/6/2019 00:00") == date(2019, 4, 6)
    assert values.birthday("1986-01-06") == date(1986, 1, 6)
    for sent in ("1/6/1986", "1986-01-06 00:00", "XXXX-XX-XX", "0000-00-00", "13/45/1990", "", 19860106):
        with pytest.raises(MisfitError):
            values.birthday(sent)
    with pytest.raises(MisfitError):
        values.day("4/6/2019 09:00")


@pytest.mark.parametrize("name", [None, "", "Mars/Olympus", "America", "../../etc/passwd", "America/Denver\x00"])
def test_a_missing_or_unknown_zone_is_eastern_and_said_so(name: str | None) -> None:
    assert values.zone(name) == (values.EASTERN, False)
    assert values.zone("America/Denver") == (DENVER, True)


@pytest.mark.parametrize(
    ("distance", "meters"),
    [
        ("5K", "5000.00"),
        ("3.2 Miles", "5149.90"),
        ("13.1 miles", "21082.41"),
        (" 10 km ", "10000.00"),
        ("1 Mile", "1609.34"),
        ("100 Yards", "91.44"),
        ("Half Marathon", "21097.50"),
        ("marathon", "42195.00"),
    ],
)
def test_distances_that_mean_one_thing(distance: str, meters: str) -> None:
    assert str(values.meters(distance)) == meters


@pytest.mark.parametrize("distance", ["", "5", "400m", "5M", "5K/10K", "6 hours", "Kids 1K", "1/2 Mile", "5K Run"])
def test_distances_that_might_mean_another(distance: str) -> None:
    assert values.meters(distance) is None


@given(st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.booleans(), st.lists(st.integers(), max_size=2)))
def test_no_value_does_more_than_not_fit(sent: object) -> None:
    for read in (values.flag, values.money, values.eastern, values.epoch, values.day, values.birthday, values.label):
        with suppress(MisfitError):
            assert read(sent) is not None
