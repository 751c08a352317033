"""Races and their events: as RunSignup lists them, and as the plan needs them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

from startlist.store.database import Connection


class Event(Protocol):
    """An event as RunSignup sent it, attributes named as the columns; JSON is text as bytes."""

    event_id: int
    race_event_days_id: int | None
    name: str | None
    event_type: str | None
    start_time: datetime | None
    end_time: datetime | None
    timezone: str
    race_day: date | None
    distance: str | None
    distance_meters: Decimal | None
    age_calc_base_date: date | None
    registration_opens: datetime | None
    giveaway: str | None
    volunteer: bool | None
    require_dob: bool | None
    require_phone: bool | None
    additional_data: bytes
    field_errors: list[str]


class Race(Protocol):
    """A race as RunSignup sent it, attributes named as the columns; JSON is text as bytes."""

    race_id: int
    name: str | None
    timezone: str | None
    url: str | None
    next_date: date | None
    last_date: date | None
    is_draft_race: bool | None
    is_private_race: bool | None
    is_registration_open: bool | None
    address: bytes | None
    created: datetime | None
    last_modified: datetime | None
    additional_data: bytes
    field_errors: list[str]

    @property
    def events(self) -> Sequence[Event]: ...


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """What the plan needs of an event that is stored."""

    event_id: int
    start_time: datetime | None
    end_time: datetime | None
    timezone: str
    race_day: date | None
    gone_at: datetime | None
    first_full_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredRace:
    """What the plan needs of a race that is stored; `has_events`: some are, if not among those asked for."""

    race_id: int
    credential_id: int | None
    name: str | None
    last_modified: datetime | None
    record_read_at: datetime | None
    gone_at: datetime | None
    has_events: bool
    events: list[StoredEvent]


# What only a race's own record sends is not wiped out by the list, which sends fewer keys.
STORE_RACE = """
insert into runsignup_races as r
    (timing_partner_id, race_id, credential_id, name, timezone, url, next_date, last_date, is_draft_race,
     is_private_race, is_registration_open, address, created, last_modified, additional_data, field_errors,
     record_read_at)
values (%(partner)s, %(race_id)s, %(credential)s, %(name)s, %(timezone)s, %(url)s, %(next_date)s, %(last_date)s,
        %(is_draft_race)s, %(is_private_race)s, %(is_registration_open)s, %(address)s::jsonb, %(created)s,
        %(last_modified)s, %(additional_data)s::jsonb, %(field_errors)s,
        case when %(record)s then now() end)
on conflict (timing_partner_id, race_id) do update
set (credential_id, name, timezone, url, next_date, last_date, is_draft_race, is_private_race, is_registration_open,
     address, created, last_modified, additional_data, field_errors, record_read_at, gone_at)
  = (excluded.credential_id, excluded.name, excluded.timezone, excluded.url, excluded.next_date, excluded.last_date,
     excluded.is_draft_race, coalesce(excluded.is_private_race, r.is_private_race), excluded.is_registration_open,
     excluded.address, excluded.created, excluded.last_modified, r.additional_data || excluded.additional_data,
     excluded.field_errors,
     case when r.last_modified is distinct from excluded.last_modified then excluded.record_read_at
          else coalesce(excluded.record_read_at, r.record_read_at) end, null)
where (r.credential_id, r.name, r.timezone, r.url, r.next_date, r.last_date, r.is_draft_race, r.is_private_race,
       r.is_registration_open, r.address, r.created, r.last_modified, r.additional_data, r.field_errors, r.gone_at)
    is distinct from
      (excluded.credential_id, excluded.name, excluded.timezone, excluded.url, excluded.next_date, excluded.last_date,
       excluded.is_draft_race, coalesce(excluded.is_private_race, r.is_private_race), excluded.is_registration_open,
       excluded.address, excluded.created, excluded.last_modified, r.additional_data || excluded.additional_data,
       excluded.field_errors, null)
   or excluded.record_read_at is not null
"""

STORE_EVENT = """
insert into runsignup_events as e
    (timing_partner_id, event_id, race_id, race_event_days_id, name, event_type, start_time, end_time, timezone,
     race_day, distance, distance_meters, age_calc_base_date, registration_opens, giveaway, volunteer, require_dob,
     require_phone, additional_data, field_errors)
