"""How fast, how small, how cheap: Startlist beside its peers, against a sandbox, in one run.

    python -m benchmarks                        everything, about 50 minutes; writes benchmarks/RESULTS.md
    python -m benchmarks --parts sync --runs 1 --registrations 50000
    python -m benchmarks --parts peers --peers upsert dlt
    python -m benchmarks --parts serving --minutes 2 --processes 1

The loader (sync, peers, growth: a quarter of an hour), the scheduler for real (serving: 28 minutes), its tick (half a
minute) and a Thanksgiving in virtual time (three minutes) each have a section of RESULTS.md, which only a run that
measured it writes anew, as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import goals, machine, report, sections, serving, serving_report, thanksgiving, ticking
from benchmarks.cases import PEERS, peer_cases, syncs
from benchmarks.growth import Growth, grow
from benchmarks.machine import BENCH_PYTHON
from benchmarks.results import GROWTH_AFTER, GROWTH_BEFORE, STARTLIST, Result
from benchmarks.stand import Stand, sandbox, stand

LOADER = ("sync", "peers", "growth")
PARTS = (*LOADER, "thanksgiving", "tick", "serving")
FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"


def main() -> None:
    """Measure what the options ask for, print it, and write a whole run down."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    with stand() as ground:
        for name, text in _sections(ground, options):
            if options.write:
                sections.write(RESULTS, {name: text})
                print(f"\nwritten to {RESULTS}: {name}", flush=True)


def _sections(ground: Stand, options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The sections of the results, each with what the machine was like right before it was measured."""
    measures = {"loader": _load, "thanksgiving": _rehearse, "tick": _tick, "serving": _serve}
    for name, measure in measures.items():
        if {*(LOADER if name == "loader" else (name,))} & {*options.parts}:
            found = machine.facts(ground.one("select current_setting('server_version')"))
            print("\n".join(["", *report.facts(found), ""]), flush=True)
            yield name, measure(ground, options, found)


def _load(ground: Stand, options: argparse.Namespace, found: dict[str, str]) -> str:
    growth = Growth(options.grow_to)
    results: list[Result] = []
    for result in _measured(ground, options):
        print(report.line(result), flush=True)
        results.append(result)
    if "growth" in options.parts:
        for result in grow(ground, options.grow_to, options.per_race, options.passes, growth):
            print(report.line(result), flush=True)
    print("\n" + report.summary(results, growth))
    if (options.registrations, options.grow_to) != (goals.REGISTRATIONS, goals.GROWN_TO):
        print(f"(the goals are for {goals.REGISTRATIONS:,} registrations, grown to {goals.GROWN_TO:,})")
    if options.write and growth.steps:
        _draw(growth)
    return report.document(found, results, growth, registrations=options.registrations, per_race=options.per_race)


def _rehearse(_ground: Stand, _options: argparse.Namespace, found: dict[str, str]) -> str:
    results = thanksgiving.run(lambda text: print(text, flush=True))
    for text in (judged for morning in results.mornings for judged in thanksgiving.judged(morning)):
        print(text)
    return "\n".join([thanksgiving.section(results), "", *(f"* {fact}" for fact in report.facts(found))])


def _tick(ground: Stand, _options: argparse.Namespace, found: dict[str, str]) -> str:
    measured = ticking.Tick()
    ticking.ticks(ground, measured)
    text = ticking.section(measured, report.facts(found))
    print("\n" + text)
    return text


def _serve(ground: Stand, options: argparse.Namespace, found: dict[str, str]) -> str:
    measured = serving.Serving()
    for run in serving.measure(ground, options.minutes, options.processes, measured):
        print("; ".join(serving_report.said(run)), flush=True)
    print("\n" + "\n".join(serving_report.judged(measured)))
    return serving_report.section(measured, report.facts(found))


def _measured(ground: Stand, options: argparse.Namespace) -> Iterator[Result]:
    if not {"sync", "peers"} & {*options.parts}:
        return
    with sandbox(options.registrations, options.per_race) as world:
        if "sync" in options.parts:
            for run in range(1, options.runs + 1):
                yield from syncs(ground, world, options.registrations, run)
        if "peers" in options.parts:
            for name in options.peers:
                if not Path(PEERS[name].python).exists():
                    print(f"{name}: not measured, {PEERS[name].python} is missing; `make bench` makes it")
                    continue
                for run in range(1, options.peer_runs + 1):
                    yield from peer_cases(ground, world, PEERS[name], options.registrations, run)


def _draw(growth: Growth) -> None:
    if not BENCH_PYTHON.exists():
        print(f"no picture: {BENCH_PYTHON} is missing; `make bench` makes it")
        return
    early, _ = growth.early_and_late()
    data = {
        "windows": growth.windows(),
        "floor": early * (1 - goals.GROWTH_SHARE),
        "memory": growth.memory,
        "memory_goal": goals.MEGABYTES,
        "passes": {
            name: [result.cpu for result in goals.of(growth.results, STARTLIST, case)]
            for name, case in (("before the load", GROWTH_BEFORE), ("after it", GROWTH_AFTER))
        },
    }
    command = [str(BENCH_PYTHON), "-m", "benchmarks.picture", str(FOLDER / report.PICTURE)]
    subprocess.run(command, input=json.dumps(data), text=True, check=True, cwd=machine.ROOT)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="default: all, 50 minutes: sync, peers and growth take a quarter of an hour together, serving 28 minutes"
        " (the minutes and 100 seconds for each number of processes, three minutes before and after), tick half a one",
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[*PEERS], help="default: all")
    parser.add_argument("--runs", type=int, default=3, help="of Startlist and the bare COPY (default: 3)")
    parser.add_argument("--peer-runs", type=int, default=1, help="of each peer (default: 1)")
    parser.add_argument("--passes", type=int, default=5, help="incremental, before and after growth (default: 5)")
    parser.add_argument("--registrations", type=int, default=goals.REGISTRATIONS, help="default: 200,000")
    parser.add_argument("--per-race", type=int, default=5000, help="registrations of each race (default: 5,000)")
    parser.add_argument("--grow-to", type=int, default=goals.GROWN_TO, help="registrations (default: 1,000,000)")
    parser.add_argument("--minutes", type=float, default=10, help="of serving, for each number of processes (10)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 3], help="serve, and workers beside it (1 3)")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"write what was measured into {RESULTS.name}; done anyway when all is as by default",
    )
    options = parser.parse_args()
    options.write |= all(value == parser.get_default(name) for name, value in vars(options).items())
    if options.write and 0 < len({*LOADER} & {*options.parts}) < len(LOADER):
        parser.error(f"{', '.join(LOADER)} are compared with each other: --write takes all three or none")
    return options


if __name__ == "__main__":
    main()
