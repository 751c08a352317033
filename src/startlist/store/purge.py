"""Personal data, deleted for good: registrations of events that are over, their changes, bibs and bad records.

What is kept of them says that a race was held and what was read of it, never who ran.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, LiteralString

from startlist.store import backfill, cursors
from startlist.store.database import Connection, Database, translated
from startlist.store.reading import rows

KEPT_DAYS = 8  # so long after its end the scheduler reads an event, and would bring its people back

# Events of which rows are stored, also those that were never listed; each counts as over when nothing reads it any
# more. One without a readable start is over when RunSignup no longer knows it.
SELECT: LiteralString = """
with stored as (
    select distinct p.timing_partner_id, p.race_id, p.event_id
    from runsignup_participants as p
    where (%(partner)s::bigint is null or p.timing_partner_id = %(partner)s)
      and not exists (select from runsignup_events as e
                      where e.timing_partner_id = p.timing_partner_id and e.event_id = p.event_id)
),
known as (
    select e.timing_partner_id, e.race_id, e.event_id, e.name, e.race_day,
           e.gone_at is not null
           or greatest(e.start_time, e.end_time) + make_interval(days => %(kept)s) < now() as over
    from runsignup_events as e
    where %(partner)s::bigint is null or e.timing_partner_id = %(partner)s
    union all
    select timing_partner_id, race_id, event_id, null, null, true from stored
)
select k.timing_partner_id, k.race_id, r.name as race_name, k.event_id, k.name as event_name, k.race_day,
       coalesce(k.over, false) as over,
       coalesce(%(before)s::date is null or k.race_day < %(before)s, false) as asked
from known as k
left join runsignup_races as r using (timing_partner_id, race_id)
where %(race)s::bigint is null or k.race_id = %(race)s
order by k.timing_partner_id, k.race_id, k.event_id
"""

# Records that name no event may be of any event of the race.
_OF_EVENTS: LiteralString = (
    "timing_partner_id = %(partner)s and race_id = %(race)s and"
    " (event_id = any(%(events)s::bigint[]) or %(whole)s and event_id is null)"
)
COUNT: LiteralString = """
select (select count(*) from runsignup_participants
        where timing_partner_id = %(partner)s and event_id = any(%(events)s::bigint[])),
       (select count(*) from runsignup_changes where <of events>),
       (select count(*) from runsignup_bib_changes where <of events>),
       (select count(*) from runsignup_quarantine where <of events>)
""".replace("<of events>", _OF_EVENTS)
DELETE: tuple[LiteralString, ...] = (
    "delete from runsignup_participants where timing_partner_id = %(partner)s and event_id = any(%(events)s::bigint[])",
    "delete from runsignup_changes where <of events>".replace("<of events>", _OF_EVENTS),
    "delete from runsignup_bib_changes where <of events>".replace("<of events>", _OF_EVENTS),
    "delete from runsignup_quarantine where <of events>".replace("<of events>", _OF_EVENTS),
)

# An event that is read again after all, because somebody asks for it, has its first full pass once more. Until then
# nobody brings its people back: neither a backfill nor an import.
FORGET_EVENTS: LiteralString = """
update runsignup_events set first_full_at = null, purged_at = now()
where timing_partner_id = %(partner)s and event_id = any(%(events)s::bigint[])
"""

# Checkpoints name registrations. Without an event that it covers a cursor is as new.
FORGET_CURSOR: LiteralString = """
update sync_cursors as c
set checkpoint = null, event_ids = l.left_over,
    participants_watermark = case when l.left_over <> '{}' then c.participants_watermark end,
    removed_watermark = case when l.left_over <> '{}' then c.removed_watermark end,
    last_full_at = case when l.left_over <> '{}' then c.last_full_at end,
    last_incremental_at = case when l.left_over <> '{}' then c.last_incremental_at end,
    suspicion = case when l.left_over <> '{}' then c.suspicion end
from (select coalesce(array_agg(event_id), '{}') as left_over
      from sync_cursors, unnest(event_ids) as event_id
      where timing_partner_id = %(partner)s and race_id = %(race)s
        and not event_id = any(%(events)s::bigint[])) as l
