"""Records that cannot be stored: kept as sent, with the reason, until a good version arrives."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, Protocol

from startlist.store.database import Connection
from startlist.store.reading import Filters, rows


class BadRecord(Protocol):
    """A record that cannot be stored: `raw` as sent, `reason` names the field and never a value."""

    endpoint: str
    reason: str
    raw: str
    event_id: int | None
    registration_id: int | None


SET_ASIDE = """
insert into runsignup_quarantine as q
    (timing_partner_id, race_id, event_id, registration_id, sync_history_id, endpoint, reason, raw, raw_hash)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (timing_partner_id, coalesce(race_id, 0), endpoint, raw_hash) do update
set last_seen_at = now(), seen_count = q.seen_count + 1, resolved_at = null, sync_history_id = excluded.sync_history_id
"""

RESOLVE_STORED = """
update runsignup_quarantine as q
set resolved_at = now()
where q.timing_partner_id = %s and q.race_id = %s and q.endpoint = %s and q.resolved_at is null
  and exists (select from unnest(%s::bigint[], %s::bigint[]) as good (event_id, registration_id)
              where good.registration_id = q.registration_id and good.event_id = coalesce(q.event_id, good.event_id))
"""

RESOLVE_UNSEEN = """
update runsignup_quarantine
set resolved_at = now()
where timing_partner_id = %s and race_id is not distinct from %s::bigint and endpoint = any(%s)
  and resolved_at is null and last_seen_at < %s
"""

# A record that names no event may be of any that its pass asked: only a pass of the same kind has looked there.
RESOLVE_UNSEEN_OF_EVENTS = """
update runsignup_quarantine as q
set resolved_at = now()
where q.timing_partner_id = %(partner)s and q.race_id = %(race)s
  and q.endpoint in ('participants', 'removed-participants')
  and q.resolved_at is null and q.last_seen_at < %(since)s
  and (q.event_id = any(%(events)s::bigint[])
       or q.event_id is null
          and %(backfill)s = exists (select from sync_history as h
                                     where h.sync_history_id = q.sync_history_id and h.sync_type = 'backfill'))
"""


async def set_aside(
    conn: Connection,
    bad: Sequence[BadRecord],
    *,
    timing_partner_id: int,
    race_id: int | None,
    sync_history_id: int | None,
) -> None:
    """Keep bad records, one row for each distinct one."""
    rows = [
        (timing_partner_id, race_id, b.event_id, b.registration_id, sync_history_id, b.endpoint, b.reason, b.raw,
         hashlib.blake2b(b.raw.encode(), digest_size=16).digest())
        for b in bad
    ]  # fmt: skip
    async with conn.cursor() as cursor:
        await cursor.executemany(SET_ASIDE, rows)


async def open_records(conn: Connection, timing_partner_id: int, race_id: int) -> int:
    """How many records of the race wait in quarantine."""
    row = await (
        await conn.execute(
            "select count(*) from runsignup_quarantine"
            " where timing_partner_id = %s and race_id = %s and resolved_at is null",
            [timing_partner_id, race_id],
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def resolve_stored(
    conn: Connection, timing_partner_id: int, race_id: int, endpoint: str, good: Collection[tuple[int, int]]
) -> None:
    """Close the records of which a good version, of this event and registration, has just been stored."""
    events, registrations = [key[0] for key in good], [key[1] for key in good]
    await conn.execute(RESOLVE_STORED, [timing_partner_id, race_id, endpoint, events, registrations])


async def resolve_unseen(
    conn: Connection, timing_partner_id: int, race_id: int | None, endpoints: Collection[str], since: datetime
) -> None:
    """Close the records that a complete read, begun at `since`, no longer showed."""
    await conn.execute(RESOLVE_UNSEEN, [timing_partner_id, race_id, list(endpoints), since])


async def resolve_unseen_of_events(
    conn: Connection,
    timing_partner_id: int,
    race_id: int,
    event_ids: Collection[int],
    since: datetime,
    *,
    backfill: bool = False,
) -> None:
    """Close the records of these events' feeds that a complete read of both, begun at `since`, no longer showed."""
    values = {"partner": timing_partner_id, "race": race_id, "events": list(event_ids), "since": since}
    await conn.execute(RESOLVE_UNSEEN_OF_EVENTS, values | {"backfill": backfill})


