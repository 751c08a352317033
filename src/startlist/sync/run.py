"""A sync run: all timing partners at once, each credential's races in order of their next start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from startlist.errors import CallerRefused, ConfigurationError, DatabaseError, StartlistError
from startlist.store import history, partners, races
from startlist.store.cursors import load_cursor
from startlist.store.database import translated
from startlist.store.partners import Credential
from startlist.store.sealing import open_key_ring
from startlist.sync.context import Context
from startlist.sync.plan import Kind, decide, estimated_calls
from startlist.sync.summary import PartnerSummary, Summary
from startlist.sync.work import CredentialWork


@dataclass(frozen=True, slots=True)
class PlannedPass:
    """A line of `sync --dry-run`: one race, what a run would do with it, and its calls as far as they are known."""

    timing_partner_id: int
    credential_id: int
    race_id: int
    name: str | None
    sync_type: str
    reason: str
    event_ids: list[int]
    record: str | None
    calls: int


async def run(context: Context, *, only_first_partner: bool = False, trigger: str = "manual") -> Summary:
    """Sync what the options select and say what happened. Raises `ConfigurationError` when there is nobody to sync for.

    On cancellation the run is closed as interrupted; what is stored stays right and the next run goes on from it.
    """
    credentials = await _credentials(context, only_first_partner=only_first_partner)
    async with context.admin() as conn:
        context.run_id = await history.open_run(conn, "sync", trigger)
    summary = Summary(context.run_id, context.now(), [])
    try:
        summary.error = await _together([_sync_partner(context, own, summary) for own in _by_partner(credentials)])
        if context.options.race_id is not None and not any(p.races or p.errors for p in summary.partners):
            summary.error = summary.error or _nobodys(context.options.race_id)
    except BaseException as error:
        await _close(context, "interrupted" if isinstance(error, asyncio.CancelledError) else "failed", None)
        raise
    summary.finished_at = context.now()
    await _close(context, summary.status, summary.error)
    return summary


async def dry_run(context: Context, *, only_first_partner: bool = False) -> tuple[list[PlannedPass], list[str]]:
    """What a run would do, and what would keep it from it; RunSignup is asked for its race lists only."""
    credentials = await _credentials(context, only_first_partner=only_first_partner)
    found: list[PlannedPass] = []
    errors: list[str] = []
    for own in _by_partner(credentials):
        summary = PartnerSummary(own[0].timing_partner_id, own[0].company_name)
        for work in await _plan_partner(context, own, summary):
            found += [await _planned_pass(context, work, n) for n in range(len(work.planned))]
        errors += [f"{summary.company_name}: {error}" for error in summary.errors]
    if context.options.race_id is not None and not found and not errors:
        raise _nobodys(context.options.race_id)
    return found, errors


def _nobodys(race_id: int) -> ConfigurationError:
    return ConfigurationError(
        f"race {race_id} is in no partner's list of races and was never synced;"
        " if it is long over, say whose it is: --timing-partner ID"
    )


async def _credentials(context: Context, *, only_first_partner: bool) -> list[Credential]:
    async with context.admin() as conn:
        ring = await open_key_ring(conn, context.settings)
        found = await partners.credentials(
            conn, ring, context.settings, timing_partner_id=context.options.timing_partner_id
        )
        if not found and context.options.timing_partner_id is not None:
            await partners.states(conn, context.settings, timing_partner_id=context.options.timing_partner_id)
    if not found:
        raise ConfigurationError("there is no timing partner with a key yet: startlist partner add NAME --api-key KEY")
    if only_first_partner:
        first = min(credential.timing_partner_id for credential in found)
        found = [credential for credential in found if credential.timing_partner_id == first]
    return found


def _by_partner(credentials: Sequence[Credential]) -> list[list[Credential]]:
    found: dict[int, list[Credential]] = {}
    for credential in credentials:
        found.setdefault(credential.timing_partner_id, []).append(credential)
    return list(found.values())


async def _together(partner_runs: list[Coroutine[Any, Any, None]]) -> StartlistError | None:
    """Run all partners at once; return what stopped everything: the database, the caller registration, a setting."""
    stopped: StartlistError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for partner_run in partner_runs:
                group.create_task(partner_run)
    except* (CallerRefused, DatabaseError, ConfigurationError) as errors:
        stopped = _first(errors)
    return stopped


def _first(errors: BaseExceptionGroup[StartlistError]) -> StartlistError:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, StartlistError)  # noqa: S101 - the group was split by these types
    return found


async def _sync_partner(context: Context, own: list[Credential], summary: Summary) -> None:
    began = time.monotonic()
    partner = PartnerSummary(own[0].timing_partner_id, own[0].company_name)
    summary.partners.append(partner)
    works = await _plan_partner(context, own, partner)
    planned = sum(len(work.planned) for work in works)
    context.progress.partner_planned(partner.timing_partner_id, partner.company_name, planned)
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work.run([other for other in works if other is not work]))
    partner.races.sort(key=lambda race: race.race_id)
    partner.seconds = time.monotonic() - began


async def _plan_partner(context: Context, own: list[Credential], partner: PartnerSummary) -> list[CredentialWork]:
    """List the races of all the partner's credentials and give each race to one of them."""
    works = [CredentialWork(context, credential, partner) for credential in own]
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work.list_races())
    async with context.admin() as conn:
        stored = await races.stored_races(conn, partner.timing_partner_id, context.options.race_id)
    usable = [work for work in works if not work.refusal]
    if usable:
        for race_id in _selected(context, usable, stored):
            _owner(usable, race_id, stored).mine.add(race_id)
    for work in usable:
        work.plan(stored)
    return usable


def _selected(context: Context, works: list[CredentialWork], stored: dict[int, races.StoredRace]) -> set[int]:
    listed = {race_id for work in works for race_id in work.listed}
    wanted = context.options.race_id
    if wanted is None:
        return listed | {race_id for race_id, race in stored.items() if race.gone_at is None}
    # A race that nobody lists is asked for by its number only of a partner that the user named.
    return {wanted} if wanted in listed | set(stored) or context.options.timing_partner_id is not None else set()


def _owner(works: list[CredentialWork], race_id: int, stored: dict[int, races.StoredRace]) -> CredentialWork:
    """The credential that reads a race: the one it was read with before, else the first that lists it."""
    before = stored[race_id].credential_id if race_id in stored else None
    able = [work for work in works if race_id in work.listed] or works
    return next((work for work in works if work.key[1] == before), able[0])


async def _planned_pass(context: Context, work: CredentialWork, number: int) -> PlannedPass:
    planned = work.planned[number]
    race_id, events = planned.job.race_id, sorted(planned.wanted.event_ids)
    async with context.admin() as conn:
        cursor = await load_cursor(conn, work.key[0], race_id)
        decision = decide(cursor, events, context.options, context.now())
        rows = await races.counted_rows(conn, work.key[0], events) if decision.kind is Kind.FULL and events else 0
    calls = (1 if planned.record else 0) + (estimated_calls(rows, len(events)) if events else 0)
    kind, reason = (str(decision.kind), decision.reason) if events else ("record", "no event to keep fresh is known")
    return PlannedPass(*work.key, race_id, planned.name, kind, reason, events, planned.record, calls)


async def _close(context: Context, status: str, error: StartlistError | None) -> None:
    """Close the run's row, on a connection of its own: the run's may be the one that was lost."""
    assert context.run_id is not None  # noqa: S101 - only a run that was opened is closed
    with suppress(DatabaseError):
        conn = await context.database.connect(name="startlist sync")
        async with conn:
            with translated():
                await history.close_run(conn, context.run_id, status, None if error is None else str(error))
