"""From a participant row's bytes to a `Registration`, losing nothing.

Two ways to the same result. The quick one decodes the row into a struct that has every name seen so far and gives up at
the first thing that is out of the ordinary. The thorough one takes the row apart value by value; it is ten times
slower, decides about misfits and repairs, and teaches the quick one names it did not know.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from startlist.runsignup import values
from startlist.runsignup.fields import Fields, json_object, prefix
from startlist.runsignup.jsontext import BROKEN, key_text, members, sound_text, tame
from startlist.runsignup.records import KEPT_WHEN_ABSENT, Registration, fingerprint

_USER_COLUMNS: Final = frozenset(
    ("user_id", "first_name", "middle_name", "last_name", "email", "phone", "gender", "dob", "address")
)
_MONEY: Final = (
    "race_fee",
    "offline_payment_amount",
    "processing_fee",
    "processing_fee_paid_by_user",
    "processing_fee_paid_by_race",
    "partner_fee",
    "affiliate_profit",
    "extra_fees",
    "amount_paid",
    "usatf_discount_amount_in_cents",  # "$0.00" like the others, in spite of its name
)
_PAYMENT: Final = (*_MONEY, "rsu_transaction_id", "transaction_id")
_TEAM: Final = ("team_id", "team_name", "team_type_id", "team_type", "team_gender", "team_bib_num")
_EXTRA: Final = (
    "imported",
    "usatf_discount_additional_field",
    "giveaway",
    "giveaway_option_id",
    "question_responses",
    "participant_addons",
)
_USER_EXTRA: Final = ("profile_image_url", "is_anonymous")

_LEARNABLE = re.compile(r"[A-Za-z0-9_ .-]{1,60}\Z")
_MAX_LEARNED = 100


class RawRegistration(msgspec.Struct, gc=False):
    """A participant row of a page, looked at only as far as its ids; `raw` is a view into the page."""

    event_id: int
    registration_id: int
    raw: Raw | bytes
    _hash: bytes | None = None

    @property
    def content_hash(self) -> bytes:
        """The `fingerprint` of the bytes as sent."""
        if self._hash is None:
            self._hash = fingerprint(self.raw)
        return self._hash

    def decode(self) -> Registration:
        """The whole record. What does not fit a column is kept in `additional_data` and noted; nothing raises."""
        return _decoder.decode(bytes(self.raw), self.event_id, self.content_hash)

    def keys_absent(self) -> frozenset[str]:
        """Which of `KEPT_WHEN_ABSENT` this record does not have as keys; null counts as present."""
        try:
            seen = _presence.decode(self.raw)
        except BROKEN:
            return _ALL_KEPT - _keys_sent(bytes(self.raw))
        user = seen.user
        found = (user.dob, user.gender, user.email, user.phone, seen.bib_num)
        if UNSET not in found:
            return _NONE
        return frozenset(name for name, value in zip(KEPT_WHEN_ABSENT, found, strict=True) if value is UNSET)


class _UserPresence(msgspec.Struct):
    dob: Raw | UnsetType = UNSET
    gender: Raw | UnsetType = UNSET
    email: Raw | UnsetType = UNSET
    phone: Raw | UnsetType = UNSET


class _Presence(msgspec.Struct):
    user: _UserPresence
    bib_num: Raw | UnsetType = UNSET


_presence = msgspec.json.Decoder(_Presence)
_ALL_KEPT = frozenset(KEPT_WHEN_ABSENT)
_NONE: frozenset[str] = frozenset()


def _keys_sent(row: bytes) -> frozenset[str]:
    top = {key_text(key)[0]: value for key, value in members(row)}
    names = {key_text(key)[0] for key, _ in members(top["user"])}
    return frozenset(name for name in KEPT_WHEN_ABSENT if name in (top if name == "bib_num" else names))


class _Members:
    """Fields that are kept as JSON: from their values as sent to members of an object, each after a comma."""

    __slots__ = ("_parts",)

    def __init__(self, names: tuple[str, ...]) -> None:
        self._parts: list[Any] = [part for name in names for part in (prefix(name), UNSET)]

    def __call__(self, sent: tuple[Any, ...]) -> bytes:
        parts = self._parts.copy()
        parts[1::2] = sent
        if UNSET in sent:
            parts = [part for pair in zip(parts[::2], sent, strict=True) if pair[1] is not UNSET for part in pair]
        return b"".join(parts)


class _Shape:
    """A struct of all names that rows are known to have, and how those are joined that are kept as JSON.

    Names with a column are typed so that whatever needs a second look makes decoding fail.
    """

    __slots__ = ("about_user", "additional", "decoder", "extra", "names", "team", "user_names")

    def __init__(self, learned: frozenset[str] = frozenset(), user_learned: frozenset[str] = frozenset()) -> None:
        int4, int8 = (Annotated[int, Meta(ge=low, le=high)] for low, high in (values.INT4, values.INT8))
        label = Annotated[str, Meta(min_length=1, max_length=values.LONGEST_LABEL)]
        text: Any = (str | None, None)
        kept: Any = (str | None | UnsetType, UNSET)
        sent: Any = (Raw | UnsetType, UNSET)
        user_extra = (*_USER_EXTRA, *sorted(user_learned))
        user = _struct(
            "User",
            [("user_id", int8 | None, None)]
            + [(name, *text) for name in ("first_name", "middle_name", "last_name")]
            + [(name, *kept) for name in ("email", "phone", "gender")]
            + [("dob", date | None | UnsetType, UNSET), ("address", *sent)]
            + [(name, *sent) for name in user_extra],
        )
        team = _TEAM + tuple(sorted(name for name in learned if name.startswith("team_")))
        extra = _EXTRA + tuple(sorted(name for name in learned if not name.startswith("team_")))
        row = _struct(
            "Row",
            [
                ("user", user, msgspec.NODEFAULT),
                ("registration_id", int, msgspec.NODEFAULT),
                ("event_id", int | None, None),
                ("age", int4 | None, None),
                ("bib_num", int8 | label | None | UnsetType, UNSET),
                ("chip_num", int8 | label | None, None),
                ("registration_date", str | None, None),
                ("last_modified", Annotated[int, Meta(ge=0, le=values.LAST_SECOND)] | None, None),
            ]
            + [(name, *kept) for name in _MONEY]
            + [(name, *sent) for name in (*_PAYMENT[len(_MONEY) :], *team, *extra)],
        )
        self.decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(row)
        self.names, self.user_names = learned, user_learned
        self.team, self.additional, self.about_user = _Members(team), _Members((*extra, "user")), _Members(user_extra)
        self.extra = _FIRST_TEAM + len(team)  # where those for `additional_data` begin


_FIRST_MONEY: Final = 8  # of a row's values, as a tuple
_FIRST_TRANSACTION: Final = _FIRST_MONEY + len(_MONEY)
_FIRST_TEAM: Final = _FIRST_MONEY + len(_PAYMENT)
_transaction: Final = _Members(_PAYMENT[len(_MONEY) :])
_KNOWN: Final = frozenset(
    (
        *("registration_id", "event_id", "user", "age", "bib_num", "chip_num", "registration_date", "last_modified"),
        *(*_PAYMENT, *_TEAM, *_EXTRA),
    )
)
_USER_KNOWN: Final = _USER_COLUMNS.union(_USER_EXTRA)


def _struct(name: str, fields: list[tuple[str, Any, Any]]) -> type[msgspec.Struct]:
    # Attributes are numbered, since a name that RunSignup makes up need not be one that Python allows.
    return msgspec.defstruct(
        name,
        [(f"f{i}", kind, default) for i, (_, kind, default) in enumerate(fields)],
        rename={f"f{i}": field for i, (field, _, _) in enumerate(fields)},
        forbid_unknown_fields=True,
        gc=False,
    )


class RegistrationDecoder:
    """Both ways, and what the quick one has learned; one for the process, since rows of all accounts look alike."""

    def __init__(self) -> None:
        self._shape = _Shape()

    def decode(self, row: bytes, event_id: int, content_hash: bytes) -> Registration:
        return self.quick(row, event_id, content_hash) or self.thorough(row, event_id, content_hash)

    def quick(self, row: bytes, event_id: int, content_hash: bytes) -> Registration | None:
        """The record of an ordinary row; None for any that needs a closer look."""
        if not sound_text(row):
            return None
        shape = self._shape
        try:
            sent = msgspec.structs.astuple(shape.decoder.decode(row))
        except BROKEN:
            return None
        user, registration_id, own_event, age, bib, chip, registered, modified = sent[:_FIRST_MONEY]
        user_id, first, middle, last, email, phone, gender, dob, address, *user_extra = msgspec.structs.astuple(user)
        fees = _fees(sent[_FIRST_MONEY:_FIRST_TRANSACTION])
        if fees is None or (own_event is not None and own_event != event_id):
            return None
        if registered is not None:
            try:
                registered = values.eastern(registered)
            except values.MisfitError:
                return None
        address = None if address is UNSET else bytes(address)
        if address == b"null":
            address = None
        elif address is not None and not address.startswith(b"{"):
            return None
        kept = (dob, gender, email, phone, bib)
        absent: tuple[str, ...] = ()
        if UNSET in kept:
            absent = tuple(name for name, value in zip(KEPT_WHEN_ABSENT, kept, strict=True) if value is UNSET)
            dob, gender, email, phone, bib = (None if value is UNSET else value for value in kept)
        payment_info = fees + _transaction(sent[_FIRST_TRANSACTION:_FIRST_TEAM])
        team_info = shape.team(sent[_FIRST_TEAM : shape.extra])
        about_user = shape.about_user(tuple(user_extra))
        additional_data = shape.additional((*sent[shape.extra :], _braced(about_user) if about_user else UNSET))
        if not (tame(b"".join((additional_data, payment_info, address or b""))) and _tame_team(team_info)):
            return None
        return Registration(
            registration_id,
            event_id,
            user_id,
            first,
            middle,
            last,
            email,
            phone,
            gender,
            dob,
            age,
            address,
            str(bib) if type(bib) is int else bib,
            str(chip) if type(chip) is int else chip,
            registered,
            None if modified is None else datetime.fromtimestamp(modified, UTC),
            _braced(team_info),
            _braced(payment_info),
            _braced(additional_data),
            [],
            content_hash,
            absent,
        )

    def thorough(self, row: bytes, event_id: int, content_hash: bytes) -> Registration:
        """The record of any row that has an id, an event and a `user` object."""
        top = Fields(row, apart="user")
        user = Fields(top.apart, path="user.", columns=_USER_COLUMNS)
        self._learn(top.sent - _KNOWN, user.sent - _USER_KNOWN)
        present = user.sent.union(top.sent.intersection(("bib_num",)))
        registration_id = top.take("registration_id", values.identifier)
        own_event = top.take("event_id", values.identifier)
        columns = Registration(
            registration_id=registration_id or 0,  # never 0: the page sets rows without an id aside
            event_id=own_event or event_id,
            user_id=user.take("user_id", values.integer),
            first_name=user.take("first_name", values.text),
            middle_name=user.take("middle_name", values.text),
            last_name=user.take("last_name", values.text),
            email=user.take("email", values.text),
            phone=user.take("phone", values.text),
            gender=user.take("gender", values.text),
            dob=user.take("dob", values.birthday),
            age=top.take("age", values.age),
            address=user.take_object("address"),
            bib_num=top.take("bib_num", values.label),
            chip_num=top.take("chip_num", values.label),
            registration_date=top.take("registration_date", values.eastern),
            last_modified=top.take("last_modified", values.epoch),
            team_info=json_object(top.take_where(lambda name: name.startswith("team_"))),
            payment_info=json_object(_payment(top)),
            additional_data=b"",
            field_errors=user.errors + [name for name in top.errors if name not in user.errors],
            content_hash=content_hash,
            absent=tuple(name for name in KEPT_WHEN_ABSENT if name not in present),
        )
        rest = dict(top.left)
        if user.left:
            rest["user"] = json_object(user.left)
        columns.additional_data = json_object(rest)
        return columns

    def _learn(self, names: frozenset[str], user_names: frozenset[str]) -> None:
        known, user_known = self._shape.names, self._shape.user_names
        learned = known.union(filter(_LEARNABLE.match, names))
        user_learned = user_known.union(filter(_LEARNABLE.match, user_names))
        if (learned, user_learned) != (known, user_known) and len(learned) + len(user_learned) <= _MAX_LEARNED:
            self._shape = _Shape(learned, user_learned)


_decoder = RegistrationDecoder()
_tame_team = lru_cache(maxsize=4096)(tame)  # most have none, the others share theirs


def _braced(joined: bytes) -> bytes:
    return b"{%b}" % joined[1:]


@lru_cache(maxsize=4096)
def _fees(amounts: tuple[str | UnsetType | None, ...]) -> bytes | None:
    """The members of `payment_info` that are money, cached since few prices are paid by many; None if one is none."""
    parts: list[bytes] = []
    for name, amount in zip(_MONEY, amounts, strict=True):
        if isinstance(amount, UnsetType):
            continue
        try:
            parts += (prefix(name), _amount(amount))
        except values.MisfitError:
            return None
    return b"".join(parts)


def _amount(value: str | None) -> bytes:
    if value is None:
        return b"null"
    return b'""' if value == "" else str(values.money(value)).encode()


def _payment(top: Fields) -> dict[str, bytes]:
    """The payment's fields, money as numbers; an amount that is not money stays as sent and is noted.

    An empty text and a number that is a number already are as good as money: not noted.
    """
    payment = top.take_where(lambda name: name in _PAYMENT)
    for name in _MONEY:
        raw = payment.get(name)
        if raw is None or raw == b"null" or raw[0] in b"-0123456789":
            continue
        try:
            payment[name] = _amount(values.text(msgspec.json.decode(raw)))
        except values.MisfitError:
            top.note(name)
    return payment
