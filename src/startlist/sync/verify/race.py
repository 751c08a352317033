"""One race read afresh and compared with the store, page by page; nothing is locked and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from startlist.runsignup import Event, ParticipantsPage, RemovedPage, RunSignup
from startlist.store import stages, verifications
from startlist.store.cursors import Cursor
from startlist.store.database import Connection
from startlist.store.registrations import Key, Range, Scope
from startlist.store.verifications import ActivePair

WHO = tuple[str | None, str | None]
ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that is stored otherwise than RunSignup has it; event and registration are None for the race's own.

    `newer`: RunSignup changed it since the last pass, so that the next one brings it.
    """

    event_id: int | None
    registration_id: int | None
    first_name: str | None
    last_name: str | None
    field: str
    ours: Any
    theirs: Any
    newer: bool = False

    @property
    def place(self) -> tuple[int | None, int | None, str]:
        """Which registration and which field."""
        return self.event_id, self.registration_id, self.field


@dataclass(slots=True)
class Found:
    """What one reading found, and how much it compared."""

    differences: list[Difference] = field(default_factory=list)
    active: int = 0
    removed: int = 0
    values: int = 0
    as_of: datetime | None = None

    @property
    def newer(self) -> int:
        """How many registrations, the race's record as one, differ because RunSignup changed them since our pass."""
        return len({(one.event_id, one.registration_id) for one in self.differences if one.newer})


