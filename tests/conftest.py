"""Fixtures: one PostgreSQL server per test process, a fresh migrated database per test, settings, the command.

With `STARTLIST_TEST_DATABASE_URL` (a superuser's URL) the tests use that server instead of an embedded one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import structlog
from psycopg.conninfo import conninfo_to_dict

from startlist.config import Settings
from startlist.store import local, migrate
from startlist.store.database import Database
from tests.support import Cli, MakeSettings

_SERVER_URL = os.environ.get("STARTLIST_TEST_DATABASE_URL")

# Who is started in the background ignores Ctrl-C, and so would every command that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Server:
    """A PostgreSQL server on which tests make and drop databases."""

    url: str  # of its maintenance database
    admin: psycopg.Connection[Any]
    prefix: str
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def create(self, template: str = "template0") -> str:
        """Make a database and return its name."""
        name = f"{self.prefix}_{next(self.numbers)}"
        # Of the two ways there are from version 15 on the one that writes no log is several times faster here.
        way = "strategy file_copy" if self.admin.info.server_version >= 150_000 else ""
        self.admin.execute(f'create database "{name}" template "{template}" {way}'.encode())
        return name

    def drop(self, name: str) -> None:
        self.admin.execute(f'drop database if exists "{name}" with (force)'.encode())

    def url_of(self, name: str) -> str:
        parts = urlsplit(self.url)
        return parts._replace(path="/" + name).geturl()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("STARTLIST_", "PG")):
            monkeypatch.delenv(name)


def _make_home() -> Path:
    # Not pytest's tmp_path: as root that lies below a folder that the server's user may not enter.
    home = Path(tempfile.mkdtemp(prefix="startlist-test-", dir="/tmp"))
    home.chmod(0o711)
    return home


def _remove_home(home: Path) -> None:
    # Without the checkpoint of an orderly stop: what it would write is removed anyway.
    file = home / "postgresql" / "data" / "postmaster.pid"
    if local.is_running(home):  # else the pid may be another program's by now
        pid = int(file.read_text().split("\n", 1)[0])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
        while file.exists() and local.is_running(home):
            time.sleep(0.01)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home; an embedded server that a test started in it is stopped."""
    folder = _make_home()
    yield folder
    _remove_home(folder)


@pytest.fixture(scope="module")
def module_home() -> Iterator[Path]:
    """The same for all tests of a module."""
    folder = _make_home()
    yield folder
    _remove_home(folder)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server of this test process."""
    folder = None
    if _SERVER_URL:
        url = _SERVER_URL
    else:
        folder = _make_home()
        parts = conninfo_to_dict(local.start(folder))
        url = f"postgresql://{parts['user']}@/postgres?host={quote(str(parts['host']), safe='')}"
    with psycopg.connect(url, autocommit=True) as admin:
        if folder is not None:  # what a test writes need not survive a power cut
            for setting in ("fsync = off", "full_page_writes = off", "synchronous_commit = off"):
                admin.execute(f"alter system set {setting}".encode())
            admin.execute("select pg_reload_conf()")
        yield Server(url, admin, f"startlist_test_{os.getpid()}")
    if folder is not None:
        _remove_home(folder)


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """A database with our schema at its newest revision, which every test copies."""
    name = server.create()
    asyncio.run(migrate.upgrade(Database(server.url_of(name), "startlist")))
    yield name
    server.drop(name)


@pytest.fixture
def empty_database_url(server: Server) -> Iterator[str]:
    """The URL of a database without any schema of ours."""
    name = server.create()
    yield server.url_of(name)
    server.drop(name)


@pytest.fixture
def database_url(server: Server, template: str) -> Iterator[str]:
    """The URL of a fresh database with our schema."""
    name = server.create(template)
    yield server.url_of(name)
    server.drop(name)


@pytest.fixture
def database(database_url: str) -> Database:
    """A fresh database with our schema."""
    return Database(database_url, "startlist")


@pytest.fixture
def make_settings(request: pytest.FixtureRequest, home: Path) -> MakeSettings:
    """Makes settings from keyword arguments: a temporary home, and the test's database if it asked for one."""

    def make(**values: Any) -> Settings:
        given: dict[str, Any] = {"home": home}
        if "database_url" in request.fixturenames:
            given["database_url"] = request.getfixturevalue("database_url")
        return Settings(_env_file=None, **given | values)  # type: ignore[call-arg]  # known to the base class only

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """Settings of a temporary home and, where the test asked for one, its database."""
    return make_settings()


@pytest.fixture
def cli(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Iterator[Cli]:
    """The installed command, with a temporary home and, where the test asked for `database`, that database."""
    env = {"STARTLIST_HOME": str(home)}
    if "database_url" in request.fixturenames:
        env["STARTLIST_DATABASE_URL"] = request.getfixturevalue("database_url")
    runner = Cli(env, tmp_path)
    yield runner
    runner.close()


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """What a test has set up of the logging is undone after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
