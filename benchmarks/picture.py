"""The picture of growth: an SVG from the JSON on standard input.

    python -m benchmarks.picture FILE.svg

Runs with the libraries of requirements-bench.txt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter

INK, SOFT = "#1f4e79", "#c55a11"


def main(file: Path, data: dict[str, Any]) -> None:
    """Draw rate and memory against rows stored, and what incremental passes cost before and after."""
    mpl.use("svg")
    # The same figures make the same file.
    mpl.rcParams |= {"svg.hashsalt": "startlist", "svg.fonttype": "none", "font.size": 9, "axes.grid": True}
    mpl.rcParams |= {"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
    figure, (rate, memory, cost) = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    thousands = FuncFormatter(lambda value, _: f"{value / 1000:,.0f} k")

    rate.plot(*_columns(data["windows"]), marker="o", markersize=3, color=INK)
    rate.axhline(data["floor"], color=SOFT, linestyle="--", linewidth=1, label="a fifth below the rate at 50,000")
    rate.set(title="First load: rows a second", xlabel="rows stored")
    rate.yaxis.set_major_formatter(thousands)
    rate.legend(frameon=False, loc="lower right")

    memory.plot(*_columns(data["memory"]), color=INK, label="resident")
    memory.axhline(data["memory_goal"], color=SOFT, linestyle="--", linewidth=1, label="goal")
    memory.set(title="First load: memory of the sync, MB", xlabel="rows stored")
    memory.legend(frameon=False, loc="lower right")

    for axis in (rate, memory):
        axis.xaxis.set_major_formatter(thousands)
    for place, (name, values) in enumerate(data["passes"].items()):
        cost.plot([place] * len(values), values, "o", color=INK, alpha=0.6)
        cost.annotate(name, (place, 0), xytext=(0, 6), textcoords="offset points", ha="center")
    cost.set(title="Incremental pass: CPU seconds", xlim=(-0.6, 1.6), xticks=[])
    for axis in (rate, memory, cost):
        axis.set_ylim(0, axis.get_ylim()[1] * 1.1)
    figure.savefig(file, metadata={"Date": None, "Creator": None})


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.load(sys.stdin))
