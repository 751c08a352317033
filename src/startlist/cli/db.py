"""`startlist db`: the database behind everything: where it is, start and stop, psql, backup and restore."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from startlist.cli.app import begin, run
from startlist.cli.output import Json, note, print_json, say
from startlist.config import Settings
from startlist.errors import ConfigurationError
from startlist.store import clients, local
from startlist.store.database import Database
from startlist.store.sealing import key_file, missing_key

app = typer.Typer()


@app.command()
def url(
    show_secret: Annotated[bool, typer.Option("--show-secret", help="With the password of a configured URL.")] = False,
) -> None:
    """Print a URL that works as it is with any PostgreSQL client, search path included.

    Examples:
        startlist db url
        psql "$(startlist db url --show-secret)"
    """
    database = run(Database.configured(begin()))
    if not show_secret and database.has_secret:
        note("The password is left out; --show-secret prints it.")
    say(clients.url(database, show_secret=show_secret))


@app.command()
def start() -> None:
    """Start the embedded database; every command does so by itself.

    Examples:
        startlist db start
    """
    settings = _embedded(begin())
    running = local.is_running(settings.home)
    database = run(Database.locate(settings))
    say(f"The embedded database {'runs already' if running else 'is started'}: {database.place}")


@app.command()
def stop() -> None:
    """Stop the embedded database; everything is written first.

    Examples:
        startlist db stop
    """
    settings = _embedded(begin())
    stopped = local.stop(settings.home)
    say(f"The embedded database in {settings.home} {'is stopped' if stopped else 'did not run'}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Open psql on the database; arguments after -- are psql's own.

    Examples:
        startlist db psql
        startlist db psql -- --command "select * from start_list limit 5"
    """
    database = run(Database.configured(begin()))
    program = clients.psql(database)
    sys.stdout.flush()
    os.execve(program, [program, *context.args], clients.environment(database))  # noqa: S606  # no shell is what we want


@app.command()
def backup(
    file: Annotated[Path | None, typer.Argument(help="A new file; if none, startlist-<time>.dump here.")] = None,
    json: Json = False,
) -> None:
    """Write our schema to a file, in the custom format of pg_dump, and read it back.

    It holds personal data. The API secrets in it are sealed: keep a copy of the key too, elsewhere.

    Examples:
        startlist db backup
        startlist db backup before-upgrade.dump
    """
    settings = begin()
    database = run(Database.open(settings))
    archive = clients.backup(database, file or Path(f"startlist-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump"))
    size = archive.file.stat().st_size
    if json:
        print_json({"file": str(archive.file), "schema": archive.schema, "tables": len(archive.tables), "bytes": size})
        return
    say(f"{archive.file}: schema {archive.schema}, {len(archive.tables)} tables, {size:,} bytes")
    key = "in STARTLIST_SECRET_KEY" if settings.secret_key is not None else f"in {key_file(settings)}"
    note(f"It holds personal data. RunSignup secrets in it are sealed: keep a copy of the key ({key}) elsewhere.")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `db backup` wrote.")],
    yes: Annotated[bool, typer.Option("--yes", help="Replace the tables that are there.")] = False,
    json: Json = False,
) -> None:
    """Put a backup in the place of our schema: all of it or, on any failure, nothing.

    Examples:
        startlist db restore before-upgrade.dump          into an empty schema
        startlist db restore before-upgrade.dump --yes    replaces what is there
    """
    settings = begin()
    database = run(Database.locate(settings))
    archive = clients.restore(database, file, replace=yes)
    revision, missing = run(_restored(database, settings))
    if json:
        print_json(
            {
                "file": str(file),
                "schema": archive.schema,
                "tables": len(archive.tables),
                "revision": revision,
                "missing_key": missing,
            }
        )
    else:
        say(f"{archive.schema}: {len(archive.tables)} tables restored, revision {revision}")
    if missing is not None:
        note(
            f"The API secrets in it were sealed with the key {missing}, which is not here: bring back the key file"
            f" {key_file(settings)}, or put the key into STARTLIST_SECRET_KEY. Until then no sync can run."
        )
        raise typer.Exit(1)


async def _restored(database: Database, settings: Settings) -> tuple[str | None, str | None]:
    """The revision, and the fingerprint of the key where it is not here."""
    async with await database.connect() as connection:
        return await database.revision(connection), await missing_key(connection, settings)


def _embedded(settings: Settings) -> Settings:
    if settings.database_url is not None:
        raise ConfigurationError("STARTLIST_DATABASE_URL is set: that server is not ours to start or stop")
    return settings
