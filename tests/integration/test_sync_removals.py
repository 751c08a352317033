"""What leaves RunSignup's list: removed, transferred, deferred, restored, merely vanished; nothing is ever deleted."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig

MINUTE, HOUR = 60, 3600


async def on_start_list(rig: Rig) -> set[int]:
    return {row["registration_id"] for row in await rig.rows("select registration_id from start_list")}


# -- removed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
async def test_trap_10_a_refunded_runner_leaves_the_start_list(rig: Rig, full: bool) -> None:
    rig.control.assign_bib(PERSON, 7)
    await rig.sync()
    before = await rig.registration(PERSON)
    rig.control.refund(PERSON)
    done = await rig.sync(force_full=full)
    assert done.exit_status == 0
    await rig.assert_truth()
    after = await rig.registration(PERSON)
    assert (after["removed_reason"], after["removal"]["removed_reason"]) == ("removed", "removed")
    assert after["removed_at"] == datetime.fromtimestamp(after["removal"]["last_modified_ts"], UTC)
    of_active = [name for name in before if not name.startswith("remov") and name != "changed_at"]
    assert [before[name] for name in of_active] == [after[name] for name in of_active]
    assert after["bib_num"] == "7"
    assert PERSON not in await on_start_list(rig)
    assert await rig.changes() == [("removed", PERSON)]
    assert await rig.bibs() == []
    change = await rig.one("select before, after, source_modified_at from runsignup_changes")
    assert change["before"] == {"removed_at": None}
    assert change["after"].items() >= {"removed_reason": "removed", "new_registration_id": None}.items()
    assert change["source_modified_at"] == after["removed_at"]
    assert (await rig.last_pass())["rows_removed"] == 1
    again = await rig.sync(force_full=True)
    assert again.partners[0].figures.rows_removed == 0
    assert len(await rig.changes()) == 1
    assert done.total_participants == 11


async def test_any_reason_is_kept(rig: Rig) -> None:
    await rig.sync()
    rig.control.defer(PERSON)
    rig.control.remove(PERSON + 1, "eaten by a bear")
    await rig.sync()
    await rig.assert_truth()
    assert (await rig.registration(PERSON))["removed_reason"] == "deferred"
    assert (await rig.registration(PERSON + 1))["removed_reason"] == "eaten by a bear"


async def test_trap_24_cleared_before_anybody_looked(rig: Rig) -> None:
    await rig.sync()
    (brief,) = rig.control.register(FIRST, bib_num=77)
    rig.control.clear(brief)
    done = await rig.sync()
    assert done.exit_status == 0
    assert await rig.changes() == [("removed", brief)]
    assert await rig.bibs() == []
    stored = await rig.registration(brief)
    assert stored["removed_reason"] == "cleared"
    assert stored["last_name"] is None
    assert stored["removal"]["user"]["last_name"]
    assert brief not in await on_start_list(rig)
    assert done.total_participants == 12
    await rig.assert_truth()


async def test_trap_11_removed_rows_of_the_second_event(rig: Rig) -> None:
    (runner,) = rig.control.register(SECOND)
    await rig.sync()
    rig.control.refund(runner)
    await rig.sync()
    await rig.assert_truth()


async def test_a_removed_record_that_is_edited_keeps_its_time_of_removal(rig: Rig) -> None:
    await rig.sync()
    rig.control.refund(PERSON)
    await rig.sync()
    first = await rig.registration(PERSON)
    rig.control.clock(advance=HOUR)
    rig.control.edit_removed(PERSON, last_name="Afterwards")
    await rig.sync()
    after = await rig.registration(PERSON)
    assert after["removed_at"] == first["removed_at"]
    assert after["last_name"] == first["last_name"]
    assert after["removal"]["user"]["last_name"] == "Afterwards"
    assert await rig.changes() == [("removed", PERSON)]
    await rig.assert_truth()


# -- transfers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
async def test_trap_23_a_transfer_is_one_active_registration_and_a_link(rig: Rig, full: bool) -> None:
    rig.control.assign_bib(PERSON, 12)
    await rig.sync()
    new = rig.control.transfer(PERSON, SECOND, transfer_bibs=True)
    await rig.sync(force_full=full)
    assert rig.endpoints() == {"races": 1, "participants": 1, "removed_participants": 1}
    await rig.assert_truth()
    old = await rig.registration(PERSON)
    assert (old["removed_reason"], old["new_registration_id"]) == ("transferred", new)
    assert await rig.changes() == [("added", new), ("removed", PERSON)]
    assert await rig.bibs() == [("assigned", new, None, "12")]


@pytest.mark.parametrize("full", [False, True])
async def test_trap_23_the_removal_arrives_first(rig: Rig, full: bool) -> None:
    await rig.sync()
    rig.control.clock(advance=HOUR)
    transfer = {"name": "transfer", "registration_id": PERSON, "to_event_id": SECOND}
    rig.control.fault("before", match={"endpoint": "removed_participants"}, changes=[transfer])
    done = await rig.sync(force_full=full)
    assert done.exit_status == 0
    assert rig.endpoints() == {"races": 1, "participants": 2, "removed_participants": 1}
    asked_again = int(rig.asked("participants")[1]["params"]["modified_after_timestamp"])
    assert asked_again == (await rig.cursor())["participants_watermark"] - 60
    await rig.assert_truth()
    new = (await rig.registration(PERSON))["new_registration_id"]
    assert await rig.changes() == [("removed", PERSON), ("added", new)]


async def test_trap_23_during_the_very_first_pass(rig: Rig) -> None:
    transfer = {"name": "transfer", "registration_id": PERSON, "to_event_id": SECOND}
    rig.control.fault("before", match={"endpoint": "removed_participants"}, changes=[transfer])
    await rig.sync()
    assert len(rig.asked("participants")) == 2
    await rig.assert_truth()
    assert await rig.changes() == [("removed", PERSON)]  # it was stored as active a moment ago


async def test_a_successor_that_is_nowhere_is_asked_for_once(rig: Rig) -> None:
    await rig.sync()
    rig.control.remove(PERSON, "transferred", new_registration_id=4711)
    done = await rig.sync()
    assert done.exit_status == 0
    assert len(rig.asked("participants")) == 2
    assert (await rig.registration(PERSON))["new_registration_id"] == 4711
    await rig.sync()
    assert len(rig.asked("participants")) == 1  # the removal is not new any more
    await rig.sync(force_full=True)
    assert len(rig.asked("participants")) == 1


async def test_a_chain_of_transfers(rig: Rig) -> None:
    await rig.sync()
    second = rig.control.transfer(PERSON, SECOND)
    third = rig.control.transfer(second, FIRST)
    await rig.sync()
    await rig.assert_truth()
    assert third in await on_start_list(rig)
    assert {PERSON, second}.isdisjoint(await on_start_list(rig))


# -- back again --------------------------------------------------------------------------------------------------------


async def test_rule_6_a_later_active_record_restores(rig: Rig) -> None:
    await rig.sync()
    rig.control.refund(PERSON)
    await rig.sync()
    removed = await rig.registration(PERSON)
    rig.control.clock(advance=5)
    rig.control.restore(PERSON, keep_in_removed=True)
    await rig.sync()
    stored = await rig.registration(PERSON)
    assert [stored[name] for name in ("removed_at", "removed_reason", "removal", "new_registration_id")] == [None] * 4
    assert await rig.changes() == [("removed", PERSON), ("restored", PERSON)]
    assert await rig.bibs() == []
    change = await rig.one("select * from runsignup_changes where change_type = 'restored'")
    assert change["before"]["removal"] == removed["removal"]
    assert PERSON in await on_start_list(rig)
    await rig.sync(force_full=True)  # the removed list still names it: the later one goes on to win
    assert PERSON in await on_start_list(rig)
    assert len(await rig.changes()) == 2


@pytest.mark.parametrize("full", [False, True])
async def test_rule_6_a_tie_is_removed(rig: Rig, full: bool) -> None:
    rig.control.clock(freeze=True)
    await rig.sync()
    rig.control.clock(advance=HOUR)
    rig.control.refund(PERSON)
    rig.control.restore(PERSON, keep_in_removed=True)
    for _ in range(2):
        await rig.sync(force_full=full)
        assert PERSON not in await on_start_list(rig)
    assert await rig.changes() == [("removed", PERSON)]


async def test_rule_6_a_tie_seen_first_as_removed(rig: Rig) -> None:
    rig.control.clock(freeze=True)
    await rig.sync()
    rig.control.clock(advance=HOUR)
    rig.control.refund(PERSON)
    await rig.sync()
    rig.control.restore(PERSON, keep_in_removed=True)
    await rig.sync()
    await rig.sync(force_full=True)
    assert PERSON not in await on_start_list(rig)


async def test_rule_6_a_tie_stays_removed_when_participants_are_asked_once_more(rig: Rig) -> None:
    """The second question comes after the removed list was read: it must not undo what that list says."""
    rig.control.clock(freeze=True)
    await rig.sync()
    rig.control.clock(advance=HOUR)
    rig.control.refund(PERSON)
    rig.control.restore(PERSON, keep_in_removed=True)
    await rig.sync()
    transfer = {"name": "transfer", "registration_id": PERSON + 1, "to_event_id": SECOND}
    rig.control.fault("before", match={"endpoint": "removed_participants"}, changes=[transfer])
    await rig.sync(force_full=True)
    assert len(rig.asked("participants")) == 2
    assert PERSON not in await on_start_list(rig)
    assert ("restored", PERSON) not in await rig.changes()


async def test_rule_6_restored_in_silence_is_found_by_a_full_pass(rig: Rig) -> None:
    await rig.sync()
    rig.control.refund(PERSON)
    await rig.sync()
    rig.control.restore(PERSON, silent=True)
    await rig.sync(force_full=True)
    assert PERSON in await on_start_list(rig)
    assert await rig.changes() == [("removed", PERSON), ("restored", PERSON)]
    await rig.assert_truth()


async def test_rule_6_silently_restored_but_still_named_stays_removed(rig: Rig) -> None:
    await rig.sync()
    rig.control.clock(advance=5)
    rig.control.refund(PERSON)
    await rig.sync()
    rig.control.restore(PERSON, silent=True, keep_in_removed=True)
    await rig.sync(force_full=True)
    assert PERSON not in await on_start_list(rig)


async def test_restored_with_another_bib(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 7)
    await rig.sync()
    rig.control.refund(PERSON)
    await rig.sync()
    rig.control.clock(advance=5)
    rig.control.restore(PERSON)
    rig.control.assign_bib(PERSON, 8)
    await rig.sync()
    assert await rig.bibs() == [("changed", PERSON, "7", "8")]
    assert await rig.changes() == [("removed", PERSON), ("restored", PERSON), ("updated", PERSON)]
    await rig.assert_truth()


async def test_first_seen_as_removed_and_then_active(rig: Rig) -> None:
    await rig.sync()
    (runner,) = rig.control.register(FIRST)
    rig.control.clear(runner)
    await rig.sync()
    rig.control.clock(advance=5)
    rig.control.restore(runner)
    rig.control.assign_bib(runner, 33)
    await rig.sync()
    await rig.assert_truth()
    assert (await rig.changes())[:2] == [("removed", runner), ("restored", runner)]
    assert await rig.bibs() == [("assigned", runner, None, "33")]


async def test_rule_6_what_a_full_pass_lacks_and_the_removed_list_names_is_removed_whatever_its_times(rig: Rig) -> None:
    rig.control.edit(PERSON, last_modified=2_000_000_000)
    await rig.sync()
    rig.control.refund(PERSON)
    await rig.sync()
    assert PERSON in await on_start_list(rig)  # its active record is the later one
    await rig.sync(force_full=True)
    assert PERSON not in await on_start_list(rig)
    await rig.assert_truth()


# -- vanished ----------------------------------------------------------------------------------------------------------


async def test_rule_6_one_that_vanished_is_marked_and_stays_on_the_start_list(rig: Rig) -> None:
    await rig.sync()
    rig.control.vanish(registration_id=PERSON)
    await rig.sync()
    assert await rig.changes() == []  # an incremental pass cannot know
    done = await rig.sync(force_full=True)
    assert done.exit_status == 0
    await rig.assert_truth(missing=[PERSON])
    row = await rig.one("select missing_since from start_list where registration_id = %s", PERSON)
    assert row["missing_since"] is not None
    assert (await rig.last_pass())["rows_missing"] == 1
    assert done.total_participants == 12
    await rig.sync(force_full=True)
    assert await rig.changes() == [("missing", PERSON)]
    assert (await rig.last_pass())["rows_missing"] == 0


@pytest.mark.parametrize("full", [True, False])
async def test_rule_6_found_again(rig: Rig, full: bool) -> None:
    await rig.sync()
    rig.control.vanish(registration_id=PERSON)
    await rig.sync(force_full=True)
    rig.control.unvanish(registration_id=PERSON)
    if not full:
        rig.control.edit(PERSON)
    await rig.sync(force_full=full)
    assert await rig.changes() == [("missing", PERSON), ("found", PERSON)]
    await rig.assert_truth()


async def test_missing_and_then_removed(rig: Rig) -> None:
    await rig.sync()
    rig.control.vanish(registration_id=PERSON)
    await rig.sync(force_full=True)
    rig.control.unvanish(registration_id=PERSON)
    rig.control.refund(PERSON)
    await rig.sync()
    await rig.assert_truth()
    assert await rig.changes() == [("missing", PERSON), ("removed", PERSON)]


async def test_trap_19_an_event_that_answers_empty_is_not_believed(rig: Rig) -> None:
    await rig.sync()
    before, rows = await rig.cursor(), await rig.written()
    rig.control.fault("empty", match={"endpoint": "participants"})
    done = await rig.sync(force_full=True)
    assert (done.status, done.exit_status) == ("partial", 1)
    (said,) = done.failed_syncs()
    assert f"event {FIRST}: 12 of 12 registrations are absent without a removal; nothing was marked" in said["error"]
    assert f"startlist sync --race {RACE} --accept-missing" in said["error"]
    assert await rig.written() == rows
    after = await rig.cursor()
    assert after["participants_watermark"] == before["participants_watermark"]
    assert after["removed_watermark"] == before["removed_watermark"]
    assert after["checkpoint"] is None
    await rig.assert_truth()


async def test_trap_19_all_events_gone_from_the_answer(rig: Rig) -> None:
    await rig.sync()
    rig.control.fault("empty_array", match={"endpoint": "participants"})
    done = await rig.sync(force_full=True)
    assert done.status == "partial"
    await rig.assert_truth()


@pytest.mark.parametrize(
    ("active", "lost", "suspicious"),
    [(12, 5, False), (12, 6, True), (12, 12, True), (1, 1, True), (5, 4, False), (200, 10, False), (200, 11, True)],
)
async def test_rule_6_suspicion(rig: Rig, active: int, lost: int, suspicious: bool) -> None:
    rig.control.vanish(event_id=FIRST)
    runners = rig.control.register(FIRST, active)
    rig.control.register(SECOND, 20)
    await rig.sync()
    for runner in runners[:lost]:
        rig.control.vanish(registration_id=runner)
    done = await rig.sync(force_full=True)
    assert done.status == ("partial" if suspicious else "completed")
    await_missing = [] if suspicious else runners[:lost]
    found = await rig.rows("select registration_id from start_list where missing_since is not null order by 1")
    assert [row["registration_id"] for row in found] == await_missing


async def test_rule_6_what_the_removed_list_explains_is_no_suspicion(rig: Rig) -> None:
    await rig.sync()
    for number in range(11):
        rig.control.refund(PERSON + number)
    done = await rig.sync(force_full=True)
    assert done.status == "completed"
    await rig.assert_truth()


async def test_rule_6_with_a_suspicion_nothing_of_the_race_is_marked(rig: Rig) -> None:
    others = rig.control.register(SECOND, 10)
    await rig.sync()
    rig.control.vanish(event_id=FIRST)
    rig.control.vanish(registration_id=others[0])
    await rig.sync(force_full=True)
    assert [change for change, _ in await rig.changes()] == []


async def test_rule_6_after_a_suspicion(rig: Rig) -> None:
    await rig.sync()
    first = (await rig.cursor())["participants_watermark"]
    rig.control.vanish(event_id=FIRST)
    rig.control.register(FIRST)  # and one that is there, and changes arrive all the same
    await rig.sync(force_full=True)
    assert await rig.count("start_list") == 13

    async def kind() -> str:
        await rig.sync()
        return str((await rig.last_pass())["sync_type"])

    assert await kind() == "incremental"
    assert rig.bound() == first - 60  # from the watermark of old
    await suspicion_ages(rig, 16 * MINUTE)
    assert await kind() == "full"
    assert (await rig.last_pass())["status"] == "partial"
    await suspicion_ages(rig, 16 * MINUTE)
    assert await kind() == "incremental"
    await suspicion_ages(rig, 50 * MINUTE)
    assert await kind() == "full"
    await suspicion_ages(rig, 24 * HOUR)
    assert await kind() == "incremental"
    await suspicion_ages(rig, 8 * 24 * HOUR)
    assert await kind() == "full"
    rig.control.unvanish(event_id=FIRST)
    assert (await rig.sync(force_full=True)).status == "completed"
    assert (await rig.cursor())["suspicion"] is None
    await rig.assert_truth()
    assert "missing" not in dict(await rig.changes())


async def suspicion_ages(rig: Rig, seconds: float) -> None:
    """The time of the last full pass that lacked too much is kept in JSON."""
    await rig.conn.execute(
        "update sync_cursors set suspicion = jsonb_set(suspicion, '{last_at}', to_jsonb("
        "(suspicion ->> 'last_at')::timestamptz - make_interval(secs => %s)))",
        [seconds],
    )


async def test_rule_6_accepted(rig: Rig) -> None:
    await rig.sync()
    rig.control.vanish(event_id=FIRST)
    await rig.sync(force_full=True)
    done = await rig.sync(race_id=RACE, accept_missing=True)
    assert (done.status, done.exit_status) == ("completed", 0)
    assert [change for change, _ in await rig.changes()] == ["missing"] * 12
    assert await rig.count("start_list") == 12
    assert (await rig.cursor())["suspicion"] is None
    assert (await rig.sync(force_full=True)).status == "completed"
    rig.control.unvanish(event_id=FIRST)
    await rig.sync(force_full=True)
    await rig.assert_truth()


# -- over several pages ------------------------------------------------------------------------------------------------


async def test_trap_14_a_row_of_page_one_is_removed_before_page_two(rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    runners = rig.control.register(FIRST, 1300)
    rig.control.fault("clamp", rows=500, times=None)
    shift = [{"name": "refund", "registration_id": runners[0]}, {"name": "refund", "registration_id": runners[700]}]
    rig.control.fault("then", match={"endpoint": "participants", "page_after": False}, changes=shift)
    await rig.sync()
    await rig.assert_truth()
    rig.control.fault(
        "then", match={"endpoint": "participants", "page_after": False},
        changes=[{"name": "vanish", "registration_id": runners[3]}],
    )  # fmt: skip
    await rig.sync(force_full=True)
    assert await rig.rows("select * from start_list where missing_since is not null") == []  # it was there when asked


async def test_rule_6_absence_on_every_page(rig: Rig) -> None:
    runners = rig.control.register(FIRST, 1300)
    others = rig.control.register(SECOND, 30)
    rig.control.fault("clamp", rows=500, times=None)
    await rig.sync()
    gone = [PERSON, runners[600], runners[-1], others[0], others[-1]]
    for runner in gone:
        rig.control.vanish(registration_id=runner)
    done = await rig.sync(force_full=True)
    assert done.status == "completed"
    await rig.assert_truth(missing=gone)
    assert sorted(await rig.changes()) == sorted(("missing", runner) for runner in gone)


async def test_rule_6_absence_waits_for_the_end_of_the_pass(rig: Rig) -> None:
    """Absent on its page, but the same pass sees it later."""
    await rig.sync()
    rig.control.vanish(registration_id=PERSON)
    rig.control.fault(
        "before", match={"endpoint": "removed_participants"},
        changes=[
            {"name": "unvanish", "registration_id": PERSON},
            {"name": "edit", "registration_id": PERSON, "last_name": "Returned"},
            {"name": "transfer", "registration_id": PERSON + 1, "to_event_id": SECOND},
        ],
    )  # fmt: skip
    await rig.sync(force_full=True)
    assert len(rig.asked("participants")) == 2
    await rig.assert_truth()
    assert "missing" not in dict(await rig.changes())


async def test_rule_6_absence_survives_an_interruption(rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    runners = rig.control.register(FIRST, 1300)
    rig.control.fault("clamp", rows=500, times=None)
    await rig.sync()
    gone = [PERSON, runners[600]]
    for runner in gone:
        rig.control.vanish(registration_id=runner)
    await rig.pass_time(8 * 24 * HOUR)
    rig.control.fault("http", match={"endpoint": "participants", "page_after": True}, skip=1, times=3)
    assert (await rig.sync()).status == "failed"
    assert (await rig.cursor())["checkpoint"]["feed"] == "participants"
    await rig.sync()
    assert len(rig.asked("participants")) == 1
    await rig.assert_truth(missing=gone)


async def test_the_removed_list_over_several_pages(rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    runners = rig.control.register(FIRST, 1100)
    await rig.sync()
    for runner in runners:
        rig.control.refund(runner)
    rig.control.fault("clamp", rows=500, times=None)
    await rig.sync()
    assert len(rig.asked("removed_participants")) == 3
    await rig.assert_truth()
    assert (await rig.last_pass())["rows_removed"] == 1100


async def test_rule_6_a_new_event_beside_a_suspicion(rig: Rig) -> None:
    """The doubt about one event keeps neither the new one from being read nor its news from being told."""
    await rig.sync()
    rig.control.vanish(event_id=FIRST)
    new_event = rig.control.add_event(RACE, "1 Mile", in_days=10)
    rig.control.register(new_event, 3)
    assert (await rig.sync()).status == "partial"
    assert (await rig.last_pass())["reason"] == f"new event {new_event}"
    assert await rig.changes() == []
    (late,) = rig.control.register(new_event, bib_num=8)
    await rig.sync()
    assert await rig.changes() == [("added", late)]
    assert await rig.bibs() == [("assigned", late, None, "8")]
    await rig.sync(race_id=RACE, accept_missing=True)
    rig.control.unvanish(event_id=FIRST)
    await rig.sync(force_full=True)
    await rig.assert_truth()


async def test_rule_10_an_event_that_goes_between_the_feeds(rig: Rig) -> None:
    others = rig.control.register(SECOND, 4)
    await rig.sync()
    rig.control.refund(PERSON)
    leave = [{"name": "remove_event", "event_id": SECOND}]
    rig.control.fault("before", match={"endpoint": "removed_participants"}, changes=leave)
    done = await rig.sync(force_full=True)
    assert done.exit_status == 0
    assert await rig.changes() == [("removed", PERSON)]
    assert set(others) <= await on_start_list(rig)
    assert (await rig.cursor())["event_ids"] == [FIRST]
    await rig.assert_truth(events=[FIRST], beside=[SECOND])


async def test_a_registration_that_does_not_say_when_it_was_changed(rig: Rig) -> None:
    rig.control.edit(PERSON, last_modified=None)
    await rig.sync()
    assert (await rig.registration(PERSON))["last_modified"] is None
    rig.control.edit(PERSON, bib_num=4, last_modified=None)
    await rig.sync()
    assert await rig.bibs() == []  # no query for changes can find it
    await rig.sync(force_full=True)
    assert await rig.bibs() == [("assigned", PERSON, None, "4")]
    rig.control.refund(PERSON)
    await rig.sync()
    assert PERSON not in await on_start_list(rig)
    rig.control.restore(PERSON)
    rig.control.edit(PERSON, last_modified=None)
    await rig.sync(force_full=True)
    assert PERSON in await on_start_list(rig)
    await rig.assert_truth()
