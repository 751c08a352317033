"""What once went wrong in what a sync stores: events, removals, duplicates, far dates, figures, checkpoints."""

from __future__ import annotations

import asyncio
import random
import string
from datetime import timedelta
from typing import Any

import pytest

from startlist.sync.gate import utc_now
from startlist.sync.job import Outcome
from startlist.sync.plan import Options
from startlist.sync.progress import Progress
from startlist.sync.run import run
from tests.support import MakeSettings
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig

HOUR = 3605  # a little more, as calls count
DAY = 24 * HOUR


async def had_first_full(rig: Rig) -> dict[int, bool]:
    """Which stored events had their first full pass."""
    rows = await rig.rows("select event_id, first_full_at is not null as had from runsignup_events")
    return {row["event_id"]: row["had"] for row in rows}


def sent(rig: Rig, registration_id: int, event_id: int = FIRST) -> dict[str, Any]:
    """A registration as RunSignup sends it."""
    rows = rig.control.truth(RACE)["events"][event_id]["active"]
    (row,) = [row for row in rows if row["registration_id"] == registration_id]
    return dict(row)


# -- a new event beside trouble ----------------------------------------------------------------------------------------


async def test_bibs_of_a_new_event_are_news_although_the_races_record_failed_at_first(rig: Rig) -> None:
    await rig.sync()
    rig.control.clock(advance=120)
    third = rig.control.add_event(RACE, "Third", in_days=10)
    first, *_ = rig.control.register(third, 3)
    rig.control.fault("http", match={"endpoint": "race"}, times=None)
    assert (await rig.sync()).status == "partial"
    assert await had_first_full(rig) == {FIRST: True, SECOND: True, third: True}
    rig.control.clear_faults()
    rig.control.clock(advance=120)
    rig.control.assign_bib(first, 77)
    (late,) = rig.control.register(third)
    assert (await rig.sync()).status == "completed"
    assert len(rig.asked("race")) == 1  # what could not be read is asked for again
    assert await rig.bibs() == [("assigned", first, None, "77")]
    assert sorted(await rig.changes()) == [("added", late), ("updated", first)]
    await rig.sync()
    assert "race" not in rig.endpoints()
    await rig.assert_truth()


async def test_bibs_of_a_new_event_are_news_although_another_event_is_in_doubt(rig: Rig) -> None:
    await rig.sync()
    rig.control.clock(advance=120)
    rig.control.vanish(event_id=FIRST)
    third = rig.control.add_event(RACE, "Third", in_days=10)
    runners = rig.control.register(third, 4)
    begun = utc_now()
    assert (await rig.sync()).status == "partial"
    assert await had_first_full(rig) == {FIRST: True, SECOND: True, third: True}
    expected = []
    passes = []
    for runner, minutes in zip(runners, (5, 14, 16, 70), strict=True):
        rig.control.clock(advance=120)
        rig.control.assign_bib(runner, runner % 100)
        expected.append(("assigned", runner, None, str(runner % 100)))
        await rig.sync(now=lambda later=begun + timedelta(minutes=minutes): later)  # type: ignore[misc]
        suspicion = (await rig.cursor())["suspicion"]
        passes.append(((await rig.last_pass())["sync_type"], suspicion["tries"]))
        assert await rig.bibs() == expected
    assert passes == [("incremental", 1), ("incremental", 1), ("full", 2), ("incremental", 2)]
    await rig.sync(now=lambda: begun + timedelta(minutes=80))
    assert (await rig.cursor())["suspicion"]["tries"] == 3
    assert [row for row in await rig.changes() if row[0] != "updated"] == []


async def test_bibs_of_an_event_that_is_in_doubt_from_its_beginning_are_news(rig: Rig) -> None:
    await rig.sync()
    third = rig.control.add_event(RACE, "Third", in_days=10)
    rig.control.register(third, 4)
    rig.control.fault("html", match={"endpoint": "removed_participants"}, times=3)
    assert (await rig.sync()).status == "failed"  # its runners are stored, its first full pass is not over
    rig.control.vanish(event_id=third)
    assert (await rig.sync()).status == "partial"
    assert await had_first_full(rig) == {FIRST: True, SECOND: True, third: False}
    rig.control.clock(advance=120)
    (late,) = rig.control.register(third, bib_num=12)
    assert (await rig.sync()).status == "completed"
    assert await rig.changes() == [("added", late)]
    assert await rig.bibs() == [("assigned", late, None, "12")]


