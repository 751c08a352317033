"""`startlist init`: create or upgrade the schema, and say where the database is."""

from __future__ import annotations

from startlist.cli.app import begin, run
from startlist.cli.output import Json, print_json, say
from startlist.config import Settings


def init(json: Json = False) -> None:
    """Create or upgrade the schema; says where the database is.

    Without STARTLIST_DATABASE_URL that is a PostgreSQL of its own in STARTLIST_HOME, which is made and started. Tables
    that startlist did not make are never touched.

    Examples:
        startlist init            first of all, and after each upgrade
        startlist init --json     for a script
    """
    settings = begin()
    answer = run(_init(settings))
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
    kind = f"embedded, in {answer['home']}" if answer["embedded"] else "from STARTLIST_DATABASE_URL"
    say(f"PostgreSQL {answer['server_version']} at {answer['place']} ({kind})")
    say(f"Database {answer['database']}, schema {answer['schema']}: {done}")


async def _init(settings: Settings) -> dict[str, object]:
    from startlist.store import migrate
    from startlist.store.database import Database

    database = await Database.locate(settings)
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
        }
