"""What the reading commands share: their filters, their connection, and the races and passes that are stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString, TypeVar

import msgspec
import psycopg
from psycopg.rows import class_row
from psycopg.types.json import set_json_loads

from startlist.errors import ConfigurationError
from startlist.store.database import Connection, Database

T = TypeVar("T")

_loads = msgspec.json.Decoder(float_hook=Decimal).decode  # amounts of money stay what they are


@dataclass(frozen=True, slots=True)
class Filters:
    """What a reading command is limited to; `since` means whatever instant the command's rows have."""

    timing_partner_id: int | None = None
    race_id: int | None = None
    event_id: int | None = None
    since: datetime | None = None

    def values(self) -> dict[str, Any]:
        """The parameters of the queries: `partner`, `race`, `event`, `since`."""
        return {
            "partner": self.timing_partner_id,
            "race": self.race_id,
            "event": self.event_id,
            "since": self.since,
        }


@dataclass(frozen=True, slots=True)
class StoredRace:
    """One line of `races`; counts are None where they were not asked for.

    `start_time` is the next start; if the race is over, the last. `complete_as_of` is an instant of RunSignup's clock.
    `timezone` is the zone that its events' times were read in.
    """

    timing_partner_id: int
    company_name: str
    race_id: int
    name: str | None
    timezone: str | None
    start_time: datetime | None
    over: bool
    events: int
    active: int | None
    with_bib: int | None
    missing: int | None
    credential_id: int | None
    principal: str | None
    complete_as_of: datetime | None
    gone_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredPass:
    """One row of `sync_history`, with the race's name."""

    sync_history_id: int
    run_id: int | None
    timing_partner_id: int
    credential_id: int | None
    race_id: int
    race_name: str | None
    event_ids: list[int]
    sync_type: str
    status: str
    reason: str | None
    started_at: datetime
    finished_at: datetime | None
    api_calls: int
    rows_received: int
    rows_inserted: int
    rows_updated: int
    rows_unchanged: int
    rows_removed: int
    rows_missing: int
    bib_changes: int
    silent_edits: int
    silent_bibs: int
    quarantined: int
    error_code: int | None
    error_message: str | None


# The races are chosen first: only theirs are counted, event by event, along the primary key.
RACES: LiteralString = """
with listed as (
    select r.timing_partner_id, t.company_name, r.race_id, r.name, coalesce(e.timezone, r.timezone) as timezone,
           coalesce(e.next_start, e.last_start) as start_time,
           e.next_start is null and e.last_start is not null as over,
           e.events, e.event_ids, r.credential_id, c.principal,
           case when k.participants_watermark is not null
                then to_timestamp(least(k.participants_watermark, k.removed_watermark)) end as complete_as_of,
           r.gone_at, e.next_start, e.last_start
    from runsignup_races as r
    join timing_partners as t using (timing_partner_id)
    left join partner_provider_credentials as c on c.credential_id = r.credential_id
    left join sync_cursors as k on k.timing_partner_id = r.timing_partner_id and k.race_id = r.race_id
    cross join lateral (
        select count(*) as events,
               array_agg(event_id) as event_ids,
               min(e.start_time) filter (where e.start_time >= now() and e.gone_at is null) as next_start,
               max(e.start_time) filter (where e.start_time < now()) as last_start,
               max(e.timezone) as timezone
        from runsignup_events as e
        where e.timing_partner_id = r.timing_partner_id and e.race_id = r.race_id
          and (%(event)s::bigint is null or e.event_id = %(event)s)
    ) as e
    where (%(partner)s::bigint is null or r.timing_partner_id = %(partner)s)
      and (%(race)s::bigint is null or r.race_id = %(race)s)
      and (%(event)s::bigint is null or e.events > 0)
      and (%(since)s::timestamptz is null or greatest(e.next_start, e.last_start) >= %(since)s)
    order by e.next_start nulls last, e.last_start desc nulls last, r.race_id, r.timing_partner_id
    limit %(limit)s
)
select timing_partner_id, company_name, race_id, name, timezone, start_time, over, events, n.active, n.with_bib,
       n.missing, credential_id, principal, complete_as_of, gone_at
from listed as l
left join lateral (
    select count(*) as active,
           count(p.bib_num) as with_bib,
           count(p.missing_since) as missing
    from runsignup_participants as p
    where p.timing_partner_id = l.timing_partner_id and p.event_id = any(l.event_ids) and p.race_id = l.race_id
      and p.removed_at is null
) as n on %(counts)s
order by next_start nulls last, last_start desc nulls last, race_id, timing_partner_id
"""

