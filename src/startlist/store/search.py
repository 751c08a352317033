"""Finding registrations by bib or by name: what a timer asks at the registration desk."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, LiteralString

from startlist.errors import ConfigurationError
from startlist.store.database import Connection
from startlist.store.reading import Filters, prepare, rows


@dataclass(frozen=True, slots=True)
class Found:
    """One registration with what a timer needs to tell it from others, whether it is on the start list, and why not."""

    timing_partner_id: int
    race_id: int
    race_name: str | None
    event_id: int
    event_name: str | None
    start_time: datetime | None
    timezone: str | None
    registration_id: int
    first_name: str | None
    middle_name: str | None
    last_name: str | None
    bib_num: str | None
    chip_num: str | None
    gender: str | None
    age: int | None
    removed_at: datetime | None
    removed_reason: str | None
    new_registration_id: int | None
    new_event_name: str | None
    new_bib_num: str | None
    missing_since: datetime | None
    last_modified: datetime | None


# A registration that was only ever seen as removed has its name in the removed record alone. Limited before the
# successor is looked up.
FIND: LiteralString = """
with found as (
    select p.timing_partner_id, p.race_id, r.name as race_name, p.event_id, e.name as event_name, e.start_time,
           e.timezone, p.registration_id, n.first_name, n.middle_name, n.last_name, p.bib_num, p.chip_num,
           coalesce(p.gender, p.removal #>> '{user,gender}') as gender, p.age, p.removed_at, p.removed_reason,
           p.new_registration_id, p.missing_since, p.last_modified,
           abs(e.race_day - (now() at time zone coalesce(e.timezone, 'America/New_York'))::date) as days_off,
           e.race_day < (now() at time zone coalesce(e.timezone, 'America/New_York'))::date as over
    from runsignup_participants as p
    left join runsignup_events as e on e.timing_partner_id = p.timing_partner_id and e.event_id = p.event_id
    left join runsignup_races as r on r.timing_partner_id = p.timing_partner_id and r.race_id = p.race_id
    cross join lateral (
        select coalesce(p.first_name, p.removal #>> '{user,first_name}') as first_name,
               coalesce(p.middle_name, p.removal #>> '{user,middle_name}') as middle_name,
               coalesce(p.last_name, p.removal #>> '{user,last_name}') as last_name
    ) as n
    where (%(partners)s::bigint[] is null or p.timing_partner_id = any(%(partners)s))
      and (%(race)s::bigint is null or p.race_id = %(race)s)
      and (%(events)s::bigint[] is null or p.event_id = any(%(events)s))
      and (%(since)s::timestamptz is null or e.start_time >= %(since)s)
      and <matches>
    order by over nulls last, days_off, p.race_id, p.removed_at is not null, n.last_name, n.first_name,
             p.registration_id, p.timing_partner_id
    limit %(limit)s
)
select f.timing_partner_id, f.race_id, f.race_name, f.event_id, f.event_name, f.start_time, f.timezone,
       f.registration_id, f.first_name, f.middle_name, f.last_name, f.bib_num, f.chip_num, f.gender, f.age,
       f.removed_at, f.removed_reason, f.new_registration_id, s.event_name as new_event_name,
       s.bib_num as new_bib_num, f.missing_since, f.last_modified
from found as f
left join lateral (
    select e.name as event_name, p.bib_num
    from runsignup_events as e
    join runsignup_participants as p on p.timing_partner_id = e.timing_partner_id and p.event_id = e.event_id
    where e.timing_partner_id = f.timing_partner_id and e.race_id = f.race_id
      and p.registration_id = f.new_registration_id
    limit 1
) as s on f.new_registration_id is not null
order by f.over nulls last, f.days_off, f.race_id, f.removed_at is not null, f.last_name, f.first_name,
         f.registration_id, f.timing_partner_id
"""
BY_BIB = FIND.replace("<matches>", "p.bib_num = %(bib)s")
BY_NAME = FIND.replace(
    "<matches>", "concat_ws(' ', n.first_name, n.middle_name, n.last_name) ~* all (%(words)s::text[])"
)

# The primary key begins with partner and event: a race's few thousand rows are found through them among a million.
EVENTS: LiteralString = """
select coalesce(array_agg(distinct timing_partner_id), '{}'), coalesce(array_agg(distinct event_id), '{}')
from runsignup_events
where (%(partner)s::bigint is null or timing_partner_id = %(partner)s)
  and (%(race)s::bigint is null or race_id = %(race)s)
  and (%(event)s::bigint is null or event_id = %(event)s)
"""


async def find(conn: Connection, term: str, filters: Filters, *, limit: int) -> list[Found]:
    """Registrations with this bib, then those whose name has every word of the term in it, in any case.

    Within each, the races nearest to today first, those over behind. A number is only a bib; `since` is the start.
    """
    words = unicodedata.normalize("NFC", term.encode("utf-8", "replace").decode()).split()
    values = {**filters.values(), "limit": limit, "partners": None, "events": None}
    if filters.race_id is not None or filters.event_id is not None:
        row = await (await conn.execute(EVENTS, filters.values())).fetchone()
        values["partners"], values["events"] = row or ([], [])
    elif filters.timing_partner_id is not None:
        values["partners"] = [filters.timing_partner_id]
    found = await rows(conn, Found, BY_BIB, {**values, "bib": " ".join(words)})
    if words and not all(word.isdecimal() for word in words):
        named = await rows(conn, Found, BY_NAME, {**values, "words": [_pattern(word) for word in words]})
        found += [one for one in named if one not in found]
    return found[:limit]


def _pattern(word: str) -> str:
    """A regular expression for a word; a database without a locale knows the cases of plain Latin letters only."""
    cases = dict.fromkeys((word, word.lower(), word.upper(), word.title()))
    return "|".join(re.sub(r"([^\w])", r"\\\1", one) for one in cases)


@dataclass(frozen=True, slots=True)
class StoredRegistration:
    """A registration as stored, JSON columns as objects."""

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
    address: dict[str, Any] | None
    bib_num: str | None
    chip_num: str | None
    registration_date: datetime | None
    last_modified: datetime | None
    team_info: dict[str, Any] | None
    payment_info: dict[str, Any] | None
    additional_data: dict[str, Any] | None
    removed_at: datetime | None
    removed_reason: str | None
    missing_since: datetime | None


STORED_REGISTRATIONS: LiteralString = """
select event_id, registration_id, user_id, first_name, middle_name, last_name, email, phone, gender, dob, age, address,
       bib_num, chip_num, registration_date, last_modified, team_info, payment_info, additional_data, removed_at,
       removed_reason, missing_since
from runsignup_participants
where timing_partner_id = %(partner)s and race_id = %(race)s and event_id = any(%(events)s::bigint[])
  and (bib_num = %(bib)s and removed_at is null or registration_id = any(%(registrations)s::bigint[]))
"""

PARTNERS_OF_RACE: LiteralString = """
select timing_partner_id, company_name
from runsignup_races join timing_partners using (timing_partner_id)
where race_id = %s
"""


async def stored_registrations(
    conn: Connection,
    timing_partner_id: int,
    race_id: int,
    event_ids: Collection[int],
    bib: str,
    registration_ids: Collection[int],
) -> list[StoredRegistration]:
    """Those of a race's events that are on the start list with this bib, and the ones named, removed or not."""
    prepare(conn)
    values = {"partner": timing_partner_id, "race": race_id, "bib": bib}
    lists = {"events": list(event_ids), "registrations": list(registration_ids)}
    return await rows(conn, StoredRegistration, STORED_REGISTRATIONS, {**values, **lists})


async def partners_of_race(conn: Connection, race_id: int) -> dict[int, str]:
    """The timing partners for whom a race is stored, with their names."""
    return dict(await (await conn.execute(PARTNERS_OF_RACE, [race_id])).fetchall())


async def partner_of_race(conn: Connection, race_id: int, wanted: int | None) -> int:
    """The timing partner whose race is meant. Raises `ConfigurationError` where none is, or not clear which."""
    seen_by = await partners_of_race(conn, race_id)
    if wanted is not None and wanted in seen_by:
        return wanted
    if wanted is not None or not seen_by:
        whose = "" if wanted is None else f" of timing partner {wanted}"
        raise ConfigurationError(f"race {race_id}{whose} is not stored: startlist races shows what is")
    if len(seen_by) > 1:
        names = " and ".join(f"{number} ({name})" for number, name in sorted(seen_by.items()))
        raise ConfigurationError(f"race {race_id} is stored for timing partners {names}: choose with --timing-partner")
    return next(iter(seen_by))
