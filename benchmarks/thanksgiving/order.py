"""Who comes first, as `DUE` and `AHEAD` have it, in memory; a test holds them beside each other."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.thanksgiving.world import Credential, Race
from startlist.store.budget import Rank


def rank_of(race: Race, now: float) -> Rank:
    """What the database ranks a race as: it may be stale by now, or its race day have begun."""
    return Rank.RACE_DAY if race.stale_at < now or on_day(race, now) else race.rank


def in_order(due: Iterable[Race], now: float) -> list[Race]:
    """Races that are due as they are queued, the most pressing first."""
    return sorted(due, key=lambda race: (-rank_of(race, now), race.waits_since or race.next_sync_at))


def ahead(credential: Credential, race: Race, rank: Rank, since: float) -> int:
    """How many races wait for a call of the key that come before this one."""
    return sum(
        other is not race
        and other.waits_since is not None
        and (-other.rank, other.waits_since, other.race_id) < (-rank, since, race.race_id)
        for other in credential.races
    )


def on_day(race: Race, now: float) -> bool:
    """Whether it is within the race's day."""
    begins, ends = race.race_day
    return begins <= now < ends
