"""What RunSignup should not say, and does; and one key's wait beside another key's race morning."""

from __future__ import annotations

from datetime import timedelta

import pytest

from startlist.schedule import jobs
from tests.scheduling import Schedule
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture
async def at(rig: Rig) -> Schedule:
    """A race that was synced, is some days off and known to the schedule."""
    return await Schedule.of_synced(rig)


async def record_is_old(rig: Rig) -> None:
    await rig.conn.execute("update runsignup_races set record_read_at = now() - interval '2 days'")


async def test_an_end_before_its_start_is_ignored(at: Schedule, rig: Rig) -> None:
    for event in (FIRST, SECOND):
        rig.control.edit_event(event, end_time="1/2/2020 08:00")
    await at.gun(FIRST, 2 * HOUR)
    await record_is_old(rig)
    for _ in range(2):  # with the end as it was, and as it is stored then
        await at.make_due()
        assert await at.turn() != []
        assert timedelta() < await at.wait() <= MINUTE
        assert (await rig.cursor())["rank"] == "race_day"
    assert (await rig.one("select min(end_time) < min(start_time) as odd from runsignup_events"))["odd"]


async def test_a_race_in_an_unknown_zone_is_kept_fresh_by_eastern_time(at: Schedule, rig: Rig) -> None:
    rig.control.edit_race(RACE, timezone="Mars/Olympus_Mons")
    await at.gun(FIRST, 2 * HOUR)  # which says it in Eastern time
    await rig.conn.execute("update runsignup_events set start_time = start_time + interval '30 days'")
    await record_is_old(rig)
    await at.make_due()
    assert "race" in [call["endpoint"] for call in await at.turn()]
    assert (await rig.one("select timezone from runsignup_races"))["timezone"] == "Mars/Olympus_Mons"
    assert timedelta() < await at.wait() <= MINUTE
    assert (await rig.cursor())["rank"] == "race_day"


async def test_a_race_that_is_called_off_is_left_alone_with_all_its_rows_until_it_is_on_again(
    at: Schedule, rig: Rig
) -> None:
    await at.gun(FIRST, 2 * HOUR)
    await at.make_due()
    await at.turn()
    rows = await rig.written()
    for event in (FIRST, SECOND):
        rig.control.remove_event(event)
    await at.make_due()
    await at.turn()
    assert (await rig.cursor())["next_sync_at"] is None
    assert await rig.written() == rows
    assert await at.due() == []

    for event in (FIRST, SECOND):
        rig.control.restore_event(event)
    await rig.conn.execute("update partner_provider_credentials set next_list_at = null")
    await at.lists()
    assert await at.due() == [RACE]
    rig.control.assign_bib(PERSON, 1207)
    await at.turn()
    assert await at.wait() <= MINUTE
    await rig.assert_truth()


async def test_a_list_planned_further_off_than_a_day_is_read_at_once(at: Schedule, rig: Rig) -> None:
    await at.lists()
    assert ("list:1", jobs.LIST_PRIORITY) not in await at.tick()
    await rig.conn.execute("update partner_provider_credentials set next_list_at = now() + interval '40 days'")
    assert ("list:1", jobs.LIST_PRIORITY) in await at.tick()


async def test_races_whose_key_has_no_call_left_take_no_worker_from_those_of_another_key(
    at: Schedule, rig: Rig
) -> None:
    """One pair of hands, and before the other key's race three that wait: no call is left, and it is paused."""
    key = rig.control.add_partner("Other Timing", "legacy")["key"]
    races = [rig.control.add_race(f"Race {number}", keys=["Peak Timing"]) for number in range(2)]
    other = rig.control.add_race("The other race", keys=[key])
    for race in (*races, other):
        rig.control.register(rig.control.add_event(race, in_days=1), 3)
    await rig.adopt()
    await rig.sync()
    await at.adopt()
    used = (await rig.one("select count(*) as n from api_calls where credential_id = 1"))["n"]
    await rig.conn.execute(
        "update partner_provider_credentials set calls_per_hour = %s, paused_until = now() + interval '10 minutes'"
        " where credential_id = 1",
        [used],
    )
    await rig.conn.execute(
        "update sync_cursors set planned_at = now(),"
        " next_sync_at = now() - case when race_id = %s then interval '0' else interval '1 minute' end",
        [other],
    )
    first = (await rig.last_pass(other))["sync_history_id"]
    waiting = await at.tick()
    assert [name for name, _ in waiting if name.startswith("race")][-1] == f"race:2:{other}"
    async with at.queue() as app, at.crew() as crew:
        await app.run_worker_async(
            queues=[jobs.QUEUE], concurrency=1, wait=False, additional_context={jobs.CREW: crew}, delete_jobs="always"
        )
    last = await rig.last_pass(other)
    assert (last["status"], last["sync_history_id"] > first) == ("completed", True)
    for race in (RACE, *races):
        assert 9 * MINUTE < await at.wait(race) <= 61 * MINUTE
    assert await rig.count("procrastinate_jobs") == 0