# -- removals that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["no_user", "no_registration_id"])
async def test_a_removal_that_comes_back_unreadable_restores_nobody(rig: Rig, what: str) -> None:
    await rig.sync()
    rig.control.clock(advance=120)
    rig.control.refund(PERSON)
    await rig.sync()
    rig.control.restore(PERSON, keep_in_removed=True, silent=True)  # in both lists, as older as before: it is removed
    rig.control.fault("bad_rows", match={"endpoint": "removed_participants"}, what=[what], times=None)
    assert (await rig.sync(force_full=True)).status == "partial"
    assert (await rig.registration(PERSON))["removed_at"] is not None
    assert await rig.changes() == [("removed", PERSON)]


async def test_who_is_named_by_an_unreadable_removal_is_not_missing(rig: Rig) -> None:
    await rig.sync()
    rig.control.refund(PERSON)
    rig.control.fault("bad_rows", match={"endpoint": "removed_participants"}, what=["no_user"])
    assert (await rig.sync(force_full=True)).status == "partial"
    assert (await rig.registration(PERSON))["missing_since"] is None
    assert await rig.changes() == []
    await rig.sync(force_full=True)
    assert await rig.changes() == [("removed", PERSON)]
    await rig.assert_truth()


# -- records -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("older_at", [0, 5])
async def test_an_older_version_beside_the_stored_one_changes_nothing(rig: Rig, older_at: int) -> None:
    await rig.sync()
    older = sent(rig, PERSON)
    older |= {"last_modified": older["last_modified"] - 500, "bib_num": 999}
    twice = {"mode": "insert", "index": older_at, "rows": [older]}
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, times=2, **twice)
    for _ in range(2):
        assert (await rig.sync(force_full=True)).status == "completed"
        figures = await rig.last_pass()
        assert (figures["rows_received"], figures["rows_unchanged"], figures["silent_edits"]) == (13, 13, 0)
    assert await rig.changes() == []
    assert await rig.bibs() == []
    await rig.assert_truth()


async def test_a_bib_of_thousands_of_characters_costs_no_runner(rig: Rig) -> None:
    await rig.sync()
    endless = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=6000))
    rig.control.edit(PERSON, bib_num=endless, last_name="Endless")
    rig.control.edit(PERSON + 1, last_name="Other")
    assert (await rig.sync()).status == "completed"
    stored = await rig.registration(PERSON)
    assert (stored["last_name"], stored["bib_num"], stored["field_errors"]) == ("Endless", None, ["bib_num"])
    assert stored["additional_data"]["bib_num"] == endless
    assert (await rig.registration(PERSON + 1))["last_name"] == "Other"
    assert len(await rig.rows("select from start_list")) == 12


async def test_a_good_row_of_one_event_leaves_the_bad_one_of_another_in_quarantine(rig: Rig) -> None:
    await rig.sync()
    rig.control.imply(PERSON, SECOND)  # the same registration id in both events
    bad = {"registration_id": PERSON, "event_id": FIRST, "user": None}
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, rows=[bad], times=2)
    for _ in range(2):
        assert (await rig.sync(force_full=True)).status == "partial"
        kept = await rig.one("select event_id, registration_id, resolved_at from runsignup_quarantine")
        assert kept == {"event_id": FIRST, "registration_id": PERSON, "resolved_at": None}
    assert (await rig.sync(force_full=True)).status == "completed"
    assert (await rig.one("select resolved_at from runsignup_quarantine"))["resolved_at"] is not None


async def test_a_bad_event_of_a_race_without_others_is_told(rig: Rig) -> None:
    race = rig.control.add_race("No events yet")
    await rig.sync()
    rig.control.clock(advance=120)
    rig.control.add_event(race, "Bad", event_id="none")
    done = await rig.sync()
    assert (done.status, done.exit_status) == ("partial", 1)
    (failure,) = done.failed_syncs()
    assert (failure["race_id"], failure["error"]) == (race, "2 records quarantined")
    kept = await rig.rows("select endpoint from runsignup_quarantine where resolved_at is null order by endpoint")
    assert kept == [{"endpoint": "race"}, {"endpoint": "races"}]


