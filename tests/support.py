"""What tests use as types: the command as a child process, and a maker of settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from startlist.config import Settings

MakeSettings = Callable[..., Settings]

COMMAND = Path(sys.executable).with_name("startlist")


def with_option(url: str, option: str) -> str:
    """The URL of a database with one more server setting, as `name=value`."""
    return f"{url}{'&' if '?' in url else '?'}options={quote('-c' + option, safe='')}"


@dataclass(frozen=True)
class Result:
    """What a command left: exit status and both outputs."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Cli:
    """The installed command as a user calls it; `env` is added to the variables of every call."""

    env: dict[str, str]
    cwd: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(
        self,
        *args: object,
        env: Mapping[str, str | None] | None = None,
        input: str = "",  # noqa: A002  # as in subprocess.run
        timeout: float = 60,
    ) -> Result:
        """Run to the end. A variable that is None in `env` is left out."""
        done = subprocess.run(
            [COMMAND, *map(str, args)],
            input=input,
            env=self._environment(env),
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def start(
        self, *args: object, env: Mapping[str, str | None] | None = None, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start and return at once, outputs piped or `stderr` a terminal; killed after the test if it still runs."""
        process = subprocess.Popen(
            [COMMAND, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=self._environment(env),
            cwd=self.cwd,
            text=True,
        )
        self.started.append(process)
        return process

    def _environment(self, env: Mapping[str, str | None] | None) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("STARTLIST_", "PG"))}
        merged = clean | self.env | dict(env or {})
        return {key: value for key, value in merged.items() if value is not None}

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def terminate(conninfo: str, application_name: str) -> None:
    """End the database's connections of that name (a LIKE pattern), and see that they are gone. PostgreSQL 13 too."""
    theirs = "from pg_stat_activity where application_name like %s and datname = current_database()"
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute(f"select pg_terminate_backend(pid) {theirs}".encode(), [application_name])
        deadline = time.monotonic() + 5
        while (conn.execute(f"select 1 {theirs}".encode(), [application_name])).fetchone():
            assert time.monotonic() < deadline, f"{application_name} lives on"
