"""Records that cannot be stored: kept as sent, with the reason, until a good version arrives."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from startlist.store.database import Connection


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
