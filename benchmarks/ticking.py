"""What a tick of the scheduler costs, by how many races are stored and how many are due.

A tick comes every second; one in sixty also does chores, among them a look for races that the schedule does not know
yet, which goes through all that are stored. Those are measured apart.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import LiteralString

from benchmarks.goals import met
from benchmarks.results import percentile
from benchmarks.stand import Stand

TIMES = 40
# With the whole key: going through all rows in between would leave the processor's caches cold for the tick.
_PLAN: LiteralString = (
    "update sync_cursors set next_sync_at = now() + %s::interval where timing_partner_id = 1 and race_id <= %s"
)
MORE_SHARE, MORE_SECONDS = 0.2, 0.0005  # by which two medians may differ and yet be the same


@dataclass
class Tick:
    """The seconds of single ticks of the scheduler, by how many races are stored and how many due.

    `chores`: of those with chores and nothing due, by how many races are stored.
    """

    seconds: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    chores: dict[int, list[float]] = field(default_factory=dict)


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
            conn.execute("analyze sync_cursors, runsignup_races")
        found.chores[races] = asyncio.run(_ticks(0, chores=True))
        for many in due:
            found.seconds[races, many] = asyncio.run(_ticks(many))
    ground.drop("ticking")


async def _ticks(due: int, *, chores: bool = False) -> list[float]:
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
        await leader.tick(conn)  # the first does chores, like every sixtieth
        for _ in range(TIMES):
            if chores:
                leader = Leader(database, app, Rhythm())
            await conn.execute("delete from procrastinate_jobs")
            await conn.execute(_PLAN, ["0 hours", due])
            begun = time.perf_counter()
            await leader.tick(conn)
            seconds.append(time.perf_counter() - begun)
            await conn.execute(_PLAN, ["10 hours", due])
        await conn.execute("delete from procrastinate_jobs")
    return seconds


def judged(found: Tick) -> Iterator[str]:
    """A line for each number of races due: whether a tick costs the same, however many are stored."""
    few, many = (choose(stored for stored, _ in found.seconds) for choose in (min, max))
    for due in sorted({due for _, due in found.seconds}):
        cheap, dear = (percentile(found.seconds[stored, due], 0.5) for stored in (few, many))
        same = dear <= max(cheap * (1 + MORE_SHARE), cheap + MORE_SECONDS)
        yield (
            f"a tick's cost follows what is due, not what is stored: with {due} due, median {cheap * 1000:.2f} ms with"
            f" {few:,} stored and {dear * 1000:.2f} ms with {many:,}; within {MORE_SHARE:.0%} or"
            f" {MORE_SECONDS * 1000:.1f} ms: {met(same)}"
        )


def section(found: Tick, facts: Sequence[str]) -> str:
    """The ticks, as Markdown."""
    lines = [
        "## The scheduler's tick",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Milliseconds of a tick, which comes every second: it looks up what is"
        f" due and queues it. {TIMES} ticks of each kind. Once a minute a tick also does chores: it looks for races"
        " that the schedule does not know yet, which goes through all that are stored, and for workers that vanished.",
        "",
        *(f"* {fact}" for fact in facts),
        "",
        "### Its goals",
        "",
        *(f"* {text}" for text in judged(found)),
        "",
        "| races stored | due | median | 99th percentile | worst |",
        "|--:|--:|--:|--:|--:|",
    ]
    rows = [(stored, str(due), seconds) for (stored, due), seconds in found.seconds.items()]
    rows += [(stored, "0, with chores", seconds) for stored, seconds in found.chores.items()]
    for stored, what, seconds in sorted(rows):
        p50, p99, worst = (percentile(seconds, share) * 1000 for share in (0.5, 0.99, 1))
        lines.append(f"| {stored:,} | {what} | {p50:.2f} | {p99:.2f} | {worst:.2f} |")
    return "\n".join(lines)
