"""What a tick of the scheduler costs, by how many races are stored and how many are due."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from benchmarks.results import percentile
from benchmarks.stand import Stand


@dataclass
class Tick:
    """The seconds of single ticks of the scheduler, by how many races are stored and how many due."""

    seconds: dict[tuple[int, int], list[float]] = field(default_factory=dict)


def ticks(ground: Stand, found: Tick, stored: Sequence[int] = (1_000, 50_000), due: Sequence[int] = (0, 20)) -> None:
    """Measure ticks with so many races stored, of which so many are due."""
    ground.prepare("ticking", ("key", "secret"))
    environment = ground.environment("ticking")
    for name, value in environment.items():
        if name.startswith("STARTLIST_"):
            os.environ[name] = value
    for races in stored:
        with ground.connect() as conn:
            conn.execute("set search_path = ticking")
            conn.execute("truncate sync_cursors, runsignup_races")
            conn.execute(
                "insert into runsignup_races (timing_partner_id, race_id, credential_id)"
                " select 1, n, 1 from generate_series(1, %s) as n", [races]
            )  # fmt: skip
            conn.execute(
                "insert into sync_cursors (timing_partner_id, race_id, next_sync_at, planned_at, rank, period_seconds,"
                " last_full_at, stale_at) select 1, n, now() + interval '10 hours', now(), 'routine', 14400, now(),"
                " now() + interval '20 hours' from generate_series(1, %s) as n", [races]
            )  # fmt: skip
            conn.execute("analyze sync_cursors")
        for many in due:
            found.seconds[races, many] = asyncio.run(_ticks(ground, many))
    ground.drop("ticking")


async def _ticks(ground: Stand, due: int, times: int = 40) -> list[float]:
    from startlist import config
    from startlist.schedule import jobs
    from startlist.schedule.cadence import Rhythm
    from startlist.schedule.leader import Leader
    from startlist.store.database import Database

    database = await Database.open(config.load())
    app = jobs.make_app(database)
    seconds = []
    async with app.open_async(), await database.connect(name="benchmark") as conn:
        await jobs.make_tables(database, app)
        leader = Leader(database, app, Rhythm())
        await leader.tick(conn)  # the first does its chores
        for _ in range(times):
            await conn.execute("delete from procrastinate_jobs")
            await conn.execute("update sync_cursors set next_sync_at = now() where race_id <= %s", [due])
            begun = time.perf_counter()
            await leader.tick(conn)
            seconds.append(time.perf_counter() - begun)
            await conn.execute(
                "update sync_cursors set next_sync_at = now() + interval '10 hours' where race_id <= %s", [due]
            )
        await conn.execute("delete from procrastinate_jobs")
    return seconds


def section(found: Tick, facts: Sequence[str]) -> str:
    """The ticks, as Markdown."""
    lines = [
        "## The scheduler's tick",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Milliseconds of a tick, which comes every second: it looks up what is"
        " due and queues it.",
        "",
        *(f"* {fact}" for fact in facts),
        "",
        "| races stored | due | median | 99th percentile | worst |",
        "|--:|--:|--:|--:|--:|",
    ]
    for (stored, due), seconds in found.seconds.items():
        p50, p99, worst = (percentile(seconds, share) * 1000 for share in (0.5, 0.99, 1))
        lines.append(f"| {stored:,} | {due} | {p50:.2f} | {p99:.2f} | {worst:.2f} |")
    return "\n".join(lines)
