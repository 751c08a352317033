"""Figures as lines on a terminal and as a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from benchmarks.stand import Figures

FIRST = "first full sync"
UNCHANGED = "full sync again (forced), nothing changed"
CHANGED = "incremental sync, 1 % changed"
QUIET = "incremental sync, nothing changed"
BASE_FIRST = "row at a time: first"
BASE_UPDATE = "row at a time: again, nothing changed"
BASE_COMPARE = "row at a time: again, only comparing last_modified"
MEMORY_FIRST = "first full sync"
MEMORY_FULL = "forced full sync"

FIRST_GOAL, UNCHANGED_GOAL, MEMORY_GOAL = 15_000, 60_000, 100


@dataclass(frozen=True)
class Result:
    """One measured process: what it was, which run, its rows and calls."""

    name: str
    run: int
    rows: int
    calls: int
    figures: Figures

    @property
    def rate(self) -> float:
        """Rows per second, of the whole process."""
        return self.rows / self.figures.seconds

    @property
    def cpu_per_row(self) -> float:
        """Microseconds of CPU of client and PostgreSQL; hardly touched by what else the machine does."""
        return (self.figures.cpu + (self.figures.postgres_cpu or 0)) / self.rows * 1e6

    @property
    def megabytes(self) -> float:
        """Peak memory of the process."""
        return self.figures.peak_rss / 1e6


_COLUMNS = (
    "run",
    "seconds",
    "rows",
    "rows/s",
    "CPU s Python",
    "PostgreSQL",
    "sandbox",
    "WAL MB",
    "calls",
    "peak MB",
    "load",
)


def facts(found: dict[str, str]) -> list[str]:
    """The machine, a line each."""
    return [f"{name}: {value}" for name, value in found.items()]


def line(result: Result) -> str:
    """One measurement on a terminal."""
    named = zip(_COLUMNS[1:], _cells(result)[1:], strict=True)
    return f"{result.name} (run {result.run}): " + ", ".join(f"{name} {cell}" for name, cell in named)


def summary(results: Sequence[Result]) -> str:
    """The goals, and the comparison, as far as they were measured."""
    lines = _goals(results) + _ratios(results)
    return "\n".join(lines)


def document(found: dict[str, str], results: Sequence[Result], *, registrations: int, per_race: int) -> str:
    """Everything, as Markdown."""
    lines = [
        "# Results",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC with `make bench`; every figure is of a whole child process,"
        " from its start to its end, interpreter and imports included. Sandbox, PostgreSQL (embedded, with the settings"
        f" that Startlist gives it, `fsync` on) and sync share the machine. {registrations:,} registrations of about"
        f" 2 KB of JSON in races of {per_race:,} (pages of 2,500), one timing partner, two lanes.",
        "",
        *(f"* {fact}" for fact in facts(found)),
        "",
        "## Goals",
        "",
        *(f"* {text}" for text in _goals(results)),
        "",
        "## Against row at a time",
        "",
        "`benchmarks/baseline.py`: a `SELECT` by primary key for each registration, then an `INSERT` or an `UPDATE`;"
        " one commit a page, prepared statements. It reads no removals and keeps no history of changes.",
        "",
        *(f"* {text}" for text in _ratios(results)),
        "",
        "## All runs",
        "",
    ]
    for name in dict.fromkeys(result.name for result in results):
        lines += [f"### {name[0].upper()}{name[1:]}", "", *_table(r for r in results if r.name == name), ""]
    return "\n".join(lines)


def _goals(results: Sequence[Result]) -> list[str]:
    lines = []
    for name, goal in ((FIRST, FIRST_GOAL), (UNCHANGED, UNCHANGED_GOAL)):
        if rates := [result.rate for result in results if result.name == name]:
            lines.append(
                f"{name}: median {median(rates):,.0f} rows/s, from {min(rates):,.0f} to {max(rates):,.0f};"
                f" goal {goal:,}: {_met(median(rates) >= goal)}"
            )
    if any(result.name == UNCHANGED for result in results):
        lines.append(f"{UNCHANGED}: no row of runsignup_participants was written in any run (checked)")
    if sizes := [result for result in results if not result.name.startswith("row at a time")]:
        peak = max(result.megabytes for result in sizes)
        lines.append(f"peak memory of any sync: {peak:.0f} MB; goal below {MEMORY_GOAL}: {_met(peak < MEMORY_GOAL)}")
    lines += [f"peak memory, {r.name}: {r.megabytes:.0f} MB" for r in results if " of " in r.name]
    return lines


def _ratios(results: Sequence[Result]) -> list[str]:
    lines = []
    for ours, theirs in ((FIRST, BASE_FIRST), (UNCHANGED, BASE_UPDATE), (UNCHANGED, BASE_COMPARE)):
        found = [[result for result in results if result.name == name] for name in (ours, theirs)]
        if all(found):
            fast, slow = (median(result.rate for result in each) for each in found)
            cheap, dear = (median(result.cpu_per_row for result in each) for each in found)
            lines.append(
                f"{ours}: {fast:,.0f} rows/s; {theirs}: {slow:,.0f} rows/s: {fast / slow:.1f} times as fast, with"
                f" {cheap:.0f} against {dear:.0f} microseconds of CPU a row (Python and PostgreSQL together)"
            )
    return lines


def _met(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


def _table(results: Iterable[Result]) -> list[str]:
    rows = [f"| {' | '.join(_COLUMNS)} |", "|" + "--:|" * len(_COLUMNS)]
    return rows + [f"| {' | '.join(_cells(result))} |" for result in results]


def _cells(result: Result) -> tuple[str, ...]:
    figures = result.figures
    return (
        str(result.run),
        f"{figures.seconds:.2f}",
        f"{result.rows:,}",
        f"{result.rate:,.0f}",
        f"{figures.cpu:.2f}",
        _seconds(figures.postgres_cpu),
        _seconds(figures.sandbox_cpu),
        f"{figures.wal / 1e6:.1f}",
        f"{result.calls:,}",
        f"{result.megabytes:.0f}",
        f"{figures.load:.1f}",
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
