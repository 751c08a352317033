"""The hour's budget, throttling, and the locks: who waits for what, what is held meanwhile, how the run goes on."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from startlist.store import cursors
from startlist.sync.plan import Options
from startlist.sync.progress import Progress
from startlist.sync.run import run
from tests.support import MakeSettings
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig

HOUR = 3605


def limit(rig: Rig, make_settings: MakeSettings, calls: int) -> None:
    rig.settings = make_settings(api_url=rig.sandbox.url, calls_per_hour=calls)


async def more_races(rig: Rig, count: int) -> list[int]:
    races: list[int] = [rig.control.add_race(f"Race {number}") for number in range(count)]
    for number, race in enumerate(races):
        rig.control.register(rig.control.add_event(race, in_days=20 + number), 3)
    return races


class Told(Progress):
    """What the user is told of waiting."""

    def __init__(self) -> None:
        self.waits: list[tuple[int, int, datetime, str]] = []

    def waiting(self, timing_partner_id: int, credential_id: int, until: datetime, why: str) -> None:
        self.waits.append((timing_partner_id, credential_id, until, why))


# -- the hour ----------------------------------------------------------------------------------------------------------


async def test_rule_8_a_spent_budget_is_waited_for_and_the_run_goes_on(rig: Rig, make_settings: MakeSettings) -> None:
    races = await more_races(rig, 2)
    limit(rig, make_settings, 4)
    told = Told()
    done = await rig.sync(sleep=rig.sleep, progress=told)
    assert (done.status, done.exit_status) == ("completed", 0)
    for race in (RACE, *races):
        await rig.assert_truth(race)
    waits = [seconds for seconds in rig.slept if seconds > 1]  # beside what is left of one when the clock was moved
    assert waits
    assert all(3500 < seconds <= 3605 for seconds in waits)
    assert 1 <= len(rig.slept) <= 4
    assert all(
        why.startswith("API key ") and "has used its 4 calls an hour; free again" in why for *_, why in told.waits
    )
    waiting = [row for row in await rig.passes() if row[2] == "waiting"]
    assert waiting
    assert {status for _, status, _ in waiting} == {"partial"}
    assert (await rig.one("select status from sync_runs"))["status"] == "completed"
    stored = await rig.rows("select reserved_at from api_calls where http_status is not null")
    assert len(stored) == len(rig.calls) == 1 + 3 * 3


async def test_rule_8_put_off_between_the_feeds(rig: Rig, make_settings: MakeSettings) -> None:
    limit(rig, make_settings, 3)
    rig.control.refund(PERSON)
    done = await rig.sync(sleep=rig.sleep)
    assert done.exit_status == 0
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 1, "removed_participants": 1}
    assert await rig.passes() == [("full", "partial", "waiting"), ("full", "completed", "never synced")]
    first, second = await rig.rows("select * from sync_history order by sync_history_id")
    assert (first["api_calls"], second["api_calls"]) == (2, 1)
    assert (first["rows_received"], second["rows_received"], second["rows_removed"]) == (11, 0, 1)
    assert "has used its 3 calls an hour" in first["error_message"]
    (race,) = done.to_json()["partners"][0]["races"]
    assert (race["status"], race["api_calls"], race["rows_received"], race["rows_removed"]) == ("completed", 3, 11, 1)
    await rig.assert_truth()
    assert await rig.changes() == []


async def test_rule_8_a_forced_pass_goes_on_from_its_own_checkpoint(rig: Rig, make_settings: MakeSettings) -> None:
    await rig.sync()
    await rig.pass_time(2 * HOUR)
    limit(rig, make_settings, 2)
    rig.control.edit(PERSON, silent=True, last_name="Silent")
    done = await rig.sync(force_full=True, sleep=rig.sleep)
    assert done.exit_status == 0
    assert rig.endpoints() == {"races": 1, "participants": 1, "removed_participants": 1}
    assert [(kind, status) for kind, status, _ in await rig.passes()][1:] == [
        ("full", "partial"),
        ("full", "completed"),
    ]
    await rig.assert_truth()


async def test_rule_8_a_pass_begins_only_with_two_free_calls(rig: Rig, make_settings: MakeSettings) -> None:
    await rig.sync()
    await rig.pass_time(2 * HOUR)
    limit(rig, make_settings, 2)
    await rig.sync(sleep=rig.sleep)
    log = [call["endpoint"] for call in rig.calls]
    assert log == ["races", "participants", "removed_participants"]
    assert len(rig.slept) == 1  # after the list: one free call is no beginning
    assert [reason for *_, reason in await rig.passes()].count("waiting") == 1


async def test_rule_8_one_call_an_hour(rig: Rig, make_settings: MakeSettings) -> None:
    limit(rig, make_settings, 1)
    done = await rig.sync(sleep=rig.sleep)
    assert done.exit_status == 0
    assert len(rig.slept) == 3
    await rig.assert_truth()


async def test_rule_8_a_short_wait_puts_nothing_off(rig: Rig, make_settings: MakeSettings) -> None:
    await rig.sync()
    limit(rig, make_settings, 4)  # as many as were made
    await rig.pass_time(HOUR - 3)
    done = await rig.sync(sleep=rig.sleep)
    assert done.exit_status == 0
    assert 0 < sum(rig.slept) <= 5
    assert [status for _, status, _ in await rig.passes()] == ["completed", "completed"]


async def test_rule_8_nothing_is_held_while_a_pass_waits(rig: Rig, make_settings: MakeSettings) -> None:
    limit(rig, make_settings, 3)
    seen: list[dict[str, Any]] = []

    async def sleep(seconds: float) -> None:
        async with asyncio.timeout(5):  # the server needs a moment to see that a connection was closed
            while any((held := await rig.one(HELD)).values()):
                await asyncio.sleep(0.01)
        seen.append(held)
        await rig.sleep(seconds)

    assert (await rig.sync(sleep=sleep)).exit_status == 0
    assert len(seen) == 1


HELD = """
select (select count(*) from pg_stat_activity
        where datname = current_database()
          and (application_name like 'startlist pass%%' or state like 'idle in transaction%%')) as connections,
       (select count(*) from pg_locks join pg_database on pg_database.oid = pg_locks.database
        where locktype = 'advisory' and datname = current_database()) as locks,
       (select count(*) from sync_history where status = 'running') as passes
