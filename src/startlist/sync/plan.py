"""The plan: which races, which of their events, which pass and why. Pure: what is stored, the clock, the options."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from startlist.runsignup import Event, Race
from startlist.store.cursors import Cursor
from startlist.store.races import StoredEvent, StoredRace
from startlist.store.registrations import Key

EASTERN = ZoneInfo("America/New_York")
MINUTE_OF_A_CHANGE = timedelta(minutes=2)  # with what two clocks may differ
RECORD_IS_FRESH = timedelta(days=1)
RACE_WEEK = timedelta(days=7)
SUSPICION_RETRIES = (timedelta(minutes=15), timedelta(hours=1))
LATEST = datetime.max.replace(tzinfo=UTC)


class Kind(StrEnum):
    FULL = "full"
    INCREMENTAL = "incremental"
    BACKFILL = "backfill"  # full, of events that are over; it takes no absences


@dataclass(frozen=True, slots=True)
class Options:
    """What the user, or the schedule, asked of a run.

    `full_every` and `record_every` are the schedule's: how old the last full pass and the race's own record may be.
    `repair`: what differs here may be our own fault, and is not counted as an edit that RunSignup kept silent about;
    `doubted` are the registrations (event, registration) whose stored hashes are not believed.
    """

    timing_partner_id: int | None = None
    race_id: int | None = None
    force_full: bool = False
    incremental_days: int = 7
    include_past_days: int = 1
    accept_missing: bool = False
    full_every: timedelta | None = None
    record_every: timedelta | None = None
    repair: bool = False
    doubted: frozenset[Key] = frozenset()

    def list_from(self, now: datetime) -> date:
        """The first day whose races are listed, in RunSignup's own zone."""
        return now.astimezone(EASTERN).date() - timedelta(days=max(self.include_past_days, 8))

    def events_from(self, now: datetime) -> datetime | None:
        """No event that ended before this counts, in whatever zone; None where a named race may be over for long."""
        return None if self.race_id is not None else now - timedelta(days=self.include_past_days + 2)


@dataclass(frozen=True, slots=True)
class Decision:
    """Which pass a race gets, and why."""

    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """The events of a race that are to be read, and the start by which its turn comes."""

    event_ids: frozenset[int]
    next_start: datetime


def wanted_events(stored: StoredRace | None, sent: Iterable[Race], options: Options, now: datetime) -> Wanted:
    """The events that count and are not gone, of those stored and those that RunSignup sent just now.

    A race named by the user (`--race`) that is over gives the events of its latest day instead.
    """
    events: dict[int, Event | StoredEvent] = {}
    listed: set[int] = set()
    for event in stored.events if stored else ():
        if event.gone_at is None:
            events[event.event_id] = event
    for race in sent:
        for sent_event in race.events:
            events[sent_event.event_id] = sent_event
            listed.add(sent_event.event_id)
    days = options.include_past_days
    wanted = [e for e in events.values() if counts(e, days, now, listed=e.event_id in listed)]
    if not wanted and options.race_id is not None and events:
        latest = max((e.race_day for e in events.values() if e.race_day), default=None)
        wanted = [e for e in events.values() if e.race_day == latest]
    starts = [e.start_time for e in wanted if e.start_time]
    coming = [start for start in starts if start >= now - timedelta(days=1)]
    return Wanted(frozenset(e.event_id for e in wanted), min(coming or starts, default=LATEST))


def counts(event: Event | StoredEvent, days: int, now: datetime, *, listed: bool) -> bool:
    """Whether an event is still kept fresh: until `days` calendar days after its end, in its own zone."""
    until = counts_until(event, days)
    return listed if event.start_time is None else until is None or now < until


def counts_until(event: Event | StoredEvent, days: int) -> datetime | None:
    """The instant from which on an event is not kept fresh any more; None: it is not known, or it never comes."""
    if event.start_time is None:
        return None
    end = max(event.end_time, event.start_time) if event.end_time else event.start_time
    try:
        return (end.astimezone(ZoneInfo(event.timezone)) + timedelta(days=days)).astimezone(UTC)
    except OverflowError:  # the year 9999 is how some say "never"
        return None


