"""PostgreSQL's own programs on our database: psql, backup and restore. They learn where it is from `PG*` variables."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg import pq

from startlist.errors import ConfigurationError, DatabaseError
from startlist.store import binaries
from startlist.store.binaries import Binaries
from startlist.store.database import Database, translated

_SECRETS = ("password", "sslpassword")
_CHUNK = 1 << 20
_LOGS = {"runsignup_changes": "change_id", "runsignup_bib_changes": "bib_change_id"}  # which readers follow by the id
_HEAD = 4096  # bytes of a script from pg_restore that hold its SET commands


@dataclass(frozen=True)
class Archive:
    """A backup file and what its table of contents names."""

    file: Path
    schema: str | None
    tables: frozenset[str]
    makes_schema: bool


def url(database: Database, *, show_secret: bool = False) -> str:
    """The database as a URL that any client of libpq's kind takes as it is, search path included."""
    parts = database.parts
    if not show_secret:
        parts = {key: value for key, value in parts.items() if key not in _SECRETS}
    path = f"-csearch_path={database.schema}"
    parts["options"] = f"{parts['options']} {path}" if "options" in parts else path
    user = quote(parts.pop("user", ""), safe="")
    if "password" in parts:
        user += ":" + quote(parts.pop("password"), safe="")
    place = ""
    if re.fullmatch(r"[\w.-]+", parts.get("host", "")):  # a socket or a list of hosts has no place before the path
        place = parts.pop("host") + (f":{parts.pop('port')}" if "port" in parts else "")
    name = quote(parts.pop("dbname", ""), safe="")
    return f"postgresql://{user}{'@' if user else ''}{place}/{name}?{urlencode(parts, quote_via=quote, safe='/')}"


def environment(database: Database) -> dict[str, str]:
    """The environment of a child program: the connection in `PG*` variables, none of our own secrets."""
    ours = ("STARTLIST_", "PG") if database.embedded else ("STARTLIST_",)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    parameters = {key: str(value) for key, value in database.parameters("startlist db").items()}
    variables = {
        option.envvar.decode(): parameters[option.keyword.decode()]
        for option in pq.Conninfo.get_defaults()
        if option.envvar and option.keyword.decode() in parameters
    }
    return clean | variables


def psql(database: Database) -> str:
    """The path of the best psql. Raises `ConfigurationError` if there is none."""
    return _programs(database)[0].program("psql")


