"""What the scheduler has planned of a race, in words: its class, when it is due, whether it is stale and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from startlist.cli import words
from startlist.schedule import decision
from startlist.store.partners import CredentialState
from startlist.store.status import RaceState

UNPLANNED = timedelta(days=1)  # without a scheduler a race counts as stale when it was not read for so long
STRETCHED = 1.05  # by less a cadence is not worth a word

_CLASSES = {"race_day": "race day", "race_week": "race week", "routine": "routine"}


def is_stale(race: RaceState, now: datetime) -> bool:
    """Whether a race that counts was not read when it should have been."""
    if race.gone_at is not None:
        return False
    if race.planned_at is not None:
        return race.stale_at is not None and race.stale_at < now
    return race.current and (race.complete_as_of is None or now - race.complete_as_of > UNPLANNED)


def stale(race: RaceState, now: datetime) -> str | None:
    """Why a race is stale, in a sentence; None when it is not."""
    if not is_stale(race, now):
        return None
    if race.planned_at is None:
        return "it is stale: it was not read for a day, and no scheduler knows it (startlist serve)"
    if race.failures:
        return f"it is stale: {race.failures} passes in a row failed, {due(race, now) or 'and it is not planned'}"
    return f"it is stale: {due(race, now) or 'it is not planned'}"


def name(race: RaceState) -> str | None:
    """The class of a race's next turn; None when it has none."""
    return None if race.next_sync_at is None or race.rank is None else _CLASSES[race.rank]


def lag(race: RaceState, now: datetime) -> timedelta | None:
    """How long a race has been due; None when no turn is planned."""
    return None if race.next_sync_at is None else max(now - race.next_sync_at, timedelta())


def due(race: RaceState, now: datetime) -> str | None:
    """When a race's next turn comes, or for how long it has been due."""
    late = lag(race, now)
    if late is None or race.next_sync_at is None:
        return None
    return f"due for {words.span(late)}" if late else f"in {words.span(race.next_sync_at - now)}"


def distrusted(credentials: Iterable[CredentialState], now: datetime) -> Iterator[str]:
    """Whose races are read in full every minute on race day, and why."""
    for one in credentials:
        if one.silent_bibs_at is not None and decision.distrusted(one.silent_bibs_at, now):
            yield (
                f"timing partner {one.timing_partner_id} ({one.company_name}): bibs of races of API key"
                f" {one.principal} changed in RunSignup without its saying so (last found"
                f" {words.span(now - one.silent_bibs_at)} ago); so its passes every minute are full ones"
            )


def stretched(races: Iterable[RaceState], credentials: Iterable[CredentialState]) -> Iterator[str]:
    """Whose races are read less often than they should be, because there are too few calls."""
    by_key: dict[int | None, float] = {}
    for race in races:
        if race.next_sync_at is not None and race.rank != "routine" and (race.stretch or 1) > STRETCHED:
            by_key[race.credential_id] = max(by_key.get(race.credential_id, 1), race.stretch or 1)
    for one in credentials:
        if one.credential_id is not None and one.credential_id in by_key:
            yield (
                f"timing partner {one.timing_partner_id} ({one.company_name}): API key {one.principal} has"
                " races that need more calls than there are, of the key or of all lanes; they are read"
                f" {by_key[one.credential_id]:.1f} times less often"
            )
