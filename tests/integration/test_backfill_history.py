"""What a backfill writes down of itself, beside syncs of the same race, and what `status` makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from startlist.store import backfill
from startlist.store.reading import Filters
from startlist.store.status import Status, read_status
from startlist.sync.backfill.plan import Options as PastOptions
from startlist.sync.backfill.run import run as run_backfill
from startlist.sync.backfill.summary import BackfillSummary
from startlist.sync.plan import Options
from startlist.sync.run import run
from startlist.sync.summary import Summary
from tests.support import Cli, MakeSettings
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig, Row
from tests.years import Clock, Told, add_race, add_years, assert_adds_up

HELD_FOR = 1500  # milliseconds for which the sandbox holds an answer back, while something else goes on


async def start_backfill(rig: Rig, told: Told | None = None) -> BackfillSummary:
    return await run_backfill(lambda: rig.context(progress=told or Told()), PastOptions(), told or Told())


async def start_sync(rig: Rig, **options: Any) -> Summary:
    async with rig.context() as context:
        return await run(context, Options(**options))


async def until(looks: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what another task does."""
    async with asyncio.timeout(10):
        while not await looks():
            await asyncio.sleep(0.01)


async def status_of(rig: Rig) -> Status:
    return await read_status(rig.database, rig.settings, Filters())


# -- history -----------------------------------------------------------------------------------------------------------


async def test_a_leg_writes_down_what_it_did(rig: Rig) -> None:
    past = add_years(rig, 2)
    rig.control.refund(rig.control.register(past[0])[0])
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["no_user"], mode="insert")
    await rig.backfill()
    leg = await rig.one("select * from sync_history")
    assert (leg["sync_type"], leg["status"], leg["reason"]) == ("backfill", "partial", "never read")
    assert (leg["race_id"], leg["event_ids"], leg["credential_id"]) == (RACE, sorted(past), 1)
    assert leg["api_calls"] == 3
    assert leg["rows_received"] == 7
    counted = ("rows_inserted", "rows_updated", "rows_unchanged", "quarantined", "rows_removed", "rows_missing")
    assert [leg[name] for name in counted] == [6, 0, 0, 1, 1, 0]
    assert leg["error_message"] == "1 records quarantined"
    assert leg["finished_at"] >= leg["started_at"]
    ran = await rig.one("select * from sync_runs")
    assert (ran["command"], ran["trigger"], ran["status"]) == ("backfill", "backfill", "partial")
    assert leg["run_id"] == ran["run_id"]
    calls = await rig.rows("select endpoint, race_id, run_id from api_calls order by call_id")
    assert {call["run_id"] for call in calls} == {ran["run_id"]}
    assert [call["race_id"] for call in calls] == [None, RACE, RACE, RACE]


async def test_inserted_updated_unchanged_and_quarantined_are_what_was_received(rig: Rig) -> None:
    past = add_years(rig, 2, runners=5)
    await rig.backfill()
    first = rig.control.truth(RACE)["events"][past[0]]["active"]
    rig.control.edit(first[0]["registration_id"], last_name="Corrected")
    rig.control.register(past[1], 2)
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["no_user"], mode="insert")
    await rig.backfill(restart=True)
    leg = await rig.last_pass()
    assert leg["rows_received"] == 13
    counted = ("rows_inserted", "rows_updated", "rows_unchanged", "quarantined")
    assert [leg[name] for name in counted] == [2, 1, 9, 1]


async def test_the_counts_of_a_race_grow_from_leg_to_leg(rig: Rig, make_settings: MakeSettings) -> None:
    past = add_years(rig, 3, runners=600)
    await rig.sync()
    await rig.pass_time(4000)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    rig.settings = make_settings(api_url=rig.sandbox.url, calls_per_hour=4)
    clock = Clock(rig)
    seen: list[Row] = []

    async def sleep(seconds: float) -> None:
        await assert_adds_up(rig)
        seen.extend(await rig.rows("select api_calls, rows_received from backfill_progress"))
        await clock.sleep(seconds)

    done = await rig.backfill(now=clock.now, sleep=sleep)
    assert done.states == {"done": 1}
    received = [row["rows_received"] for row in seen]
    assert received == sorted(received)
    assert len(set(received)) >= 3
    await assert_adds_up(rig)
    row = await rig.past()
    assert (row["api_calls"], row["rows_received"], row["rows_inserted"]) == (len(rig.calls) - 1, 2300, 1800)
    rig.control.clock(advance=120)
    rig.control.register(rig.control.add_event(RACE, "Found in a drawer", in_days=-2000), 2)
    rig.settings = make_settings(api_url=rig.sandbox.url)
    await rig.backfill()
    assert (await rig.past())["rows_inserted"] == 1802
    await assert_adds_up(rig)
    await rig.assert_truth(events=[FIRST, SECOND, *past, past[-1] + 1])


