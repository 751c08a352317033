"""A sync run: all timing partners at once, each credential's races in order of their next start."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from startlist.errors import ConfigurationError
from startlist.store import history, races
from startlist.store.cursors import load_cursor
from startlist.store.partners import Credential
from startlist.sync.context import Context
from startlist.sync.credential import list_all, open_credentials, owner_of, together
from startlist.sync.plan import Kind, Options, decide, estimated_calls
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


async def run(
    context: Context, options: Options, *, only_first_partner: bool = False, trigger: str = "manual"
) -> Summary:
    """Sync what the options select and say what happened. Raises `ConfigurationError` when there is nobody to sync for.

    On cancellation the run is closed as interrupted; what is stored stays right and the next run goes on from it.
    """
    selected = await _partners(context, options, only_first=only_first_partner)
    async with context.admin() as conn:
        context.run_id = await history.open_run(conn, "sync", trigger)
    summary = Summary(context.run_id, context.now())
    try:
        summary.error = await together([_sync_partner(context, options, own, summary) for own in selected])
        if options.race_id is not None and not any(p.races or p.errors for p in summary.partners):
            summary.error = summary.error or _nobodys(options.race_id)
    except BaseException as error:
        await context.close_run("interrupted" if isinstance(error, asyncio.CancelledError) else "failed", None)
        raise
    summary.finished_at = context.now()
    await context.close_run(summary.status, summary.error)
    return summary


async def dry_run(
    context: Context, options: Options, *, only_first_partner: bool = False
) -> tuple[list[PlannedPass], list[str]]:
    """What a run would do, and what would keep it from it; RunSignup is asked for its race lists only."""
    found: list[PlannedPass] = []
    errors: list[str] = []
    for own in await _partners(context, options, only_first=only_first_partner):
        summary = PartnerSummary(own[0].timing_partner_id, own[0].company_name)
        for work in await _plan_partner(context, options, own, summary):
            found += [await _planned_pass(context, work, n) for n in range(len(work.planned))]
        errors += [f"{summary.company_name}: {error}" for error in summary.errors]
    if options.race_id is not None and not found and not errors:
        raise _nobodys(options.race_id)
    return found, errors


def _nobodys(race_id: int) -> ConfigurationError:
    return ConfigurationError(
        f"race {race_id} is in no partner's list of races and was never synced;"
        " if it is long over, say whose it is: --timing-partner ID"
    )


async def _partners(context: Context, options: Options, *, only_first: bool) -> list[list[Credential]]:
    found = await open_credentials(context, options.timing_partner_id)
    return found[:1] if only_first else found


async def _sync_partner(context: Context, options: Options, own: list[Credential], summary: Summary) -> None:
    began = time.monotonic()
    partner = PartnerSummary(own[0].timing_partner_id, own[0].company_name)
    summary.partners.append(partner)
    works = await _plan_partner(context, options, own, partner)
    planned = sum(len(work.planned) for work in works)
    context.progress.partner_planned(partner.timing_partner_id, partner.company_name, planned)
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work.run([other for other in works if other is not work]))
    partner.races.sort(key=lambda race: race.race_id)
    partner.seconds = time.monotonic() - began


async def _plan_partner(
    context: Context, options: Options, own: list[Credential], partner: PartnerSummary
) -> list[CredentialWork]:
    """List the races of all the partner's credentials and give each race to one of them."""
    works = [CredentialWork(context, options, credential, partner) for credential in own]
    await list_all(works)
    async with context.admin() as conn:
        stored = await races.stored_races(
            conn, partner.timing_partner_id, options.race_id, ended_after=options.events_from(context.now())
        )
    usable = [work for work in works if not work.refusal]
    if usable:
        for race_id in _selected(options, usable, stored):
            owner_of(usable, race_id, stored).mine.add(race_id)
    for work in usable:
        work.plan(stored)
    return usable


def _selected(options: Options, works: list[CredentialWork], stored: dict[int, races.StoredRace]) -> set[int]:
    listed = {race_id for work in works for race_id in work.listed}
    wanted = options.race_id
    if wanted is None:
        return listed | {race_id for race_id, race in stored.items() if race.gone_at is None}
    # A race that nobody lists is asked for by its number only of a partner that the user named.
    return {wanted} if wanted in listed | set(stored) or options.timing_partner_id is not None else set()


async def _planned_pass(context: Context, work: CredentialWork, number: int) -> PlannedPass:
    planned = work.planned[number]
    race_id, events = planned.job.race_id, sorted(planned.wanted.event_ids)
    async with context.admin() as conn:
        cursor = await load_cursor(conn, work.key[0], race_id)
        decision = decide(cursor, events, work.options, context.now())
        rows = await races.counted_rows(conn, work.key[0], events) if decision.kind is Kind.FULL and events else 0
    calls = (1 if planned.record else 0) + (estimated_calls(rows, len(events)) if events else 0)
    kind, reason = (str(decision.kind), decision.reason) if events else ("record", "no event to keep fresh is known")
    return PlannedPass(*work.key, race_id, planned.name, kind, reason, events, planned.record, calls)
