"""Where the backfill of each race's past stands, who reads it, and how its pages and the syncs take turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from startlist.store.cursors import lock_race, page_key, unlock
from startlist.store.database import Connection, Database
from startlist.store.history import Figures, close_interrupted

FINISHED = ("done", "partial", "empty", "refused", "gone")  # not read again until somebody asks or an event is added


# The figures that are kept of a race over all its legs, in the order of the columns.
COUNTED = (
    "api_calls", "rows_received", "rows_inserted", "rows_updated", "rows_unchanged", "rows_removed", "quarantined",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Progress:
    """A race's row of `backfill_progress`; a race without one is as this says."""

    race_id: int
    state: str = "waiting"
    reason: str | None = None
    record_modified: datetime | None = None
    event_ids: frozenset[int] = frozenset()
    unread_event_ids: frozenset[int] = frozenset()
    checkpoint: dict[str, Any] | None = None
    figures: Figures = field(default_factory=Figures)
    finished_at: datetime | None = None

    @property
    def finished(self) -> bool:
        """Whether the race is read to its end, or never will be."""
        return self.state in FINISHED


LOAD: LiteralString = """
select race_id, state, reason, record_modified, event_ids, unread_event_ids, checkpoint, finished_at,
       api_calls, rows_received, rows_inserted, rows_updated, rows_unchanged, rows_removed, quarantined
from backfill_progress
where timing_partner_id = %(partner)s and (%(race)s::bigint is null or race_id = %(race)s)
"""

# An insert in any case: where the partner was deleted meanwhile, its foreign key makes the whole page fail.
SAVE: LiteralString = """
insert into backfill_progress as b
    (timing_partner_id, race_id, state, reason, record_modified, event_ids, unread_event_ids, checkpoint,
     api_calls, rows_received, rows_inserted, rows_updated, rows_unchanged, rows_removed, quarantined,
     begun_at, finished_at)
values (%(partner)s, %(race)s, %(state)s, %(reason)s, %(record_modified)s, %(events)s, %(unread)s, %(checkpoint)s,
        %(api_calls)s, %(rows_received)s, %(rows_inserted)s, %(rows_updated)s, %(rows_unchanged)s, %(rows_removed)s,
        %(quarantined)s, now(), case when %(finished)s then now() end)
on conflict (timing_partner_id, race_id) do update
set (state, reason, record_modified, event_ids, unread_event_ids, checkpoint, api_calls, rows_received, rows_inserted,
     rows_updated, rows_unchanged, rows_removed, quarantined, begun_at, finished_at, updated_at)
  = (excluded.state, excluded.reason, excluded.record_modified, excluded.event_ids, excluded.unread_event_ids,
     excluded.checkpoint, excluded.api_calls, excluded.rows_received, excluded.rows_inserted, excluded.rows_updated,
     excluded.rows_unchanged, excluded.rows_removed, excluded.quarantined, coalesce(b.begun_at, now()),
     excluded.finished_at, now())
"""

EXPECT: LiteralString = """
insert into backfill_progress (timing_partner_id, race_id)
select %s, race_id from unnest(%s::bigint[]) as race_id
on conflict (timing_partner_id, race_id) do nothing
"""

NOTE: LiteralString = """
insert into backfill_progress as b (timing_partner_id, race_id, state, reason, finished_at)
values (%s, %s, %s, %s, now())
on conflict (timing_partner_id, race_id) do update
set state = excluded.state, reason = excluded.reason, checkpoint = null, finished_at = now(), updated_at = now()
where b.state not in ('done', 'partial', 'empty')
"""

FORGET: LiteralString = "delete from backfill_progress where timing_partner_id = any(%s::bigint[])"

# What was read stays read, but where nothing came or records were set aside.
RETRY: LiteralString = """
update backfill_progress
set state = 'waiting', reason = null, unread_event_ids = '{}', checkpoint = null, finished_at = null,
    updated_at = now(),
    event_ids = case when state = 'empty' or state = 'partial' and (unread_event_ids = '{}' or quarantined > 0)
                     then '{}' else event_ids end,
    quarantined = 0
where timing_partner_id = any(%s::bigint[]) and state in ('partial', 'empty', 'refused', 'gone')
"""

# Races that no key lists any more and that were never stored: nobody can read them.
NOT_LISTED: LiteralString = """
update backfill_progress as b
set state = 'gone', reason = 'no API key lists it any more', checkpoint = null, finished_at = now(), updated_at = now()
where b.timing_partner_id = %s and b.state in ('waiting', 'reading', 'failed') and not b.race_id = any(%s::bigint[])
"""

