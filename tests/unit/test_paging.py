"""Where a feed goes on and when it ends: rule 2, traps 15, 16, 17."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from startlist.runsignup.paging import NoProgressError, Position, Tally, following

ASKED = 2500


def tally(rows: int, *by_event: int, largest: int | None = 10_000) -> Tally:
    return Tally(rows, list(by_event) or [rows], largest if rows else None)


def test_one_call_asks_for_all_events() -> None:
    first = Position.first([3, 1, 2, 3])
    assert first.asked() == (3, 1, 2)
    assert following(first, tally(1203, 700, 503), ASKED) is None


def test_one_event_is_asked_alone_from_the_start() -> None:
    assert Position.first([7]) == Position(7, 0, ())
    with pytest.raises(ValueError, match="at least one event"):
        Position.first([])


def test_a_full_answer_over_several_events_is_followed_by_each_event_alone() -> None:
    first = Position.first([1, 2, 3])
    alone = following(first, tally(2500, 1249, 1251), ASKED)
    assert alone == Position(1, 0, (2, 3))
    assert following(alone, tally(1249), ASKED) == Position(2, 0, (3,))
    assert following(Position(2, 0, (3,)), tally(2500, largest=9), ASKED) == Position(2, 9, (3,))
    assert following(Position(2, 9, (3,)), tally(0), ASKED) == Position(3, 0, ())
    assert following(Position(3, 0, ()), tally(1), ASKED) is None


@pytest.mark.parametrize("by_event", [(500,), (1000, 3), (700, 300), (1500, 11, 1500)])
def test_trap_15_a_round_number_may_be_a_clamp(by_event: tuple[int, ...]) -> None:
    assert following(Position(1, 0, ()), tally(sum(by_event), *by_event), ASKED) == Position(1, 10_000, ())
    assert following(Position.first([1, 2]), tally(sum(by_event), *by_event), ASKED) == Position(1, 0, (2,))


def test_trap_17_an_exact_multiple_ends_with_an_empty_page() -> None:
    position = Position(1, 0, ())
    for last_id in (2500, 5000):
        goes_on = following(position, tally(2500, largest=last_id), ASKED)
        assert goes_on == Position(1, last_id, ())
        position = goes_on
    assert following(position, tally(0), ASKED) is None


def test_trap_16_a_page_that_repeats_ends_with_an_error() -> None:
    with pytest.raises(NoProgressError):
        following(Position(1, 10_000, ()), tally(2500), ASKED)
    with pytest.raises(NoProgressError):
        following(Position(1, 10_000, (2,)), tally(17), ASKED)  # short, but of what lies behind us


def test_rows_without_a_readable_id_end_a_feed_but_never_repeat_it() -> None:
    assert following(Position(1, 0, ()), tally(2, largest=None), ASKED) is None
    with pytest.raises(NoProgressError):
        following(Position(1, 0, ()), tally(500, largest=None), ASKED)


def test_a_position_survives_the_checkpoint() -> None:
    for position in (Position.first([1, 2]), Position(2, 77, (3,)), Position(3, 0, ())):
        assert Position.from_json(json.loads(json.dumps(position.to_json()))) == position
    for broken in (None, {}, {"event_id": "1", "after": 0, "remaining": []}, {"event_id": None, "after": 0}):
        with pytest.raises(ValueError, match="not a position"):
            Position.from_json(broken)
    with pytest.raises(ValueError, match="not a position"):
        Position.from_json({"event_id": None, "after": 0, "remaining": []})


@given(
    st.dictionaries(st.integers(1, 6), st.lists(st.integers(1, 4000), max_size=2300, unique=True), min_size=1),
    st.sampled_from((500, 1000, 2500)),
)
def test_every_row_is_read_whatever_a_server_clamps_to(events: dict[int, list[int]], clamp: int) -> None:
    lists = {event: sorted(ids) for event, ids in events.items()}
    read: set[tuple[int, int]] = set()
    position: Position | None = Position.first(events)
    calls = 0
    while position is not None:
        rows = [(event, number) for event in position.asked() for number in lists[event] if number > position.after][
            :clamp
        ]
        read.update(rows)
        counts = [sum(1 for row in rows if row[0] == event) for event in position.asked()]
        largest = max((number for _, number in rows), default=None)
        position = following(position, Tally(len(rows), counts, largest), ASKED)
        calls += 1
    assert read == {(event, number) for event, ids in lists.items() for number in ids}
    assert calls <= 1 + sum(2 + len(ids) // 500 for ids in lists.values())
