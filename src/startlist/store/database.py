"""Connections: where the database is, whether its schema fits this program, and what is set on each connection."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from startlist.config import Settings
from startlist.errors import ConfigurationError, DatabaseError, SchemaError
from startlist.store import local
from startlist.store.binaries import OLDEST_MAJOR

SCHEMA_REVISION = "0009"
VERSION_TABLE = "startlist_version"

# Only where the URL does not say otherwise. With these a dead server is noticed within half a minute.
_CLIENT_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
# And with these the server notices a dead client, whose advisory locks it frees.
_SERVER_OPTIONS = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=25000"
    " -c timezone=UTC -c datestyle=ISO -c default_transaction_isolation=read\\ committed"
)

# What a user has set for psql: libpq sends it too, and then it wins over our options.
_OVERRULING = ("PGTZ", "PGDATESTYLE")

# One @ and one / at their places: with others, a part of the password would be taken for the host or the database.
_URL = re.compile(r"postgres(ql)?://([^@/]*@)?[^@/?]*(/[^@/?]*)?(\?.*)?", re.DOTALL)

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True, repr=False)
class Database:
    """One PostgreSQL database and our schema in it. `conninfo` may hold a password."""

    conninfo: str
    schema: str
    embedded: bool = False
    label: str = ""  # of the process that the connections belong to, in their names

    @classmethod
    async def open(cls, settings: Settings) -> Database:
        """The database, with a schema that this program can use; starts the embedded server if no URL is set.

        Raises `ConfigurationError` when it cannot be reached, `SchemaError` when `startlist init` has to run first.
        """
        database, connection = await cls._reach(settings)
        async with connection:
            with translated():
                check_revision(await database.revision(connection), database.schema)
        return database

    @classmethod
    async def locate(cls, settings: Settings) -> Database:
        """The same without a look at the schema."""
        database, connection = await cls._reach(settings)
        await connection.close()
        return database

    @classmethod
    async def configured(cls, settings: Settings) -> Database:
        """The database without a connection to it; still starts the embedded server if no URL is set."""
        if settings.database_url is None:
            conninfo = await asyncio.to_thread(local.start, settings.home)
            return cls(conninfo, settings.database_schema, embedded=True)
        conninfo = settings.database_url.get_secret_value()
        _check_url(conninfo)
        return cls(conninfo, settings.database_schema)

    @classmethod
    async def _reach(cls, settings: Settings) -> tuple[Database, Connection]:
        database = await cls.configured(settings)
        try:
            connection = await database._connect(name="startlist")
        except psycopg.Error as error:
            # A server that refuses says why; one that is silent may be another than was meant.
            advice = "; is the address right, and does the server run?" if error.sqlstate is None else ""
            where = f"the embedded database in {settings.home}" if database.embedded else "STARTLIST_DATABASE_URL"
            raise ConfigurationError(
                f"{where}: the database at {database.place} cannot be reached: {_reason(error)}{advice}"
            ) from None
        if connection.info.server_version < OLDEST_MAJOR * 10000:
            version = connection.info.parameter_status("server_version")
            await connection.close()
            raise ConfigurationError(
                f"STARTLIST_DATABASE_URL: PostgreSQL {version} is too old; version {OLDEST_MAJOR} or newer is needed"
            )
        return database, connection

    @property
    def place(self) -> str:
        """Host and port, or the socket's folder; no secret."""
        parts = self.parts
        host = parts.get("host") or parts.get("hostaddr") or "the local socket"
        return host if host.startswith("/") or "port" not in parts else f"{host}:{parts['port']}"

    @property
    def parts(self) -> dict[str, str]:
        """What the URL says, by libpq's keywords; may hold a password."""
        return {key: str(value) for key, value in conninfo_to_dict(self.conninfo).items() if value is not None}

    @property
    def has_secret(self) -> bool:
        return "password" in self.parts

    async def connect(self, *, autocommit: bool = True, name: str = "startlist") -> Connection:
        """A new connection: our schema only, UTC, noticed on both sides when the other is gone."""
        with translated():
            return await self._connect(autocommit=autocommit, name=name)

    async def _connect(self, *, autocommit: bool = True, name: str) -> Connection:
        return await psycopg.AsyncConnection.connect(autocommit=autocommit, **self.parameters(name))

    def parameters(self, name: str) -> dict[str, Any]:
        """What `psycopg.connect` needs for a connection as `connect` makes it. Forgets what would overrule it."""
        for variable in _OVERRULING:
            os.environ.pop(variable, None)
        parts = self.parts
        ours = f"{_SERVER_OPTIONS} -c search_path={self.schema}"
        options = f"{parts['options']} {ours}" if "options" in parts else ours
        return (
            _CLIENT_DEFAULTS
            | parts
            | {"application_name": f"{name} {self.label}".strip(), "client_encoding": "utf8", "options": options}
        )

    async def revision(self, connection: Connection) -> str | None:
        """The schema's revision; none if the schema is not ours or does not exist."""
        found = await connection.execute("select to_regclass(%s) is not null", [f"{self.schema}.{VERSION_TABLE}"])
        if await found.fetchone() != (True,):
            return None
        query = sql.SQL("select version_num from {}").format(sql.Identifier(self.schema, VERSION_TABLE))
        row = await (await connection.execute(query)).fetchone()
        return row[0] if row else None

    def lock_key(self, *parts: object) -> int:
        """The key of an advisory lock that is ours alone: a signed 64-bit number made of schema and parts."""
        return global_lock_key(self.schema, *parts)