# A sync's pass that ended since a page was asked for may have stored later versions of what is on it. Only the newest
# passes are looked at: a race that is read every minute has a long history.
SYNCED_SINCE: LiteralString = """
select exists (
    select from (
        select finished_at, event_ids from sync_history
        where timing_partner_id = %(partner)s and race_id = %(race)s and sync_type <> 'backfill' and status <> 'skipped'
        order by sync_history_id desc limit 50
    ) as newest
    where finished_at >= clock_timestamp() - make_interval(secs => %(seconds)s)
      and event_ids && %(events)s::bigint[])
"""

CLOSE_DEAD_RUNS: LiteralString = """
update sync_runs set status = 'interrupted', finished_at = now()
where run_id = any(%s::bigint[]) and status = 'running'
"""


# -- progress --------------------------------------------------------------------------------------------------------


async def load_all(conn: Connection, timing_partner_id: int) -> dict[int, Progress]:
    """The partner's races that a backfill knows, by race id."""
    return {row.race_id: row for row in await _load(conn, timing_partner_id, None)}


async def load(conn: Connection, timing_partner_id: int, race_id: int) -> Progress:
    """A race's progress as stored; that of a race that no backfill knows yet."""
    found = await _load(conn, timing_partner_id, race_id)
    return found[0] if found else Progress(race_id)


async def _load(conn: Connection, timing_partner_id: int, race_id: int | None) -> list[Progress]:
    def made(race: int, state: str, reason: str | None, modified: Any, read: Any, unread: Any, *rest: Any) -> Progress:
        checkpoint, finished_at, *counted = rest
        return Progress(
            race,
            state,
            reason,
            modified,
            frozenset(read),
            frozenset(unread),
            checkpoint,
            Figures(**dict(zip(COUNTED, counted, strict=True))),
            finished_at,
        )

    found = await conn.execute(LOAD, {"partner": timing_partner_id, "race": race_id})
    return [made(*row) for row in await found.fetchall()]


async def save(conn: Connection, timing_partner_id: int, progress: Progress) -> None:
    """Keep where a race stands, in the transaction of the rows that it describes."""
    p = progress
    values: dict[str, Any] = {name: getattr(p.figures, name) for name in COUNTED}
    values |= {"partner": timing_partner_id, "race": p.race_id, "state": p.state, "reason": p.reason}
    values |= {"record_modified": p.record_modified, "finished": p.finished or p.state == "failed"}
    values |= {"events": sorted(p.event_ids), "unread": sorted(p.unread_event_ids)}
    await conn.execute(SAVE, values | {"checkpoint": None if p.checkpoint is None else Jsonb(p.checkpoint)})


async def expect(conn: Connection, timing_partner_id: int, race_ids: Collection[int]) -> None:
    """Note that these races' past is to be read, so that everybody can see how much is left."""
    await conn.execute(EXPECT, [timing_partner_id, sorted(race_ids)])


async def note(conn: Connection, timing_partner_id: int, race_id: int, state: str, reason: str) -> None:
    """Note that a race is refused, gone or failed; what was read of it before stays noted."""
    await conn.execute(NOTE, [timing_partner_id, race_id, state, reason])


async def forget(conn: Connection, partners: Collection[int]) -> None:
    """Begin anew: forget the partners' progress; no registration is touched."""
    await conn.execute(FORGET, [list(partners)])


async def retry(conn: Connection, partners: Collection[int]) -> None:
    """Have races read again that could not be read, are gone, were empty or partial."""
    await conn.execute(RETRY, [list(partners)])


async def close_unlisted(conn: Connection, timing_partner_id: int, known: Collection[int]) -> None:
    """End the races that are neither listed nor stored any more; `known` are those that are."""
    await conn.execute(NOT_LISTED, [timing_partner_id, list(known)])


# -- who reads what --------------------------------------------------------------------------------------------------


async def claim(database: Database, conn: Connection, timing_partner_id: int, race_id: int) -> bool:
    """Take a race's past for this connection, which frees it when it ends; False when another backfill has it."""
    key = claim_key(database, timing_partner_id, race_id)
    row = await (await conn.execute("select pg_try_advisory_lock(%s)", [key])).fetchone()
    return bool(row and row[0])


def claim_key(database: Database, timing_partner_id: int, race_id: int) -> int:
    """The advisory lock that the backfill which reads a race's past holds."""
    return database.lock_key("backfill", timing_partner_id, race_id)


@asynccontextmanager
async def turn(
    database: Database, conn: Connection, timing_partner_id: int, race_id: int, *, wait_seconds: float
) -> AsyncIterator[bool]:
    """The race's lock for one page; whoever waits for it gets it before the next page. False: a sync kept it.

    A second lock tells syncs that what holds the race is a page only, for which they wait instead of passing by.
    """
    page = page_key(database, timing_partner_id, race_id)
    await conn.execute("select pg_advisory_lock(%s)", [page])
    try:
        got = await lock_race(database, conn, timing_partner_id, race_id, wait_seconds=wait_seconds)
        try:
            yield got
        finally:
            if got:
                await unlock(conn, database.lock_key("race", timing_partner_id, race_id))
    finally:
        await unlock(conn, page)


