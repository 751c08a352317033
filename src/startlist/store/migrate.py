"""Bring the schema to this program's revision: Alembic runs plain SQL, in one transaction, one process at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
import sqlalchemy.exc
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql

from startlist.errors import SchemaError
from startlist.store.database import SCHEMA_REVISION, VERSION_TABLE, Database, check_revision, translated

LOCK_TIMEOUT = "30s"  # a change of the schema must not make everybody queue behind it for longer

# What PostgreSQL says when a table, type, function or trigger of that name is there already.
_TAKEN = ("42P07", "42710", "42723")


@dataclass(frozen=True)
class Upgrade:
    """From which revision (none: the schema was made) to which."""

    before: str | None
    after: str


def configuration() -> Config:
    """Alembic's configuration: the revisions that came with this program."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config


async def upgrade(database: Database) -> Upgrade:
    """Create or upgrade the schema.

    Raises `SchemaError` if it was made by a newer program or holds tables that startlist did not make; nothing is
    changed then. Raises `DatabaseError` if another session holds a lock for too long.
    """
    return await asyncio.to_thread(_upgrade, database)


def _upgrade(database: Database) -> Upgrade:
    def connect() -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(**database.parameters("startlist init"))

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=connect, poolclass=sqlalchemy.NullPool)
    with translated():
        try:
            with engine.begin() as connection:
                return _upgrade_in(connection, database)
        except sqlalchemy.exc.DBAPIError as error:
            if isinstance(error.orig, psycopg.Error):
                raise error.orig from None
            raise


def _upgrade_in(connection: sqlalchemy.Connection, database: Database) -> Upgrade:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)  # noqa: S101  # made above; for the type checker
    raw.execute("select set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
    raw.execute("select pg_advisory_xact_lock(%s)", [database.lock_key("migrate")])
    before = _revision(raw, database.schema)
    if before == SCHEMA_REVISION:
        return Upgrade(before, before)
    if before is not None and before > SCHEMA_REVISION:
        check_revision(before, database.schema)
    # Not IF NOT EXISTS: that asks for the right to make schemas even where there is nothing to make.
    if raw.execute("select to_regnamespace(%s)::text", [database.schema]).fetchone() == (None,):
        raw.execute(sql.SQL("create schema {}").format(sql.Identifier(database.schema)))
    try:
        _run_revisions(connection, database.schema)
    except psycopg.Error as error:
        if before is None and error.sqlstate in _TAKEN:
            raise SchemaError(
                f"the schema {database.schema} holds tables that startlist did not make"
                f" ({error.diag.message_primary}): name another schema for ours with STARTLIST_DATABASE_SCHEMA;"
                " `startlist import-legacy` then takes over the rows of the old tables"
            ) from None
        raise
    return Upgrade(before, SCHEMA_REVISION)


def _revision(raw: psycopg.Connection[tuple[Any, ...]], schema: str) -> str | None:
    found = raw.execute("select to_regclass(%s) is not null", [f"{schema}.{VERSION_TABLE}"]).fetchone()
    if found != (True,):
        return None
    query = sql.SQL("select version_num from {}").format(sql.Identifier(schema, VERSION_TABLE))
    row = raw.execute(query).fetchone()
    return row[0] if row else None


def _run_revisions(connection: sqlalchemy.Connection, schema: str) -> None:
    config = configuration()
    directory = ScriptDirectory.from_config(config)

    def steps(heads: Any, _context: MigrationContext) -> Iterable[Any]:
        return directory._upgrade_revs("head", heads)

    with EnvironmentContext(config, directory, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE, version_table_schema=schema)
        environment.run_migrations()
