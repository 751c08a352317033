"""RESULTS.md holds the last measurement of each part, whoever measured it when."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import sections
from benchmarks.results import percentile


def test_only_what_was_measured_is_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    sections.write(file, {"tick": "ticks, once", "loader": "a load"})
    sections.write(file, {"tick": "ticks, again", "serving": "bibs"})
    assert file.read_text() == (
        "# Results\n\n<!-- loader -->\na load\n<!-- /loader -->\n\n<!-- serving -->\nbibs\n<!-- /serving -->\n\n"
        "<!-- tick -->\nticks, again\n<!-- /tick -->\n"
    )


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1, 100)])
def test_percentiles(share: float, value: int) -> None:
    assert percentile([*range(100, -1, -1)], share) == value
