"""The schedule in the database: which races are due, and when each is due next."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg.rows import class_row

from startlist.store.budget import Rank
from startlist.store.database import Connection

LONGEST: LiteralString = "interval '1 day 1 minute'"  # nothing is planned further off, unless the clock was set back


@dataclass(frozen=True, slots=True)
class DueRace:
    """A race that is due and not queued; `rank` when it was planned."""

    timing_partner_id: int
    race_id: int
    rank: str

    @property
    def key(self) -> str:
        """The name under which the race is queued, once at a time."""
        return f"race:{self.timing_partner_id}:{self.race_id}"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a race stands in the schedule. `now` is the database's clock; `due`: it is to be read now.

    `waited`: its last pass was put off. `waits_since`: when it became due. `completed_at`: when its last complete pass
    ended.
    """

    now: datetime
    credential_id: int | None
    gone_at: datetime | None
    known: bool
    due: bool
    failures: int
    waited: bool
    waits_since: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Asks:
    """The calls that a race's cadence asks for in an hour, before anything is stretched.

    On its race day, which begins, or began, at `race_day_at` (None: it has none to come), and outside it.
    """

    calls_per_hour: float
    race_day_at: datetime | None
    race_day_until: datetime | None
    race_day_calls: float | None


@dataclass(frozen=True, slots=True)
class Demand:
    """The calls that the cadences of a credential's races of one rank ask for in an hour."""

    credential_id: int | None
    rank: str
    calls_per_hour: float


# statement_timestamp(): an index cannot be asked with clock_timestamp(), which may change on the way.
# What was never read or planned, or is stale, goes with the races of today: so none starves.
# The queue's own table tells what is queued or under way: nothing else could be forgotten or left behind.
# Without parameters, so that it is planned once and not every second: that takes longer than the answer. Of more than
# a thousand races the others come a second later.
DUE: LiteralString = """
with due as (
    select c.* from sync_cursors as c where next_sync_at <= statement_timestamp()
    union all
    select c.* from sync_cursors as c
    where next_sync_at > statement_timestamp() and planned_at > statement_timestamp()
    union all
    select c.* from sync_cursors as c
    where next_sync_at > statement_timestamp() + <longest> and planned_at <= statement_timestamp()
),
ranked as (
    select timing_partner_id, race_id, coalesce(waits_since, next_sync_at) as due_since,
           case when coalesce(last_full_at, last_incremental_at) is null or period_seconds is null
                     or stale_at < statement_timestamp() or statement_timestamp() between race_day_at and race_day_until
                then 'race_day' else coalesce(rank, 'routine') end as rank
    from due
)
select timing_partner_id, race_id, rank
from ranked as due
where exists (select from partner_provider_credentials as k
              where k.timing_partner_id = due.timing_partner_id and k.provider_id = 2 and k.stopped_at is null)
  and not exists (select from procrastinate_jobs as j
                  where j.queueing_lock = 'race:' || due.timing_partner_id || ':' || due.race_id and j.status = 'todo')
  and not exists (select from procrastinate_jobs as j
                  where j.lock = 'race:' || due.timing_partner_id || ':' || due.race_id and j.status = 'doing')
order by array_position(array['race_day', 'race_week', 'routine'], rank), due_since
limit 1000
""".replace("<longest>", LONGEST)

STANDING: LiteralString = """
select clock_timestamp() as now, r.credential_id, r.gone_at, r.race_id is not null as known,
       c.next_sync_at is not null
           and (c.next_sync_at <= clock_timestamp() or c.planned_at > clock_timestamp()
                or c.next_sync_at > clock_timestamp() + <longest>) as due,
       c.failures,
       coalesce((select h.reason = 'waiting' from sync_history as h
                 where h.timing_partner_id = c.timing_partner_id and h.race_id = c.race_id
                   and h.status not in ('running', 'skipped') and h.sync_type <> 'backfill'
                 order by h.sync_history_id desc limit 1), false) as waited,
       coalesce(c.waits_since, c.next_sync_at, clock_timestamp()) as waits_since,
       greatest(c.last_full_at, c.last_incremental_at) as completed_at
from sync_cursors as c
left join runsignup_races as r on r.timing_partner_id = c.timing_partner_id and r.race_id = c.race_id
where c.timing_partner_id = %(partner)s and c.race_id = %(race)s
""".replace("<longest>", LONGEST)

PLAN: LiteralString = """
update sync_cursors
set next_sync_at = %(at)s::timestamptz, planned_at = clock_timestamp(), rank = %(rank)s,
    period_seconds = %(period)s::integer, stretch = %(stretch)s::real, failures = %(failures)s,
    waits_since = %(waits_since)s,
    stale_at = case when %(at)s::timestamptz is null then null
                    when %(read)s then %(at)s::timestamptz
                         + make_interval(secs => %(period)s::integer * %(stretch)s::float8 + 60)
                    -- least: what was planned by a later clock than today's is not fresh for all that time
                    else least(coalesce(stale_at, clock_timestamp() + interval '15 minutes'),
                               case when planned_at > clock_timestamp()
                                    then clock_timestamp() + interval '15 minutes' end) end
where timing_partner_id = %(partner)s and race_id = %(race)s
"""

