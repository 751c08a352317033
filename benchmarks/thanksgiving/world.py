"""The morning that is rehearsed: timing partners, their races, and when registrations change in RunSignup."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from startlist.schedule.cadence import Cadence, CountingEvent, Rhythm
from startlist.store.budget import Rank
from startlist.store.schedule import Asks
from startlist.sync.plan import estimated_calls

PARTNERS, RACES, REGISTRATIONS = 500, 1_056, 1_300_000
THANKSGIVING = date(2027, 11, 25)
BEGIN = datetime(2027, 11, 24, 23, tzinfo=UTC)  # 18:00 in New York on the evening before
HOURS = 24
# Time zones with the share of races in them.
ZONES = (
    (ZoneInfo("America/New_York"), 0.47),
    (ZoneInfo("America/Chicago"), 0.30),
    (ZoneInfo("America/Denver"), 0.08),
    (ZoneInfo("America/Los_Angeles"), 0.15),
)
MORNING = 0.5  # of what changes, within the hours before the start; the rest evenly before that
MORNING_HOURS = 4.0


@dataclass(eq=False, slots=True)
class Race:
    """A race with what `sync_cursors` would hold of it; all times in epoch seconds.

    `changes` are when registrations change, the latest first.
    """

    race_id: int
    credential_id: int
    cadence: Cadence
    registrations: int
    changes: list[float]
    next_sync_at: float = 0.0
    period: float = 0.0
    rank: Rank = Rank.ROUTINE
    stretch: float = 1.0
    planned: float = 0.0  # seconds from one pass to the next, by the last plan
    failures: int = 0
    waits_since: float | None = None
    completed_at: float = 0.0
    full_at: float = 0.0
    record_at: float = 0.0
    checkpoint: tuple[bool, bool, int, float] | None = (
        None  # full, with record, calls made, when changes were asked for
    )
    stale_at: float = 0.0
    race_day: tuple[float, float] = (float("inf"), float("inf"))
    asks: Asks = field(default_factory=lambda: Asks(0.0, None, None, None))
    queued: int = 0  # its place in the queue
    doing: bool = False  # as the queue has it
    locked: bool = False  # as the race's own lock has it

    @property
    def full_calls(self) -> int:
        """The calls of a full pass; two events."""
        return estimated_calls(self.registrations, 2)


@dataclass(eq=False, slots=True)
class Credential:
    """An API key: its races, the moments of its calls in the last hour, and until when it is paused."""

    credential_id: int
    calls_per_hour: int
    races: list[Race] = field(default_factory=list)
    calls: deque[float] = field(default_factory=deque)
    paused_until: float = 0.0


def morning(seed: int, *, partners: int = PARTNERS, races: int = RACES, registrations: int = REGISTRATIONS,
            calls_per_hour: int = 1_000) -> list[Credential]:  # fmt: skip
    """Partners with one API key each; races of very different sizes, a few of more than one page."""
    chance = random.Random(seed)
    found = [Credential(number, calls_per_hour) for number in range(1, partners + 1)]
    sizes = [chance.lognormvariate(0, 0.9) for _ in range(races)]
    rhythm = Rhythm()
    begin = BEGIN.timestamp()
    for number, size in enumerate(sizes):
        credential = found[number] if number < partners else chance.choice(found)
        (zone,) = chance.choices([zone for zone, _ in ZONES], [share for _, share in ZONES])
        local = datetime.combine(THANKSGIVING, datetime.min.time(), zone) + timedelta(
            minutes=15 * chance.randint(28, 38)
        )
        start = local.astimezone(UTC)
        events = [
            CountingEvent(at, THANKSGIVING, at + timedelta(days=rhythm.days_after))
            for at in (start, start + timedelta(minutes=30))
        ]
        many = max(1, round(size / sum(sizes) * registrations))
        gun = start.timestamp()
        changes = [
            gun - chance.uniform(0, MORNING_HOURS * 3600) if chance.random() < MORNING else chance.uniform(begin, gun)
            for _ in range(many)
        ]
        race = Race(
            number + 1, credential.credential_id, Cadence(credential.credential_id, number + 1, events, rhythm), many,
            sorted((at for at in changes if at >= begin), reverse=True),
        )  # fmt: skip
        race.completed_at = race.full_at = race.record_at = begin - chance.uniform(0, 900)
        race.stale_at = begin + 3_600
        credential.races.append(race)
    return found
