"""Faults: what goes wrong with single calls, on demand."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .log import Call
from .query import Query
from .wire import words

KINDS = frozenset(
    words(
        "http error reset cut timeout delay truncate html wrong_shape object_envelope duplicate_rows bad_rows "
        "string_ids key_order drop_keys clamp ignore_cursor empty empty_array then before no_date bad_date "
        "clock_skew"
    )
)
_SPOILS = frozenset(
    words("not_object null no_registration_id zero_id negative_id no_user no_event_id misfit unstorable")
)
_MATCHES = frozenset(("endpoint", "race_id", "event_id", "key", "page_after", "incremental"))


class BadFaultError(ValueError):
    """A fault was described that does not exist."""


@dataclass(slots=True)
class Fault:
    """One fault: after `skip` matching calls it meets the next `times` (None: all)."""

    kind: str
    match: dict[str, Any] = field(default_factory=dict)
    skip: int = 0
    times: int | None = 1
    params: dict[str, Any] = field(default_factory=dict)
    seen: int = 0
    used: int = 0

    def matches(self, call: Call, query: Query) -> bool:
        """Return whether the call is meant."""
        match = self.match
        return (
            match.get("endpoint") in (None, call.endpoint)
            and match.get("race_id") in (None, call.race_id)
            and (match.get("event_id") is None or match["event_id"] in call.event_ids)
            and match.get("key") in (None, call.key)
            and match.get("page_after") in (None, _is_later_page(query))
            and match.get("incremental") in (None, "modified_after_timestamp" in query.values)
        )


def _is_later_page(query: Query) -> bool:
    return query.values.get("after_registration_id", "0") != "0" or query.values.get("page", "1") != "1"


class Faults:
    """The faults that stand."""

    def __init__(self) -> None:
        self._standing: list[Fault] = []

    def add(self, description: dict[str, Any]) -> dict[str, Any]:
        """Add a fault; raise BadFaultError if it cannot be understood."""
        known = dict(description)
        kind = known.pop("kind", None)
        match = known.pop("match", {})
        if kind not in KINDS:
            raise BadFaultError(f"no fault is of kind {kind}; known: {', '.join(sorted(KINDS))}")
        if not isinstance(match, dict) or not match.keys() <= _MATCHES:
            raise BadFaultError(f"a fault matches by {', '.join(sorted(_MATCHES))}")
        if not set(known.get("what", ())) <= _SPOILS:
            raise BadFaultError(f"bad_rows knows {', '.join(sorted(_SPOILS))}")
        fault = Fault(kind, match, known.pop("skip", 0), known.pop("times", 1), known)
        self._standing.append(fault)
        return asdict(fault)

    def clear(self) -> None:
        """Remove all faults."""
        self._standing.clear()

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the faults with how often each was seen and used."""
        return [asdict(fault) for fault in self._standing]

    def of(self, call: Call, query: Query) -> list[Fault]:
        """Return the faults that meet a call, and count it."""
        met: list[Fault] = []
        for fault in self._standing:
            if not fault.matches(call, query):
                continue
            fault.seen += 1
            if fault.seen <= fault.skip or (fault.times is not None and fault.used >= fault.times):
                continue
            fault.used += 1
            met.append(fault)
        return met


def bend_query(faults: list[Fault], query: Query) -> None:
    """Apply the faults that make the service misread a query."""
    for fault in faults:
        if fault.kind == "ignore_cursor":
            query.values.pop("after_registration_id", None)
            query.values.pop("page", None)
        elif fault.kind == "clamp":
            asked = query.values.get("results_per_page", "50")
            if asked.isdigit():
                query.values["results_per_page"] = str(min(int(asked), int(fault.params.get("rows", 1000))))


Answer = Any


def bend_answer(faults: list[Fault], body: bytes) -> bytes:
    """Apply the faults that change what is in an answer."""
    for fault in faults:
        change = _ANSWER_FAULTS.get(fault.kind)
        if change is not None:
            answer = change(json.loads(body), fault.params)
            written = json.dumps(answer, separators=(",", ":"))
            # `key_order` also leaves slashes bare: the same content in other bytes.
            body = (written if fault.kind == "key_order" else written.replace("/", "\\/")).encode()
    return body


