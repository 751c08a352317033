"""Who is at work on this database: the scheduler that leads, living workers, and those that were paused or are gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg.rows import class_row

from startlist.store.database import Connection, Database


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A `serve` or `worker` that runs, or vanished without a word; `race_ids` are those that it reads now."""

    run_id: int
    command: str
    started_at: datetime
    race_ids: list[int]


WORKERS: LiteralString = """
select r.run_id, r.command, r.started_at,
       coalesce((select array_agg(h.race_id order by h.sync_history_id) from sync_history as h
                 where h.run_id = r.run_id and h.status = 'running'), '{}') as race_ids
from sync_runs as r
where r.trigger = 'schedule' and r.status = 'running'
order by r.run_id
"""

OLDER_RUNS: LiteralString = """
select run_id from sync_runs
where trigger = 'schedule' and status = 'running' and started_at < now() - interval '10 seconds'
"""

HELD: LiteralString = """
select (classid::bigint << 32) | objid::bigint from pg_locks
where locktype = 'advisory' and objsubid = 1 and granted
  and database = (select oid from pg_database where datname = current_database())
"""

CLOSE_DEAD_RUNS: LiteralString = """
update sync_runs set status = 'interrupted', finished_at = now() where run_id = any(%s::bigint[]) and status = 'running'
"""

# A process that was stopped (SIGSTOP, a machine that sleeps) keeps its connections, and all locks that hang on them:
# those of the leader, of races, of lanes. Its heartbeat is a statement on the connection of its run.
END_SILENT: LiteralString = """
with silent as (
    select substring(application_name from '[0-9a-f]{8}$') as label
    from pg_stat_activity
    where datname = current_database() and application_name ~ '^startlist run [0-9a-f]{8}$'
      and state = 'idle' and state_change < clock_timestamp() - make_interval(secs => %s)
)
select count(pg_terminate_backend(a.pid))
from pg_stat_activity as a
join silent on a.application_name like 'startlist %%' and right(a.application_name, 8) = silent.label
where a.datname = current_database() and a.pid <> pg_backend_pid()
"""


async def lead(database: Database, conn: Connection) -> bool:
    """Become the one that defers what is due, until this connection ends; False while another is."""
    row = await (await conn.execute("select pg_try_advisory_lock(%s)", [leader_key(database)])).fetchone()
    return bool(row and row[0])


def leader_key(database: Database) -> int:
    """The advisory lock of the scheduler that leads."""
    return database.lock_key("scheduler")


def run_key(database: Database, run_id: int) -> int:
    """The advisory lock that a living worker holds; nobody ever waits for it."""
    return database.lock_key("worker run", run_id)


async def show_alive(database: Database, conn: Connection, run_id: int) -> None:
    """Show that a worker's run goes on, as long as this connection does."""
    await conn.execute("select pg_advisory_lock(%s)", [run_key(database, run_id)])


async def close_dead_runs(database: Database, conn: Connection) -> list[int]:
    """Close the runs of workers that ended without a word, and return them."""
    rows = await (await conn.execute(OLDER_RUNS)).fetchall()
    held = {key for (key,) in await (await conn.execute(HELD)).fetchall()}  # after the runs: they lock what they open
    dead = [run_id for (run_id,) in rows if run_key(database, run_id) not in held]
    if dead:
        await conn.execute(CLOSE_DEAD_RUNS, [dead])
    return dead


def label(database: Database, run_id: int) -> str:
    """By which all connections of a worker's process are known to belong to its run."""
    return f"{run_key(database, run_id) & 0xFFFFFFFF:08x}"


async def end_silent(conn: Connection, seconds: float) -> int:
    """Cut the connections of processes that gave no sign of life for so long; how many they were.

    Their locks are free then, and what they would still store when they wake up fails.
    """
    row = await (await conn.execute(END_SILENT, [seconds])).fetchone()
    return int(row[0]) if row else 0


async def workers(conn: Connection) -> list[WorkerState]:
    """All that are said to be at work."""
    async with conn.cursor(row_factory=class_row(WorkerState)) as cursor:
        await cursor.execute(WORKERS)
        return await cursor.fetchall()


async def has_queue(conn: Connection) -> bool:
    """Whether the queue's tables are there."""
    row = await (await conn.execute("select to_regclass('procrastinate_jobs') is not null")).fetchone()
    return bool(row and row[0])