class Reading:
    """One reading of a race's record and both its feeds.

    `counting` says of an event of the record whether it is to be kept fresh; `on_page` hears of each page's rows.
    """

    def __init__(
        self,
        conn: Connection,
        client: RunSignup,
        scope: Scope,
        cursor: Cursor,
        *,
        counting: Callable[[Event], bool],
        on_page: Callable[[int], None],
    ) -> None:
        self.found = Found()
        self._conn = conn
        self._client = client
        self._scope = scope
        self._cursor = cursor
        self._counting = counting
        self._on_page = on_page
        self._named: set[Key] = set()  # by the removed list, or unreadably by either
        self._nameless = False  # a record without a number could be anybody's
        self._absent: dict[Key, WHO] = {}
        self._contested: dict[Key, ActivePair] = {}  # active there, stored as removed

    async def read(self) -> Found:
        """Read and compare everything."""
        await stages.prepare(self._conn)
        race, events = self._scope.race_id, sorted(self._scope.asked)
        record = await self._client.race(race)
        kept = [event for event in record.events if event.event_id in self._scope.asked or self._counting(event)]
        fields, moved = await verifications.race_fields(self._conn, self._scope.timing_partner_id, record, kept)
        self.found.differences += [Difference(None, None, None, None, *one, newer=moved) for one in fields]
        async for page in self._client.participants(race, events):
            self._first(page.candidate)
            self._on_page(len(page.rows))
            if page.event_id is not None or page.next is None:  # else each event is read alone after it
                await self._active(page)
        async for removed in self._client.removed_participants(race, events):
            if removed.event_id is not None or removed.next is None:
                await self._removed(removed)
        for key, who in self._absent.items():
            self._differs(key, who, "state", "active", "in neither list")
        if not self._nameless:
            stored = await verifications.stored_as_removed(self._conn, self._scope.timing_partner_id, events)
            for key in stored.keys() - self._named - self._contested.keys():
                self._differs(key, stored[key], "state", "removed", "in neither list")
        for key, pair in self._contested.items():
            newer = self._is_newer(key[0], pair.modified, self._cursor.participants_watermark)
            self._differs(key, (pair.first_name, pair.last_name), "state", "removed", "active", newer=newer)
        return self.found

    def _first(self, candidate: int | None) -> None:
        if self.found.as_of is None and candidate is not None:
            self.found.as_of = datetime.fromtimestamp(candidate, UTC)

    async def _active(self, page: ParticipantsPage) -> None:
        complete = page.complete_range and all(bad.registration_id is not None for bad in page.bad)
        asked = sorted(self._scope.asked) if page.event_id is None else [page.event_id]
        answered = Range(asked, page.after, page.up_to) if complete else None
        present = [bad.registration_id for bad in page.bad if bad.registration_id is not None]
        pairs, absent = await verifications.compare_active(self._conn, self._scope, page.rows, answered, present)
        self._unreadable(page)
        self._absent.update({(event, number): (first, last) for event, number, first, last in absent})
        for row in page.rows:
            self._absent.pop((row.event_id, row.registration_id), None)
        self.found.active += len(page.rows)
        self.found.values += len(page.rows) * len(verifications.COMPARED)
        for pair in pairs:
            self._judge(pair)

    def _judge(self, pair: ActivePair) -> None:
        key, who = (pair.event_id, pair.registration_id), (pair.first_name, pair.last_name)
        if pair.removed:
            self._contested[key] = pair
            return
        moved = pair.modified != pair.stored_modified
        newer = moved and self._is_newer(pair.event_id, pair.modified, self._cursor.participants_watermark)
        if not pair.stored:
            self._differs(key, who, "state", "not stored", "active", newer=newer)
            return
        if pair.missing:
            self._differs(key, who, "state", "missing", "active", newer=newer)
        for column in sorted(pair.ours.keys() | pair.theirs.keys()):
            ours, theirs = pair.ours.get(column), pair.theirs.get(column)
            for name, own, sent in [*_flat(column, ours, theirs)] or [(column, ours, theirs)]:
                self._differs(key, who, name, own, sent, newer=newer)

    async def _removed(self, page: RemovedPage) -> None:
        self._unreadable(page)
        self._named.update((row.event_id, row.registration_id) for row in page.rows)
        self.found.removed += len(page.rows)
        for pair in await verifications.compare_removed(self._conn, self._scope.timing_partner_id, page.rows):
            key, who = (pair.event_id, pair.registration_id), (pair.first_name, pair.last_name)
            absent = self._absent.pop(key, None) is not None
            contested = self._contested.get(key)
            if contested is not None:
                if _not_before(pair.modified, contested.modified):
                    del self._contested[key]
                else:
                    continue  # entered again later: told as active
            active = pair.stored and not pair.removed
            if active and not absent and not _not_before(pair.modified, pair.stored_modified):
                continue
            if not active and pair.same:
                continue
            newer = self._is_newer(pair.event_id, pair.modified, self._cursor.removed_watermark)
            if not pair.stored or active:
                self._differs(key, who, "state", "active" if active else "not stored", "removed", newer=newer)
            else:
                told = "removal", "another record", "the record of the removed list"
                self._differs(key, who, *told, newer=newer)

    def _unreadable(self, page: ParticipantsPage | RemovedPage) -> None:
        for bad in page.bad:
            found = Difference(bad.event_id, bad.registration_id, None, None, "record", "not readable", bad.reason)
            self.found.differences.append(found)
            if bad.event_id is None or bad.registration_id is None:
                self._nameless = True
            else:
                self._named.add((bad.event_id, bad.registration_id))

    def _differs(self, key: Key, who: WHO, name: str, ours: Any, theirs: Any, *, newer: bool = False) -> None:
        self.found.differences.append(Difference(*key, *who, name, ours, theirs, newer))

    def _is_newer(self, event_id: int, modified: datetime | None, watermark: int | None) -> bool:
        """Whether the next sync brings this by itself."""
        if watermark is None or event_id not in self._cursor.event_ids:
            return True
        return modified is not None and modified.timestamp() >= watermark


def _not_before(removal: datetime | None, active: datetime | None) -> bool:
    return removal is None or active is None or removal >= active


def _flat(path: str, ours: object, theirs: object) -> Iterator[tuple[str, object, object]]:
    """The values that differ, with their path. A key that one side has not is no null, and true is not 1."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _flat(f"{path}.{key}", ours.get(key, ABSENT), theirs.get(key, ABSENT))
    elif ours != theirs or isinstance(ours, bool) is not isinstance(theirs, bool):
        yield path, ours, theirs