"""


async def test_rule_8_what_goes_on_later_knows_the_database_only(rig: Rig, make_settings: MakeSettings) -> None:
    """While a pass waits, another run, with more budget, finishes the race."""
    limit(rig, make_settings, 3)

    async def sleep(seconds: float) -> None:
        await rig.sleep(seconds)
        rig.control.register(FIRST, 2)
        rig.settings = make_settings(api_url=rig.sandbox.url)
        async with rig.context() as context:
            assert (await run(context, Options())).exit_status == 0
        await rig.pass_time(2 * HOUR)
        assert (await rig.cursor())["checkpoint"] is None

    rig.control.reset_log()
    async with rig.context(sleep=sleep) as context:
        done = await run(context, Options())
    assert done.exit_status == 0
    assert [(kind, status) for kind, status, _ in await rig.passes()] == [
        ("full", "partial"), ("full", "completed"), ("incremental", "completed")
    ]  # fmt: skip
    await rig.assert_truth()


async def test_every_credential_has_its_own_hour(rig: Rig, make_settings: MakeSettings) -> None:
    rig.control.add_partner("Chip & Go")
    race = rig.control.add_race("Theirs", keys=["Chip & Go"])
    rig.control.register(rig.control.add_event(race), 3)
    await rig.adopt()
    limit(rig, make_settings, 4)
    done = await rig.sync()  # four calls each; nobody waits
    assert done.exit_status == 0
    await rig.assert_truth()
    await rig.assert_truth(race, partner=2)


async def test_a_partner_that_waits_holds_up_nobody(rig: Rig, make_settings: MakeSettings) -> None:
    rig.control.add_partner("Chip & Go")
    race = rig.control.add_race("Theirs", keys=["Chip & Go"])
    rig.control.register(rig.control.add_event(race), 3)
    await rig.adopt()
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = 3 where credential_id = 1")
    others_done = asyncio.Event()

    class Watch(Progress):
        def race_ended(self, timing_partner_id: int, race_id: int, outcome: Any) -> None:
            if timing_partner_id == 2:
                others_done.set()

    async def sleep(seconds: float) -> None:
        await asyncio.wait_for(others_done.wait(), 10)
        await rig.sleep(seconds)

    assert (await rig.sync(sleep=sleep, progress=Watch())).exit_status == 0
    await rig.assert_truth()
    await rig.assert_truth(race, partner=2)


# -- throttling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "kind", "parameters", "seconds"),
    [
        ("participants", "error", {"code": 14}, 60),
        ("participants", "http", {"status": 429}, 60),
        ("participants", "http", {"status": 429, "retry_after": 40}, 40),
        ("participants", "http", {"status": 429, "retry_after": 3}, 3),
        ("races", "error", {"code": 14}, 60),
        ("race", "http", {"status": 429, "retry_after": 40}, 40),
        ("removed_participants", "error", {"code": 14}, 60),
    ],
)
async def test_trap_40_throttling_is_waited_out(
    rig: Rig, endpoint: str, kind: str, parameters: dict[str, Any], seconds: int
) -> None:
    rig.control.fault(kind, match={"endpoint": endpoint}, **parameters)
    done = await rig.sync(sleep=rig.sleep)
    assert (done.status, done.exit_status) == ("completed", 0)
    assert len(rig.asked(endpoint)) == 2
    assert sum(rig.slept) == pytest.approx(seconds, abs=2)
    assert len(rig.calls) == 5
    await rig.assert_truth()
    assert (await rig.cursor())["checkpoint"] is None


async def test_throttling_twice_doubles_the_pause(rig: Rig) -> None:
    rig.control.fault("error", code=14, match={"endpoint": "participants"}, times=2)
    done = await rig.sync(sleep=rig.sleep)
    assert done.exit_status == 0
    assert [round(seconds, -1) for seconds in rig.slept] == [60, 120]
    assert [reason for *_, reason in await rig.passes()] == ["waiting", "waiting", "never synced"]


async def test_throttling_without_end_fails_the_pass(rig: Rig) -> None:
    await rig.sync()
    before = await rig.cursor()
    rig.control.fault("error", code=14, match={"endpoint": "participants"}, times=None)
    done = await rig.sync(sleep=rig.sleep)
    assert done.exit_status == 1
    assert 2 <= len(rig.asked("participants")) <= 6
    last = await rig.last_pass()
    assert (last["status"], last["error_code"]) == ("failed", 14)
    assert (await rig.cursor())["participants_watermark"] == before["participants_watermark"]
    rig.control.clear_faults()
    await rig.pass_time(HOUR)
    assert (await rig.sync()).exit_status == 0


async def test_throttling_pauses_all_races_of_the_credential(rig: Rig) -> None:
    races = await more_races(rig, 3)
    await rig.sync()
    rig.control.fault("error", code=14, match={"endpoint": "participants"})
    done = await rig.sync(sleep=rig.sleep)
    assert done.exit_status == 0
    assert sum(call["error_code"] == 14 for call in rig.calls) == 1
    for race in (RACE, *races):
        await rig.assert_truth(race)


async def test_the_sandboxs_own_limit_is_waited_out(rig: Rig) -> None:
    """RunSignup's limit is lower than the one that was configured."""
    rig.control.settings(calls_per_hour=3)

    async def sleep(seconds: float) -> None:
        rig.control.clock(advance=3700)
        await rig.sleep(seconds)

    done = await rig.sync(sleep=sleep)
    assert done.exit_status == 0
    await rig.assert_truth()


