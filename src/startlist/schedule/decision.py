"""What a race's turn decides, from what is known of it. Pure: a rehearsal in virtual time decides in the same way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from startlist.schedule.cadence import Cadence, CountingEvent, Due, Rhythm, stretch_factor
from startlist.store import schedule
from startlist.store.budget import Rank
from startlist.store.races import StoredEvent, StoredRace
from startlist.store.schedule import Asks, Demand
from startlist.sync.plan import counts_until

PAGE_ROWS = 2_500  # registrations of a race that fits one page
FURTHEST = timedelta(days=1)  # nothing is planned further off
HELD_AGAIN = timedelta(minutes=1)  # when a race is looked at again that another run holds
BORROWED_AGAIN = timedelta(hours=1)  # when a key is asked again for a race that is not its own
AFFORDED = 0.25  # of the calls that are left in the hour: what a full pass of a large race may take before it is due
SILENT_FOR = timedelta(days=7)  # how long a key whose races' bibs were changed without a word is not trusted


@dataclass(frozen=True, slots=True)
class Ended:
    """How a turn ended, as far as the next one hangs on it.

    `try_again`: it failed, and trying soon may help. `until`: it was put off, as no call may be made before. `held`:
    another run has the race. `borrowed`: its own key is stopped, and another one may not read it.
    """

    try_again: bool = False
    until: datetime | None = None
    held: bool = False
    borrowed: bool = False


def cadence_of(
    timing_partner_id: int, stored: StoredRace, rhythm: Rhythm, *, listed: Collection[int] = (), read: bool = True
) -> Cadence:
    """A race's cadence from its events that count.

    `listed` are events that count even without a start; a race that was never `read` may have some.
    """
    events = [
        CountingEvent(e.start_time, e.race_day, counts_until(e, rhythm.days_after))
        for e in stored.events
        if e.gone_at is None and (e.start_time is not None or e.event_id in listed)
    ]
    if not read and not stored.has_events:
        events.append(CountingEvent(None, None, None))
    return Cadence(timing_partner_id, stored.race_id, events, rhythm)


def undated_events(stored: StoredRace) -> list[StoredEvent]:
    """Events without a readable start that are not gone."""
    return [event for event in stored.events if event.gone_at is None and event.start_time is None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The calls that all races ask for together in an hour, and those of each credential: pressing ones and routine's.

    Summed once for the many turns that are decided by it.
    """

    total: tuple[float, float]
    of_credential: Mapping[int | None, tuple[float, float]]

    @classmethod
    def of(cls, demands: Iterable[Demand]) -> Wanted:
        """From what the database says of each credential and rank."""
        pressing: defaultdict[int | None, float] = defaultdict(float)
        routine: defaultdict[int | None, float] = defaultdict(float)
        of_routine = schedule.name(Rank.ROUTINE)
        for one in demands:
            (routine if one.rank == of_routine else pressing)[one.credential_id] += one.calls_per_hour
        keys = pressing.keys() | routine.keys()
        return cls(
            (sum(pressing.values()), sum(routine.values())), {key: (pressing[key], routine[key]) for key in keys}
        )


def stretch_of(wanted: Wanted, credential_id: int, calls_per_hour: int, lane_calls: float) -> float:
    """By how much the periods of a credential's races are lengthened, so that all calls find room.

    `lane_calls` is what all lanes can make in an hour.
    """
    own = wanted.of_credential.get(credential_id, (0.0, 0.0))
    return max(stretch_factor(*wanted.total, lane_calls), stretch_factor(*own, calls_per_hour))


def asks_of(cadence: Cadence, now: datetime, due: datetime, *, full_calls: int, silent: bool) -> Asks:
    """The calls that the race asks for in an hour, on its race day and outside it."""
    day = cadence.race_day(now)
    if day is None:
        return Asks(cadence.calls_per_hour(due, full_calls=full_calls), None, None, None)
    begins, ends = day
    outside = ends if begins <= due < ends else due
    return Asks(
        cadence.calls_per_hour(outside, full_calls=full_calls), begins, ends,
        cadence.calls_per_hour(max(begins, now), full_calls=full_calls, all_full=silent),
    )  # fmt: skip


def share_of(
    rank: Rank, now: datetime, completed_at: datetime | None, period: float | None, stretch: float, rhythm: Rhythm
) -> float:
    """Up to which part of the hour's calls the race may make its own.

    Who has had no pass for two periods is served like race day: so no race starves.
    """
    longer = stretch if rank > Rank.ROUTINE else 1.0
    overdue = timedelta(seconds=2 * (period or rhythm.routine) * longer)
    return Rank.RACE_DAY.share if completed_at is None or now - completed_at > overdue else rank.share


def full_every(
    cadence: Cadence, now: datetime, *, large: bool, affords: bool, silent: bool, stretch: float
) -> timedelta:
    """How old the last full pass may be; nothing where every pass has to be a full one.

    `silent`: bibs of races of this key were changed so that no incremental pass could see it, which only full passes
    make good in the minute cadence. `affords`: a full pass leaves calls of the hour to others.
    """
    if large and not affords:
        return max(cadence.full_every(now, fits_one_page=False, stretch=stretch), FURTHEST)
    if silent and cadence.period(now) == cadence.rhythm.race:
        return timedelta()
    return cadence.full_every(now, fits_one_page=not large, stretch=stretch)


def distrusted(silent_bibs_at: datetime | None, now: datetime) -> bool:
    """Whether a key's incremental passes are known not to show every bib."""
    return silent_bibs_at is not None and now - silent_bibs_at < SILENT_FOR


def next_turn(
    cadence: Cadence, now: datetime, ended: Ended, failures: int, jitter: float, stretch: float
) -> Due | None:
    """When the race is due next; None when it is not read any more. `jitter` is between 0 and 1."""
    due = cadence.next_due(now, stretch)
    if due is None:
        return None
    if ended.try_again:
        due = cadence.retry_at(now, failures, jitter, stretch) or due
    elif ended.until is not None:  # its calls are used up: no cadence helps
        due = replace(due, at=ended.until, rank=cadence.rank(now))
    elif ended.held:
        due = replace(due, at=min(due.at, now + HELD_AGAIN))
    elif ended.borrowed:  # it is due at once when its own key is accepted again
        due = replace(due, at=max(due.at, now + BORROWED_AGAIN))
    return replace(due, at=min(due.at, now + FURTHEST))
