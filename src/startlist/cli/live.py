"""The progress of a sync run or a verification on a terminal: one line that moves, and one for what has to wait."""

from __future__ import annotations

import time
from datetime import datetime, tzinfo
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from startlist.cli.output import console
from startlist.sync.job import Outcome
from startlist.sync.progress import Progress


class LiveProgress(Progress):
    """Partners, races, rows, rows/s, calls made and left, time to go, on stderr."""

    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self._bar = Bar(
            TextColumn("{task.fields[partners]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("races"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("sync", total=None, partners="listing races", figures="")
        self._began = time.monotonic()
        self._partners: set[int] = set()
        self._races = 0
        self._rows = 0
        self._calls = 0
        self._left: dict[int, int] = {}
        self._said: dict[int, datetime] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def partner_planned(self, timing_partner_id: int, company_name: str, races: int) -> None:
        self._partners.add(timing_partner_id)
        self._races += races
        self._show()

    def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
        self._rows += rows
        self._show()

    def race_ended(self, timing_partner_id: int, race_id: int, outcome: Outcome) -> None:
        self._bar.advance(self._task)

    def race_verified(self, timing_partner_id: int, race_id: int) -> None:
        self._bar.advance(self._task)

    def call_made(self, timing_partner_id: int, credential_id: int, calls_left: int) -> None:
        self._calls += 1
        self._left[credential_id] = calls_left
        self._show()

    def waiting(self, timing_partner_id: int, credential_id: int, until: datetime, why: str) -> None:
        if self._said.get(credential_id) != until:  # several of its races wait for the same moment
            self._said[credential_id] = until
            clock = until.astimezone(self._zone).strftime("%H:%M:%S")
            self._bar.console.print(f"partner {timing_partner_id}: waits until {clock}, then goes on ({why})")

    def _show(self) -> None:
        seconds = max(time.monotonic() - self._began, 0.001)
        least = min(self._left.values(), default=None)
        left = "" if least is None else f" ({least} left)"
        figures = f"{self._rows:,} rows, {self._rows / seconds:,.0f}/s, {self._calls} calls{left}"
        partners = f"{len(self._partners)} partner{'s' if len(self._partners) != 1 else ''}"
        self._bar.update(self._task, total=self._races or None, partners=partners, figures=figures)
