"""A backfill's share of the hour, its waits, its hours, and what it does while RunSignup or the database is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from startlist.store import backfill, budget, cursors
from startlist.store.budget import Reservation, Wait
from startlist.store.partners import Credential
from startlist.sync.backfill.plan import SHARE
from startlist.sync.backfill.plan import Options as PastOptions
from startlist.sync.backfill.run import run as run_backfill
from startlist.sync.backfill.summary import BackfillSummary
from startlist.sync.backfill.window import Window
from startlist.sync.credential import open_credentials
from startlist.sync.gate import utc_now
from startlist.sync.plan import Options
from startlist.sync.run import run
from startlist.sync.summary import Summary
from tests.support import MakeSettings, terminate
from tests.syncing import FIRST, RACE, SECOND, Rig
from tests.years import Clock, Told, add_race, add_years, assert_adds_up

HOUR = 3605
MINUTE = 60
ZONE = utc_now().tzinfo


def limit(rig: Rig, make_settings: MakeSettings, calls: int, **more: Any) -> None:
    rig.settings = make_settings(api_url=rig.sandbox.url, calls_per_hour=calls, **more)


async def this_hour(rig: Rig) -> int:
    """The calls of the last hour, of whatever class."""
    query = "select count(*) as n from api_calls where reserved_at > clock_timestamp() - interval '3605 seconds'"
    return int((await rig.one(query))["n"])


async def another_run(
    rig: Rig, *, progress: Told | None = None, now: Callable[[], datetime] = utc_now, **options: Any
) -> BackfillSummary:
    """A backfill beside the one that is tested, whose calls are not counted with it."""
    told = progress or Told()
    return await run_backfill(
        lambda: rig.context(progress=told, now=now, sleep=rig.sleep), PastOptions(**options), told
    )


# -- the share ---------------------------------------------------------------------------------------------------------


async def reserve(rig: Rig, credential: Credential, share: float, *, first: bool = False) -> Reservation | Wait:
    return await budget.reserve(
        rig.conn, credential, endpoint="participants", race_id=1, run_id=None, first=first, share=share
    )


@pytest.mark.parametrize(("calls", "of_share"), [(1, 1), (2, 1), (3, 2), (10, 7), (30, 21), (1000, 700)])
def test_rule_8_seven_tenths_of_the_hour_and_one_at_least(calls: int, of_share: int) -> None:
    assert budget.calls_of_share(calls, SHARE) == of_share


async def test_rule_8_a_share_is_of_all_calls_of_the_hour(rig: Rig, make_settings: MakeSettings) -> None:
    limit(rig, make_settings, 10)
    async with rig.context() as context:
        ((credential,),) = await open_credentials(context, None)
    for left in (9, 8, 7, 6, 5):  # a typed command
        granted = await reserve(rig, credential, 1.0)
        assert isinstance(granted, Reservation)
        assert granted.calls_left == left
    granted = await reserve(rig, credential, SHARE, first=True)
    assert isinstance(granted, Reservation)
    assert granted.calls_left == 1
    begins = await reserve(rig, credential, SHARE, first=True)  # one call is no beginning
    assert isinstance(begins, Wait)
    assert isinstance(await reserve(rig, credential, SHARE), Reservation)
    waits = await reserve(rig, credential, SHARE)
    assert isinstance(waits, Wait)
    assert (waits.calls_left, waits.paused) == (0, False)
    assert 3500 < waits.seconds <= HOUR
    for left in (2, 1, 0):  # the rest is for those whose races are coming
        granted = await reserve(rig, credential, 1.0)
        assert isinstance(granted, Reservation)
        assert granted.calls_left == left
    assert isinstance(await reserve(rig, credential, 1.0), Wait)


async def test_rule_8_a_backfill_leaves_the_rest_to_the_syncs(rig: Rig, make_settings: MakeSettings) -> None:
    past = add_years(rig, 1)
    races = [add_race(rig, days=10 * number) for number in range(4)]
    limit(rig, make_settings, 12, concurrent_calls=1)
    clock, told = Clock(rig), Told()
    syncs: list[Summary] = []

    async def sleep(seconds: float) -> None:
        if seconds > MINUTE and not syncs:
            assert await this_hour(rig) in (7, 8)  # of 12; a race is begun only while two are free
            async with rig.context() as context:  # a sync that is typed goes on
                syncs.append(await run(context, Options()))
            assert await this_hour(rig) > 8
        await clock.sleep(seconds)

    rig.control.reset_log()
    done = await run_backfill(lambda: rig.context(sleep=sleep, now=clock.now, progress=told), PastOptions(), told)
    assert (done.status, done.states) == ("completed", {"done": 5})
    (synced,) = syncs
    assert synced.exit_status == 0
    for race in races:
        await rig.assert_truth(race)
    await rig.assert_truth(events=[FIRST, SECOND, *past])
    until, why = told.waits[0]
    assert "has used the 70% share of its 12 calls an hour; free again" in why
    assert f"{until:%Y-%m-%d %H:%M:%S}" in why
    assert max(told.left) == 7
    await assert_adds_up(rig)


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("known", [False, True])
async def test_rule_8_a_few_calls_an_hour(rig: Rig, make_settings: MakeSettings, calls: int, known: bool) -> None:
    past = add_years(rig, 2)
    race = add_race(rig, 1)
    if known:
        await rig.sync()
        await rig.pass_time(2 * HOUR)
    limit(rig, make_settings, calls)
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (done.exit_status, done.states) == (0, {"done": 2})
    await rig.assert_truth(race)
    await rig.assert_truth(events=[*past, FIRST, SECOND] if known else past)
    assert rig.endpoints() == {"races": 1, "race": 2, "participants": 2, "removed_participants": 2}
    assert len(clock.slept) <= 8
    if known:  # else the first calls are made before anything may be noted
        await assert_adds_up(rig)


# -- waits -------------------------------------------------------------------------------------------------------------


async def test_rule_8_spent_in_mid_race_it_goes_on_from_what_is_stored(rig: Rig, make_settings: MakeSettings) -> None:
    past = add_years(rig, 3, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    limit(rig, make_settings, 6)  # four for the backfill
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (done.status, done.exit_status, done.states) == ("completed", 0, {"done": 1})
    await rig.assert_truth(events=past)
    # The list, the record, all at once, six pages of three events, the removed list: nothing twice.
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 7, "removed_participants": 1}
    legs = await rig.passes()
    assert legs == [("backfill", "partial", "waiting")] * (len(legs) - 1) + [
        ("backfill", "completed", "going on after a wait")
    ]
    assert len(legs) >= 3
    first, *_, last = await rig.rows("select * from sync_history order by sync_history_id")
    assert "has used the 70% share of its 6 calls an hour" in first["error_message"]
    assert first["rows_received"] > 0
    assert last["rows_received"] < 1800
    (read,) = done.to_json()["partners"][0]["races_read"]
    assert (read["state"], read["rows_received"], read["rows_inserted"]) == ("done", 2300, 1800)
    assert await rig.changes() == []
    await assert_adds_up(rig)


async def test_rule_8_what_goes_on_later_knows_the_database_only(rig: Rig, make_settings: MakeSettings) -> None:
    """While it waits, another backfill, with more budget, finishes the race."""
    past = add_years(rig, 3, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    limit(rig, make_settings, 6)
    clock = Clock(rig)
    others: list[BackfillSummary] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        if not others:
            rig.settings = make_settings(api_url=rig.sandbox.url)
            others.append(await another_run(rig, now=clock.now))
            assert (await rig.past())["state"] == "done"

    told = Told()
    done = await run_backfill(lambda: rig.context(progress=told, now=clock.now, sleep=sleep), PastOptions(), told)
    assert others[0].states == {"done": 1}
    assert (done.status, done.exit_status) == ("completed", 0)
    await rig.assert_truth(events=past)
    assert [status for _, status, _ in await rig.passes()] == ["partial", "completed"]
    await assert_adds_up(rig)


async def test_rule_8_a_checkpoint_that_is_gone_meanwhile_is_not_remembered(
    rig: Rig, make_settings: MakeSettings
) -> None:
    past = add_years(rig, 2, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    limit(rig, make_settings, 6)
    clock = Clock(rig)
    forgotten: list[bool] = []

    async def sleep(seconds: float) -> None:
        if not forgotten:
            assert (await rig.past())["checkpoint"]["position"] is not None
            await backfill.forget(rig.conn, [1])
            forgotten.append(True)
        await clock.sleep(seconds)

    done = await rig.backfill(now=clock.now, sleep=sleep)
    assert forgotten
    assert done.states == {"done": 1}
    assert len([call for call in rig.asked("participants") if len(call["event_ids"]) == 2]) == 2
    await rig.assert_truth(events=past)


HELD = """
select (select count(*) from pg_stat_activity
        where datname = current_database()
          and (application_name like 'startlist backfill%%' or state like 'idle in transaction%%')) as connections,
       (select count(*) from sync_history where status = 'running') as legs
