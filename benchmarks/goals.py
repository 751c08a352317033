"""The goals, and whether the measured figures reach them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.growth import Growth
from benchmarks.results import (
    COPY,
    FIRST,
    GROWTH_AFTER,
    GROWTH_BEFORE,
    GROWTH_FIRST,
    STARTLIST,
    UNCHANGED,
    Result,
)

REGISTRATIONS = 200_000
GROWN_TO = 1_000_000
SHARE_OF_COPY = 3
FIRST_CPU = 100
UNCHANGED_RATE = 60_000
MEGABYTES = 100
GROWTH_SHARE = 0.2


def judged(results: Sequence[Result], growth: Growth | None) -> list[str]:
    """A line for each goal that was measured; the goals are for 200,000 registrations, and grown to a million."""
    return [*_loads(results), *(_growth(growth) if growth and growth.steps else [])]


def _loads(results: Sequence[Result]) -> Iterator[str]:
    first, copied = of(results, STARTLIST, FIRST), of(results, COPY, FIRST)
    if first and copied:
        ours, limit = median(r.rate for r in first), median(r.rate for r in copied)
        yield (
            f"first load at a third of the bare COPY or better: {ours:,.0f} of {limit:,.0f} rows/s,"
            f" 1/{limit / ours:.2f}: {met(ours * SHARE_OF_COPY >= limit)}"
        )
    if first:
        cpu = median(r.cpu_per_row for r in first)
        yield (
            f"first load for at most {FIRST_CPU} microseconds of CPU a row, client and PostgreSQL together:"
            f" {cpu:.0f}: {met(cpu <= FIRST_CPU)}"
        )
    if again := of(results, STARTLIST, UNCHANGED):
        rates = [r.rate for r in again]
        yield (
            f"unchanged reload at {UNCHANGED_RATE:,} rows/s or better: median {median(rates):,.0f}, from"
            f" {min(rates):,.0f} to {max(rates):,.0f}: {met(median(rates) >= UNCHANGED_RATE)}; no row of"
            " runsignup_participants was written in any run (the run ends otherwise): reached"
        )


def _growth(growth: Growth) -> Iterator[str]:
    if load := of(growth.results, STARTLIST, GROWTH_FIRST):
        sizes = sorted({50_000, 400_000, growth.registrations} & {*range(growth.registrations + 1)})
        until = ", ".join(f"{peak:.0f} MB at {size:,}" for size in sizes if (peak := growth.peak_at(size)) is not None)
        peak = max(r.megabytes for r in load)
        yield (
            f"{growth.registrations:,} registrations below {MEGABYTES} MB in the sync process, flat: peak {peak:.0f} MB"
            f" (until then {until}): {met(peak < MEGABYTES)}"
        )
        early, late = growth.early_and_late()
        yield (
            f"rows/s with {growth.registrations:,} stored within {GROWTH_SHARE:.0%} of rows/s with"
            f" {growth.registrations // 20:,}: {late:,.0f} over the last tenth, {early:,.0f} over the first"
            f" ({late / early - 1:+.0%}): {met(late >= early * (1 - GROWTH_SHARE))}"
        )
    before, after = (of(growth.results, STARTLIST, case) for case in (GROWTH_BEFORE, GROWTH_AFTER))
    if before and after:
        cheap, dear = median(r.cpu for r in before), median(r.cpu for r in after)
        same = dear <= cheap * (1 + GROWTH_SHARE)
        short, long = (median(r.figures.seconds for r in each) for each in (before, after))
        yield (
            "the cost of an incremental pass does not depend on how much is stored: median"
            f" {cheap:.2f} s of CPU (client and PostgreSQL) and {short:.2f} s before the large load, {dear:.2f} and"
            f" {long:.2f} s after it; judged by CPU, within {GROWTH_SHARE:.0%}: {met(same)}"
        )


def of(results: Sequence[Result], contender: str, case: str) -> list[Result]:
    """The results of a contender in a case."""
    return [result for result in results if (result.contender, result.case) == (contender, case)]


def met(reached: bool) -> str:
    """The verdict."""
    return "reached" if reached else "NOT reached"
