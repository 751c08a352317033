"""A backfill's progress on a terminal: a line per timing partner, and a line for what has to wait."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from startlist.cli import words
from startlist.cli.output import console
from startlist.sync.backfill.job import PastOutcome
from startlist.sync.backfill.plan import calls_to_come, seconds_to_come
from startlist.sync.backfill.progress import BackfillProgress
from startlist.sync.backfill.window import Window

LONGEST_NAME = 22
LONGEST_GAP = 30.0  # seconds: a longer one between two calls was a wait


@dataclass(slots=True)
class _Partner:
    task: TaskID
    races: int
    finished: int
    per_hour: int
    read: int = 0
    rows: int = 0
    calls: int = 0
    left: dict[int, int] = field(default_factory=dict)  # calls of the share, by credential


class LiveBackfill(BackfillProgress):
    """Per partner: races done of all, registrations, rows/s, calls made and left this hour, the estimated end."""

    def __init__(self, zone: tzinfo | None, between: Window | None) -> None:
        self._zone = zone
        self._between = between
        self._bar = Bar(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=8, table_column=Column(min_width=4)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console(stderr=True),
            transient=True,
        )
        self._began = time.monotonic()
        self._last_call = self._began
        self._call_seconds = 0.5  # between two calls of whomever, about
        self._partners: dict[int, _Partner] = {}
        self._said: dict[int, datetime] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def past_planned(self, timing_partner_id: int, company_name: str, races: int, finished: int, per_hour: int) -> None:
        known = self._partners.get(timing_partner_id)  # when it goes on after the database was away
        name = f"{timing_partner_id} {company_name}"
        name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
        task = known.task if known else self._bar.add_task(name, figures="")
        partner = _Partner(task, races, finished, per_hour)
        if known:
            partner.rows, partner.calls, partner.left = known.rows, known.calls, known.left
        self._partners[timing_partner_id] = partner
        self._show(partner)

    def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
        if partner := self._partners.get(timing_partner_id):
            partner.rows += rows
            self._show(partner)

    def past_ended(self, timing_partner_id: int, race_id: int, outcome: PastOutcome) -> None:
        partner = self._partners[timing_partner_id]
        partner.read += 1
        self._show(partner)

    def call_made(self, timing_partner_id: int, credential_id: int, calls_left: int) -> None:
        if partner := self._partners.get(timing_partner_id):
            now = time.monotonic()
            gap, self._last_call = now - self._last_call, now
            if gap < LONGEST_GAP:
                self._call_seconds += (gap - self._call_seconds) * 0.05
            partner.calls += 1
            partner.left[credential_id] = calls_left
            self._show(partner)

    def waiting(self, timing_partner_id: int, credential_id: int, until: datetime, why: str) -> None:
        if self._said.get(credential_id) != until:  # several of its races wait for the same moment
            self._said[credential_id] = until
            clock = until.astimezone(self._zone).strftime("%a %H:%M:%S")
            self._bar.console.print(f"partner {timing_partner_id}: waits until {clock}, then goes on ({why})")

    def _show(self, partner: _Partner) -> None:
        seconds = max(time.monotonic() - self._began, 0.001)
        done = partner.finished + partner.read
        left = sum(partner.left.values())
        figures = f"races, {partner.rows:,} rows, {partner.rows / seconds:,.0f}/s, {partner.calls:,} calls"
        if partner.left:
            calls = calls_to_come(partner.races - done, partner.calls, partner.read)
            to_come = seconds_to_come(calls, left, partner.per_hour, self._call_seconds, self._between)
            figures += f", {left:,} left, {words.length(to_come)} to go"
        self._bar.update(partner.task, total=partner.races, completed=done, figures=figures)
