"""The demo's rows: whether a schema may be used for a demo, a clean start in it, and all that it holds of a race."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg.rows import dict_row

from startlist.store import migrate
from startlist.store.database import Connection, Database, translated

# Every timing partner of a demo has a contact address here; the top-level domain .invalid never exists.
ADDRESSES = "startlist-demo.invalid"

LOCK_TIMEOUT = "10s"

IN_USE: LiteralString = "select exists (select from pg_class where relnamespace = to_regnamespace(%s))"

REAL_PARTNERS: LiteralString = """
select exists (
    select from timing_partners where contact_email is null or not (contact_email like '%%@' || %s)
)
"""

# All other tables of a timing partner hang on these.
CLEAR: LiteralString = "truncate timing_partners, runsignup_participants, sync_runs restart identity cascade"

RACES: LiteralString = "select race_id, timing_partner_id from runsignup_races"

COVERED: LiteralString = """
select event_id from runsignup_events
where timing_partner_id = %s and race_id = %s and first_full_at is not null
"""

REGISTRATIONS: LiteralString = """
select event_id, registration_id, user_id, first_name, middle_name, last_name, email, phone, gender, dob, age, address,
       bib_num, chip_num, registration_date, last_modified, team_info, payment_info, additional_data, field_errors,
       removed_at, removed_reason, new_registration_id, removal, missing_since
from runsignup_participants
where timing_partner_id = %s and race_id = %s
"""


@dataclass(frozen=True)
class StoredRows:
    """A race as it is stored: the events that were read in full, and all registrations by event and registration."""

    covered: frozenset[int]
    registrations: dict[tuple[int, int], dict[str, Any]]


async def begin(database: Database) -> bool:
    """Make the schema, with tables that hold nothing; false, and nothing is touched, if it is not a demo's.

    A demo's is a schema without tables, one without timing partners, and one with a demo's timing partners only.
    """
    with translated():
        async with await database.connect(name="startlist demo") as conn:
            if await database.revision(conn) is None:
                if await _truth(conn, IN_USE, database.schema):
                    return False
            elif await _truth(conn, REAL_PARTNERS, ADDRESSES):
                return False
            await migrate.upgrade(database)
            async with conn.transaction():
                await conn.execute("select set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
                await conn.execute(CLEAR)
    return True


async def _truth(conn: Connection, query: LiteralString, value: str) -> bool:
    row = await (await conn.execute(query, [value])).fetchone()
    return bool(row and row[0])


async def owners(conn: Connection) -> dict[int, int]:
    """Which timing partner each stored race belongs to; in the demo each has one."""
    return dict(await (await conn.execute(RACES)).fetchall())


async def stored_rows(conn: Connection, timing_partner_id: int, race_id: int) -> StoredRows:
    """All that is stored of a race's registrations, removed ones too."""
    covered = await (await conn.execute(COVERED, [timing_partner_id, race_id])).fetchall()
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(REGISTRATIONS, [timing_partner_id, race_id])
        found = {(row["event_id"], row["registration_id"]): row async for row in cursor}
    return StoredRows(frozenset(event_id for (event_id,) in covered), found)
