"""Whether it stays as fast and as small while the database grows: one first sync of a million registrations.

A second timing partner with a single race has a few bibs changed and an incremental pass measured, before and after.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from psycopg import sql

from benchmarks.cases import PAUSE_SECONDS, SCHEMA, change, expect, total
from benchmarks.results import (
    GROWTH_AFTER,
    GROWTH_BEFORE,
    GROWTH_FIRST,
    GROWTH_UNCHANGED,
    STARTLIST,
    Result,
)
from benchmarks.stand import Figures, Sandbox, Stand, sandbox

SMALL = 2  # the timing partner with the single race
BIBS = 20
WINDOWS = 20
SAMPLE_SECONDS = 0.25
# Each page's answer and how many registrations it held; it is stored a few hundredths of a second later.
_PAGES = sql.SQL(
    "select extract(epoch from min(started_at) over ())::float8,"
    " extract(epoch from started_at + ms * interval '1 millisecond')::float8 as answered, rows"
    " from {} where run_id = (select max(run_id) from {}) and endpoint = 'participants' and rows > 0 order by answered"
)


@dataclass
class Growth:
    """What happened while the store grew: `steps` are (rows stored, seconds since the first page was asked for)."""

    registrations: int
    steps: list[tuple[int, float]] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)  # rows stored, resident megabytes
    peaks: list[tuple[int, float]] = field(default_factory=list)  # rows stored, peak megabytes until then
    results: list[Result] = field(default_factory=list)

    def rate(self, after: int, up_to: int) -> float:
        """Rows a second while the store grew from one count to another."""
        begin, end = self._at(after), self._at(up_to)
        return (end[0] - begin[0]) / (end[1] - begin[1])

    def windows(self) -> list[tuple[int, float]]:
        """Rows stored at the middle of each window, and the rate within it."""
        width = self.registrations // WINDOWS
        return [(n * width + width // 2, self.rate(n * width, (n + 1) * width)) for n in range(WINDOWS)]

    def early_and_late(self) -> tuple[float, float]:
        """The rate around a twentieth of the rows, which is 50,000 of a million, and over the last tenth."""
        tenth = self.registrations // 10
        return self.rate(0, tenth), self.rate(self.registrations - tenth, self.registrations)

    def peak_at(self, rows: int) -> float | None:
        """Peak megabytes until so many rows were stored."""
        reached = [megabytes for stored, megabytes in self.peaks if stored <= rows]
        return max(reached, default=None)

    def _at(self, rows: int) -> tuple[int, float]:
        steps = [(0, 0.0), *self.steps]
        return steps[bisect.bisect_left(steps, (rows, 0.0)) if rows < steps[-1][0] else len(steps) - 1]


def grow(ground: Stand, registrations: int, per_race: int, runs: int, growth: Growth) -> Iterator[Result]:
    """Measure passes of the small partner, the large load and its reload, and the small partner's passes again."""
    with sandbox(registrations + per_race, per_race) as world:
        small = _apart(world)
        ground.prepare(SCHEMA, (world.key, world.secret), small)
        one, two = ("--timing-partner", "1"), ("--timing-partner", str(SMALL))
        ground.sync(SCHEMA, world, *two)
        yield from _passes(ground, world, GROWTH_BEFORE, runs, growth)

        samples: list[tuple[float, float, float]] = []
        figures = ground.sync(SCHEMA, world, *one, watch=lambda pid: _sample(pid, samples))
        expect("rows stored", total(figures, "rows_received"), registrations)
        _record(ground, samples, growth)
        yield _kept(growth, GROWTH_FIRST, 1, figures)
        ground.vacuum(sql.Identifier(SCHEMA, "runsignup_participants"))

        yield from _passes(ground, world, GROWTH_AFTER, runs, growth)
        yield _kept(growth, GROWTH_UNCHANGED, 1, ground.sync(SCHEMA, world, *one, "--force-full-sync"))
        ground.drop(SCHEMA)


def _apart(world: Sandbox) -> tuple[str, str]:
    """Give the last race to a timing partner of its own; returns its key and secret."""
    race = world.facts["partners"][0]["race_ids"][-1]
    partner = world.ask("add_partner", name="Small", kind="legacy")
    world.ask("unshare", race_id=race, key=world.key)
    world.ask("share", race_id=race, key=partner["key"])
    return partner["key"], partner["secret"]


def _passes(ground: Stand, world: Sandbox, case: str, runs: int, growth: Growth) -> Iterator[Result]:
    for run in range(1, runs + 1):
        change(ground, world, _SMALL_ROWS, BIBS, seed=run + (100 if case == GROWTH_AFTER else 0))
        world.ask("clock", advance=PAUSE_SECONDS)
        figures = ground.sync(SCHEMA, world, "--timing-partner", str(SMALL))
        expect("rows updated", total(figures, "rows_updated"), BIBS)
        yield _kept(growth, case, run, figures)


_SMALL_ROWS = sql.SQL("(select registration_id from {} where timing_partner_id = {}) as small").format(
    sql.Identifier(SCHEMA, "runsignup_participants"), SMALL
)


def _kept(growth: Growth, case: str, run: int, figures: Figures) -> Result:
    result = Result(STARTLIST, case, run, total(figures, "rows_received"), figures)
    growth.results.append(result)
    return result


def _sample(pid: int, samples: list[tuple[float, float, float]]) -> None:
    """Note time, resident and peak megabytes until the process is gone."""
    while memory := _memory(pid):
        samples.append((time.time(), *memory))
        time.sleep(SAMPLE_SECONDS)


def _memory(pid: int) -> tuple[float, float] | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    if "VmRSS" not in found:
        return None
    return int(found["VmRSS"].split()[0]) * 1024 / 1e6, int(found["VmHWM"].split()[0]) * 1024 / 1e6


def _record(ground: Stand, samples: list[tuple[float, float, float]], growth: Growth) -> None:
    """Put the pages, from the log of calls, and the samples onto one line of stored rows."""
    calls = sql.Identifier(SCHEMA, "api_calls")
    with ground.connect() as conn:
        pages = conn.execute(_PAGES.format(calls, calls)).fetchall()
    stored = 0
    answers = []
    for began, answered, rows in pages:
        stored += rows
        answers.append(answered)
        growth.steps.append((stored, answered - began))
    for moment, resident, peak in samples:
        at = bisect.bisect_right(answers, moment)
        rows = growth.steps[at - 1][0] if at else 0
        growth.memory.append((rows, resident))
        growth.peaks.append((rows, peak))
