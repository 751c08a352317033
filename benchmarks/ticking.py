"""What a tick of the scheduler costs, by how many races are stored and how many are due.

A tick comes every second; one in sixty also does chores, among them a look for races that are new to the schedule.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, LiteralString

from benchmarks.goals import met
from benchmarks.results import percentile
from benchmarks.stand import Stand

if TYPE_CHECKING:
    from procrastinate import App

    from startlist.store.database import Connection, Database

TIMES = 100
WARM = 10  # ticks before, unmeasured: the server prepares a statement at its fifth time
CHORES = "0, with chores"
_PLAN: LiteralString = (
    "update sync_cursors set next_sync_at = now() + %s::interval where timing_partner_id = 1 and race_id <= %s"
)
MORE_SHARE, MORE_SECONDS = 0.2, 0.0005  # by which two medians may differ and yet be the same


@dataclass
class Tick:
    """The seconds of single ticks, by how many races are stored and what they had to do: how many were due, or chores.

    Filled as they are measured.
    """

    seconds: dict[tuple[int, str], list[float]] = field(default_factory=dict)


def ticks(ground: Stand, found: Tick, stored: Sequence[int] = (1_000, 50_000), due: Sequence[int] = (0, 20)) -> None:
    """Measure ticks with so many races stored, of which so many are due.

    Each number of races has a schema of its own, and their ticks take turns: what the machine does meanwhile, and what
    earlier ticks left in the queue's table, touches all alike.
    """
    schemas = {races: f"ticking_{races}" for races in stored}
    for races, schema in schemas.items():
        ground.prepare(schema, ("key", "secret"))
        with ground.connect() as conn:
            conn.execute("select set_config('search_path', %s, false)", [schema])
            conn.execute(
                "insert into runsignup_races (timing_partner_id, race_id, credential_id, adopted)"
                " select 1, n, 1, true from generate_series(1, %s) as n", [races]
            )  # fmt: skip
            conn.execute(
                "insert into sync_cursors (timing_partner_id, race_id, next_sync_at, planned_at, rank, period_seconds,"
                " last_full_at, stale_at) select 1, n, now() + interval '10 hours', now(), 'routine', 14400, now(),"
                " now() + interval '20 hours' from generate_series(1, %s) as n", [races]
            )  # fmt: skip
            conn.execute("vacuum analyze sync_cursors, runsignup_races")
    asyncio.run(_measure(ground, schemas, due, found))
    ground.drop(*schemas.values())


async def _measure(ground: Stand, schemas: dict[int, str], due: Sequence[int], found: Tick) -> None:
    async with AsyncExitStack() as stack:
        tickers = {races: await _Ticker.open(ground, schema, stack) for races, schema in schemas.items()}
        for what, many in ((CHORES, 0), *((str(many), many) for many in due)):
            for turn in range(-WARM, TIMES):
                for races, ticker in tickers.items():
                    seconds = await ticker.tick(many, chores=what == CHORES)
                    if turn >= 0:
                        found.seconds.setdefault((races, what), []).append(seconds)


class _Ticker:
    """A scheduler that leads on one schema."""

    def __init__(self, database: Database, app: App, conn: Connection) -> None:
        self.database = database
        self.app = app
        self.conn = conn

    @classmethod
    async def open(cls, ground: Stand, schema: str, stack: AsyncExitStack) -> _Ticker:
        from startlist import config
        from startlist.schedule import jobs
        from startlist.store.database import Database

        os.environ.update({k: v for k, v in ground.environment(schema).items() if k.startswith("STARTLIST_")})
        database = await Database.open(config.load())
        app = jobs.make_app(database)
        await stack.enter_async_context(app.open_async())
        await jobs.make_tables(database, app)
        return cls(database, app, await stack.enter_async_context(await database.connect(name="benchmark")))

    async def tick(self, due: int, *, chores: bool) -> float:
        """The seconds of a tick with so many races due, which are due no longer after it."""
        from startlist.schedule.cadence import Rhythm
        from startlist.schedule.leader import Leader

        leader = Leader(self.database, self.app, Rhythm())
        if not chores:
            await leader.tick(self.conn)  # the first does chores, like every sixtieth
        await self.conn.execute(_PLAN, ["0 hours", due])
        begun = time.perf_counter()
        await leader.tick(self.conn)
        seconds = time.perf_counter() - begun
        await self.conn.execute(_PLAN, ["10 hours", due])
        await self.conn.execute("delete from procrastinate_jobs")
        return seconds


def judged(found: Tick) -> Iterator[str]:
    """A line for each kind of tick: whether it costs the same, however many are stored."""
    few, many = (choose(stored for stored, _ in found.seconds) for choose in (min, max))
    for what in dict.fromkeys(what for _, what in found.seconds):
        cheap, dear = (percentile(found.seconds[stored, what], 0.5) for stored in (few, many))
        same = dear <= max(cheap * (1 + MORE_SHARE), cheap + MORE_SECONDS)
        yield (
            f"a tick's cost follows what is due, not what is stored: due: {what}; median {cheap * 1000:.2f} ms with"
            f" {few:,} stored and {dear * 1000:.2f} ms with {many:,}; within {MORE_SHARE:.0%} or"
            f" {MORE_SECONDS * 1000:.1f} ms: {met(same)}"
        )


def section(found: Tick, facts: Sequence[str]) -> str:
    """The ticks, as Markdown."""
    lines = [
        "## The scheduler's tick",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. Milliseconds of a tick, which comes every second: it looks up what is"
        f" due and queues it. Once a minute a tick also does chores: it looks for races that are new to the schedule,"
        f" and for workers that vanished. {TIMES} ticks of each kind, by turns with few and with many races stored.",
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
    for (stored, what), seconds in sorted(found.seconds.items()):
        p50, p99, worst = (percentile(seconds, share) * 1000 for share in (0.5, 0.99, 1))
        lines.append(f"| {stored:,} | {what} | {p50:.2f} | {p99:.2f} | {worst:.2f} |")
    return "\n".join(lines)