# A job that was queued before its race's day began, or before it was stale, would wait behind all those of race day.
RAISE: LiteralString = """
update procrastinate_jobs as j
set priority = %(priority)s
from sync_cursors as c
where j.status = 'todo' and j.task_name = %(task)s and j.priority < %(priority)s
  and c.timing_partner_id = (j.args ->> 'timing_partner_id')::bigint and c.race_id = (j.args ->> 'race_id')::bigint
  and (c.stale_at < statement_timestamp() or statement_timestamp() between c.race_day_at and c.race_day_until)
"""

AHEAD: LiteralString = """
select count(*)
from sync_cursors as c
join runsignup_races as r using (timing_partner_id, race_id)
where c.timing_partner_id = %(partner)s and c.waits_since is not null and c.next_sync_at is not null
  and r.credential_id = %(credential)s and c.race_id <> %(race)s
  and (c.rank = any(%(higher)s) or c.rank = %(rank)s and (c.waits_since, c.race_id) < (%(since)s, %(race)s))
"""

# Roughly what counts: which events really do, the race's own job finds out.
COUNTS: LiteralString = """
    exists (select from runsignup_events as e
            where e.timing_partner_id = r.timing_partner_id and e.race_id = r.race_id and e.gone_at is null
              and coalesce(greatest(e.start_time, e.end_time) > now() - make_interval(days => %(days)s + 1), true))
    or not exists (select from runsignup_events as e
                   where e.timing_partner_id = r.timing_partner_id and e.race_id = r.race_id)
"""

ADOPT: LiteralString = (
    """
insert into sync_cursors as c (timing_partner_id, race_id, next_sync_at, planned_at, rank, stale_at)
select r.timing_partner_id, r.race_id, case when r.gone_at is null and ("""
    + COUNTS
    + """) then now() end, now(), 'race_week', now() + interval '15 minutes'
from runsignup_races as r
where not r.adopted
order by r.timing_partner_id, r.race_id
on conflict (timing_partner_id, race_id) do update
set (next_sync_at, planned_at, rank, stale_at)
  = (excluded.next_sync_at, excluded.planned_at, excluded.rank, excluded.stale_at)
where c.planned_at is null
"""
)

# A race that a pass holds is left to the next look: whoever holds cursors must not wait for races.
NOTE_ADOPTED: LiteralString = """
update runsignup_races set adopted = true
where (timing_partner_id, race_id) in (
    select r.timing_partner_id, r.race_id
    from runsignup_races as r
    join sync_cursors as c on c.timing_partner_id = r.timing_partner_id and c.race_id = r.race_id
    where not r.adopted and c.planned_at is not null
    for update of r skip locked
)
"""

WAKE: LiteralString = (
    """
update sync_cursors as c
set next_sync_at = clock_timestamp(), planned_at = clock_timestamp(),
    stale_at = least(c.stale_at, clock_timestamp() + interval '15 minutes')
from runsignup_races as r
where r.timing_partner_id = c.timing_partner_id and r.race_id = c.race_id and r.gone_at is null
  and c.timing_partner_id = %(partner)s and (%(races)s::bigint[] is null or c.race_id = any(%(races)s::bigint[]))
  and (c.next_sync_at is null or %(all)s and c.next_sync_at > clock_timestamp())
  and ("""
    + COUNTS
    + ")"
)

RECORD_UNREAD: LiteralString = """
update runsignup_races set record_read_at = null
where timing_partner_id = %s and race_id = any(%s::bigint[]) and record_read_at is not null
"""

DEMAND: LiteralString = """
select r.credential_id, d.rank, sum(d.calls)::float8 as calls_per_hour
from sync_cursors as c
join runsignup_races as r on r.timing_partner_id = c.timing_partner_id and r.race_id = c.race_id
cross join lateral (
    select coalesce(c.race_day_at <= now() and now() < c.race_day_until, false) as on_day
) as today
cross join lateral (
    select case when on_day then 'race_day' when c.rank = 'race_day' then 'race_week' else c.rank end as rank,
           case when on_day then c.race_day_calls else c.calls_per_hour end as calls
) as d
where c.next_sync_at is not null and d.rank is not null and d.calls is not null
group by r.credential_id, d.rank
"""


async def due_races(conn: Connection) -> list[DueRace]:
    """What is due and not queued, the most pressing first; what a clock that was set back put too far off as well."""
    async with conn.cursor(row_factory=class_row(DueRace)) as cursor:
        await cursor.execute(DUE)
        return await cursor.fetchall()


