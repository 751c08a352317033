"""Keys in a backfill: wrong, revoked, stopped, two of one partner; nothing is stored before a key is proved."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from startlist.sandbox import World
from startlist.store import backfill, history
from startlist.store.database import Database
from startlist.store.reading import Filters
from startlist.store.status import read_status
from startlist.sync.backfill.plan import Options
from startlist.sync.backfill.run import dry_run
from tests.support import MakeSettings
from tests.syncing import FIRST, RACE, SECOND, Rig
from tests.years import Told, add_race, add_years, assert_adds_up

HOUR = 3600
OF_A_PARTNER = (
    "runsignup_races", "runsignup_events", "runsignup_participants", "runsignup_changes", "runsignup_quarantine",
    "backfill_progress", "sync_cursors",
)  # fmt: skip


def refused(rig: Rig) -> set[int]:
    """The races that answered 7 in the last run."""
    return {call["race_id"] for call in rig.calls if call["error_code"] == 7}


async def stored_races(rig: Rig, partner: int = 1) -> set[int]:
    found = await rig.rows(
        "select race_id from runsignup_races where timing_partner_id = %s"
        " union select race_id from backfill_progress where timing_partner_id = %s",
        partner, partner,
    )  # fmt: skip
    return {row["race_id"] for row in found}


# -- a key that is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("races", [1, 2, 6])
async def test_rule_1_of_a_wrong_legacy_key_nothing_at_all_is_stored(rig: Rig, races: int) -> None:
    add_years(rig, 2)
    for number in range(races - 1):
        add_race(rig, 2, days=10 * number)
    await rig.rotate("not the secret")
    done = await rig.backfill()
    assert (done.status, done.exit_status) == ("failed", 1)
    for table in OF_A_PARTNER:
        assert await rig.count(table) == 0
    assert len(refused(rig)) == min(races, 3)
    credential = await rig.credential()
    assert credential["stopped_at"] is not None
    assert credential["verified_at"] is None
    (error,) = done.partners[0].errors
    assert "permission denied" in error
    assert "startlist partner rotate 1" in error
    again = await rig.backfill()
    assert rig.calls == []
    assert again.exit_status == 1


async def test_rule_1_with_the_right_secret_everything_is_read(rig: Rig) -> None:
    past = add_years(rig, 2)
    races = [add_race(rig, days=10 * number) for number in range(3)]
    await rig.rotate("not the secret")
    await rig.backfill()
    await rig.rotate(rig.control.partners()[0]["secret"])
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"done": 4})
    await rig.assert_truth(events=past)
    for race in races:
        await rig.assert_truth(race)


async def test_rule_1_a_key_that_turns_wrong_keeps_what_is_stored(rig: Rig) -> None:
    past = add_years(rig, 2)
    known = [add_race(rig, days=10 * number) for number in range(3)]
    await rig.backfill()
    rows = await rig.written()
    rig.control.add_partner("Chip & Go")
    for number in range(4):
        add_race(rig, keys=["Chip & Go"], days=number)  # public, and not ours
    rig.control.revoke_key("Peak Timing")
    await rig.pass_time(2 * HOUR)
    done = await rig.backfill(restart=True)
    assert done.exit_status == 1
    assert len(refused(rig)) == 2  # one, then another that was answered before: so it is not the races
    assert refused(rig) < {RACE, *known}  # the known ones are asked first
    assert await stored_races(rig) == {RACE, *known}
    assert await rig.written() == rows
    assert "startlist partner check 1" in done.partners[0].errors[0]
    await rig.assert_truth(events=past)


async def test_rule_1_a_key_that_turns_wrong_between_two_runs_marks_no_race_as_refused(rig: Rig) -> None:
    """What it was refused says nothing of the races: with the right secret they are read."""
    races = [add_race(rig, days=10 * number) for number in range(5)]
    rig.control.revoke_key("Peak Timing")
    await rig.backfill()
    assert await rig.count("backfill_progress") == 0
    rig.control.set_key("Peak Timing", "fresh-secret")
    await rig.rotate("fresh-secret")
    done = await rig.backfill()
    assert done.exit_status == 0
    assert {race for (race,) in [tuple(row.values()) for row in await rig.rows(DONE)]} == set(races)


DONE = "select race_id from backfill_progress where state = 'done' order by race_id"


async def test_rule_1_a_wrong_v2_key_is_stopped_by_code_6(rig: Rig) -> None:
    key = rig.control.add_partner("Chip & Go", "v2")
    add_race(rig, keys=["Chip & Go"])
    past = add_years(rig, 1)
    await rig.adopt()
    rig.control.set_key(key["key"], "another-secret")
    done = await rig.backfill()
    assert done.exit_status == 1
    assert [call["endpoint"] for call in rig.calls if call["error_code"] == 6] == ["races"]
    assert (await rig.credential(2))["stopped_at"] is not None
    assert await stored_races(rig, partner=2) == set()
    await rig.assert_truth(events=past)


async def test_rule_1_code_6_in_mid_run_stops_the_credential(rig: Rig) -> None:
    add_years(rig, 1)
    for number in range(4):
        add_race(rig, days=10 * number)
    await rig.sync()
    rig.control.fault("error", code=6, match={"endpoint": "participants"}, times=None)
    done = await rig.backfill()
    assert done.exit_status == 1
    assert len(rig.asked("participants")) <= 2
    assert (await rig.credential())["stopped_reason"].startswith("RunSignup reports error 6")
    rig.control.clear_faults()
    await rig.rotate(rig.control.partners()[0]["secret"])
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"done": 5})


async def test_a_race_that_waits_when_its_key_is_stopped_is_not_empty(rig: Rig) -> None:
    newest, waits, refuses = (add_race(rig, days=10 * number) for number in range(3))
    paused = {"race_id": waits, "endpoint": "removed_participants"}
    rig.control.fault("delay", ms=500, match=paused)  # the other race is under way by then
    rig.control.fault("http", status=429, retry_after=60, match=paused)
    rig.control.fault("delay", ms=1_500, match={"race_id": refuses, "endpoint": "participants"})
    rig.control.fault("error", code=6, match={"race_id": refuses, "endpoint": "participants"}, times=None)

    async def until_the_key_is_stopped(_seconds: float) -> None:
        await rig.conn.execute("update partner_provider_credentials set paused_until = null")  # the other one goes on
        async with asyncio.timeout(30):
            while (await rig.credential())["stopped_at"] is None:
                await asyncio.sleep(0.02)

    done = await rig.backfill(sleep=until_the_key_is_stopped)
    assert (done.exit_status, done.states) == (1, {"done": 1, "waiting": 1, "failed": 1})
    assert (await rig.past(waits))["state"] == "reading"
    rig.control.clear_faults()
    await rig.rotate(rig.control.partners()[0]["secret"])
    assert (await rig.backfill()).exit_status == 0
    for race in (newest, waits, refuses):
        await rig.assert_truth(race)


async def test_a_backfill_that_has_proved_nothing_yet_is_seen(rig: Rig) -> None:
    async with await rig.database.connect(name="startlist run") as conn:
        assert (await read_status(rig.database, rig.settings, Filters())).backfills == []
        async with conn.transaction():
            await backfill.begin_run(rig.database, conn, await history.open_run(conn, "backfill", "backfill"), [1])
        status = await read_status(rig.database, rig.settings, Filters())
        (seen,) = status.backfills
        assert (seen.timing_partner_id, seen.races, seen.left) == (1, 0, 0)
        assert status.holders.backfilling(rig.database, seen)
    assert (await read_status(rig.database, rig.settings, Filters())).backfills == []


async def test_rule_10_code_17_stops_everything(rig: Rig) -> None:
    add_years(rig, 1)
    for number in range(4):
        add_race(rig, days=10 * number)
    rig.control.add_partner("Chip & Go")
    add_race(rig, keys=["Chip & Go"])
    await rig.adopt()
    rig.control.fault("error", code=17, match={"endpoint": "participants"}, times=None)
    done = await rig.backfill()
    assert (done.status, done.exit_status) == ("failed", 2)
    assert "17" in str(done.error)
    assert len(rig.asked("participants")) <= 3
    run = await rig.one("select status, error_message from sync_runs")
    assert run["status"] == "failed"
    assert await rig.rows("select * from sync_history where status = 'running'") == []
    rig.control.clear_faults()
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"done": 6})


async def test_rule_10_code_17_at_the_race_list(rig: Rig) -> None:
    add_years(rig, 1)
    rig.control.settings(registration_required=True)
    done = await rig.backfill()
    assert (done.status, done.exit_status) == ("failed", 2)
    assert len(rig.calls) == 1
    assert await rig.count("backfill_progress") == 0


# -- permission denied: the race's, or the key's -----------------------------------------------------------------------


async def test_a_refusal_before_the_proof_is_noted_after_it(rig: Rig, make_settings: MakeSettings) -> None:
    """The race that is asked first is refused: only when another one was read it is known that the key is good."""
    rig.settings = make_settings(api_url=rig.sandbox.url, concurrent_calls=1)
    readable = add_race(rig, days=500)
    denied = add_race(rig, days=3)
    rig.control.fault("error", code=7, match={"race_id": denied, "endpoint": "participants"}, times=None)
    told = Told()
    done = await rig.backfill(progress=told)
    asked = [call["race_id"] for call in rig.asked("participants")]
    assert asked[0] == denied
    assert (done.exit_status, done.states) == (1, {"refused": 1, "done": 1, "empty": 1})
    await rig.assert_truth(readable)
    row = await rig.past(denied)
    assert row["state"] == "refused"
    assert "permission denied" in row["reason"]
    assert row["finished_at"] is not None
    assert (await rig.credential())["stopped_at"] is None
    assert sorted(told.ended) == sorted([(readable, "done"), (denied, "refused"), (RACE, "empty")])
    assert await rig.rows("select * from runsignup_races where race_id = %s", denied) == []
    again = await rig.backfill()
    assert rig.endpoints() == {"races": 1}
    assert (again.exit_status, again.partners[0].left_alone) == (0, 1)
    rig.control.clear_faults()
    done = await rig.backfill(retry=True)
    assert (await rig.past(denied))["state"] == "done"
    await rig.assert_truth(denied)


async def test_a_race_that_is_refused_keeps_what_was_read_of_it(rig: Rig) -> None:
    past = add_years(rig, 2)
    add_race(rig)
    await rig.backfill()
    rows = await rig.written()
    rig.control.clock(advance=120)
    rig.control.edit_race(RACE, name="Changed")
    older = rig.control.add_event(RACE, "Found in a drawer", in_days=-2000)
    rig.control.register(older)
    rig.control.fault("error", code=7, match={"race_id": RACE, "endpoint": "participants"}, times=None)
    await rig.pass_time(30)
    done = await rig.backfill()
    assert done.exit_status == 1
    assert await rig.written() == rows
    row = await rig.past()
    assert row["state"] in ("refused", "failed")  # not as if somebody were reading it
    assert (row["rows_inserted"], row["event_ids"]) == (6, sorted(past))


async def test_rule_1_three_7s_with_a_success_stop_nothing(rig: Rig) -> None:
    past = add_years(rig, 1)
    races = [add_race(rig, days=10 * (number + 1)) for number in range(4)]
    for race in races:
        rig.control.fault("error", code=7, match={"race_id": race, "endpoint": "participants"}, times=None)
    await rig.sync()
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (1, {"done": 1, "refused": 4})
    assert (await rig.credential())["stopped_at"] is None
    assert done.partners[0].errors == []
    await rig.assert_truth(events=[FIRST, SECOND, *past])


# -- stopped -----------------------------------------------------------------------------------------------------------


async def test_rule_1_a_stopped_credential_is_tried_once_an_hour_with_one_call(rig: Rig) -> None:
    past = add_years(rig, 1)
    await rig.backfill()
    rig.control.revoke_key("Peak Timing")
    await rig.pass_time(2 * HOUR)
    await rig.backfill(restart=True)
    assert (await rig.credential())["stopped_at"] is not None
    done = await rig.backfill()
    assert (rig.calls, done.exit_status) == ([], 1)
    await rig.pass_time(HOUR + 1)
    assert (await rig.backfill()).exit_status == 1
    assert rig.endpoints() == {"participants": 1}
    key = rig.control.partners()[0]
    rig.control.set_key("Peak Timing", key["secret"])
    await rig.pass_time(HOUR + 1)
    done = await rig.backfill()
    assert done.exit_status == 0
    assert (await rig.credential())["stopped_at"] is None
    await rig.assert_truth(events=past)


# -- several credentials -----------------------------------------------------------------------------------------------


async def two_keys(rig: Rig, *races: int) -> dict[str, Any]:
    """A second credential of the same partner, which reaches the races too."""
    key: dict[str, Any] = rig.control.add_partner("Peak Timing", "v2")
    for race in races:
        rig.control.share(race, key["name"])
    await rig.adopt()
    return key


async def test_rule_2_a_race_of_two_credentials_is_read_once(rig: Rig) -> None:
    past = add_years(rig, 2)
    await two_keys(rig, RACE)
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"done": 1})
    assert rig.endpoints() == {"races": 2, "race": 1, "participants": 1, "removed_participants": 1}
    await rig.assert_truth(events=past)
    await rig.backfill()
    assert rig.endpoints() == {"races": 2}


async def test_rule_2_on_7_it_is_read_with_the_other(rig: Rig) -> None:
    past = add_years(rig, 2)
    mine = add_race(rig, days=100)
    key = await two_keys(rig, RACE)
    rig.control.fault("error", code=7, match={"race_id": RACE, "key": "Peak Timing"}, times=None)
    done = await rig.backfill()
    assert (done.status, done.exit_status, done.states) == ("completed", 0, {"done": 2})
    await rig.assert_truth(events=past)
    await rig.assert_truth(mine)
    read_with = [call["key"] for call in rig.calls if call["race_id"] == RACE and call["error_code"] is None]
    assert set(read_with) == {key["name"]}
    assert (await rig.one("select credential_id from runsignup_races where race_id = %s", RACE))["credential_id"] == 2
    assert (await rig.past())["state"] == "done"
    assert [status for _, status, _ in await rig.passes(RACE)] == ["failed", "completed"]
    rig.control.clear_faults()
    await rig.backfill(restart=True)
    assert {call["key"] for call in rig.calls if call["race_id"] == RACE} == {key["name"]}


async def test_rule_2_both_refused(rig: Rig) -> None:
    add_years(rig, 2)
    mine = add_race(rig, days=100)
    await two_keys(rig, RACE)
    rig.control.fault("error", code=7, match={"race_id": RACE}, times=None)
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (1, {"done": 1, "refused": 1})
    assert (await rig.past())["state"] == "refused"
    await rig.assert_truth(mine)


async def test_a_stopped_credential_leaves_its_races_to_the_other(rig: Rig) -> None:
    past = add_years(rig, 2)
    key = await two_keys(rig, RACE)
    rig.control.fault("error", code=6, match={"key": "Peak Timing"}, times=None)
    done = await rig.backfill()
    assert done.exit_status == 1  # a credential is stopped, and that is said
    assert done.states == {"done": 1}
    assert {call["key"] for call in rig.calls if call["race_id"]} == {key["name"]}
    await rig.assert_truth(events=past)


async def test_a_partner_whose_key_is_wrong_holds_up_nobody(rig: Rig) -> None:
    past = add_years(rig, 2)
    rig.control.add_partner("Chip & Go")
    theirs = add_race(rig, keys=["Chip & Go"])
    await rig.adopt()
    await rig.rotate("not the secret")
    done = await rig.backfill()
    assert done.exit_status == 1
    assert [bool(partner.errors) for partner in done.partners] == [True, False]
    await rig.assert_truth(theirs, partner=2)
    assert await rig.rows("select * from runsignup_participants where event_id = any(%s)", past) == []
    assert await stored_races(rig) == set()
    await assert_adds_up(rig)


# -- long lists --------------------------------------------------------------------------------------------------------


def many_races(count: int) -> World:
    world = World(seed=4)
    key = world.add_key("Peak Timing")
    for number in range(count):
        world.add_race(f"Race {number}", [key])
    return world


@pytest.mark.parametrize(("races", "pages"), [(1001, 2), (1000, 2), (999, 1)])
async def test_rule_2_a_list_of_more_than_a_page(
    database: Database, make_settings: MakeSettings, races: int, pages: int
) -> None:
    async with Rig.open(database, make_settings, many_races(races)) as rig:
        rig.control.reset_log()
        async with rig.context() as context:
            (planned,) = await dry_run(context, Options())
        assert planned.races == races
        assert [call["endpoint"] for call in rig.control.log()] == ["races"] * pages
        assert await rig.count("backfill_progress") == 0


async def test_rule_1_a_wrong_key_that_lists_every_public_race(database: Database, make_settings: MakeSettings) -> None:
    async with Rig.open(database, make_settings, many_races(1200)) as rig:
        for race in rig.control.partners()[0]["race_ids"][:5]:
            rig.control.register(rig.control.add_event(race, in_days=-100))
        await rig.rotate("not the secret")
        done = await rig.backfill()
        assert done.exit_status == 1
        assert len(refused(rig)) == 3
        assert len(rig.calls) <= 2 + 3 * 3
        for table in OF_A_PARTNER:
            assert await rig.count(table) == 0
