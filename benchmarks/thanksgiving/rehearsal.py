"""The morning, once for each latency, and what is left of it: percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import fsum

from benchmarks.results import percentile
from benchmarks.thanksgiving.model import Faults, Model, Told
from benchmarks.thanksgiving.world import Credential, morning

SEED = 1
LATENCIES = (45.0, 170.0, 1_400.0)  # milliseconds
LANES = 2

Three = tuple[float, float, float]  # the 50th and 99th percentile and the worst


@dataclass(frozen=True, slots=True)
class Class:
    """The changes of races of one class: how many, how late in seconds, and as a part of the planned period."""

    changes: int
    delays: Three
    ratios: Three


@dataclass(frozen=True, slots=True)
class Morning:
    """A morning at one latency, in milliseconds.

    `gaps` lie between two complete passes of a race, in planned periods. `stretched` is the planned stretch beside the
    least that lanes and budgets allow at that minute, of each race of race day in each minute, `mean_stretched` that of
    the whole morning; `stretch` the planned one itself.
    """

    latency: float
    classes: dict[str, Class]
    gaps: Three
    stretch: Three
    stretched: Three
    mean_stretched: float
    calls: int
    most_calls: int
    calls_per_hour: int
    passes: dict[str, int]
    twice_at_once: int
    killed: int
    never_read: int
    cpu: float


@dataclass(slots=True)
class Results:
    """All mornings, and of what size they were."""

    seed: int
    partners: int = 0
    races: int = 0
    registrations: int = 0
    mornings: list[Morning] = field(default_factory=list)


def run(progress: Callable[[str], None], *, seed: int = SEED, latencies: Sequence[float] = LATENCIES) -> Results:
    """Rehearse the morning at each latency; `progress` is told of each one when it is over."""
    results = Results(seed)
    for latency in latencies:
        found = rehearsed(morning(seed), latency, seed=seed, results=results)
        results.mornings.append(found)
        progress(
            f"Thanksgiving at {latency:g} ms: {found.calls:,} calls, {sum(found.passes.values()):,} passes,"
            f" stretch up to {found.stretch[2]:.2f}; {found.cpu:.0f} s of CPU"
        )
    return results


def rehearsed(credentials: list[Credential], latency: float, *, seed: int, results: Results | None = None) -> Morning:
    """One morning; notes its size in the results."""
    if results is not None:
        races = [race for one in credentials for race in one.races]
        results.partners, results.races = len(credentials), len(races)
        results.registrations = sum(race.registrations for race in races)
    began = time.process_time()
    told = Model(credentials, latency / 1_000, lanes=LANES, seed=seed, faults=Faults()).run()
    return _summed(told, latency, credentials[0].calls_per_hour, time.process_time() - began)


def _summed(told: Told, latency: float, calls_per_hour: int, cpu: float) -> Morning:
    classes = {
        rank: Class(len(delays), _three(delays), _three(told.ratios[rank]))
        for rank, delays in told.delays.items()
        if delays
    }
    return Morning(
        latency,
        classes,
        gaps=_three(told.gaps),
        stretch=_three([planned for planned, _ in told.stretches]),
        stretched=_three([planned / least for planned, least in told.stretches]),
        mean_stretched=fsum(planned for planned, _ in told.stretches) / fsum(least for _, least in told.stretches),
        calls=told.calls,
        most_calls=told.most_calls,
        calls_per_hour=calls_per_hour,
        passes=dict(told.passes),
        twice_at_once=told.twice_at_once,
        killed=told.killed,
        never_read=told.never_read,
        cpu=cpu,
    )


def _three(values: Sequence[float]) -> Three:
    ordered = sorted(values)
    return percentile(ordered, 0.5), percentile(ordered, 0.99), ordered[-1]
