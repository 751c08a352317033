"""What a backfill reads and what it leaves to the sync, in which order, and about how long it takes: pure decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from startlist.store.backfill import Progress
from startlist.sync.backfill.plan import (
    Options,
    calls_to_come,
    due,
    newest_past,
    past_events,
    seconds_to_come,
)
from startlist.sync.backfill.window import Window
from startlist.sync.plan import Options as SyncOptions
from startlist.sync.plan import wanted_events
from tests.unit.test_plan import NOW, event, listed, sent_event, stored

OPTIONS = Options()
LONG_AGO = datetime.min.replace(tzinfo=UTC)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def read(state: str, *event_ids: int, **more: Any) -> Progress:
    """A race whose record was read as `listed` has it."""
    given: dict[str, Any] = {"record_modified": ago(days=90), "event_ids": frozenset(event_ids)} | more
    return Progress(7, state, **given)


# -- which events ------------------------------------------------------------------------------------------------------


def test_what_is_over_for_a_day_is_read_the_newest_first() -> None:
    events = [event(1, ago(days=800)), event(2, ago(days=2)), event(3, ago(days=400)), event(4, ago(hours=-5))]
    assert past_events(events, (), OPTIONS, NOW) == [2, 3, 1]


def test_the_sync_keeps_an_event_until_a_day_after_its_end() -> None:
    events = [
        event(1, ago(hours=23)),
        event(2, ago(hours=25)),
        event(3, ago(days=9), ago(hours=20)),
        event(4, ago(days=9), ago(hours=30)),
        event(5, ago(hours=20), ago(days=30)),  # an end before its start
    ]
    assert past_events(events, (), OPTIONS, NOW) == [2, 4]


def test_every_event_is_either_the_syncs_or_the_backfills() -> None:
    events = [event(n, NOW + timedelta(hours=n - 60)) for n in range(120)] + [event(500, None)]
    for shown in ([], [listed(sent_event(500, None))]):
        fresh = wanted_events(stored(*events), shown, SyncOptions(), NOW).event_ids
        names = {one.event_id for race in shown for one in race.events}
        over = past_events(events, names, OPTIONS, NOW)
        assert fresh | set(over) == {one.event_id for one in events}
        assert fresh & set(over) == frozenset()


def test_those_of_the_same_start_go_by_their_numbers() -> None:
    assert past_events([event(n, ago(days=400)) for n in (1, 3, 2)], (), OPTIONS, NOW) == [3, 2, 1]


def test_since_a_day_in_the_races_own_zone() -> None:
    # 23:30 of the last day of 2024 in Honolulu, when it is 2025 elsewhere.
    late = event(1, datetime(2025, 1, 1, 9, 30, tzinfo=UTC), timezone="Pacific/Honolulu")
    first = event(2, datetime(2025, 1, 1, 12, tzinfo=UTC), timezone="Pacific/Honolulu")
    assert past_events([late, first], (), Options(since=date(2025, 1, 1)), NOW) == [2]
    assert past_events([late, first], (), Options(since=date(2024, 12, 31)), NOW) == [2, 1]


def test_an_event_without_a_start_is_the_syncs_while_it_is_listed_and_comes_last_after_it() -> None:
    events = [event(1, None), event(2, ago(days=4000))]
    assert past_events(events, {1}, OPTIONS, NOW) == [2]
    assert past_events(events, (), OPTIONS, NOW) == [2, 1]
    assert past_events(events, (), Options(since=date(2026, 1, 1)), NOW) == [1]  # nobody knows of which year it is


def test_an_event_of_a_year_that_never_comes_is_not_over() -> None:
    assert past_events([event(1, datetime(9999, 12, 31, 23, tzinfo=UTC))], (), OPTIONS, NOW) == []


def test_an_event_that_is_gone_is_not_asked_for() -> None:
    gone = event(1, ago(days=400), gone_at=ago(days=1))
    assert past_events([gone, event(2, ago(days=800))], (), OPTIONS, NOW) == [2]
    assert past_events([sent_event(1, ago(days=400))], (), OPTIONS, NOW) == [1]  # listed again


def test_the_list_begins_far_back_or_with_the_first_day_that_is_wanted() -> None:
    assert OPTIONS.list_from == date(1990, 1, 1)
    assert Options(since=date(2024, 2, 29)).list_from == date(2024, 2, 29)


# -- which races -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "why"),
    [
        (Progress(7), "never read"),
        (Progress(7, "reading"), "going on"),
        (Progress(7, "failed", "no answer arrived"), "failed before"),
        (read("done", 11), None),
        (read("partial", 11), None),
        (read("empty", 11), None),
        (read("refused"), None),
        (read("gone"), None),
    ],
)
def test_a_race_is_read_once(progress: Progress, why: str | None) -> None:
    race = stored(event(11, ago(days=400)))
    assert due(progress, race, listed(sent_event(12, ago(days=-9))), OPTIONS, NOW) == why


@pytest.mark.parametrize(
    ("state", "why"),
    [("done", "race changed"), ("partial", "race changed"), ("empty", "race changed"), ("refused", None),
     ("gone", None)],
)  # fmt: skip
def test_a_race_whose_record_changed_is_looked_at_again(state: str, why: str | None) -> None:
    assert due(read(state), stored(), listed(last_modified=ago(days=1)), OPTIONS, NOW) == why


def test_a_race_that_is_not_listed_has_not_changed() -> None:
    assert due(read("done", 11), stored(event(11, ago(days=400))), None, OPTIONS, NOW) is None


def test_an_event_that_is_over_now_is_read() -> None:
    race = stored(event(11, ago(days=400)), event(12, ago(days=3)), event(13, ago(days=2)), event(14, ago(hours=2)))
    assert due(read("done", 11), race, listed(), OPTIONS, NOW) == "not read yet: event 12, 13"
    assert due(read("empty", 11, 12), race, None, OPTIONS, NOW) == "not read yet: event 13"
    assert due(read("refused"), race, listed(), OPTIONS, NOW) is None


def test_what_could_not_be_read_or_is_gone_is_not_new() -> None:
    race = stored(event(11, ago(days=400)), event(12, ago(days=3), gone_at=ago(days=1)))
    assert due(read("partial", unread_event_ids=frozenset({11})), race, listed(), OPTIONS, NOW) is None


def test_years_that_an_earlier_backfill_did_not_want_are_read_by_one_that_does() -> None:
    race = stored(event(11, ago(days=100)), event(12, ago(days=900)))
    assert due(read("done", 11), race, listed(), Options(since=date(2026, 1, 1)), NOW) is None
    assert due(read("done", 11), race, listed(), OPTIONS, NOW) == "not read yet: event 12"


# -- in which order ----------------------------------------------------------------------------------------------------


def test_the_newest_past_of_a_race() -> None:
    known = stored(event(1, ago(days=800)), event(2, ago(days=436)), event(3, ago(days=-20)))
    assert newest_past(known, None, NOW) == ago(days=436)
    assert newest_past(known, listed(sent_event(4, ago(days=72))), NOW) == ago(days=72)
    assert newest_past(None, listed(sent_event(4, ago(days=-72))), NOW) == LONG_AGO
    assert newest_past(stored(event(1, None)), listed(sent_event(2, None)), NOW) == LONG_AGO


def test_the_days_that_the_list_shows_count_too() -> None:
    race = replace(listed(), last_date=date(2025, 11, 27), next_date=date(2026, 11, 26), zone=ZoneInfo("UTC"))
    assert newest_past(None, race, NOW) == datetime(2026, 11, 26, tzinfo=UTC)
    assert newest_past(None, replace(race, next_date=date(2026, 11, 27)), NOW) == datetime(2025, 11, 27, tzinfo=UTC)
    assert newest_past(None, replace(race, next_date=None), NOW) == datetime(2025, 11, 27, tzinfo=UTC)


# -- how long ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("races", "made", "read_so_far", "calls"),
    [(0, 0, 0, 0), (100, 0, 0, 300), (100, 40, 4, 300), (100, 40, 5, 800), (100, 5, 5, 100), (10, 0, 9, 10)],
)
def test_calls_by_what_the_races_so_far_took(races: int, made: int, read_so_far: int, calls: int) -> None:
    assert calls_to_come(races, made, read_so_far) == calls


def test_seconds_are_those_of_the_calls_while_the_hour_has_some_left_then_those_of_the_share() -> None:
    assert seconds_to_come(0, 700, 700, 1.0, None) == 0
    assert seconds_to_come(100, 700, 700, 1.5, None) == 150
    assert seconds_to_come(1400, 700, 700, 1.5, None) == pytest.approx(700 * 1.5 + 3600)
    assert seconds_to_come(10, 0, 7200, 2.0, None) == 20  # the budget is not what takes long


def test_hours_of_the_day_make_it_longer() -> None:
    window = Window(time(22), time(4), None)
    assert seconds_to_come(100, 700, 700, 1.5, window) == pytest.approx(600)
