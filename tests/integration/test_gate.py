"""The gate before every call: lanes and budget held over processes, waits without a lane, pauses after throttling."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from startlist import runsignup
from startlist.config import Settings
from startlist.errors import BudgetSpent, DatabaseError, NetworkError, Throttled
from startlist.runsignup import RunSignup
from startlist.sandbox import running
from startlist.sandbox.server import Sandbox
from startlist.store import budget, partners
from startlist.store.database import Connection, Database
from startlist.store.lanes import Lanes
from startlist.store.partners import Credential
from startlist.store.sealing import open_key_ring
from startlist.sync.gate import BudgetGate
from tests.support import terminate


async def credential_of(conn: Connection, home: Path, sandbox: Sandbox | None, calls_per_hour: int = 10) -> Credential:
    """A credential of the sandbox's first partner."""
    settings = Settings(_env_file=None, home=home)  # type: ignore[call-arg]
    ring = await open_key_ring(conn, settings)
    key = sandbox.control.partners()[0] if sandbox else {"key": "k", "secret": "s"}
    await partners.add(
        conn, ring, name="Peak", principal=key["key"], secret=key["secret"], credential_type="legacy",
        calls_per_hour=calls_per_hour,
    )  # fmt: skip
    return (await partners.credentials(conn, ring, settings))[0]


class Clock:
    """Counts the seconds that were slept, and lets the database's calls grow older by them."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await pass_time(self.conn, seconds)


async def pass_time(conn: Connection, seconds: float) -> None:
    await conn.execute("update api_calls set reserved_at = reserved_at - make_interval(secs => %s)", [seconds])
    await conn.execute(
        "update partner_provider_credentials set paused_until = paused_until - make_interval(secs => %s)", [seconds]
    )


def client_of(sandbox: Sandbox, credential: Credential, gate: BudgetGate) -> RunSignup:
    own = runsignup.Credential(credential.principal, credential.secret or "")
    return RunSignup(own, url=sandbox.url, gate=gate, retries=runsignup.Retries(wait_initial=0, wait_jitter=0))


async def read_races(client: RunSignup) -> None:
    async for _ in client.races(start_date=date(2020, 1, 1)):
        pass


async def made(conn: Connection) -> list[tuple[object, ...]]:
    query = "select endpoint, race_id, http_status, error_code, started_at is not null from api_calls order by call_id"
    return await (await conn.execute(query)).fetchall()


async def test_every_call_is_reserved_and_written_down(database: Database, tmp_path: Path) -> None:
    left: list[int] = []
    with running() as sandbox:
        async with await database.connect() as conn, Lanes(database, 2) as lanes:
            credential = await credential_of(conn, tmp_path, sandbox)
            gate = BudgetGate(lanes, credential, on_call=left.append)
            async with client_of(sandbox, credential, gate) as client:
                await read_races(client)
                sandbox.control.fault("http", status=503)
                await read_races(client)
                sandbox.control.fault("reset")
                await read_races(client)
            expected = [200, 503, 200, None, 200]
            assert await made(conn) == [("races", None, status, None, True) for status in expected]
            assert gate.calls == 5 == sandbox.control.counts()["calls"]
            assert left == [9, 8, 7, 6, 5]
            row = await (await conn.execute("select rows, bytes > 100, ms < 5000 from api_calls limit 1")).fetchone()
            assert row == (1, True, True)


async def test_a_pass_begins_only_with_two_free_calls(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn, Lanes(database, 2) as lanes:
        credential = await credential_of(conn, tmp_path, None, calls_per_hour=3)

        async def call(gate: BudgetGate, endpoint: str) -> None:
            async with gate.attempt(endpoint, 5):
                pass

        under_way = BudgetGate(lanes, credential)
        await call(under_way, "participants")
        await call(BudgetGate(lanes, credential), "races")
        with pytest.raises(BudgetSpent) as caught:
            await call(BudgetGate(lanes, credential), "participants")
        assert "has used its 3 calls an hour; free again" in str(caught.value)
        assert caught.value.until.tzinfo is not None
        await call(under_way, "removed-participants")


async def test_a_short_wait_is_slept_without_a_lane_and_a_long_one_puts_off(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn, Lanes(database, 1) as lanes:
        credential = await credential_of(conn, tmp_path, None, calls_per_hour=1)
        clock = Clock(conn)

        async def sleep(seconds: float) -> None:
            await lanes.release(await asyncio.wait_for(lanes.acquire(), 5))  # the only one
            await clock.sleep(seconds)

        gate = BudgetGate(lanes, credential, sleep=sleep)
        async with gate.attempt("participants", 5):
            pass
        await pass_time(conn, 3601)
        async with gate.attempt("removed-participants", 5):
            pass
        assert sum(clock.slept) == pytest.approx(4, abs=0.5)
        with pytest.raises(BudgetSpent):
            async with gate.attempt("participants", 5):
                pass
        assert len(clock.slept) < 5
        await lanes.release(await asyncio.wait_for(lanes.acquire(), 5))


async def test_short_waits_together_stay_short(database: Database, tmp_path: Path) -> None:
    """Somebody else takes each place that becomes free: after five seconds of it the pass is put off."""
    async with await database.connect() as conn, Lanes(database, 1) as lanes:
        credential = await credential_of(conn, tmp_path, None, calls_per_hour=1)
        slept: list[float] = []
        async with BudgetGate(lanes, credential).attempt("races", None):
            pass
        await pass_time(conn, 3603)

        async def taken(seconds: float) -> None:
            slept.append(seconds)

        with pytest.raises(BudgetSpent):
            async with BudgetGate(lanes, credential, sleep=taken).attempt("races", None):
                pass
        assert 2 < sum(slept) <= 5


@pytest.mark.parametrize(
    ("fault", "parameters", "seconds"),
    [("error", {"code": 14}, 60), ("http", {"status": 429}, 60), ("http", {"status": 429, "retry_after": 40}, 40)],
)
async def test_throttling_pauses_the_credential_for_everyone(
    database: Database, tmp_path: Path, fault: str, parameters: dict[str, Any], seconds: int
) -> None:
    with running() as sandbox:
        async with await database.connect() as conn, Lanes(database, 2) as lanes, Lanes(database, 2) as others:
            credential = await credential_of(conn, tmp_path, sandbox)
            sandbox.control.fault(fault, **parameters)
            async with client_of(sandbox, credential, BudgetGate(lanes, credential)) as client:
                with pytest.raises(Throttled):
                    await read_races(client)
            assert sandbox.control.counts()["calls"] == 1
            async with client_of(sandbox, credential, BudgetGate(others, credential)) as client:
                with pytest.raises(BudgetSpent, match="RunSignup asked for patience") as caught:
                    await read_races(client)
                now = await (await conn.execute("select clock_timestamp()")).fetchone()
                assert now is not None
                assert seconds - 5 < (caught.value.until - now[0]).total_seconds() <= seconds
                await pass_time(conn, seconds)
                await read_races(client)


async def test_a_cancelled_call_frees_its_lane_and_stays_counted(database: Database, tmp_path: Path) -> None:
    with running() as sandbox:
        async with await database.connect() as conn, Lanes(database, 1) as lanes:
            credential = await credential_of(conn, tmp_path, sandbox)
            sandbox.control.fault("timeout", seconds=600)
            gate = BudgetGate(lanes, credential)
            async with client_of(sandbox, credential, gate) as client:
                call = asyncio.create_task(read_races(client))
                while not sandbox.control.counts()["calls"]:
                    await asyncio.sleep(0.005)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert gate.calls == 1
                assert await budget.calls_left(conn, credential) == 9
                await asyncio.wait_for(read_races(client), 5)
            assert [row[2] for row in await made(conn)] == [None, 200]


async def test_a_lost_database_does_not_hide_what_ended_the_call(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn, Lanes(database, 1) as lanes:
        gate = BudgetGate(lanes, await credential_of(conn, tmp_path, None))

        async def lost_during_a_call(error: Exception | None) -> None:
            async with gate.attempt("races", None) as attempt:
                attempt.started = datetime.now(UTC)
                terminate(database.conninfo, "startlist lane")
                if error is not None:
                    raise error

        with pytest.raises(NetworkError):
            await lost_during_a_call(NetworkError("no answer"))
        with pytest.raises(DatabaseError):
            await lost_during_a_call(None)
        async with gate.attempt("races", None):
            assert await budget.last_call_at(conn, 1) is not None


CALLS = """
import asyncio, json, sys
from datetime import date
from startlist import runsignup
from startlist.errors import BudgetSpent
from startlist.runsignup import RunSignup
from startlist.store.database import Database
from startlist.store.lanes import Lanes
from startlist.store.partners import Credential
from startlist.sync.gate import BudgetGate

