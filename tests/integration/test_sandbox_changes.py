"""What can happen in the sandbox's world, and that its truth is what it sends."""

from collections.abc import Iterator

import pytest

from startlist.sandbox import ControlError, Sandbox, World, demo, running
from tests.integration.sandbox_caller import NOW, Caller

FIRST, SECOND = 700_001, 700_002
EVERY_FLAG = dict.fromkeys(
    (
        "include_questions",
        "include_registration_addons",
        "include_corrals",
        "include_registration_notes",
        "include_est_finish",
        "include_user_anonymous_flag",
        "include_profile_image_url",
        "supports_nb",
    ),
    "T",
)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running(now=NOW, frozen=True) as started:
        yield started


@pytest.fixture
def caller(sandbox: Sandbox) -> Caller:
    return Caller(sandbox)


def test_the_truth_is_what_is_sent(caller: Caller) -> None:
    caller.control.register(SECOND, 2, first_name="  Zoë & Co ", last_name='"100%" \u0000/\ud800')
    caller.control.refund(60_000_004)
    truth = caller.control.truth(100_001)
    for event_id in (FIRST, SECOND):
        assert caller.participants(event_id, **EVERY_FLAG).rows == truth["events"][event_id]["active"]
        assert caller.removed(event_id, supports_nb="T").removed == truth["events"][event_id]["removed"]
    assert truth["race"]["race_id"] == 100_001


def test_edits_reach_every_part_of_a_row_and_move_last_modified(caller: Caller) -> None:
    caller.control.clock(advance=5)
    caller.control.edit(
        60_000_001, first_name="Bo", zipcode="00501", bib_num="A7", age="x", team_name="T", giveaway="L", new_field=[1]
    )
    row = caller.participants(FIRST).rows[0]
    assert row["user"]["first_name"] == "Bo"
    assert row["user"]["address"]["zipcode"] == "00501"
    assert (row["bib_num"], row["age"], row["team_name"], row["giveaway"]) == ("A7", "x", "T", "L")
    assert row["new_field"] == [1]
    assert row["last_modified"] == int(NOW) + 5


def test_a_silent_edit_does_not_move_last_modified(caller: Caller) -> None:
    before = caller.participants(FIRST).rows[0]
    caller.control.clock(advance=5)
    caller.control.assign_bib(60_000_001, 12, silent=True)
    after = caller.participants(FIRST).rows[0]
    assert after["bib_num"] == 12
    assert after["last_modified"] == before["last_modified"]


def test_last_modified_may_be_null(caller: Caller) -> None:
    caller.control.edit(60_000_001, last_modified=None)
    assert caller.participants(FIRST).rows[0]["last_modified"] is None
    assert 60_000_001 not in caller.participants(FIRST, modified_after_timestamp=0).ids


def test_bibs_are_assigned_and_cleared(caller: Caller) -> None:
    caller.control.assign_bib(60_000_001, 5, chip="C5")
    caller.control.assign_bib(60_000_001, 6)
    row = caller.participants(FIRST).rows[0]
    assert (row["bib_num"], row["chip_num"]) == (6, "C5")
    caller.control.clear_bib(60_000_001)
    row = caller.participants(FIRST).rows[0]
    assert (row["bib_num"], row["chip_num"]) == (None, None)


def test_removals_for_every_reason(caller: Caller) -> None:
    caller.control.refund(60_000_001)
    caller.control.clear(60_000_002)
    caller.control.defer(60_000_003)
    caller.control.remove(60_000_004, "abducted")
    reasons = {row["registration_id"]: row["removed_reason"] for row in caller.removed(FIRST).removed}
    assert reasons == {
        60_000_001: "removed",
        60_000_002: "cleared",
        60_000_003: "deferred",
        60_000_004: "abducted",
    }
    assert caller.participants(FIRST).ids[0] == 60_000_005


def test_a_transfer_makes_a_new_id_and_bibs_travel_only_if_told_to(caller: Caller) -> None:
    caller.control.assign_bib(60_000_001, 7)
    caller.control.assign_bib(60_000_002, 8)
    left = caller.control.transfer(60_000_001, SECOND)
    taken = caller.control.transfer(60_000_002, SECOND, transfer_bibs=True)
    assert [(row["registration_id"], row["bib_num"]) for row in caller.participants(SECOND).rows] == [
        (left, None),
        (taken, 8),
    ]
    successors = {row["registration_id"]: row["new_registration_id"] for row in caller.removed(FIRST).removed}
    assert successors == {60_000_001: left, 60_000_002: taken}


def test_a_removed_registration_can_be_restored(caller: Caller) -> None:
    caller.control.refund(60_000_001)
    caller.control.refund(60_000_002)
    caller.control.clock(advance=60)
    caller.control.restore(60_000_001)
    caller.control.restore(60_000_002, keep_in_removed=True)
    assert caller.participants(FIRST, modified_after_timestamp=int(NOW) + 60).ids == [60_000_001, 60_000_002]
    assert [row["registration_id"] for row in caller.removed(FIRST).removed] == [60_000_002]
    with pytest.raises(ControlError, match="not removed"):
        caller.control.restore(60_000_005)