PASSES: LiteralString = """
select h.sync_history_id, h.run_id, h.timing_partner_id, h.credential_id, h.race_id, r.name as race_name, h.event_ids,
       h.sync_type, h.status, h.reason, h.started_at, h.finished_at, h.api_calls, h.rows_received, h.rows_inserted,
       h.rows_updated, h.rows_unchanged, h.rows_removed, h.rows_missing, h.bib_changes, h.silent_edits, h.silent_bibs,
       h.quarantined, h.error_code, h.error_message
from sync_history as h
left join runsignup_races as r on r.timing_partner_id = h.timing_partner_id and r.race_id = h.race_id
where (%(partner)s::bigint is null or h.timing_partner_id = %(partner)s)
  and (%(race)s::bigint is null or h.race_id = %(race)s)
  and (%(event)s::bigint is null or %(event)s = any(h.event_ids))
  and (%(since)s::timestamptz is null or h.started_at >= %(since)s)
order by h.sync_history_id desc
limit %(limit)s
"""


@asynccontextmanager
async def reader(database: Database) -> AsyncIterator[Connection]:
    """A connection on which everything that is read is of one moment, and nothing can be written."""
    async with await database.connect(name="startlist reading") as conn:
        prepare(conn)
        await conn.set_read_only(True)
        await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        async with conn.transaction():
            yield conn


def prepare(conn: Connection) -> None:
    """Let JSON keep its numbers as they are stored."""
    set_json_loads(_loads, conn)


async def rows(conn: Connection, kind: type[T], query: LiteralString, values: dict[str, Any]) -> list[T]:
    """The query's rows as objects whose fields are named as its columns."""
    async with conn.cursor(row_factory=class_row(kind)) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchall()


async def stored_races(conn: Connection, filters: Filters, *, limit: int, counts: bool = True) -> list[StoredRace]:
    """Races that are coming, in order of their next start, then those over, the latest first.

    `since` leaves out races whose last start lies before it; with an event, only that event is counted.
    """
    return await rows(conn, StoredRace, RACES, {**filters.values(), "limit": limit, "counts": counts})


async def stored_passes(conn: Connection, filters: Filters, *, limit: int) -> list[StoredPass]:
    """Passes, the newest first; `since` is when they began."""
    return await rows(conn, StoredPass, PASSES, {**filters.values(), "limit": limit})


async def check_filters(conn: Connection, filters: Filters) -> str | None:
    """Why nothing can be found with these filters, if so. Raises `ConfigurationError` for an unknown timing partner."""
    partner, race = filters.timing_partner_id, filters.race_id
    if partner is not None and not await _any(conn, "timing_partners", timing_partner_id=partner):
        raise ConfigurationError(f"there is no timing partner {partner}; startlist partner list shows all")
    for name, number in (("race", race), ("event", filters.event_id)):
        wanted = {f"{name}_id": number, "timing_partner_id": partner}
        if number is not None and not await _any(conn, f"runsignup_{name}s", **wanted):
            of = "" if partner is None else f" of timing partner {partner}"
            return f"no {name} {number}{of} is stored; startlist races shows what is"
    return None


async def _any(conn: Connection, table: str, **wanted: int | None) -> bool:
    given = {name: value for name, value in wanted.items() if value is not None}
    query = psycopg.sql.SQL("select exists (select from {} where {})").format(
        psycopg.sql.Identifier(table),
        psycopg.sql.SQL(" and ").join(
            psycopg.sql.SQL("{} = {}").format(psycopg.sql.Identifier(name), psycopg.sql.Placeholder(name))
            for name in given
        ),
    )
    row = await (await conn.execute(query, given)).fetchone()
    return bool(row and row[0])


def at_most(found: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """The first `limit` rows of a query that asked for one more, and whether there was one more."""
    return found[:limit], len(found) > limit
