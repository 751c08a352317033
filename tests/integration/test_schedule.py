"""A race's turn in the schedule: what is due is read and planned anew, whatever happens meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from startlist.schedule import jobs
from startlist.store import partners
from startlist.store.sealing import open_key_ring
from tests.scheduling import Schedule, in_zone
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
async def at(rig: Rig) -> Schedule:
    """A race that was synced, is some days off and known to the schedule."""
    return await Schedule.of_synced(rig)


async def test_a_race_that_a_sync_stored_is_due_and_then_every_four_hours(at: Schedule, rig: Rig) -> None:
    assert await at.due() == [RACE]
    rig.control.assign_bib(PERSON, 1207)
    assert len(await at.turn()) == 2
    assert (await rig.registration(PERSON))["bib_num"] == "1207"
    assert timedelta() < await at.wait() <= 4 * HOUR
    cursor = await rig.cursor()
    assert (cursor["rank"], cursor["period_seconds"], cursor["stretch"], cursor["failures"]) == (
        "routine",
        14_400,
        1,
        0,
    )
    assert await at.due() == []
    assert (await rig.one("select trigger, command from sync_runs order by run_id desc limit 1"))[
        "trigger"
    ] == "schedule"


async def test_a_sync_by_hand_makes_a_stale_race_fresh_though_no_scheduler_runs(at: Schedule, rig: Rig) -> None:
    await at.turn()
    await rig.conn.execute(
        "update sync_cursors set next_sync_at = now() - interval '1 day', planned_at = now() - interval '2 days',"
        " stale_at = now() - interval '1 hour'"
    )
    await rig.sync()
    row = await rig.one("select stale_at - now() as left, next_sync_at < now() as due from sync_cursors")
    assert 4 * HOUR < row["left"] <= 4 * HOUR + MINUTE
    assert row["due"]


async def test_a_job_that_comes_twice_finds_nothing_to_do(at: Schedule) -> None:
    assert await at.turn() != []
    assert await at.turn() == []


@pytest.mark.parametrize(
    ("to_start", "rank", "period"),
    [
        (2 * HOUR, "race_day", MINUTE),
        (20 * HOUR, "race_week", 15 * MINUTE),
        (-30 * MINUTE, "race_day", MINUTE),
        (-5 * HOUR, "race_week", 15 * MINUTE),
        (-20 * HOUR, "race_week", HOUR),
        (-3 * 24 * HOUR, "routine", 24 * HOUR),
    ],
)
async def test_the_next_turn_is_as_near_as_the_start(
    to_start: timedelta, rank: str, period: timedelta, at: Schedule, rig: Rig
) -> None:
    for event in (FIRST, SECOND):
        await at.gun(event, to_start)
    await at.make_due()
    await at.turn()
    assert timedelta() < await at.wait() <= period
    cursor = await rig.cursor()
    assert (cursor["rank"], cursor["period_seconds"]) == (rank, period.total_seconds())


async def test_a_race_that_is_long_over_is_left_alone_until_it_has_a_new_date(at: Schedule, rig: Rig) -> None:
    for event in (FIRST, SECOND):
        await at.gun(event, -10 * 24 * HOUR)
    await at.make_due()
    assert await at.turn() == []
    assert (await rig.cursor())["next_sync_at"] is None
    rig.control.register(rig.control.add_event(RACE, in_days=20))
    await rig.conn.execute("update partner_provider_credentials set next_list_at = null")
    await at.lists()
    assert await at.due() == [RACE]


async def test_a_start_that_is_moved_while_the_pass_runs_counts_for_the_next_turn(at: Schedule, rig: Rig) -> None:
    row = await rig.one("select to_char((now() + interval '2 hours') at time zone 'America/New_York',"
                        " 'MM/DD/YYYY HH24:MI') as soon")  # fmt: skip
    moved = {"name": "edit_event", "event_id": FIRST, "start_time": row["soon"]}
    rig.control.fault("before", match={"endpoint": "race"}, changes=[moved])
    await rig.conn.execute("update runsignup_races set record_read_at = now() - interval '2 days'")
    calls = await at.turn()
    assert "race" in [call["endpoint"] for call in calls]
    assert await at.wait() <= MINUTE
    assert (await rig.cursor())["rank"] == "race_day"


async def test_an_event_that_anybody_adds_makes_the_race_due_at_once_and_read_in_full(at: Schedule, rig: Rig) -> None:
    await at.turn()
    assert await at.due() == []
    added = rig.control.add_event(RACE, in_days=20)
    rig.control.register(added, 3)
    await rig.conn.execute("update runsignup_races set record_read_at = now() - interval '2 days'")
    await at.make_due()
    await at.turn()
    assert (await rig.last_pass())["sync_type"] == "full"
    await rig.assert_truth()
    await rig.conn.execute("update runsignup_events set start_time = start_time + interval '1 hour'")
    assert await at.due() == [RACE]


async def test_an_event_without_a_start_is_routine_while_it_is_listed(at: Schedule, rig: Rig) -> None:
    for event in (FIRST, SECOND):
        rig.control.edit_event(event, start_time="to be announced")
    await rig.conn.execute("update runsignup_events set start_time = null, race_day = null")
    await at.make_due()
    calls = [call["endpoint"] for call in await at.turn()]
    assert calls.count("race") == 1
    assert calls.count("participants") == 1
    assert timedelta() < await at.wait() <= 4 * HOUR
    for event in (FIRST, SECOND):
        rig.control.remove_event(event)
    await at.make_due()
    await at.turn()
    assert (await rig.cursor())["next_sync_at"] is None


@pytest.mark.parametrize("what", ["undated", "unknown"])
async def test_a_race_of_which_no_start_is_known_stays_planned_when_its_pass_fails(
    what: str, at: Schedule, rig: Rig
) -> None:
    if what == "undated":
        await rig.conn.execute("update runsignup_events set start_time = null, race_day = null")
    else:
        await rig.conn.execute("delete from runsignup_events")
    rig.control.fault("http", status=503, times=None)
    await at.make_due()
    await at.turn()
    assert timedelta() < await at.wait() <= timedelta(seconds=20)


async def test_full_passes_come_when_the_last_one_is_too_old_for_the_day(at: Schedule, rig: Rig) -> None:
    await at.turn()
    assert (await rig.last_pass())["sync_type"] == "incremental"
    await at.gun(FIRST, 2 * HOUR)
    await rig.conn.execute("update sync_cursors set last_full_at = now() - interval '7 minutes'")
    await at.make_due()
    await at.turn()
    assert (await rig.last_pass())["sync_type"] == "incremental"
    await rig.conn.execute("update sync_cursors set last_full_at = now() - interval '10 minutes'")
    await at.make_due()
    await at.turn()
    last = await rig.last_pass()
    assert (last["sync_type"], last["status"]) == ("full", "completed")
    assert "minutes ago" in last["reason"]


async def test_a_large_race_is_read_in_full_where_calls_allow_it(at: Schedule, rig: Rig) -> None:
    rig.control.register(FIRST, 2_600)
    await at.gun(FIRST, HOUR)
    await at.make_due()
    await at.turn()
    await rig.conn.execute("update sync_cursors set last_full_at = now() - interval '2 hours'")
    used = (await rig.one("select count(*) as n from api_calls"))["n"]
    for calls_left, kind in ((8, "incremental"), (500, "full")):
        await rig.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [used + calls_left])
        await at.make_due()
        await at.turn()
        assert (await rig.last_pass())["sync_type"] == kind
    await rig.assert_truth()


async def test_minute_passes_are_full_where_bibs_are_changed_without_a_word(at: Schedule, rig: Rig) -> None:
    await at.gun(FIRST, HOUR)
    await at.make_due()
    await at.turn()
    await rig.conn.execute("update sync_cursors set last_full_at = now() - interval '11 minutes'")
    rig.control.edit(PERSON + 1, silent=True, last_name="In silence")
    await at.make_due()
    await at.turn()
    last = await rig.last_pass()
    assert (last["sync_type"], last["silent_edits"], last["silent_bibs"]) == ("full", 1, 0)
    await at.make_due()
    await at.turn()
    assert (await rig.last_pass())["sync_type"] == "incremental"  # a name alone shakes no trust

    await rig.conn.execute("update sync_cursors set last_full_at = now() - interval '11 minutes'")
    rig.control.assign_bib(PERSON, 1207, silent=True)
    await at.make_due()
    await at.turn()
    assert (await rig.last_pass())["silent_bibs"] == 1
    rig.control.assign_bib(PERSON, 1208, silent=True)
    await at.make_due()
    assert len(await at.turn()) <= 3  # which costs no call more
    last = await rig.last_pass()
    assert (last["sync_type"], last["reason"]) == ("full", "incremental passes do not show every bib")
    assert (await rig.registration(PERSON))["bib_num"] == "1208"

    await rig.conn.execute("update partner_provider_credentials set silent_bibs_at = now() - interval '8 days'")
    await at.make_due()
    await at.turn()
    assert (await rig.last_pass())["sync_type"] == "incremental"


# -- clocks ------------------------------------------------------------------------------------------------------------


async def test_a_clock_that_was_set_back_makes_a_race_due_once(at: Schedule, rig: Rig) -> None:
    await at.turn()
    await rig.conn.execute(
        "update sync_cursors"
        " set next_sync_at = next_sync_at + interval '3 hours', planned_at = now() + interval '3 hours'"
    )
    assert await at.due() == [RACE]
    assert await at.turn() != []
    assert await at.due() == []
    assert await at.wait() <= 4 * HOUR


async def test_a_time_further_off_than_any_cadence_makes_a_race_due(at: Schedule, rig: Rig) -> None:
    await at.turn()
    await rig.conn.execute("update sync_cursors set next_sync_at = now() + interval '40 days'")
    assert await at.due() == [RACE]
    await at.turn()
    assert await at.wait() <= 4 * HOUR


async def test_after_a_clock_was_set_back_nothing_counts_as_young_for_all_that_time(at: Schedule, rig: Rig) -> None:
    for event in (FIRST, SECOND):
        await at.gun(event, 2 * HOUR)
    await at.turn()
    later = "interval '5 hours'"
    await rig.conn.execute(f"update runsignup_races set record_read_at = record_read_at + {later}".encode())
    await rig.conn.execute(
        f"update sync_cursors set last_full_at = last_full_at + {later}, next_sync_at = next_sync_at + {later},"
        f" planned_at = planned_at + {later}, stale_at = stale_at + {later}".encode()
    )
    added = rig.control.add_event(RACE, "Kids", start_time=in_zone(datetime.now(UTC) + 3 * HOUR))
    assert "race" in [call["endpoint"] for call in await at.turn()]
    assert (await rig.last_pass())["sync_type"] == "full"
    assert added in (await rig.cursor())["event_ids"]
    # A race that waits is stale when it would have been by the clock as it is.
    await rig.conn.execute(
        f"update sync_cursors set next_sync_at = now() + {later}, planned_at = now() + {later},"
        f" stale_at = now() + {later}".encode()
    )
    await rig.conn.execute(f"update api_calls set reserved_at = now() + {later}".encode())
    used = await rig.count("api_calls")
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [used])
    assert await at.turn() == []
    assert await at.wait() <= timedelta(seconds=3_606)
    row = await rig.one("select stale_at - now() as left from sync_cursors")
    assert row["left"] <= 15 * MINUTE


async def test_a_clock_that_was_set_forward_costs_one_pass_for_all_that_was_missed(at: Schedule, rig: Rig) -> None:
    await at.turn()
    await rig.conn.execute("update sync_cursors set next_sync_at = now() - interval '30 days'")
    assert await at.due() == [RACE]
    await at.turn()
    assert await at.due() == []


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_failures_are_tried_again_sooner_then_later_and_never_later_than_the_cadence(
    at: Schedule, rig: Rig
) -> None:
    rig.control.fault("http", status=503, match={"endpoint": "participants"}, times=None)
    waits = []
    for failures in range(1, 9):
        await at.make_due()
        await at.turn()
        assert (await rig.cursor())["failures"] == failures
        waits.append((await at.wait()).total_seconds())
    assert waits[0] == pytest.approx(15, abs=5)
    assert waits[2] == pytest.approx(60, abs=10)
    assert max(waits) <= 900
    await at.gun(FIRST, HOUR)
    await at.make_due()
    await at.turn()
    assert await at.wait() <= MINUTE
    rig.control.clear_faults()
    await at.make_due()
    await at.turn()
    assert (await rig.cursor())["failures"] == 0
    await rig.assert_truth()


async def test_a_race_whose_calls_are_used_up_waits_in_the_database_and_nowhere_else(at: Schedule, rig: Rig) -> None:
    used = (await rig.one("select count(*) as n from api_calls"))["n"]
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [used])
    before = await rig.count("sync_history")
    await at.gun(FIRST, HOUR)
    await at.make_due()
    assert await at.turn() == []  # the rig's sleep would fail the test
    assert await rig.count("sync_history") == before
    assert 50 * MINUTE < await at.wait() <= 61 * MINUTE
    await rig.pass_time(3610)
    await at.make_due()
    assert len(await at.turn()) == 3


async def test_who_waits_for_a_call_gets_it_in_the_order_of_coming(at: Schedule, rig: Rig) -> None:
    used = (await rig.one("select count(*) as n from api_calls"))["n"]
    await rig.conn.execute(
        "insert into api_calls (credential_id, endpoint, reserved_at)"
        " select 1, 'filler', now() - interval '50 minutes' + n * interval '1 minute' from generate_series(1, 20) as n"
    )
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [used + 20])
    await rig.conn.execute(
        "insert into runsignup_races (timing_partner_id, race_id, credential_id)"
        " select 1, n, 1 from generate_series(1, 4) as n"
    )
    await rig.conn.execute(
        "insert into sync_cursors (timing_partner_id, race_id, rank, waits_since, next_sync_at, planned_at,"
        " period_seconds, last_full_at)"
        " select 1, n, case when n = 4 then 'routine' else 'race_day' end, now() - n * interval '1 minute',"
        " now() + interval '20 minutes', now(), 60, now() from generate_series(1, 4) as n"
    )
    await at.gun(FIRST, HOUR)
    await rig.conn.execute(
        "update sync_cursors set next_sync_at = now() - interval '150 seconds' where race_id = %s", [RACE]
    )
    assert await at.turn() == []
    # The third race alone came before it: that one has the first two calls that come free, this one the next two.
    fourth = await rig.one(
        "select reserved_at + interval '3605 seconds' as free from api_calls order by reserved_at offset 3 limit 1"
    )
    cursor = await rig.cursor()
    assert cursor["next_sync_at"] == fourth["free"]
    await rig.conn.execute("update sync_cursors set next_sync_at = now(), planned_at = now() - interval '1 second'")
    assert await at.due() == [3, RACE, 2, 1, 4]
    await rig.pass_time(3610)
    assert await at.turn() != []
    assert (await rig.cursor())["waits_since"] is None


async def test_routine_leaves_calls_to_race_week_and_race_week_to_race_day(at: Schedule, rig: Rig) -> None:
    used = (await rig.one("select count(*) as n from api_calls"))["n"]
    await at.turn()  # it had a pass just now: else it would be served like race day
    used += 2
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [round(used / 0.9)])
    await at.make_due()
    assert await at.turn() == []
    await rig.conn.execute(
        "insert into api_calls (credential_id, endpoint) select 1, 'filler' from generate_series(1, 400)"
    )
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [round((used + 400) / 0.9)])
    await at.make_due()
    assert await at.turn() == []
    await at.gun(FIRST, 20 * HOUR)
    await at.make_due()
    assert await at.turn() != []  # below 95 %
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [round((used + 404) / 0.97)])
    await at.make_due()
    assert await at.turn() == []
    await at.gun(FIRST, HOUR)
    await at.make_due()
    assert await at.turn() != []


async def test_periods_stretch_evenly_when_race_day_needs_more_calls_than_there_are(at: Schedule, rig: Rig) -> None:
    await at.gun(FIRST, HOUR)
    await at.make_due()
    await at.turn()
    assert (await rig.cursor())["stretch"] == 1
    used = (await rig.one("select count(*) as n from api_calls"))["n"]
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = 60")
    assert used < 50
    await at.make_due()
    await at.turn()
    cursor = await rig.cursor()
    # 120 calls an hour, and the record four times, of which 55.2 may be planned; a tenth of that after race day.
    assert (cursor["period_seconds"], cursor["race_day_calls"], cursor["calls_per_hour"]) == (60, 124, 9)
    assert cursor["stretch"] == pytest.approx(124 / 55.2, abs=0.01)
    assert await at.wait() <= MINUTE * 2.3


async def test_a_race_that_is_queued_when_its_day_begins_goes_with_those_of_today(at: Schedule, rig: Rig) -> None:
    await at.turn()
    await at.make_due()
    lock = f"race:1:{RACE}"
    assert dict(await at.tick())[lock] == 10
    await rig.conn.execute("update sync_cursors set race_day_at = now(), race_day_until = now() + interval '5 hours'")
    assert dict(await at.tick())[lock] == 30
    await rig.conn.execute("delete from procrastinate_jobs")
    assert dict(await at.tick())[lock] == 30


async def test_a_wait_in_mid_pass_goes_on_from_the_checkpoint(at: Schedule, rig: Rig) -> None:
    used = (await rig.one("select count(*) as n from api_calls"))["n"]
    await rig.conn.execute("update sync_cursors set last_full_at = now() - interval '9 days'")
    rig.control.register(FIRST, 600)
    rig.control.fault("clamp", rows=500, times=None)
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [used + 2])
    await at.turn()
    last = await rig.last_pass()
    assert (last["status"], last["reason"]) == ("partial", "waiting")
    assert await at.wait() > 50 * MINUTE
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = 1000")
    await at.make_due()
    await at.turn()
    assert (await rig.last_pass())["status"] == "completed"
    await rig.assert_truth()


async def test_a_race_whose_key_runsignup_throttles_comes_when_the_pause_ends(at: Schedule, rig: Rig) -> None:
    rig.control.fault("error", code=14, match={"endpoint": "participants"})
    await at.turn()
    last = await rig.last_pass()
    assert (last["status"], last["reason"]) == ("partial", "waiting")
    assert timedelta(seconds=50) < await at.wait() <= MINUTE
    await at.make_due()
    assert await at.turn() == []  # the pause goes on, and costs no call
    await rig.pass_time(61)
    await at.make_due()
    await at.turn()
    assert (await rig.last_pass())["status"] == "completed"


async def test_a_race_that_another_run_holds_is_looked_at_again_within_a_minute(at: Schedule, rig: Rig) -> None:
    key = rig.database.lock_key("race", 1, RACE)
    async with await rig.database.connect(name="test holder") as holder:
        await holder.execute("select pg_advisory_lock(%s)", [key])
        assert await at.turn() == []
    assert (await rig.last_pass())["status"] == "skipped"
    assert await at.wait() <= MINUTE


async def test_a_credential_that_is_removed_while_its_jobs_wait(at: Schedule, rig: Rig) -> None:
    await rig.conn.execute("delete from partner_provider_credentials")
    assert await at.due() == []
    assert await at.turn() == []
    assert await at.lists() == []
    assert (await rig.cursor())["next_sync_at"] is not None  # due once there is a credential again
    await rig.conn.execute("delete from timing_partners")
    assert await at.turn() == []
    assert await at.lists() == []


async def test_a_stopped_credential_holds_its_races_back_until_it_is_rotated(at: Schedule, rig: Rig) -> None:
    rig.control.fault("error", code=6, match={"endpoint": "participants"}, times=None)
    await at.turn()
    assert (await rig.credential())["stopped_at"] is not None
    assert await at.due() == []
    rig.control.clear_faults()
    (key,) = rig.control.partners()
    await rig.rotate(key["secret"])
    assert await at.due() == [RACE]
    await at.turn()
    assert await at.due() == []
    await at.lists()
    assert await at.due() == [RACE]  # all of its races, whenever they would come by their cadence


async def test_a_key_that_is_refused_takes_no_other_key_of_its_partner_with_it(at: Schedule, rig: Rig) -> None:
    (first,) = rig.control.partners()
    second = rig.control.add_partner("Peak Timing", "v2")["key"]
    races = [RACE, *(rig.control.add_race(f"Race {number}", keys=[first["key"]]) for number in range(3))]
    own = rig.control.add_race("The other key's", keys=[second])
    for race in (*races[1:], own):
        rig.control.register(rig.control.add_event(race, in_days=3), 2)
    await rig.adopt()
    await rig.sync()
    await at.adopt()
    await rig.conn.execute("update api_calls set reserved_at = reserved_at - interval '2 hours'")
    rig.control.revoke_key(first["key"])
    for race in races:
        await at.make_due(race)
        await at.turn(race)
    for race in races:  # each is tried with the other key, once, and not at every cadence
        await at.make_due(race)
        await at.turn(race)
        assert await at.wait(race) > 59 * MINUTE
    keys = await rig.rows("select credential_id, stopped_at from partner_provider_credentials order by 1")
    assert [(key["credential_id"], key["stopped_at"] is not None) for key in keys] == [(1, True), (2, False)]
    await at.make_due(own)
    assert {call["error_code"] for call in await at.turn(own)} == {None}


async def test_a_key_that_is_accepted_again_has_its_races_read_at_once(at: Schedule, rig: Rig) -> None:
    """By whoever finds it out: the race waits for another try with the partner's other key."""
    rig.control.add_partner("Peak Timing", "v2")
    await rig.adopt()
    await at.gun(FIRST, HOUR)
    await at.lists()
    ring = await open_key_ring(rig.conn, rig.settings)
    for change in (partial(partners.stop, reason="code 6"), partners.mark_verified):
        first, _ = await partners.credentials(rig.conn, ring, rig.settings)
        await change(rig.conn, first)
        if change is partners.mark_verified:
            assert ("list:1", jobs.LIST_PRIORITY) in await at.tick()
            await at.lists()
            assert await at.wait() <= MINUTE
        else:
            await at.make_due()
            await at.turn()
            assert await at.wait() > 59 * MINUTE


