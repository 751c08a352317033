"""The merge of a page of registrations: compare hashes, COPY what is new, merge what differs, gather the changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, LiteralString, NamedTuple, Protocol

from psycopg.types.string import BytesBinaryDumper

from startlist.store import stages
from startlist.store.changes import GATHERED
from startlist.store.database import Connection

Key = tuple[int, int]  # event_id, registration_id


class Registration(Protocol):
    """A decoded registration; attributes are named as the columns, JSON ones hold JSON text as bytes."""

    event_id: int
    registration_id: int
    user_id: int | None
    first_name: str | None
    middle_name: str | None
    last_name: str | None
    email: str | None
    phone: str | None
    gender: str | None
    dob: date | None
    age: int | None
    address: bytes | None
    bib_num: str | None
    chip_num: str | None
    registration_date: datetime | None
    last_modified: datetime | None
    team_info: bytes
    payment_info: bytes
    additional_data: bytes
    field_errors: list[str]
    content_hash: bytes
    absent: tuple[str, ...]


class Arrived(Protocol):
    """A registration of the page: its key, the hash of its bytes as sent, and the rest when it is needed."""

    event_id: int
    registration_id: int

    @property
    def content_hash(self) -> bytes: ...

    def decode(self) -> Registration: ...


class Range(NamedTuple):
    """What a page answers for completely: ids of these events above `after`, up to `up_to` (None: without end)."""

    event_ids: list[int]
    after: int
    up_to: int | None


class Scope(NamedTuple):
    """Whose page this is, and what in it is news.

    `quiet`: events in their first full pass, of which nothing is `added`. `race_is_new`: the race never had a full
    pass, so that rows of events that were not `asked` are no news either. `last_query`: in a full pass, when the
    previous pass asked; older edits that show up now were silent. `doubted`: rows that are looked at themselves,
    whatever their stored hashes say.
    """

    timing_partner_id: int
    race_id: int
    asked: frozenset[int]
    quiet: frozenset[int]
    race_is_new: bool
    last_query: datetime | None
    doubted: frozenset[Key] = frozenset()

    def announced(self, event_ids: Iterable[int]) -> list[int]:
        """Those of the events whose news are written as changes."""
        return [
            event_id
            for event_id in set(event_ids)
            if event_id not in self.quiet and (event_id in self.asked or not self.race_is_new)
        ]


@dataclass(slots=True)
class Merged:
    """What the merge of one page did, and what it saw that only the end of the pass can judge."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    changes: int = 0
    bib_changes: int = 0
    silent_edits: int = 0
    silent_bibs: int = 0  # of those
    absent: list[Key] = field(default_factory=list)  # stored and active in the page's range, but not in the page
    imported: list[Key] = field(default_factory=list)  # absent too, but never read from RunSignup
    contested: list[Key] = field(default_factory=list)  # in the page, but stored as removed


@dataclass(slots=True)
class _Known:
    """What is stored already. A row that was removed or is missing has no hash here: whatever came is looked at.

    Nor has one that was imported from another system.
    """

    hashes: dict[Key, bytes | None] = field(default_factory=dict)
    removed: set[Key] = field(default_factory=set)
    missing: set[Key] = field(default_factory=set)


# How each column crosses in binary COPY. JSON goes as bytes with jsonb's version byte in front.
_TYPES = {
    "user_id": "int8",
    "first_name": "text",
    "middle_name": "text",
    "last_name": "text",
    "email": "text",
    "phone": "text",
    "gender": "text",
    "dob": "date",
    "age": "int4",
    "address": "bytea",
    "bib_num": "text",
    "chip_num": "text",
    "registration_date": "timestamptz",
    "team_info": "bytea",
    "payment_info": "bytea",
    "additional_data": "bytea",
    "field_errors": "text[]",
    "last_modified": "timestamptz",
    "content_hash": "bytea",
}
_CONTENT = [name for name in _TYPES if name not in ("last_modified", "content_hash")]
CONTENT_COLUMNS = tuple(_CONTENT)
_COPY_TYPES = ["int8", "int8", "int8", "int8", *_TYPES.values()]
_COPY_COLUMNS = ", ".join(["timing_partner_id", "race_id", "event_id", "registration_id", *_TYPES])

STAGE = """
create temp table if not exists stage_registrations (
    timing_partner_id bigint, race_id bigint, event_id bigint, registration_id bigint,
    user_id bigint, first_name text, middle_name text, last_name text, email text, phone text, gender text,
    dob date, age integer, address jsonb, bib_num text, chip_num text, registration_date timestamptz,
    team_info jsonb, payment_info jsonb, additional_data jsonb, field_errors text[],
    last_modified timestamptz, content_hash bytea, absent text[]
) on commit delete rows
"""

