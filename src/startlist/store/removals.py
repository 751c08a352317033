"""The removed list, what merely vanished, and what came back: marks on registrations, never a delete."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from startlist.store import stages
from startlist.store.changes import GATHERED
from startlist.store.database import Connection
from startlist.store.registrations import Key, Scope


class Removal(Protocol):
    """A removed record: `raw` is its JSON, `modified_at` when RunSignup last changed it."""

    event_id: int
    registration_id: int
    removed_reason: str | None
    modified_at: datetime | None
    new_registration_id: int | None
    raw: bytes


class Applied(NamedTuple):
    """What a page of the removed list did: registrations newly removed, changes gathered, successors it names."""

    removed: int
    changes: int
    successors: list[int]


STAGE = """
create temp table if not exists stage_removals (
    event_id bigint, registration_id bigint, removed_reason text, modified_at timestamptz,
    new_registration_id bigint, removal jsonb, absent boolean
) on commit delete rows
"""

COPY_STAGE = """
copy stage_removals (event_id, registration_id, removed_reason, modified_at, new_registration_id, removal, absent)
from stdin (format binary)
"""

# The later of an active record and its removal wins, a tie is removed. What the full pass did not find any more,
# though the removed list names it, is removed whatever its times say.
APPLY = """
with fresh as (
    select distinct on (event_id, registration_id) *
    from stage_removals
    order by event_id, registration_id, modified_at desc nulls last
),
judged as (
    select f.*, t.registration_id is null as unknown, t.removed_at as was_removed_at,
           t.removed_reason as old_reason, t.new_registration_id as old_successor, t.removal as old_removal,
           t.missing_since as was_missing_since,
           t.registration_id is not null and t.removed_at is null
               and (f.absent or t.last_modified is null or f.modified_at is null or f.modified_at >= t.last_modified)
               as applies
    from fresh as f
    left join runsignup_participants as t
        on t.timing_partner_id = %(partner)s and t.event_id = f.event_id and t.registration_id = f.registration_id
),
inserted as (
    insert into runsignup_participants
        (timing_partner_id, race_id, event_id, registration_id, removed_at, removed_reason, new_registration_id,
         removal, removal_modified_at)
    select %(partner)s, %(race)s, event_id, registration_id, coalesce(modified_at, now()), removed_reason,
           new_registration_id, removal, coalesce(modified_at, now())
    from judged
    where unknown
    returning 1
),
updated as (
    update runsignup_participants as t
    set removed_at = coalesce(t.removed_at, j.modified_at, now()),
        removed_reason = j.removed_reason,
        new_registration_id = j.new_registration_id,
        removal = j.removal,
        removal_modified_at = coalesce(j.modified_at, t.removal_modified_at, now()),
        missing_since = null,
        changed_at = now()
    from judged as j
    where t.timing_partner_id = %(partner)s and t.event_id = j.event_id and t.registration_id = j.registration_id
      and (j.applies
           or (j.was_removed_at is not null
               and (j.old_removal, j.old_reason, j.old_successor)
                   is distinct from (j.removal, j.removed_reason, j.new_registration_id)))
    returning 1
),
gathered as (
    insert into page_changes (change_type, event_id, registration_id, before, after, source_modified_at)
    select case when unknown or applies then 'removed' else 'updated' end, event_id, registration_id,
           case when unknown then null
                when applies then jsonb_strip_nulls(jsonb_build_object('missing_since', was_missing_since))
                                  || '{"removed_at": null}'
                else jsonb_build_object('removed_reason', old_reason, 'new_registration_id', old_successor) end,
           case when unknown or applies
                then jsonb_build_object('removed_at', coalesce(modified_at, now()), 'removed_reason', removed_reason,
                                        'new_registration_id', new_registration_id)
                else jsonb_build_object('removed_reason', removed_reason, 'new_registration_id', new_registration_id)
           end,
           modified_at
    from judged
    where (unknown and event_id = any(%(announced)s::bigint[]))
       or applies
       or (was_removed_at is not null
           and (old_reason is distinct from removed_reason or old_successor is distinct from new_registration_id))
    order by registration_id
    returning 1
)
select (select count(*) from judged where unknown or applies),
       (select count(*) from gathered),
       (select coalesce(array_agg(distinct new_registration_id), '{}')
        from judged where (unknown or applies) and new_registration_id is not null)