# -- rule 9: one pass of a race at a time ------------------------------------------------------------------------------


async def test_rule_9_every_race_held_by_another_run(rig: Rig) -> None:
    (other,) = await more_races(rig, 1)
    await rig.sync()
    async with await rig.database.connect() as holder:
        for race in (RACE, other):
            assert await cursors.lock_race(rig.database, holder, 1, race)
        done = await rig.sync()
        assert (done.status, done.exit_status) == ("skipped", 3)
        assert rig.endpoints() == {"races": 1}
        assert [status for _, status, _ in await rig.passes()][2:] == ["skipped", "skipped"]
        assert (await rig.last_pass())["reason"] == "another run holds this race"
    assert (await rig.one("select status from sync_runs order by run_id desc limit 1"))["status"] == "skipped"


async def test_rule_9_one_race_held_by_another_run(rig: Rig) -> None:
    (other,) = await more_races(rig, 1)
    await rig.sync()
    async with await rig.database.connect() as holder:
        assert await cursors.lock_race(rig.database, holder, 1, RACE)
        done = await rig.sync()
    assert (done.status, done.exit_status) == ("completed", 0)
    assert {race["race_id"]: race["status"] for race in done.to_json()["partners"][0]["races"]} == {
        RACE: "skipped", other: "completed"
    }  # fmt: skip


