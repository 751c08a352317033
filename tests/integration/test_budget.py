"""The budget: exact over processes, whatever the clocks and zones; pauses; what refusals tell; lanes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from startlist.config import Settings
from startlist.errors import CredentialRefused, DatabaseError
from startlist.store import budget, partners
from startlist.store.budget import Reservation, Wait
from startlist.store.database import Connection, Database, global_lock_key
from startlist.store.lanes import Lane, Lanes
from startlist.store.partners import Credential
from startlist.store.sealing import open_key_ring
from tests.support import terminate


async def credential_of(conn: Connection, home: Path, calls_per_hour: int = 5) -> Credential:
    settings = Settings(_env_file=None, home=home)  # type: ignore[call-arg]
    ring = await open_key_ring(conn, settings)
    await partners.add(
        conn, ring, name="Acme", principal="k", secret="s", credential_type="legacy", calls_per_hour=calls_per_hour
    )
    return (await partners.credentials(conn, ring, settings))[0]


async def reserve(conn: Connection, credential: Credential, *, first: bool = False) -> Reservation | Wait:
    return await budget.reserve(conn, credential, endpoint="participants", race_id=1, run_id=None, first=first)


async def granted(conn: Connection, credential: Credential) -> int:
    answer = await reserve(conn, credential)
    assert isinstance(answer, Reservation)
    return answer.call_id


async def refused(conn: Connection, credential: Credential, *, first: bool = False) -> Wait:
    answer = await reserve(conn, credential, first=first)
    assert isinstance(answer, Wait)
    return answer


async def ended(conn: Connection, call_id: int, error_code: int | None = None, http_status: int = 200) -> None:
    await budget.record(conn, call_id, seconds=0.25, http_status=http_status, error_code=error_code, rows=3, nbytes=99)


async def shift(conn: Connection, by: str) -> None:
    """Let the calls made so far lie elsewhere in time, as seen by the server's clock."""
    await conn.execute("update api_calls set reserved_at = reserved_at + %s::interval", [by])


async def test_no_more_than_the_limit_is_granted_and_the_refusal_says_until_when(
    database: Database, tmp_path: Path
) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path)
        left = [answer.calls_left for answer in [await reserve(conn, credential) for _ in range(5)]]
        assert left == [4, 3, 2, 1, 0]
        wait = await refused(conn, credential)
        assert 3595 < wait.seconds <= 3605
        assert not wait.paused
        row = await (await conn.execute("select min(reserved_at) from api_calls")).fetchone()
        assert row is not None
        assert wait.until - row[0] == timedelta(seconds=3605)
        assert await budget.calls_left(conn, credential) == 0


async def test_calls_leave_the_window_after_3605_seconds(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path)
        await granted(conn, credential)
        await shift(conn, "-3000 s")
        for _ in range(4):
            await granted(conn, credential)
        assert (await refused(conn, credential)).seconds < 606
        await shift(conn, "-600 s")  # the oldest is 3,600 s old, and RunSignup's hour may be a little later than ours
        assert (await refused(conn, credential)).seconds < 6
        await shift(conn, "-5 s")
        await granted(conn, credential)
        await refused(conn, credential)


async def test_the_first_call_of_a_pass_wants_two_free_ones(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path, calls_per_hour=3)
        await granted(conn, credential)
        await shift(conn, "-100 s")
        await granted(conn, credential)
        wait = await refused(conn, credential, first=True)
        assert 3490 < wait.seconds < 3506
        assert wait.calls_left == 1
        await granted(conn, credential)


async def test_a_share_below_two_can_still_begin_a_pass(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path, calls_per_hour=1)
        assert isinstance(await reserve(conn, credential, first=True), Reservation)
        await refused(conn, credential)


async def test_calls_in_the_future_count_as_made_now(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path)
        for _ in range(5):
            await granted(conn, credential)
        await shift(conn, "2 days")  # the server's clock was set back
        assert 3600 < (await refused(conn, credential)).seconds <= 3605
        await shift(conn, "-3606 s")
        await granted(conn, credential)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Denver", "UTC"])
async def test_the_zone_of_the_session_changes_nothing(database: Database, tmp_path: Path, zone: str) -> None:
    async with await database.connect() as conn, await database.connect() as other:
        credential = await credential_of(conn, tmp_path)
        for _ in range(5):
            await granted(conn, credential)
        await other.execute("select set_config('timezone', %s, false)", [zone])
        wait = await refused(other, credential)
        assert wait.until == (await refused(conn, credential)).until
        assert 3595 < wait.seconds <= 3605


