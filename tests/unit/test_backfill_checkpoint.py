"""Where a race's past stands: what is left out when it cannot be read, in which order it goes on, as JSON and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from startlist.runsignup import Position
from startlist.sync.backfill.checkpoint import PastCheckpoint
from startlist.sync.plan import Kind

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
EVENTS = [40, 10, 30, 20]  # in the order of their starts, not of their numbers


def begin(*events: int) -> PastCheckpoint:
    return PastCheckpoint.begin(events or EVENTS, NOW, NOW)


def alone(event_id: int, *remaining: int) -> dict[str, Any]:
    """The position of an event that is asked alone, from its beginning."""
    return {"event_id": event_id, "after": 0, "remaining": list(remaining)}


def test_the_order_is_kept() -> None:
    at = begin()
    assert (at.kind, at.events, at.feed, at.position) == (Kind.BACKFILL, EVENTS, "participants", None)
    assert (at.participants_bound, at.removed_bound) == (None, None)  # everything is asked for


# -- what cannot be read -----------------------------------------------------------------------------------------------


def test_after_all_together_each_is_asked_alone_the_newest_first() -> None:
    at = begin()
    assert at.leave_out("error 3", patience=2)
    assert at.position == alone(40, 10, 30, 20)
    assert at.unread == {}
    assert at.leave_out("error 3", patience=2)
    assert at.position == alone(10, 30, 20)
    assert at.unread == {40: "error 3"}


def test_when_the_newest_cannot_be_read_either_the_race_is_given_up() -> None:
    at = begin()
    assert [at.leave_out("no", patience=2) for _ in range(3)] == [True, True, False]
    at = begin()
    assert [at.leave_out("no", patience=1) for _ in range(2)] == [True, False]


def test_one_that_can_be_read_gives_hope_for_the_others() -> None:
    at = begin()
    at.leave_out("no", patience=2)
    at.position = alone(10, 30, 20)  # the newest was read
    assert at.leave_out("error 3", patience=2)
    assert at.leave_out("error 4", patience=2)
    assert at.position == alone(20)
    assert at.leave_out("error 3", patience=2)
    assert at.feed == "removed"
    assert at.position is None
    assert at.unread == {10: "error 3", 30: "error 4", 20: "error 3"}


def test_a_page_that_breaks_off_in_the_middle_loses_that_event_only() -> None:
    at = begin()
    at.position = {"event_id": 40, "after": 5000, "remaining": [10, 30, 20]}
    assert at.leave_out("cut off", patience=2)
    assert (at.unread, at.position) == ({40: "cut off"}, alone(10, 30, 20))


def test_a_single_event_is_asked_once() -> None:
    at = begin(40)
    assert not at.leave_out("no", patience=2)


def test_two_events_of_which_none_can_be_read() -> None:
    at = begin(40, 10)
    assert [at.leave_out("no", patience=3) for _ in range(3)] == [True, True, False]


def test_a_removed_list_that_cannot_be_read_does_not_cost_the_race() -> None:
    at = begin()
    at.next_feed("removed")
    assert at.leave_out("no", patience=2)
    assert at.position == alone(40, 10, 30, 20)
    assert at.leave_out("no", patience=2)
    assert at.leave_out("no", patience=2)
    assert at.feed == "successors"
    assert at.position is None
    assert at.removals_unread == dict.fromkeys(EVENTS, "no")
    assert at.unread == {}


def test_the_removed_list_of_one_event_that_cannot_be_read() -> None:
    at = begin()
    at.next_feed("removed")
    at.leave_out("no", patience=2)
    at.position = alone(20)  # the others could be read
    assert at.leave_out("no", patience=2)
    assert at.feed == "successors"
    assert at.position is None
    assert at.removals_unread == {20: "no"}


def test_the_removed_list_of_a_single_event() -> None:
    at = begin(40)
    at.next_feed("removed")
    assert at.leave_out("no", patience=2)
    assert (at.feed, at.removals_unread) == ("successors", {40: "no"})


def test_successors_that_cannot_be_asked_for_are_told_and_passed() -> None:
    at = begin()
    at.next_feed("successors")
    assert at.leave_out("no", patience=1)
    assert (at.feed, at.removals_unread) == ("settle", dict.fromkeys(EVENTS, "no"))


def test_what_would_be_lost_by_leaving_it_out() -> None:
    at = begin()
    assert at.doubtful() is None  # each is asked alone first
    at.leave_out("no", patience=2)
    newest = at.doubtful()
    assert newest is not None
    assert at.doubtful() == newest
    at.position = {"event_id": 40, "after": 500, "remaining": [10, 30, 20]}
    later = at.doubtful()
    assert later not in (None, newest)
    at.next_feed("removed")
    assert at.doubtful() is None
    at.next_feed("successors")
    assert at.doubtful() is not None
    assert begin(40).doubtful() is not None


def test_successors_are_looked_for_in_the_events_that_can_be_read() -> None:
    at = begin()
    at.unread = {30: "error 3", 20: "error 3"}
    at.next_feed("successors")
    assert at.leave_out("error 3", patience=1)
    assert (at.feed, at.events, at.removals_unread) == ("successors", [40, 10], {})
    assert at.leave_out("error 3", patience=1)
    assert (at.feed, at.removals_unread) == ("settle", {40: "error 3", 10: "error 3"})


def test_without_events_that_are_gone_it_begins_again() -> None:
    at = begin()
    at.leave_out("no", patience=2)
    at.leave_out("no", patience=2)
    left = at.without([10, 99])
    assert (left.events, left.position, left.unread) == ([40, 30, 20], None, {})
    assert (left.record_modified, left.begun) == (NOW, NOW)


# -- as it is stored ---------------------------------------------------------------------------------------------------


def test_it_is_the_same_after_it_was_stored() -> None:
    at = begin()
    at.position = Position(40, 77, (10, 30)).to_json()
    at.unread, at.removals_unread = {30: "error 3"}, {10: "cut"}
    at.participants_candidate, at.quarantined = 1_764_000_000, 2
    at.successors, at.active = {5, 6}, {40: 12}
    again = PastCheckpoint.of(json.loads(json.dumps(at.to_json())))
    assert again == at


def test_it_grows_no_older() -> None:
    at = PastCheckpoint.begin(EVENTS, None, datetime(2001, 1, 1, tzinfo=UTC))
    assert PastCheckpoint.of(json.loads(json.dumps(at.to_json()))) == at


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "sideways"},
        {"feed": "results"},
        {"events": "all"},
        {"position": {"event_id": 40}},
        {"position": {"event_id": None, "after": 0, "remaining": []}},
        {"unread": [30]},
        {"begun": "yesterday"},
    ],
)
def test_a_checkpoint_of_another_version_is_none(changed: dict[str, Any]) -> None:
    assert PastCheckpoint.of({**begin().to_json(), **changed}) is None


def test_no_checkpoint_and_an_empty_one() -> None:
    assert PastCheckpoint.of(None) is None
    assert PastCheckpoint.of({}) is None


def test_what_a_later_version_adds_does_no_harm() -> None:
    assert PastCheckpoint.of({**begin().to_json(), "more": 1}) == begin()