async def test_rule_9_a_named_race_is_waited_for(rig: Rig) -> None:
    await rig.sync()
    holder = await rig.database.connect()
    assert await cursors.lock_race(rig.database, holder, 1, RACE)
    task = asyncio.create_task(rig.sync(race_id=RACE))
    waits = "select from pg_locks join pg_database on pg_database.oid = database where datname = current_database()"
    while not await rig.rows(f"{waits} and locktype = 'advisory' and not granted"):
        await asyncio.sleep(0.01)
    await holder.close()
    assert (await task).exit_status == 0
    assert [status for _, status, _ in await rig.passes()] == ["completed", "completed"]


async def test_rule_9_the_next_holder_closes_what_was_left_open(rig: Rig) -> None:
    await rig.sync()
    await rig.conn.execute("update sync_history set status = 'running', finished_at = null")
    await rig.sync()
    first = await rig.one("select * from sync_history order by sync_history_id limit 1")
    assert (first["status"], first["error_message"]) == ("failed", "interrupted")
    assert first["finished_at"] is not None


async def test_two_runs_at_once(rig: Rig) -> None:
    rig.control.settings(latency_ms=3)
    races = await more_races(rig, 5)
    async with rig.context() as one, rig.context() as two:
        first, second = await asyncio.gather(run(one, Options()), run(two, Options()))
    assert {first.exit_status, second.exit_status} <= {0, 3}
    for race in (RACE, *races):
        await rig.assert_truth(race)
    await rig.check()
    assert await rig.changes() == []


async def test_trap_41_never_more_than_two_calls_at_once(rig: Rig) -> None:
    rig.control.settings(latency_ms=5, max_concurrent=None)
    for number in range(4):
        name = f"Company {number}"
        rig.control.add_partner(name)
        for _ in range(2):
            race = rig.control.add_race("Run", keys=[name])
            rig.control.register(rig.control.add_event(race), 2)
    await rig.adopt()
    done = await rig.sync()
    assert done.exit_status == 0
    assert rig.control.counts()["max_concurrent"] == 2


async def test_cancelled_runs_end_cleanly_and_are_gone_on_with(rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    rig.control.register(FIRST, 1300)
    rig.control.fault("clamp", rows=500, times=None)
    rig.control.fault("timeout", match={"page_after": True}, skip=1)
    running: asyncio.Task[Any]

    class Cancel(Progress):
        pages = 0

        def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
            self.pages += 1
            if self.pages == 2:
                running.cancel()

    async with rig.context(progress=Cancel()) as context:
        running = asyncio.create_task(run(context, Options()))
        with pytest.raises(asyncio.CancelledError):
            await running
    last = await rig.last_pass()
    assert (last["status"], last["error_message"], last["rows_received"]) == ("failed", "interrupted", 1000)
    assert (await rig.one("select status from sync_runs"))["status"] == "interrupted"
    rig.control.clear_faults()
    rig.control.fault("clamp", rows=500, times=None)
    done = await rig.sync()
    assert done.exit_status == 0
    assert len(rig.asked("participants")) == 1
    await rig.assert_truth()


async def test_a_fallback_that_waits_goes_on_as_the_full_pass_it_became(rig: Rig, make_settings: MakeSettings) -> None:
    await rig.sync()
    await rig.pass_time(2 * HOUR)
    limit(rig, make_settings, 3)
    rig.control.edit(PERSON, silent=True, last_name="In silence")
    rig.control.fault("error", code=3, match={"incremental": True})
    done = await rig.sync(sleep=rig.sleep)
    assert done.exit_status == 0
    assert rig.endpoints() == {"races": 1, "participants": 2, "removed_participants": 1}
    assert [(kind, status) for kind, status, _ in await rig.passes()][1] == ("full_fallback", "partial")
    assert (await rig.last_pass())["status"] == "completed"
    await rig.assert_truth()
