"""How the sandbox writes values and rows."""

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from startlist.sandbox.clock import Clock
from startlist.sandbox.markup import to_xml
from startlist.sandbox.rows import EVERYTHING, Person, Registration, Rest, write_rows
from startlist.sandbox.wire import long_eastern, money, read_day, short_eastern, short_time, text, zone_of


@pytest.mark.parametrize(
    ("cents", "written"), [(5500, "$55.00"), (105500, "$1,055.00"), (-500, "-$5.00"), (0, "$0.00"), (7, "$0.07")]
)
def test_money(cents: int, written: str) -> None:
    assert money(cents) == written


def test_times_are_eastern_in_two_forms() -> None:
    assert short_eastern(1631042122) == "9/7/2021 15:15"
    assert long_eastern(1632405277) == "2021-09-23 09:54:37"
    assert short_time(datetime(2027, 1, 3, 7, 5)) == "1/3/2027 07:05"  # noqa: DTZ001 - local by nature
    # Both passes of the hour that November repeats look the same.
    assert short_eastern(1793511000) == short_eastern(1793511000 + 3600) == "11/1/2026 01:30"


@pytest.mark.parametrize(
    ("value", "day"),
    [
        ("2026-11-22", "2026-11-22"),
        ("today", "2026-11-21"),
        ("tomorrow", "2026-11-22"),
        ("1795341600", "2026-11-22"),
        ("11/22/2026", None),
        ("2026-13-01", None),
        ("20261122T", None),
        ("9" * 20, None),
    ],
)
def test_query_days_are_eastern(value: str, day: str | None) -> None:
    half_past_ten_in_the_evening_in_new_york = 1795318200.0
    found = read_day(value, half_past_ten_in_the_evening_in_new_york)
    assert (found.isoformat() if found else None) == day


def test_an_unknown_zone_counts_as_eastern() -> None:
    assert zone_of("Mars/Olympus").key == "America/New_York"
    assert zone_of(None).key == "America/New_York"
    assert zone_of("Pacific/Honolulu").key == "Pacific/Honolulu"


@given(st.text())
def test_text_survives_and_slashes_are_escaped(value: str) -> None:
    written = text({"name": value})
    assert json.loads(written) == {"name": value}
    assert written.isascii()
    assert written.count("/") == written.count("\\/")


_words = st.text(max_size=8)


@given(
    bib=st.none() | st.integers(0, 99999) | _words,
    chip=st.none() | _words,
    age=st.none() | st.integers(0, 99),
    modified=st.none() | st.integers(0, 2**31),
    odd=st.none() | st.just({}),
)
def test_the_quick_way_to_write_a_row_and_the_general_one_agree(
    bib: int | str | None, chip: str | None, age: int | None, modified: int | None, odd: dict[str, Any] | None
) -> None:
    person, rest = Person({"first_name": "A", "gender": "X"}), Rest({"imported": "F", "question_responses": []})
    row = Registration(8, 5, person, rest, 1631042122, modified, bib=bib, chip=chip, age=age)
    row.odd = odd
    (sent,) = json.loads(b"[" + b"".join(write_rows([row], 5, EVERYTHING)) + b"]")
    general = Registration(8, 5, person, rest, 1631042122, modified, bib=bib, chip=chip, age=age, team={})
    assert sent == json.loads(b"[" + b"".join(write_rows([general], 5, EVERYTHING)) + b"]")[0]
    assert (sent["bib_num"], sent["chip_num"], sent["age"], sent["last_modified"]) == (bib, chip, age, modified)
    assert list(sent)[:3] == ["user", "registration_id", "event_id"]


def test_a_row_without_fees_is_still_json() -> None:
    row = Registration(8, 5, Person({}), Rest({"question_responses": []}), 0, 0)
    assert json.loads(b"[" + b"".join(write_rows([row, row], 5, 0)) + b"]")[1]["registration_id"] == 8


def test_xml_holds_what_xml_can_hold() -> None:
    answer = [{"event": {"event_id": 5, "participants": [{"name": "A & <B> \u0000\ud800", "bib_num": None}]}}]
    written = to_xml(answer).decode()
    assert "<events><event><event_id>5</event_id>" in written
    assert "<participants><participant><name>A &amp; &lt;B&gt; </name><bib_num></bib_num></participant>" in written


def test_a_clock_stands_still_only_when_told_to() -> None:
    clock = Clock(1000.0, frozen=True)
    assert (clock.now(), clock.second(), clock.frozen) == (1000.0, 1000, True)
    clock.advance(-1)
    assert clock.now() == 999.0
    clock.freeze(False)
    assert 999.0 <= clock.now() < 1010.0
