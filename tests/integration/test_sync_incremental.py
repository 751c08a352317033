"""Incremental passes: what changed arrives once, with its change and its bib row; the watermark that they go by."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig


async def stop_the_clock(rig: Rig, epoch: int | None = None) -> int:
    """Freeze the sandbox at a whole second."""
    second = int(time.time()) if epoch is None else epoch
    rig.control.clock(epoch=second, freeze=True)
    return second


async def first_sync(rig: Rig) -> int:
    """A full sync at a second at which the clock stands still; later changes are an hour away."""
    second = await stop_the_clock(rig)
    await rig.sync()
    return second


# -- what arrives ------------------------------------------------------------------------------------------------------


async def test_an_hour_of_life_arrives(rig: Rig) -> None:
    rig.control.register(SECOND, 6)
    await rig.sync()
    rig.control.clock(advance=60)
    (new,) = rig.control.register(FIRST, bib_num=501)
    rig.control.edit(PERSON, last_name="Newname", giveaway="XL")
    rig.control.assign_bib(PERSON + 1, 502)
    rig.control.refund(PERSON + 2)
    moved = rig.control.transfer(PERSON + 3, SECOND)
    done = await rig.sync()
    assert done.exit_status == 0
    await rig.assert_truth()
    assert await rig.changes() == [
        ("added", new), ("added", moved), ("updated", PERSON), ("updated", PERSON + 1),
        ("removed", PERSON + 2), ("removed", PERSON + 3),
    ]  # fmt: skip
    assert await rig.bibs() == [("assigned", new, None, "501"), ("assigned", PERSON + 1, None, "502")]
    last = await rig.last_pass()
    assert last["sync_type"] == "incremental"
    assert last["reason"].startswith("changes since ")
    assert (last["rows_inserted"], last["rows_updated"], last["rows_removed"], last["bib_changes"]) == (2, 2, 2, 2)
    again = await rig.sync()
    figures = again.partners[0].figures
    assert (figures.rows_inserted, figures.rows_updated, figures.rows_removed, figures.bib_changes) == (0, 0, 0, 0)
    assert len(await rig.changes()) == 6


async def test_a_change_tells_what_it_was_and_what_it_is(rig: Rig) -> None:
    second = await first_sync(rig)
    before = await rig.registration(PERSON)
    rig.control.clock(advance=3600)
    rig.control.edit(PERSON, last_name="Newname", city="Elsewhere", team_name="The Hares")
    await rig.sync()
    change = await rig.one("select * from runsignup_changes")
    assert change["before"] == {
        "last_name": before["last_name"],
        "address": {"city": before["address"]["city"]},
        "team_info": {"team_name": None},
    }
    assert change["after"] == {
        "last_name": "Newname",
        "address": {"city": "Elsewhere"},
        "team_info": {"team_name": "The Hares"},
    }
    assert (change["race_id"], change["event_id"], change["change_type"]) == (RACE, FIRST, "updated")
    assert change["source_modified_at"] == datetime.fromtimestamp(second + 3600, UTC)
    assert change["sync_history_id"] == (await rig.last_pass())["sync_history_id"]
    assert (await rig.registration(PERSON))["changed_at"] > before["changed_at"]


async def test_trap_18_a_bib_of_an_old_registration(rig: Rig) -> None:
    await rig.sync()
    rig.control.assign_bib(PERSON, 41)
    await rig.sync()
    assert await rig.bibs() == [("assigned", PERSON, None, "41")]
    rig.control.assign_bib(PERSON, 42, chip="AB12")
    await rig.sync()
    rig.control.assign_bib(PERSON, 42, chip="AB13")
    await rig.sync()
    rig.control.clear_bib(PERSON)
    await rig.sync()
    rows = await rig.rows("select * from runsignup_bib_changes order by bib_change_id")
    assert [(r["kind"], r["old_bib"], r["new_bib"], r["old_chip"], r["new_chip"]) for r in rows] == [
        ("assigned", None, "41", None, None),
        ("changed", "41", "42", None, "AB12"),
        ("chip", "42", "42", "AB12", "AB13"),
        ("cleared", "42", None, "AB13", None),
    ]
    assert [change for change, _ in await rig.changes()] == ["updated"] * 4
    assert (await rig.registration(PERSON))["bib_num"] is None
    await rig.assert_truth()


async def test_rule_7_a_null_bib_is_the_truth(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 7, chip="C7")
    await rig.sync()
    rig.control.clear_bib(PERSON, chip=False)
    await rig.sync()
    stored = await rig.registration(PERSON)
    assert (stored["bib_num"], stored["chip_num"]) == (None, "C7")
    assert await rig.bibs() == [("cleared", PERSON, "7", None)]


async def test_bibs_are_notified_once_per_transaction(rig: Rig) -> None:
    await rig.sync()
    for number in range(3):
        rig.control.assign_bib(PERSON + number, 100 + number)
    rig.control.edit(PERSON + 5, last_name="Nobib")
    async with await rig.database.connect() as listener:
        await listener.execute("listen startlist_bibs")
        await rig.sync()
        rig.control.edit(PERSON + 5, last_name="Nobib either")
        await rig.sync()
        heard = [json.loads(notice.payload) async for notice in listener.notifies(timeout=0.3)]
    last = await rig.one("select max(bib_change_id) as id from runsignup_bib_changes")
    assert heard == [{"timing_partner_id": 1, "race_id": RACE, "last_id": last["id"]}]


async def test_only_last_modified_moves(rig: Rig) -> None:
    second = await first_sync(rig)
    rig.control.clock(advance=3600)
    rig.control.edit(PERSON)
    done = await rig.sync()
    figures = done.partners[0].figures
    assert (figures.rows_updated, figures.rows_unchanged) == (1, 0)
    assert (await rig.registration(PERSON))["last_modified"] == datetime.fromtimestamp(second + 3600, UTC)
    assert await rig.changes() == []


async def test_silent_edits_arrive_with_the_next_full_pass_and_are_counted(rig: Rig) -> None:
    await first_sync(rig)
    rig.control.clock(advance=3600)
    rig.control.edit(PERSON, silent=True, first_name="Silent")
    rig.control.edit(PERSON + 1, first_name="Loud")
    await rig.sync()
    assert await rig.changes() == [("updated", PERSON + 1)]
    assert (await rig.last_pass())["silent_edits"] == 0
    rig.control.clock(advance=60)
    rig.control.edit(PERSON + 2, first_name="Just now")
    await rig.sync(force_full=True)
    last = await rig.last_pass()
    assert (last["silent_edits"], last["rows_updated"]) == (1, 2)
    await rig.assert_truth()


async def test_an_incremental_pass_takes_nothing_for_absent(rig: Rig) -> None:
    await rig.sync()
    rig.control.vanish(event_id=FIRST)
    done = await rig.sync()
    assert done.exit_status == 0
    assert await rig.count("start_list") == 12
    assert await rig.changes() == []


async def test_trap_22_21_one_account_and_two_twins(rig: Rig) -> None:
    await rig.sync()
    children = rig.control.register(FIRST, 3, user_id=77, last_name="Child")
    twins = rig.control.register(FIRST, 2, first_name="Sam", last_name="Lee", dob="2011-04-05", user_id=None)
    await rig.sync()
    rig.control.assign_bib(children[1], 5)
    rig.control.assign_bib(twins[1], 6)
    await rig.sync()
    bibs = {row["registration_id"]: row["bib_num"] for row in await rig.rows("select * from start_list")}
    assert [bibs[child] for child in (*children, *twins)] == [None, "5", None, None, "6"]
    await rig.assert_truth()


async def test_the_same_registration_in_two_events_is_two_rows(rig: Rig) -> None:
    rig.control.imply(PERSON, SECOND)
    await rig.sync()
    await rig.assert_truth()
    rig.control.assign_bib(PERSON, 9)
    await rig.sync()
    assert await rig.bibs() == [("assigned", PERSON, None, "9")] * 2
    await rig.assert_truth()
    rig.control.refund(PERSON)
    await rig.sync()
    await rig.assert_truth()
    assert sorted(await rig.changes())[:2] == [("removed", PERSON)] * 2


# -- the watermark -----------------------------------------------------------------------------------------------------


async def test_rule_4_the_watermark_is_the_date_less_the_calls_duration(rig: Rig) -> None:
    second = await stop_the_clock(rig)
    rig.control.fault("delay", ms=1050, match={"endpoint": "participants"})
    await rig.sync()
    took = {row["endpoint"]: row["ms"] / 1000 for row in await rig.rows("select endpoint, ms from api_calls")}
    assert took["participants"] > 1
    watermarks = [math.floor(second - took[endpoint]) for endpoint in ("participants", "removed-participants")]
    cursor = await rig.cursor()
    assert [cursor["participants_watermark"], cursor["removed_watermark"]] == watermarks
    await rig.sync()
    assert [rig.bound("participants"), rig.bound("removed_participants")] == [mark - 60 for mark in watermarks]


async def test_trap_07_a_change_in_the_second_of_the_query(rig: Rig) -> None:
    await stop_the_clock(rig)
    edit = {"name": "edit", "registration_id": PERSON, "last_name": "Q"}
    rig.control.fault("then", match={"endpoint": "participants"}, changes=[edit])
    await rig.sync()
    rig.control.edit(PERSON + 1, last_name="Same second")
    await rig.sync()
    await rig.assert_truth()


@pytest.mark.parametrize("seconds", [-90, 90, -86_400])
async def test_trap_08_runsignups_clock_is_not_ours(rig: Rig, seconds: int) -> None:
    rig.control.clock(advance=seconds)
    await rig.sync()
    rig.control.edit(PERSON, last_name="First")
    await rig.sync()
    assert (await rig.registration(PERSON))["last_name"] == "First"
    assert (await rig.last_pass())["sync_type"] == "incremental"
    rig.control.refund(PERSON)
    await rig.sync()
    await rig.assert_truth()


@pytest.mark.parametrize("skew", [-55, 55])
async def test_rule_4_the_overlap_bridges_clocks_that_differ(rig: Rig, skew: int) -> None:
    """The header and `last_modified` come from different machines of theirs."""
    await stop_the_clock(rig)
    rig.control.fault("clock_skew", seconds=skew, times=None)
    await rig.sync()
    rig.control.edit(PERSON, last_name="First")
    rig.control.refund(PERSON + 1)
    await rig.sync()
    await rig.assert_truth()


async def test_rule_4_a_lower_watermark_is_taken(rig: Rig) -> None:
    second = await first_sync(rig)
    await stop_the_clock(rig, second - 5000)
    await rig.sync()
    cursor = await rig.cursor()
    for watermark in (cursor["participants_watermark"], cursor["removed_watermark"]):
        assert second - 5010 <= watermark < second - 5000
    rig.control.edit(PERSON, last_name="Back in time")
    await rig.sync()
    assert (await rig.registration(PERSON))["last_name"] == "Back in time"


@pytest.mark.parametrize("kind", ["no_date", "bad_date"])
async def test_rule_4_without_a_date_the_latest_change_counts(rig: Rig, kind: str) -> None:
    second = await first_sync(rig)
    watermark = (await rig.cursor())["participants_watermark"]
    rig.control.fault(kind, times=None)
    rig.control.clock(advance=7200)
    await rig.sync()
    cursor = await rig.cursor()
    assert (cursor["participants_watermark"], cursor["removed_watermark"]) == (watermark, watermark)  # none was sent
    rig.control.edit(PERSON)
    rig.control.clock(advance=10)
    rig.control.edit(PERSON + 1)
    rig.control.clock(advance=-5)
    rig.control.refund(PERSON + 2)
    rig.control.clock(advance=3600)
    await rig.sync()
    cursor = await rig.cursor()
    assert (cursor["participants_watermark"], cursor["removed_watermark"]) == (second + 7210, second + 7205)
    await rig.assert_truth()


async def test_rule_4_without_date_and_changes_a_first_pass_has_no_watermark(rig: Rig) -> None:
    rig.control.vanish(event_id=FIRST)
    rig.control.fault("no_date", times=None)
    await rig.sync()
    rig.control.unvanish(event_id=FIRST)
    rig.control.clear_faults()
    await rig.sync()
    assert (await rig.last_pass())["sync_type"] == "full"
    await rig.assert_truth()


async def test_rule_4_a_removed_list_without_any_time_is_read_whole_again(rig: Rig) -> None:
    rig.control.fault("no_date", match={"endpoint": "removed_participants"}, times=1)
    await rig.sync()
    cursor = await rig.cursor()
    assert cursor["removed_watermark"] is None
    assert cursor["participants_watermark"] is not None
    rig.control.refund(PERSON)
    await rig.sync()
    assert rig.bound("removed_participants") is None
    assert (await rig.cursor())["removed_watermark"] is not None
    await rig.assert_truth()


@pytest.mark.parametrize("endpoint", ["participants", "removed_participants"])
async def test_trap_04_rule_4_the_watermark_stays_after_a_failure(rig: Rig, endpoint: str) -> None:
    await first_sync(rig)
    before = await rig.cursor()
    rig.control.clock(advance=3600)
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.fault("error", code=7, match={"endpoint": endpoint})
    done = await rig.sync()
    assert done.exit_status == 1
    after = await rig.cursor()
    assert (after["participants_watermark"], after["removed_watermark"]) == (
        before["participants_watermark"], before["removed_watermark"]
    )  # fmt: skip
    assert await rig.count("start_list") == 12
    assert (await rig.last_pass())["error_code"] == 7


async def test_trap_12_both_ways_to_write_a_time_are_the_same_instant(rig: Rig) -> None:
    await stop_the_clock(rig, 1_795_341_600)
    rig.control.refund(PERSON)
    (kept,) = rig.control.register(FIRST)
    await rig.sync()
    removed, active = await rig.registration(PERSON), await rig.registration(kept)
    assert removed["removed_at"] == active["last_modified"] == datetime.fromtimestamp(1_795_341_600, UTC)
    assert active["registration_date"] == datetime.fromtimestamp(1_795_341_600, UTC)
    assert removed["removal"]["last_modified"] == "2026-11-22 05:00:00"


# -- nothing is told twice ---------------------------------------------------------------------------------------------


async def test_a_reader_that_remembers_the_last_id_sees_every_change(rig: Rig) -> None:
    await rig.sync()
    seen: list[tuple[str, int]] = []
    last = 0
    for number in range(4):
        rig.control.edit(PERSON + number, last_name=f"Name {number}")
        rig.control.register(SECOND)
        await rig.sync()
        seen += await rig.changes(after=last)
        last = (await rig.one("select max(change_id) as id from runsignup_changes"))["id"]
    assert seen == await rig.changes()
    assert len(seen) == 8


async def test_the_logs_refuse_no_reader_meanwhile(rig: Rig) -> None:
    """A reader in a long transaction keeps nobody waiting."""
    await rig.sync()
    async with await psycopg.AsyncConnection.connect(**parameters(rig)) as reader:
        await reader.execute("select * from runsignup_changes, runsignup_participants, sync_history")
        rig.control.assign_bib(PERSON, 3)
        await rig.sync()
    assert await rig.bibs() == [("assigned", PERSON, None, "3")]


def parameters(rig: Rig) -> dict[str, Any]:
    return {"conninfo": rig.database.conninfo, "options": "-c search_path=startlist"}


async def test_what_changes_while_a_pass_lies_broken_off_arrives_afterwards(rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    rig.control.register(FIRST, 1300)
    rig.control.fault("clamp", rows=500, times=None)
    rig.control.fault("reset", match={"page_after": True}, skip=1, times=3)
    assert (await rig.sync()).exit_status == 1
    rig.control.clock(advance=1800)
    rig.control.edit(PERSON, last_name="Of page one")
    rig.control.edit(PERSON + 1200, last_name="Of page three")
    rig.control.refund(PERSON + 1)
    rig.control.register(FIRST, 2)
    rig.control.clock(advance=1800)
    assert (await rig.sync()).exit_status == 0
    assert len(rig.asked("participants")) == 1
    assert (await rig.registration(PERSON))["last_name"] != "Of page one"
    await rig.sync()
    assert (await rig.last_pass())["sync_type"] == "incremental"
    await rig.assert_truth()
    assert await rig.changes() == [("removed", PERSON + 1), ("updated", PERSON)]