"""


async def test_rule_8_nothing_is_held_while_it_waits(rig: Rig, make_settings: MakeSettings) -> None:
    add_years(rig, 2)
    limit(rig, make_settings, 5)  # three for the backfill
    clock = Clock(rig)
    seen: list[dict[str, int]] = []

    async def sleep(seconds: float) -> None:
        async with asyncio.timeout(5):  # the server needs a moment to see that a connection was closed
            while any((held := await rig.one(HELD)).values()):
                await asyncio.sleep(0.01)
        async with await rig.database.connect() as other:
            assert await cursors.lock_race(rig.database, other, 1, RACE)
            assert await backfill.claim(rig.database, other, 1, RACE)
        seen.append(held)
        await clock.sleep(seconds)

    assert (await rig.backfill(now=clock.now, sleep=sleep)).exit_status == 0
    assert len(seen) == 1


async def test_every_credential_has_its_own_hour_and_holds_up_nobody(rig: Rig, make_settings: MakeSettings) -> None:
    past = add_years(rig, 1)
    rig.control.add_partner("Chip & Go")
    theirs = add_race(rig, keys=["Chip & Go"])
    await rig.adopt()
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = 4 where credential_id = 1")
    ready = asyncio.Event()
    clock = Clock(rig)

    class Watch(Told):
        def past_ended(self, timing_partner_id: int, race_id: int, outcome: Any) -> None:
            if race_id == theirs:
                ready.set()

    async def sleep(seconds: float) -> None:
        await asyncio.wait_for(ready.wait(), 10)
        await clock.sleep(seconds)

    done = await rig.backfill(now=clock.now, sleep=sleep, progress=Watch())
    assert done.exit_status == 0
    await rig.assert_truth(events=past)
    await rig.assert_truth(theirs, partner=2)


# -- the hours of the day ----------------------------------------------------------------------------------------------


async def test_between_closes_in_mid_race_and_goes_on_when_it_opens(rig: Rig) -> None:
    past = add_years(rig, 3, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    clock = Clock(rig, utc_now().replace(hour=4, minute=30, second=0, microsecond=0))
    opens = clock.at.replace(hour=22, minute=0)
    made: list[datetime] = []

    class Watch(Told):
        def call_made(self, timing_partner_id: int, credential_id: int, calls_left: int) -> None:
            made.append(clock.at)
            clock.at += timedelta(minutes=7)

    told = Watch()
    done = await rig.backfill(
        now=clock.now, sleep=clock.sleep, progress=told, between=Window.parse("22:00-05:00", ZONE)
    )
    assert (done.exit_status, done.states) == (0, {"done": 1})
    await rig.assert_truth(events=past)
    assert all(at.hour >= 22 or at.hour < 5 for at in made)
    assert clock.slept == [pytest.approx((opens - made[4] - timedelta(minutes=7)).total_seconds())]
    assert [until for until, _ in told.waits] == [opens]
    assert told.waits[0][1] == f"calls are made between 22:00 and 05:00; goes on {opens:%Y-%m-%d %H:%M} UTC"
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 7, "removed_participants": 1}
    assert [(status, reason) for _, status, reason in await rig.passes()] == [
        ("partial", "waiting"), ("completed", "going on after a wait")
    ]  # fmt: skip
    await assert_adds_up(rig)


async def test_between_is_waited_for_before_the_first_call(rig: Rig) -> None:
    past = add_years(rig, 1)
    clock = Clock(rig, utc_now().replace(hour=12, minute=0, second=0, microsecond=0))
    done = await rig.backfill(now=clock.now, sleep=clock.sleep, between=Window.parse("22:00-05:00", ZONE))
    assert clock.slept == [10 * 3600]
    assert done.exit_status == 0
    await rig.assert_truth(events=past)


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
    past = add_years(rig, 2)
    rig.control.fault(kind, match={"endpoint": endpoint}, **parameters)
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (done.status, done.exit_status) == ("completed", 0)
    assert len(rig.asked(endpoint)) == 2
    assert sum(clock.slept) == pytest.approx(seconds, abs=2)
    assert len(rig.calls) == 5
    await rig.assert_truth(events=past)
    assert (await rig.past())["checkpoint"] is None


async def test_throttling_of_a_race_that_is_known_is_counted_with_it(rig: Rig) -> None:
    past = add_years(rig, 2)
    await rig.sync()
    for endpoint in ("race", "participants", "removed_participants"):
        rig.control.fault("http", status=429, retry_after=40, match={"endpoint": endpoint})
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert done.states == {"done": 1}
    await rig.assert_truth(events=[FIRST, SECOND, *past])
    assert (await rig.past())["api_calls"] == len(rig.calls) - 1 == 6
    await assert_adds_up(rig)


async def test_throttling_in_mid_race_repeats_no_page(rig: Rig) -> None:
    past = add_years(rig, 2, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    rig.control.fault("error", code=14, match={"endpoint": "participants", "page_after": True})
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert done.states == {"done": 1}
    assert len(rig.asked("participants")) == 5 + 1
    await rig.assert_truth(events=past)
    await assert_adds_up(rig)


async def test_throttling_without_end_fails_the_race_and_leaves_its_place(rig: Rig) -> None:
    past = add_years(rig, 2)
    await rig.sync()
    rig.control.fault("error", code=14, match={"endpoint": "removed_participants"}, times=None)
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (done.exit_status, done.states) == (1, {"failed": 1})
    row = await rig.past()
    assert (row["state"], row["checkpoint"]["feed"]) == ("failed", "removed")
    assert [round(seconds, -1) for seconds in clock.slept[:2]] == [60, 120]
    await assert_adds_up(rig)
    rig.control.clear_faults()
    await rig.pass_time(HOUR)
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"done": 1})
    assert rig.endpoints() == {"races": 1, "removed_participants": 1}
    await rig.assert_truth(events=[FIRST, SECOND, *past])
    await assert_adds_up(rig)


# -- RunSignup or the network is away ----------------------------------------------------------------------------------


async def away(rig: Rig, make_settings: MakeSettings, count: int) -> list[int]:
    """Races of a partner, one asked after the other; the newest can be read in any case, which proves the key."""
    limit(rig, make_settings, 1000, concurrent_calls=1)
    add_race(rig, days=-100)
    return [add_race(rig, 2, days=10 * number) for number in range(count)]


@pytest.mark.parametrize(("kind", "parameters"), [("reset", {}), ("http", {"status": 503}), ("cut", {})])
async def test_a_network_that_is_down_for_a_while(
    rig: Rig, make_settings: MakeSettings, kind: str, parameters: dict[str, Any]
) -> None:
    races = await away(rig, make_settings, 4)
    rig.control.fault(kind, match={"endpoint": "race"}, skip=1, times=9, **parameters)
    clock, told = Clock(rig), Told()
    done = await rig.backfill(now=clock.now, sleep=clock.sleep, progress=told)
    assert (done.exit_status, done.states) == (0, {"done": 5, "empty": 1})
    for race in races:
        await rig.assert_truth(race)
    assert [seconds for seconds in clock.slept if seconds >= 15] == [15, 30]
    order = list(dict.fromkeys(call["race_id"] for call in rig.asked("participants")))
    assert order[1:] == [races[3], *races[:3]]  # those that were broken off come again at the end
    assert len(told.ended) == len({race for race, _ in told.ended}) == 6
    await assert_adds_up(rig)


async def test_a_key_that_is_not_proved_yet_while_the_network_is_down(rig: Rig, make_settings: MakeSettings) -> None:
    races = await away(rig, make_settings, 3)
    rig.control.fault("reset", match={"endpoint": "participants"}, times=9)
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (done.exit_status, done.states) == (0, {"done": 4, "empty": 1})
    for race in races:
        await rig.assert_truth(race)


async def test_a_network_that_stays_down_fails_the_races_after_three_tries_each(
    rig: Rig, make_settings: MakeSettings
) -> None:
    races = await away(rig, make_settings, 3)
    for race in races:
        rig.control.fault("reset", match={"race_id": race}, times=None)
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (done.exit_status, done.states) == (1, {"done": 1, "failed": 3, "empty": 1})
    # The first stumble may be one race's; from the second on it waits, longer each time, until something is read.
    assert [seconds for seconds in clock.slept if seconds >= 15] == [15, 30, 15, 30]
    order = [call["race_id"] for call in rig.asked("race") if call["race_id"] in races]
    assert order == [race for race in races for _ in range(3)] * 3
    for race in races:
        row = await rig.past(race)
        assert row["state"] == "failed"
        assert row["reason"]
        assert "secret" not in row["reason"]
    rig.control.clear_faults()
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"done": 3})
    for race in races:
        await rig.assert_truth(race)


async def test_a_page_that_breaks_off_costs_no_other_event(rig: Rig) -> None:
    past = add_years(rig, 2, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    rig.control.fault("reset", match={"endpoint": "participants", "page_after": True}, times=3)
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"done": 1})
    assert len(rig.asked("participants")) <= 5 + 3 + 2
    await rig.assert_truth(events=past)
    assert await rig.changes() == []
    await assert_adds_up(rig)


# -- the database ------------------------------------------------------------------------------------------------------


class Breaking(Told):
    """Ends connections after so many pages."""

    def __init__(self, rig: Rig, connection: str, after: int = 1) -> None:
        super().__init__()
        self.rig, self.connection, self.left_pages = rig, connection, after

    def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
        self.left_pages -= 1
        if not self.left_pages:
            terminate(self.rig.database.conninfo, self.connection)


@pytest.mark.parametrize("connection", ["startlist backfill%", "startlist run%", "startlist lane%", "startlist%"])
async def test_a_database_that_was_lost_is_awaited_and_the_run_goes_on(rig: Rig, connection: str) -> None:
    past = add_years(rig, 2, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    races = [add_race(rig, days=10 * number) for number in range(3)]
    clock = Clock(rig)
    told = Breaking(rig, connection, 2)
    rig.control.reset_log()
    done = await run_backfill(lambda: rig.context(progress=told, now=clock.now, sleep=clock.sleep), PastOptions(), told)
    assert (done.exit_status, done.error) == (0, None)
    assert set(done.states) <= {"done", "empty"}
    await rig.assert_truth(events=past)
    for race in races:
        await rig.assert_truth(race)
    await rig.check()
    assert await rig.rows("select * from sync_runs where status = 'running'") == []
    asked = [(tuple(call["event_ids"]), call["params"].get("after_registration_id")) for call in rig.control.log()
             if call["endpoint"] == "participants"]  # fmt: skip
    assert len(asked) - len(set(asked)) <= 2  # what was under way


async def test_a_fault_of_the_database_that_is_one_races_alone(rig: Rig) -> None:
    past = add_years(rig, 2)
    other = add_race(rig)
    await rig.conn.execute(
        "alter table runsignup_participants add constraint no_such_race check (race_id <> %d)" % other  # noqa: UP031
    )
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (1, {"done": 1, "failed": 1})
    await rig.assert_truth(events=past)
    assert await rig.rows("select * from runsignup_participants where race_id = %s", other) == []
    said = " ".join(str(race["reason"]) for race in done.to_json()["partners"][0]["races_read"])
    assert "no_such_race" in said
    await rig.conn.execute("alter table runsignup_participants drop constraint no_such_race")
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"done": 1})
    await rig.assert_truth(other)
