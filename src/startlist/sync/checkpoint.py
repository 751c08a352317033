"""Where an unfinished pass stands: committed with each page, so that the next run goes on after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from startlist.runsignup import Position
from startlist.store.cursors import Cursor
from startlist.store.registrations import Key
from startlist.sync.plan import Kind

OVERLAP_SECONDS = 60  # a query reaches this far behind its watermark: RunSignup's clocks need not agree
LIFETIME = timedelta(hours=24)


class Checkpoint(msgspec.Struct, kw_only=True):
    """The state of a pass between two pages. Bounds, candidates and watermarks are epoch seconds of RunSignup's clock.

    `active`: per event, rows active and not missing when the pass began. `lacking`: per event that sent rows, the
    keys (dob, gender, ...) that none of them had so far. `explained`: per event, absent rows the removed list named.
    `imported`: absent as well, but another system's word for it: RunSignup never listed them to us.
    """

    kind: Kind
    events: list[int]
    begun: datetime
    participants_bound: int | None = None
    removed_bound: int | None = None
    participants_candidate: int | None = None
    removed_candidate: int | None = None
    feed: Literal["participants", "removed", "successors", "settle"] = "participants"
    position: dict[str, Any] | None = None
    active: dict[int, int] = {}
    absent: set[Key] = set()
    imported: set[Key] = set()
    contested: set[Key] = set()
    explained: dict[int, int] = {}
    lacking: dict[int, set[str]] = {}
    successors: set[int] = set()
    quarantined: int = 0

    @classmethod
    def fresh(
        cls, kind: Kind, events: Iterable[int], cursor: Cursor, active: dict[int, int], now: datetime
    ) -> Checkpoint:
        """The beginning of a pass: an incremental one asks from its watermarks on, a full one for everything."""
        begun = cls(kind=kind, events=sorted(events), begun=now, active=active)
        if kind is Kind.INCREMENTAL:
            begun.participants_bound = since(cursor.participants_watermark)
            begun.removed_bound = since(cursor.removed_watermark)
        return begun

    @classmethod
    def stored(cls, cursor: Cursor, events: Iterable[int], now: datetime) -> Checkpoint | None:
        """The stored checkpoint, when it is of the same events, readable and younger than a day."""
        if cursor.checkpoint is None:
            return None
        try:
            found = msgspec.convert(cursor.checkpoint, cls, strict=False)
            found.start()
        except (msgspec.ValidationError, ValueError):  # of another version of this program
            return None
        if found.events != sorted(events) or now - found.begun >= LIFETIME:
            return None
        return found

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        result: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return result

    def start(self) -> Position | None:
        """Where the feed goes on; None is its beginning."""
        return None if self.position is None else Position.from_json(self.position)

    def next_feed(self, feed: Literal["removed", "successors", "settle"]) -> None:
        """Go on to the next feed, from its beginning."""
        self.feed, self.position = feed, None

    def saw(self, keys: Iterable[Key]) -> None:
        """Registrations of this page are not absent, whatever an earlier page lacked."""
        if self.absent or self.imported:
            seen = set(keys)
            self.absent -= seen
            self.imported -= seen

    def successors_since(self) -> int:
        """From when on participants are asked once more for those that the removed list names."""
        return since(self.participants_candidate) or 0

    def named_as_removed(self, keys: Iterable[Key]) -> None:
        """The removed list explains what is absent, and settles what stood in both lists."""
        for key in keys:
            if key in self.absent or key in self.imported:
                self.absent.discard(key)
                self.imported.discard(key)
                self.explained[key[0]] = self.explained.get(key[0], 0) + 1
            self.contested.discard(key)

    def named_unreadably(self, event_id: int | None, registration_id: int | None) -> None:
        """A record of the removed list that cannot be read: whomever it may name is not restored by this pass."""
        if event_id is not None and registration_id is not None:
            self.named_as_removed([(event_id, registration_id)])
        else:
            self.contested = {key for key in self.contested if registration_id not in (None, key[1])}

    def suspicious(self) -> dict[int, tuple[int, int]]:
        """Events that lack too much to be believed: event id to (absent without explanation, active before).

        Imported rows may be as stale as they like, but not all of them: no answer at all may be a lack of rights.
        """
        lost = Counter(event_id for event_id, _ in self.absent)
        imported = Counter(event_id for event_id, _ in self.imported)
        found = {}
        for event_id, count in (lost + imported).items():
            active = self.active.get(event_id, 0)
            nobody_answered = count >= active - self.explained.get(event_id, 0)
            if nobody_answered or (lost[event_id] > 5 and lost[event_id] > active * 0.05):
                found[event_id] = (count, active)
        return found


def since(watermark: int | None) -> int | None:
    """Where a query for what changed begins."""
    return None if watermark is None else max(watermark - OVERLAP_SECONDS, 0)