async def main():
    conninfo, schema, url, given = json.loads(sys.argv[1])
    credentials = [Credential(**one, verified_at=None, stopped_at=None, stopped_reason=None) for one in given]
    sent = 0
    async with Lanes(Database(conninfo, schema), 2) as lanes:
        async def work(credential):
            nonlocal sent
            gate = BudgetGate(lanes, credential)
            own = runsignup.Credential(credential.principal, credential.secret)
            async with RunSignup(own, url=url, gate=gate) as client:
                try:
                    for _ in range(20):
                        async for _ in client.races(start_date=date(2020, 1, 1)):
                            pass
                except BudgetSpent:
                    pass
            sent += gate.calls
        await asyncio.gather(*(work(one) for one in credentials for _ in range(2)))
    print(sent)

asyncio.run(main())
"""


async def test_trap_41_two_processes_stay_within_lanes_and_budget(database: Database, tmp_path: Path) -> None:
    with running(latency_ms=2) as sandbox:
        async with await database.connect() as conn:
            credential = await credential_of(conn, tmp_path, sandbox, calls_per_hour=25)
            one = {
                name: getattr(credential, name)
                for name in ("credential_id", "timing_partner_id", "company_name", "principal", "secret")
            } | {"credential_type": "legacy", "calls_per_hour": 25}
            arguments = json.dumps([database.conninfo, database.schema, sandbox.url, [one]])
            children = [
                await asyncio.create_subprocess_exec(sys.executable, "-c", CALLS, arguments, stdout=-1)
                for _ in range(2)
            ]
            said = await asyncio.gather(*(child.communicate() for child in children))
            assert sum(int(out) for out, _ in said) == 25
            counts = sandbox.control.counts()
            assert counts["calls"] == 25
            assert counts["max_concurrent"] <= 2
            assert not counts["by_error"]