@pytest.mark.parametrize("how", ["sync", "lists", "backfill"])
async def test_a_second_key_that_is_wrong_is_stopped_though_it_has_no_race(how: str, at: Schedule, rig: Rig) -> None:
    (first,) = rig.control.partners()
    races = [RACE, *(rig.control.add_race(f"Race {number}", keys=[first["key"]]) for number in range(5))]
    for race in races:
        rig.control.register(rig.control.add_event(race, in_days=3), 2)
        rig.control.register(rig.control.add_event(race, in_days=-400), 1)
    await rig.sync()
    rig.control.revoke_key(first["key"])
    await rig.conn.execute("update api_calls set reserved_at = reserved_at - interval '2 hours'")
    await rig.sync()
    assert (await rig.credential(1))["stopped_at"] is not None
    second = rig.control.add_partner("Peak Timing", "legacy")["key"]
    await rig.adopt()
    rig.control.revoke_key(second)
    if how == "lists":
        await at.lists()
    else:
        await (rig.sync() if how == "sync" else rig.backfill())
    assert (await rig.credential(2))["stopped_at"] is not None


async def test_a_race_that_its_credential_may_not_read_is_read_with_the_partners_other_one(
    at: Schedule, rig: Rig
) -> None:
    (first,) = rig.control.partners()
    rig.control.share(RACE, rig.control.add_partner("Peak Timing", "v2")["key"])
    await rig.adopt()
    rig.control.unshare(RACE, first["key"])
    await at.turn()
    assert (await rig.one("select credential_id from runsignup_races"))["credential_id"] == 2
    await at.make_due()
    assert {call["error_code"] for call in await at.turn()} == {None}


async def test_a_race_that_runsignup_no_longer_knows_is_not_planned(at: Schedule, rig: Rig) -> None:
    rig.control.delete_race(RACE)
    await at.turn()
    assert (await rig.cursor())["next_sync_at"] is None
    assert await at.due() == []


async def test_a_race_that_was_taken_up_is_not_looked_at_again(at: Schedule, rig: Rig) -> None:
    await rig.conn.execute("insert into runsignup_races (timing_partner_id, race_id) values (1, 7), (1, 8)")
    async with await rig.database.connect(name="a pass") as other:
        async with other.transaction():
            await other.execute("select from runsignup_races where race_id = 8 for update")
            await at.tick()
            assert await unadopted(rig) == [8], "a race that a pass holds is waited for by nobody"
        assert {row["race_id"] for row in await rig.rows("select race_id from sync_cursors")} >= {7, 8, RACE}
        before = (await rig.cursor(8))["planned_at"]
        await at.tick()
    assert await unadopted(rig) == []
    assert (await rig.cursor(8))["planned_at"] == before, "it is taken up once"


async def unadopted(rig: Rig) -> list[int]:
    return [row["race_id"] for row in await rig.rows("select race_id from runsignup_races where not adopted")]
