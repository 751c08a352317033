"""The plan of a backfill: which races, which of their events, in which order, and about how many calls. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from startlist.runsignup import Event, Race
from startlist.store.backfill import Progress
from startlist.store.budget import Rank
from startlist.store.races import StoredEvent, StoredRace
from startlist.sync.backfill.window import Window
from startlist.sync.plan import counts

SHARE = Rank.BACKFILL.share  # of the hour's calls: the rest is for races that are coming
FAR_BACK = date(1990, 1, 1)  # before anybody registered on the web
KEPT_FRESH_DAYS = 1  # how long after its end an event is the sync's
CALLS_OF_A_RACE = 3  # its record, its participants, its removed list: more only where it is large
_OLDEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked of a backfill. `first_partners`: only so many timing partners, in order of their ids."""

    timing_partner_id: int | None = None
    since: date | None = None
    first_partners: int | None = None
    between: Window | None = None
    restart: bool = False  # forget what was read
    retry: bool = False  # ask again for what could not be read

    @property
    def list_from(self) -> date:
        """The first day whose races are listed."""
        return self.since or FAR_BACK


def past_events(
    events: Iterable[Event | StoredEvent], listed: Collection[int], options: Options, now: datetime
) -> list[int]:
    """The events that are over, not gone, and that the sync does not keep fresh, the newest first.

    `listed`: those that RunSignup's race list shows; without a readable start they are the sync's.
    """
    over: dict[int, datetime] = {}
    for event in events:
        if isinstance(event, StoredEvent) and event.gone_at is not None:
            continue
        if counts(event, KEPT_FRESH_DAYS, now, listed=event.event_id in listed):
            continue
        if options.since is None or event.race_day is None or event.race_day >= options.since:
            over[event.event_id] = event.start_time or _OLDEST
    return sorted(over, key=lambda event_id: (over[event_id], event_id), reverse=True)


def due(
    progress: Progress, stored: StoredRace | None, listed: Race | None, options: Options, now: datetime
) -> str | None:
    """Why a race's past is to be read, or None: it was read, or RunSignup said that it cannot be."""
    if not progress.finished:
        return {"reading": "going on", "failed": "failed before"}.get(progress.state, "never read")
    if progress.state in ("refused", "gone"):
        return None
    if listed is not None and listed.last_modified != progress.record_modified:
        return "race changed"
    known = stored.events if stored else []
    current = {event.event_id for event in listed.events} if listed else set()
    new = set(past_events(known, current, options, now)) - progress.event_ids - progress.unread_event_ids
    return "not read yet: event " + ", ".join(map(str, sorted(new))) if new else None


def begun_anew(known: dict[int, Progress], options: Options) -> dict[int, Progress]:
    """What is known of races after `--restart` or `--retry`, for those who only ask what a run would do."""
    if options.restart:
        return {}
    if not options.retry:
        return known
    return {race_id: p for race_id, p in known.items() if p.state not in ("partial", "empty", "refused", "gone")}


def newest_past(stored: StoredRace | None, listed: Race | None, now: datetime) -> datetime:
    """When a race was last held, as far as that is known before its record is read; the far past where it is not."""
    starts = [event.start_time for event in (stored.events if stored else ()) if event.start_time]
    starts += [event.start_time for event in (listed.events if listed else ()) if event.start_time]
    if listed is not None:
        days = [day for day in (listed.last_date, listed.next_date) if day is not None]
        starts += [datetime(day.year, day.month, day.day, tzinfo=listed.zone).astimezone(UTC) for day in days]
    return max((start for start in starts if start <= now), default=_OLDEST)


def calls_to_come(races: int, calls_made: int, races_read: int) -> int:
    """About how many calls so many races still need, by what those read so far took."""
    each = calls_made / races_read if races_read >= 5 else CALLS_OF_A_RACE
    return round(races * max(each, 1))


def seconds_to_come(calls: int, left: int, per_hour: int, seconds_a_call: float, between: Window | None) -> float:
    """About how long so many calls take: those that the hour has left at once, the rest as the share allows."""
    at_once = min(calls, left) * seconds_a_call
    later = max(calls - left, 0) * max(3600 / per_hour, seconds_a_call)
    working = at_once + later
    return working if between is None else working / between.share_of_day
