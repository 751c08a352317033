"""A verification of one race, a partner's, or all: what differs is read a second time before it is told, or mended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from startlist.errors import (
    CallerRefused,
    ConfigurationError,
    CredentialRefused,
    PermissionDenied,
    RunSignupError,
    StartlistError,
)
from startlist.store import cursors, history, partners, races, verifications
from startlist.store.database import Connection, translated
from startlist.store.partners import Credential
from startlist.store.races import StoredRace
from startlist.store.registrations import Scope
from startlist.sync.context import Context
from startlist.sync.credential import open_credentials
from startlist.sync.plan import Options, wanted_events
from startlist.sync.run import run as run_sync
from startlist.sync.verify.race import Difference, Found, Reading

PATIENCE = 3600.0  # seconds that a race waits for its calls; nothing is held meanwhile


@dataclass(slots=True)
class Verified:
    """What the verification of one race found; `error` says why it could not be judged."""

    timing_partner_id: int
    race_id: int
    name: str | None
    timezone: str | None
    event_ids: list[int]
    verification_id: int
    result: str
    as_of: datetime | None
    active: int
    removed: int
    values_compared: int
    newer: int
    error: str | None
    differences: list[Difference] = field(default_factory=list)


async def verify(context: Context, options: Options, *, repair: bool = False) -> list[Verified]:
    """Verify the races that the options select, each on its own; with `repair` mend what differs and look again.

    Raises `ConfigurationError` when there is nothing to verify, `CallerRefused` when no call can succeed.
    """
    async with context.admin() as conn:
        context.run_id = run_id = await history.open_run(conn, "verify", "verify")
    status = "failed"
    try:
        done = await _verify_all(context, options, repair=repair)
        status = "completed" if all(one.result == "complete" for one in done) else "partial"
        return done
    finally:
        context.run_id = run_id
        await context.close_run(status, None)


async def _verify_all(context: Context, options: Options, *, repair: bool) -> list[Verified]:
    done: list[Verified] = []
    for own in await open_credentials(context, options.timing_partner_id):
        partner = own[0].timing_partner_id
        async with context.admin() as conn:
            stored = await races.stored_races(
                conn, partner, options.race_id, ended_after=options.events_from(context.now())
            )
        for race in stored.values():
            events = wanted_events(race, [], options, context.now()).event_ids
            if race.gone_at is not None or not events:
                continue
            verified = await _verify_race(context, own, race, events)
            if repair and verified.differences:
                await _repair(context, verified, options)
                verified = await _verify_race(context, own, race, events)
            done.append(verified)
    if not done:
        raise ConfigurationError("no race is stored that could be verified; startlist races shows what is stored")
    return done


async def _repair(context: Context, verified: Verified, options: Options) -> None:
    """A full pass that trusts no stored hash of what differs; it writes its changes as any pass does."""
    run_id = context.run_id
    keys = {
        (one.event_id, one.registration_id)
        for one in verified.differences
        if one.event_id is not None and one.registration_id is not None
    }
    async with context.admin() as conn:
        await verifications.doubt(conn, verified.timing_partner_id, keys)
    again = Options(
        verified.timing_partner_id, verified.race_id, force_full=True,
        include_past_days=options.include_past_days, record_every=timedelta(), repair=True,
    )  # fmt: skip
    try:
        done = await run_sync(context, again, trigger="verify")
    finally:
        context.run_id = run_id
    if done.error is not None:
        raise done.error


async def _verify_race(context: Context, own: list[Credential], race: StoredRace, events: frozenset[int]) -> Verified:
    key = (own[0].timing_partner_id, race.race_id)
    found, error = Found(), None
    with translated():
        async with await context.database.connect(name="startlist verify") as conn:
            began = await cursors.clock(conn)
            try:
                found = await _read(context, own, race, events, conn)
                if found.differences:  # it may have been changed while it was read, there or here
                    first = {one.place for one in found.differences}
                    found = await _read(context, own, race, events, conn)
                    found.differences = [one for one in found.differences if one.place in first]
            except CallerRefused:
                raise
            except (RunSignupError, ConfigurationError) as problem:
                error = str(problem)
            result = "failed" if error else "differs" if found.differences else "complete"
            number = await verifications.certify(
                conn, context.run_id, key, events, began, as_of=found.as_of, result=result, active=found.active,
                removed=found.removed, values=found.values, newer=found.newer, error=error,
                differences=[
                    {"event_id": one.event_id, "registration_id": one.registration_id, "field": one.field}
                    for one in found.differences
                ],
            )  # fmt: skip
    zone = next((event.timezone for event in race.events), None)
    return Verified(
        *key, race.name, zone, sorted(events), number, result, found.as_of, found.active, found.removed, found.values,
        found.newer, error, found.differences,
    )  # fmt: skip


async def _read(
    context: Context, own: list[Credential], race: StoredRace, events: frozenset[int], conn: Connection
) -> Found:
    """One reading, with the partner's other credential where the first may not read the race."""
    usable = sorted((one for one in own if one.stopped_at is None), key=lambda o: o.credential_id != race.credential_id)
    partner = own[0].timing_partner_id
    problem: StartlistError = CredentialRefused(
        f"its API key is stopped; give it the right secret: startlist partner rotate {partner}"
    )
    for credential in usable[:2]:
        cursor = await cursors.load_cursor(conn, partner, race.race_id)
        if cursor.participants_watermark is None:
            raise ConfigurationError(f"it was never read to its end: startlist sync --race {race.race_id}")
        scope = Scope(partner, race.race_id, events, frozenset(), False, None)
        client = context.client(credential, context.gate(credential, patience=PATIENCE))
        try:
            return await Reading(conn, client, scope, cursor).read()
        except PermissionDenied as error:
            problem = error
        except CredentialRefused as error:
            async with context.admin() as admin:
                await partners.stop(admin, credential, str(error))
            problem = error
    raise problem