async def test_credentials_do_not_share_a_budget(database: Database, tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path)  # type: ignore[call-arg]
    async with await database.connect() as conn:
        first = await credential_of(conn, tmp_path, calls_per_hour=1)
        ring = await open_key_ring(conn, settings)
        await partners.add(conn, ring, name="Best", principal="k2", secret="s", credential_type="v2", calls_per_hour=1)
        second = (await partners.credentials(conn, ring, settings))[1]
        await granted(conn, first)
        await granted(conn, second)
        await refused(conn, first)


async def test_a_removed_credential_reserves_nothing(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path)
        await partners.remove(database, credential.timing_partner_id)
        with pytest.raises(CredentialRefused, match="removed meanwhile"):
            await reserve(conn, credential)


RESERVE = """
import asyncio, os, sys
from startlist.store import budget
from startlist.store.database import Database
from startlist.store.partners import Credential

async def main():
    database = Database(sys.argv[1], sys.argv[2])
    credential = Credential(int(sys.argv[3]), 1, "", "", "", "legacy", int(sys.argv[4]), None, None, None)
    async def task():
        got = 0
        async with await database.connect() as conn:
            while True:
                made = await budget.reserve(
                    conn, credential, endpoint=str(os.getpid()), race_id=None, run_id=None, first=False
                )
                if isinstance(made, budget.Wait):
                    assert 3590 < made.seconds <= 3605, made
                    return got
                got += 1
    print(sum(await asyncio.gather(*(task() for _ in range(3)))))

asyncio.run(main())
"""
ZONES = ("America/New_York", "Asia/Kolkata", "Pacific/Chatham", "UTC")


async def test_processes_at_full_speed_that_are_killed_and_started_again_in_any_zone_get_exactly_the_limit(
    database: Database, tmp_path: Path
) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path, calls_per_hour=1500)
        arguments = [database.conninfo, database.schema, str(credential.credential_id), "1500"]
        await conn.execute(b"alter database %s set timezone = 'Asia/Tokyo'" % conn.info.dbname.encode())

        async def started(zone: str) -> asyncio.subprocess.Process:
            env = os.environ | {"PGTZ": zone, "PGDATESTYLE": "German"}
            return await asyncio.create_subprocess_exec(sys.executable, "-c", RESERVE, *arguments, env=env, stdout=-1)

        children = [await started(zone) for zone in ZONES]
        query = "select count(distinct endpoint), count(*) from api_calls where endpoint = any(%s)"
        killed = [[str(child.pid) for child in children[:2]]]
        while (had := await (await conn.execute(query, killed)).fetchone()) is None or had[0] < 2:
            await asyncio.sleep(0.002)
        for child in children[:2]:
            child.kill()
        again = [await started(zone) for zone in ZONES[2:]]
        said = [(await child.communicate())[0] for child in (*children, *again)]
        assert [child.returncode for child in (*children, *again)] == [-signal.SIGKILL] * 2 + [0] * 4
        row = await (await conn.execute("select count(*) from api_calls")).fetchone()
        assert row == (1500,)
        had = await (await conn.execute(query, killed)).fetchone()
        assert had is not None
        assert sum(int(out) for out in said if out) == 1500 - had[1] < 1500  # those that were killed had the rest
        assert (await refused(conn, credential)).calls_left == 0


async def test_a_call_is_written_down(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path)
        assert await budget.last_call_at(conn, credential.credential_id) is None
        await ended(conn, await granted(conn, credential), error_code=7)
        query = "select endpoint, race_id, ms, http_status, error_code, rows, bytes, reserved_at from api_calls"
        row = await (await conn.execute(query)).fetchone()
        assert row is not None
        assert row[:-1] == ("participants", 1, 250, 200, 7, 3, 99)
        assert await budget.last_call_at(conn, credential.credential_id) == row[-1]


async def pauses(conn: Connection, credential: Credential, retry_after: float | None = None) -> int:
    await budget.pause(conn, credential.credential_id, retry_after)
    wait = await refused(conn, credential)
    assert wait.paused
    return round(wait.seconds / 5) * 5


async def pass_the_pause(conn: Connection) -> None:
    await conn.execute("update partner_provider_credentials set paused_until = clock_timestamp()")


async def test_pauses_double_to_a_quarter_of_an_hour_and_end_with_a_success(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path, calls_per_hour=100)
        call_id = await granted(conn, credential)
        lengths = []
        for _ in range(6):
            lengths.append(await pauses(conn, credential))
            await pass_the_pause(conn)
        assert lengths == [60, 120, 240, 480, 900, 900]
        await ended(conn, call_id, error_code=7)
        assert await pauses(conn, credential) == 900
        await pass_the_pause(conn)
        await ended(conn, await granted(conn, credential))
        assert await pauses(conn, credential) == 60


