"""From an answer's body to its records: envelopes in every form seen, bad records set aside, errors in a 200 found.

A body may be one object or an array of them; rows may be in an element, in its `event`, or in both; keys may be absent;
ids may be numbers or digits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from startlist.runsignup import values
from startlist.runsignup.fields import Fields, json_object
from startlist.runsignup.jsontext import BROKEN, items, key_text, members, plain, readable, whole
from startlist.runsignup.paging import Tally
from startlist.runsignup.races import read_race
from startlist.runsignup.records import BadRecord, Race, Removal

Body = bytes | bytearray | memoryview
R = TypeVar("R")

_ID: Final = "registration_id is not a whole number of at least 1"
_EVENT: Final = "no event_id in the record nor around it"
_USER: Final = "user is not an object"


class WrongShapeError(ValueError):
    """A body that is not whole JSON of the expected form; the text says which and quotes nothing."""


class ReportedError(ValueError):
    """An error that RunSignup reports in a body: its code, or its text where it sent a plain text."""

    def __init__(self, code: int | None, text: str | None) -> None:
        super().__init__("RunSignup reports an error")
        self.code, self.text = code, text


@dataclass(slots=True)
class Rows(Generic[R]):
    """The records of one answer. `strays`: it held entries that are no element, so rows may be missing from it."""

    rows: list[R] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    strays: bool = False


class _Around(msgspec.Struct):
    event_id: Raw | UnsetType = UNSET
    participants: list[Raw] | UnsetType | None = UNSET


class _Element(msgspec.Struct):
    event: _Around | UnsetType | None = UNSET
    participants: list[Raw] | UnsetType | None = UNSET


class _User(msgspec.Struct):
    pass


class _Head(msgspec.Struct, gc=False):
    registration_id: int
    user: _User
    event_id: int | None = None


class _Modified(msgspec.Struct):
    last_modified: Raw | UnsetType = UNSET
    last_modified_ts: Raw | UnsetType = UNSET


class _Failure(msgspec.Struct):
    error: Raw | UnsetType = UNSET


class _Races(msgspec.Struct):
    races: list[Raw]


class _Wrapped(msgspec.Struct):
    race: Raw | UnsetType = UNSET


_members = msgspec.json.Decoder(dict[str, Raw])
_anything = msgspec.json.Decoder(Raw)
_elements = msgspec.json.Decoder(list[_Element])
_one_element = msgspec.json.Decoder(_Element)
_head = msgspec.json.Decoder(_Head)
_modified = msgspec.json.Decoder(_Modified)
_failure = msgspec.json.Decoder(_Failure)
_races = msgspec.json.Decoder(_Races)
_bare_races = msgspec.json.Decoder(list[Raw])
_wrapped = msgspec.json.Decoder(_Wrapped)

_OBJECT: Final = re.compile(rb"\s*\{")


def raise_reported(body: Body) -> None:
    """Raise `ReportedError` when the body is an object with an `error`."""
    if not _is_object(body):
        return
    try:
        failure = _failure.decode(body)
    except BROKEN:
        return
    if failure.error is not UNSET:
        _raise_error(bytes(failure.error))


def _raise_error(raw: bytes) -> None:
    error = _value(raw)
    if error is None:
        return
    code = error.get("error_code") if isinstance(error, dict) else None
    text = error.get("error_msg") if isinstance(error, dict) else error
    try:
        number = None if code is None else values.integer(code, values.INT4)
    except values.MisfitError:
        number = None
    raise ReportedError(number, text if isinstance(text, str) else None)


def read_rows(body: Body, endpoint: str, make: Callable[[int, int, Raw | bytes], R]) -> Rows[R]:
    """The rows of a participants or removed-participants answer, each made by `make(event_id, registration_id, raw)`.

    Raises `WrongShapeError`, or `ReportedError` for an error in place of an element.
    """
    found: Rows[R] = Rows()
    by_element: Counter[int | None] = Counter()
    by_row: Counter[int | None] = Counter()
    seen: set[tuple[int, int]] = set()
    largest = 0
    for event_id, rows in _row_lists(body, endpoint, found):
        found.tally.by_event.append(len(rows))
        by_element[event_id] += len(rows)
        for raw in rows:
            head = _read_head(raw, event_id, endpoint)
            if isinstance(head, BadRecord):
                found.bad.append(head)
                by_row[head.event_id] += 1
                continue
            own_event, registration_id = head
            found.rows.append(make(own_event, registration_id, raw))
            by_row[own_event] += 1
            seen.add(head)
            if registration_id > largest:
                largest = registration_id
    found.tally.rows += by_row.total()
    found.tally.by_event += [*by_element.values(), *by_row.values()]
    if len(seen) < len(found.rows):  # a page that was cut at a round number may repeat a row beyond it
        by_id = Counter(own_event for own_event, _ in seen)
        found.tally.by_event += [len(seen) + len(found.bad), *by_id.values()]
    found.tally.largest_id = max((largest, *(bad.registration_id or 0 for bad in found.bad))) or None
    return found


def _row_lists(body: Body, endpoint: str, found: Rows[Any]) -> Iterable[tuple[int | None, list[Raw] | list[bytes]]]:
    """Per list of rows the event id of its element; what is no element goes to `found`."""
    try:
        elements = [_one_element.decode(body)] if _is_object(body) else _elements.decode(body)
    except BROKEN:
        return _row_lists_slowly(_whole(body), endpoint, found)
    lists: list[tuple[int | None, list[Raw] | list[bytes]]] = []
    for element in elements:
        around = element.event or None
        if around is None and not isinstance(element.participants, list):
            return _row_lists_slowly(_whole(body), endpoint, found)
        event_id = _id(around.event_id) if around is not None else None
        lists.append((event_id, [*((around and around.participants) or ()), *(element.participants or ())]))
    return lists


def _row_lists_slowly(body: bytes, endpoint: str, found: Rows[Any]) -> list[tuple[int | None, list[Raw] | list[bytes]]]:
    lists: list[tuple[int | None, list[Raw] | list[bytes]]] = []
    strays: list[bytes] = []
    for entry in _entries(body):
        element = _named(entry)
        if "error" in element:
            _raise_error(element["error"])
        sent_around, sent_rows = element.get("event", b""), element.get("participants", b"")
        if not sent_around.startswith(b"{") and not sent_rows.startswith(b"["):
            strays.append(entry)
            continue
        around = _named(sent_around)
        rows = [_list_of(part.get("participants", b"null")) for part in (around, element)]
        lists.append((_id(around.get("event_id", b"null")), rows[0] + rows[1]))
    if strays and not lists:
        raise WrongShapeError("no element with an event or participants in it")
    for entry in strays:
        head = _read_head(entry, None, endpoint)
        event_id, registration_id = (
            (head.event_id, head.registration_id) if isinstance(head, BadRecord) else (head[0], head[1])
        )
        reason = "an entry that is not an event with its participants"
        found.bad.append(BadRecord(endpoint, reason, readable(entry), event_id, registration_id))
        found.tally.rows += 1
        found.strays = True
    return lists


def _read_head(raw: Raw | bytes, event_id: int | None, endpoint: str) -> tuple[int, int] | BadRecord:
    """The event and registration id of a row that can be stored."""
    try:
        head = _head.decode(raw)
    except BROKEN:
        pass
    else:
        own_event = head.event_id
        if own_event is None or not 1 <= own_event <= values.INT8[1]:
            own_event = event_id
        if own_event is not None and 1 <= head.registration_id <= values.INT8[1]:
            return own_event, head.registration_id
    sent = bytes(raw)
    fields = _named(sent)
    own_event = _id(fields.get("event_id", b"null")) or event_id
    registration_id = _id(fields.get("registration_id", b"null"))
    if not sent.startswith(b"{"):
        reason = "not an object"
    elif registration_id is None:
        reason = _ID
    elif own_event is None:
        reason = _EVENT
    elif not fields.get("user", b"").startswith(b"{"):
        reason = _USER
    else:
        return own_event, registration_id
    return BadRecord(endpoint, reason, readable(sent), own_event, registration_id)


def read_removal(event_id: int, registration_id: int, raw: Raw | bytes) -> Removal:
    """A removed record; fields that do not fit are None here and as sent in `raw`."""
    sent = bytes(raw)
    fields = Fields(sent)
    return Removal(
        event_id=event_id,
        registration_id=registration_id,
        removed_reason=fields.peek("removed_reason", values.text),
        modified_at=fields.peek("last_modified_ts", values.epoch) or fields.peek("last_modified", values.eastern),
        new_registration_id=fields.peek("new_registration_id", values.identifier),
        raw=sent if plain(sent) else json_object(fields.left),
    )


def latest_change(rows: Iterable[Raw | bytes]) -> int | None:
    """The largest epoch second that records of an answer give as their last change; None when none gives one."""
    latest: int | None = None
    for raw in rows:
        try:
            seen = _modified.decode(raw)
        except BROKEN:
            continue
        for second in (_id(seen.last_modified), _id(seen.last_modified_ts)):
            if second is not None and second <= values.LAST_SECOND and second > (latest or 0):
                latest = second
    return latest


def read_races(body: Body, endpoint: str) -> tuple[list[Race], list[BadRecord]]:
    """The races of a race list, with their events. Raises `WrongShapeError`."""
    sent: list[Raw] | list[bytes]
    try:
        sent = _races.decode(body).races if _is_object(body) else _bare_races.decode(body)
    except BROKEN:
        text = _whole(body)
        listed = _named(text).get("races", b"") if text.startswith(b"{") else text
        if not listed.startswith(b"["):
            raise WrongShapeError("no list of races") from None
        sent = items(listed)
    races: list[Race] = []
    bad: list[BadRecord] = []
    for entry in sent:
        race = read_race(_unwrapped(bytes(entry)), endpoint)
        if isinstance(race, BadRecord):
            bad.append(race)
        else:
            races.append(race)
    return races, bad


def read_one_race(body: Body, endpoint: str) -> Race:
    """The race of a race answer. Raises `WrongShapeError` when there is none that can be stored."""
    entries = _entries(_whole(body))
    if len(entries) != 1:
        raise WrongShapeError("not one race")
    race = read_race(_unwrapped(entries[0]), endpoint)
    if isinstance(race, BadRecord):
        raise WrongShapeError(f"no race: {race.reason}")
    return race


def _is_object(body: Body) -> bool:
    return _OBJECT.match(body) is not None


def _whole(body: Body) -> bytes:
    text = bytes(body).strip()
    try:
        _anything.decode(text)
    except BROKEN:
        if not whole(text):
            raise WrongShapeError("not whole JSON") from None
    return text


def _entries(text: bytes) -> list[bytes]:
    if text.startswith(b"["):
        return items(text)
    if text.startswith(b"{"):
        return [text]
    raise WrongShapeError("neither an object nor an array")


def _named(raw: bytes) -> dict[str, bytes]:
    if not raw.startswith(b"{"):
        return {}
    try:
        return {name: bytes(value) for name, value in _members.decode(raw).items()}
    except BROKEN:
        return {key_text(key)[0]: value for key, value in members(raw)}


def _list_of(raw: bytes) -> list[bytes]:
    if raw == b"null":
        return []
    if not raw.startswith(b"["):
        raise WrongShapeError("participants is not a list")
    return items(raw)


def _unwrapped(entry: bytes) -> bytes:
    try:
        inner = _wrapped.decode(entry).race
    except BROKEN:
        return _named(entry).get("race", entry)
    return entry if isinstance(inner, UnsetType) else bytes(inner)


def _value(raw: Raw | bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except BROKEN:
        return None


def _id(raw: Raw | bytes | UnsetType) -> int | None:
    if isinstance(raw, UnsetType):
        return None
    value = _value(raw)
    try:
        return None if value is None else values.identifier(value)
    except values.MisfitError:
        return None
