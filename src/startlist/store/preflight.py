"""What a timer wants to know before the gun: faults of a start list that can be seen in it, with the people they hit.

One query for each check. All begin with the primary key (timing partner, events of the day), so that a race day of
60,000 registrations among millions takes a second or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, LiteralString

from psycopg.rows import class_row

from startlist.store.database import Connection


@dataclass(frozen=True, slots=True)
class Person:
    """One line of a check: a registration (none for a record that could not be read), and what is wrong with it."""

    event_id: int | None
    event_name: str | None
    registration_id: int | None
    first_name: str | None
    last_name: str | None
    bib_num: str | None
    chip_num: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Checked:
    """A check's result: how many lines there are in all, and the first of them. None at all: it is passed."""

    check: str
    title: str
    advice: str
    count: int
    people: list[Person]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return self.count == 0


@dataclass(frozen=True, slots=True)
class DayEvent:
    """An event of the race day; `volunteer` ones have no start list that is timed."""

    event_id: int
    name: str | None
    race_day: date | None
    volunteer: bool


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    title: str
    advice: str
    query: LiteralString


# The next race day, in each event's own zone; of a race that is over the latest one. Events without a readable start
# are on every day: nobody knows that they are not on this one.
EVENTS: LiteralString = """
with held as (
    select event_id, name, race_day, volunteer is true as volunteer,
           race_day >= (now() at time zone timezone)::date as ahead
    from runsignup_events
    where timing_partner_id = %(partner)s and race_id = %(race)s
      and case when %(event)s::bigint is null then gone_at is null else event_id = %(event)s end
)
select event_id, name, race_day, volunteer
from held
where race_day is null
   or race_day = coalesce((select min(race_day) from held where ahead), (select max(race_day) from held))
order by event_id
"""

# Who is on the start list. A person is told by user and name, as one account may register a family: the same one in
# two events may well wear one bib in both.
_STARTERS: LiteralString = """
with starters as (
    select p.event_id, p.registration_id, p.user_id, p.first_name, p.last_name, nullif(btrim(p.bib_num), '') as bib_num,
           nullif(btrim(p.chip_num), '') as chip_num, nullif(btrim(p.gender), '') as gender, p.dob,
           p.age, p.field_errors, p.missing_since,
           lower(concat_ws(' ', trim(p.first_name), trim(p.last_name))) as name,
           concat_ws(' ', coalesce(p.user_id, -p.registration_id), lower(trim(p.first_name)), lower(trim(p.last_name)))
               as person
    from runsignup_participants as p
    where p.timing_partner_id = %(partner)s and p.event_id = any(%(events)s::bigint[]) and p.race_id = %(race)s
      and p.removed_at is null
)
"""

# What every check gives: its lines and, with each, how many there are in all.
_LINES: LiteralString = """
select f.event_id, e.name as event_name, f.registration_id, f.first_name, f.last_name, f.bib_num, f.chip_num, f.detail,
       count(*) over () as in_all
from found as f
left join runsignup_events as e on e.timing_partner_id = %(partner)s and e.event_id = f.event_id
order by f.rank, f.bib_num, f.last_name, f.first_name, f.registration_id
limit %(limit)s
"""


def _lines(found: LiteralString) -> LiteralString:
    return found + _LINES


def _of_starters(found: LiteralString) -> LiteralString:
    return _STARTERS + found + _LINES


# No joins: the planner takes the faults for few, and where a start list is full of them it would take minutes.
_TWICE: LiteralString = """
, judged as (
    select *, min(person) over (partition by <number>) <> max(person) over (partition by <number>)
              or count(*) over (partition by <number>, event_id) > 1 as fault
    from starters
    where <number> is not null
),
marked as (
    select *, bool_or(fault) over (partition by <number>) as shared from judged
),
found as (
    select *, dense_rank() over (order by <number>) as rank, null as detail from marked where shared
)
"""