async def test_calls_throttled_together_pause_once(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path, calls_per_hour=100)
        under_way = await granted(conn, credential)
        assert await pauses(conn, credential) == 60
        assert await pauses(conn, credential) == 60
        await ended(conn, under_way)  # began before the pause: says nothing about its end
        assert (await refused(conn, credential)).paused


async def test_retry_after_is_kept(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path, calls_per_hour=100)
        assert await pauses(conn, credential, 30) == 30
        assert await pauses(conn, credential, 10) == 30
        assert await pauses(conn, credential, 10**12) == 86400
        await pass_the_pause(conn)
        assert await pauses(conn, credential) == 60


async def test_the_budget_is_exact_whatever_isolation_the_database_begins_with(
    database: Database, tmp_path: Path
) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path, calls_per_hour=1)
        row = await (await conn.execute("select current_database()")).fetchone()
        assert row is not None
        await conn.execute(f"alter database \"{row[0]}\" set default_transaction_isolation = 'serializable'".encode())
    async with await database.connect() as one, await database.connect() as other:
        async with one.transaction():
            assert isinstance(await reserve(one, credential), Reservation)
            waiting = asyncio.create_task(reserve(other, credential))
            query = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            while not await (await one.execute(query)).fetchall():
                await one.execute("select pg_stat_clear_snapshot()")
                await asyncio.sleep(0.01)
        assert isinstance(await waiting, Wait)


async def test_three_refused_races_stop_a_credential_and_any_success_speaks_for_it(
    database: Database, tmp_path: Path
) -> None:
    async with await database.connect() as conn:
        credential = await credential_of(conn, tmp_path, calls_per_hour=100)

        async def call(race_id: int, code: int | None, endpoint: str = "participants") -> int:
            made = await budget.reserve(conn, credential, endpoint=endpoint, race_id=race_id, run_id=None, first=False)
            assert isinstance(made, Reservation)
            await ended(conn, made.call_id, code)
            return len(await budget.refused_races(conn, credential.credential_id))

        assert [await call(race, 7) for race in (1, 1, 2)] == [1, 1, 2]
        assert await call(9, None, "races") == 2  # anyone may read these
        assert await call(9, None, "race") == 2
        assert await call(9, 301) == 2
        assert await call(3, 7) == 3
        assert await call(4, None) == 0
        await shift(conn, "-3601 s")
        assert await call(5, 7) == 1
        # Of another key's race a refusal tells nothing once this one was proved; a success does.
        await conn.execute("insert into runsignup_races (timing_partner_id, race_id, name) values (1, 6, 'x')")
        await conn.execute(
            "insert into partner_provider_credentials (timing_partner_id, principal, secret) values (1, 'other', 's')"
        )
        other = "(select credential_id from partner_provider_credentials where principal = 'other')"
        await conn.execute(f"update runsignup_races set credential_id = {other}".encode())
        assert await call(6, 7) == 2
        await partners.mark_verified(conn, credential)
        assert len(await budget.refused_races(conn, credential.credential_id)) == 1
        assert await call(6, None) == 0
    assert [budget.refusals_stop(range(n), range(50)) for n in (0, 1, 2, 3, 4)] == [False, False, False, True, True]
    assert [
        budget.refusals_stop(range(1), range(1)),
        budget.refusals_stop(range(1), range(2)),
        budget.refusals_stop(range(2), range(2)),
    ] == [True, False, True]
    assert not budget.refusals_stop([], [])
    assert not budget.refusals_stop([7], [8])  # a race that is not listed is that race's alone


async def test_lanes_hold_over_all_processes_and_are_served_in_turn(database: Database) -> None:
    async with Lanes(database, 2) as ours, Lanes(database, 2) as theirs:
        held = [await ours.acquire(), await theirs.acquire()]
        waiting = [asyncio.create_task(acquired(lanes)) for lanes in (ours, theirs, ours)]
        await until_waiting(database, 2)
        assert not any(task.done() for task in waiting)
        await theirs.release(held[1])
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [task.done() for task in waiting] in ([True, False, False], [False, True, False])
        for _ in range(3):
            done = next(task for task in waiting if task.done())
            waiting.remove(done)
            await done.result()[0].release(done.result()[1])
            if waiting:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await ours.release(held[0])


