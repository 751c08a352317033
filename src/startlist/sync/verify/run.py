"""A verification of one race, a partner's, or all: what differs is read a second time before it is told, or mended."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from startlist.errors import (
    CallerRefused,
    ConfigurationError,
    CredentialRefused,
    PermissionDenied,
    RunSignupError,
    StartlistError,
)
from startlist.runsignup import Event, Race
from startlist.store import cursors, history, partners, races, verifications
from startlist.store.database import Connection, translated
from startlist.store.partners import Credential
from startlist.store.races import StoredRace
from startlist.store.registrations import Scope
from startlist.sync.context import Context
from startlist.sync.credential import CredentialInUse, list_all, open_credentials
from startlist.sync.plan import Options, counts, wanted_events
from startlist.sync.run import run as run_sync
from startlist.sync.summary import ALL_HELD, DONE, FAILED, PartnerSummary, Summary
from startlist.sync.verify.race import Difference, Found, Reading

PATIENCE = 3600.0  # seconds that a race waits for its calls; nothing is held meanwhile


@dataclass(slots=True)
class Verified:
    """What the verification of one race found; `error` says why it could not be judged.

    `repair` is how mending it ended (None: nothing was to be mended): `done`, `held` by another run, or `failed`;
    `repair_error` says why.
    """

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
    repair: str | None = None
    repair_error: str | None = None


@dataclass(slots=True)
class Verification:
    """All races of a verification; `errors`: race lists that could not be read, so that new races may be unknown."""

    races: list[Verified] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """As the contract has it."""
        if self.races and all(race.repair == "held" for race in self.races):
            return ALL_HELD
        return FAILED if self.errors or any(race.result != "complete" for race in self.races) else DONE


async def verify(context: Context, options: Options, *, repair: bool = False) -> Verification:
    """Verify the races that the options select, each on its own; with `repair` mend what differs and look again.

    Raises `ConfigurationError` when there is nothing to verify, `CallerRefused` when no call can succeed.
    """
    async with context.admin() as conn:
        context.run_id = run_id = await history.open_run(conn, "verify", "verify")
    status, done = "failed", Verification()
    try:
        opened = await open_credentials(context, options.timing_partner_id)
        everybody = [_Partner(context, options, own, done) for own in opened]
        known = options.race_id is not None and any([await one.kept() for one in everybody])
        for one in everybody:
            await one.verify(repair=repair, listing=not known)
        if not done.races and not done.errors:
            raise ConfigurationError("no race is stored that could be verified; startlist races shows what is stored")
        status = "completed" if done.exit_status == DONE else "partial"
        return done
    finally:
        context.run_id = run_id
        await context.close_run(status, None)


class _Partner:
    """A timing partner's part: the stored races, and those that RunSignup lists and nobody stored."""

    def __init__(self, context: Context, options: Options, own: list[Credential], done: Verification) -> None:
        self.context = context
        self.options = options
        self.own = own
        self.partner = own[0].timing_partner_id
        self.done = done
        self.listed: dict[int, Race] = {}

    async def verify(self, *, repair: bool, listing: bool) -> None:
        """Verify its races one after the other; `listing`: races that are only listed may be meant too."""
        kept = await self.kept()
        unknown = await self._list(kept) if listing else []
        self.context.progress.partner_planned(self.partner, self.own[0].company_name, len(kept) + len(unknown))
        for race_id in kept + unknown:
            verified = await self._race(race_id)
            if repair and verified.differences:
                how, why = await self._repair(verified)
                if how != "held":
                    verified = await self._race(race_id)
                if how == "partial":  # what it could not mend is the matter of this race alone where it shows
                    how, why = ("failed", why) if verified.differences else ("done", None)
                verified.repair, verified.repair_error = how, why
            self.done.races.append(verified)
            self.context.progress.race_verified(self.partner, race_id)

    async def kept(self) -> list[int]:
        """The races that the options select of which something is kept fresh."""
        return [race.race_id for race in (await self._stored()).values() if self._wanted(race)]

    async def _stored(self, race_id: int | None = None) -> dict[int, StoredRace]:
        """The stored races that the options select, or the one."""
        options = self.options
        async with self.context.admin() as conn:
            return await races.stored_races(
                conn, self.partner, race_id or options.race_id, ended_after=options.events_from(self.context.now())
            )

    def _wanted(self, race: StoredRace) -> frozenset[int]:
        """Its events that are kept fresh."""
        if race.gone_at is not None:
            return frozenset()
        sent = self.listed.get(race.race_id)
        held = {event.event_id for event in race.events if event.gone_at is None}
        return wanted_events(race, [sent] if sent else [], self.options, self.context.now()).event_ids & held

    def _counts(self, event: Event) -> bool:
        race = self.listed.get(event.race_id)
        listed = race is not None and any(other.event_id == event.event_id for other in race.events)
        return counts(event, self.options.include_past_days, self.context.now(), listed=listed)

    async def _list(self, kept: Collection[int]) -> list[int]:
        """Read the race lists; returns the races on them that count and are not kept fresh.

        A key that RunSignup does not know is answered with everybody's races: it must have read one of its own first.
        """
        told = PartnerSummary(self.partner, self.own[0].company_name)
        first = self.options.list_from(self.context.now())
        works = [CredentialInUse(self.context, credential, told, list_from=first) for credential in self.own]
        await list_all(works)
        unknown: set[int] = set()
        for work in works:
            if work.refusal:
                continue
            self.listed |= work.listed
            coming = {number for number, race in work.listed.items() if any(map(self._counts, race.events))}
            new = {n for n in coming.difference(kept, unknown) if self.options.race_id in (None, n)}
            if new and await work.prove():
                unknown |= new
        self.done.errors += [f"{told.company_name}: {error}" for error in told.errors]
        return sorted(unknown)

    async def _race(self, race_id: int) -> Verified:
        race, sent = (await self._stored(race_id)).get(race_id), self.listed.get(race_id)
        fresh = frozenset() if race is None else self._wanted(race)
        if race is not None and fresh:
            return await _verify_race(self.context, self.own, race, fresh, self._counts)
        name, zone = (sent.name, sent.timezone) if sent else (race.name if race else None, None)
        coming = [event for event in sent.events if self._counts(event)] if sent else []
        lacking = _lacking(race, sent, coming) if sent and coming else []
        error = None if lacking else "nothing of it is to be kept fresh any more"  # since it was repaired
        found = Found(differences=[Difference(None, None, None, None, *one) for one in lacking])
        async with self.context.admin() as conn:
            began = await cursors.clock(conn)
            return await _certified(
                self.context, conn, (self.partner, race_id), name, zone, frozenset(e.event_id for e in coming), began,
                found, error,
            )  # fmt: skip

    async def _repair(self, verified: Verified) -> tuple[str, str | None]:
        """A full pass, under the race's lock, that believes no stored hash of what differs; its changes are written.

        Nothing is touched before it: where another run holds the race, all is as it was. Returns how it ended, and why.
        """
        doubted = frozenset(
            (one.event_id, one.registration_id)
            for one in verified.differences
            if one.event_id is not None and one.registration_id is not None
        )
        again = Options(
            self.partner, verified.race_id, force_full=True, include_past_days=self.options.include_past_days,
            record_every=timedelta(), repair=True, doubted=doubted,
        )  # fmt: skip
        done = await sync_within(self.context, again)
        if done.error is not None:
            raise done.error
        ended = [(race.outcome.status, race.to_json()["error_message"]) for p in done.partners for race in p.races]
        if any(status == "skipped" for status, _ in ended):
            return "held", "another run holds this race; try again when it is done"
        failed = [error for status, error in ended if status == "failed"]
        failed += [error for partner in done.partners for error in partner.errors]
        if failed or not ended:
            return "failed", "; ".join(filter(None, failed))
        partial = [error for status, error in ended if status == "partial"]
        return ("partial", "; ".join(filter(None, partial))) if partial else ("done", None)


