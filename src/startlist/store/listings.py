"""Which race lists are to be read, and what is known of their reading."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg.rows import class_row

from startlist.store.database import Connection
from startlist.store.schedule import LONGEST


@dataclass(frozen=True, slots=True)
class Listing:
    """What is known of the reading of a credential's race list."""

    credential_id: int
    failures: int
    base_at: datetime | None


DUE: LiteralString = """
select distinct k.timing_partner_id
from partner_provider_credentials as k
where k.provider_id = 2
  and (k.next_list_at is null or k.next_list_at <= statement_timestamp()
       or k.next_list_at > statement_timestamp() + <longest>)
  and not exists (select from procrastinate_jobs as j
                  where j.queueing_lock = 'list:' || k.timing_partner_id and j.status = 'todo')
  and not exists (select from procrastinate_jobs as j
                  where j.lock = 'list:' || k.timing_partner_id and j.status = 'doing')
order by k.timing_partner_id
""".replace("<longest>", LONGEST)


async def due(conn: Connection) -> list[int]:
    """The timing partners of whom a credential's race list is to be read now, unless that is queued."""
    rows = await (await conn.execute(DUE)).fetchall()
    return [row[0] for row in rows]


async def of_partner(conn: Connection, timing_partner_id: int) -> dict[int, Listing]:
    """A partner's credentials by id."""
    query: LiteralString = """
        select credential_id, list_failures as failures, base_at from partner_provider_credentials
        where timing_partner_id = %s
    """
    async with conn.cursor(row_factory=class_row(Listing)) as cursor:
        await cursor.execute(query, [timing_partner_id])
        return {row.credential_id: row for row in await cursor.fetchall()}


async def plan(conn: Connection, credential_id: int, *, at: datetime, failures: int = 0, base: bool = False) -> None:
    """Set when a credential's race list is read next; `base`: all its races have been made due."""
    await conn.execute(
        "update partner_provider_credentials set next_list_at = %s, list_failures = %s,"
        " base_at = case when %s then clock_timestamp() else base_at end where credential_id = %s",
        [at, failures, base, credential_id],
    )
