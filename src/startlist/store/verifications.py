"""What is stored against what RunSignup sent just now, and the certificates of such comparisons."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from startlist.store import races, registrations
from startlist.store.database import Connection
from startlist.store.reading import rows
from startlist.store.registrations import CONTENT_COLUMNS, OF_THE_RACE, Arrived, Key, Range, Scope
from startlist.store.removals import Removal


@dataclass(frozen=True, slots=True)
class ActivePair:
    """An active registration that is not stored as it was sent; `ours` and `theirs` hold only what differs."""

    event_id: int
    registration_id: int
    first_name: str | None
    last_name: str | None
    modified: datetime | None
    stored_modified: datetime | None
    stored: bool
    removed: bool
    missing: bool
    ours: dict[str, Any]
    theirs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RemovedPair:
    """A removed record that is not stored as it was sent."""

    event_id: int
    registration_id: int
    first_name: str | None
    last_name: str | None
    modified: datetime | None
    stored_modified: datetime | None
    stored: bool
    removed: bool
    same: bool


# The stage is what a merge would store: the very mapping, compared column by column, whatever the hashes say.
ACTIVE: LiteralString = """
select s.event_id, s.registration_id, s.first_name, s.last_name, s.last_modified as modified,
       t.last_modified as stored_modified, t.registration_id is not null as stored,
       t.removed_at is not null as removed, t.missing_since is not null as missing,
       coalesce(differing(o.content, n.content), '{}') as ours,
       coalesce(differing(n.content, o.content), '{}') as theirs
from (select distinct on (event_id, registration_id) * from stage_registrations
      order by event_id, registration_id, last_modified desc nulls last) as s
left join runsignup_participants as t using (timing_partner_id, event_id, registration_id)
cross join lateral (select to_jsonb(c) as content from (select <t>) as c) as o
cross join lateral (select to_jsonb(c) as content from (select <s>) as c) as n
where t.registration_id is null or t.removed_at is not null or t.missing_since is not null or o.content <> n.content
"""
COMPARED = (*CONTENT_COLUMNS, "last_modified", "race_id")
ACTIVE = ACTIVE.replace("<t>", ", ".join(f"t.{name}" for name in COMPARED)).replace(
    "<s>", ", ".join(OF_THE_RACE if name == "race_id" else f"s.{name}" for name in COMPARED)
)

ABSENT: LiteralString = """
select t.event_id, t.registration_id, t.first_name, t.last_name
from runsignup_participants as t
where t.timing_partner_id = %(partner)s and t.event_id = any(%(events)s::bigint[])
  and t.registration_id > %(after)s and (%(up_to)s::bigint is null or t.registration_id <= %(up_to)s)
  and t.removed_at is null and t.missing_since is null and not t.registration_id = any(%(present)s::bigint[])
  and not exists (select from stage_registrations as s
                  where s.event_id = t.event_id and s.registration_id = t.registration_id)
"""

REMOVED: LiteralString = """
select f.event_id, f.registration_id, t.first_name, t.last_name, f.modified, t.last_modified as stored_modified,
       t.registration_id is not null as stored, t.removed_at is not null as removed,
       (t.removal, t.removed_reason, t.new_registration_id)
           is not distinct from (f.removal, f.reason, f.successor) as same
from (select distinct on (event_id, registration_id) *
      from unnest(%(events)s::bigint[], %(registrations)s::bigint[], %(modified)s::timestamptz[], %(reasons)s::text[],
                  %(successors)s::bigint[], %(removals)s::jsonb[])
           as r (event_id, registration_id, modified, reason, successor, removal)
      order by event_id, registration_id, modified desc nulls last) as f
left join runsignup_participants as t
    on t.timing_partner_id = %(partner)s and t.event_id = f.event_id and t.registration_id = f.registration_id
"""

STORED_AS_REMOVED: LiteralString = """
select event_id, registration_id, first_name, last_name
from runsignup_participants
where timing_partner_id = %s and event_id = any(%s::bigint[]) and removed_at is not null
"""

CALLS: LiteralString = """
select coalesce(jsonb_agg(jsonb_build_object('call_id', call_id, 'endpoint', endpoint, 'started_at', started_at,
                                             'rows', rows) order by call_id), '[]')
from api_calls where run_id = %s and race_id = %s and started_at >= %s
"""

CERTIFY: LiteralString = """
insert into sync_verifications (run_id, timing_partner_id, race_id, event_ids, started_at, as_of, result, active,
                                removed, values_compared, newer, differences, calls, error_message)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
