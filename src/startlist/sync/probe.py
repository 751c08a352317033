"""Whether RunSignup accepts each credential, and what its clock says: one call each, of a race that it read before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from startlist.errors import CallerRefused, CredentialRefused, EventsGone, PermissionDenied, RaceGone, RunSignupError
from startlist.store import history
from startlist.store.partners import Credential
from startlist.sync.context import Context


@dataclass(frozen=True, slots=True)
class Probed:
    """A credential's answer. `accepted` is None when nothing could be asked, or the answer does not say.

    `caller_refused`: RunSignup refuses this program, whatever the key. `clock_ahead`: by how many seconds this
    machine's clock is ahead of RunSignup's; None without its answer.
    """

    credential_id: int
    accepted: bool | None
    result: str
    clock_ahead: float | None
    caller_refused: bool = False


async def probe(context: Context, credentials: Sequence[Credential]) -> list[Probed]:
    """Ask RunSignup with each credential, once."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_probe(context, credential)) for credential in credentials]
    return [task.result() for task in tasks]


async def _probe(context: Context, credential: Credential) -> Probed:
    number = credential.credential_id
    async with context.admin() as conn:
        known = await history.last_asked(conn, number, answered=True)
    if known is None:
        return Probed(number, None, "it has not read a race yet", None)
    race_id, events = known
    began = context.now()
    client = context.client(credential, context.gate(credential, patience=0))
    since = int(began.timestamp())
    ahead: float | None = None
    try:
        async for page in client.participants(race_id, events[:1], modified_after=since):
            ahead = None if page.candidate is None else _ahead(began, context.now(), page.candidate)
            break
    except CallerRefused as error:
        return Probed(number, None, f"RunSignup refuses this program ({error})", None, caller_refused=True)
    except (EventsGone, RaceGone):
        return Probed(number, None, f"race {race_id}, which it read last, is gone", None)
    except PermissionDenied as error:
        return Probed(number, False, f"it may not read race {race_id} any more, or it is wrong ({error})", None)
    except CredentialRefused as error:
        return Probed(number, False, str(error), None)
    except RunSignupError as error:  # says nothing about the credential
        return Probed(number, None, f"it could not be asked: {error}", None)
    return Probed(number, True, f"registrations of race {race_id} can be read", ahead)


def _ahead(began: datetime, ended: datetime, asked_at: int) -> float:
    """How far our clock is ahead, if RunSignup's instant, a second long, lies outside the time that the call took."""
    if asked_at + 1 < began.timestamp():
        return began.timestamp() - (asked_at + 1)
    return min(0.0, ended.timestamp() - asked_at)
