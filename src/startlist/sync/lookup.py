"""A bib as RunSignup has it now, beside what is stored of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import msgspec

from startlist.errors import ConfigurationError, CredentialRefused, PermissionDenied
from startlist.runsignup import Registration
from startlist.store import partners, search
from startlist.store.database import Connection, translated
from startlist.store.partners import Credential
from startlist.store.races import stored_races
from startlist.store.sealing import open_key_ring
from startlist.store.search import StoredRegistration
from startlist.sync.context import Context
from startlist.sync.gate import LONGEST_WAIT
from startlist.sync.plan import Options, wanted_events

_JSON_COLUMNS = ("address", "team_info", "payment_info", "additional_data")
_COLUMNS = ("user_id", "first_name", "middle_name", "last_name", "email", "phone", "gender", "dob", "age", "bib_num",
            "chip_num", "registration_date", *_JSON_COLUMNS)  # fmt: skip
_loads = msgspec.json.Decoder(float_hook=Decimal).decode


class Verdict(StrEnum):
    SAME = "same"
    DIFFERS = "differs"
    ONLY_THERE = "only_there"
    ONLY_HERE = "only_here"
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that is stored otherwise than RunSignup has it; nested ones as `address.city`."""

    name: str
    stored: object
    runsignup: object


@dataclass(frozen=True, slots=True)
class Compared:
    """One registration that has the bib in RunSignup, in the store, or in both; names as RunSignup has them if it can.

    `stored_modified` and `runsignup_modified`: when RunSignup last changed the version stored, and its own.
    """

    event_id: int
    registration_id: int
    verdict: Verdict
    first_name: str | None
    last_name: str | None
    stored_modified: datetime | None
    runsignup_modified: datetime | None
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Lookup:
    """The answer to one question: the verdict over all registrations that have the bib here or there."""

    timing_partner_id: int
    race_id: int
    event_ids: list[int]
    bib: str
    verdict: Verdict
    registrations: list[Compared]


async def lookup(
    context: Context,
    race_id: int,
    bib: str,
    timing_partner_id: int | None = None,
    *,
    credential: Credential | None = None,
    patience: float = LONGEST_WAIT,
) -> Lookup:
    """Ask RunSignup who has a bib in a race's present events, and compare with what is stored.

    `credential`: ask with this one alone; `patience`: seconds that it may wait for its call. Raises
    `ConfigurationError` when it is not clear whom to ask for, or the bib is no number; the errors of `RunSignupError`
    when RunSignup could not be asked.
    """
    with translated():
        async with context.admin() as conn:
            partner = await search.partner_of_race(conn, race_id, timing_partner_id)
            race = (await stored_races(conn, partner, race_id))[race_id]
            wanted = wanted_events(race, [], Options(race_id=race_id), context.now())
            usable = [credential] if credential else await _credentials(context, conn, partner, race.credential_id)
        events = sorted(wanted.event_ids)
        if not events:
            raise ConfigurationError(f"race {race_id} has no event that RunSignup could be asked for")
        there = await _ask(context, usable, race_id, events, bib, patience)
        async with context.admin() as conn:
            ids = [one.registration_id for one in there]
            here = await search.stored_registrations(conn, partner, race_id, events, bib, ids)
    compared = list(_compare(there, here))
    return Lookup(partner, race_id, events, bib, _together(compared), compared)


async def _credentials(context: Context, conn: Connection, partner: int, stored: int | None) -> list[Credential]:
    """The partner's credentials that may be used, the one that the race is read with first."""
    ring = await open_key_ring(conn, context.settings)
    found = await partners.credentials(conn, ring, context.settings, timing_partner_id=partner)
    if not found:
        raise ConfigurationError(f"timing partner {partner} has no API key; startlist partner add --id {partner}")
    usable = [one for one in found if one.stopped_at is None]
    if not usable:
        raise CredentialRefused(
            f"API key {found[0].principal} is stopped: {found[0].stopped_reason}; give it the right secret:"
            f" startlist partner rotate {partner}"
        )
    return sorted(usable, key=lambda one: one.credential_id != stored)


async def _ask(
    context: Context, credentials: list[Credential], race_id: int, events: list[int], bib: str, patience: float
) -> list[Registration]:
    """Who has the bib; with the partner's other credential where the first one may not read the race."""
    denied: PermissionDenied | None = None
    for credential in credentials[:2]:
        client = context.client(credential, context.gate(credential, patience=patience))
        try:
            return await client.search_bib(race_id, events, bib)
        except PermissionDenied as error:
            denied = denied or error
        except CredentialRefused as error:
            async with context.admin() as conn:
                await partners.stop(conn, credential, str(error))
            raise
    assert denied is not None  # noqa: S101 - there is at least one credential
    raise denied


def _compare(there: list[Registration], here: list[StoredRegistration]) -> Iterator[Compared]:
    stored = {(one.event_id, one.registration_id): one for one in here}
    sent = {(one.event_id, one.registration_id): one for one in there}
    for key in sorted(stored.keys() | sent.keys()):
        ours, theirs = stored.get(key), sent.get(key)
        differences: list[Difference] = []
        if ours is None:
            verdict = Verdict.ONLY_THERE
        elif theirs is None:
            verdict = Verdict.ONLY_HERE
        else:
            differences = list(_differences(ours, theirs))
            verdict = Verdict.DIFFERS if differences else Verdict.SAME
        named = theirs or ours
        assert named is not None  # noqa: S101 - the key came from one of them
        yield Compared(
            *key,
            verdict,
            named.first_name,
            named.last_name,
            None if ours is None else ours.last_modified,
            None if theirs is None else theirs.last_modified,
            differences,
        )


def _differences(ours: StoredRegistration, theirs: Registration) -> Iterator[Difference]:
    if ours.removed_at is not None:
        yield Difference("state", f"removed ({ours.removed_reason})", "active")
    elif ours.missing_since is not None:
        yield Difference("state", "missing", "active")
    for name in _COLUMNS:
        if name in theirs.absent:
            continue  # a key that was not sent says nothing
        was, now = getattr(ours, name), getattr(theirs, name)
        if name in _JSON_COLUMNS:
            yield from _nested(name, was or {}, _loads(now) if now else {})
        elif was != now:
            yield Difference(name, was, now)


def _nested(path: str, was: object, now: object) -> Iterator[Difference]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in sorted(was.keys() | now.keys()):
            yield from _nested(f"{path}.{key}", was.get(key), now.get(key))
    elif was != now:
        yield Difference(path, was, now)


def _together(compared: list[Compared]) -> Verdict:
    verdicts = {one.verdict for one in compared}
    if not verdicts:
        return Verdict.NOT_FOUND
    return verdicts.pop() if len(verdicts) == 1 else Verdict.DIFFERS