async def test_a_run_that_is_cancelled_is_interrupted_and_goes_on(rig: Rig) -> None:
    past = add_years(rig, 2)
    rig.control.fault("delay", match={"endpoint": "removed_participants"}, ms=HELD_FOR)
    task = asyncio.create_task(start_backfill(rig))

    async def stored() -> bool:
        return await rig.count("runsignup_participants") > 0 and len(rig.control.log()) > 2

    await until(stored)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    leg = await rig.one("select * from sync_history")
    assert (leg["status"], leg["error_message"]) == ("failed", "interrupted")
    assert (await rig.one("select status from sync_runs"))["status"] == "interrupted"
    row = await rig.past()
    assert (row["state"], row["checkpoint"]["feed"]) == ("reading", "removed")
    rig.control.clear_faults()
    done = await rig.backfill()
    assert done.states == {"done": 1}
    assert rig.endpoints() == {"races": 1, "removed_participants": 1}
    assert (await rig.last_pass())["reason"] == "going on"
    await rig.assert_truth(events=past)


async def test_runs_that_died_without_a_word_are_closed_by_the_next(rig: Rig) -> None:
    past = add_years(rig, 1)
    await rig.conn.execute(
        "insert into sync_runs (command, trigger, status, started_at)"
        " values ('backfill', 'backfill', 'running', now() - interval '5 minutes')"
    )
    await rig.conn.execute(
        "insert into sync_history (run_id, timing_partner_id, credential_id, race_id, event_ids, sync_type, status)"
        " select run_id, 1, 1, %s, '{}', 'backfill', 'running' from sync_runs",
        [RACE],
    )
    await rig.backfill()
    assert [row["status"] for row in await rig.rows("select status from sync_runs order by run_id")] == [
        "interrupted", "completed"
    ]  # fmt: skip
    first = await rig.one("select * from sync_history order by sync_history_id limit 1")
    assert (first["status"], first["error_message"]) == ("failed", "interrupted")
    await rig.assert_truth(events=past)


async def test_a_partner_that_is_removed_meanwhile_ends_its_races_only(rig: Rig) -> None:
    add_years(rig, 2)
    rig.control.add_partner("Chip & Go")
    theirs = add_race(rig, keys=["Chip & Go"])
    await rig.adopt()
    rig.control.fault("reset", match={"endpoint": "removed_participants", "race_id": RACE}, times=None)

    class Removing(Told):
        def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
            if timing_partner_id == 1:
                with psycopg.connect(autocommit=True, **rig.database.parameters("test")) as conn:
                    conn.execute("delete from timing_partners where timing_partner_id = 1")

    done = await start_backfill(rig, Removing())
    assert (done.exit_status, done.error) == (1, None)
    assert await rig.rows("select * from backfill_progress where timing_partner_id = 1") == []
    await rig.assert_truth(theirs, partner=2)


# -- beside a sync of the same race ------------------------------------------------------------------------------------


async def test_a_sync_does_not_close_the_row_of_a_backfill_that_is_at_work(rig: Rig) -> None:
    past = add_years(rig, 2)
    await rig.sync()
    rig.control.fault("delay", match={"endpoint": "participants", "event_id": past[0]}, ms=HELD_FOR)
    task = asyncio.create_task(start_backfill(rig))

    async def asked() -> bool:
        return any(fault["used"] for fault in rig.control.faults())

    await until(asked)
    rig.control.edit(PERSON, last_name="Meanwhile")
    synced = await start_sync(rig, race_id=RACE)
    assert synced.exit_status == 0
    legs = await rig.rows("select status, error_message from sync_history where sync_type = 'backfill'")
    assert legs == [{"status": "running", "error_message": None}]
    done = await task
    assert done.states == {"done": 1}
    assert [(kind, status) for kind, status, _ in await rig.passes()] == [
        ("full", "completed"), ("backfill", "completed"), ("incremental", "completed")
    ]  # fmt: skip
    await rig.assert_truth(events=[FIRST, SECOND, *past])
    await rig.check()