def test_editing_a_removed_registration_moves_its_timestamp_only(caller: Caller) -> None:
    caller.control.refund(60_000_001)
    caller.control.clock(advance=30)
    caller.control.edit_removed(60_000_001, first_name="Changed")
    (row,) = caller.removed(FIRST, modified_after_timestamp=int(NOW) + 30).removed
    assert (row["last_modified_ts"], row["user"]["first_name"]) == (int(NOW) + 30, "Changed")


def test_what_vanishes_leaves_no_trace_and_may_come_back(caller: Caller) -> None:
    everyone = caller.participants(FIRST).ids
    caller.control.vanish(registration_id=60_000_003)
    assert 60_000_003 not in caller.participants(FIRST).ids
    assert caller.removed(FIRST).removed == []
    caller.control.unvanish(registration_id=60_000_003)
    assert caller.participants(FIRST).ids == everyone
    assert caller.control.vanish(event_id=FIRST) == everyone
    assert caller.participants(FIRST).data == [{"event": {"event_id": FIRST, "participants": []}}]
    assert caller.control.unvanish(event_id=FIRST) == everyone


def test_a_changed_event_moves_the_races_last_modified_unless_silent(caller: Caller) -> None:
    def modified() -> str:
        return str(caller.get("race/100001").data["race"]["last_modified"])

    caller.control.clock(advance=3600)
    caller.control.edit_event(FIRST, silent=True, start_time="soon")
    assert modified() == "11/22/2026 05:00"
    caller.control.edit_event(FIRST, start_time="12/24/2026 09:00")
    assert modified() == "11/22/2026 06:00"
    caller.control.edit_race(100_001, name="R&R Run", timezone="Mars/Olympus")
    record = caller.get("race/100001").data["race"]
    assert (record["name"], record["timezone"], record["next_date"]) == ("R&R Run", "Mars/Olympus", "12/02/2026")


def test_two_keys_of_one_partner_reach_one_race(caller: Caller) -> None:
    second = caller.control.add_partner("Peak Timing", secret="s3")
    caller.control.share(100_001, second["key"])
    assert second["name"] == "Peak Timing #2"
    assert Caller(caller.sandbox, {**second, "race_ids": [100_001]}).participants(FIRST).ids


def test_the_clock_flows_stands_and_jumps(sandbox: Sandbox) -> None:
    assert sandbox.control.clock() == NOW
    assert sandbox.control.clock(advance=10) == NOW + 10
    assert sandbox.control.clock(epoch=5) == 5
    sandbox.control.clock(freeze=False)
    assert 5 <= sandbox.control.clock() < 60
    assert sandbox.control.clock(epoch=NOW) >= NOW


def test_what_cannot_be_done_is_said(sandbox: Sandbox) -> None:
    for name, arguments in (
        ("teleport", {}),
        ("register", {"event": 5}),
        ("refund", {"registration_id": 5}),
        ("vanish", {}),
    ):
        with pytest.raises(ControlError):
            sandbox.control.change(name, **arguments)
    with pytest.raises(ControlError, match="settings are"):
        sandbox.control.settings(speed=3)


def test_the_log_counts_and_holds_no_secret(caller: Caller) -> None:
    token, secret = caller.control.registration()
    caller.get("races", rsu_api_reg=token, headers={"X-RSU-API-REG-SECRET": secret})
    caller.participants(FIRST, SECOND, modified_after_timestamp=5)
    caller.participants(99)
    log = caller.control.log()
    assert [call["endpoint"] for call in log] == ["races", "participants", "participants"]
    assert log[1]["event_ids"] == [FIRST, SECOND]
    assert log[1]["params"]["modified_after_timestamp"] == "5"
    assert (log[1]["rows"], log[1]["key"], log[2]["error_code"]) == (12, "Peak Timing", 301)
    for hidden in (caller.key["key"], caller.key["secret"], token, secret):
        assert hidden not in str(log)
    counts = caller.control.counts()
    assert counts["by_endpoint"] == {"races": 1, "participants": 2}
    assert counts["max_concurrent"] == 1
    caller.control.reset_log()
    assert caller.control.log() == []


def test_the_demo_world_is_as_large_as_promised_and_the_same_every_time() -> None:
    def build() -> World:
        world = World(seed=1, now=NOW, frozen=True)
        demo(world)
        return world

    with running(build()) as sandbox, running(build()) as again:
        summary = sandbox.control.summary()
        assert (summary["partners"], summary["keys"]) == (13, 14)
        assert 1200 <= summary["events"] <= 1400
        assert 200 <= summary["future_events"] <= 260
        assert 25_000 <= summary["future_registrations"] <= 45_000
        race_id = next(iter(summary["future"]))
        assert sandbox.control.truth(race_id) == again.control.truth(race_id)
        first = sandbox.control.hour_of_life()
        assert first == again.control.hour_of_life()
        assert first["now"] == NOW + 3600
        assert first["counts"]["transferred"] == 1
        assert first["counts"]["registered"] == 60
        assert min(first["counts"].values()) >= 1
        # Two keys of one partner see one race in common.
        keys = [set(key["race_ids"]) for key in sandbox.control.partners() if key["partner"] == "Chip & Go"]
        assert len(keys[0] & keys[1]) == 1
