"""An incremental pass of a race beside a full one: what each costs, and whether both leave the same data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from startlist.errors import StartlistError
from startlist.store import comparison, cursors, search
from startlist.store.comparison import Cost, Left
from startlist.store.registrations import Key
from startlist.sync.context import Context
from startlist.sync.plan import Kind, Options
from startlist.sync.run import run as run_sync
from startlist.sync.summary import RaceSummary


@dataclass(frozen=True, slots=True)
class Measured:
    """One of the two passes, with the registrations that it left."""

    sync_type: str
    run_id: int
    calls: int
    seconds: float
    rows: int
    bytes: int
    registrations: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both passes; `differing`: registrations (event, registration) that the full pass left otherwise.

    `newer` are those of them that RunSignup changed after the incremental pass had asked: no fault of it.
    """

    timing_partner_id: int
    race_id: int
    name: str | None
    incremental: Measured
    full: Measured
    differing: list[Key]
    newer: int

    @property
    def same(self) -> bool:
        """Whether an incremental pass does for this race what a full one does."""
        return not self.differing


class NotCompared(StartlistError):
    """One of the two passes was not made; `held`: because another run holds the race."""

    def __init__(self, message: str, *, held: bool = False) -> None:
        super().__init__(message)
        self.held = held


async def compare(context: Context, race_id: int, timing_partner_id: int | None = None) -> Comparison:
    """Read a race incrementally, then in full, and compare what is stored after each.

    A race that is due for a full pass gets it first. Raises `ConfigurationError` when it is not clear whose race is
    meant, `NotCompared` when a pass failed or another run holds the race.
    """
    async with context.admin() as conn:
        partner = await search.partner_of_race(conn, race_id, timing_partner_id)
    options = Options(partner, race_id)
    race = await _pass(context, options)
    if race.outcome.kind != Kind.INCREMENTAL:
        race = await _pass(context, options)
    if race.outcome.kind != Kind.INCREMENTAL:
        raise NotCompared(f"RunSignup cannot be asked for this race's changes alone now: {race.outcome.reason}")
    events = race.outcome.event_ids
    incremental, before = await _measured(context, partner, race, race_id)
    async with context.admin() as conn:
        watermark = (await cursors.load_cursor(conn, partner, race_id)).participants_watermark
    asked_at = datetime.fromtimestamp(watermark or 0, UTC)
    race = await _pass(context, replace(options, force_full=True))
    full, after = await _measured(context, partner, race, race_id)
    moved = {
        key for key in before.keys() | after.keys()
        if key[0] in events and _fingerprint(before, key) != _fingerprint(after, key)
    }  # fmt: skip
    newer = {key for key in moved if key in after and _since(after[key], asked_at)}
    return Comparison(partner, race_id, race.name, incremental, full, sorted(moved - newer), len(newer))


async def _pass(context: Context, options: Options) -> RaceSummary:
    done = await run_sync(context, options)
    if done.error is not None:
        raise done.error
    found = next((race for partner in done.partners for race in partner.races), None)
    if found is None:
        raise NotCompared("; ".join(error for partner in done.partners for error in partner.errors))
    outcome = found.outcome
    if outcome.status == "skipped":
        raise NotCompared("another run holds this race; try again when it is done", held=True)
    if outcome.status != "completed":
        raise NotCompared(f"the {outcome.kind} pass is {outcome.status}: {found.to_json()['error_message']}")
    return found


async def _measured(
    context: Context, partner: int, race: RaceSummary, race_id: int
) -> tuple[Measured, dict[Key, Left]]:
    run_id = context.run_id
    assert run_id is not None  # noqa: S101 - a run has just been made
    async with context.admin() as conn:
        cost: Cost = await comparison.cost(conn, run_id, race_id)
        left = await comparison.left(conn, partner, race.outcome.event_ids)
    return Measured(race.outcome.kind, run_id, cost.calls, cost.seconds, cost.rows, cost.bytes, len(left)), left


def _fingerprint(left: dict[Key, Left], key: Key) -> str | None:
    return left[key].fingerprint if key in left else None


def _since(one: Left, moment: datetime) -> bool:
    return one.changed is not None and one.changed >= moment