"""

MARK_MISSING = """
with marked as (
    update runsignup_participants as t
    set missing_since = now(), changed_at = now()
    from unnest(%(events)s::bigint[], %(registrations)s::bigint[]) as lost (event_id, registration_id)
    where t.timing_partner_id = %(partner)s and t.event_id = lost.event_id
      and t.registration_id = lost.registration_id and t.removed_at is null and t.missing_since is null
    returning t.event_id, t.registration_id, t.missing_since
)
insert into page_changes (change_type, event_id, registration_id, before, after)
select 'missing', event_id, registration_id, '{"missing_since": null}',
       jsonb_build_object('missing_since', missing_since)
from marked
order by registration_id
"""

RESTORE = """
with old as (
    select t.event_id, t.registration_id, t.removed_at, t.removed_reason, t.new_registration_id, t.removal,
           t.last_modified
    from runsignup_participants as t
    join unnest(%(events)s::bigint[], %(registrations)s::bigint[]) as back (event_id, registration_id)
        using (event_id, registration_id)
    where t.timing_partner_id = %(partner)s and t.removed_at is not null
),
restored as (
    update runsignup_participants as t
    set removed_at = null, removed_reason = null, new_registration_id = null, removal = null,
        removal_modified_at = null, changed_at = now()
    from old
    where t.timing_partner_id = %(partner)s and t.event_id = old.event_id
      and t.registration_id = old.registration_id
)
insert into page_changes (change_type, event_id, registration_id, before, after, source_modified_at)
select 'restored', event_id, registration_id,
       jsonb_build_object('removed_at', removed_at, 'removed_reason', removed_reason,
                          'new_registration_id', new_registration_id, 'removal', removal),
       '{"removed_at": null}', last_modified
from old
order by registration_id
"""

UNKNOWN_SUCCESSORS = """
select exists (
    select from unnest(%(successors)s::bigint[]) as named (registration_id)
    where not exists (
        select from runsignup_participants as t
        where t.timing_partner_id = %(partner)s and t.registration_id = named.registration_id
          and t.event_id in (select event_id from runsignup_events
                             where timing_partner_id = %(partner)s and race_id = %(race)s)))
"""


async def apply_removals(
    conn: Connection,
    scope: Scope,
    removals: Sequence[Removal],
    absent: Collection[Key],
) -> Applied:
    """Mark a page of the removed list; `absent`: registrations that this full pass did not find any more."""
    if not removals:
        return Applied(0, 0, [])
    await stages.make(conn, STAGE, GATHERED)
    async with conn.cursor() as cursor, cursor.copy(COPY_STAGE) as copy:
        copy.set_types(["int8", "int8", "text", "timestamptz", "int8", "bytea", "bool"])
        for r in removals:
            known_absent = (r.event_id, r.registration_id) in absent
            await copy.write_row(
                (r.event_id, r.registration_id, r.removed_reason, r.modified_at, r.new_registration_id,
                 b"\x01" + r.raw, known_absent)
            )  # fmt: skip
    values = {
        "partner": scope.timing_partner_id,
        "race": scope.race_id,
        "announced": scope.announced(r.event_id for r in removals),
    }
    cursor = await conn.execute(APPLY, values)
    removed, changes, successors = await cursor.fetchone() or (0, 0, [])
    return Applied(removed, changes, successors)


async def mark_missing(conn: Connection, timing_partner_id: int, lost: Collection[Key]) -> int:
    """Mark active registrations as missing and return how many; they stay on the start list."""
    if not lost:
        return 0
    await stages.make(conn, GATHERED)
    return (await conn.execute(MARK_MISSING, _keys(timing_partner_id, lost))).rowcount


async def restore(conn: Connection, timing_partner_id: int, back: Collection[Key]) -> int:
    """Take the removal off registrations that a full pass showed and the removed list no longer names."""
    if not back:
        return 0
    await stages.make(conn, GATHERED)
    return (await conn.execute(RESTORE, _keys(timing_partner_id, back))).rowcount


async def successors_unknown(
    conn: Connection, timing_partner_id: int, race_id: int, successors: Collection[int]
) -> bool:
    """Whether a registration that took another's place is not stored yet."""
    if not successors:
        return False
    values = {"partner": timing_partner_id, "race": race_id, "successors": list(successors)}
    row = await (await conn.execute(UNKNOWN_SUCCESSORS, values)).fetchone()
    return bool(row and row[0])


def _keys(timing_partner_id: int, keys: Collection[Key]) -> dict[str, object]:
    return {
        "partner": timing_partner_id,
        "events": [event_id for event_id, _ in keys],
        "registrations": [registration_id for _, registration_id in keys],
    }
