"""Making and upgrading the schema."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory

from startlist.errors import DatabaseError, SchemaError
from startlist.store import migrate
from startlist.store.database import SCHEMA_REVISION, Database, check_revision
from tests.support import with_option


async def names(database: Database, schema: str | None = None) -> set[str]:
    async with await database.connect() as connection:
        found = await connection.execute(
            "select table_name from information_schema.tables where table_schema = %s", [schema or database.schema]
        )
        return {name for (name,) in await found.fetchall()}


@pytest.fixture
def empty(empty_database_url: str) -> Database:
    return Database(empty_database_url, "startlist")


def test_the_program_knows_its_newest_revision() -> None:
    assert ScriptDirectory.from_config(migrate.configuration()).get_current_head() == SCHEMA_REVISION


async def test_the_first_upgrade_makes_the_tables_and_the_view(empty: Database) -> None:
    assert await migrate.upgrade(empty) == migrate.Upgrade(None, SCHEMA_REVISION)
    assert {"timing_partners", "runsignup_participants", "sync_history", "start_list"} <= await names(empty)
    assert await names(empty, "public") == set()


async def test_a_second_upgrade_changes_nothing(database: Database) -> None:
    async with await database.connect() as connection:
        await connection.execute("insert into timing_partners (company_name) values ('kept')")
        assert await migrate.upgrade(database) == migrate.Upgrade(SCHEMA_REVISION, SCHEMA_REVISION)
        found = await connection.execute("select company_name from timing_partners")
        assert await found.fetchall() == [("kept",)]


async def test_a_schema_of_the_first_revision_is_upgraded_with_what_it_holds(empty: Database) -> None:
    first = Path(migrate.__file__).with_name("migrations") / "versions" / "0001_initial.sql"
    async with await empty.connect() as connection:
        await connection.execute("create schema startlist")
        await connection.execute(first.read_bytes())
        await connection.execute("create table startlist_version (version_num varchar(32) primary key)")
        await connection.execute("insert into startlist_version values ('0001')")
        await connection.execute("insert into timing_partners (company_name) values ('kept')")
        with pytest.raises(SchemaError, match="run `startlist init`"):
            check_revision(await empty.revision(connection), empty.schema)
        assert await migrate.upgrade(empty) == migrate.Upgrade("0001", SCHEMA_REVISION)
        check_revision(await empty.revision(connection), empty.schema)
        found = await connection.execute("select company_name from timing_partners")
        assert await found.fetchall() == [("kept",)]
    assert "backfill_progress" in await names(empty)


async def test_upgrades_at_once_wait_for_each_other(empty: Database) -> None:
    done = await asyncio.gather(*(migrate.upgrade(empty) for _ in range(4)))
    assert sorted(upgrade.before or "" for upgrade in done) == ["", *[SCHEMA_REVISION] * 3]


async def test_two_schemas_live_in_one_database(database: Database) -> None:
    other = Database(database.conninfo, "rehearsal")
    await migrate.upgrade(other)
    assert await names(other) == await names(database)


async def test_tables_that_we_did_not_make_are_never_adopted(empty: Database) -> None:
    async with await empty.connect() as connection:
        await connection.execute("create schema startlist")
        await connection.execute("create table startlist.runsignup_participants (registration_id int)")
        await connection.execute("insert into startlist.runsignup_participants values (7)")
    with pytest.raises(SchemaError, match="import-legacy") as raised:
        await migrate.upgrade(empty)
    assert "runsignup_participants" in str(raised.value)
    assert await names(empty) == {"runsignup_participants"}


async def test_tables_of_another_system_may_stand_beside_ours(empty: Database) -> None:
    async with await empty.connect() as connection:
        await connection.execute("create table public.runsignup_participants (registration_id int)")
    await migrate.upgrade(empty)
    assert await names(empty, "public") == {"runsignup_participants"}
    assert "runsignup_participants" in await names(empty)


async def test_a_schema_made_by_a_newer_program_is_left_alone(database: Database) -> None:
    async with await database.connect() as connection:
        await connection.execute("update startlist_version set version_num = '9999'")
    with pytest.raises(SchemaError, match="upgrade the program"):
        await migrate.upgrade(database)


async def test_a_role_that_owns_only_the_schema_can_make_the_tables(empty: Database) -> None:
    role = "startlist_test_owner"
    async with await empty.connect() as connection:
        await connection.execute(f"create role {role} login password 'pw'".encode())
        try:
            await connection.execute(f"create schema startlist authorization {role}".encode())
            mine = Database(with_option(empty.conninfo, f"role={role}"), "startlist")
            await migrate.upgrade(mine)
            assert "timing_partners" in await names(mine)
        finally:
            await connection.execute(f"drop owned by {role}".encode())
            await connection.execute(f"drop role {role}".encode())


async def test_a_role_that_may_not_make_schemas_is_told_so(empty: Database) -> None:
    role = "startlist_test_guest"
    async with await empty.connect() as connection:
        await connection.execute(f"create role {role}".encode())
        try:
            with pytest.raises(DatabaseError, match="permission denied") as raised:
                await migrate.upgrade(Database(with_option(empty.conninfo, f"role={role}"), "startlist"))
            assert raised.value.sqlstate == psycopg.errors.InsufficientPrivilege.sqlstate
        finally:
            await connection.execute(f"drop role {role}".encode())
