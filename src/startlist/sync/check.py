"""`partner check`: whether RunSignup accepts a credential, shown by a call that needs its rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from startlist.errors import (
    CallerRefused,
    ConfigurationError,
    EventsGone,
    PermissionDenied,
    RaceGone,
    RequestRefused,
    Retry,
    RunSignupError,
)
from startlist.runsignup import Race
from startlist.store import partners
from startlist.store.partners import Credential
from startlist.store.sealing import open_key_ring
from startlist.sync.context import Context

T = TypeVar("T")

LISTED_SINCE = timedelta(days=366)  # a company without a race soon is known by those of its last year
RACES_ASKED = 3  # at most: a single race may be closed to a good key


@dataclass(frozen=True)
class Checked:
    """What one credential's check found; `race_id` is the race whose registrations could be read.

    `accepted` is None where RunSignup could not be asked.
    """

    timing_partner_id: int
    company_name: str
    credential_id: int
    principal: str
    accepted: bool | None
    races_listed: int
    race_id: int | None
    result: str


async def check(context: Context, timing_partner_id: int | None) -> list[Checked]:
    """Check the credentials of one timing partner, or of all.

    Raises `ConfigurationError` when there are none, `CallerRefused` when no call can succeed.
    """
    async with context.admin() as conn:
        if not await partners.states(conn, context.settings, timing_partner_id=timing_partner_id):
            raise ConfigurationError("there is no timing partner yet: startlist partner add NAME --api-key K")
        ring = await open_key_ring(conn, context.settings)
        found = await partners.credentials(conn, ring, context.settings, timing_partner_id=timing_partner_id)
    if not found:
        raise ConfigurationError("there is no API key to check: startlist partner add NAME --api-key K [--id ID]")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(check_credential(context, credential)) for credential in found]
    return [task.result() for task in tasks]


async def check_credential(context: Context, credential: Credential) -> Checked:
    """List a credential's races, then read registrations of one; a success verifies it and ends a stop.

    The list alone proves nothing: to a wrong legacy key RunSignup lists every public race. Costs two calls if all is
    well, up to four else.
    """
    races: list[Race] = []
    race_id = None
    accepted: bool | None
    try:
        races = await _listed(context, credential)
        accepted, race_id, result = await _ask(context, credential, races)
    except CallerRefused:
        raise
    except RunSignupError as error:
        accepted, result = (None if isinstance(error, Retry) else False), str(error)
    if accepted:
        async with context.admin() as conn:
            await partners.mark_verified(conn, credential)
    return Checked(
        credential.timing_partner_id,
        credential.company_name,
        credential.credential_id,
        credential.principal,
        accepted,
        len(races),
        race_id,
        result,
    )


async def _listed(context: Context, credential: Credential) -> list[Race]:
    client = context.client(credential, context.gate(credential))
    page = await _first(client.races(start_date=(context.now() - LISTED_SINCE).date()))
    return page.races if page is not None else []


async def _ask(context: Context, credential: Credential, races: list[Race]) -> tuple[bool, int | None, str]:
    client = context.client(credential, context.gate(credential))
    questions = _questions(races, context.now())
    refused = 0
    for race, event_id in questions[:RACES_ASKED]:
        try:
            await _first(client.participants(race.race_id, [event_id], modified_after=int(context.now().timestamp())))
        except PermissionDenied:
            refused += 1
        except (EventsGone, RaceGone, RequestRefused):
            continue  # says nothing about the credential
        else:
            return True, race.race_id, f"accepted: registrations of race {race.race_id} ({race.name}) can be read"
    if refused:
        return False, None, (
            f"RunSignup lists races but refuses the registrations of {refused} of them (permission denied): so it"
            " treats a wrong or revoked key or secret, and a key that these races are not shared with"
        )  # fmt: skip
    return False, None, f"no race of the last {LISTED_SINCE.days} days is listed to check it with"


def _questions(races: Iterable[Race], now: datetime) -> list[tuple[Race, int]]:
    """One event of each race, the race with the next start first, then those that are over, the latest first."""
    found = []
    for race in races:
        starts = [(event.start_time, event.event_id) for event in race.events if event.start_time is not None]
        if starts:
            start, event_id = max(starts)
            found.append((start < now, abs((start - now).total_seconds()), race.race_id, event_id, race))
        elif race.events:
            found.append((True, float("inf"), race.race_id, race.events[0].event_id, race))
    return [(race, event_id) for _, _, _, event_id, race in sorted(found, key=lambda one: one[:4])]


async def _first(pages: AsyncIterator[T]) -> T | None:
    async for page in pages:
        return page
    return None
