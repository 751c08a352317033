"""What a backfill did, for people, for `--json`, and as an exit status."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from startlist.store.backfill import FINISHED
from startlist.store.history import Figures
from startlist.sync.backfill.job import PastOutcome
from startlist.sync.summary import Run

AMISS = ("partial", "refused", "gone", "failed")


@dataclass(slots=True)
class PastSummary:
    """One race's past: how this run left it; figures are summed over the legs that waited."""

    race_id: int
    name: str | None
    outcome: PastOutcome

    def to_json(self) -> dict[str, Any]:
        """As an object keyed by the columns of `backfill_progress`, with this run's figures."""
        o = self.outcome
        return {
            "race_id": self.race_id,
            "name": self.name,
            "state": o.state,
            "reason": o.reason,
            **_figures(o.figures),
            "seconds": round(o.seconds, 3),
        }


@dataclass(slots=True)
class PartnerPast:
    """One timing partner's past: the races of this run, beside those that were finished before it."""

    timing_partner_id: int
    company_name: str
    finished_before: int = 0
    left_alone: int = 0  # of those, races that could not be read in an earlier run and were not asked again
    races: list[PastSummary] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    other_calls: int = 0  # calls for the race list and for checks, which belong to no race
    calls_left: int | None = None  # of its keys' share of the hour, when it ended
    seconds: float = 0.0

    @property
    def figures(self) -> Figures:
        """The sum over the races of this run."""
        total = Figures(api_calls=self.other_calls)
        for race in self.races:
            total.add(race.outcome.figures)
        return total

    @property
    def states(self) -> Counter[str]:
        """How many races of this run ended in which state."""
        return Counter(race.outcome.state for race in self.races)

    def to_json(self) -> dict[str, Any]:
        """As an object with its figures and its races."""
        return {
            "timing_partner_id": self.timing_partner_id,
            "company_name": self.company_name,
            "races": self.finished_before + len(self.races),
            "finished_before": self.finished_before,
            "left_alone": self.left_alone,
            "states": dict(sorted(self.states.items())),
            **_figures(self.figures),
            "calls_left": self.calls_left,
            "seconds": round(self.seconds, 3),
            "errors": self.errors,
            "races_read": [race.to_json() for race in self.races],
        }


@dataclass(slots=True)
class BackfillSummary(Run):
    """A whole backfill."""

    partners: list[PartnerPast] = field(default_factory=list)

    @property
    def states(self) -> Counter[str]:
        """How many races of this run ended in which state."""
        return sum((partner.states for partner in self.partners), Counter())

    @property
    def status(self) -> str:
        """completed, partial, failed or skipped (every race was held by another backfill)."""
        states = self.states
        if self.error or any(partner.errors for partner in self.partners):
            return "failed"
        if states and set(states) == {"held"}:
            return "skipped"
        if states["failed"]:
            return "failed"
        return "partial" if any(states[state] for state in (*AMISS, "waiting")) else "completed"

    def absorb(self, earlier: BackfillSummary) -> None:
        """Take in what was done before the database went away, so that all of it is told as one run."""
        self.started_at = earlier.started_at
        for before in earlier.partners:
            after = next((p for p in self.partners if p.timing_partner_id == before.timing_partner_id), None)
            if after is None:
                self.partners.append(before)
                continue
            after.other_calls += before.other_calls
            after.seconds += before.seconds
            after.errors += [error for error in before.errors if error not in after.errors]
            again = {race.race_id: race for race in after.races}
            for race in before.races:
                if race.race_id in again:
                    again[race.race_id].outcome.figures.add(race.outcome.figures)
                else:
                    after.races.append(race)
                    after.finished_before -= race.outcome.state in FINISHED
                    after.left_alone -= race.outcome.state in AMISS and race.outcome.state in FINISHED

    def to_json(self) -> dict[str, Any]:
        """As `--json` gives it."""
        return {
            "run_id": self.run_id,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "duration_seconds": self.seconds,
            "status": self.status,
            "states": dict(sorted(self.states.items())),
            "api_calls": sum(partner.figures.api_calls for partner in self.partners),
            "error": None if self.error is None else str(self.error),
            "partners": [partner.to_json() for partner in self.partners],
        }


def _figures(figures: Figures) -> dict[str, int]:
    """Without those that a backfill never has."""
    return {
        name: value
        for name, value in asdict(figures).items()
        if name not in ("rows_missing", "silent_edits", "silent_bibs")
    }