_KNOWN = """
select event_id, registration_id, case when removed_at is null and missing_since is null then <hash> end,
       removed_at is not null, missing_since is not null
"""

# A row that stands under another race has the hash of no record.
KNOWN_IN_RANGE = """
<known>
from runsignup_participants
where timing_partner_id = %(partner)s and event_id = any(%(events)s::bigint[])
  and registration_id > %(after)s and registration_id <= %(up_to)s
""".replace("<known>", _KNOWN).replace(
    "<hash>", "case when content_hash is null or race_id = %(race)s then content_hash else '' end"
)

# Key by key, whatever the planner believes of a table that it has no statistics of yet: that may be a first load, when
# to go through all rows for each key looks cheap to it.
KNOWN_BY_KEY = """
<known>
from unnest(%(events)s::bigint[], %(registrations)s::bigint[]) as asked (event, registration)
cross join lateral (
    select * from runsignup_participants
    where timing_partner_id = %(partner)s and event_id = asked.event and registration_id = asked.registration
    offset 0
) as stored
""".replace("<known>", _KNOWN).replace("<hash>", "content_hash")

# A key that was not sent is not a null: what is stored stays.
KEEP_ABSENT = """
update stage_registrations as s
set dob = case when 'dob' = any(s.absent) then t.dob else s.dob end,
    gender = case when 'gender' = any(s.absent) then t.gender else s.gender end,
    email = case when 'email' = any(s.absent) then t.email else s.email end,
    phone = case when 'phone' = any(s.absent) then t.phone else s.phone end,
    bib_num = case when 'bib_num' = any(s.absent) then t.bib_num else s.bib_num end
from runsignup_participants as t
where t.timing_partner_id = s.timing_partner_id and t.event_id = s.event_id
  and t.registration_id = s.registration_id
  and cardinality(s.absent) > 0
"""

# An event is of one race; a row of an event that was not asked says nothing of it.
OF_THE_RACE: LiteralString = (
    "case when s.event_id = any(%(asked)s::bigint[]) then s.race_id else t.race_id end as race_id"
)

# One scan decides all: what differs, who is back. The row is written when anything at all moved; a change is
# gathered only for content. Rows with equal content keep their hash: other key order or escapes are no change. Of a row
# that was imported RunSignup's first word is no change either.
MERGE = """
with judged as (
    select s as fresh, s.event_id, s.registration_id, s.last_modified, (n.content ->> 'race_id')::bigint as race_id,
           d.differs,
           case when d.differs then differing(o.content, n.content) end as before,
           case when d.differs then differing(n.content, o.content) end as after,
           t.last_modified is distinct from s.last_modified as moved,
           coalesce(get_byte(t.content_hash, 0) <> get_byte(s.content_hash, 0), true) as remapped,
           t.missing_since is not null as found,
           coalesce(s.last_modified > t.removal_modified_at, false) as restored,
           t.missing_since, t.removed_at, t.removed_reason, t.new_registration_id, t.removal,
           t.bib_num as old_bib, s.bib_num as new_bib, t.chip_num as old_chip, s.chip_num as new_chip
    from stage_registrations as s
    join runsignup_participants as t using (timing_partner_id, event_id, registration_id)
    cross join lateral (select to_jsonb(c) as content from (select <t.content>) as c) as o
    cross join lateral (select to_jsonb(c) as content from (select <s.content>) as c) as n
    cross join lateral (
        select o.content <> n.content and (t.content_hash is not null or t.removed_at is not null) as differs
    ) as d
),
written as (
    update runsignup_participants as t
    set <content = fresh>,
        race_id = j.race_id,
        last_modified = (j.fresh).last_modified,
        content_hash = (j.fresh).content_hash,
        changed_at = case when j.differs or j.found or j.restored then now() else t.changed_at end,
        missing_since = null,
        removed_at = case when not j.restored then t.removed_at end,
        removed_reason = case when not j.restored then t.removed_reason end,
        new_registration_id = case when not j.restored then t.new_registration_id end,
        removal = case when not j.restored then t.removal end,
        removal_modified_at = case when not j.restored then t.removal_modified_at end
    from judged as j
    where t.timing_partner_id = %(partner)s and t.event_id = j.event_id and t.registration_id = j.registration_id
      and (j.differs or j.moved or j.remapped or j.found or j.restored)
    returning 1
),
gathered as (
    insert into page_changes (change_type, event_id, registration_id, before, after, source_modified_at,
                              bib_kind, old_bib, new_bib, old_chip, new_chip)
    select c.change_type, j.event_id, j.registration_id, c.before, c.after, j.last_modified,
           c.bib_kind, j.old_bib, j.new_bib, j.old_chip, j.new_chip
    from judged as j
    cross join lateral (
        select 1 as n, 'restored' as change_type,
               jsonb_build_object('removed_at', j.removed_at, 'removed_reason', j.removed_reason,
                                  'new_registration_id', j.new_registration_id, 'removal', j.removal) as before,
               jsonb_build_object('removed_at', null) as after, null as bib_kind
        where j.restored
        union all
        select 2, 'found', jsonb_build_object('missing_since', j.missing_since),
               jsonb_build_object('missing_since', null), null
        where j.found
        union all
        select 3, 'updated', j.before, j.after,
               case when not j.event_id = any(%(announced)s::bigint[]) then null
                    when j.old_bib is null and j.new_bib is not null then 'assigned'
                    when j.old_bib is not null and j.new_bib is null then 'cleared'
                    when j.old_bib <> j.new_bib then 'changed'
                    when j.old_chip is distinct from j.new_chip then 'chip' end
        where j.differs
    ) as c
    order by j.registration_id, c.n
    returning change_type, source_modified_at, bib_kind
)
select (select count(*) from written),
       count(*),
       count(bib_kind),
       count(*) filter (where change_type = 'updated' and source_modified_at < %(last_query)s::timestamptz),
       count(bib_kind) filter (where source_modified_at < %(last_query)s::timestamptz)
from gathered
"""
MERGE = (
    MERGE.replace("<t.content>", ", ".join(f"t.{name}" for name in (*_CONTENT, "race_id")))
    .replace("<s.content>", ", ".join((*(f"s.{name}" for name in _CONTENT), OF_THE_RACE)))
    .replace("<content = fresh>", ", ".join(f"{name} = (j.fresh).{name}" for name in _CONTENT))
)