returning verification_id
"""


async def compare_active(
    conn: Connection, scope: Scope, page: Sequence[Arrived], answered: Range | None, present: Collection[int]
) -> tuple[list[ActivePair], list[tuple[int, int, str | None, str | None]]]:
    """What differs on a page of active registrations, and who is stored as active but not on it."""
    async with conn.transaction():
        await registrations.stage(conn, scope, page)
        pairs = await rows(conn, ActivePair, ACTIVE, {"asked": list(scope.asked)})
        if answered is None:
            return pairs, []
        values = {"events": answered.event_ids, "after": answered.after, "up_to": answered.up_to}
        values |= {"partner": scope.timing_partner_id, "present": list(present)}
        return pairs, await (await conn.execute(ABSENT, values)).fetchall()


async def compare_removed(conn: Connection, timing_partner_id: int, removed: Sequence[Removal]) -> list[RemovedPair]:
    """A page of the removed list beside what is stored of each."""
    values = {
        "partner": timing_partner_id,
        "events": [r.event_id for r in removed],
        "registrations": [r.registration_id for r in removed],
        "modified": [r.modified_at for r in removed],
        "reasons": [r.removed_reason for r in removed],
        "successors": [r.new_registration_id for r in removed],
        "removals": [r.raw.decode() for r in removed],
    }
    return await rows(conn, RemovedPair, REMOVED, values)


async def stored_as_removed(
    conn: Connection, timing_partner_id: int, event_ids: Collection[int]
) -> dict[Key, tuple[str | None, str | None]]:
    """First and last name of each registration of these events that is stored as removed."""
    found = await (await conn.execute(STORED_AS_REMOVED, [timing_partner_id, list(event_ids)])).fetchall()
    return {(event_id, number): (first, last) for event_id, number, first, last in found}


async def race_fields(
    conn: Connection, timing_partner_id: int, race: races.Race, events: Collection[races.Event]
) -> tuple[list[tuple[str, Any, Any]], bool]:
    """Fields of the race and of these events of it that differ: name, ours, theirs; and whether RunSignup changed it.

    It did where its last change is another than that of the stored race: then the next pass reads the record anyway.
    """
    stored = await _stored(conn, STORED_RACE, [timing_partner_id, race.race_id])
    found = _differing("race", stored, race, RACE_FIELDS)
    for event in events:
        what, row = f"event {event.event_id}", await _stored(conn, STORED_EVENT, [timing_partner_id, event.event_id])
        if not row or row["gone_at"] is not None:
            found.append((what, "held as gone" if row else "not stored", event.name))
        else:
            found += _differing(what, row, event, EVENT_FIELDS)
    return found, stored.get("last_modified") != race.last_modified


async def _stored(conn: Connection, query: LiteralString, key: list[int]) -> dict[str, Any]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(query, key)).fetchone() or {}


def _differing(what: str, stored: dict[str, Any], sent: object, names: Sequence[str]) -> list[tuple[str, Any, Any]]:
    return [(f"{what} {n}", stored[n], getattr(sent, n)) for n in names if stored and stored[n] != getattr(sent, n)]


STORED_RACE: LiteralString = "select * from runsignup_races where timing_partner_id = %s and race_id = %s"
STORED_EVENT: LiteralString = "select * from runsignup_events where timing_partner_id = %s and event_id = %s"
RACE_FIELDS = ("name", "timezone", "url", "next_date", "last_date", "is_registration_open")
EVENT_FIELDS = (
    "race_id", "race_day", "race_event_days_id", "name", "event_type", "start_time", "end_time", "timezone",
    "distance", "distance_meters", "age_calc_base_date", "registration_opens", "giveaway", "volunteer", "require_dob",
    "require_phone",
)  # fmt: skip


async def certify(
    conn: Connection, run_id: int | None, key: tuple[int, int], event_ids: Collection[int], started_at: datetime,
    *, as_of: datetime | None, result: str, active: int, removed: int, values: int, newer: int,
    differences: list[dict[str, Any]], error: str | None,
) -> int:  # fmt: skip
    """Keep what was compared, by which calls, and the result; returns the certificate's id."""
    row = await (await conn.execute(CALLS, [run_id, key[1], started_at])).fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives its row
    made = [run_id, *key, sorted(event_ids), started_at, as_of, result, active, removed, values, newer]
    row = await (await conn.execute(CERTIFY, [*made, Jsonb(differences), Jsonb(row[0]), error])).fetchone()
    assert row is not None  # noqa: S101 - an insert with returning gives its row
    return int(row[0])
