"""Making and upgrading the schema."""

from __future__ import annotations

from startlist.store.database import Database


async def test_a_fresh_database_has_the_tables_and_the_view(database: Database) -> None:
    async with await database.connect() as connection:
        found = await connection.execute(
            "select table_name from information_schema.tables where table_schema = %s", ["startlist"]
        )
        names = {name for (name,) in await found.fetchall()}
    assert {"timing_partners", "runsignup_participants", "sync_history", "start_list"} <= names
