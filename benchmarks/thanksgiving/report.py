"""The simulated Thanksgiving in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from benchmarks.goals import met
from benchmarks.thanksgiving.rehearsal import LANES, Morning, Results, Three

TIMES_PLANNED = 2.0  # the 99th percentile of how late a change is stored, in planned periods
TIMES_FLOOR = 1.1  # the planned period, beside the least that lanes and budgets allow
STARVED = 5.0  # planned periods without a complete pass


def section(results: Results) -> str:
    """Everything, as Markdown."""
    lines = [
        "## A Thanksgiving in virtual time",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. {results.partners:,} timing partners with an API key of 1,000 calls"
        f" an hour each, {results.races:,} races with {results.registrations:,} registrations that change until the"
        f" gun, starts over four time zones on one morning, {LANES} calls at once, three workers that crash, a database"
        " that restarts, calls that fail, time out or are throttled. The cadence, the choice of passes, the stretch and"
        " the shares of the hour are decided by the scheduler's own code; nothing sleeps. The same seed"
        f" ({results.seed}) gives the same morning.",
        "",
        "### Its goals",
        "",
        *(f"* {text}" for morning in results.mornings for text in judged(morning)),
        "",
        "How late a change is stored, from RunSignup to the database: the 50th and 99th percentile and the worst, in"
        " seconds, and in periods as they were planned.",
        "",
        "| latency | class | changes | seconds | planned periods |",
        "|--:|:--|--:|:--|:--|",
    ]
    for morning in results.mornings:
        for rank, one in sorted(morning.classes.items()):
            lines.append(
                f"| {morning.latency:g} ms | {rank.replace('_', ' ')} | {one.changes:,} | {_said(one.delays, 1)} |"
                f" {_said(one.ratios, 2)} |"
            )
    lines += [
        "",
        "| latency | calls | passes | stretch of race day | beside its floor | between passes, in periods |"
        " passes killed | CPU |",
        "|--:|--:|:--|:--|:--|:--|--:|--:|",
    ]
    for morning in results.mornings:
        passes = ", ".join(f"{number:,} {kind}" for kind, number in sorted(morning.passes.items()))
        lines.append(
            f"| {morning.latency:g} ms | {morning.calls:,} | {passes} | {_said(morning.stretch, 2)} |"
            f" {_said(morning.stretched, 3)} | {_said(morning.gaps, 2)} | {morning.killed} | {morning.cpu:.0f} s |"
        )
    return "\n".join(lines)


def judged(found: Morning) -> Iterator[str]:
    """A line for each goal."""
    at = f"{found.latency:g} ms"
    for rank, one in sorted(found.classes.items()):
        p99 = one.ratios[1]
        yield (
            f"{at}: {rank.replace('_', ' ')} at most {TIMES_PLANNED:g} planned periods late at the 99th percentile:"
            f" {p99:.2f}: {met(p99 <= TIMES_PLANNED)}"
        )
    yield (
        f"{at}: the planned period at most {TIMES_FLOOR:g} times what lanes and budgets allow, over the whole of race"
        f" day: {found.mean_stretched:.3f} (of a race in a minute, while demand rises or falls: up to"
        f" {found.stretched[1]:.3f} at the 99th percentile, {found.stretched[2]:.3f} at worst):"
        f" {met(found.mean_stretched <= TIMES_FLOOR)}"
    )
    yield (
        f"{at}: no key ever above its {found.calls_per_hour:,} calls in an hour: at most {found.most_calls:,}:"
        f" {met(found.most_calls <= found.calls_per_hour)}"
    )
    yield (
        f"{at}: no race starved: none went more than {found.gaps[2]:.1f} planned periods without a complete pass (at"
        f" most {STARVED:g}), {found.never_read} changes were left unread:"
        f" {met(found.gaps[2] <= STARVED and not found.never_read)}"
    )
    yield f"{at}: no pass of a race twice at once: {found.twice_at_once}: {met(not found.twice_at_once)}"


def _said(values: Three, digits: int) -> str:
    return ", ".join(f"{value:,.{digits}f}" for value in values)
