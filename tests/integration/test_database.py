"""Connections: what is set on them, what is refused, and that no error tells a secret or a row."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import psycopg
import pytest
from pydantic import SecretStr

from startlist.config import Settings
from startlist.errors import ConfigurationError, DatabaseError, SchemaError
from startlist.store.database import SCHEMA_REVISION, Database, global_lock_key, translated
from tests.support import MakeSettings, with_option


async def value(database: Database, query: str) -> object:
    async with await database.connect(name="startlist test") as connection:
        row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


async def test_a_connection_sees_our_schema_only_in_utc(database: Database) -> None:
    assert await value(database, "show search_path") == "startlist"
    assert await value(database, "show timezone") == "UTC"
    assert await value(database, "select application_name from pg_stat_activity where pid = pg_backend_pid()") == (
        "startlist test"
    )


async def test_what_is_set_for_psql_changes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, setting in {"PGTZ": "Asia/Kolkata", "PGDATESTYLE": "German"}.items():
        monkeypatch.setenv(name, setting)
    assert await value(database, "select current_setting('timezone') || ', ' || current_setting('datestyle')") == (
        "UTC, ISO, MDY"
    )
    assert await value(database, "select timestamptz '2026-11-26 07:00 America/New_York'") == datetime(
        2026, 11, 26, 12, tzinfo=UTC
    )


async def test_options_of_the_url_are_kept(database_url: str) -> None:
    database = Database(with_option(database_url, "work_mem=5MB"), "startlist")
    assert await value(database, "show work_mem") == "5MB"
    assert await value(database, "show search_path") == "startlist"


async def test_autocommit_is_a_choice(database: Database) -> None:
    async with await database.connect(autocommit=False) as connection:
        await connection.execute("insert into timing_partners (company_name) values ('kept back')")
        await connection.rollback()
    assert await value(database, "select count(*) from timing_partners") == 0


async def test_a_dead_client_is_noticed_within_half_a_minute(database: Database) -> None:
    async with await database.connect() as connection:
        if connection.info.host.startswith("/"):
            # On a socket the server knows at once; what it was asked for is seen where it keeps such requests.
            found = await connection.execute(
                "select name, reset_val from pg_settings where source = 'client' and name like 'tcp%'"
            )
            names = {name for name, _ in await found.fetchall()}
            assert names == {
                "tcp_keepalives_idle",
                "tcp_keepalives_interval",
                "tcp_keepalives_count",
                "tcp_user_timeout",
            }
        else:
            shown = await connection.execute("show tcp_keepalives_idle")
            assert await shown.fetchone() == ("10",)


async def test_a_database_with_our_schema_opens(settings: Settings, database: Database) -> None:
    opened = await Database.open(settings.model_copy(update={"database_url": SecretStr(database.conninfo)}))
    assert await value(opened, "select count(*) from sync_runs") == 0


async def test_a_database_without_our_schema_says_init(make_settings: MakeSettings, empty_database_url: str) -> None:
    with pytest.raises(SchemaError, match="run `startlist init`"):
        await Database.open(make_settings(database_url=empty_database_url))


@pytest.mark.parametrize(("revision", "advice"), [("0000", "run `startlist init`"), ("9999", "upgrade the program")])
async def test_a_schema_of_another_revision_is_refused(
    make_settings: MakeSettings, database: Database, revision: str, advice: str
) -> None:
    async with await database.connect() as connection:
        await connection.execute("update startlist_version set version_num = %s", [revision])
    with pytest.raises(SchemaError, match=advice) as raised:
        await Database.open(make_settings(database_url=database.conninfo))
    assert revision in str(raised.value)
    assert SCHEMA_REVISION in str(raised.value)


async def test_an_unreachable_database_is_a_configuration_error(make_settings: MakeSettings) -> None:
    settings = make_settings(database_url="postgresql://anna:geheim@127.0.0.1:1/x")
    with pytest.raises(ConfigurationError, match=r"STARTLIST_DATABASE_URL.*127\.0\.0\.1:1.*refused") as raised:
        await Database.open(settings)
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:geh@eim@localhost/x",
        "postgresql://anna:geh/eim@localhost/x",
        "postgresql://anna:x@geh/eim@localhost/x",
        "postgresql://anna:12/eim@localhost/x",
        "postgresql://anna:12/eim/3@localhost/x",
        "postgresql://anna:geh%eim@localhost/x",
        "postgresql://anna:geheim@localhost:54x32/x",
        "postgresql://anna:geheim@localhost/x?nonsense=1",
    ],
)
async def test_a_url_that_would_be_misread_is_refused_without_quoting_it(make_settings: MakeSettings, url: str) -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as raised:
        await Database.open(make_settings(database_url=url))
    assert "geh" not in str(raised.value)
    assert "eim" not in str(raised.value)


async def test_a_refused_password_is_not_told(make_settings: MakeSettings) -> None:
    async with stand_in(refusal=b"password authentication failed for user") as port:
        with pytest.raises(ConfigurationError, match="password authentication failed") as raised:
            await Database.locate(make_settings(database_url=f"postgresql://anna:geheim@127.0.0.1:{port}/x"))
    assert "geheim" not in str(raised.value)


async def test_a_server_older_than_13_is_refused(make_settings: MakeSettings) -> None:
    async with stand_in("12.22") as port:
        with pytest.raises(ConfigurationError, match=r"PostgreSQL 12\.22 is too old.*13"):
            await Database.locate(make_settings(database_url=f"postgresql://anna@127.0.0.1:{port}/x?sslmode=disable"))


async def test_a_database_error_keeps_no_row(database: Database) -> None:
    async with await database.connect() as connection:
        insert = (
            "insert into partner_provider_credentials (timing_partner_id, principal, secret)"
            " select timing_partner_id, 'anna@example.org', 's' from timing_partners"
        )
        await connection.execute("insert into timing_partners (company_name) values ('x')")
        await connection.execute(insert)
        with pytest.raises(DatabaseError) as raised, translated():
            await connection.execute(insert)
    assert raised.value.sqlstate == "23505"
    assert "constraint partner_provider_credentials_" in str(raised.value)
    assert "anna" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


async def test_a_value_that_does_not_fit_is_not_quoted(database: Database) -> None:
    async with await database.connect() as connection:
        for query in ("select 'anna\"s'::int", "select '13/45/1990'::date", "select '\"anna\"'::jsonb::int"):
            with pytest.raises(DatabaseError, match="SQLSTATE 22") as raised, translated():
                await connection.execute(query.encode())
            assert "anna" not in str(raised.value)
            assert "1990" not in str(raised.value)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("value", ["date '19850-05-01'", "timestamptz '0044-03-15 BC'"])
async def test_a_stored_date_that_python_cannot_hold_is_no_outage(value: str, binary: bool, database: Database) -> None:
    async with await database.connect() as connection:
        with pytest.raises(DatabaseError, match=r"a stored value cannot be read \(.* too") as raised, translated():
            await (await connection.execute(f"select {value}".encode(), binary=binary)).fetchone()
    assert raised.value.sqlstate == "22000"
    assert "19850" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:p%40s%2Fs%25@localhost:5432/x?sslmode=disable",
        "postgres://h1:5432,h2:5433/x",
        "postgresql:///x?host=/var/run/postgresql&options=-cwork_mem%3D5MB",
        "postgresql://anna@[::1]:5432",
        "postgresql://%2Fvar%2Frun/x",
    ],
)
async def test_a_url_with_all_it_may_have_is_read(make_settings: MakeSettings, url: str) -> None:
    assert (await Database.configured(make_settings(database_url=url))).conninfo == url


async def test_a_lost_connection_is_a_database_error(database: Database) -> None:
    async with await database.connect() as connection, await database.connect() as other:
        await other.execute("select pg_terminate_backend(%s)", [connection.info.backend_pid])
        with pytest.raises(DatabaseError), translated():
            await connection.execute("select 1")


def test_lock_keys_are_the_same_in_every_process() -> None:
    here = Database("", "startlist")
    script = "from startlist.store.database import Database; print(Database('', 'startlist').lock_key('race', 1, 2))"
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert here.lock_key("race", 1, 2) == int(there.stdout)
    assert here.lock_key("race", 1, 2) != here.lock_key("race", 12)
    assert here.lock_key("race", 1, 2) != Database("", "other").lock_key("race", 1, 2)
    assert -(2**63) <= global_lock_key("lane", 1) < 2**63


def test_opening_a_database_loads_no_alembic() -> None:
    script = "import sys, startlist.store.database; print([m for m in ('alembic', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", "25 MB that no sync needs"


def test_a_database_hides_its_password_in_tracebacks() -> None:
    assert "geheim" not in repr(Database("postgresql://anna:geheim@localhost/x", "startlist"))


@asynccontextmanager
async def stand_in(version: str = "", refusal: bytes = b"") -> AsyncIterator[int]:
    """Speaks just enough of PostgreSQL's protocol to name its version or to refuse; yields its port."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack(">i", len(body) + 4) + body

    open_writers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.append(writer)
        while True:
            (length,) = struct.unpack(">i", await reader.readexactly(4))
            body = await reader.readexactly(length - 4)
            if body[:4] not in (struct.pack(">i", 80877103), struct.pack(">i", 80877104)):
                break
            writer.write(b"N")  # neither TLS nor GSS
        if refusal:
            writer.write(message(b"E", b"SFATAL\0C28P01\0M" + refusal + b"\0\0"))
        else:
            writer.write(message(b"R", struct.pack(">i", 0)))
            writer.write(message(b"S", b"server_version\0" + version.encode() + b"\0"))
            writer.write(message(b"S", b"client_encoding\0UTF8\0"))
            writer.write(message(b"Z", b"I"))
            await writer.drain()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for writer in open_writers:
            writer.close()
            await writer.wait_closed()


def test_psycopgs_own_errors_are_told_by_kind_only() -> None:
    with pytest.raises(DatabaseError) as raised, translated():
        raise psycopg.DataError("cannot adapt anna@example.org")
    assert "anna" not in str(raised.value)