# -- races and events --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times", [{"end_time": "12/31/9999 00:00"}, {"end_time": "12/31/9999 23:00"}, {"start_time": "12/31/9999 00:00"}]
)
async def test_an_event_that_never_ends_counts_and_harms_nobody(rig: Rig, times: dict[str, str]) -> None:
    rig.control.add_partner("Chip & Go")
    race = rig.control.add_race("Theirs", keys=["Chip & Go"])
    rig.control.register(rig.control.add_event(race), 3)
    await rig.adopt()
    rig.control.edit_event(FIRST, **times)
    done = await rig.sync(include_past_days=3)
    assert (done.status, done.exit_status) == ("completed", 0)
    await rig.assert_truth()
    await rig.assert_truth(race, partner=2)
    assert (await rig.last_pass())["event_ids"] == [FIRST, SECOND]
    assert (await rig.sync()).exit_status == 0
    assert (await rig.last_pass())["event_ids"] == [FIRST, SECOND]


async def test_a_run_that_dies_of_something_unforeseen_is_closed(rig: Rig) -> None:
    class Dying(Progress):
        def race_ended(self, timing_partner_id: int, race_id: int, outcome: Outcome) -> None:
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await rig.sync(progress=Dying())
    ended = await rig.one("select status, finished_at is not null as over from sync_runs")
    assert ended == {"status": "failed", "over": True}


async def test_a_race_without_events_that_left_the_list_costs_a_call_a_day(rig: Rig) -> None:
    race = rig.control.add_race("No events yet")
    await rig.sync()
    rig.control.unshare(race, "Peak Timing")
    for _ in range(2):
        spent = []
        for _ in range(3):
            await rig.sync()
            spent.append(len([call for call in rig.calls if call["race_id"] == race]))
        assert sum(spent) <= 1
        await rig.pass_time(DAY)
    rig.control.add_event(race, "At last", in_days=40)
    await rig.sync()
    assert [call["race_id"] for call in rig.asked("race")] == [race]


# -- passes that do not end well ---------------------------------------------------------------------------------------


async def test_a_fallback_that_waits_longer_than_an_hour_goes_on(rig: Rig, make_settings: MakeSettings) -> None:
    rig.control.remove_event(SECOND)
    rig.control.register(FIRST, 1300)
    rig.control.fault("clamp", rows=500, times=None)
    await rig.sync()
    await rig.pass_time(2 * HOUR)
    rig.control.fault("truncate", match={"endpoint": "participants", "incremental": True}, times=None)
    rig.settings = make_settings(api_url=rig.sandbox.url, calls_per_hour=5)

    async def sleep(seconds: float) -> None:
        assert len(rig.slept) < 3
        await rig.sleep(seconds)

    assert (await rig.sync(sleep=sleep)).status == "completed"
    assert rig.endpoints() == {"races": 1, "participants": 3 + 3, "removed_participants": 1}
    assert [row[:2] for row in await rig.passes()][1:] == [("full_fallback", "partial"), ("full", "completed")]
    assert (await rig.last_pass())["reason"] == "going on after a wait"
    await rig.assert_truth()


async def test_a_page_that_was_rolled_back_is_in_no_figures(rig: Rig) -> None:
    await rig.sync()
    await rig.conn.execute(f"alter table runsignup_changes add constraint refused check (registration_id <> {PERSON})")
    rig.control.assign_bib(PERSON, 7)
    rig.control.register(FIRST, 2)
    done = await rig.sync()
    assert done.status == "failed"
    figures = await rig.last_pass()
    counted = [name for name in figures if name.startswith("rows_")] + ["bib_changes", "silent_edits", "quarantined"]
    assert {name: figures[name] for name in counted} == dict.fromkeys(counted, 0)
    assert "refused" in figures["error_message"]
    assert done.to_json()["partners"][0]["rows_inserted"] == 0


