"""Which events count, which pass a race gets, when its record is read: pure decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from startlist.runsignup import Event, Race
from startlist.store.cursors import Cursor
from startlist.store.races import StoredEvent, StoredRace
from startlist.sync.plan import (
    Kind,
    Options,
    changed,
    counts,
    decide,
    estimated_calls,
    needs_record,
    suspicion_retry_at,
    wanted_events,
)

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
OPTIONS = Options()


def event(event_id: int = 11, start: datetime | None = NOW, end: datetime | None = None, **more: Any) -> StoredEvent:
    zone = more.pop("timezone", "America/New_York")
    day = start.astimezone(ZoneInfo(zone)).date() if start else None
    given: dict[str, Any] = {"gone_at": None, "first_full_at": None} | more
    return StoredEvent(event_id, start, end, zone, day, **given)


def stored(*events: StoredEvent, **more: Any) -> StoredRace:
    given: dict[str, Any] = {
        "race_id": 7, "credential_id": 1, "name": "Turkey Trot", "last_modified": NOW - timedelta(days=90),
        "record_read_at": NOW - timedelta(days=2), "gone_at": None, "has_events": bool(events), "events": list(events),
    }  # fmt: skip
    return StoredRace(**given | more)


def listed(*events: Event, last_modified: datetime = NOW - timedelta(days=90)) -> Race:
    return Race(
        race_id=7, name="Turkey Trot", timezone="America/New_York", zone=ZoneInfo("America/New_York"), zone_known=True,
        url=None, next_date=None, last_date=None, is_draft_race=False, is_private_race=False,
        is_registration_open=True, address=None, created=None, last_modified=last_modified, additional_data=b"{}",
        field_errors=[], events=events, bad=(),
    )  # fmt: skip


def sent_event(event_id: int = 11, start: datetime | None = NOW) -> Event:
    return Event(
        event_id=event_id, race_id=7, race_event_days_id=1, name="5K", event_type=None, start_time=start, end_time=None,
        timezone="America/New_York", race_day=start.date() if start else None, distance="5K", distance_meters=None,
        age_calc_base_date=None, registration_opens=None, giveaway=None, volunteer=False, require_dob=True,
        require_phone=False, additional_data=b"{}", field_errors=[],
    )  # fmt: skip


def cursor(**more: Any) -> Cursor:
    given: dict[str, Any] = {
        "participants_watermark": int(NOW.timestamp()) - 600, "removed_watermark": int(NOW.timestamp()) - 600,
        "event_ids": frozenset({11}), "last_full_at": NOW - timedelta(days=3),
    }  # fmt: skip
    return Cursor(**given | more)


def test_an_event_counts_for_so_many_days_after_its_end() -> None:
    over = event(start=NOW - timedelta(hours=23))
    assert counts(over, 1, NOW, listed=False)
    assert not counts(over, 0, NOW, listed=True)
    assert not counts(event(start=NOW - timedelta(hours=25)), 1, NOW, listed=True)


def test_trap_36_an_event_that_began_hours_ago_in_hawaii_still_counts() -> None:
    began = datetime(2026, 11, 26, 7, tzinfo=ZoneInfo("Pacific/Honolulu"))
    assert counts(event(start=began, timezone="Pacific/Honolulu"), 1, began + timedelta(hours=2), listed=False)


def test_days_are_calendar_days_of_the_races_zone_over_a_clock_change() -> None:
    zone = ZoneInfo("America/New_York")
    start = datetime(2026, 10, 31, 7, tzinfo=zone)  # the next day has 25 hours
    one_day_on = datetime(2026, 11, 1, 7, tzinfo=zone)
    assert (one_day_on.astimezone(UTC) - start.astimezone(UTC)) == timedelta(hours=25)
    assert counts(event(start=start), 1, one_day_on - timedelta(seconds=1), listed=False)
    assert not counts(event(start=start), 1, one_day_on, listed=False)


def test_an_end_before_the_start_is_ignored() -> None:
    assert counts(event(start=NOW, end=NOW - timedelta(days=400)), 1, NOW + timedelta(hours=23), listed=False)


def test_an_event_that_never_ends_counts() -> None:
    never = datetime(9999, 12, 31, 23, tzinfo=UTC)
    assert counts(event(start=NOW - timedelta(days=900), end=never), 1, NOW, listed=False)


def test_events_read_under_a_suspicion_are_not_asked_in_full_for_being_new() -> None:
    suspicion = {"since": NOW.isoformat(), "last_at": NOW.isoformat(), "tries": 1, "events": {}, "asked": [11, 12]}
    assert decide(cursor(suspicion=suspicion), {11, 12}, OPTIONS, NOW).kind is Kind.INCREMENTAL
    assert decide(cursor(suspicion=suspicion), {11, 13}, OPTIONS, NOW).reason == "new event 13"


def test_an_event_without_a_start_counts_while_it_is_listed() -> None:
    unreadable = event(12, start=None)
    assert wanted_events(stored(unreadable), [], OPTIONS, NOW).event_ids == frozenset()
    assert wanted_events(stored(unreadable), [listed(sent_event(12, None))], OPTIONS, NOW).event_ids == {12}


def test_leaving_the_list_means_nothing() -> None:
    assert wanted_events(stored(event(11)), [listed(sent_event(12))], OPTIONS, NOW).event_ids == {11, 12}


def test_gone_events_are_not_wanted_until_listed_again() -> None:
    gone = event(11, gone_at=NOW)
    assert wanted_events(stored(gone), [], OPTIONS, NOW).event_ids == frozenset()
    assert wanted_events(stored(gone), [listed(sent_event(11))], OPTIONS, NOW).event_ids == {11}


def test_trap_35_of_a_race_with_years_of_events_only_those_to_come_are_wanted() -> None:
    years = [event(n, start=NOW.replace(year=2015 + n)) for n in range(12)]
    assert wanted_events(stored(*years), [], OPTIONS, NOW).event_ids == {11}


def test_a_race_that_is_over_gives_its_latest_day_when_it_is_named() -> None:
    events = (event(1, start=NOW - timedelta(days=400)), event(2, start=NOW - timedelta(days=30)),
              event(3, start=NOW - timedelta(days=30, hours=-1)))  # fmt: skip
    named = Options(race_id=7)
    assert wanted_events(stored(*events), [], OPTIONS, NOW).event_ids == frozenset()
    assert wanted_events(stored(*events), [], named, NOW).event_ids == {2, 3}


def test_the_list_begins_at_least_eight_days_back() -> None:
    assert OPTIONS.list_from(NOW) == date(2026, 11, 18)
    assert Options(include_past_days=30).list_from(NOW) == date(2026, 10, 27)


@pytest.mark.parametrize(
    ("at", "options", "kind", "reason"),
    [
        (cursor(), Options(force_full=True), Kind.FULL, "forced"),
        (Cursor(), OPTIONS, Kind.FULL, "never synced"),
        (cursor(event_ids=frozenset({10})), OPTIONS, Kind.FULL, "new event 11"),
        (cursor(last_full_at=NOW - timedelta(days=8)), OPTIONS, Kind.FULL, "last full pass more than 7 days ago"),
        (cursor(last_full_at=NOW - timedelta(days=8)), Options(incremental_days=9), Kind.INCREMENTAL, "changes since"),
        (cursor(last_fallback_at=NOW - timedelta(minutes=59)), OPTIONS, Kind.FULL, "failed within the last hour"),
        (cursor(last_fallback_at=NOW - timedelta(minutes=61)), OPTIONS, Kind.INCREMENTAL, "changes since"),
        (cursor(), OPTIONS, Kind.INCREMENTAL, "changes since 2026-11-26 11:50:00 UTC"),
    ],
)
def test_which_pass_and_why(at: Cursor, options: Options, kind: Kind, reason: str) -> None:
    decision = decide(at, {11}, options, NOW)
    assert decision.kind is kind
    assert reason in decision.reason


def test_a_suspicion_is_asked_again_after_a_quarter_and_an_hour_then_by_the_interval() -> None:
    week = timedelta(days=7)
    for tries, wait in ((1, timedelta(minutes=15)), (2, timedelta(hours=1)), (3, week), (9, week)):
        suspicion = {"since": NOW.isoformat(), "last_at": NOW.isoformat(), "tries": tries, "events": {}}
        assert suspicion_retry_at(suspicion, week) == NOW + wait
        at = cursor(suspicion=suspicion, last_full_at=NOW - timedelta(days=30))
        assert decide(at, {11}, OPTIONS, NOW + wait - timedelta(seconds=1)).kind is Kind.INCREMENTAL
        assert decide(at, {11}, OPTIONS, NOW + wait).kind is Kind.FULL


@pytest.mark.parametrize(
    ("race", "sent", "start", "why"),
    [
        (None, listed(), NOW + timedelta(days=90), "new race"),
        (stored(event()), listed(last_modified=NOW), NOW + timedelta(days=90), "race changed"),
        (stored(event()), listed(), NOW + timedelta(days=6), "starts within 7 days"),
        (stored(event()), listed(), NOW + timedelta(days=8), None),
        (stored(event()), None, NOW + timedelta(days=8), None),
        (stored(), None, NOW + timedelta(days=8), "not listed"),
        (stored(record_read_at=NOW), None, NOW + timedelta(days=8), None),
    ],
)
def test_when_a_races_own_record_is_read(
    race: StoredRace | None, sent: Race | None, start: datetime, why: str | None
) -> None:
    assert needs_record(race, sent, start, NOW) == why


def test_a_record_that_was_read_today_is_fresh() -> None:
    read = replace(stored(event()), record_read_at=NOW - timedelta(hours=23))
    assert needs_record(read, listed(), NOW + timedelta(days=1), NOW) is None


def test_estimated_calls_of_a_full_pass() -> None:
    assert estimated_calls(0, 3) == 2
    assert estimated_calls(2499, 1) == 2
    assert estimated_calls(10_000, 2) == 1 + 4 + 1
    assert estimated_calls(3_000, 1) == 2 + 1


@pytest.mark.parametrize(("read", "now", "due"), [(70, 130, True), (70, 90, False), (125, 400, False)])
def test_a_record_that_was_read_in_the_minute_of_its_change_is_read_once_more(read: int, now: int, due: bool) -> None:
    """RunSignup dates changes by the minute: another one in the same minute looks like none."""
    race = stored(event(), last_modified=NOW, record_read_at=NOW + timedelta(seconds=read))
    sent = listed(sent_event(), last_modified=NOW)
    assert changed(race, sent, NOW + timedelta(seconds=now)) is due
    assert (needs_record(race, sent, NOW + timedelta(days=90), NOW + timedelta(seconds=now)) is not None) is due
