"""What a turn decides: whose share of the hour, which pass, when next; and by how much all periods stretch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from startlist.schedule.cadence import HEADROOM, LEAST, Cadence, CountingEvent, Rhythm
from startlist.schedule.decision import (
    FURTHEST,
    SILENT_FOR,
    Ended,
    Wanted,
    cadence_of,
    distrusted,
    full_every,
    next_turn,
    share_of,
    stretch_of,
)
from startlist.store.budget import Rank
from startlist.store.races import StoredEvent, StoredRace
from startlist.store.schedule import Demand

RHYTHM = Rhythm()
HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
GUN = datetime(2027, 11, 25, 13, tzinfo=UTC)
MORNING = GUN - HOUR
PLENTY = 1e9


def cadence(start: datetime | None = GUN) -> Cadence:
    return Cadence(1, 7, [] if start is None else [CountingEvent(start, start.date(), start + 8 * DAY)], RHYTHM)


def stored(*events: StoredEvent) -> StoredRace:
    return StoredRace(7, 1, "Turkey Trot", None, None, None, has_events=bool(events), events=list(events))


def event(event_id: int, start: datetime | None = GUN, gone_at: datetime | None = None) -> StoredEvent:
    day = start.date() if start else None
    return StoredEvent(event_id, start, None, "America/New_York", day, gone_at, None)


def test_events_that_are_gone_count_no_more_and_those_without_a_start_only_while_listed() -> None:
    race = stored(event(1, gone_at=MORNING), event(2, None))
    assert cadence_of(1, race, RHYTHM).period(MORNING) is None
    assert cadence_of(1, race, RHYTHM, listed=[2]).period(MORNING) == RHYTHM.routine
    assert cadence_of(1, stored(event(1), event(2, None)), RHYTHM).period(MORNING) == RHYTHM.race


def test_a_race_of_which_nothing_is_known_is_routine_until_it_was_read() -> None:
    assert cadence_of(1, stored(), RHYTHM, read=False).period(MORNING) == RHYTHM.routine
    assert cadence_of(1, stored(), RHYTHM).period(MORNING) is None


@pytest.mark.parametrize("rank", [Rank.ROUTINE, Rank.RACE_WEEK, Rank.RACE_DAY])
def test_who_has_had_no_pass_for_two_periods_is_served_like_race_day(rank: Rank) -> None:
    def share(ago: timedelta | None, stretch: float = 1.0) -> float:
        return share_of(rank, GUN, None if ago is None else GUN - ago, 900, stretch, RHYTHM)

    assert share(30 * MINUTE) == rank.share
    assert share(31 * MINUTE) == share(None) == 1.0
    assert share(31 * MINUTE, stretch=1.1) == (rank.share if rank > Rank.ROUTINE else 1.0)


def test_full_passes_of_a_large_race_are_put_off_while_they_leave_nothing_to_others() -> None:
    def every(now: datetime, *, large: bool = False, affords: bool = True, silent: bool = False) -> timedelta:
        return full_every(cadence(), now, large=large, affords=affords, silent=silent, stretch=1.0)

    assert every(MORNING) <= 10 * MINUTE < every(MORNING, large=True) <= HOUR
    assert every(MORNING, large=True, affords=False) == DAY
    assert every(MORNING, affords=False) == every(MORNING)
    assert every(MORNING, large=True, affords=False, silent=True) == DAY


def test_where_bibs_change_without_a_word_minute_passes_are_full_and_others_as_ever() -> None:
    def every(now: datetime, *, silent: bool) -> timedelta:
        return full_every(cadence(), now, large=False, affords=True, silent=silent, stretch=1.0)

    assert every(MORNING, silent=True) == timedelta()
    assert every(GUN - 20 * HOUR, silent=True) == every(GUN - 20 * HOUR, silent=False) > HOUR


def test_a_key_is_trusted_again_a_week_after_the_last_silent_bib() -> None:
    assert not distrusted(None, GUN)
    assert distrusted(GUN, GUN + SILENT_FOR - MINUTE)
    assert not distrusted(GUN, GUN + SILENT_FOR)


def test_a_pass_that_went_well_is_followed_by_the_next_of_the_cadence() -> None:
    due = next_turn(cadence(), MORNING, Ended(), 0, 0.5, 1.0)
    assert due == cadence().next_due(MORNING)
    assert next_turn(cadence(None), MORNING, Ended(), 0, 0.5, 1.0) is None


def test_a_failure_is_tried_again_sooner_and_in_the_minute_cadence_never_later() -> None:
    near = GUN - 20 * HOUR
    first, second = (next_turn(cadence(), near, Ended(try_again=True), n, 0.5, 1.0) for n in (1, 2))
    assert first is not None
    assert second is not None
    assert near < first.at < second.at <= near + MINUTE
    for failures in range(1, 12):
        due, usual = (next_turn(cadence(), MORNING, ended, failures, 1.0, 1.0) for ended in (Ended(True), Ended()))
        assert due is not None
        assert usual is not None
        assert due.at <= usual.at


def test_who_waits_for_a_call_comes_when_it_is_free_also_later_than_by_the_cadence_but_within_a_day() -> None:
    due = next_turn(cadence(), MORNING, Ended(until=MORNING + 20 * MINUTE), 0, 0.5, 1.0)
    assert due is not None
    assert (due.at, due.rank) == (MORNING + 20 * MINUTE, Rank.RACE_DAY)
    due = next_turn(cadence(), MORNING, Ended(until=MORNING + 3 * DAY), 0, 0.5, 1.0)
    assert due is not None
    assert due.at == MORNING + FURTHEST


def test_a_race_that_another_run_holds_is_looked_at_within_a_minute() -> None:
    routine = GUN - 5 * DAY
    held = next_turn(cadence(), routine, Ended(held=True), 0, 0.5, 1.0)
    assert held is not None
    assert held.at <= routine + MINUTE


demands = st.lists(
    st.builds(
        Demand,
        credential_id=st.integers(1, 3),
        rank=st.sampled_from(["routine", "race_week", "race_day"]),
        calls_per_hour=st.floats(0.1, 50_000),
    ),
    max_size=12,
)


@given(demands, st.sampled_from([100, 1_000]), st.sampled_from([5_000.0, 40_000.0, PLENTY]))
def test_stretched_what_presses_fits_beside_routine_for_each_key_and_all_lanes(
    wanted: list[Demand], calls_per_hour: int, lane_calls: float
) -> None:
    stretches = {key: stretch_of(Wanted.of(wanted), key, calls_per_hour, lane_calls) for key in (1, 2, 3)}
    assert min(stretches.values()) >= 1

    def calls(of: list[Demand], *, routine: bool) -> float:
        chosen = [one for one in of if (one.rank == "routine") is routine]
        return sum(one.calls_per_hour / (1 if routine else stretches[one.credential_id or 0]) for one in chosen)

    for key in (1, 2, 3):
        own = [one for one in wanted if one.credential_id == key]
        room = max(calls_per_hour * HEADROOM - calls(own, routine=True), calls_per_hour * LEAST)
        assert calls(own, routine=False) <= room + 1e-6
    room = max(lane_calls * HEADROOM - calls(wanted, routine=True), lane_calls * LEAST)
    assert calls(wanted, routine=False) <= room + 1e-6


def test_a_key_is_stretched_by_its_own_races_or_by_all_that_want_a_lane_never_by_anothers_budget() -> None:
    wanted = Wanted.of([Demand(1, "race_day", 16 * 120.0), Demand(2, "race_day", 120.0)])
    assert stretch_of(wanted, 1, 1_000, PLENTY) == pytest.approx(16 * 120 / 920)
    assert stretch_of(wanted, 2, 1_000, PLENTY) == 1.0
    assert stretch_of(wanted, 2, 1_000, 1_000.0) == pytest.approx(17 * 120 / 920)
