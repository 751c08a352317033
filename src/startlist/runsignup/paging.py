"""Where a feed of a race goes on, and when it is complete. Pure rules: no call is made here.

All wanted events are asked in one call. If its answer cannot be told to be the whole list, each event is read alone,
from the start, with `after_registration_id`: over several events nothing says how a page is cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

ROUND: Final = 500
"""A server that hands out fewer rows than asked hands out a round number: a positive multiple of this is no end."""


@dataclass(frozen=True, slots=True)
class Position:
    """The next call of a feed: of which event (None: of all in one call), after which registration, and what remains.

    `remaining` are the events still to be read alone; while `event_id` is None, all events.
    """

    event_id: int | None
    after: int
    remaining: tuple[int, ...]

    @classmethod
    def first(cls, event_ids: Iterable[int]) -> Self:
        """Where a feed over these events begins. Raises `ValueError` when there are none."""
        events = tuple(dict.fromkeys(event_ids))
        if not events:
            raise ValueError("a feed needs at least one event")
        return cls(events[0], 0, ()) if len(events) == 1 else cls(None, 0, events)

    def asked(self) -> tuple[int, ...]:
        """The events that the next call names."""
        return self.remaining if self.event_id is None else (self.event_id,)

    def to_json(self) -> dict[str, object]:
        """What `from_json` makes the same position of."""
        return {"event_id": self.event_id, "after": self.after, "remaining": list(self.remaining)}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """A stored position. Raises `ValueError` when it is none."""
        match data:
            case {"event_id": int() | None as event_id, "after": int(after), "remaining": [*remaining]}:
                events = tuple(event for event in remaining if isinstance(event, int))
                if len(events) == len(remaining) and (events or event_id is not None):
                    return cls(event_id, after, events)
        raise ValueError("not a position in a feed")


@dataclass(slots=True)
class Tally:
    """What paging must know of an answer: all its rows, bad ones too, its rows by event, and the ids that are readable.

    `by_event` counts the rows of one event in every way there is to count them: by element, by the rows' own ids, and
    without those that come twice.
    """

    rows: int = 0
    by_event: list[int] = field(default_factory=list)
    largest_id: int | None = None

    def is_last(self, asked: int) -> bool:
        """Whether an answer to a call for `asked` rows is the end of its list; an empty one is."""
        counts = (self.rows, *self.by_event)
        return self.rows < asked and not any(count > 0 and count % ROUND == 0 for count in counts)


class NoProgressError(ValueError):
    """A page after which the same page would be asked again."""


def following(position: Position, tally: Tally, asked: int) -> Position | None:
    """Where the feed goes on after this answer; None when it is complete.

    Raises `NoProgressError` for rows none of which lies behind the cursor: asking on would never end.
    """
    last = tally.is_last(asked)
    if tally.rows and position.event_id is not None:
        # Rows without any readable id say nothing about the cursor: harmless at the end, a loop before it.
        stuck = not last if tally.largest_id is None else tally.largest_id <= position.after
        if stuck:
            raise NoProgressError
    if not last and position.event_id is not None:
        return Position(position.event_id, tally.largest_id or position.after, position.remaining)
    if last and position.event_id is None:
        return None
    if not position.remaining:
        return None
    return Position(position.remaining[0], 0, position.remaining[1:])
