"""A measured process as a result: whose, in which case, which run, how many rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.stand import Figures

STARTLIST = "Startlist"
COPY = "bare COPY"
UPSERT = "upsert"
UPSERT_COMPARE = "upsert, where `last_modified` differs"
ROW = "row at a time"
ROW_COMPARE = "row at a time, where `last_modified` differs"
DLT = "dlt"
DLT_ROWS = "dlt, without Arrow"

FIRST = "First load"
UNCHANGED = "Unchanged reload"
CHANGED = "1 % changed, everything read"
CHANGED_ONLY = "1 % changed, only changes read"
QUIET = "Nothing changed, only changes read"
GROWTH_FIRST = "Growth: first load"
GROWTH_UNCHANGED = "Growth: unchanged reload"
GROWTH_BEFORE = "Growth: a few bibs, before the large load"
GROWTH_AFTER = "Growth: a few bibs, after it"


@dataclass(frozen=True)
class Result:
    """One measured process: who, in which case, which run, how many registrations it received."""

    contender: str
    case: str
    run: int
    rows: int
    figures: Figures

    @property
    def rate(self) -> float:
        """Rows per second, of the whole process."""
        return self.rows / self.figures.seconds

    @property
    def cpu(self) -> float:
        """CPU seconds of client and PostgreSQL together; hardly touched by what else the machine does."""
        return self.figures.cpu + (self.figures.postgres_cpu or 0)

    @property
    def cpu_per_row(self) -> float:
        """Microseconds of CPU a row, of client and PostgreSQL together."""
        return self.cpu / max(self.rows, 1) * 1e6

    @property
    def megabytes(self) -> float:
        """Peak memory of the process."""
        return self.figures.peak_rss / 1e6


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of them lies; the nearest one."""
    ordered = sorted(values)
    return ordered[min(round(share * (len(ordered) - 1)), len(ordered) - 1)]