# -- for those who look, and for another try -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetAside:
    """One record in quarantine; `raw` is its text as sent, None where it was not asked for."""

    quarantine_id: int
    timing_partner_id: int
    company_name: str
    race_id: int | None
    race_name: str | None
    event_id: int | None
    event_name: str | None
    registration_id: int | None
    endpoint: str
    reason: str
    raw: str | None
    sync_history_id: int | None
    first_seen_at: datetime
    last_seen_at: datetime
    seen_count: int
    resolved_at: datetime | None


RECORDS: LiteralString = """
select q.quarantine_id, q.timing_partner_id, t.company_name, q.race_id, r.name as race_name, q.event_id,
       e.name as event_name, q.registration_id, q.endpoint, q.reason, case when %(raw)s then q.raw end as raw,
       q.sync_history_id, q.first_seen_at, q.last_seen_at, q.seen_count, q.resolved_at
from runsignup_quarantine as q
join timing_partners as t using (timing_partner_id)
left join runsignup_races as r on r.timing_partner_id = q.timing_partner_id and r.race_id = q.race_id
left join runsignup_events as e on e.timing_partner_id = q.timing_partner_id and e.event_id = q.event_id
where (%(partner)s::bigint is null or q.timing_partner_id = %(partner)s)
  and (%(race)s::bigint is null or q.race_id = %(race)s)
  and (%(event)s::bigint is null or q.event_id = %(event)s)
  and (%(since)s::timestamptz is null or q.last_seen_at >= %(since)s)
  and (%(ids)s::bigint[] is null or q.quarantine_id = any(%(ids)s::bigint[]))
  and (%(resolved)s or q.resolved_at is null)
order by q.resolved_at is not null, q.last_seen_at desc, q.quarantine_id desc
limit %(limit)s
"""

STORED_TIMES: LiteralString = """
select p.event_id, p.registration_id, p.last_modified, p.removal_modified_at,
       p.content_hash is not null or p.removed_at is null
from unnest(%(events)s::bigint[], %(registrations)s::bigint[]) as asked (event, registration)
cross join lateral (
    select * from runsignup_participants
    where timing_partner_id = %(partner)s and event_id = asked.event and registration_id = asked.registration
    offset 0
) as p
"""

# Only what is still there and open: a pass may have closed it meanwhile.
CLOSE: LiteralString = "update runsignup_quarantine set resolved_at = now() where quarantine_id = any(%s::bigint[])"
EXPLAIN: LiteralString = "update runsignup_quarantine set reason = %s where quarantine_id = %s"
STILL_OPEN: LiteralString = """
select quarantine_id from runsignup_quarantine where quarantine_id = any(%s::bigint[]) and resolved_at is null
"""


@dataclass(frozen=True, slots=True)
class Times:
    """When a stored registration was last changed, and its removal, by RunSignup's clock.

    `active`: more of it is known than its removal.
    """

    last_modified: datetime | None
    removal_modified_at: datetime | None
    active: bool


async def records(
    conn: Connection,
    filters: Filters,
    *,
    ids: Sequence[int] | None = None,
    resolved: bool = False,
    raw: bool = False,
    limit: int | None = None,
) -> list[SetAside]:
    """Records in quarantine, those seen last first; `resolved`: also those that were closed."""
    more = {"ids": None if ids is None else list(ids), "resolved": resolved, "raw": raw, "limit": limit}
    return await rows(conn, SetAside, RECORDS, filters.values() | more)


async def stored_times(
    conn: Connection, timing_partner_id: int, keys: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Times]:
    """Of those of these registrations that are stored: how new the stored versions are."""
    values = {"partner": timing_partner_id, "events": [key[0] for key in keys], "registrations": [k[1] for k in keys]}
    found = await (await conn.execute(STORED_TIMES, values)).fetchall()
    return {(row[0], row[1]): Times(*row[2:]) for row in found}


async def still_open(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Which of these records nobody has closed yet."""
    return {row[0] for row in await (await conn.execute(STILL_OPEN, [list(ids)])).fetchall()}


async def close(conn: Connection, ids: Sequence[int]) -> None:
    """Close records that need nobody any more."""
    await conn.execute(CLOSE, [list(ids)])


async def explain(conn: Connection, quarantine_id: int, reason: str) -> None:
    """Note why a record still cannot be stored."""
    await conn.execute(EXPLAIN, [reason, quarantine_id])
