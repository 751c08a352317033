"""How fast, how large, how dear: the main job against a sandbox, beside a row-at-a-time baseline in the same run.

    python -m benchmarks                        everything, a few minutes; writes benchmarks/RESULTS.md
    python -m benchmarks --parts sync --runs 1 --registrations 50000

Each measured figure is of a whole child process, from its start to its end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine, report
from benchmarks.report import Result
from benchmarks.stand import Figures, Sandbox, Stand, sandbox, stand

PARTS = ("sync", "baseline", "memory")
RESULTS = Path(__file__).with_name("RESULTS.md")
SCHEMA = "bench"


def main() -> None:
    """Measure what the options ask for, print it, and write a whole run down."""
    options = _options()
    with stand() as ground:
        found = machine.facts(ground.one("select current_setting('server_version')"))
        print("\n".join(report.facts(found)), end="\n\n")
        results: list[Result] = []
        for result in _measured(ground, options):
            print(report.line(result), flush=True)
            results.append(result)
    text = report.document(found, results, registrations=options.registrations, per_race=options.per_race)
    print("\n" + report.summary(results))
    if options.write:
        RESULTS.write_text(text)
        print(f"\nwritten to {RESULTS}")


def _measured(ground: Stand, options: argparse.Namespace) -> Iterator[Result]:
    if "sync" in options.parts or "baseline" in options.parts:
        with sandbox(options.registrations, options.per_race) as world:
            for run in range(options.runs):
                if "sync" in options.parts:
                    yield from _syncs(ground, world, options.registrations, run + 1)
                if "baseline" in options.parts and run == 0:
                    yield from _baselines(ground, world, run + 1)
    if "memory" in options.parts:
        for registrations in options.memory:
            with sandbox(registrations, options.per_race) as world:
                yield from _memory(ground, world, registrations)


def _syncs(ground: Stand, world: Sandbox, registrations: int, run: int) -> Iterator[Result]:
    ground.prepare(SCHEMA, world)
    figures = ground.sync(SCHEMA, world)
    _expect("rows stored", ground.one(f"select count(*) from {SCHEMA}.runsignup_participants"), registrations)
    yield _result(report.FIRST, run, figures)

    written = _written(ground), _versions(ground)
    figures = ground.sync(SCHEMA, world, "--force-full-sync")
    _expect("rows written and their versions", (_written(ground), _versions(ground)), written)
    yield _result(report.UNCHANGED, run, figures)

    changed = _change(ground, world, registrations // 100, seed=run)
    figures = ground.sync(SCHEMA, world)
    _expect("rows updated", _total(figures, "rows_updated"), changed)
    yield _result(report.CHANGED, run, figures)

    yield _result(report.QUIET, run, ground.sync(SCHEMA, world))
    ground.drop(SCHEMA)


def _baselines(ground: Stand, world: Sandbox, run: int) -> Iterator[Result]:
    command = [sys.executable, "-m", "benchmarks.baseline", ground.url, world.url, world.key, world.secret]
    for name, more in ((report.BASE_FIRST, []), (report.BASE_UPDATE, []), (report.BASE_COMPARE, ["--compare"])):
        figures = ground.measure([*command, *more], world)
        with ground.connect() as conn:
            conn.execute("vacuum baseline.participants")  # not for the next run to clean up
        yield Result(name, run, figures.output["rows"], figures.output["calls"], figures)
    ground.drop("baseline")


def _memory(ground: Stand, world: Sandbox, registrations: int) -> Iterator[Result]:
    ground.prepare(SCHEMA, world)
    yield _result(f"{report.MEMORY_FIRST} of {registrations:,}", 1, ground.sync(SCHEMA, world))
    yield _result(f"{report.MEMORY_FULL} of {registrations:,}", 1, ground.sync(SCHEMA, world, "--force-full-sync"))
    ground.drop(SCHEMA)


def _change(ground: Stand, world: Sandbox, count: int, *, seed: int) -> int:
    """Have so many registrations changed: half get a bib, half another phone."""
    with ground.connect() as conn:
        chosen = conn.execute(
            f"select registration_id from {SCHEMA}.runsignup_participants"
            " order by hashint8extended(registration_id, %s) limit %s",
            [seed, count],
        ).fetchall()
    for number, (registration_id,) in enumerate(chosen):
        if number % 2:
            world.ask("assign_bib", registration_id=registration_id, bib=str(seed * 100_000 + number))
        else:
            world.ask("edit", registration_id=registration_id, phone=f"555-{seed:03}-{number:04}")
    return count


def _written(ground: Stand) -> tuple[int, ...]:
    """How many rows of participants were ever inserted, updated, deleted, by PostgreSQL's own statistics."""
    with ground.connect() as conn:
        row = conn.execute(
            "select n_tup_ins, n_tup_upd, n_tup_del, n_tup_hot_upd from pg_stat_user_tables"
            " where schemaname = %s and relname = 'runsignup_participants'",
            [SCHEMA],
        ).fetchone()
    return tuple(row or ())


def _versions(ground: Stand) -> int:
    """A digest of which version of each row lies where; any write, even of the same values, changes it."""
    return int(ground.one(
        f"select sum(hashtextextended(ctid::text || ' ' || xmin::text, 0)) from {SCHEMA}.runsignup_participants"
    ))  # fmt: skip


def _result(name: str, run: int, figures: Figures) -> Result:
    return Result(name, run, _total(figures, "rows_received"), figures.output["api_calls"], figures)


def _total(figures: Figures, column: str) -> int:
    return sum(partner[column] for partner in figures.output["partners"])


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise SystemExit(f"{what}: {found} where {expected} was expected")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--runs", type=int, default=3, help="of the sync; the baseline runs once (default: 3)")
    parser.add_argument("--registrations", type=int, default=200_000, help="of sync and baseline (default: 200,000)")
    parser.add_argument("--per-race", type=int, default=5000, help="registrations of each race (default: 5,000)")
    parser.add_argument("--memory", type=int, nargs="+", default=[20_000, 400_000], help="registrations to measure at")
    parser.add_argument(
        "--write", action="store_true", help=f"write {RESULTS.name}; done anyway when all is as by default"
    )
    options = parser.parse_args()
    options.write |= all(value == parser.get_default(name) for name, value in vars(options).items())
    return options


if __name__ == "__main__":
    main()