values (%(partner)s, %(event_id)s, %(race_id)s, %(race_event_days_id)s, %(name)s, %(event_type)s, %(start_time)s,
        %(end_time)s, %(timezone)s, %(race_day)s, %(distance)s, %(distance_meters)s, %(age_calc_base_date)s,
        %(registration_opens)s, %(giveaway)s, %(volunteer)s, %(require_dob)s, %(require_phone)s,
        %(additional_data)s::jsonb, %(field_errors)s)
on conflict (timing_partner_id, event_id) do update
set (race_id, race_event_days_id, name, event_type, start_time, end_time, timezone, race_day, distance,
     distance_meters, age_calc_base_date, registration_opens, giveaway, volunteer, require_dob, require_phone,
     additional_data, field_errors, gone_at)
  = (excluded.race_id, excluded.race_event_days_id, excluded.name, excluded.event_type, excluded.start_time,
     excluded.end_time, excluded.timezone, excluded.race_day, excluded.distance, excluded.distance_meters,
     excluded.age_calc_base_date, excluded.registration_opens, excluded.giveaway, excluded.volunteer,
     excluded.require_dob, excluded.require_phone, e.additional_data || excluded.additional_data,
     excluded.field_errors, null)
where (e.race_id, e.race_event_days_id, e.name, e.event_type, e.start_time, e.end_time, e.timezone, e.race_day,
       e.distance, e.distance_meters, e.age_calc_base_date, e.registration_opens, e.giveaway, e.volunteer,
       e.require_dob, e.require_phone, e.additional_data, e.field_errors, e.gone_at)
    is distinct from
      (excluded.race_id, excluded.race_event_days_id, excluded.name, excluded.event_type, excluded.start_time,
       excluded.end_time, excluded.timezone, excluded.race_day, excluded.distance, excluded.distance_meters,
       excluded.age_calc_base_date, excluded.registration_opens, excluded.giveaway, excluded.volunteer,
       excluded.require_dob, excluded.require_phone, e.additional_data || excluded.additional_data,
       excluded.field_errors, null)
"""

# Of what is coming the sync knows better: of that only what it has not seen yet.
STORE_RACE_IF_NEW = STORE_RACE.partition("on conflict")[0] + "on conflict do nothing"
STORE_EVENT_IF_NEW = STORE_EVENT.partition("on conflict")[0] + "on conflict do nothing"

STORED = """
select r.race_id, r.credential_id, r.name, r.last_modified, r.record_read_at, r.gone_at,
       exists (select from runsignup_events as any_event
               where any_event.timing_partner_id = r.timing_partner_id and any_event.race_id = r.race_id),
       e.event_id, e.start_time, e.end_time, e.timezone, e.race_day, e.gone_at, e.first_full_at
from runsignup_races as r
left join runsignup_events as e
    on e.timing_partner_id = r.timing_partner_id and e.race_id = r.race_id
    and (%(ended_after)s::timestamptz is null or e.start_time is null
         or greatest(e.start_time, e.end_time) > %(ended_after)s)
where r.timing_partner_id = %(partner)s and (%(race)s::bigint is null or r.race_id = %(race)s::bigint)
order by r.race_id, e.event_id
"""


async def store_races(
    conn: Connection, timing_partner_id: int, races: Sequence[tuple[Race, int]], *, record: bool = False
) -> None:
    """Store races, each with the credential it is read with; only what differs is written.

    `record`: they are races' own records (GET race/:id), whose reading is dated.
    """
    async with conn.cursor() as cursor:
        await cursor.executemany(
            STORE_RACE,
            [
                _values(race, timing_partner_id) | {"credential": credential_id, "record": record}
                for race, credential_id in races
            ],
        )
        await cursor.executemany(
            STORE_EVENT,
            [
                _values(event, timing_partner_id) | {"race_id": race.race_id}
                for race, _ in races
                for event in race.events
            ],
        )


async def store_past(
    conn: Connection, timing_partner_id: int, race: Race, credential_id: int, over: Collection[int]
) -> None:
    """Store a race's events that are `over`, and of its other events what nobody has stored yet.

    Of the race as well, unless all its events are over, when nobody else reads it.
    """
    all_over = all(event.event_id in over for event in race.events)
    values = _values(race, timing_partner_id) | {"credential": credential_id, "record": all_over}
    await conn.execute(STORE_RACE if all_over else STORE_RACE_IF_NEW, values)
    async with conn.cursor() as cursor:
        for statement, wanted in ((STORE_EVENT, True), (STORE_EVENT_IF_NEW, False)):
            await cursor.executemany(
                statement,
                [
                    _values(event, timing_partner_id) | {"race_id": race.race_id}
                    for event in race.events
                    if (event.event_id in over) is wanted
                ],
            )


def _values(sent: Race | Event, timing_partner_id: int) -> dict[str, Any]:
    """The columns' values by name; JSON as text, which a cast takes."""
    values: dict[str, Any] = {"partner": timing_partner_id}
    for name in Race.__annotations__ if hasattr(sent, "next_date") else Event.__annotations__:
        value = getattr(sent, name)
        values[name] = value.decode() if isinstance(value, bytes) else list(value) if name == "field_errors" else value
    return values