GATHER_ADDED = """
with gathered as (
    insert into page_changes (change_type, event_id, registration_id, after, source_modified_at,
                              bib_kind, new_bib, new_chip)
    select 'added', t.event_id, t.registration_id, jsonb_strip_nulls(to_jsonb(c)), t.last_modified,
           case when t.bib_num is not null then 'assigned' end, t.bib_num, t.chip_num
    from runsignup_participants as t
    join unnest(%(events)s::bigint[], %(registrations)s::bigint[]) as asked (event_id, registration_id)
        using (event_id, registration_id)
    cross join lateral (select <t.content>) as c
    where t.timing_partner_id = %(partner)s
    order by t.registration_id
    returning bib_kind
)
select count(*), count(bib_kind) from gathered
""".replace("<t.content>", ", ".join(f"t.{name}" for name in _CONTENT))

COPY_NEW = "copy runsignup_participants (" + _COPY_COLUMNS + ") from stdin (format binary)"
COPY_STAGE = "copy stage_registrations (" + _COPY_COLUMNS + ", absent) from stdin (format binary)"

_NO_END = 2**63 - 1


async def merge_registrations(
    conn: Connection, scope: Scope, arrived: Sequence[Arrived], *, answered: Range | None, present: Collection[int]
) -> Merged:
    """Merge one page inside the caller's transaction, which must own the race's lock.

    `answered` says for which ids the page is complete, so that stored ones it lacks are absent; None takes no
    absence. `present`: registration ids that the page named in records which could not be read.
    """
    merged = Merged()
    known = await _known(conn, scope, arrived, answered)
    rows: dict[Key, Arrived] = {}
    for row in arrived:
        key = (row.event_id, row.registration_id)
        if key in rows:  # the same registration twice in one page: the later version counts
            merged.unchanged += 1
            if _older(row.decode(), rows[key].decode()):
                continue
        rows[key] = row
    new: dict[Key, Arrived] = {}
    differing: dict[Key, Arrived] = {}
    for key, row in rows.items():
        if key not in known.hashes:
            new[key] = row
        elif known.hashes[key] == row.content_hash:
            merged.unchanged += 1
        else:
            differing[key] = row
    merged.contested = [*known.removed & rows.keys()]
    if answered is not None:
        unseen = known.hashes.keys() - rows.keys() - known.removed - known.missing
        for key in unseen:
            if key[1] not in present:
                (merged.imported if known.hashes[key] is None else merged.absent).append(key)
    if new:
        await _insert(conn, scope, new, merged)
    if differing:
        await _merge(conn, scope, differing, merged)
    return merged