async def acquired(lanes: Lanes) -> tuple[Lanes, Lane]:
    return lanes, await lanes.acquire()


async def until_waiting(database: Database, many: int) -> None:
    query = """
        select count(*) from pg_locks join pg_database on pg_database.oid = database
        where locktype = 'advisory' and datname = current_database() and not granted
    """
    async with await database.connect() as conn:
        for _ in range(200):
            row = await (await conn.execute(query)).fetchone()
            if row is not None and row[0] >= many:
                return
            await asyncio.sleep(0.005)
    raise AssertionError("nobody waits")


async def test_never_more_under_way_than_lanes(database: Database) -> None:
    under_way = most = 0

    async def call(lanes: Lanes) -> None:
        nonlocal under_way, most
        lane = await lanes.acquire()
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        await lanes.release(lane)

    async with Lanes(database, 2) as ours, Lanes(database, 2) as theirs:
        await asyncio.gather(*(call(lanes) for _ in range(30) for lanes in (ours, theirs)))
    assert most == 2


async def test_a_cancelled_wait_takes_no_lane(database: Database) -> None:
    async with Lanes(database, 1) as ours, Lanes(database, 1) as theirs:
        lane = await ours.acquire()
        waiting = asyncio.create_task(theirs.acquire())
        await until_waiting(database, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await ours.release(lane)
        for lanes in (ours, theirs, ours):
            await lanes.release(await asyncio.wait_for(lanes.acquire(), 5))


async def test_a_process_that_waits_for_a_lane_can_end(database: Database) -> None:
    async with Lanes(database, 1) as ours:
        lane = await ours.acquire()
        async with Lanes(database, 1) as theirs:
            waiting = asyncio.create_task(theirs.acquire())
            await until_waiting(database, 1)
            waiting.cancel()
        await ours.release(lane)
        await ours.release(await asyncio.wait_for(ours.acquire(), 5))


async def test_what_a_cancelled_call_still_has_to_write_is_written(database: Database) -> None:
    written: list[str] = []

    async def write() -> None:
        async with await database.connect() as conn:
            await conn.execute("select 1")
        written.append("row")

    async with Lanes(database, 1) as lanes:
        lane = await lanes.acquire()
        leaving = asyncio.create_task(lanes.release(lane, write))
        await asyncio.sleep(0)
        leaving.cancel()
    assert written == ["row"]


async def test_a_lane_granted_to_a_task_that_was_just_cancelled_is_freed(database: Database) -> None:
    async with Lanes(database, 1) as lanes:
        for turns in range(12):
            task = asyncio.create_task(lanes.acquire())
            for _ in range(turns):
                await asyncio.sleep(0.0002)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await lanes.release(await task)
            await lanes.release(await asyncio.wait_for(lanes.acquire(), 5))


async def test_a_lost_connection_is_opened_again(database: Database) -> None:
    async with Lanes(database, 1) as lanes:
        lane = await lanes.acquire()
        terminate(database.conninfo, "startlist lane")
        await lanes.release(lane)
        await lanes.release(await lanes.acquire())
        terminate(database.conninfo, "startlist lane")
        await lanes.release(await lanes.acquire())


async def test_without_a_database_the_wait_ends_in_an_error(tmp_path: Path) -> None:
    nowhere = Database(f"postgresql://nobody@/nothing?host={tmp_path}", "startlist")
    async with Lanes(nowhere, 2) as lanes:
        with pytest.raises(DatabaseError):
            await lanes.acquire()


HOLD = """
import asyncio, sys
from startlist.store.database import Database
from startlist.store.lanes import Lanes

async def main():
    async with Lanes(Database(sys.argv[1], sys.argv[2]), 1) as lanes:
        await lanes.acquire()
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_process_frees_its_lane(database: Database) -> None:
    arguments = [sys.executable, "-c", HOLD, database.conninfo, database.schema]
    child = await asyncio.create_subprocess_exec(*arguments, stdout=-1)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"held\n"
    async with Lanes(database, 1) as lanes:
        waiting = asyncio.create_task(lanes.acquire())
        await until_waiting(database, 1)
        os.kill(child.pid, signal.SIGKILL)
        await lanes.release(await asyncio.wait_for(waiting, 10))
    await child.wait()


async def test_lanes_are_shared_by_all_schemas_of_a_database(database: Database) -> None:
    async with Lanes(database, 1) as lanes, await database.connect() as conn:
        await lanes.acquire()
        row = await (await conn.execute("select pg_try_advisory_lock(%s)", [global_lock_key("lane", 0)])).fetchone()
        assert row == (False,)