def _lacking(race: StoredRace | None, sent: Race, coming: Collection[Event]) -> list[tuple[str, str, str | None]]:
    """What is to be kept fresh of a race that is listed, and is not: name, ours, theirs."""
    if race is None or race.gone_at is not None:
        return [("race", "not stored" if race is None else "held as gone", sent.name)]
    gone = {event.event_id for event in race.events if event.gone_at is not None}
    return [(f"event {e.event_id}", "held as gone" if e.event_id in gone else "not stored", e.name) for e in coming]


async def sync_within(context: Context, options: Options) -> Summary:
    """A sync for the sake of a verification, which goes on with its own run after it."""
    own = context.run_id
    try:
        return await run_sync(context, options, trigger="verify")
    finally:
        context.run_id = own


async def _verify_race(
    context: Context,
    own: list[Credential],
    race: StoredRace,
    events: frozenset[int],
    counting: Callable[[Event], bool],
) -> Verified:
    key = (own[0].timing_partner_id, race.race_id)
    found, error = Found(), None
    with translated():
        async with await context.database.connect(name="startlist verify") as conn:
            began = await cursors.clock(conn)
            try:
                found = await _read(context, own, race, events, counting, conn)
                if found.differences:  # it may have been changed while it was read, there or here
                    first = {one.place for one in found.differences}
                    found = await _read(context, own, race, events, counting, conn)
                    found.differences = [one for one in found.differences if one.place in first]
            except CallerRefused:
                raise
            except (RunSignupError, ConfigurationError) as problem:
                error = str(problem)
            zone = next((event.timezone for event in race.events), None)
            return await _certified(context, conn, key, race.name, zone, events, began, found, error)


async def _certified(
    context: Context, conn: Connection, key: tuple[int, int], name: str | None, zone: str | None,
    events: frozenset[int], began: datetime, found: Found, error: str | None,
) -> Verified:  # fmt: skip
    result = "failed" if error else "differs" if found.differences else "complete"
    number = await verifications.certify(
        conn, context.run_id, key, events, began, as_of=found.as_of, result=result, active=found.active,
        removed=found.removed, values=found.values, newer=found.newer, error=error,
        differences=[
            {"event_id": one.event_id, "registration_id": one.registration_id, "field": one.field}
            for one in found.differences
        ],
    )  # fmt: skip
    return Verified(
        *key, name, zone, sorted(events), number, result, found.as_of, found.active, found.removed, found.values,
        found.newer, error, found.differences,
    )  # fmt: skip


async def _read(
    context: Context,
    own: list[Credential],
    race: StoredRace,
    events: frozenset[int],
    counting: Callable[[Event], bool],
    conn: Connection,
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
        told = context.progress
        gate = context.gate(
            credential, patience=PATIENCE, on_call=partial(told.call_made, partner, credential.credential_id)
        )
        try:
            return await Reading(
                conn, context.client(credential, gate), scope, cursor,
                counting=counting, on_page=partial(told.page_stored, partner, race.race_id),
            ).read()  # fmt: skip
        except PermissionDenied as error:
            problem = error
        except CredentialRefused as error:
            async with context.admin() as admin:
                await partners.stop(admin, credential, str(error))
            problem = error
    raise problem
