"""Where the reading of a race's past stands between two pages, and what of it could not be read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from startlist.runsignup import Position
from startlist.sync.checkpoint import Checkpoint
from startlist.sync.plan import Kind


class PastCheckpoint(Checkpoint, kw_only=True):
    """A checkpoint that knows no age: what is over changes little, and a backfill may take days.

    `unread`: events whose registrations could not be read, `removals_unread`: those whose removed list could not; with
    the reason. `said`: what an earlier reading of the race left to be said. `record_modified`: the race's
    `last_modified` when its record was read.
    """

    unread: dict[int, str] = msgspec.field(default_factory=dict)
    removals_unread: dict[int, str] = msgspec.field(default_factory=dict)
    said: str | None = None
    record_modified: datetime | None = None

    @classmethod
    def begin(
        cls, events: Iterable[int], record_modified: datetime | None, now: datetime, said: str | None = None
    ) -> PastCheckpoint:
        """The beginning, with the events in the order in which they are to be read."""
        return cls(kind=Kind.BACKFILL, events=list(events), begun=now, record_modified=record_modified, said=said)

    @classmethod
    def of(cls, data: dict[str, Any] | None) -> PastCheckpoint | None:
        """A stored checkpoint; None for none, and for one of another version of this program."""
        if data is None:
            return None
        try:
            found = msgspec.convert(data, cls, strict=False)
            found.start()
        except (msgspec.ValidationError, ValueError):
            return None
        return found

    def doubtful(self) -> object:
        """The place that `leave_out` would take for unreadable; None when it asks one by one first."""
        place = self.start() or Position.first(self.events)
        return None if place.event_id is None and self.feed != "successors" else (self.feed, place)

    def leave_out(self, why: str, *, patience: int) -> bool:
        """Go on without what could not be read; False when nothing of the race can be.

        After all events together, each is asked alone, the newest first; when the first `patience` of them cannot be
        read either, no event is taken to be readable.
        """
        if self.feed == "successors":  # they are asked for all events at once
            readable = [event_id for event_id in self.events if event_id not in self.unread]
            if len(readable) < len(self.events):
                self.events = readable
                return True
            self.removals_unread.update(dict.fromkeys(self.events, why))
            self.next_feed("settle")
            return True
        place = self.start() or Position.first(self.events)
        if place.event_id is None:
            self._go_to(place.remaining)
            return True
        lost = self.unread if self.feed == "participants" else self.removals_unread
        lost[place.event_id] = why
        asked = len(self.events) - len(place.remaining)
        hopeless = len(lost) == asked and (asked >= patience or not place.remaining)
        if hopeless and self.feed == "participants":
            return False
        if hopeless:
            lost.update(dict.fromkeys(place.remaining, why))
        if place.remaining and not hopeless:
            self._go_to(place.remaining)
        else:
            self.next_feed("removed" if self.feed == "participants" else "successors")
        return True

    def without(self, gone: Iterable[int]) -> PastCheckpoint:
        """The same from the beginning, without events that are no more."""
        left = [event_id for event_id in self.events if event_id not in set(gone)]
        return PastCheckpoint.begin(left, self.record_modified, self.begun, self.said)

    def _go_to(self, events: tuple[int, ...]) -> None:
        self.position = Position(events[0], 0, events[1:]).to_json()
