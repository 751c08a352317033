"""What a run did, for people, for `--json` and `--summary`, and as an exit status."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from startlist.errors import CallerRefused, ConfigurationError, RunSignupError, StartlistError
from startlist.store.history import Figures
from startlist.sync.job import Outcome

DONE, FAILED, MISUSED, ALL_HELD = 0, 1, 2, 3


@dataclass(slots=True)
class RaceSummary:
    """One race's last pass; figures are summed over the legs of a pass that waited."""

    race_id: int
    name: str | None
    outcome: Outcome

    def to_json(self) -> dict[str, Any]:
        """As an object keyed by the columns of `sync_history`."""
        o = self.outcome
        return {
            "race_id": self.race_id,
            "name": self.name,
            "sync_type": o.kind,
            "status": o.status,
            "reason": o.reason,
            "event_ids": sorted(o.event_ids),
            **asdict(o.figures),
            "seconds": round(o.seconds, 3),
            "error_code": o.error.code if isinstance(o.error, RunSignupError) else None,
            "error_message": str(o.error) if o.error else "; ".join(o.notes) or None,
        }


@dataclass(slots=True)
class PartnerSummary:
    """One timing partner's races, and what kept its credentials from being used."""

    timing_partner_id: int
    company_name: str
    races: list[RaceSummary] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    other_calls: int = 0  # calls for the race list and for checks, which belong to no race
    seconds: float = 0.0

    @property
    def figures(self) -> Figures:
        """The sum over its races."""
        total = Figures(api_calls=self.other_calls)
        for race in self.races:
            total.add(race.outcome.figures)
        return total

    @property
    def synced(self) -> list[RaceSummary]:
        """Its races whose rows are stored: complete, or partial with the reason said."""
        return [race for race in self.races if race.outcome.status in ("completed", "partial")]

    @property
    def failed(self) -> bool:
        """Whether anything of it is not as it should be, and so worth an exit status of 1."""
        return bool(self.errors) or any(race.outcome.status in ("failed", "partial") for race in self.races)

    def kinds(self) -> dict[str, int]:
        """How many passes of each kind were made."""
        found: dict[str, int] = {}
        for race in self.races:
            if race.outcome.status != "skipped":
                found[race.outcome.kind] = found.get(race.outcome.kind, 0) + 1
        return found

    def to_json(self) -> dict[str, Any]:
        """As an object with its figures and its races."""
        return {
            "timing_partner_id": self.timing_partner_id,
            "company_name": self.company_name,
            "races_synced": len(self.synced),
            "events": sum(len(race.outcome.event_ids) for race in self.synced),
            "passes": self.kinds(),
            **asdict(self.figures),
            "seconds": round(self.seconds, 3),
            "errors": self.errors,
            "races": [race.to_json() for race in self.races],
        }


@dataclass(slots=True)
class Run(ABC):
    """A whole run of whatever command. `error` is what stopped everything, if anything did."""

    run_id: int
    started_at: datetime
    finished_at: datetime | None = None
    error: StartlistError | None = None

    @property
    @abstractmethod
    def status(self) -> str:
        """completed, partial, failed or skipped (every race was held by another run)."""

    @property
    def exit_status(self) -> int:
        """As the contract has it."""
        if isinstance(self.error, ConfigurationError | CallerRefused):
            return MISUSED
        return {"completed": DONE, "skipped": ALL_HELD}.get(self.status, FAILED)

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it goes on."""
        return None if self.finished_at is None else round((self.finished_at - self.started_at).total_seconds(), 3)


@dataclass(slots=True)
class Summary(Run):
    """A whole sync."""

    partners: list[PartnerSummary] = field(default_factory=list)

    @property
    def outcomes(self) -> list[Outcome]:
        """All races' outcomes."""
        return [race.outcome for partner in self.partners for race in partner.races]

    @property
    def total_participants(self) -> int:
        """Active registrations stored for the events of all races that were synced."""
        return sum(race.outcome.participants for partner in self.partners for race in partner.synced)

    @property
    def status(self) -> str:
        """completed, partial, failed or skipped (every race was held by another run)."""
        statuses = {outcome.status for outcome in self.outcomes}
        if self.error or "failed" in statuses or any(partner.errors for partner in self.partners):
            return "failed"
        if statuses == {"skipped"}:
            return "skipped"
        return "partial" if "partial" in statuses else "completed"

    def failed_syncs(self) -> list[dict[str, Any]]:
        """Every race that failed or is partial, and every credential that could not be used (race_id null)."""
        found: list[dict[str, Any]] = []
        for partner in self.partners:
            who = partner.timing_partner_id
            found += [{"timing_partner_id": who, "race_id": None, "error": error} for error in partner.errors]
            found += [
                {"timing_partner_id": who, "race_id": race.race_id, "error": race.to_json()["error_message"]}
                for race in partner.races
                if race.outcome.status in ("failed", "partial")
            ]
        return found

    def to_json(self) -> dict[str, Any]:
        """As `--json` and `--summary` give it."""
        synced = [race for partner in self.partners for race in partner.synced]
        return {
            "run_id": self.run_id,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "duration_seconds": self.seconds,
            "status": self.status,
            "total_races": len(synced),
            "total_events": sum(len(race.outcome.event_ids) for race in synced),
            "total_participants": self.total_participants,
            "api_calls": sum(partner.figures.api_calls for partner in self.partners),
            "timing_partners_synced": sum(not partner.failed for partner in self.partners),
            "failed_syncs": self.failed_syncs(),
            "error": None if self.error is None else str(self.error),
            "partners": [partner.to_json() for partner in self.partners],
        }
