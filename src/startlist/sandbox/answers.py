"""The four methods of the API that a sync uses, each from the world to the bytes of a JSON answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from itertools import islice
from typing import Any

from .query import ApiError, Query
from .rows import EVERYTHING, Registration, Removal, write_rows
from .wire import EASTERN, short_time, text, words
from .world import Event, Key, Race, World, registration_id_of

_RACE_SORTS = frozenset(("name", "date", "end_date"))
_PARTICIPANT_SORTS = frozenset(
    words("registration_id registration_date age name first_name last_name bib_num chip_num gender")
)
_REMOVED_SORTS = frozenset(("registration_id", "registration_date", "last_modified"))


@dataclass(slots=True)
class Answer:
    """A JSON body and how many rows (races, registrations) are in it."""

    body: bytes
    rows: int


def races(world: World, key: Key | None, query: Query) -> Answer:
    """Answer `GET /races`: what the key reaches, or without one every public race."""
    now = world.clock.now()
    page, size = query.paging(50, 1000)
    sort, descending = query.sort(_RACE_SORTS, "name ASC")
    start, end = query.day("start_date", now, "today"), query.day("end_date", now)
    starts_only = query.flag("search_start_date_only")
    changed = _races_changed(query, now)
    wanted: list[tuple[Any, Race]] = []
    for race in world.races.values():
        if race.deleted or (race.race_id not in key.race_ids if key else not race.public):
            continue
        if "modified_since" in query.values and int(race.modified) < changed:
            continue
        periods = [
            (first, last)
            for first, last in race.periods().values()
            if (start is None or (first if starts_only else last) >= start) and (end is None or first <= end)
        ]
        if not periods and race.periods():
            continue
        if sort == "name":
            order: Any = (race.name.casefold(), race.race_id)
        else:
            order = (periods[0][sort == "end_date"].isoformat() if periods else "", race.race_id)
        wanted.append((order, race))
    wanted.sort(key=lambda item: item[0], reverse=descending)
    shown = [race for _, race in wanted[(page - 1) * size : page * size]]
    found: list[dict[str, Any]] = []
    for race in shown:
        record = race.record(now)
        if query.flag("events"):
            current = race.current_days_id(now)
            record["events"] = [_event(event, query) for event in race.listed() if event.days_id == current]
        found.append({"race": _with_extras(record, race, query)})
    return Answer(text({"races": found}).encode(), len(found))


def _races_changed(query: Query, now: float) -> float:
    value = query.values.get("modified_since", "")
    if value.isascii() and value.isdigit():
        return int(value)
    day = query.day("modified_since", now)
    return datetime.combine(day, time(), EASTERN).timestamp() if day else 0


def race_record(world: World, key: Key | None, race_id: str, query: Query) -> Answer:
    """Answer `GET /race/:id`: the record with the events of all years unless told otherwise."""
    race = _race(world, race_id)
    if not race.public and (key is None or race.race_id not in key.race_ids):
        raise ApiError(7)
    now = world.clock.now()
    events = race.listed()
    if query.flag("future_events_only"):
        future = {event.event_id for event in world.future_events(race)}
        events = [event for event in events if event.event_id in future]
    if query.flag("most_recent_events_only"):
        latest = list(race.periods())[-1:]
        events = [event for event in events if event.days_id in latest]
    if (days_id := query.number("race_event_days_id")) is not None:
        events = [event for event in events if event.days_id == days_id]
    record = race.record(now)
    record["can_use_registration_api"] = race.fields.get("can_use_registration_api", "F")
    record["events"] = [_event(event, query) for event in events]
    return Answer(text({"race": _with_extras(record, race, query)}).encode(), 1)


def _race(world: World, race_id: str) -> Race:
    if not (race_id.isascii() and race_id.isdigit()):
        raise ApiError(15)
    race = world.races.get(int(race_id))
    if race is None or race.deleted:
        raise ApiError(201)
    return race


def _event(event: Event, query: Query) -> dict[str, Any]:
    shown = {key: value for key, value in event.fields.items() if not key.startswith("_")}
    if not query.flag("include_participant_caps"):
        shown.pop("participant_cap", None)
    return shown


def _with_extras(record: dict[str, Any], race: Race, query: Query) -> dict[str, Any]:
    if query.flag("include_event_days"):
        record["race_event_days"] = [
            {
                "race_event_days_id": days_id,
                "start_date": short_time(datetime.combine(first, time())),
                "end_date": short_time(datetime.combine(last, time())),
            }
            for days_id, (first, last) in race.periods().items()
        ]
    if query.flag("include_questions"):
        record["questions"] = race.fields.get("_questions", [])
    if query.flag("include_addons"):
        record["registration_addons"] = race.fields.get("_addons", [])
    return record


def _asked_events(world: World, key: Key | None, race_id: str, query: Query) -> list[Event]:
    race = _race(world, race_id)
    if key is None or race.race_id not in key.race_ids:
        raise ApiError(7)
    events: list[Event] = []
    for event_id in query.ids("event_id"):
        event = race.events.get(event_id)
        if event is None or event.removed:
            raise ApiError(301)
        events.append(event)
    return events


Order = Callable[[Registration], Any]


def _participant_order(name: str) -> Order:
    def user(*names: str) -> Order:
        return lambda row: tuple(str(row.person.data.get(part) or "").casefold() for part in names)

    def may_be_null(attribute: str) -> Order:
        def order(row: Registration) -> tuple[bool, bool, Any]:
            value = getattr(row, attribute)
            return value is not None, isinstance(value, str), value or 0

        return order

    orders: dict[str, Order] = {
        "registration_id": registration_id_of,
        "registration_date": lambda row: row.registered,
        "age": may_be_null("age"),
        "name": user("last_name", "first_name"),
        "first_name": user("first_name", "last_name"),
        "last_name": user("last_name", "first_name"),
        "bib_num": may_be_null("bib"),
        "chip_num": may_be_null("chip"),
        "gender": user("gender"),
    }
    return orders[name]


def participants(world: World, key: Key | None, race_id: str, query: Query) -> Answer:
    """Answer `GET /race/:id/participants`: an array, an element per event, rows beside (not in) `event`."""
    events = _asked_events(world, key, race_id, query)
    page, size = query.paging(50, 2500)
    # The default order is documented nowhere; by name here, so that who relies on another is found out.
    sort, descending = query.sort(_PARTICIPANT_SORTS, "name ASC")
    after, before = query.number("after_registration_id"), query.number("before_registration_id")
    per_event = world.settings.paging == "per_event"
    test = _participant_test(query)
    order = _participant_order(sort)
    by_id = sort == "registration_id" and not descending
    since = query.since("modified_after_timestamp")
    chosen: dict[int, list[Registration]] = {}
    for event in events:
        rows = event.active
        if query.flag("include_transferred_participants"):
            gone = [item.registration for item in event.removals.values() if item.reason == "transferred"]
            rows = sorted([*rows, *gone], key=registration_id_of)
        low = event_position(rows, after) if after is not None else 0
        high = event_position(rows, before - 1) if before else len(rows)
        if since is not None and (since < 0 or event.latest_change < since):
            found: list[Registration] = []
        elif by_id:
            # No more than the asked pages can hold is ever looked at.
            stop = page * size
            if test is None:
                found = rows[low : min(high, low + stop)]
            else:
                found = list(islice((row for row in islice(rows, low, high) if test(row, event)), stop))
        else:
            found = [row for row in rows[low:high] if test is None or test(row, event)]
            found.sort(key=order, reverse=descending)
        chosen[event.event_id] = found
    _cut(chosen, order, descending, page, size, per_event)
    template = query.flag("include_template_participant") and page == 1 and after is None
    return _envelope(events, chosen, query.mask(), template)


def event_position(rows: list[Registration], after: int) -> int:
    """Return where the ids greater than `after` begin."""
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if rows[middle].registration_id <= after:
            low = middle + 1
        else:
            high = middle
    return low


def _participant_test(query: Query) -> Callable[[Registration, Event], bool] | None:
    """Return what a row must satisfy, None if nothing."""
    changed = query.since("modified_after_timestamp")
    registered = query.since("registered_after_timestamp")
    until = query.since("registered_before_timestamp")
    bib = query.number("search_bib")
    own_only = query.flag("exclude_registrations_via_super_event")
    if changed is None and registered is None and until is None and bib is None and not own_only:
        return None
    if -1 in (changed, registered, until):
        return lambda row, event: False

    def test(row: Registration, event: Event) -> bool:
        return (
            (changed is None or (row.modified is not None and row.modified >= changed))
            and (registered is None or row.registered >= registered)
            and (until is None or row.registered <= until)
            and (bib is None or (row.bib is not None and str(row.bib) == str(bib)))
            and (not own_only or row.event_id == event.event_id)
        )

    return test


def _cut(
    chosen: dict[int, list[Any]],
    order: Callable[[Any], Any],
    descending: bool,
    page: int,
    size: int,
    per_event: bool,
) -> None:
    """Keep one page of what was chosen (each list in order), counted in total or per event."""
    first, stop = (page - 1) * size, page * size
    if per_event or len(chosen) == 1:
        for event_id, rows in chosen.items():
            chosen[event_id] = rows[first:stop]
        return
    if first == 0 and sum(map(len, chosen.values())) <= size:
        return
    merged = [(order(row), event_id, row) for event_id, rows in chosen.items() for row in rows]
    merged.sort(key=lambda item: item[0], reverse=descending)
    for event_id in chosen:
        chosen[event_id] = []
    for _, event_id, row in merged[first:stop]:
        chosen[event_id].append(row)


_TEMPLATE_USER = {"user_id": None, "first_name": "Template", "last_name": "Participant"}


def _envelope(events: list[Event], chosen: dict[int, list[Registration]], mask: int, template: bool) -> Answer:
    parts: list[bytes] = []
    total = 0
    for event in events:
        rows = chosen[event.event_id]
        total += len(rows)
        parts.append(
            b'%s{"event":{"event_id":%d,"participants":[]}' % (b"," if parts else b"[", event.event_id)
            # An event without rows has no such key at all.
            + (b',"participants":[' if rows or template else b"")
        )
        if template:
            fake = text({"user": _TEMPLATE_USER, "registration_id": -1, "event_id": event.event_id})
            parts.append(fake.encode() + (b"," if rows else b""))
        parts += write_rows(rows, event.event_id, mask)
        parts.append(b"]}" if rows or template else b"}")
    parts.append(b"]")
    return Answer(b"".join(parts), total)


def removed_participants(world: World, key: Key | None, race_id: str, query: Query) -> Answer:
    """Answer `GET /race/:id/removed-participants`: rows inside `event.participants`, other dates."""
    events = _asked_events(world, key, race_id, query)
    page, size = query.paging(50, 1000)
    sort, descending = query.sort(_REMOVED_SORTS, "last_modified ASC")
    order: Callable[[Removal], Any] = {
        "registration_id": lambda item: item.registration.registration_id,
        "registration_date": lambda item: item.registration.registered,
        "last_modified": lambda item: (item.modified, item.registration.registration_id),
    }[sort]
    after = query.number("after_registration_id") or 0
    since = query.since("modified_after_timestamp")
    chosen: dict[int, list[Removal]] = {}
    for event in events:
        rows = [
            item
            for item in event.removals.values()
            if item.registration.registration_id > after and (since is None or 0 <= since <= item.modified)
        ]
        rows.sort(key=order, reverse=descending)
        chosen[event.event_id] = rows
    _cut(chosen, order, descending, page, size, world.settings.paging == "per_event")
    mask = query.mask()
    condensed = query.flag("condensed_format")
    elements = [
        {
            "event": {
                "event_id": event.event_id,
                "participants": [item.condensed() if condensed else item.row(mask) for item in chosen[event.event_id]],
            }
        }
        for event in events
    ]
    return Answer(text(elements).encode(), sum(map(len, chosen.values())))


def rows_as_sent(registrations: Sequence[Registration], event_id: int) -> bytes:
    """Return rows as a JSON array, every optional part shown: the truth a test compares with."""
    return b"[" + b"".join(write_rows(registrations, event_id, EVERYTHING)) + b"]"
