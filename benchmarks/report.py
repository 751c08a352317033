"""Figures as lines on a terminal and as a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.goals import judged, of
from benchmarks.growth import Growth
from benchmarks.results import CHANGED, CHANGED_ONLY, FIRST, QUIET, STARTLIST, UNCHANGED, Result

PEERS_TEXT = Path(__file__).with_name("PEERS.md")
PROFILE_TEXT = Path(__file__).with_name("PROFILE.md")
PICTURE = "growth.svg"

_COLUMNS = (
    "run",
    "seconds",
    "rows",
    "rows/s",
    "µs CPU/row",
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
    what = f"{result.case}, {result.contender} (run {result.run})"
    return f"{what}: " + ", ".join(f"{name} {cell}" for name, cell in named)


def summary(results: Sequence[Result], growth: Growth | None) -> str:
    """The goals, as far as they were measured."""
    return "\n".join(judged(results, growth))


def document(
    found: dict[str, str], results: Sequence[Result], growth: Growth | None, *, registrations: int, per_race: int
) -> str:
    """Everything, as Markdown."""
    lines = [
        "## Loading, beside others",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC with `make bench`. Every figure is of"
        " a whole child process, from its start to its end, interpreter and imports included. The sandbox, PostgreSQL"
        " (embedded, with the settings that Startlist gives it, `fsync` on) and whoever is measured share the machine."
        f" {registrations:,} registrations of about 2 KB of JSON in races of {per_race:,} (pages of 2,500), one timing"
        " partner, two calls at once.",
        "",
        *(f"* {fact}" for fact in facts(found)),
        "",
        "## Goals",
        "",
        *(f"* {text}" for text in judged(results, growth)),
        "",
        "## Compared",
        "",
        "Medians; CPU in seconds. Rows are the registrations that the process received.",
        "",
    ]
    for case in (FIRST, UNCHANGED, CHANGED, CHANGED_ONLY, QUIET):
        lines += _comparison(case, [result for result in results if result.case == case])
    lines += [PEERS_TEXT.read_text()]
    if growth and growth.steps:
        lines += _grown(growth)
    lines += [PROFILE_TEXT.read_text(), "## All runs", ""]
    every = [*results, *(growth.results if growth else [])]
    for case, contender in dict.fromkeys((result.case, result.contender) for result in every):
        lines += [f"### {case}: {contender}", "", *_table(of(every, contender, case)), ""]
    return "\n".join(lines)


def _comparison(case: str, results: Sequence[Result]) -> list[str]:
    if not results:
        return []
    few = case in (CHANGED_ONLY, QUIET)  # where a rate says nothing
    head = (
        "",
        "runs",
        "seconds",
        "rows",
        "rows/s",
        "µs CPU/row",
        "Python",
        "PostgreSQL",
        "WAL MB",
        "peak MB",
        "calls",
        "",
    )
    lines = [f"### {case}", "", _row(head), "|:--|" + "--:|" * 10 + ":--|"]
    ours = [r.figures.seconds for r in of(results, STARTLIST, case)]
    for contender in dict.fromkeys(result.contender for result in results):
        runs = of(results, contender, case)
        seconds = median(r.figures.seconds for r in runs)
        lines.append(
            _row(
                (
                    contender,
                    str(len(runs)),
                    f"{seconds:.2f}",
                    f"{median(r.rows for r in runs):,.0f}",
                    "" if few else f"{median(r.rate for r in runs):,.0f}",
                    "" if few else f"{median(r.cpu_per_row for r in runs):,.0f}",
                    f"{median(r.figures.cpu for r in runs):.1f}",
                    f"{median(r.figures.postgres_cpu or 0 for r in runs):.1f}",
                    f"{median(r.figures.wal for r in runs) / 1e6:,.0f}",
                    f"{median(r.megabytes for r in runs):,.0f}",
                    f"{median(r.figures.calls for r in runs):,.0f}",
                    f"{seconds / median(ours):.1f} × the time" if ours and contender != STARTLIST else "",
                )
            )
        )
    return [*lines, ""]


def _grown(growth: Growth) -> list[str]:
    windows = ((f"{stored:,}", f"{rate:,.0f}") for stored, rate in growth.windows())
    return [
        "## Growth",
        "",
        f"One first sync of {growth.registrations:,} registrations, and before and after it incremental passes of"
        " another timing partner with one race, of which a few bibs had been changed. Between the load and those"
        " passes the table is vacuumed and analysed, so that autovacuum does not do it within a measurement.",
        "",
        f"![Rows a second and memory against rows stored; the cost of incremental passes]({PICTURE})",
        "",
        "| rows stored | rows/s in this window |",
        "|--:|--:|",
        *(_row(cells) for cells in windows),
        "",
    ]


def _table(results: Iterable[Result]) -> list[str]:
    return [_row(_COLUMNS), "|" + "--:|" * len(_COLUMNS), *(_row(_cells(result)) for result in results)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(result: Result) -> tuple[str, ...]:
    figures = result.figures
    return (
        str(result.run),
        f"{figures.seconds:.2f}",
        f"{result.rows:,}",
        f"{result.rate:,.0f}",
        f"{result.cpu_per_row:,.0f}" if result.rows else "-",
        f"{figures.cpu:.2f}",
        _seconds(figures.postgres_cpu),
        _seconds(figures.sandbox_cpu),
        f"{figures.wal / 1e6:.1f}",
        f"{figures.calls:,}",
        f"{result.megabytes:.0f}",
        f"{figures.load:.1f}",
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