async def synced_since(
    conn: Connection, timing_partner_id: int, race_id: int, event_ids: Collection[int], seconds: float
) -> bool:
    """Whether a sync's pass of some of these events ended within the last so many seconds.

    The race's lock must be held.
    """
    await close_interrupted(conn, timing_partner_id, race_id)  # one that died counts as well, once
    values = {"partner": timing_partner_id, "race": race_id, "events": list(event_ids), "seconds": seconds}
    row = await (await conn.execute(SYNCED_SINCE, values)).fetchone()
    return bool(row and row[0])


# -- runs ------------------------------------------------------------------------------------------------------------


async def begin_run(database: Database, conn: Connection, run_id: int, partners: Collection[int]) -> None:
    """Show that these partners' backfill is alive as long as this connection is; close runs that died without a word.

    In the transaction that opens the run, so that nobody sees it without its locks. Nobody ever waits for these: they
    only tell.
    """
    running = await (
        await conn.execute("select run_id from sync_runs where command = 'backfill' and status = 'running'")
    ).fetchall()
    await conn.execute("select pg_advisory_lock(%s)", [_run_key(database, run_id)])
    for timing_partner_id in partners:
        await conn.execute("select pg_advisory_lock_shared(%s)", [partner_key(database, timing_partner_id)])
    dead = []
    for (other,) in running:
        key = _run_key(database, other)
        row = await (await conn.execute("select pg_try_advisory_lock(%s)", [key])).fetchone()
        if other != run_id and row and row[0]:
            dead.append(other)
            await unlock(conn, key)
    await conn.execute(CLOSE_DEAD_RUNS, [dead])


def _run_key(database: Database, run_id: int) -> int:
    return database.lock_key("backfill run", run_id)


async def keep_out(database: Database, conn: Connection, timing_partner_id: int) -> bool:
    """Let no backfill of the partner begin while this connection lives; False when one is at work or waits."""
    key = partner_key(database, timing_partner_id)
    row = await (await conn.execute("select pg_try_advisory_lock(%s)", [key])).fetchone()
    return bool(row and row[0])


def partner_key(database: Database, timing_partner_id: int) -> int:
    """The advisory lock that living backfills of a partner's past share."""
    return database.lock_key("backfill of", timing_partner_id)


# -- for those who look ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BackfillState:
    """How far one timing partner's past is read: races by state, and what was stored of them."""

    timing_partner_id: int
    company_name: str
    races: int
    waiting: int
    reading: int
    done: int
    partial: int
    empty: int
    refused: int
    gone: int
    failed: int
    rows_received: int
    rows_inserted: int
    rows_updated: int
    rows_removed: int
    api_calls: int
    updated_at: datetime

    @property
    def left(self) -> int:
        """How many races are still to be read."""
        return self.waiting + self.reading + self.failed


STATES: LiteralString = """
select t.timing_partner_id, t.company_name,
       count(b.race_id) as races,
       count(*) filter (where state = 'waiting') as waiting,
       count(*) filter (where state = 'reading') as reading,
       count(*) filter (where state = 'done') as done,
       count(*) filter (where state = 'partial') as partial,
       count(*) filter (where state = 'empty') as empty,
       count(*) filter (where state = 'refused') as refused,
       count(*) filter (where state = 'gone') as gone,
       count(*) filter (where state = 'failed') as failed,
       coalesce(sum(rows_received), 0)::bigint as rows_received,
       coalesce(sum(rows_inserted), 0)::bigint as rows_inserted,
       coalesce(sum(rows_updated), 0)::bigint as rows_updated,
       coalesce(sum(rows_removed), 0)::bigint as rows_removed,
       coalesce(sum(api_calls), 0)::bigint as api_calls, coalesce(max(b.updated_at), now()) as updated_at
from timing_partners as t
left join backfill_progress as b using (timing_partner_id)
where (%(partner)s::bigint is null or t.timing_partner_id = %(partner)s)
  and (b.race_id is not null or t.timing_partner_id = any(%(running)s::bigint[]))
group by t.timing_partner_id, t.company_name
order by t.timing_partner_id
"""


async def states(
    conn: Connection, timing_partner_id: int | None = None, *, running: Collection[int] = ()
) -> list[BackfillState]:
    """How far each partner's past is read; partners that no backfill knows are left out, unless one is `running`."""
    async with conn.cursor(row_factory=class_row(BackfillState)) as cursor:
        await cursor.execute(STATES, {"partner": timing_partner_id, "running": sorted(running)})
        return await cursor.fetchall()