async def test_a_backfill_does_not_close_the_row_of_a_sync_that_is_at_work(rig: Rig) -> None:
    past = add_years(rig, 2)
    await rig.sync()
    rig.control.fault("delay", match={"endpoint": "participants", "event_id": FIRST}, ms=HELD_FOR)
    syncing = asyncio.create_task(start_sync(rig, race_id=RACE, force_full=True))

    async def asked() -> bool:
        return any(fault["used"] for fault in rig.control.faults())

    await until(asked)
    task = asyncio.create_task(start_backfill(rig))

    async def begun() -> bool:
        return bool(await rig.rows("select * from sync_history where sync_type = 'backfill'"))

    await until(begun)
    running = await rig.rows("select sync_type, status from sync_history order by sync_history_id offset 1")
    assert [(row["sync_type"], row["status"]) for row in running] == [("full", "running"), ("backfill", "running")]
    assert (await syncing).exit_status == 0
    assert (await task).states == {"done": 1}
    assert [(kind, status) for kind, status, _ in await rig.passes()] == [
        ("full", "completed"), ("full", "completed"), ("backfill", "completed")
    ]  # fmt: skip
    await rig.assert_truth(events=[FIRST, SECOND, *past])
    await rig.check()


async def test_a_page_that_a_sync_overtook_is_asked_for_anew(rig: Rig) -> None:
    """An old event that was asked for is edited, then synced by its number, while the old answer is on its way."""
    race = add_race(rig)
    (event,) = rig.control.truth(race)["events"]
    runner = rig.control.truth(race)["events"][event]["active"][0]["registration_id"]
    rig.control.fault("delay", match={"endpoint": "removed_participants", "race_id": race}, ms=HELD_FOR)
    task = asyncio.create_task(start_backfill(rig))

    async def asked() -> bool:
        return any(fault["used"] for fault in rig.control.faults())

    await until(asked)
    rig.control.edit(runner, last_name="Corrected")
    assert (await start_sync(rig, race_id=race, timing_partner_id=1)).exit_status == 0
    assert (await task).exit_status == 0
    assert (await rig.registration(runner))["last_name"] == "Corrected"
    await rig.assert_truth(race)
    await rig.check()


async def test_a_race_that_another_backfill_had_is_tried_again_like_any_other(rig: Rig) -> None:
    past = add_years(rig, 2)
    other = add_race(rig, days=50)
    claim = backfill.claim_key(rig.database, 1, RACE)
    with psycopg.connect(autocommit=True, **rig.database.parameters("test")) as holder:
        holder.execute("select pg_advisory_lock(%s)", [claim])
        rig.control.fault("reset", match={"endpoint": "race", "race_id": RACE}, times=3)

        class Freeing(Told):
            def past_ended(self, timing_partner_id: int, race_id: int, outcome: Any) -> None:
                super().past_ended(timing_partner_id, race_id, outcome)
                if race_id == other:
                    holder.execute("select pg_advisory_unlock(%s)", [claim])

        told = Freeing()
        done = await rig.backfill(progress=told)
    assert told.ended == [(other, "done"), (RACE, "done")]
    assert (done.exit_status, done.states) == (0, {"done": 2})
    await rig.assert_truth(events=past)
    await rig.assert_truth(other)


async def test_a_key_is_proved_by_a_race_that_another_backfill_had(rig: Rig) -> None:
    past = add_years(rig, 2)
    claim = backfill.claim_key(rig.database, 1, RACE)
    with psycopg.connect(autocommit=True, **rig.database.parameters("test")) as holder:
        holder.execute("select pg_advisory_lock(%s)", [claim])
        other = add_race(rig, days=50, runners=0)
        rig.control.fault("error", code=7, match={"race_id": other}, times=None)

        class Freeing(Told):
            def call_made(self, timing_partner_id: int, credential_id: int, calls_left: int) -> None:
                if rig.control.log()[-1]["race_id"] == other:
                    holder.execute("select pg_advisory_unlock_all()")

        done = await rig.backfill(progress=Freeing())
    assert done.states == {"done": 1, "refused": 1}
    await rig.assert_truth(events=past)
    assert (await rig.credential())["verified_at"] is not None
    assert (await rig.past(other))["state"] == "refused"


