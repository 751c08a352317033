"""Where each race stands: its watermarks, its checkpoint, its suspicion, and the lock that one pass at a time holds."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

from startlist.store.database import Connection, Database


@dataclass(frozen=True, slots=True)
class Cursor:
    """What is known of a race's feeds; watermarks are epoch seconds of RunSignup's clock."""

    participants_watermark: int | None = None
    removed_watermark: int | None = None
    event_ids: frozenset[int] = frozenset()
    last_full_at: datetime | None = None
    last_incremental_at: datetime | None = None
    last_fallback_at: datetime | None = None
    checkpoint: dict[str, Any] | None = None
    suspicion: dict[str, Any] | None = None


LONGEST_PAGE = 5.0  # seconds that a sync waits for a backfill's page; one takes a fraction of that

LOAD = """
select participants_watermark, removed_watermark, event_ids, last_full_at, last_incremental_at,
       (select max(finished_at) from sync_history as h
        where h.timing_partner_id = c.timing_partner_id and h.race_id = c.race_id and h.sync_type = 'full_fallback'
          and h.finished_at > now() - interval '1 hour'),
       checkpoint, suspicion
from sync_cursors as c
where timing_partner_id = %s and race_id = %s
"""

SAVE_CHECKPOINT = """
insert into sync_cursors (timing_partner_id, race_id, checkpoint) values (%s, %s, %s)
on conflict (timing_partner_id, race_id) do update set checkpoint = excluded.checkpoint
"""

FINISH = """
insert into sync_cursors as c
    (timing_partner_id, race_id, participants_watermark, removed_watermark, event_ids, last_full_at,
     last_incremental_at)
values (%(partner)s, %(race)s, %(participants)s, %(removed)s, %(events)s, case when %(full)s then now() end,
        case when not %(full)s then now() end)
on conflict (timing_partner_id, race_id) do update
set participants_watermark = coalesce(excluded.participants_watermark, c.participants_watermark),
    removed_watermark = coalesce(excluded.removed_watermark, c.removed_watermark),
    event_ids = excluded.event_ids,
    last_full_at = coalesce(excluded.last_full_at, c.last_full_at),
    last_incremental_at = coalesce(excluded.last_incremental_at, c.last_incremental_at),
    -- after an incremental pass event_ids alone says what the watermark covers
    suspicion = case when not %(full)s then jsonb_set(c.suspicion, '{asked}', '[]') end,
    checkpoint = null,
    stale_at = case when c.planned_at is null or c.next_sync_at is null then c.stale_at
                    else greatest(c.stale_at, now() + make_interval(secs =>
                                  coalesce(c.period_seconds, 0) * coalesce(c.stretch, 1)::float8 + 60)) end
"""

SUSPECT = """
update sync_cursors set checkpoint = null, suspicion = %s where timing_partner_id = %s and race_id = %s
"""


async def clock(conn: Connection) -> datetime:
    """The database's time, by which its rows are dated."""
    row = await (await conn.execute("select clock_timestamp()")).fetchone()
    assert row is not None  # noqa: S101 - a select without from gives its row
    return row[0]  # type: ignore[no-any-return]


async def load_cursor(conn: Connection, timing_partner_id: int, race_id: int) -> Cursor:
    """The race's cursor as stored; an empty one for a race that was never synced."""
    row = await (await conn.execute(LOAD, [timing_partner_id, race_id])).fetchone()
    if row is None:
        return Cursor()
    participants, removed, events, full, incremental, fallback, checkpoint, suspicion = row
    return Cursor(participants, removed, frozenset(events), full, incremental, fallback, checkpoint, suspicion)


async def save_checkpoint(conn: Connection, timing_partner_id: int, race_id: int, checkpoint: dict[str, Any]) -> None:
    """Keep where an unfinished pass stands, in the transaction of the page it describes."""
    await conn.execute(SAVE_CHECKPOINT, [timing_partner_id, race_id, Jsonb(checkpoint)])


async def clear_checkpoint(conn: Connection, timing_partner_id: int, race_id: int) -> None:
    """Forget where an unfinished pass stands: the next one starts anew."""
    await conn.execute(
        "update sync_cursors set checkpoint = null where timing_partner_id = %s and race_id = %s",
        [timing_partner_id, race_id],
    )


async def finish_pass(
    conn: Connection,
    timing_partner_id: int,
    race_id: int,
    *,
    full: bool,
    participants: int | None,
    removed: int | None,
    event_ids: Collection[int],
) -> None:
    """Move the watermarks to the pass's candidates (a feed without one keeps its old one) and clear the checkpoint."""
    values = {"partner": timing_partner_id, "race": race_id, "full": full, "events": sorted(event_ids)}
    await conn.execute(FINISH, {**values, "participants": participants, "removed": removed})


async def suspect(conn: Connection, timing_partner_id: int, race_id: int, suspicion: dict[str, Any]) -> None:
    """Record that a full pass lacked too much to be believed; the watermarks stay where they are."""
    await conn.execute(SUSPECT, [Jsonb(suspicion), timing_partner_id, race_id])


async def lock_race(
    database: Database, conn: Connection, timing_partner_id: int, race_id: int, *, wait_seconds: float = 0
) -> bool:
    """Take the race's lock on the connection that will commit the pass's pages; False when another pass holds it.

    A page of a backfill is waited for in any case.
    """
    key = database.lock_key("race", timing_partner_id, race_id)
    if wait_seconds <= 0:
        if await _try(conn, key):
            return True
        page = page_key(database, timing_partner_id, race_id)
        if await _try(conn, page):
            await unlock(conn, page)
            return await _try(conn, key)  # a page may have ended between the two looks
        wait_seconds = LONGEST_PAGE
    await conn.execute("select set_config('lock_timeout', %s, false)", [f"{int(wait_seconds * 1000)}ms"])
    try:
        await conn.execute("select pg_advisory_lock(%s)", [key])
    except psycopg.errors.LockNotAvailable:
        return False
    finally:
        if not conn.closed:
            await conn.execute("reset lock_timeout")
    return True


def page_key(database: Database, timing_partner_id: int, race_id: int) -> int:
    """The advisory lock that says that whoever holds the race, or waits for it, wants it for one page only."""
    return database.lock_key("page", timing_partner_id, race_id)


async def _try(conn: Connection, key: int) -> bool:
    row = await (await conn.execute("select pg_try_advisory_lock(%s)", [key])).fetchone()
    return bool(row and row[0])


async def unlock(conn: Connection, key: int) -> None:
    """Free one advisory lock; a lost connection has freed it already."""
    if not conn.closed:
        with suppress(psycopg.Error):
            await conn.execute("select pg_advisory_unlock(%s)", [key])


async def unlock_race(conn: Connection) -> None:
    """Free the race's lock now: the server notices a closed connection a moment too late for who asks next."""
    if not conn.closed and conn.info.transaction_status is TransactionStatus.IDLE:
        with suppress(psycopg.Error):  # a lost connection has freed it
            await conn.execute("select pg_advisory_unlock_all()")
