"""Processes that were paused are cut off from the database; those that live are not, whatever the clocks do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import psycopg
import pytest

from startlist.store import processes
from startlist.store.database import Connection, Database, global_lock_key
from startlist.store.processes import Watch
from startlist.sync import context
from tests.syncing import Rig, Row

OURS, THEIRS = "0badcafe", "5eedf00d"


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def connected(stack: AsyncExitStack, database: Database, name: str, label: str) -> Connection:
    return await stack.enter_async_context(await replace(database, label=label).connect(name=name))


async def lost(conn: Connection) -> bool:
    try:
        await conn.execute("select 1")
    except psycopg.OperationalError:
        return True
    return False


async def test_who_was_paused_is_cut_off_wherever_it_stood_and_its_locks_are_free(
    database: Database, stack: AsyncExitStack
) -> None:
    conn = await connected(stack, database, "startlist scheduler", OURS)
    paused = [await connected(stack, database, name, THEIRS) for name in ("startlist run", "startlist pass")]
    another = await connected(stack, database, "startlist run", "")
    assert await processes.lead(database, paused[0])
    await paused[1].execute("begin")  # in the middle of a page
    clock = Clock()
    watch = Watch(OURS, elapsed=clock)
    for clock.now in (0, 19.9):
        assert await watch.cut_off(conn, 20) == 0
    assert not await processes.lead(database, conn)
    clock.now = 20
    assert await watch.cut_off(conn, 20) == 2
    assert [await lost(one) for one in paused] == [True, True]
    while not await processes.lead(database, conn):  # a connection that ends says so before its locks are free
        await asyncio.sleep(0.02)
    assert not await lost(another)  # of a command that nobody looks after


async def test_any_connection_of_a_process_shows_that_it_lives(database: Database, stack: AsyncExitStack) -> None:
    conn = await connected(stack, database, "startlist scheduler", OURS)
    idle, busy = [await connected(stack, database, name, THEIRS) for name in ("startlist lane", "startlist queue")]
    clock = Clock()
    watch = Watch(OURS, elapsed=clock)
    for clock.now in (0, 15, 30, 45):
        assert await watch.cut_off(conn, 20) == 0
        await busy.execute("select 1")
    assert not await lost(idle)


async def test_a_command_that_was_paused_gives_up_its_lane_and_one_that_waits_does_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "BEAT", 0.02)
    rig.control.fault("delay", ms=30_000, match={"endpoint": "participants"}, times=None)
    clock = Clock()
    watch = Watch(OURS, elapsed=clock)
    sync = asyncio.create_task(rig.sync())
    while not await laned(rig):
        await asyncio.sleep(0.02)
    for clock.now in (0, 30, 60):
        await next_beat(rig)
        assert await watch.cut_off(rig.conn, 20) == 0
    monkeypatch.setattr(context, "BEAT", 3600)  # as silent as a process that is paused
    cut = 0
    while await laned(rig):
        await asyncio.sleep(0.2)  # a last beat may be on its way, and a connection is some moments in ending
        clock.now += 20
        cut += await watch.cut_off(rig.conn, 20)
    assert cut > 2
    rig.control.clear_faults()
    sync.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sync
    again = await rig.sync()
    assert again.status == "completed"


async def next_beat(rig: Rig) -> None:
    """Wait until a sync has shown once more that it lives."""
    query = (
        "select max(state_change) as last from pg_stat_activity"
        " where datname = current_database() and application_name like 'startlist run %%'"
    )
    before = await rig.one(query)
    while await rig.one(query) == before:
        await asyncio.sleep(0.02)


async def laned(rig: Rig) -> list[Row]:
    """The lanes that are held."""
    keys = [global_lock_key("lane", number) & 0xFFFFFFFF for number in range(2)]
    query = "select from pg_locks join pg_database on pg_database.oid = database"
    return await rig.rows(
        f"{query} where locktype = 'advisory' and datname = current_database() and objid::bigint = any(%s)", keys
    )


async def test_who_was_paused_itself_does_not_cut_off_those_that_went_on(
    database: Database, stack: AsyncExitStack
) -> None:
    conn = await connected(stack, database, "startlist scheduler", OURS)
    own = await connected(stack, database, "startlist run", OURS)
    other = await connected(stack, database, "startlist run", THEIRS)
    clock = Clock()
    watch = Watch(OURS, elapsed=clock)
    assert await watch.cut_off(conn, 20) == 0
    await other.execute("select 1")
    clock.now = 3600
    assert await watch.cut_off(conn, 20) == 0
    assert [await lost(one) for one in (own, other)] == [False, False]
