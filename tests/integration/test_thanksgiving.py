"""What the simulated Thanksgiving keeps in memory in place of SQL says the same as the SQL."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import pytest
from benchmarks.thanksgiving import hour, order
from benchmarks.thanksgiving.world import Credential as Modelled
from benchmarks.thanksgiving.world import Race, morning

from startlist.config import Settings
from startlist.store import budget, partners, schedule
from startlist.store.budget import Rank, Wait, calls_of_share
from startlist.store.database import Connection, Database
from startlist.store.partners import Credential
from startlist.store.sealing import open_key_ring
from tests.scheduling import Schedule
from tests.syncing import Rig

LIMIT = 20
STEPS = 250
SLACK = 4.0  # seconds that the database's own clock may move on meanwhile; all gaps and ages lie further apart


async def stored_credential(conn: Connection, home: Path) -> Credential:
    settings = Settings(_env_file=None, home=home)  # type: ignore[call-arg]
    ring = await open_key_ring(conn, settings)
    await partners.add(
        conn, ring, name="Acme", principal="k", secret="s", credential_type="legacy", calls_per_hour=LIMIT
    )
    return (await partners.credentials(conn, ring, settings))[0]


async def pass_time(conn: Connection, seconds: float) -> None:
    await conn.execute("update api_calls set reserved_at = reserved_at - make_interval(secs => %s)", [seconds])
    await conn.execute(
        "update partner_provider_credentials set paused_until = paused_until - make_interval(secs => %s)", [seconds]
    )


async def seconds_to_free(conn: Connection, credential: Credential, share: float, ahead: int) -> float | None:
    until = await budget.free_at(conn, credential, share, ahead=ahead)
    row = await (
        await conn.execute("select extract(epoch from %s::timestamptz - clock_timestamp())::float8", [until])
    ).fetchone()
    return row[0] if row else None


async def test_the_hour_of_a_key_is_kept_as_the_database_keeps_it(database: Database, tmp_path: Path) -> None:
    chance, now = random.Random(11), 1_000_000.0
    told = {"granted": 0, "refused": 0, "paused": 0}
    async with await database.connect() as conn:
        credential = await stored_credential(conn, tmp_path)
        modelled = Modelled(credential.credential_id, LIMIT)
        for _ in range(STEPS):
            gap = chance.choice([0, 10, 50, 200, 1_000])
            now += gap
            await pass_time(conn, gap)
            if chance.random() < 0.03:
                modelled.paused_until = now + 65
                await conn.execute(
                    "update partner_provider_credentials set paused_until = clock_timestamp() + interval '65 seconds'"
                )
            share, first, ahead = chance.choice(list(Rank)).share, chance.random() < 0.5, chance.randrange(4)
            limit = calls_of_share(LIMIT, share)

            expected = hour.free_at(modelled, now, limit, ahead)
            found = await seconds_to_free(conn, credential, share, ahead)
            assert found == (None if expected is None else pytest.approx(expected - now, abs=SLACK))

            refused = hour.reserve(modelled, now, limit, 2 if first else 1)
            answer = await budget.reserve(
                conn, credential, endpoint="participants", race_id=1, run_id=None, first=first, share=share
            )
            if isinstance(answer, Wait):
                assert refused is not None
                assert answer.seconds == pytest.approx(refused - now, abs=SLACK)
                told["paused" if answer.paused else "refused"] += 1
            else:
                assert refused is None
                assert answer.calls_left == limit - len(modelled.calls)
                told["granted"] += 1
    assert min(told.values()) >= 3, told


STORE: LiteralString = """
insert into sync_cursors (timing_partner_id, race_id, rank, period_seconds, last_full_at, planned_at,
                          next_sync_at, stale_at, waits_since, race_day_at, race_day_until)
select 1, %s, %s, 60, now(), now() - interval '1 day', to_timestamp(%s::float8), to_timestamp(%s::float8),
       to_timestamp(%s::float8), to_timestamp(%s::float8), to_timestamp(%s::float8)
"""


async def test_races_come_in_the_order_in_which_the_database_has_them(rig: Rig) -> None:
    chance, now = random.Random(5), (await rig.one("select extract(epoch from now())::float8 as now"))["now"]
    (credential,) = morning(5, partners=1, races=80, registrations=100)
    for race in credential.races:
        race.rank = chance.choice([Rank.ROUTINE, Rank.RACE_WEEK, Rank.RACE_DAY])
        race.next_sync_at = now + chance.choice([-1, -1, -1, 1]) * chance.uniform(60, 900)
        race.stale_at = now + chance.choice([-1, 1, 1]) * chance.uniform(60, 900)
        race.waits_since = now - chance.uniform(60, 900) if chance.random() < 0.4 else None
        begins = now + chance.choice([-9_000, -3_000, 3_000])  # over, under way, to come
        race.race_day = begins, begins + 6_000
        await rig.conn.execute(
            "insert into runsignup_races (timing_partner_id, race_id, credential_id) values (1, %s, 1)", [race.race_id]
        )
        await rig.conn.execute(
            STORE,
            [
                race.race_id,
                schedule.name(race.rank),
                race.next_sync_at,
                race.stale_at,
                race.waits_since,
                *race.race_day,
            ],
        )
    due = [race for race in credential.races if race.next_sync_at <= now]
    assert 40 < len(due) < 80
    assert await Schedule(rig).due() == [race.race_id for race in order.in_order(due, now)]

    def place(race: Race, since: float) -> int:
        return order.ahead(credential, race, race.rank, since)

    for race in credential.races:
        since = race.waits_since or race.next_sync_at
        assert await schedule.ahead(rig.conn, 1, race.race_id, 1, race.rank, at(since)) == place(race, since)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
