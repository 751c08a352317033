"""`startlist init`: create or upgrade the schema, and say where the database is."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from startlist.cli.app import begin, run
from startlist.cli.output import Json, note, print_json, say
from startlist.config import Settings
from startlist.errors import ConfigurationError

if TYPE_CHECKING:
    from startlist.store.database import Database


def init(
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Upgrade without a backup before.")] = False,
    json: Json = False,
) -> None:
    """Create or upgrade the schema; says where the database is.

    Without STARTLIST_DATABASE_URL that is a PostgreSQL of its own in STARTLIST_HOME, which is made and started. Tables
    that startlist did not make are never touched. Before an upgrade, ours are backed up to the folder backups of the
    home.

    Examples:
        startlist init            first of all, and after each upgrade
        startlist init --json     for a script
    """
    settings = begin()
    answer = run(_init(settings, backed_up=not no_backup))
    if json:
        print_json(answer)
        return
    before, after = answer["previous_revision"], answer["revision"]
    if before is None:
        done = f"made at revision {after}"
    elif before == after:
        done = f"is up to date (revision {after})"
    else:
        done = f"upgraded from revision {before} to {after}"
    if answer["backup"] is not None:
        say(f"Backup before the upgrade: {answer['backup']}")
        note("It holds personal data, and not the key that opens the API secrets in it: keep a copy of that elsewhere.")
    kind = f"embedded, in {answer['home']}" if answer["embedded"] else "from STARTLIST_DATABASE_URL"
    say(f"PostgreSQL {answer['server_version']} at {answer['place']} ({kind})")
    say(f"Database {answer['database']}, schema {answer['schema']}: {done}")


async def _init(settings: Settings, *, backed_up: bool) -> dict[str, object]:
    from startlist.store import migrate
    from startlist.store.database import Database

    database = await Database.locate(settings)
    backup = await _back_up(database, settings) if backed_up else None
    upgrade = await migrate.upgrade(database)
    async with await database.connect() as connection:
        return {
            "embedded": database.embedded,
            "home": str(settings.home) if database.embedded else None,
            "place": database.place,
            "host": connection.info.host,
            "port": connection.info.port,
            "database": connection.info.dbname,
            "user": connection.info.user,
            "schema": database.schema,
            "server_version": connection.info.parameter_status("server_version"),
            "previous_revision": upgrade.before,
            "revision": upgrade.after,
            "backup": None if backup is None else str(backup),
        }


async def _back_up(database: Database, settings: Settings) -> Path | None:
    """Write what an upgrade is about to change to a file; none where there is nothing to upgrade."""
    from startlist.store import clients
    from startlist.store.database import SCHEMA_REVISION

    async with await database.connect() as connection:
        revision = await database.revision(connection)
    if revision is None or revision >= SCHEMA_REVISION:
        return None
    folder = settings.home / "backups"
    file = folder / f"before-{SCHEMA_REVISION}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(clients.backup, database, file)
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}: the schema was not upgraded") from None
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error}. Nothing was upgraded; if you have a backup of your own, `startlist init --no-backup` upgrades"
        ) from None
    return file