def needs_record(
    stored: StoredRace | None,
    listed: Race | None,
    next_start: datetime,
    now: datetime,
    every: timedelta | None = None,
) -> str | None:
    """Why a race's own record is to be read before its pass, or None: the list has its most current events only.

    `every`: how old it may be, where a schedule says so.
    """
    if stored is None:
        return "new race"
    if stored.record_read_at is None and listed is not None:
        return "record never read"  # a backfill has stored the race, or the list alone
    if listed is not None and changed(stored, listed, now):
        return "race changed"
    if every is not None:
        age = None if stored.record_read_at is None else _age(stored.record_read_at, now)
        return "its record is due" if age is None or age >= every else None
    if stored.record_read_at is not None and _age(stored.record_read_at, now) < RECORD_IS_FRESH:
        return None
    if listed is None and not stored.has_events:
        return "not listed"
    return "starts within 7 days" if next_start - now <= RACE_WEEK else None


def changed(stored: StoredRace, listed: Race, now: datetime) -> bool:
    """Whether the race may have changed since its record was read.

    RunSignup dates changes by the minute: another one in the same minute looks like none. So a record that was read
    so soon is read once more when that minute is over.
    """
    if listed.last_modified is None or listed.last_modified != stored.last_modified:
        return listed.last_modified != stored.last_modified
    settled = listed.last_modified + MINUTE_OF_A_CHANGE
    return stored.record_read_at is not None and stored.record_read_at < settled <= now


def decide(cursor: Cursor, wanted: Collection[int], options: Options, now: datetime) -> Decision:
    """Which pass the race gets."""
    if options.force_full:
        return Decision(Kind.FULL, "forced")
    if options.accept_missing:
        return Decision(Kind.FULL, "accepting what is missing")
    if cursor.participants_watermark is None:
        return Decision(Kind.FULL, "never synced")
    read_in_doubt = (cursor.suspicion or {}).get("asked", ())  # their rows are stored, whatever was absent beside them
    uncovered = sorted(set(wanted) - cursor.event_ids - set(read_in_doubt))
    if uncovered:
        return Decision(Kind.FULL, "new event " + ", ".join(map(str, uncovered)))
    if cursor.last_fallback_at is not None and now - cursor.last_fallback_at < timedelta(hours=1):
        return Decision(Kind.FULL, "an incremental pass failed within the last hour")
    interval = options.full_every if options.full_every is not None else timedelta(days=options.incremental_days)
    if options.full_every == timedelta():
        return Decision(Kind.FULL, "incremental passes do not show every bib")
    if cursor.suspicion is not None:
        if now >= suspicion_retry_at(cursor.suspicion, interval):
            return Decision(Kind.FULL, "registrations were suspiciously absent: asking again")
    elif cursor.last_full_at is None or _age(cursor.last_full_at, now) > interval:
        return Decision(Kind.FULL, f"last full pass more than {_span(interval)} ago")
    since = datetime.fromtimestamp(cursor.participants_watermark, UTC)
    return Decision(Kind.INCREMENTAL, f"changes since {since:%Y-%m-%d %H:%M:%S} UTC")


def _age(at: datetime, now: datetime) -> timedelta:
    """How old it is; what lies in the future, since a clock was set back, is not young for all that time."""
    return abs(now - at)


def _span(interval: timedelta) -> str:
    minutes = interval // timedelta(minutes=1)
    return f"{minutes} minutes" if timedelta() < interval < timedelta(days=2) else f"{interval.days} days"


def suspicion_retry_at(suspicion: dict[str, Any], interval: timedelta) -> datetime:
    """When a full pass that lacked too much is tried again: after 15 min, 1 h, then by the ordinary interval."""
    tries = int(suspicion["tries"])
    wait = SUSPICION_RETRIES[tries - 1] if tries <= len(SUSPICION_RETRIES) else interval
    return datetime.fromisoformat(suspicion["last_at"]) + wait


def estimated_calls(rows: int, events: int, *, page: int = 2500) -> int:
    """About how many calls a full pass of so many rows will need: participants, then the removed list."""
    pages_of_each = -(-rows // max(events, 1) // page) or 1
    return 2 if rows < page else (1 if events > 1 else 0) + events * pages_of_each + 1
