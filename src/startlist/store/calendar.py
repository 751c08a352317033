"""The race calendar: who reads which race that is to come, and how many registrations it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from startlist.store.database import Connection
from startlist.store.races import StoredRace, stored_races

# The rows of its last full pass: to count those stored takes seconds where there are millions.
ROWS: LiteralString = """
select r.race_id, h.rows_received
from runsignup_races as r
cross join lateral (
    select rows_received from sync_history as h
    where h.timing_partner_id = r.timing_partner_id and h.race_id = r.race_id
      and h.sync_type in ('full', 'full_fallback') and h.status in ('completed', 'partial') and h.reason <> 'waiting'
    order by h.sync_history_id desc limit 1
) as h
where r.timing_partner_id = %s and r.gone_at is null
"""


@dataclass(frozen=True, slots=True)
class CalendarRace:
    """A race that is not gone, with its events, and the registrations that its last full pass met; 0 before it."""

    timing_partner_id: int
    stored: StoredRace
    rows: int


async def races_to_come(conn: Connection, timing_partner_id: int, *, ended_after: datetime) -> Iterator[CalendarRace]:
    """A partner's races that are not gone; of their events those that end after an instant."""
    stored = await stored_races(conn, timing_partner_id, ended_after=ended_after)
    rows: dict[int, int] = dict(await (await conn.execute(ROWS, [timing_partner_id])).fetchall())
    return (
        CalendarRace(timing_partner_id, race, rows.get(race_id, 0))
        for race_id, race in stored.items()
        if race.gone_at is None
    )
