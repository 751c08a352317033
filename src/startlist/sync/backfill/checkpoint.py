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

    `unread`: events whose registrations RunSignup refuses, `removals_unread`: those whose removed list it refuses,
    `later`: those over which it stumbled; with the reason. `denied`: a refusal was about rights (code 7). `said`: what
    an earlier reading of the race left to be said. `record_modified`: the race's `last_modified` when its record was
    read.
    """

    unread: dict[int, str] = msgspec.field(default_factory=dict)
    removals_unread: dict[int, str] = msgspec.field(default_factory=dict)
    later: dict[int, str] = msgspec.field(default_factory=dict)
    denied: bool = False
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

    def leave_out(self, why: str, *, final: bool, whole_race: bool = False) -> bool:
        """Go on without what could not be read; False when the rest of the race is not to be asked for either.

        After all events together, each is asked alone, the newest first. `final`: RunSignup refuses what was asked,
        which it would again; else it stumbled, and the event is left for later, but where it stumbles over the newest
        two and nothing was read yet. `whole_race`: when the newest is refused as well, all are.
        """
        if self.feed == "successors":  # they are asked for all events at once
            readable = [event_id for event_id in self.events if event_id not in self.unread]
            if len(readable) < len(self.events):
                self.events = readable
                return True
            self._note(self.events, why, final=final)
            self.next_feed("settle")
            return True
        place = self.start() or Position.first(self.events)
        if place.event_id is None:
            self._go_to(place.remaining)
            return True
        number = self.events.index(place.event_id)
        if whole_race and number == 0 and self.feed == "participants":
            return False
        if not final:
            nothing_read = all(event_id in self.unread or event_id in self.later for event_id in self.events[:number])
            if len(self.events) == 1 or (number > 0 and nothing_read):
                return False
        self._note([place.event_id], why, final=final)
        if place.remaining:
            self._go_to(place.remaining)
        else:
            self.next_feed("removed" if self.feed == "participants" else "successors")
        return True

    @property
    def asks_one(self) -> bool:
        """Whether one event is asked, alone of several or as the only one."""
        return (self.start() or Position.first(self.events)).event_id is not None

    def without(self, gone: Iterable[int]) -> PastCheckpoint:
        """The same without events that are no more; the feed that met them is read from its beginning."""
        left = [event_id for event_id in self.events if event_id not in set(gone)]
        return msgspec.structs.replace(self, events=left, position=None)

    def _note(self, event_ids: Iterable[int], why: str, *, final: bool) -> None:
        refused = self.unread if self.feed == "participants" else self.removals_unread
        (refused if final else self.later).update(dict.fromkeys(event_ids, why))

    def _go_to(self, events: tuple[int, ...]) -> None:
        self.position = Position(events[0], 0, events[1:]).to_json()
