"""`quarantine retry`: what was set aside is decoded and merged once more, by the program of today.

The stored text is not news: a registration of which a later version is stored stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby

import structlog

from startlist.runsignup import BadRecord, RawRegistration, Removal
from startlist.runsignup.again import read_again
from startlist.store import cursors, quarantine, races, stages
from startlist.store.changes import write_changes
from startlist.store.database import Connection, Database, translated
from startlist.store.quarantine import SetAside, Times
from startlist.store.registrations import Scope, merge_registrations
from startlist.store.removals import apply_removals

log = structlog.get_logger()

AT_ONCE = 500  # records of one transaction
LOCK_WAIT_SECONDS = 60.0
FEEDS = ("participants", "removed-participants")


class Fate(StrEnum):
    """What became of a record."""

    STORED = "stored"
    SUPERSEDED = "superseded"  # a later version is stored: nothing to do
    BAD = "bad"
    UNFIT = "unfit"  # such a record cannot be stored from its text
    HELD = "held"  # another run holds the race
    CLOSED = "closed"  # by somebody else, or before


@dataclass(frozen=True, slots=True)
class Retried:
    """A record and what became of it; `reason` says why it stays, and what to do."""

    quarantine_id: int
    timing_partner_id: int
    race_id: int | None
    event_id: int | None
    registration_id: int | None
    fate: Fate
    reason: str | None

    @property
    def stays(self) -> bool:
        """Whether it is still in quarantine."""
        return self.fate in (Fate.BAD, Fate.UNFIT, Fate.HELD)


async def retry(database: Database, records: Sequence[SetAside]) -> list[Retried]:
    """Try records once more, race by race, each under its race's lock; they must come with their `raw`."""
    done: list[Retried] = []
    with translated():
        async with await database.connect(name="startlist retry") as conn:
            await stages.prepare(conn)
            by_race = sorted(records, key=lambda one: (one.timing_partner_id, one.race_id or 0, one.last_seen_at))
            for (partner, race_id), group in groupby(by_race, lambda one: (one.timing_partner_id, one.race_id)):
                mine = list(group)
                if race_id is None:
                    done += [_unfit(one) for one in mine]
                    continue
                done += await _retry_race(database, conn, partner, race_id, mine)
    return done


async def _retry_race(
    database: Database, conn: Connection, partner: int, race_id: int, records: list[SetAside]
) -> list[Retried]:
    if not await cursors.lock_race(database, conn, partner, race_id, wait_seconds=LOCK_WAIT_SECONDS):
        return [_fate(one, Fate.HELD, "another run holds this race: try again when it has ended") for one in records]
    done: list[Retried] = []
    try:
        for start in range(0, len(records), AT_ONCE):
            async with conn.transaction():
                done += await _retry_some(database, conn, partner, race_id, records[start : start + AT_ONCE])
    finally:
        await cursors.unlock_race(conn)
    stored = sum(one.fate is Fate.STORED for one in done)
    log.info("quarantine.retried", timing_partner_id=partner, race_id=race_id, records=len(done), stored=stored)
    return done


async def _retry_some(
    database: Database, conn: Connection, partner: int, race_id: int, records: list[SetAside]
) -> list[Retried]:
    """One transaction: what reads today is merged and closed, unless a later version is stored."""
    still_open = await quarantine.still_open(conn, [one.quarantine_id for one in records])
    done, read = [], []
    for one in records:
        if one.quarantine_id not in still_open:
            done.append(_fate(one, Fate.CLOSED, "it was resolved already"))
        elif one.endpoint not in FEEDS:
            done.append(_unfit(one))
        else:
            found = read_again(one.raw or "", one.endpoint, one.event_id)
            if isinstance(found, BadRecord):
                await quarantine.explain(conn, one.quarantine_id, found.reason)
                done.append(_fate(one, Fate.BAD, found.reason))
            else:
                read.append((one, found))
    stored = await quarantine.stored_times(
        conn, partner, [(found.event_id, found.registration_id) for _, found in read]
    )
    registrations: list[RawRegistration] = []
    removals: list[Removal] = []
    for one, found in read:
        before = stored.get((found.event_id, found.registration_id))
        late = _later_is_stored(before, found)
        if late is None:
            undated = "a version is stored, and of this one it is not known when it was changed"
            done.append(_fate(one, Fate.UNFIT, f"{undated}; read the race in full: {_in_full(one)}"))
            continue
        done.append(_fate(one, Fate.SUPERSEDED if late else Fate.STORED, None))
        if late:
            continue
        if isinstance(found, RawRegistration):
            registrations.append(found)
        else:
            removals.append(found)
    await quarantine.close(conn, [one.quarantine_id for one in done if one.fate in (Fate.STORED, Fate.SUPERSEDED)])
    scope = await _scope(conn, partner, race_id)
    changes = (await merge_registrations(conn, scope, registrations, answered=None, present=())).changes
    changes += (await apply_removals(conn, scope, removals, ())).changes
    if changes:
        await write_changes(database, conn, timing_partner_id=partner, race_id=race_id, sync_history_id=None)
    return done


def _later_is_stored(stored: Times | None, found: RawRegistration | Removal) -> bool | None:
    """Whether the store has a later version; None when that cannot be told.

    A version of the same second is no later one: what came after this record would have closed it.
    """
    if stored is None:
        return False
    if isinstance(found, RawRegistration):
        changed = found.decode().last_modified
        if not stored.active:  # known by its removal alone
            return False
        return _later(stored.last_modified, changed)
    if stored.removal_modified_at is None:
        return False  # the merge itself compares it with the active version
    return _later(stored.removal_modified_at, found.modified_at)


def _later(stored: datetime | None, changed: datetime | None) -> bool | None:
    return None if stored is None or changed is None else stored > changed


async def _scope(conn: Connection, partner: int, race_id: int) -> Scope:
    """As a pass of the whole race would have it: nothing of an event before its first full pass is news."""
    cursor = await cursors.load_cursor(conn, partner, race_id)
    race = (await races.stored_races(conn, partner, race_id)).get(race_id)
    events = race.events if race is not None else []
    asked = frozenset(event.event_id for event in events)
    had = {event.event_id for event in events if event.first_full_at is not None}
    return Scope(
        partner, race_id, asked=asked, quiet=asked - had - cursor.event_ids, race_is_new=cursor.last_full_at is None,
        last_query=None,
    )  # fmt: skip


def _unfit(one: SetAside) -> Retried:
    """A record of races or events: they hang together with what was sent around them."""
    if one.race_id is None:
        again = f"the next sync reads the race list again: startlist sync --timing-partner {one.timing_partner_id}"
    else:
        again = f"read the race in full: {_in_full(one)}"
    return _fate(one, Fate.UNFIT, f"a record of races or events cannot be stored from its text; {again}")


def _in_full(one: SetAside) -> str:
    return f"startlist sync --timing-partner {one.timing_partner_id} --race {one.race_id} --force-full-sync"


def _fate(one: SetAside, fate: Fate, reason: str | None) -> Retried:
    return Retried(
        one.quarantine_id, one.timing_partner_id, one.race_id, one.event_id, one.registration_id, fate, reason
    )