def _row_lists(answer: Answer) -> list[list[Any]]:
    """Return the lists of rows in an answer, wherever its kind keeps them."""
    lists: list[list[Any]] = []
    for element in answer if isinstance(answer, list) else [answer]:
        if not isinstance(element, dict):
            continue
        event = element.get("event")
        inner = event.get("participants") if isinstance(event, dict) else None
        places = (element.get("participants"), inner, element.get("races"))
        lists += [rows for rows in places if isinstance(rows, list) and rows]
    return lists


def _wrong_shape(answer: Answer, params: dict[str, Any]) -> Answer:
    return params.get("value")


def _object_envelope(answer: Answer, params: dict[str, Any]) -> Answer:
    return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer


def _duplicate_rows(answer: Answer, params: dict[str, Any]) -> Answer:
    for rows in _row_lists(answer):
        rows.extend(rows[: int(params.get("rows", 1))])
    return answer


def _empty(answer: Answer, params: dict[str, Any]) -> Answer:
    for element in answer if isinstance(answer, list) else [answer]:
        element.pop("participants", None)
        if "event" in element:
            element["event"]["participants"] = []
        if "races" in element:
            element["races"] = []
    return answer


def _empty_array(answer: Answer, params: dict[str, Any]) -> Answer:
    return []


def _drop_keys(answer: Answer, params: dict[str, Any]) -> Answer:
    for rows in _row_lists(answer):
        for row in rows:
            for key in params.get("keys", ("dob", "email")):
                row.pop(key, None)
                if isinstance(row.get("user"), dict):
                    row["user"].pop(key, None)
    return answer


def _string_ids(answer: Answer, params: dict[str, Any]) -> Answer:
    def bend(value: Answer) -> Answer:
        if isinstance(value, dict):
            return {key: _as_string(key, bend(item)) for key, item in value.items()}
        return [bend(item) for item in value] if isinstance(value, list) else value

    return bend(answer)


def _as_string(key: str, value: Answer) -> Answer:
    is_id = key.endswith(("_id", "bib_num")) and isinstance(value, int)
    return str(value) if is_id else value


def _key_order(answer: Answer, params: dict[str, Any]) -> Answer:
    if isinstance(answer, dict):
        return {key: _key_order(answer[key], params) for key in reversed(answer)}
    return [_key_order(item, params) for item in answer] if isinstance(answer, list) else answer


def _bad_rows(answer: Answer, params: dict[str, Any]) -> Answer:
    """Spoil rows: `what` names how, `rows` gives literal ones, `fields` sets values; inserted or in place of others."""
    lists = _row_lists(answer)
    if not lists:
        return answer
    rows, at = lists[0], int(params.get("index", 0))
    model = rows[min(at, len(rows) - 1)]
    bad: list[Any] = list(params.get("rows", ()))
    for what in params.get("what", ()):
        bad.append(_spoiled(model, what))
        if what == "no_event_id":
            for element in answer if isinstance(answer, list) else [answer]:
                element.get("event", {}).pop("event_id", None)
    if "fields" in params:
        fields = dict(params["fields"])
        user = fields.pop("user", {})
        bad.append({**model, **fields, "user": {**(model.get("user") or {}), **user}})
    if params.get("mode", "replace") == "replace":
        rows[at : at + len(bad)] = bad
    else:
        rows[at:at] = bad
    return answer


def _spoiled(model: dict[str, Any], what: str) -> Any:
    row = dict(model)
    if what == "not_object":
        return "a text where a row should be"
    if what == "null":
        return None
    if what == "zero_id":
        row["registration_id"] = 0
    elif what == "negative_id":
        row["registration_id"] = -1
    elif what == "no_registration_id":
        row.pop("registration_id", None)
    elif what == "no_user":
        row.pop("user", None)
    elif what == "no_event_id":
        row.pop("event_id", None)
    elif what == "misfit":
        row["age"] = "x"
        row["user"] = {**(row.get("user") or {}), "dob": "13/45/1990"}
    else:
        row["user"] = {**(row.get("user") or {}), "first_name": "A\u0000nn", "last_name": "\ud800Lee"}
    return row


_ANSWER_FAULTS: dict[str, Callable[[Answer, dict[str, Any]], Answer]] = {
    "wrong_shape": _wrong_shape,
    "object_envelope": _object_envelope,
    "duplicate_rows": _duplicate_rows,
    "bad_rows": _bad_rows,
    "string_ids": _string_ids,
    "key_order": _key_order,
    "drop_keys": _drop_keys,
    "empty": _empty,
    "empty_array": _empty_array,
}