def backup(database: Database, file: Path) -> Archive:
    """Write our schema to a new file in pg_dump's custom format, which appears when it is whole and was read back.

    Raises `ConfigurationError` if the file exists or no pg_dump fits the server, `DatabaseError` if it fails.
    """
    if file.exists():
        raise ConfigurationError(f"{file} exists: name another file")
    version = _server_major(database)
    programs = next((found for found in _programs(database) if found.major >= version), None)
    if programs is None:
        found = ", ".join(found.version for found in _programs(database))
        raise ConfigurationError(
            f"pg_dump {found} cannot back up a server of version {version}: install the client programs of PostgreSQL"
            f" {version} or newer"
        )
    part = file.with_name(file.name + ".part")
    try:
        # Personal data: for its owner only, from the first byte on.
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{part} exists: remove it if no other backup is being made") from None
    except OSError as error:
        raise ConfigurationError(f"{part}: {error.strerror}") from None
    try:
        options = ["--format=custom", "--no-owner", "--no-privileges", "--no-password"]
        command = [programs.program("pg_dump"), *options, f"--schema={database.schema}", f"--file={part}"]
        done = subprocess.run(command, env=environment(database), capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise DatabaseError(f"the backup failed: {_said(done.stderr)}")
        archive, _ = _read(part, [programs])
        os.fsync(handle)
        part.rename(file)
    finally:
        os.close(handle)
        part.unlink(missing_ok=True)
    return Archive(file, archive.schema, archive.tables, archive.makes_schema)


def restore(database: Database, file: Path, *, replace: bool) -> Archive:
    """Put a backup in the place of our schema, in one transaction: all of it or, on any failure, nothing.

    Change ids go on after those given out before it, so that who remembers the last one misses none.
    Raises `ConfigurationError` if the schema has tables and `replace` is false, or the file is no backup of it.
    """
    if not file.is_file():
        raise ConfigurationError(f"{file}: no such file")
    version = _server_major(database)
    # Best the server's own version, else the next newer one: a script of a newer version may set what it lacks.
    sets = sorted(_programs(database), key=lambda found: (found.major < version, abs(found.major - version)))
    archive, programs = _read(file, sets)
    if archive.schema != database.schema:
        raise ConfigurationError(
            f"{file} is a backup of {archive.schema or 'several schemas or none'}, and our tables live in"
            f" {database.schema} (STARTLIST_DATABASE_SCHEMA)"
        )
    tables = _tables(database)
    if tables and not replace:
        others = sorted(tables - archive.tables)
        lost = f", of which {', '.join(others)} are not in the backup" if others else ""
        raise ConfigurationError(
            f"the schema {database.schema} has {len(tables)} tables{lost}: with --yes the backup replaces them all"
        )
    _replay(database, archive, programs, without_timeout=version < 17)
    return archive


def _replay(database: Database, archive: Archive, programs: Binaries, *, without_timeout: bool) -> None:
    prepare = "set local lock_timeout = '10s'; set local client_min_messages = warning;"
    keep = _keep_ids(database)
    prepare += f' drop schema if exists "{database.schema}" cascade;'
    if not archive.makes_schema:
        prepare += f' create schema "{database.schema}";'
    read = [programs.program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(archive.file)]
    # VERBOSITY=terse: DETAIL and CONTEXT would quote rows.
    options = ["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"]
    write = [programs.program("psql"), *options, "--single-transaction", f"--command={prepare}", "--file=-", *keep]
    with tempfile.TemporaryFile() as said:
        reader = subprocess.Popen(read, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)  # noqa: S603
        writer = subprocess.Popen(  # noqa: S603  # a list of ours, no shell
            write, env=environment(database), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
        )
        assert reader.stdout is not None  # noqa: S101  # for the type checker
        assert writer.stdin is not None  # noqa: S101
        whole = False
        with reader, writer:
            try:
                _pump(reader.stdout, writer.stdin, without_timeout=without_timeout)
                whole = reader.wait() == 0
                if whole:
                    writer.stdin.close()
            except BrokenPipeError:
                whole = False  # psql met an error, and says so
            finally:
                if not whole:
                    writer.kill()  # before its input ends: half a script must not be committed
                    reader.kill()
        said.seek(0)
        if not whole or writer.returncode:
            raise DatabaseError(f"nothing was restored: {_said(said.read().decode(errors='replace'))}")


def _keep_ids(database: Database) -> list[str]:
    """Statements that let no id of a change be given out a second time, as options of psql."""
    given: list[str] = []
    query = """
        select pg_sequence_last_value(pg_get_serial_sequence(%(table)s, %(column)s))
        where to_regclass(%(table)s) is not null
    """
    with _connected(database) as connection:
        for log, column in _LOGS.items():
            table = f'"{database.schema}".{log}'
            row = connection.execute(query, {"table": table, "column": column}).fetchone()
            if row is not None and row[0] is not None:
                sequence = f"pg_get_serial_sequence('{table}', '{column}')"
                at_least = f"greatest(pg_sequence_last_value({sequence}), {row[0]})"
                given.append(f"--command=select setval({sequence}, {at_least})")
    return given


def _pump(source: IO[bytes], target: IO[bytes], *, without_timeout: bool) -> None:
    head = source.read(_HEAD)
    if without_timeout:  # written by PostgreSQL 17 and newer, unknown to older servers
        head = head.replace(b"SET transaction_timeout = 0;\n", b"")
    target.write(head)
    while chunk := source.read(_CHUNK):
        target.write(chunk)
    target.flush()


def _read(file: Path, sets: list[Binaries]) -> tuple[Archive, Binaries]:
    """The table of contents, and the programs that could read it. Raises `ConfigurationError` if none can."""
    said: dict[int, str] = {}
    for programs in sets:
        command = [programs.program("pg_restore"), "--list", str(file)]
        listed = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
        if listed.returncode == 0:
            # 215; 1259 16386 TABLE startlist timing_partners startlist
            tables = re.findall(r"^\d+; \d+ \d+ TABLE (?!DATA |ATTACH )(\S+) (\S+) ", listed.stdout, re.MULTILINE)
            schemas = {schema for schema, _ in tables}
            return Archive(
                file,
                schema=schemas.pop() if len(schemas) == 1 else None,
                tables=frozenset(name for _, name in tables),
                makes_schema=" SCHEMA - " in listed.stdout,
            ), programs
        said[programs.major] = _said(listed.stderr)
    newest = max(said)
    raise ConfigurationError(f"{file} cannot be read as a backup by pg_restore {newest}: {said[newest]}")


def _programs(database: Database) -> list[Binaries]:
    found = binaries.clients(embedded=database.embedded)
    if not found:
        raise ConfigurationError("no psql, pg_dump and pg_restore found: install PostgreSQL's client programs")
    return found


def _server_major(database: Database) -> int:
    with _connected(database) as connection:
        return connection.info.server_version // 10000


def _tables(database: Database) -> set[str]:
    with _connected(database) as connection:
        query = "select tablename from pg_catalog.pg_tables where schemaname = %s"
        return {name for (name,) in connection.execute(query, [database.schema])}


@contextmanager
def _connected(database: Database) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with translated(), psycopg.connect(**database.parameters("startlist db")) as connection:
        yield connection


def _said(errors: str) -> str:
    """The last thing that a program complained of."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    complaints = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()] or lines
    return re.sub(r"^(\S+: )?(error|ERROR): +", "", complaints[0]) if complaints else "no reason given"
