"""A Thanksgiving in virtual time.

python -m benchmarks.thanksgiving --seed 1 --latency 45 170 1400
"""

from __future__ import annotations

import argparse

from benchmarks.thanksgiving import run, section
from benchmarks.thanksgiving.rehearsal import LATENCIES, SEED


def main() -> None:
    """Rehearse it and print the section of the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thanksgiving", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=SEED, help=f"the same seed gives the same morning ({SEED})")
    parser.add_argument("--latency", type=float, nargs="+", default=LATENCIES, help="median of a call in milliseconds")
    options = parser.parse_args()
    results = run(lambda text: print(text, flush=True), seed=options.seed, latencies=options.latency)
    print("\n" + section(results))


if __name__ == "__main__":
    main()