async def standing(conn: Connection, timing_partner_id: int, race_id: int, *, lock: bool = False) -> Standing | None:
    """Where a race stands; None when it or its partner was removed. `lock`: nobody else may plan it meanwhile."""
    async with conn.cursor(row_factory=class_row(Standing)) as cursor:
        query = STANDING + " for update of c" if lock else STANDING
        await cursor.execute(query, {"partner": timing_partner_id, "race": race_id})
        return await cursor.fetchone()


async def plan(
    conn: Connection,
    timing_partner_id: int,
    race_id: int,
    *,
    at: datetime | None,
    rank: Rank | None = None,
    period: float | None = None,
    stretch: float = 1.0,
    failures: int = 0,
    read: bool = False,
    waits_since: datetime | None = None,
) -> None:
    """Set when a race is due next (None: not until it has a new date), and what was known then.

    `read`: it was just read to the end; else it becomes stale when it would have before. `waits_since`: it was due
    then, and waits for a call.
    """
    values: dict[str, object] = {"partner": timing_partner_id, "race": race_id, "at": at}
    values["rank"] = None if rank is None else name(rank)
    values |= {"period": None if period is None else round(period), "stretch": stretch, "failures": failures}
    await conn.execute(PLAN, values | {"read": read, "waits_since": waits_since})


async def note_asked(conn: Connection, timing_partner_id: int, race_id: int, asks: Asks) -> None:
    """Keep what a race asks for, by which the periods of all are stretched."""
    query = """
        update sync_cursors set calls_per_hour = %s, race_day_at = %s, race_day_until = %s, race_day_calls = %s
        where timing_partner_id = %s and race_id = %s
    """
    day = [asks.race_day_at, asks.race_day_until, asks.race_day_calls]
    values = [asks.calls_per_hour, *day, timing_partner_id, race_id]
    await conn.execute(query, values)


async def raise_queued(conn: Connection, task: str, priority: int) -> int:
    """Give queued races that rank as race day by now its priority; how many they are."""
    return (await conn.execute(RAISE, {"task": task, "priority": priority})).rowcount


async def ahead(
    conn: Connection, timing_partner_id: int, race_id: int, credential_id: int, rank: Rank, since: datetime
) -> int:
    """How many races wait for a call of the credential that come before this one: by rank, then by who came first."""
    values = {"partner": timing_partner_id, "race": race_id, "credential": credential_id, "since": since}
    higher = [name(other) for other in Rank if other > rank]
    row = await (await conn.execute(AHEAD, values | {"higher": higher, "rank": name(rank)})).fetchone()
    return int(row[0]) if row else 0


async def leave_line(conn: Connection, timing_partner_id: int, race_id: int) -> None:
    """The race waits no longer: its calls are free."""
    query = """
        update sync_cursors set waits_since = null
        where timing_partner_id = %s and race_id = %s and waits_since is not null
    """
    await conn.execute(query, [timing_partner_id, race_id])


def name(rank: Rank) -> str:
    """As the tables have it."""
    return rank.name.lower()


async def adopt(conn: Connection, days: int) -> int:
    """Take up races that the schedule does not know yet, those with a counting event as due now; how many they are."""
    return (await conn.execute(ADOPT, {"days": days})).rowcount


async def note_adopted(conn: Connection) -> None:
    """Do not look again at races that were taken up."""
    await conn.execute(NOTE_ADOPTED)


async def wake(
    conn: Connection, timing_partner_id: int, race_ids: Collection[int] | None, days: int, *, everything: bool = False
) -> int:
    """Make a partner's races due now that were not to be read any more and have a counting event again; or all."""
    races = None if race_ids is None else sorted(race_ids)
    values = {"partner": timing_partner_id, "races": races, "all": everything, "days": days}
    return (await conn.execute(WAKE, values)).rowcount


async def record_unread(conn: Connection, timing_partner_id: int, race_ids: Collection[int]) -> None:
    """Have these races' own records read again with their next pass."""
    await conn.execute(RECORD_UNREAD, [timing_partner_id, sorted(race_ids)])


async def use_credential(conn: Connection, timing_partner_id: int, race_id: int, credential_id: int) -> None:
    """Read the race with this credential from now on."""
    await conn.execute(
        "update runsignup_races set credential_id = %s where timing_partner_id = %s and race_id = %s",
        [credential_id, timing_partner_id, race_id],
    )


async def races_of(conn: Connection, credential_id: int) -> list[int]:
    """The races that a credential reads in the schedule."""
    query = """
        select r.race_id from runsignup_races as r
        join sync_cursors as c on c.timing_partner_id = r.timing_partner_id and c.race_id = r.race_id
        where r.credential_id = %s and c.next_sync_at is not null
    """
    return [row[0] for row in await (await conn.execute(query, [credential_id])).fetchall()]


async def demand(conn: Connection) -> list[Demand]:
    """What the cadences of all races ask for together."""
    async with conn.cursor(row_factory=class_row(Demand)) as cursor:
        await cursor.execute(DEMAND)
        return await cursor.fetchall()
