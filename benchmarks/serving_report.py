"""What was measured of `serve` and `worker`, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from benchmarks.goals import met
from benchmarks.results import percentile
from benchmarks.serving import NEAR, OVERHEAD_JOBS, PARTNERS, PER_RACE, PERIOD, RACES, Run, Serving


def judged(found: Serving) -> Iterator[str]:
    """A line for each goal."""
    for run in found.runs:
        limit = PERIOD * run.stretch + 2
        if run.bibs:
            p99 = percentile(run.bibs, 0.99)
            yield (
                f"{_named(run)}: a bib within one period and 2 s ({limit:.0f} s) at the 99th percentile:"
                f" {p99:.1f} s: {met(p99 <= limit and not run.unseen)}"
            )
        most = max(run.memory)
        yield f"{_named(run)}: below 150 MB in each process: {most:.0f} MB: {met(most < 150)}"
    if found.idle is not None:
        yield f"`serve` with nothing due below 2 % of a core: {found.idle:.2%}: {met(found.idle < 0.02)}"
    if found.overhead is not None:
        ms = found.overhead * 1000
        yield f"a job below 20 ms beside its pass: {ms:.1f} ms: {met(ms < 20)}"


def section(found: Serving, facts: Sequence[str]) -> str:
    """Everything, as Markdown."""
    lines = [
        "## The scheduler, for real",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. {PARTNERS} API keys of 1,000 calls an hour, {RACES} races of"
        f" {PER_RACE} registrations, of which {NEAR} are read every minute; a sandbox that answers after 70 to 270 ms,"
        " two calls at once; PostgreSQL, sandbox and all processes on this machine.",
        "",
        *(f"* {fact}" for fact in facts),
        "",
        "### Its goals",
        "",
        *(f"* {text}" for text in judged(found)),
        "",
        "*Late* is how long after it was due, by the cadence, a pass of a minute race began; *between*, the time from"
        " the end of one pass of a race to the end of its next; *bibs*, from the assignment in RunSignup to the"
        " notification on `startlist_bibs`: the 50th and 99th percentile and the worst, in seconds. CPU is a share of"
        " one core.",
        "",
        "| processes | minutes | passes | late | between | bibs | told of | stretch | calls/s | CPU each | PostgreSQL |"
        " MB each |",
        "|--:|--:|--:|:--|:--|:--|:--|--:|--:|:--|--:|:--|",
    ]
    for run in found.runs:
        seconds = run.minutes * 60
        lines.append(
            f"| {run.processes} | {run.minutes:g} | {run.passes:,} | {_three(run.late)} | {_three(run.between)} |"
            f" {_three(run.bibs)} | {len(run.bibs)} of {len(run.bibs) + run.unseen} | {run.stretch:.2f} |"
            f" {run.calls / seconds:.1f} | {', '.join(f'{cpu / seconds:.1%}' for cpu in run.cpu)} |"
            f" {run.postgres_cpu / seconds:.1%} | {', '.join(f'{peak:.0f}' for peak in run.memory)} |"
        )
    lines += [
        "",
        f"A job beside its pass was measured with {OVERHEAD_JOBS} races that were due at once, one worker that reads"
        " one race at a time, and a sandbox that answers at once: the time from the first pass's beginning to the last"
        " one's end, less that of the passes themselves. It holds the queue, the look at what is due, the pass's"
        " connection and lock, and the planning of the next turn.",
    ]
    if found.idle_postgres is not None:
        lines += ["", f"With nothing due PostgreSQL takes {found.idle_postgres:.2%} of a core beside `serve`."]
    return "\n".join(lines)


def said(run: Run) -> Iterator[str]:
    yield f"{_named(run)}, {run.minutes:g} minutes: {run.passes:,} passes of minute races"
    yield f"late {_three(run.late)} s, between {_three(run.between)} s (50th, 99th percentile, worst)"
    yield f"bibs {_three(run.bibs)} s, {run.unseen} not told of; stretch {run.stretch:.2f}"
    seconds = run.minutes * 60
    yield f"{max(run.memory):.0f} MB; {sum(run.cpu) / seconds:.1%} of a core"
    yield f"PostgreSQL {run.postgres_cpu / seconds:.1%}"


def _named(run: Run) -> str:
    return "one process" if run.processes == 1 else f"{run.processes} processes"


def _three(values: Sequence[float]) -> str:
    return ", ".join(f"{percentile(values, share):.1f}" for share in (0.5, 0.99, 1)) if values else "none"
