"""Who is at work on this database: the scheduler that leads, living workers, and those that were paused or are gone."""

from __future__ import annotations

import time
from collections.abc import Callable
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

# Whatever a process does on any of its connections is a sign of life; every few seconds it does something.
SIGNS: LiteralString = """
select right(application_name, 8), max(state_change)
from pg_stat_activity
where datname = current_database() and application_name ~ '^startlist .* [0-9a-f]{8}$' and state_change is not null
group by 1
"""

CUT_OFF: LiteralString = """
select count(pg_terminate_backend(pid))
from pg_stat_activity
where datname = current_database() and application_name ~ '^startlist .* [0-9a-f]{8}$'
  and right(application_name, 8) = any(%s)
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


class Watch:
    """Finds processes that were paused: by SIGSTOP, or as their machine sleeps.

    Those keep their connections, and all locks that hang on them: the leader's, races', lanes'. For how long one is
    silent is told by the clock of who watches, as the database's may jump. `own` is the label of the process that
    watches: it lives.
    """

    def __init__(self, own: str, *, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._own = own
        self._elapsed = elapsed
        self._last: dict[str, tuple[datetime, float]] = {}  # the last sign of each label, and when it was new here

    async def cut_off(self, conn: Connection, seconds: float) -> int:
        """Cut the connections of processes that were seen to be silent for so long; how many they were.

        Their locks are free then, and what they would still store when they wake up fails.
        """
        signs: dict[str, datetime] = dict(await (await conn.execute(SIGNS)).fetchall())
        now = self._elapsed()
        known = self._last
        self._last = {
            label: known[label] if label in known and known[label][0] == sign else (sign, now)
            for label, sign in signs.items()
        }
        silent = [one for one, (_, since) in self._last.items() if now - since >= seconds and one != self._own]
        if not silent:
            return 0
        row = await (await conn.execute(CUT_OFF, [silent])).fetchone()
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