async def _known(conn: Connection, scope: Scope, arrived: Sequence[Arrived], answered: Range | None) -> _Known:
    known, others = _Known(), arrived
    partner = {"partner": scope.timing_partner_id}
    if answered is not None:
        after, up_to = answered.after, _NO_END if answered.up_to is None else answered.up_to
        values = {**partner, "race": scope.race_id, "events": answered.event_ids, "after": after, "up_to": up_to}
        await _look_up(conn, KNOWN_IN_RANGE, values, known)
        asked = frozenset(answered.event_ids)  # a row may name an event that was not asked
        others = [row for row in arrived if row.event_id not in asked or not after < row.registration_id <= up_to]
    if others:
        keys = {"events": [row.event_id for row in others], "registrations": [row.registration_id for row in others]}
        await _look_up(conn, KNOWN_BY_KEY, partner | keys, known)
    for key in scope.doubted & known.hashes.keys():
        known.hashes[key] = b""  # the hash of no record; none at all would say that the row was imported
    return known


async def _look_up(conn: Connection, query: LiteralString, values: dict[str, Any], known: _Known) -> None:
    async with conn.cursor(binary=True) as cursor:
        await cursor.execute(query, values)
        for event_id, registration_id, content_hash, removed, missing in await cursor.fetchall():
            key = (event_id, registration_id)
            known.hashes[key] = content_hash
            if removed:
                known.removed.add(key)
            if missing:
                known.missing.add(key)


def _older(one: Registration, other: Registration) -> bool:
    return one.last_modified is not None and other.last_modified is not None and one.last_modified < other.last_modified


async def _insert(conn: Connection, scope: Scope, new: dict[Key, Arrived], merged: Merged) -> None:
    await _copy(conn, COPY_NEW, scope, new.values(), staged=False)
    merged.inserted = len(new)
    announced = scope.announced(key[0] for key in new)
    added = [key for key in new if key[0] in announced]
    if added:
        values = {"partner": scope.timing_partner_id}
        lists = {"events": [key[0] for key in added], "registrations": [key[1] for key in added]}
        await stages.make(conn, GATHERED)
        cursor = await conn.execute(GATHER_ADDED, {**values, **lists})
        changes, bib_changes = await cursor.fetchone() or (0, 0)
        merged.changes += changes
        merged.bib_changes += bib_changes


async def stage(conn: Connection, scope: Scope, arrived: Iterable[Arrived]) -> None:
    """Put registrations into `stage_registrations` as they would be stored, within the caller's transaction."""
    await stages.make(conn, STAGE)
    if await _copy(conn, COPY_STAGE, scope, arrived, staged=True):
        await conn.execute(KEEP_ABSENT)


async def _merge(conn: Connection, scope: Scope, differing: dict[Key, Arrived], merged: Merged) -> None:
    await stages.make(conn, GATHERED)
    await stage(conn, scope, differing.values())
    values = {
        "partner": scope.timing_partner_id,
        "asked": list(scope.asked),
        "announced": scope.announced(key[0] for key in differing),
        "last_query": scope.last_query,
    }
    cursor = await conn.execute(MERGE, values)
    written, changes, bib_changes, silent, silent_bibs = await cursor.fetchone() or (0, 0, 0, 0, 0)
    merged.updated = written
    merged.unchanged += len(differing) - written
    merged.changes += changes
    merged.bib_changes += bib_changes
    merged.silent_edits, merged.silent_bibs = silent, silent_bibs


async def _copy(
    conn: Connection, statement: LiteralString, scope: Scope, rows: Iterable[Arrived], *, staged: bool
) -> bool:
    """Send rows, each decoded only now and then let go; returns whether any lacks a key that keeps what is stored."""
    partner, race = scope.timing_partner_id, scope.race_id
    lacking = False
    cursor = conn.cursor()
    cursor.adapters.register_dumper(bytes, BytesBinaryDumper)  # the last for bytea counts, and psycopg's last is slow
    async with cursor, cursor.copy(statement) as copy:
        copy.set_types([*_COPY_TYPES, "text[]"] if staged else _COPY_TYPES)
        for row in rows:
            r = row.decode()
            values: list[Any] = [
                partner, race, r.event_id, r.registration_id,
                r.user_id, r.first_name, r.middle_name, r.last_name, r.email, r.phone, r.gender, r.dob, r.age,
                _jsonb(r.address), r.bib_num, r.chip_num, r.registration_date,
                _jsonb(r.team_info), _jsonb(r.payment_info), _jsonb(r.additional_data), r.field_errors,
                r.last_modified, r.content_hash,
            ]  # fmt: skip
            if staged:
                values.append(list(r.absent))
                lacking = lacking or bool(r.absent)
            await copy.write_row(values)
    return lacking


def _jsonb(text: bytes | None) -> bytes | None:
    return None if text is None else b"\x01" + text
