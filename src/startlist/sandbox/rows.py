"""Registrations, and how one is written on the wire.

A page of 2,500 rows has to cost a few milliseconds, so a row is kept as three pieces of JSON, each written once and
then only joined: the person (shared by all registrations of that person), the registration itself, and the rest (fees,
answers, add-ons; shared where alike).
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from .wire import EASTERN, long_eastern, short_eastern, text, words

QUESTIONS, ADDONS, CORRALS, NOTES, FINISH = 1, 2, 4, 8, 16
ANONYMOUS, PICTURE, NON_BINARY = 32, 64, 128
EVERYTHING = 255
_OF_PERSON = ANONYMOUS | PICTURE | NON_BINARY
_OF_REST = QUESTIONS | ADDONS | CORRALS | NOTES | FINISH

# Which query parameter shows which part of a row.
FLAGS = {
    "include_questions": QUESTIONS,
    "include_registration_addons": ADDONS,
    "include_corrals": CORRALS,
    "include_registration_notes": NOTES,
    "include_est_finish": FINISH,
    "include_user_anonymous_flag": ANONYMOUS,
    "include_profile_image_url": PICTURE,
    "supports_nb": NON_BINARY,
}
_HIDDEN_KEYS = {
    "question_responses": QUESTIONS,
    "participant_addons": ADDONS,
    "corral_id": CORRALS,
    "corral_name": CORRALS,
    "registration_notes": NOTES,
    "est_finish_time": FINISH,
}
_REMOVED_FEES = (
    "race_fee",
    "processing_fee",
    "processing_fee_paid_by_user",
    "processing_fee_paid_by_race",
    "amount_paid",
)
TEAM_KEYS = ("team_id", "team_name", "team_type_id", "team_type", "team_gender", "team_bib_num")
PERSON_KEYS = frozenset(
    words("user_id first_name middle_name last_name email address dob gender phone profile_image_url is_anonymous")
)
ADDRESS_KEYS = frozenset(["street", "city", "state", "zipcode", "country_code"])
# Fields of the middle piece that have no slot of their own: an edit keeps them in `Registration.odd`.
ODD_KEYS = frozenset(
    ("registration_id", "event_id", "rsu_transaction_id", "transaction_id", "age", "registration_date", *TEAM_KEYS)
)


class Person:
    """The `user` of registrations; never changed, only replaced, since many registrations may share it."""

    __slots__ = ("_written", "data")

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self._written: dict[int, bytes] = {}

    def shown(self, mask: int) -> dict[str, Any]:
        """Return what a caller with these flags sees."""
        data = dict(self.data)
        if not mask & NON_BINARY and data.get("gender") == "X":
            data["gender"] = None
        if not mask & PICTURE:
            data.pop("profile_image_url", None)
        if not mask & ANONYMOUS:
            data.pop("is_anonymous", None)
        return data

    def written(self, mask: int) -> bytes:
        """Return the row's first piece: `{"user":{...}`."""
        mask &= _OF_PERSON
        known = self._written.get(mask)
        if known is None:
            known = self._written[mask] = f'{{"user":{text(self.shown(mask))}'.encode()
        return known


class Rest:
    """Fees, giveaway, answers, add-ons: all that is neither the person nor the registration; never changed."""

    __slots__ = ("_written", "data")

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self._written: dict[int, bytes] = {}

    def written(self, mask: int) -> bytes:
        """Return the row's last piece with a comma behind it: `,"imported":"F",...},`."""
        mask &= _OF_REST
        known = self._written.get(mask)
        if known is None:
            hidden = _HIDDEN_KEYS
            shown = {key: value for key, value in self.data.items() if key not in hidden or mask & hidden[key]}
            known = self._written[mask] = (f",{text(shown)[1:]}," if shown else "},").encode()
        return known