where c.timing_partner_id = %(partner)s and c.race_id = %(race)s
"""

# A backfill leaves alone what it has read, and takes a race of which rows came for no empty one.
DONE_WITH: LiteralString = """
insert into backfill_progress as b (timing_partner_id, race_id, state, event_ids, rows_received, finished_at)
values (%(partner)s, %(race)s, 'done', %(events)s, %(registrations)s, now())
on conflict (timing_partner_id, race_id) do update
set event_ids = array(select distinct unnest(b.event_ids || excluded.event_ids) order by 1),
    unread_event_ids = array(select unnest(b.unread_event_ids) except select unnest(excluded.event_ids)),
    state = case when b.state = 'reading' then 'waiting'
                 when %(whole)s and b.state in ('partial', 'empty') then 'done' else b.state end,
    rows_received = greatest(b.rows_received, excluded.rows_received), checkpoint = null, updated_at = now()
"""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An event of a race that a purge is about. `over`: nothing reads it any more; `asked`: its day was meant."""

    timing_partner_id: int
    race_id: int
    race_name: str | None
    event_id: int
    event_name: str | None
    race_day: date | None
    over: bool
    asked: bool

    @property
    def goes(self) -> bool:
        return self.over and self.asked


@dataclass(slots=True)
class Part:
    """What is deleted of one race: rows by table. `whole`: all its events; `held`: another run had it, all is kept."""

    timing_partner_id: int
    race_id: int
    race_name: str | None
    event_ids: list[int]
    whole: bool
    registrations: int = 0
    changes: int = 0
    bib_changes: int = 0
    quarantined: int = 0
    held: bool = False

    @property
    def rows(self) -> int:
        return self.registrations + self.changes + self.bib_changes + self.quarantined


async def choose(
    conn: Connection,
    *,
    timing_partner_id: int | None,
    race_id: int | None,
    before: date | None,
    kept_days: int = KEPT_DAYS,
) -> list[Chosen]:
    """All events of this partner, this race: those that a purge of these days is asked for, and the others."""
    values = {"partner": timing_partner_id, "race": race_id, "before": before, "kept": max(kept_days, KEPT_DAYS)}
    return await rows(conn, Chosen, SELECT, values)


async def counted(conn: Connection, chosen: Sequence[Chosen]) -> list[Part]:
    """What would go, race by race; races of which nothing is stored are left out."""
    parts: dict[tuple[int, int], Part] = {}
    for one in chosen:
        key = (one.timing_partner_id, one.race_id)
        part = parts.setdefault(key, Part(*key, one.race_name, [], whole=True))
        if one.goes:
            part.event_ids.append(one.event_id)
        else:
            part.whole = False
    for part in parts.values():
        row = await (await conn.execute(COUNT, _values(part))).fetchone()
        part.registrations, part.changes, part.bib_changes, part.quarantined = row or (0, 0, 0, 0)
    return [part for part in parts.values() if part.rows]


async def purge(database: Database, parts: Sequence[Part], *, wait_seconds: float) -> AsyncIterator[Part]:
    """Delete race by race, each in one transaction under its locks, and tell what went of each."""
    with translated():
        async with await database.connect(name="startlist purge") as conn:
            for part in parts:
                yield await _purge_race(database, conn, part, wait_seconds)


async def _purge_race(database: Database, conn: Connection, part: Part, wait_seconds: float) -> Part:
    key = (part.timing_partner_id, part.race_id)
    done = Part(*key, part.race_name, part.event_ids, part.whole)
    if not await backfill.claim(database, conn, *key):  # it holds pages that it would store afterwards
        done.held = True
        return done
    try:
        if not await cursors.lock_race(database, conn, *key, wait_seconds=wait_seconds):
            done.held = True
            return done
        async with conn.transaction():
            gone = [(await conn.execute(statement, _values(part))).rowcount for statement in DELETE]
            for statement in (FORGET_EVENTS, FORGET_CURSOR, DONE_WITH):
                await conn.execute(statement, _values(part) | {"registrations": gone[0]})
        done.registrations, done.changes, done.bib_changes, done.quarantined = gone
    finally:
        await cursors.unlock_race(conn)
    return done


def _values(part: Part) -> dict[str, Any]:
    return {
        "partner": part.timing_partner_id, "race": part.race_id, "events": part.event_ids, "whole": part.whole,
    }  # fmt: skip
