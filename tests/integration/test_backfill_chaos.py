"""Backfills through faults, waits and interruptions, drawn by chance: at the end everything is there, and no news."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from startlist.sync.backfill.plan import Options
from startlist.sync.backfill.run import run as run_backfill
from startlist.sync.backfill.summary import BackfillSummary
from tests.support import MakeSettings, terminate
from tests.syncing import RACE, Rig
from tests.years import Clock, Told, add_race, add_years, events_of

FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("error", {"code": 14}), ("error", {"code": 4}), ("http", {"status": 503}), ("http", {"status": 429}),
    ("http", {"status": 429, "retry_after": 30}), ("html", {}), ("reset", {}), ("cut", {}), ("truncate", {}),
    ("no_date", {}), ("bad_date", {}), ("key_order", {}), ("error", {"code": 3}),
]  # fmt: skip


class Breaking(Told):
    """Ends the run, or its connections, after so many pages."""

    def __init__(self, rig: Rig, pages: int, *, lost: bool) -> None:
        super().__init__()
        self.rig, self.pages, self.lost = rig, pages, lost
        self.task: asyncio.Task[BackfillSummary] | None = None

    def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
        self.pages -= 1
        if self.pages:
            return
        if self.lost:
            terminate(self.rig.database.conninfo, "startlist%")
        elif self.task is not None:
            self.task.cancel()


async def one_run(rig: Rig, clock: Clock, told: Breaking) -> bool:
    """Whether it came to its end in good order."""
    told.task = asyncio.create_task(
        run_backfill(lambda: rig.context(progress=told, now=clock.now, sleep=clock.sleep), Options(), told)
    )
    try:
        done = await told.task
    except asyncio.CancelledError:
        return False
    return done.exit_status == 0


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_on_the_way(rig: Rig, make_settings: MakeSettings, seed: int) -> None:
    rng = random.Random(seed)
    past = add_years(rig, 4, runners=rng.randint(100, 700))
    races = [add_race(rig, 2, runners=rng.randint(1, 300), days=10 * number) for number in range(3)]
    for event in past[1:]:
        moved = rng.choice(rig.control.truth(RACE)["events"][event]["active"])
        rig.control.transfer(moved["registration_id"], past[0])
    if rng.random() < 0.5:
        await rig.sync()
    for attempt in range(8):
        rig.control.clear_faults()
        for endpoint in ("participants", "removed_participants"):
            rig.control.fault("clamp", match={"endpoint": endpoint}, times=None, rows=500)
        for _ in range(rng.randint(0, 4)):
            kind, parameters = rng.choice(FAULTS)
            rig.control.fault(kind, skip=rng.randint(1, 12), times=rng.randint(1, 6), **parameters)
        rig.settings = make_settings(
            api_url=rig.sandbox.url, calls_per_hour=rng.choice([3, 8, 20, 1000]), concurrent_calls=rng.choice([1, 2])
        )
        clock = Clock(rig)
        finished = await one_run(rig, clock, Breaking(rig, rng.randint(1, 8), lost=rng.random() < 0.3))
        await assert_nothing_wrong(rig, past, races)
        await rig.pass_time(4000)
        if finished and attempt > 3:
            break
    rig.control.clear_faults()
    rig.settings = make_settings(api_url=rig.sandbox.url)
    done = await rig.backfill(retry=True)
    assert done.exit_status == 0
    for race in races:
        await rig.assert_truth(race)
    await rig.assert_truth(events=past, beside=[event for event in events_of(rig, RACE) if event not in past])
    assert await rig.changes() == []
    assert await rig.bibs() == []
    await rig.check()


async def assert_nothing_wrong(rig: Rig, past: list[int], races: list[int]) -> None:
    """Nothing doubled, nothing missing marked; what is stored of an event is a part of what there is."""
    assert await rig.rows("select registration_id from runsignup_participants where missing_since is not null") == []
    found = await rig.rows("select event_id, registration_id, removed_at from runsignup_participants")
    truth = {event: rows for race in (RACE, *races) for event, rows in rig.control.truth(race)["events"].items()}
    for row in found:
        known = truth[row["event_id"]]["removed" if row["removed_at"] else "active"]
        assert any(one["registration_id"] == row["registration_id"] for one in known) or row["removed_at"] is None
