"""Races with a past, in the small sandbox, and what holds of their stored past after any backfill."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from startlist.sync.backfill.job import PastOutcome
from startlist.sync.backfill.progress import BackfillProgress
from startlist.sync.gate import utc_now
from tests.syncing import RACE, Rig

YEAR = 364  # days
_COUNTED = (
    "api_calls", "rows_received", "rows_inserted", "rows_updated", "rows_unchanged", "rows_removed", "quarantined"
)  # fmt: skip


def add_years(rig: Rig, years: int = 3, *, race_id: int = RACE, runners: int = 3) -> list[int]:
    """Earlier runnings of a race, the newest first, each with so many runners."""
    events: list[int] = [
        rig.control.add_event(race_id, f"{year} years ago", in_days=-YEAR * year) for year in range(1, years + 1)
    ]
    for event in events:
        rig.control.register(event, runners)
    return events


def add_race(rig: Rig, years: int = 1, *, runners: int = 3, keys: Sequence[str] | None = None, days: int = 0) -> int:
    """A race that was held in the last years and is over, so many days earlier than the others."""
    race: int = rig.control.add_race(f"Over for {days} days more", keys=None if keys is None else list(keys))
    for year in range(1, years + 1):
        rig.control.register(rig.control.add_event(race, "5K", in_days=-YEAR * year - days), runners)
    return race


def events_of(rig: Rig, race_id: int) -> list[int]:
    """All events that RunSignup has of a race."""
    return list(rig.control.truth(race_id)["events"])


async def assert_adds_up(rig: Rig) -> None:
    """What `backfill_progress` counts of a race is what its legs have counted together."""
    sums = ", ".join(f"coalesce(sum({name}), 0)::integer" for name in _COUNTED)
    wrong = await rig.rows(
        f"""
        select timing_partner_id, race_id, {", ".join(_COUNTED)}, legs
        from backfill_progress as b,
             lateral (select array[{sums}] as legs from sync_history as h
                      where h.timing_partner_id = b.timing_partner_id and h.race_id = b.race_id
                        and h.sync_type = 'backfill') as h
        where array[{", ".join(_COUNTED)}] <> legs
        """
    )
    assert wrong == []


async def assert_nothing_marked(rig: Rig) -> None:
    """No registration is taken for missing, and no place of a sync was touched."""
    assert await rig.rows("select registration_id from runsignup_participants where missing_since is not null") == []
    assert await rig.count("sync_cursors") == 0


class Clock:
    """A clock that only sleeping moves; the database's rows grow older with it."""

    def __init__(self, rig: Rig, at: datetime | None = None) -> None:
        self.rig = rig
        self.at = at or utc_now()
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.at

    async def sleep(self, seconds: float) -> None:
        assert len(self.slept) < 200, "the backfill waits for ever"
        self.slept.append(seconds)
        self.at += timedelta(seconds=seconds)
        await self.rig.pass_time(seconds)


class Told(BackfillProgress):
    """What the user is told; `ended` by race, `left` after each call."""

    def __init__(self) -> None:
        self.waits: list[tuple[datetime, str]] = []
        self.ended: list[tuple[int, str]] = []
        self.planned: list[tuple[int, int, int]] = []
        self.left: list[int] = []

    def waiting(self, timing_partner_id: int, credential_id: int, until: datetime, why: str) -> None:
        self.waits.append((until, why))

    def call_made(self, timing_partner_id: int, credential_id: int, calls_left: int) -> None:
        self.left.append(calls_left)

    def past_planned(self, timing_partner_id: int, company_name: str, races: int, finished: int, per_hour: int) -> None:
        self.planned.append((races, finished, per_hour))

    def past_ended(self, timing_partner_id: int, race_id: int, outcome: PastOutcome) -> None:
        self.ended.append((race_id, outcome.state))
