"""The stand that measurements run on: a sandbox and a PostgreSQL of their own, and `startlist` as child processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

STARTLIST = [sys.executable, "-m", "startlist"]
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figures:
    """One child process and what it cost. Seconds, bytes; CPU of the servers where /proc tells it, else None."""

    seconds: float
    cpu: float
    peak_rss: int
    postgres_cpu: float | None
    sandbox_cpu: float | None
    wal: int
    calls: int  # that arrived at the sandbox
    load: float  # the machine's, over the last minute: well above 2 where others were at work as well
    output: Any  # the JSON that it printed


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox; `key` and `secret` are its partner's, `facts` what it printed at its start."""

    url: str
    key: str
    secret: str
    pid: int
    facts: dict[str, Any]

    def ask(self, name: str, /, **arguments: object) -> Any:
        """Have the sandbox do one of its `/_sandbox/` changes."""
        request = urllib.request.Request(
            f"{self.url.removesuffix('/rest')}/_sandbox/{name}",
            data=json.dumps(arguments).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def calls(self) -> int:
        """How many calls have arrived, of whomever."""
        address = f"{self.url.removesuffix('/rest')}/_sandbox/log?counts=1"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return int(json.load(answer)["calls"])


class Stand:
    """A home with an embedded PostgreSQL; each schema in it is a Startlist of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = self._startlist("bench", "db", "url").stdout.strip()

    def connect(self) -> psycopg.Connection[Any]:
        """A connection for looking at what a run left."""
        return psycopg.connect(self.url, autocommit=True)

    def one(self, query: LiteralString | sql.Composed, values: Sequence[object] = ()) -> Any:
        """The one value that a query gives."""
        with self.connect() as conn:
            row = conn.execute(query, values).fetchone()
        return row[0] if row else None

    def prepare(self, schema: str, *keys: tuple[str, str]) -> None:
        """Make a schema with a partner for each key and secret, numbered from 1."""
        self._startlist(schema, "init")
        for number, (key, secret) in enumerate(keys, 1):
            words = ["partner", "add", f"Benchmark {number}", "--id", str(number), "--api-key", key]
            self._startlist(schema, *words, STARTLIST_API_SECRET=secret)

    def drop(self, *schemas: str) -> None:
        """Remove schemas, and let the server clean up before the next measurement."""
        with self.connect() as conn:
            for schema in schemas:
                conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))
            conn.execute("checkpoint")

    def vacuum(self, table: sql.Identifier) -> None:
        """Do now what autovacuum would do in the midst of a later measurement."""
        with self.connect() as conn:
            conn.execute(sql.SQL("vacuum analyze {}").format(table))

    def sync(
        self, schema: str, sandbox: Sandbox, *options: str, watch: Callable[[int], None] = lambda _pid: None
    ) -> Figures:
        """Run `startlist sync` and measure the whole process, from its start to its end."""
        command = [*STARTLIST, "sync", "--json", "--quiet", *options]
        environment = self.environment(schema, STARTLIST_API_URL=sandbox.url)
        figures = self.measure(command, sandbox, environment, watch=watch)
        if figures.output["status"] != "completed":
            raise SystemExit(f"the sync did not complete: {json.dumps(figures.output, indent=1)}")
        return figures

    def measure(
        self,
        command: Sequence[str],
        sandbox: Sandbox,
        environment: dict[str, str] | None = None,
        *,
        watch: Callable[[int], None] = lambda _pid: None,
    ) -> Figures:
        """Run a command that prints JSON and measure the whole process, from its start to its end.

        `watch` is called in a thread with the process's id and ends by itself when the process is gone.
        """
        with self.connect() as conn:
            conn.execute("checkpoint")  # each run pays for the full-page images of what it touches first
            before_wal = conn.execute("select pg_current_wal_insert_lsn()").fetchone()
            postmaster = parent_of(conn.info.backend_pid)
        calls = sandbox.calls()
        before = cpu_of_tree(postmaster), cpu_of_tree(sandbox.pid)
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            begun = time.perf_counter()
            process = subprocess.Popen(
                command, env=environment or clean_environment(), stdout=output, stderr=errors, stdin=subprocess.DEVNULL
            )
            watcher = threading.Thread(target=watch, args=[process.pid])
            watcher.start()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            watcher.join()
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                errors.seek(0)
                raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{errors.read().decode()[-2000:]}")
            output.seek(0)
            printed = json.loads(output.read())
        after = cpu_of_tree(postmaster), cpu_of_tree(sandbox.pid)
        wal = self.one("select (pg_current_wal_insert_lsn() - %s::pg_lsn)::bigint", before_wal or ())
        return Figures(
            seconds=seconds,
            cpu=usage.ru_utime + usage.ru_stime,
            peak_rss=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            postgres_cpu=_difference(before[0], after[0]),
            sandbox_cpu=_difference(before[1], after[1]),
            wal=wal,
            calls=sandbox.calls() - calls,
            load=os.getloadavg()[0],
            output=printed,
        )

    def environment(self, schema: str, **more: str) -> dict[str, str]:
        """The environment of a command on one of the schemas."""
        own = {
            "STARTLIST_HOME": str(self.home),
            "STARTLIST_DATABASE_SCHEMA": schema,
            "STARTLIST_CALLS_PER_HOUR": "1000000",  # RunSignup's budget would be what is measured
            "STARTLIST_LOG_LEVEL": "warning",
        }
        return clean_environment() | own | more

    def _startlist(self, schema: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment(schema, **more)
        done = subprocess.run([*STARTLIST, *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"startlist {' '.join(words)}: exit {done.returncode}\n{done.stderr}")
        return done


def clean_environment() -> dict[str, str]:
    """The environment without settings of ours or of PostgreSQL."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("STARTLIST_", "PG"))}


@contextmanager
def stand() -> Iterator[Stand]:
    """A stand in a temporary home; its server is stopped and the home removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="startlist-bench-"))
    home.chmod(0o711)  # run as root, the server has a user of its own, who must get in
    try:
        yield Stand(home)
    finally:
        environment = clean_environment() | {"STARTLIST_HOME": str(home)}
        subprocess.run([*STARTLIST, "db", "stop"], env=environment, capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def sandbox(registrations: int, per_race: int, *, partners: int = 1) -> Iterator[Sandbox]:
    """A sandbox process with as many races as the registrations fill, spread over the partners."""
    races = max(1, round(registrations / per_race)) / partners
    command = [*STARTLIST, "sandbox", "--json", "--port", "0", "--partners", str(partners)]
    command += ["--races-per-partner", str(races), "--registrations", str(registrations)]
    process = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the sandbox did not start")
        facts = json.loads(line)
        partner = facts["partners"][0]
        yield Sandbox(facts["url"], partner["key"], partner["secret"], process.pid, facts)
    finally:
        process.terminate()
        process.communicate()


def parent_of(pid: int) -> int | None:
    """The process that started this one; of a connection's process the server."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def cpu_of(pid: int) -> float:
    """CPU seconds of a process that lives."""
    fields = _stat(pid)
    return sum(map(int, fields[11:13])) / _TICKS if fields else 0.0


def cpu_of_tree(pid: int | None) -> float | None:
    """CPU seconds of a process, of its children that have ended, and of those that live."""
    fields = _stat(pid) if pid is not None else None
    if fields is None:
        return None
    ticks = sum(map(int, fields[11:15]))
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (child := _stat(int(entry.name))) and int(child[1]) == pid:
            ticks += sum(map(int, child[11:13]))
    return ticks / _TICKS


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