UNREADABLE = _lines("""
with found as (
    select q.event_id, q.registration_id, p.first_name, p.last_name, p.bib_num, p.chip_num,
           q.endpoint || ': ' || q.reason as detail, q.quarantine_id as rank
    from runsignup_quarantine as q
    left join runsignup_participants as p
        on p.timing_partner_id = q.timing_partner_id and p.event_id = q.event_id
        and p.registration_id = q.registration_id
    where q.timing_partner_id = %(partner)s and q.race_id = %(race)s and q.resolved_at is null
      and q.endpoint in ('participants', 'removed-participants')
      and (q.event_id is null or q.event_id = any(%(events)s::bigint[]))
)
""")

SAME_BIB = _of_starters(_TWICE.replace("<number>", "bib_num"))
SAME_CHIP = _of_starters(_TWICE.replace("<number>", "chip_num"))

# The bib log tells who had a bib once; a registration that is off the start list still has its last one. Who took the
# other's place has it by right.
MOVED_BIB = _of_starters("""
, once as (
    select b.old_bib as bib_num, b.registration_id, b.detected_at as lost_at, null::bigint as successor
    from runsignup_bib_changes as b
    where b.timing_partner_id = %(partner)s and b.race_id = %(race)s and b.event_id = any(%(events)s::bigint[])
      and b.kind in ('changed', 'cleared')
    union all
    select r.bib_num, r.registration_id, r.removed_at, r.new_registration_id
    from runsignup_participants as r
    where r.timing_partner_id = %(partner)s and r.event_id = any(%(events)s::bigint[]) and r.race_id = %(race)s
      and r.removed_at is not null and r.bib_num is not null
),
earlier as (
    select o.bib_num, o.lost_at, o.successor, p.registration_id,
           coalesce(nullif(trim(concat_ws(' ', p.first_name, p.last_name)), ''), 'registration ' || o.registration_id)
               as who,
           concat_ws(' ', coalesce(p.user_id, -p.registration_id), lower(trim(p.first_name)), lower(trim(p.last_name)))
               as person
    from once as o
    join runsignup_participants as p
        on p.timing_partner_id = %(partner)s and p.event_id = any(%(events)s::bigint[])
        and p.registration_id = o.registration_id
),
found as (
    select distinct on (s.registration_id) s.*,
           'was ' || e.who || '''s until ' || to_char(e.lost_at, 'YYYY-MM-DD HH24:MI') || ' UTC' as detail, 0 as rank
    from starters as s
    join earlier as e using (bib_num)
    where e.registration_id <> s.registration_id and e.person <> s.person
      and e.successor is distinct from s.registration_id
    order by s.registration_id, e.lost_at desc
)
""")

NO_BIB = _of_starters(", found as (select s.*, 0 as rank, null as detail from starters as s where bib_num is null)")

NO_CATEGORY = _of_starters("""
, found as (
    select s.*, 0 as rank,
           'no ' || concat_ws(' and no ', case when gender is null then 'gender' end,
                              case when age is null and dob is null then 'age' end) as detail
    from starters as s
    where gender is null or age is null and dob is null
)
""")

TWICE_IN_EVENT = _of_starters("""
, judged as (
    select *, dob is not null and name <> '' and count(*) over (partition by event_id, name, dob) > 1
              or user_id is not null and count(*) over (partition by event_id, user_id, name) > 1 as twice
    from starters
),
found as (
    select *, dense_rank() over (order by event_id, name) as rank, null as detail from judged where twice
)
""")

