"""What the scheduler's measurements are judged by."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks import __main__, serving_report, ticking
from benchmarks.serving import Run, Serving
from benchmarks.ticking import Tick


def test_a_tick_that_grows_with_what_is_stored_misses_the_goal() -> None:
    found = Tick({(1_000, "0"): [0.002], (1_000, "20"): [0.010], (50_000, "0"): [0.0024], (50_000, "20"): [0.013]})
    none_due, some_due = ticking.judged(found)
    assert none_due.endswith(": reached")
    assert "10.00 ms with 1,000 stored and 13.00 ms with 50,000" in some_due
    assert some_due.endswith("NOT reached")


@pytest.mark.parametrize(
    ("bibs", "unseen", "stretch", "verdict"),
    [
        ([61.9], 0, 1.0, ": reached"),
        ([62.1], 0, 1.0, "NOT reached"),
        ([5.0], 1, 1.0, "NOT reached"),
        ([70.0], 0, 1.2, ": reached"),
    ],
)
def test_bibs_are_judged_by_the_stretched_period_and_none_may_be_lost(
    bibs: list[float], unseen: int, stretch: float, verdict: str
) -> None:
    run = Run(1, 10, bibs=bibs, unseen=unseen, stretch=stretch, memory=[90.0])
    told, memory = serving_report.judged(Serving([run]))
    assert told.endswith(verdict)
    assert memory.endswith("90 MB: reached")


def test_each_goal_of_serve_is_judged() -> None:
    run = Run(3, 10, bibs=[30.0], memory=[90.0, 150.0, 80.0])
    missed = [line for line in serving_report.judged(Serving([run], idle=0.02, overhead=0.02)) if "NOT" in line]
    assert [line.rpartition(": NOT")[0].rpartition(": ")[2] for line in missed] == ["150 MB", "2.00%", "20.0 ms"]


def test_a_part_of_the_comparison_is_not_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(__main__, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--parts", "sync", "tick", "--write"])
    with pytest.raises(SystemExit, match="2"):
        __main__.main()
    assert "--write takes all three or none" in capsys.readouterr().err