async def stored_races(
    conn: Connection, timing_partner_id: int, race_id: int | None = None, *, ended_after: datetime | None = None
) -> dict[int, StoredRace]:
    """The partner's stored races (or one) by race id, each with its events, or with those that end after an instant."""
    found: dict[int, StoredRace] = {}
    values = {"partner": timing_partner_id, "race": race_id, "ended_after": ended_after}
    for number, credential, name, modified, read_at, gone_at, has_events, *event in await (
        await conn.execute(STORED, values)
    ).fetchall():
        race = found.get(number)
        if race is None:
            found[number] = race = StoredRace(number, credential, name, modified, read_at, gone_at, has_events, [])
        if event[0] is not None:
            race.events.append(StoredEvent(*event))
    return found


async def mark_race_gone(conn: Connection, timing_partner_id: int, race_id: int) -> None:
    """Note that RunSignup no longer knows the race (code 201); its rows stay."""
    await conn.execute(
        "update runsignup_races set gone_at = coalesce(gone_at, now()) where timing_partner_id = %s and race_id = %s",
        [timing_partner_id, race_id],
    )


async def mark_events_gone(conn: Connection, timing_partner_id: int, event_ids: Collection[int]) -> None:
    """Note that RunSignup no longer knows these events (code 301); their rows stay."""
    await conn.execute(
        "update runsignup_events set gone_at = coalesce(gone_at, now())"
        " where timing_partner_id = %s and event_id = any(%s::bigint[])",
        [timing_partner_id, list(event_ids)],
    )


MARK_FIRST_FULL = """
update runsignup_events as e
set first_full_at = now()
where timing_partner_id = %(partner)s and event_id = any(%(events)s::bigint[]) and first_full_at is null
  and (not %(if_stored)s or exists (select from runsignup_participants as p
                                    where p.timing_partner_id = e.timing_partner_id and p.event_id = e.event_id))
"""


async def mark_first_full(
    conn: Connection, timing_partner_id: int, event_ids: Collection[int], *, if_stored: bool = False
) -> None:
    """Note that these events had their first full pass: from now on what is new in them is a change.

    `if_stored`: only those of which something is stored; an old event that answers nothing may answer later.
    """
    values = {"partner": timing_partner_id, "events": list(event_ids), "if_stored": if_stored}
    await conn.execute(MARK_FIRST_FULL, values)


async def active_rows(conn: Connection, timing_partner_id: int, event_ids: Collection[int]) -> dict[int, int]:
    """How many registrations of each event are active (not removed) and not missing."""
    found = await conn.execute(
        "select event_id, count(*) from runsignup_participants"
        " where timing_partner_id = %s and event_id = any(%s::bigint[])"
        " and removed_at is null and missing_since is null group by event_id",
        [timing_partner_id, list(event_ids)],
    )
    return dict(await found.fetchall())


async def counted_rows(conn: Connection, timing_partner_id: int, event_ids: Collection[int]) -> int:
    """How many registrations of these events are on their start lists, missing ones included."""
    row = await (
        await conn.execute(
            "select count(*) from runsignup_participants"
            " where timing_partner_id = %s and event_id = any(%s::bigint[]) and removed_at is null",
            [timing_partner_id, list(event_ids)],
        )
    ).fetchone()
    return int(row[0]) if row else 0
