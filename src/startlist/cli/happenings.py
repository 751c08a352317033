"""What happened in the sandbox in an hour of life, and which changes a sync found of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from startlist.store.changelog import BibChange, Change, Entry


@dataclass(frozen=True)
class _Kind:
    """A kind of happening: in words, and what it has to be recorded as."""

    name: str
    one: str
    many: str
    change: str
    bib: str | None = None
    removed_reason: str | None = None

    @property
    def recorded(self) -> str:
        """As the logs call it."""
        if self.bib:
            return f"{self.change}, bib {self.bib}"
        return f"{self.change} ({self.removed_reason})" if self.removed_reason else self.change


KINDS = (
    _Kind("registered", "person registers", "people register", "added"),
    _Kind("bib_assigned", "bib is assigned", "bibs are assigned", "updated", bib="assigned"),
    _Kind("bib_changed", "bib is swapped for another", "bibs are swapped for others", "updated", bib="changed"),
    _Kind("bib_cleared", "bib is taken back", "bibs are taken back", "updated", bib="cleared"),
    _Kind("edited", "runner has a new phone number", "runners have a new phone number", "updated"),
    _Kind("refunded", "registration is refunded", "registrations are refunded", "removed", removed_reason="removed"),
    _Kind("cleared", "abandoned cart is cleared", "registrations are cleared", "removed", removed_reason="cleared"),
    _Kind("deferred", "runner defers to next year", "runners defer to next year", "removed", removed_reason="deferred"),
    _Kind("transferred", "runner moves to another event", "runners move to other events", "removed",
          removed_reason="transferred"),
)  # fmt: skip


@dataclass(frozen=True)
class Hour:
    """What happened: registrations by kind; `ended` in epoch seconds of the sandbox's clock."""

    registrations: dict[str, set[int]]
    ended: float

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Hour:
        """From the answer of the sandbox's `hour_of_life`."""
        return cls({kind: set(ids) for kind, ids in answer["registration_ids"].items()}, answer["now"])

    @property
    def counts(self) -> dict[str, int]:
        return {kind.name: len(self.registrations[kind.name]) for kind in KINDS}


def told(hour: Hour) -> Iterator[str]:
    """What happened, a line for each kind."""
    for kind in KINDS:
        if count := len(hour.registrations[kind.name]):
            yield f"{count:>3} {kind.one if count == 1 else kind.many}"


@dataclass(frozen=True)
class Found:
    """What a sync wrote into the two logs."""

    changes: Sequence[Entry[Change]]
    bibs: Sequence[Entry[BibChange]]

    @property
    def counts(self) -> dict[str, int]:
        """How many changes of each type."""
        return dict(Counter(entry.row.change_type for entry in self.changes))

    @property
    def bib_counts(self) -> dict[str, int]:
        """How many bib changes of each kind."""
        return dict(Counter(entry.row.kind for entry in self.bibs))

    def lines(self, hour: Hour) -> list[tuple[str, int, int, str]]:
        """For each kind: what happened, how often, how often it was found, and as what."""
        return [
            (kind.many, len(hour.registrations[kind.name]), len(self._of(kind, hour)), kind.recorded) for kind in KINDS
        ] + [("their new registrations", len(hour.registrations["transferred"]), len(self._moved(hour)), "added")]

    def has_all(self, hour: Hour) -> bool:
        """Whether each thing was found, once, as what it was."""
        moved = len(self._moved(hour)) == len(hour.registrations["transferred"])
        return moved and all(len(self._of(kind, hour)) == len(hour.registrations[kind.name]) for kind in KINDS)

    def others(self, hour: Hour) -> list[Entry[Change] | Entry[BibChange]]:
        """Changes that belong to nothing that happened, or come twice."""
        known = {id(entry) for kind in KINDS for entry in self._of(kind, hour)}
        known |= {id(entry) for entry in self._moved(hour)}
        numbered = {number for kind in KINDS if kind.bib for number in hour.registrations[kind.name]}
        bibs = Counter(entry.row.registration_id for entry in self.bibs)
        strangers = [b for b in self.bibs if b.row.registration_id not in numbered or bibs[b.row.registration_id] > 1]
        return [entry for entry in self.changes if id(entry) not in known] + strangers

    def examples(self, hour: Hour) -> list[Entry[Change]]:
        """One change of each kind, and what became of the one that was transferred."""
        return [entries[0] for kind in KINDS if (entries := self._of(kind, hour))] + self._moved(hour)[:1]

    def _of(self, kind: _Kind, hour: Hour) -> list[Entry[Change]]:
        """The changes of registrations that this happened to, recorded as they have to be."""
        wanted = hour.registrations[kind.name]
        bibs = {entry.row.registration_id for entry in self.bibs if entry.row.kind == kind.bib}
        return [
            entry
            for entry in self.changes
            if entry.row.registration_id in wanted
            and entry.row.change_type == kind.change
            and (kind.bib is None or entry.row.registration_id in bibs)
            and (entry.row.after or {}).get("removed_reason") == kind.removed_reason
        ]

    def _moved(self, hour: Hour) -> list[Entry[Change]]:
        """The new registrations of those that were transferred."""
        old = hour.registrations["transferred"]
        new = {(e.row.after or {}).get("new_registration_id") for e in self.changes if e.row.registration_id in old}
        return [e for e in self.changes if e.row.registration_id in new and e.row.change_type == "added"]