class Registration:
    """One person's entry in one event."""

    __slots__ = (
        "_written",
        "age",
        "bib",
        "chip",
        "event_id",
        "implied_in",
        "modified",
        "odd",
        "person",
        "registered",
        "registration_id",
        "rest",
        "team",
    )

    def __init__(
        self,
        registration_id: int,
        event_id: int,
        person: Person,
        rest: Rest,
        registered: int,
        modified: int | None,
        *,
        bib: int | str | None = None,
        chip: str | None = None,
        age: int | None = None,
        team: dict[str, Any] | None = None,
    ) -> None:
        self.registration_id = registration_id
        self.event_id = event_id
        self.person = person
        self.rest = rest
        self.registered = registered
        self.modified = modified
        self.bib = bib
        self.chip = chip
        self.age = age
        self.team = team
        # Events beside its own that list it too (a "super event" implies rows in others).
        self.implied_in: tuple[int, ...] = ()
        self.odd: dict[str, Any] | None = None
        self._written: bytes | None = None

    def touch(self, now: int | None) -> None:
        """Drop what was written, and move `last_modified` unless `now` is None."""
        self._written = None
        if now is not None:
            self.modified = now

    def written(self) -> bytes:
        """Return the row's middle piece: `,"registration_id":...,"last_modified":...`."""
        known = self._written
        if known is None:
            known = self._written = self._write().encode()
        return known

    def _write(self) -> str:
        at = datetime.fromtimestamp(self.registered, EASTERN)
        if self.odd is None and self.team is None and type(self.bib) in (int, type(None)):
            # The plain case, written by hand: worlds of half a million registrations are built of it.
            return (
                f',"registration_id":{self.registration_id},"event_id":{self.event_id}'
                f',"rsu_transaction_id":{self._transaction()},"transaction_id":"ay_{self._transaction()}C_0"'
                f',"bib_num":{"null" if self.bib is None else self.bib}'
                f',"chip_num":{"null" if self.chip is None else text(self.chip)}'
                f',"age":{"null" if self.age is None else self.age}'
                f',"registration_date":"{at.month}\\/{at.day}\\/{at.year} {at.hour:02d}:{at.minute:02d}"'
                ',"team_id":null,"team_name":null,"team_type_id":null,"team_type":null,"team_gender":null'
                ',"team_bib_num":null'
                f',"last_modified":{"null" if self.modified is None else self.modified}'
            )
        fields: dict[str, Any] = {
            "registration_id": self.registration_id,
            "event_id": self.event_id,
            "rsu_transaction_id": self._transaction(),
            "transaction_id": f"ay_{self._transaction()}C_0",
            "bib_num": self.bib,
            "chip_num": self.chip,
            "age": self.age,
            "registration_date": short_eastern(self.registered),
            **dict.fromkeys(TEAM_KEYS),
            **(self.team or {}),
            "last_modified": self.modified,
            **(self.odd or {}),
        }
        return f",{text(fields)[1:-1]}"

    def _transaction(self) -> int:
        # Two neighbours share a checkout now and then: it is no key.
        return 40_000_000 + self.registration_id // 3 * 2

    def pieces(self, event_id: int, mask: int) -> tuple[bytes, bytes, bytes]:
        """Return the row as it is sent in the answer for an event."""
        middle = self.written()
        if event_id != self.event_id:
            middle = middle.replace(b'"event_id":%d,' % self.event_id, b'"event_id":%d,' % event_id, 1)
        return self.person.written(mask), middle, self.rest.written(mask)


def write_rows(registrations: Iterable[Registration], event_id: int, mask: int) -> list[bytes]:
    """Return the pieces of rows, commas between them, to be joined."""
    parts: list[bytes] = []
    add = parts.append
    for registration in registrations:
        if registration.event_id == event_id:
            add(registration.person.written(mask))
            add(registration.written())
            add(registration.rest.written(mask))
        else:
            parts += registration.pieces(event_id, mask)
    if parts:
        parts[-1] = parts[-1][:-1]
    return parts


class Removal:
    """A registration that was cleared, removed, transferred or deferred."""

    __slots__ = ("modified", "new_registration_id", "person", "reason", "registration")

    def __init__(
        self, registration: Registration, reason: str, modified: int, new_registration_id: int | None = None
    ) -> None:
        self.registration = registration
        self.person = registration.person
        self.reason = reason
        self.modified = modified
        self.new_registration_id = new_registration_id

    def row(self, mask: int) -> dict[str, Any]:
        """Return the row as removed-participants sends it: no event id, other dates, few fees."""
        registration = self.registration
        user = self.person.shown(mask | PICTURE)
        user.pop("is_anonymous", None)
        return {
            "user": user,
            "registration_id": registration.registration_id,
            "age": registration.age,
            "registration_date": long_eastern(registration.registered),
            "last_modified": long_eastern(self.modified),
            "last_modified_ts": self.modified,
            "imported": registration.rest.data.get("imported", "F"),
            **{key: registration.rest.data.get(key, "$0.00") for key in _REMOVED_FEES},
            "removed_reason": self.reason,
            "new_registration_id": self.new_registration_id,
        }

    def condensed(self) -> dict[str, Any]:
        """Return the row as `condensed_format=T` asks for it: ids and reason."""
        return {
            "registration_id": self.registration.registration_id,
            "removed_reason": self.reason,
            "new_registration_id": self.new_registration_id,
        }