# The successor may be in any event that is stored of the partner: a transfer may lead into another race.
NO_SUCCESSOR = _lines("""
with moved as materialized (
    select r.event_id, r.registration_id, r.bib_num, r.chip_num, r.new_registration_id,
           coalesce(r.first_name, r.removal #>> '{user,first_name}') as first_name,
           coalesce(r.last_name, r.removal #>> '{user,last_name}') as last_name
    from runsignup_participants as r
    where r.timing_partner_id = %(partner)s and r.event_id = any(%(events)s::bigint[]) and r.race_id = %(race)s
      and r.removed_at is not null and r.new_registration_id is not null
),
stored as materialized (
    select p.registration_id
    from (select array_agg(new_registration_id) as ids from moved) as m
    join runsignup_events as e on e.timing_partner_id = %(partner)s
    cross join lateral (
        select registration_id from runsignup_participants
        where timing_partner_id = %(partner)s and event_id = e.event_id and registration_id = any(m.ids)
        offset 0
    ) as p
    where m.ids is not null
),
found as (
    select m.*, 0 as rank, 'now registration ' || m.new_registration_id || ', which is not stored' as detail
    from moved as m
    where not exists (select from stored as s where s.registration_id = m.new_registration_id)
)
""")

VANISHED = _of_starters("""
, found as (
    select s.*, 0 as rank, 'since ' || to_char(missing_since, 'YYYY-MM-DD HH24:MI') || ' UTC' as detail
    from starters as s
    where missing_since is not null
)
""")

MISFITS = _of_starters("""
, found as (
    select s.*, 0 as rank, array_to_string(field_errors, ', ') as detail
    from starters as s
    where cardinality(field_errors) > 0
)
""")

# What may hurt most comes first: somebody who is not on the list, then two who cannot be told apart.
CHECKS = (
    _Check(
        "unreadable",
        "records that could not be stored: these people may be missing from the start list",
        "startlist quarantine list shows them; ask RunSignup, and enter them by hand until then",
        UNREADABLE,
    ),
    _Check("duplicate_bibs", "one bib on several people", "give all but one of them another bib", SAME_BIB),
    _Check("duplicate_chips", "one chip on several people", "give all but one of them another chip", SAME_CHIP),
    _Check(
        "moved_bibs",
        "bibs that somebody else had before",
        "take the bib back from the one who had it, if it was handed out",
        MOVED_BIB,
    ),
    _Check("without_bib", "registrations without a bib", "assign bibs in RunSignup", NO_BIB),
    _Check(
        "transfers",
        "transferred to a registration that is not stored",
        "read the race in full: startlist sync --race RACE_ID --force-full-sync",
        NO_SUCCESSOR,
    ),
    _Check(
        "twice",
        "the same person twice in an event",
        "ask which registration counts; the other one belongs off the start list",
        TWICE_IN_EVENT,
    ),
    _Check(
        "without_category",
        "no gender, or neither age nor date of birth: they cannot be scored in a category",
        "ask them when they fetch the bib, and correct it in RunSignup",
        NO_CATEGORY,
    ),
    _Check(
        "vanished",
        "no longer listed by RunSignup, though nobody said that they were removed",
        "look them up in RunSignup; they stay on the start list",
        VANISHED,
    ),
    _Check(
        "misfits",
        "fields that did not fit: what was sent is kept in additional_data",
        "correct the fields in RunSignup where they matter for scoring",
        MISFITS,
    ),
)


async def day_events(
    conn: Connection, timing_partner_id: int, race_id: int, event_id: int | None = None
) -> list[DayEvent]:
    """The events of the race's next race day, or of its latest if it is over; with `event_id` that event alone."""
    async with conn.cursor(row_factory=class_row(DayEvent)) as cursor:
        await cursor.execute(EVENTS, {"partner": timing_partner_id, "race": race_id, "event": event_id})
        return await cursor.fetchall()


async def run_checks(
    conn: Connection, timing_partner_id: int, race_id: int, event_ids: Sequence[int], *, limit: int | None
) -> list[Checked]:
    """All checks of these events, the most important first, each with at most `limit` lines (None: all)."""
    values = {"partner": timing_partner_id, "race": race_id, "events": list(event_ids), "limit": limit}
    return [await _run(conn, check, values) for check in CHECKS]


async def _run(conn: Connection, check: _Check, values: dict[str, Any]) -> Checked:
    lines = await (await conn.execute(check.query, values)).fetchall()
    count = int(lines[0][-1]) if lines else 0
    return Checked(check.name, check.title, check.advice, count, [Person(*line[:-1]) for line in lines])
