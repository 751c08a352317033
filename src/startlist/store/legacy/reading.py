"""The replaced system's database, read in one snapshot and never written: which of its tables and columns are there.

Every value comes as text, so that nothing in it can stop the reading; what it is worth is judged on our side.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from startlist.errors import ConfigurationError, DatabaseError
from startlist.store.database import VERSION_TABLE, Connection, Database, translated

_RACES: LiteralString = (
    "race_id name timezone url next_date next_end_date last_date last_end_date is_draft_race is_private_race"
    " is_registration_open address created last_modified description external_race_url external_results_url"
    " fb_page_id fb_event_id logo_url real_time_notifications_enabled additional_data timing_partner_id fetched_date"
    " created_at"
)
_EVENTS: LiteralString = (
    "event_id race_id race_event_days_id name details event_type start_time end_time age_calc_base_date"
    " registration_opens distance giveaway volunteer require_dob require_phone additional_data timing_partner_id"
    " fetched_date created_at"
)
_PARTICIPANTS: LiteralString = (
    "id race_id event_id registration_id user_id first_name middle_name last_name email phone gender dob age address"
    " profile_image_url bib_num chip_num registration_date last_modified team_info payment_info additional_data"
    " timing_partner_id fetched_date created_at"
)
COLUMNS: dict[str, tuple[LiteralString, ...]] = {
    "timing_partners": ("timing_partner_id", "company_name", "contact_email", "created_at"),
    "providers": ("provider_id", "name"),
    "partner_provider_credentials": (
        "timing_partner_id", "provider_id", "principal", "secret", "credential_type", "created_at",
    ),
    "runsignup_races": tuple(_RACES.split()),
    "runsignup_events": tuple(_EVENTS.split()),
    "runsignup_participants": tuple(_PARTICIPANTS.split()),
}  # fmt: skip

# On the server's clock there. All other times are the race's: they come as they stand.
_SERVER_TIMES = ("created", "last_modified", "registration_opens", "registration_date", "fetched_date", "created_at")

NEEDED = {
    "timing_partners": ("timing_partner_id",),
    "runsignup_races": ("race_id",),
    "runsignup_events": ("event_id",),
    "runsignup_participants": ("event_id", "registration_id"),
}

FOUND = """
select c.relname, a.attname, format_type(a.atttypid, null)
from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
where n.nspname = %s and c.relkind in ('r', 'p', 'v', 'm', 'f') and a.attnum > 0 and not a.attisdropped
  and c.relname = any(%s)
"""


@dataclass(frozen=True)
class Source:
    """An open snapshot. `columns`: of each table that is there, the types of its columns by name."""

    conn: Connection
    schema: str
    place: str
    columns: dict[str, dict[str, str]]

    @property
    def timezone(self) -> str:
        """The zone of the server's clock, on which its times without zone are read."""
        return self.conn.info.parameter_status("TimeZone") or "?"

    def query(self, table: str) -> sql.Composed:
        """The columns that we know of a table, as text in our order; null where it lacks one."""
        names = sql.SQL(", ").join(self._column(table, name) for name in COLUMNS[table])
        return sql.SQL("select {} from {}").format(names, sql.Identifier(self.schema, table))

    def _column(self, table: str, name: str) -> sql.Composable:
        kind = self.columns[table].get(name)
        if kind is None:
            return sql.SQL("null::text")
        dated = name in _SERVER_TIMES and (kind.startswith("timestamp") or kind == "date")
        return sql.SQL("{}::timestamptz::text" if dated else "{}::text").format(sql.Identifier(name))

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a small table; none where there is no such table."""
        if table not in self.columns:
            return []
        async with self.conn.cursor(row_factory=dict_row) as cursor:
            query = sql.SQL("select * from ({}) as t ({}) order by 1").format(
                self.query(table), sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))
            )
            return await (await cursor.execute(query)).fetchall()

    async def copy(self, table: str, into: psycopg.AsyncCopy) -> None:
        """Send all rows of a table on, a few at a time."""
        async with (
            self.conn.cursor() as cursor,
            cursor.copy(sql.SQL("copy ({}) to stdout").format(self.query(table))) as found,
        ):
            async for block in found:
                await into.write(block)


@asynccontextmanager
async def opened(url: str, schema: str) -> AsyncIterator[Source]:
    """The replaced system's database in one read-only snapshot.

    Raises `ConfigurationError` when it cannot be reached or read, or does not hold its tables.
    """
    try:
        place = Database(url, schema).place
    except psycopg.Error:
        raise ConfigurationError(
            "--from: not a readable PostgreSQL URL; it has the form postgresql://user@host:port/database"
        ) from None
    try:
        with translated():
            conn: Connection = await psycopg.AsyncConnection.connect(
                url, application_name="startlist import", client_encoding="utf8", connect_timeout=10
            )
    except DatabaseError as error:
        raise ConfigurationError(f"--from: the database at {place}: {error}") from None
    async with conn:
        await conn.set_read_only(True)
        await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        with translated():
            await conn.execute("set datestyle to 'ISO'")
            yield Source(conn, schema, place, await _columns(conn, schema, place))
            await conn.rollback()


async def _columns(conn: Connection, schema: str, place: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in await (await conn.execute(FOUND, [schema, [*COLUMNS, VERSION_TABLE]])).fetchall():
        found.setdefault(table, {})[column] = kind
    if VERSION_TABLE in found:
        raise ConfigurationError(
            f"--from-schema: {schema} was made by startlist itself; name the schema of the replaced system's tables"
        )
    lacking = [table for table in NEEDED if table not in found]
    if lacking:
        raise ConfigurationError(
            f"--from: the schema {schema} of the database at {place} has no table {', '.join(lacking)}; looked for"
            f" {', '.join(NEEDED)} (is it another schema? --from-schema names it)"
        )
    for table, columns in NEEDED.items():
        for column in columns:
            if column not in found[table]:
                raise ConfigurationError(f"--from: the table {schema}.{table} has no column {column}")
    for table in found.keys() & COLUMNS.keys():
        asked = "select has_table_privilege(%s::regclass, 'select')"
        name = sql.Identifier(schema, table).as_string(conn)
        if await (await conn.execute(asked, [name])).fetchone() != (True,):
            raise ConfigurationError(
                f"--from: the user {conn.info.user} may not read {schema}.{table}: grant it select on that table"
            )
    return found
