"""Records that were set aside, read once more from their text."""

from __future__ import annotations

from startlist.runsignup import answers
from startlist.runsignup.answers import WrongShapeError
from startlist.runsignup.records import BadRecord, Removal
from startlist.runsignup.registrations import RawRegistration


def read_again(raw: str, endpoint: str, event_id: int | None) -> RawRegistration | Removal | BadRecord:
    """A record of `participants` or `removed-participants` from its text as sent, in the event it was sent in.

    What cannot be read is a `BadRecord` with the reason of today; nothing raises.
    """
    body = _body(raw, event_id)
    try:
        if endpoint == "participants":
            rows = answers.read_rows(body, endpoint, RawRegistration)
            found: list[RawRegistration | Removal] = [*rows.rows]
            bad = rows.bad
        else:
            removed = answers.read_rows(body, endpoint, answers.read_removal)
            found, bad = [*removed.rows], removed.bad
    except (WrongShapeError, answers.ReportedError):
        return BadRecord(endpoint, "not a record of a registration", raw, event_id)
    if len(found) == 1 and not bad:
        return found[0]
    return bad[0] if bad else BadRecord(endpoint, "not a record of one registration", raw, event_id)


def _body(raw: str, event_id: int | None) -> bytes:
    """An answer with this record alone in it."""
    around = "{}" if event_id is None else f'{{"event_id": {event_id}}}'
    return f'[{{"event": {around}, "participants": [{raw}]}}]'.encode()
