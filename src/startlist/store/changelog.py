"""Reading what changed: the newest rows, the rows after an id, and new rows as they come, none of them ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Generic, LiteralString, TypeVar

from psycopg.rows import AsyncRowFactory

from startlist.errors import DatabaseError
from startlist.store.database import Connection, Database, translated
from startlist.store.reading import Filters, prepare

BATCH = 1000
POLL_SECONDS = 1.0
RECONNECT_SECONDS = 1.0

# SQLSTATE classes of a server that is away for a while: connection exceptions, too many of something, operator
# intervention (shutdown, starting up).
_PASSING = ("08", "53", "57")


@dataclass(frozen=True, slots=True)
class Change:
    """A row of `runsignup_changes`; `before` and `after` hold only what differs."""

    change_id: int
    timing_partner_id: int
    race_id: int
    event_id: int
    registration_id: int
    sync_history_id: int | None
    change_type: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    source_modified_at: datetime | None
    detected_at: datetime

    @property
    def id(self) -> int:
        return self.change_id


@dataclass(frozen=True, slots=True)
class BibChange:
    """A row of `runsignup_bib_changes`."""

    bib_change_id: int
    timing_partner_id: int
    race_id: int
    event_id: int
    registration_id: int
    sync_history_id: int | None
    kind: str
    old_bib: str | None
    new_bib: str | None
    old_chip: str | None
    new_chip: str | None
    source_modified_at: datetime | None
    detected_at: datetime

    @property
    def id(self) -> int:
        return self.bib_change_id


R = TypeVar("R", bound=Change | BibChange)


@dataclass(frozen=True, slots=True)
class Entry(Generic[R]):
    """A row of a log and whom it is about; names as they are now."""

    row: R
    race_name: str | None
    event_name: str | None
    first_name: str | None
    last_name: str | None


# The ids commit in order (rule 9), so that rows up to the newest id seen are all there, and a time can be bounded by an
# id: nothing below it is an hour older than what follows.
HEAD: LiteralString = "select coalesce(max(<id>), 0) from <table>"

BEFORE: LiteralString = """
select coalesce(max(<id>), 0)
from (select <id> from <table> where detected_at < %(since)s::timestamptz - interval '1 hour'
      order by <id> desc limit 1) as older
"""

ENTRIES: LiteralString = """
select <columns>, r.name, e.name, coalesce(p.first_name, p.removal #>> '{user,first_name}'),
       coalesce(p.last_name, p.removal #>> '{user,last_name}')
from (
    select * from <table>
    where <id> > %(after)s and <id> <= %(head)s
      and (%(partner)s::bigint is null or timing_partner_id = %(partner)s)
      and (%(race)s::bigint is null or race_id = %(race)s)
      and (%(event)s::bigint is null or event_id = %(event)s)
      and (%(since)s::timestamptz is null or detected_at >= %(since)s)
    order by <id> <direction>
    limit %(limit)s
) as c
left join runsignup_races as r on r.timing_partner_id = c.timing_partner_id and r.race_id = c.race_id
left join runsignup_events as e on e.timing_partner_id = c.timing_partner_id and e.event_id = c.event_id
left join runsignup_participants as p
    on p.timing_partner_id = c.timing_partner_id and p.event_id = c.event_id and p.registration_id = c.registration_id
order by <id>
"""


class Log(Generic[R]):
    """One of the two append-only logs; `channel` is where its writers notify, if they do."""

    def __init__(self, table: LiteralString, row: type[R], channel: LiteralString | None = None) -> None:
        self.table: LiteralString = table
        self.channel: LiteralString | None = channel
        self.row = row
        self._columns = [field.name for field in fields(row)]
        self._head = self._of(HEAD)
        self._before = self._of(BEFORE)
        self._first = self._of(ENTRIES).replace("<direction>", "")
        self._newest = self._of(ENTRIES).replace("<direction>", "desc")

    def _of(self, query: LiteralString) -> LiteralString:
        columns = ", ".join(f"c.{name}" for name in self._columns)
        return query.replace("<table>", self.table).replace("<id>", self._columns[0]).replace("<columns>", columns)

    async def head(self, conn: Connection) -> int:
        """The newest id; 0 in an empty log."""
        row = await (await conn.execute(self._head)).fetchone()
        return int(row[0]) if row else 0

    async def before(self, conn: Connection, since: datetime) -> int:
        """An id after which all rows of `since` and later come."""
        row = await (await conn.execute(self._before, {"since": since})).fetchone()
        return int(row[0]) if row else 0

    async def after(
        self, conn: Connection, filters: Filters, after_id: int, head: int, *, limit: int
    ) -> list[Entry[R]]:
        """The first rows after an id, up to `head`, in order."""
        return await self._entries(conn, self._first, filters, after_id, head, limit)

    async def newest(
        self, conn: Connection, filters: Filters, after_id: int, head: int, *, limit: int
    ) -> list[Entry[R]]:
        """The newest rows after an id, up to `head`, in order."""
        return await self._entries(conn, self._newest, filters, after_id, head, limit)

    async def _entries(
        self, conn: Connection, query: LiteralString, filters: Filters, after_id: int, head: int, limit: int
    ) -> list[Entry[R]]:
        values = {**filters.values(), "after": after_id, "head": head, "limit": limit}
        async with conn.cursor(row_factory=self._factory()) as cursor:
            await cursor.execute(query, values)
            return await cursor.fetchall()

    def _factory(self) -> AsyncRowFactory[Entry[R]]:
        own = len(self._columns)
        row = self.row

        def make(values: Any) -> Entry[R]:
            return Entry(row(*values[:own]), *values[own:])

        return lambda _cursor: make

    async def follow(
        self,
        database: Database,
        filters: Filters,
        after_id: int,
        *,
        on_lost: Callable[[DatabaseError], None] = lambda _error: None,
        on_back: Callable[[], None] = lambda: None,
        poll_seconds: float = POLL_SECONDS,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> AsyncGenerator[list[Entry[R]], None]:
        """Rows after an id, then new ones as they come, without end; an empty list each time there was nothing new.

        A lost database is awaited, however long it takes: `on_lost` hears of it once, then `on_back`, and no row is
        left out or told twice. Raises `DatabaseError` for what waiting cannot cure.
        """
        lost = False
        while True:
            try:
                async with await database.connect(name="startlist follow") as conn:
                    with translated():
                        prepare(conn)
                        conn.prepare_threshold = None  # a plan for any filters would not use the index of a race
                        if self.channel is not None:
                            await conn.execute(f"listen {self.channel}")  # before the first look: nothing slips between
                        if lost:
                            lost = False
                            on_back()
                        while True:
                            head = await self.head(conn)
                            while after_id < head:
                                found = await self.after(conn, filters, after_id, head, limit=BATCH)
                                after_id = found[-1].row.id if len(found) == BATCH else head
                                yield found
                            yield []
                            await self._news(conn, poll_seconds)
            except DatabaseError as error:
                if error.sqlstate is not None and not error.sqlstate.startswith(_PASSING):
                    raise
                if not lost:
                    lost = True
                    on_lost(error)
            await asyncio.sleep(reconnect_seconds)

    async def _news(self, conn: Connection, seconds: float) -> None:
        """Wait for a notification, but not longer than so many seconds: one may be lost, the rows are not."""
        if self.channel is None:
            await asyncio.sleep(seconds)
            return
        async for _ in conn.notifies(timeout=seconds, stop_after=1):
            pass


CHANGES = Log("runsignup_changes", Change)
BIBS = Log("runsignup_bib_changes", BibChange, "startlist_bibs")
