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


# -- what RunSignup refuses --------------------------------------------------------------------------------------------


def test_after_all_together_each_is_asked_alone_the_newest_first() -> None:
    at = begin()
    assert at.leave_out("error 3", final=True)
    assert at.position == alone(40, 10, 30, 20)
    assert at.unread == {}
    assert at.leave_out("error 3", final=True)
    assert at.position == alone(10, 30, 20)
    assert at.unread == {40: "error 3"}


def test_what_is_refused_costs_no_other_event() -> None:
    at = begin()
    at.leave_out("no", final=True)
    at.position = alone(10, 30, 20)  # the newest was read
    assert at.leave_out("error 3", final=True)
    assert at.leave_out("error 9", final=True)
    assert at.position == alone(20)
    assert at.leave_out("error 3", final=True)
    assert at.feed == "removed"
    assert at.position is None
    assert at.unread == {10: "error 3", 30: "error 9", 20: "error 3"}


def test_when_the_newest_is_denied_the_race_is() -> None:
    at = begin()
    assert at.leave_out("denied", final=True, whole_race=True)
    assert not at.leave_out("denied", final=True, whole_race=True)
    at = begin()
    at.leave_out("denied", final=True, whole_race=True)
    at.position = alone(10, 30, 20)  # the newest was read
    assert at.leave_out("denied", final=True, whole_race=True)
    assert at.unread == {10: "denied"}
    assert not begin(40).leave_out("denied", final=True, whole_race=True)


def test_a_page_that_is_refused_in_the_middle_loses_that_event_only() -> None:
    at = begin()
    at.position = {"event_id": 40, "after": 5000, "remaining": [10, 30, 20]}
    assert at.leave_out("error 3", final=True)
    assert at.unread == {40: "error 3"}
    assert at.position == alone(10, 30, 20)


def test_a_removed_list_that_is_refused_does_not_cost_the_race() -> None:
    at = begin()
    at.next_feed("removed")
    for _ in range(5):
        assert at.leave_out("no", final=True)
    assert at.feed == "successors"
    assert at.position is None
    assert at.removals_unread == dict.fromkeys(EVENTS, "no")
    assert at.unread == {}


def test_the_removed_list_of_a_single_event() -> None:
    at = begin(40)
    at.next_feed("removed")
    assert at.leave_out("denied", final=True, whole_race=True)
    assert at.feed == "successors"
    assert at.removals_unread == {40: "denied"}


def test_successors_that_cannot_be_asked_for_are_told_and_passed() -> None:
    at = begin()
    at.next_feed("successors")
    assert at.leave_out("no", final=True)
    assert at.feed == "settle"
    assert at.removals_unread == dict.fromkeys(EVENTS, "no")


def test_successors_are_looked_for_in_the_events_that_can_be_read() -> None:
    at = begin()
    at.unread = {30: "error 3", 20: "error 3"}
    at.next_feed("successors")
    assert at.leave_out("error 3", final=True)
    assert (at.feed, at.events, at.removals_unread) == ("successors", [40, 10], {})
    assert at.leave_out("error 3", final=True)
    assert (at.feed, at.removals_unread) == ("settle", {40: "error 3", 10: "error 3"})


# -- where it stumbles -------------------------------------------------------------------------------------------------


def test_an_event_over_which_it_stumbled_is_left_for_later() -> None:
    at = begin()
    assert at.leave_out("HTTP 503", final=False)
    assert at.leave_out("HTTP 503", final=False)
    assert at.later == {40: "HTTP 503"}
    assert at.unread == {}
    at.position = alone(30, 20)  # the one in between was read
    assert at.leave_out("HTML", final=False)
    assert at.later == {40: "HTTP 503", 30: "HTML"}
    assert at.position == alone(20)


def test_when_it_stumbles_over_the_newest_two_the_race_is_left_for_later() -> None:
    at = begin()
    assert [at.leave_out("HTTP 503", final=False) for _ in range(3)] == [True, True, False]
    assert at.later == {40: "HTTP 503"}
    assert not begin(40).leave_out("HTTP 503", final=False)


def test_old_years_in_a_row_are_left_for_later_when_newer_ones_were_read() -> None:
    at = begin()
    at.leave_out("HTTP 500", final=False)
    at.position = alone(10, 30, 20)
    assert at.asks_one
    assert [at.leave_out("HTTP 500", final=False) for _ in range(3)] == [True, True, True]
    assert at.feed == "removed"
    assert at.later == dict.fromkeys([10, 30, 20], "HTTP 500")


def test_whether_one_is_asked_alone() -> None:
    at = begin()
    assert not at.asks_one
    at.leave_out("no", final=False)
    assert at.asks_one
    assert begin(40).asks_one


# -- events that are gone ----------------------------------------------------------------------------------------------


def test_without_events_that_are_gone_its_feed_begins_again() -> None:
    at = begin()
    at.leave_out("no", final=True)
    at.leave_out("no", final=True)
    left = at.without([10, 99])
    assert (left.events, left.position, left.unread) == ([40, 30, 20], None, {40: "no"})
    assert (left.record_modified, left.begun) == (NOW, NOW)


# -- as it is stored ---------------------------------------------------------------------------------------------------


def test_it_is_the_same_after_it_was_stored() -> None:
    at = begin()
    at.position = Position(40, 77, (10, 30)).to_json()
    at.unread, at.removals_unread, at.later = {30: "error 3"}, {10: "cut"}, {40: "HTTP 503"}
    at.said, at.denied = "the removed list of event 5 could not be read", True
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
