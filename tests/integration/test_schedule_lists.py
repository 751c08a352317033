"""Race lists in the schedule: new races are found, proved, stored and due; the queue holds each thing once."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from startlist.errors import DatabaseError
from startlist.schedule.daily import LISTINGS, upcoming
from startlist.store import history, metrics, partners, processes, schedule
from tests.scheduling import NEW_YORK, Schedule
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig


@pytest.fixture
def at(rig: Rig) -> Schedule:
    """A key that nobody has used yet."""
    return Schedule(rig)


async def planned_list(rig: Rig) -> datetime:
    row = await rig.one("select next_list_at from partner_provider_credentials where credential_id = 1")
    found = row["next_list_at"]
    assert isinstance(found, datetime)
    return found


async def add_race(rig: Rig) -> int:
    race: int = rig.control.add_race("The other race", keys=["Peak Timing"])
    rig.control.register(rig.control.add_event(race, in_days=20), 3)
    return race


async def test_a_new_key_is_listed_at_once_and_then_at_the_daily_times(at: Schedule, rig: Rig) -> None:
    assert await at.tick() == [("list:1", 25)]
    await at.lists()
    now = (await rig.one("select now() as at"))["at"]
    assert await planned_list(rig) == upcoming(now, LISTINGS, NEW_YORK)
    assert (await rig.one("select verified_at from partner_provider_credentials"))["verified_at"] is not None
    await rig.assert_truth()
    await rig.conn.execute("delete from procrastinate_jobs")
    assert await at.tick() == [(f"race:1:{RACE}", 30)]  # what was never planned goes with the races of today


async def test_a_new_race_is_stored_once_its_key_is_proved_and_is_due_at_once(at: Schedule, rig: Rig) -> None:
    await at.lists()
    await at.turn()
    other = await add_race(rig)
    calls = await at.lists()
    assert [call["race_id"] for call in calls if call["endpoint"] == "participants"] == [RACE]
    assert await at.due() == [other]
    assert [call["endpoint"] for call in await at.turn(other)] == ["race", "participants", "removed_participants"]
    await rig.assert_truth(other)
    assert await at.due() == []


async def test_a_key_that_is_wrong_stores_nothing_of_what_it_lists(at: Schedule, rig: Rig) -> None:
    await at.lists()
    await at.turn()
    other = await add_race(rig)
    rig.control.set_key("Peak Timing", "another secret")  # to RunSignup we are anybody now
    await at.lists()
    assert [row["race_id"] for row in await rig.rows("select race_id from runsignup_races")] == [RACE]
    assert other not in await at.due()
    again = await planned_list(rig) - (await rig.one("select now() as at"))["at"]
    assert again <= timedelta(minutes=61)


async def test_a_key_whose_races_are_all_over_is_listed_at_the_daily_times(at: Schedule, rig: Rig) -> None:
    for event in (FIRST, SECOND):
        rig.control.edit_event(event, start_time="1/2/2020 08:00")
    await at.lists()
    now = (await rig.one("select now() as at"))["at"]
    assert await planned_list(rig) == upcoming(now, LISTINGS, NEW_YORK)
    assert await rig.count("runsignup_races") == 0


async def test_a_race_that_changed_has_its_record_read_and_is_due(at: Schedule, rig: Rig) -> None:
    other = await add_race(rig)
    await at.lists()
    await at.turn()
    await at.turn(other)
    rig.control.clock(advance=60)
    rig.control.edit_race(other, name="The renamed race")
    await at.lists()
    assert await at.due() == [other]
    assert "race" in [call["endpoint"] for call in await at.turn(other)]


async def test_that_a_race_changed_is_not_forgotten_between_two_commits(
    at: Schedule, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.sync()
    await at.lists()
    await rig.pass_time(3_600)
    rig.control.clock(advance=3_600)
    rig.control.edit_race(RACE, name="Moved")

    async def lost(*_: object) -> None:
        raise DatabaseError("the connection was lost")

    with monkeypatch.context() as patched:
        patched.setattr(schedule, "record_unread", lost)
        await at.lists()
    await at.lists()
    row = await rig.one("select name, record_read_at from runsignup_races")
    assert (row["name"], row["record_read_at"]) == ("Moved", None)


async def test_at_the_base_time_every_race_is_due(at: Schedule, rig: Rig) -> None:
    await at.lists()
    await at.turn()
    await at.lists()
    assert await at.due() == []
    await rig.conn.execute("update partner_provider_credentials set base_at = now() - interval '25 hours'")
    await at.lists()
    assert await at.due() == [RACE]


async def test_a_list_that_cannot_be_read_is_tried_again_soon(at: Schedule, rig: Rig) -> None:
    rig.control.fault("http", status=503, match={"endpoint": "races"}, times=None)
    await at.lists()
    row = await rig.one("select next_list_at - now() as wait, list_failures from partner_provider_credentials")
    assert row["list_failures"] == 1
    assert row["wait"] <= timedelta(seconds=20)
    rig.control.clear_faults()
    await at.lists()
    assert (await rig.one("select list_failures from partner_provider_credentials"))["list_failures"] == 0
    assert await rig.count("runsignup_races") == 1


@pytest.mark.parametrize("endpoint", ["races", "participants"])
async def test_a_list_that_cannot_be_taken_for_long_is_told_until_it_can(endpoint: str, at: Schedule, rig: Rig) -> None:
    rig.control.fault("error", code=3, match={"endpoint": endpoint}, times=None)
    for _ in range(partners.LIST_FAILURES):
        await at.lists()
    (state,) = await partners.states(rig.conn, rig.settings)
    assert state.unlisted
    found = await metrics.read_metrics(rig.database, rig.conn, rig.settings)
    assert any("race list cannot be taken: 1" in problem for problem in found.problems)
    rig.control.clear_faults()
    await rig.sync()  # a sync shows it as well
    (state,) = await partners.states(rig.conn, rig.settings)
    assert not state.unlisted


async def test_syncs_by_hand_tell_of_a_list_that_cannot_be_read_as_well(rig: Rig) -> None:
    rig.control.fault("http", status=503, match={"endpoint": "races"}, times=None)
    for _ in range(partners.LIST_FAILURES):
        assert (await rig.sync()).exit_status == 1
    (state,) = await partners.states(rig.conn, rig.settings)
    assert (state.unlisted, state.stopped_at) == (True, None)


@pytest.mark.parametrize("paused", ["list", "proof"])
async def test_a_key_that_must_wait_holds_up_no_list_but_its_own(paused: str, at: Schedule, rig: Rig) -> None:
    (first,) = rig.control.partners()
    for number in range(4):  # known, and none that the other key may read
        rig.control.register(
            rig.control.add_event(rig.control.add_race(f"Race {number}", keys=[first["key"]]), in_days=2)
        )
    await rig.sync()
    second = rig.control.add_partner("Peak Timing", "v2")["key"]
    await rig.adopt()
    rig.control.register(rig.control.add_event(rig.control.add_race("New", keys=[second]), in_days=3))
    where = {"endpoint": "races"} if paused == "list" else {"endpoint": "participants"}
    rig.control.fault("http", status=429, retry_after=7_200, match=where | {"key": first["name"]}, times=None)
    await at.lists()
    rows = await rig.rows(
        "select next_list_at - now() between interval '119 minutes' and interval '121 minutes' as waits, base_at"
        " from partner_provider_credentials order by credential_id"
    )
    assert [(row["waits"], row["base_at"] is None) for row in rows] == [(True, True), (False, False)]
    assert (await rig.one("select name from runsignup_races where credential_id = 2"))["name"] == "New"


async def test_a_list_waits_for_calls_in_the_database(at: Schedule, rig: Rig) -> None:
    await rig.conn.execute("update partner_provider_credentials set calls_per_hour = 2")
    await at.lists()
    await at.lists()
    row = await rig.one("select next_list_at - now() as wait from partner_provider_credentials")
    assert timedelta(minutes=50) < row["wait"] <= timedelta(minutes=61)


async def test_a_race_is_queued_once_and_ranks_by_its_nearness(at: Schedule, rig: Rig) -> None:
    await at.lists()
    other = await add_race(rig)
    await at.lists()
    await at.turn(other)
    await at.gun(FIRST, timedelta(hours=2))
    await at.turn()
    await rig.conn.execute("update sync_cursors set next_sync_at = now(), planned_at = now()")
    waiting = [(f"race:1:{RACE}", 30), (f"race:1:{other}", 10)]
    assert await at.tick() == waiting
    assert await at.tick(times=3) == waiting
    await rig.conn.execute("insert into procrastinate_workers default values")
    await rig.conn.execute(
        "update procrastinate_jobs set status = 'doing', worker_id = (select max(id) from procrastinate_workers)"
    )
    assert await at.tick() == []
    await rig.conn.execute("update procrastinate_workers set last_heartbeat = now() - interval '21 seconds'")
    assert await at.tick() == waiting  # queued anew: that worker is dead
    await rig.conn.execute("delete from procrastinate_jobs")  # whoever had them is gone
    assert await at.tick() == waiting


async def test_a_race_that_is_stale_goes_with_those_of_today(at: Schedule, rig: Rig) -> None:
    await at.lists()
    await at.turn()
    await at.make_due()
    assert await at.tick() == [(f"race:1:{RACE}", 10)]
    await rig.conn.execute("delete from procrastinate_jobs")
    await rig.conn.execute("update sync_cursors set stale_at = now() - interval '1 second'")
    assert await at.tick() == [(f"race:1:{RACE}", 30)]


async def test_the_queue_is_made_once_in_our_schema(at: Schedule, rig: Rig) -> None:
    async with at.queue(), at.queue():
        pass
    found = await rig.rows("select distinct schemaname from pg_tables where tablename like 'procrastinate%%'")
    assert [row["schemaname"] for row in found] == [rig.database.schema]


async def test_old_calls_and_passes_that_changed_nothing_are_dropped_and_changes_never(at: Schedule, rig: Rig) -> None:
    await at.lists()
    await at.turn()
    rig.control.assign_bib(PERSON, 1207)
    await at.make_due()
    await at.turn()
    await rig.conn.execute("update api_calls set reserved_at = now() - interval '36 days'")
    await rig.conn.execute("update sync_history set finished_at = now() - interval '91 days'")
    await at.lists()
    await at.tick(times=32)
    left = await rig.rows("select rows_inserted, rows_updated, rows_unchanged from sync_history"
                          " where finished_at < now() - interval '1 day' order by sync_history_id")  # fmt: skip
    assert [(row["rows_inserted"], row["rows_updated"]) for row in left] == [(12, 0), (0, 1)]
    calls = await rig.one("select count(*) as n from api_calls where reserved_at < now() - interval '35 days'")
    assert calls["n"] == 0
    assert await rig.count("runsignup_bib_changes") == 1


async def test_bibs_are_read_the_same_however_the_race_was_found(at: Schedule, rig: Rig) -> None:
    await at.lists()
    rig.control.assign_bib(PERSON, 1207)
    await at.turn()
    assert await rig.bibs() == [("assigned", PERSON, None, "1207")]


async def test_the_run_of_a_worker_that_vanished_is_closed(at: Schedule, rig: Rig) -> None:
    async with at.crew() as crew, crew.context.admin() as conn:
        alive = crew.context.run_id
        assert alive is not None
        await processes.show_alive(rig.database, conn, alive)
        dead = await history.open_run(rig.conn, "worker", "schedule")
        await rig.conn.execute("update sync_runs set started_at = now() - interval '1 minute'")
        assert await processes.close_dead_runs(rig.database, rig.conn) == [dead]
    found = await rig.rows("select run_id, status from sync_runs order by run_id")
    assert [(row["run_id"], row["status"]) for row in found] == [(alive, "running"), (dead, "interrupted")]
