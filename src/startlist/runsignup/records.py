"""What RunSignup's answers are made of, as typed records; columns are named as in the store's tables.

`bytes` that hold JSON are fit for `jsonb` as they are. Instants are aware and in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

MAPPING_VERSION: Final = 1
"""Raised whenever a record of the same bytes would be mapped to other columns; a part of every fingerprint."""

KEPT_WHEN_ABSENT: Final = ("dob", "gender", "email", "phone", "bib_num")
"""Fields whose key vanishes from the answers when a credential loses rights: absent is not the same as null."""


def fingerprint(raw: bytes | bytearray | memoryview | msgspec.Raw) -> bytes:
    """16 bytes: the mapping version, then a hash of a record's bytes as sent."""
    return _VERSION + blake2b(raw, digest_size=15).digest()


_VERSION = bytes((MAPPING_VERSION,))


class Registration(msgspec.Struct, gc=False):
    """One registration, mapped to the columns of `runsignup_participants`.

    `field_errors` names the fields whose value did not fit or had to be repaired; what did not fit is in
    `additional_data` as sent. `absent` names those of `KEPT_WHEN_ABSENT` that were not sent at all.
    """

    registration_id: int
    event_id: int
    user_id: int | None
    first_name: str | None
    middle_name: str | None
    last_name: str | None
    email: str | None
    phone: str | None
    gender: str | None
    dob: date | None
    age: int | None
    address: bytes | None
    bib_num: str | None
    chip_num: str | None
    registration_date: datetime | None
    last_modified: datetime | None
    team_info: bytes
    payment_info: bytes
    additional_data: bytes
    field_errors: list[str]
    content_hash: bytes
    absent: tuple[str, ...]


@dataclass(slots=True)
class Removal:
    """A registration that was cleared, removed, transferred or deferred; `raw` is the whole record as JSON."""

    event_id: int
    registration_id: int
    removed_reason: str | None
    modified_at: datetime | None
    new_registration_id: int | None
    raw: bytes


@dataclass(slots=True)
class BadRecord:
    """A record that cannot be stored: `reason` names the field and quotes no value, `raw` is the record as sent."""

    endpoint: str
    reason: str
    raw: str
    event_id: int | None = None
    registration_id: int | None = None


@dataclass(slots=True)
class Event:
    """One event of a race. `timezone` names the zone its times were read in; `race_day` is the start's day there."""

    event_id: int
    race_id: int
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


@dataclass(slots=True)
class Race:
    """A race with the events of the answer it came in; `bad` are its events that cannot be stored.

    `timezone` is the name as sent; `zone` is what it means, Eastern when `zone_known` is false.
    """

    race_id: int
    name: str | None
    timezone: str | None
    zone: ZoneInfo
    zone_known: bool
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
    events: tuple[Event, ...]
    bad: tuple[BadRecord, ...]