def global_lock_key(*parts: object) -> int:
    """The key of an advisory lock that all schemas of one database share."""
    digest = hashlib.blake2b("\x1f".join(map(str, ("startlist", *parts))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def check_revision(revision: str | None, schema: str) -> None:
    """Raise `SchemaError`, which says what to do, unless the schema is the one this program was written for."""
    if revision is None:
        raise SchemaError(
            f"the database has no schema {schema} made by startlist: run `startlist init`"
            " (is it another schema? STARTLIST_DATABASE_SCHEMA names it)"
        )
    if revision < SCHEMA_REVISION:
        raise SchemaError(
            f"the schema {schema} is at revision {revision}, this program needs {SCHEMA_REVISION}: run `startlist init`"
        )
    if revision > SCHEMA_REVISION:
        raise SchemaError(
            f"the schema {schema} is at revision {revision}, made by a newer startlist; this one knows revisions up to"
            f" {SCHEMA_REVISION}: upgrade the program"
        )


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into `DatabaseError` with SQLSTATE, primary message and constraint.

    The rest of PostgreSQL's report is dropped: its DETAIL quotes rows.
    """
    try:
        yield
    except psycopg.Error as error:
        raise _translate(error) from None


# PostgreSQL's own states for what psycopg leaves without: a connection that failed, a value that Python cannot hold.
_LOST, _UNREADABLE = "08006", "22000"
_BEYOND = re.compile(r"\w+ too (small|large) \([^)]*\)")  # as psycopg says it; the value may come after it


def _translate(error: psycopg.Error) -> DatabaseError:
    if isinstance(error, psycopg.DataError) and (what := _BEYOND.match(str(error))):
        said = f"a stored value cannot be read ({what[0]}): startlist did not write it; mend it with startlist db psql"
        return DatabaseError(said, _UNREADABLE)
    if error.sqlstate is None:
        lost = isinstance(error, psycopg.OperationalError)
        return DatabaseError(f"the connection to the database failed: {_reason(error)}", _LOST if lost else None)
    said = error.diag.message_primary or type(error).__name__
    if error.sqlstate.startswith("22"):  # a value that does not fit, which the message quotes
        said = re.sub(r'".*"', '"..."', said, flags=re.DOTALL)
    message = f"the database refused: {said} (SQLSTATE {error.sqlstate}"
    if error.diag.constraint_name:
        message += f", constraint {error.diag.constraint_name}"
    return DatabaseError(message + ")", error.sqlstate)


def _reason(error: psycopg.Error) -> str:
    """Why a connection failed, without the parts of a URL that libpq quotes."""
    if error.sqlstate is not None:
        return error.diag.message_primary or error.sqlstate
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return "no answer in time"
    if not isinstance(error, psycopg.OperationalError):
        return type(error).__name__
    text = str(error)
    if "unsupported startup parameter" in text:
        return "a connection pooler stands before it; name the server itself (locks need a session of their own)"
    # One line per address tried, and the reason after the last colon of each.
    reasons = [re.sub(r"^.*(failed|FATAL): +|^.*: ", "", line).strip() for line in text.splitlines() if ": " in line]
    return re.sub(r"^\[Errno -?\d+\] ", "", reasons[-1]) if reasons else "the connection was lost"


def _check_url(url: str) -> None:
    """Refuse a URL that libpq would misread, without quoting it: an unescaped password spills into host or port."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        parts = {"port": "?"}
    host, port = str(parts.get("host") or ""), str(parts.get("port") or "")
    if not _URL.fullmatch(url) or not re.fullmatch(r"[/@].*|[\w.:,%-]*", host) or not re.fullmatch(r"[\d,]*", port):
        raise ConfigurationError(
            "STARTLIST_DATABASE_URL: not a readable PostgreSQL URL; it has the form"
            " postgresql://user:password@host:port/database, and special characters in the password must be"
            " percent-encoded (@ as %40, / as %2F, % as %25)"
        )