async def test_a_race_that_another_backfill_keeps_is_left_to_it(rig: Rig) -> None:
    add_years(rig, 2)
    async with await rig.database.connect() as holder:
        assert await backfill.claim(rig.database, holder, 1, RACE)
        done = await rig.backfill()
        assert (done.status, done.exit_status, done.states) == ("skipped", 3, {"held": 1})
        assert rig.endpoints() == {"races": 1}
        add_race(rig)
        done = await rig.backfill()
    assert (done.status, done.exit_status, done.states) == ("completed", 0, {"held": 1, "done": 1})


# -- status ------------------------------------------------------------------------------------------------------------


async def test_status_counts_the_races_of_each_partner_by_state(rig: Rig) -> None:
    add_years(rig, 2)
    add_race(rig, runners=0)
    gone, broken = add_race(rig), add_race(rig)
    rig.control.add_partner("Chip & Go")
    add_race(rig, keys=["Chip & Go"])
    await rig.adopt()
    await rig.sync()
    assert (await status_of(rig)).backfills == []
    rig.control.fault("error", code=201, match={"race_id": gone}, times=None)
    rig.control.fault("error", code=4, match={"race_id": broken, "endpoint": "participants"}, times=None)
    clock = Clock(rig)
    await rig.backfill(now=clock.now, sleep=clock.sleep)
    mine, theirs = (await status_of(rig)).backfills
    assert (mine.timing_partner_id, mine.company_name, mine.races) == (1, "Peak Timing", 4)
    counted = (mine.done, mine.empty, mine.gone, mine.failed, mine.partial, mine.refused, mine.waiting, mine.reading)
    assert counted == (1, 1, 1, 1, 0, 0, 0, 0)
    assert (mine.left, theirs.left) == (1, 0)
    assert (mine.rows_received, mine.rows_inserted, theirs.rows_inserted) == (6, 6, 3)
    legs = await rig.one("select sum(api_calls)::int as n from sync_history where sync_type = 'backfill'")
    assert mine.api_calls + theirs.api_calls == legs["n"]
    assert (theirs.races, theirs.done) == (1, 1)


async def test_status_tells_whether_it_runs_or_stands_still(rig: Rig, make_settings: MakeSettings) -> None:
    add_years(rig, 2)
    for number in range(2):
        add_race(rig, days=10 * number)
    rig.settings = make_settings(api_url=rig.sandbox.url, calls_per_hour=6)
    seen: list[tuple[bool, int]] = []

    class Enough(Exception):
        pass

    async def sleep(seconds: float) -> None:
        found = await status_of(rig)
        (one,) = found.backfills
        seen.append((found.holders.backfilling(rig.database, one), one.left))
        raise Enough

    told = Told()
    with pytest.raises(BaseExceptionGroup):
        await run_backfill(lambda: rig.context(progress=told, sleep=sleep), PastOptions(), told)
    assert seen[0] == (True, 2)
    found = await status_of(rig)
    (one,) = found.backfills
    assert not found.holders.backfilling(rig.database, one)
    assert (one.races, one.done, one.left) == (3, 1, 2)
    rig.settings = make_settings(api_url=rig.sandbox.url)
    await rig.backfill()
    (one,) = (await status_of(rig)).backfills
    assert (one.done, one.left) == (3, 0)


async def test_status_says_so_to_people_and_in_json(rig: Rig, cli: Cli) -> None:
    add_years(rig, 2)
    broken = add_race(rig)
    await rig.sync()
    rig.control.fault("error", code=4, match={"race_id": broken, "endpoint": "participants"}, times=None)
    clock = Clock(rig)
    await rig.backfill(now=clock.now, sleep=clock.sleep)
    shown = await asyncio.to_thread(cli, "status")
    assert shown.code == 0
    assert "stands still with 1 of 2 races left: startlist backfill goes on with it" in shown.stdout
    (found,) = (await asyncio.to_thread(cli, "status", "--json")).json["backfills"]
    assert (found["timing_partner_id"], found["races"], found["left"], found["running"]) == (1, 2, 1, False)
    assert (found["done"], found["failed"]) == (1, 1)
    rig.control.clear_faults()
    await rig.backfill()
    shown = await asyncio.to_thread(cli, "status")
    assert "stands still" not in shown.stdout
    (found,) = (await asyncio.to_thread(cli, "status", "--json")).json["backfills"]
    assert (found["done"], found["left"]) == (2, 0)


async def test_a_race_of_the_past_does_not_show_as_a_race_to_look_at(rig: Rig) -> None:
    add_race(rig)
    await rig.sync()
    await rig.backfill()
    assert [race.race_id for race in (await status_of(rig)).races] == [RACE]
