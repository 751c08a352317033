"""A Thanksgiving in virtual time: the scheduler's own decisions over a morning of 1,056 races, with faults."""

from __future__ import annotations

from benchmarks.thanksgiving.rehearsal import Results, run
from benchmarks.thanksgiving.report import judged, section

__all__ = ["Results", "judged", "run", "section"]