async def test_the_calls_of_an_interrupted_pass_are_in_its_row(rig: Rig) -> None:
    await rig.sync()
    rig.control.reset_log()
    running: asyncio.Task[Any]

    class Cancel(Progress):
        calls = 0

        def call_made(self, timing_partner_id: int, credential_id: int, calls_left: int) -> None:
            self.calls += 1
            if self.calls == 3:
                running.cancel()

    async with rig.context(progress=Cancel()) as context:
        running = asyncio.create_task(run(context, Options()))
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [call["endpoint"] for call in rig.control.log()] == ["races", "participants", "removed_participants"]
    last = await rig.last_pass()
    assert (last["status"], last["error_message"], last["api_calls"]) == ("failed", "interrupted", 2)


@pytest.mark.parametrize(
    "unreadable", ['{"position": {"after": "5"}}', '{"kind": "other"}', '{"begun": "soon"}', '{"events": null}']
)
async def test_a_checkpoint_that_cannot_be_read_is_left_aside(rig: Rig, unreadable: str) -> None:
    await rig.sync()
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.fault("reset", match={"endpoint": "removed_participants"}, times=3)
    assert (await rig.sync()).status == "failed"
    changed = "update sync_cursors set checkpoint = checkpoint || %s::jsonb where checkpoint is not null"
    assert (await rig.conn.execute(changed, [unreadable])).rowcount == 1
    assert (await rig.sync()).status == "completed"
    assert rig.endpoints() == {"races": 1, "participants": 1, "removed_participants": 1}
    assert (await rig.cursor())["checkpoint"] is None
    await rig.assert_truth()


# -- checkpoints, suspicions, fallbacks --------------------------------------------------------------------------------


async def test_rule_4_a_forced_pass_that_waits_before_its_first_page_takes_up_no_older_full_one(rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    rig.control.register(FIRST, 1300)
    rig.control.fault("clamp", rows=500, times=None)
    await rig.sync()
    rig.control.fault("http", match={"endpoint": "participants", "page_after": True}, times=3)
    assert (await rig.sync(force_full=True)).status == "failed"
    rig.control.edit(PERSON, silent=True, last_name="Silent")  # on the page that was read
    rig.control.fault("error", match={"endpoint": "participants"}, code=14, times=1)
    assert (await rig.sync(race_id=RACE, force_full=True, sleep=rig.sleep)).status == "completed"
    await rig.assert_truth()


@pytest.mark.parametrize("forced", [True, False], ids=["forced", "accepting"])
async def test_rule_4_a_forced_pass_that_waits_before_its_first_page_stays_a_full_one(forced: bool, rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    await rig.sync()
    rig.control.fault("http", match={"endpoint": "removed_participants"}, times=3)
    assert (await rig.sync()).status == "failed"
    assert (await rig.cursor())["checkpoint"]["kind"] == "incremental"
    rig.control.edit(PERSON, silent=True, last_name="Silent")
    rig.control.fault("error", match={"endpoint": "participants"}, code=14, times=1)
    done = await rig.sync(race_id=RACE, sleep=rig.sleep, force_full=forced, accept_missing=not forced)
    assert done.status == "completed"
    await rig.assert_truth()


async def test_rule_3_an_event_that_left_and_came_back_under_a_suspicion_is_read_in_full(rig: Rig) -> None:
    (other,) = rig.control.register(SECOND, 1)
    rig.control.register(SECOND, 3)
    await rig.sync()
    rig.control.vanish(event_id=FIRST)
    await rig.sync(force_full=True)
    assert (await rig.last_pass())["status"] == "partial"
    rig.control.remove_event(SECOND)
    await rig.sync()
    rig.control.edit(other, last_name="Changed")
    rig.control.clock(advance=300)
    await rig.sync()  # the watermark moves, for the first event only
    rig.control.restore_event(SECOND)
    await rig.sync()
    assert (await rig.registration(other))["last_name"] == "Changed"


async def test_rule_5_a_fallback_that_was_interrupted_goes_on(rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    rig.control.register(FIRST, 1300)
    rig.control.fault("clamp", rows=500, times=None)
    await rig.sync()
    rig.control.fault("truncate", match={"endpoint": "participants", "incremental": True}, times=None)

    class Stop(Progress):
        def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
            task.cancel()

    task = asyncio.ensure_future(rig.sync(progress=Stop()))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await rig.cursor())["checkpoint"]["kind"] == "full"
    await rig.sync()
    assert len(rig.asked("participants")) == 2, "the pages that were left"
