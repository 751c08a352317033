"""From a race's bytes to a `Race` with its events, losing nothing."""

from __future__ import annotations

from functools import partial

from startlist.runsignup import values
from startlist.runsignup.fields import Fields, json_object
from startlist.runsignup.jsontext import items, readable
from startlist.runsignup.records import BadRecord, Event, Race


def read_race(raw: bytes, endpoint: str) -> Race | BadRecord:
    """The race of a race record; a `BadRecord` when it is no object or has no `race_id`.

    Event times are read in the race's zone, all others in Eastern.
    """
    if not raw.startswith(b"{"):
        return BadRecord(endpoint, "not an object", readable(raw))
    fields = Fields(raw, apart="events")
    race_id = fields.take("race_id", values.identifier)
    if race_id is None:
        return BadRecord(endpoint, "race_id is not a whole number of at least 1", readable(raw))
    timezone = fields.take("timezone", values.text)
    zone, zone_known = values.zone(timezone)
    events: list[Event] = []
    bad: list[BadRecord] = []
    if fields.apart.startswith(b"["):
        for sent in items(fields.apart):
            event = _read_event(sent, race_id, timezone, endpoint)
            if isinstance(event, BadRecord):
                bad.append(event)
            else:
                events.append(event)
    elif fields.apart not in (b"", b"null"):
        fields.keep("events", fields.apart)
        fields.note("events")
    return Race(
        race_id=race_id,
        name=fields.take("name", values.text),
        timezone=timezone,
        zone=zone,
        zone_known=zone_known,
        url=fields.take("url", values.text),
        next_date=fields.take("next_date", values.day),
        last_date=fields.take("last_date", values.day),
        is_draft_race=fields.take("is_draft_race", values.flag),
        is_private_race=fields.take("is_private_race", values.flag),
        is_registration_open=fields.take("is_registration_open", values.flag),
        address=fields.take_object("address"),
        created=fields.take("created", values.eastern),
        last_modified=fields.take("last_modified", values.eastern),
        additional_data=json_object(fields.left),
        field_errors=fields.errors,
        events=tuple(events),
        bad=tuple(bad),
    )


def _read_event(raw: bytes, race_id: int, timezone: str | None, endpoint: str) -> Event | BadRecord:
    if not raw.startswith(b"{"):
        return BadRecord(endpoint, "an event that is not an object", readable(raw))
    fields = Fields(raw)
    event_id = fields.take("event_id", values.identifier)
    if event_id is None:
        return BadRecord(endpoint, "event_id is not a whole number of at least 1", readable(raw))
    zone, _ = values.zone(timezone)
    start_time = fields.take("start_time", partial(values.local_time, zone=zone))
    distance = fields.take("distance", values.text)
    return Event(
        event_id=event_id,
        race_id=race_id,
        race_event_days_id=fields.take("race_event_days_id", values.integer),
        name=fields.take("name", values.text),
        event_type=fields.take("event_type", values.text),
        start_time=start_time,
        end_time=fields.take("end_time", partial(values.local_time, zone=zone)),
        timezone=zone.key,
        race_day=None if start_time is None else start_time.astimezone(zone).date(),
        distance=distance,
        distance_meters=None if distance is None else values.meters(distance),
        age_calc_base_date=fields.take("age_calc_base_date", values.day),
        registration_opens=fields.take("registration_opens", values.eastern),
        giveaway=fields.take("giveaway", values.text),
        volunteer=fields.take("volunteer", values.flag),
        require_dob=fields.take("require_dob", values.flag),
        require_phone=fields.take("require_phone", values.flag),
        additional_data=json_object(fields.left),
        field_errors=fields.errors,
    )
