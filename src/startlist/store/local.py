"""The embedded PostgreSQL: a server of our own in `STARTLIST_HOME`, which outlives the command that started it.

Whether it runs is asked by connecting, never read from a pid file. It listens on a Unix socket only, in a folder
that only its own user may enter. Started by root it runs as another user, because PostgreSQL refuses root.

    HOME/postgresql.lock       held while the server is made, started or stopped
    HOME/postgresql/           of the server's user: data/, server.log, run/ (the socket)
    HOME/server-<version>/     a copy of the programs, where the server's user cannot read the installed ones
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from psycopg import conninfo, pq

from startlist.errors import ConfigurationError, DatabaseError
from startlist.store import binaries
from startlist.store.binaries import Binaries

DATABASE = "startlist"
USER = "startlist"
PORT = 5432  # only part of the socket's name

_SOCKET = f".s.PGSQL.{PORT}"

LOCK_SECONDS = 120
RECOVERY_SECONDS = 600  # a server that replays its log after a crash answers, but refuses connections
RETRY_SECONDS = 10  # after a killed postmaster its last children hold the shared memory for a while
SOCKET_PATH_BYTES = 100  # the kernel's limit is 103 (macOS) or 107 (Linux) bytes
LOG_BYTES = 10_000_000

# Only what the server needs: our own environment may hold secrets, and PGPORT or PGDATA would mislead it.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}

# At the end of postgresql.conf, so that ALTER SYSTEM still has the last word.
_SETTINGS = """
# Startlist
timezone = 'UTC'
log_timezone = 'UTC'
shared_buffers = '128MB'
max_wal_size = '2GB'
checkpoint_timeout = '15min'
checkpoint_completion_target = 0.9
jit = off
# A logout removes the POSIX shared memory of a plain user (systemd's RemoveIPC), and containers have 64 MB of it.
dynamic_shared_memory_type = mmap
# Rows are personal data: neither failing statements nor DETAIL lines go to the log, nor the errors themselves, which
# quote values and are told to the client anyway.
log_min_messages = log
log_min_error_statement = panic
log_error_verbosity = terse
"""

# What a server says that comes too soon after a killed one.
_STILL_GOING = ("postmaster.pid", "shared memory block", "could not bind", "lock file")


def start(home: Path) -> str:
    """Start the embedded server unless it runs, make it first if need be; returns how to connect (libpq).

    Raises `ConfigurationError` where home, user or versions do not fit, `DatabaseError` when it does not start.
    """
    cluster = _Cluster.find(home)
    if cluster.ping() != pq.Ping.OK:
        try:
            cluster.check_reachable()
            with cluster.lock():
                cluster.make()
                cluster.start()
        except OSError as error:
            raise ConfigurationError(
                f"the embedded database in {cluster.home} (STARTLIST_HOME): {error.strerror}: {error.filename}"
            ) from None
    return cluster.conninfo


def stop(home: Path) -> bool:
    """Stop the embedded server; false if it did not run."""
    cluster = _Cluster.find(home)
    if not cluster.home.is_dir():
        return False
    with cluster.lock():
        return cluster.stop()


def is_running(home: Path) -> bool:
    """Whether the embedded server answers."""
    return _Cluster.find(home).ping() != pq.Ping.NO_RESPONSE


@dataclass(frozen=True)
class _Account:
    """The user that the server runs as."""

    uid: int
    gid: int
    name: str

    @classmethod
    def of(cls, entry: pwd.struct_passwd) -> _Account:
        return cls(entry.pw_uid, entry.pw_gid, entry.pw_name)

    @property
    def is_other(self) -> bool:
        return self.uid != os.geteuid()


@dataclass(frozen=True)
class _Cluster:
    home: Path
    account: _Account

    @classmethod
    def find(cls, home: Path) -> _Cluster:
        home = Path(os.path.realpath(home.expanduser()))
        if set('"$`\\\n') & set(str(home)):
            raise ConfigurationError("STARTLIST_HOME: quotes, $, ` and \\ are not possible in the database's folder")
        return cls(home, _account(home / "postgresql"))

    @property
    def folder(self) -> Path:
        return self.home / "postgresql"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @cached_property
    def socket_folder(self) -> Path:
        folder = self.folder / "run"
        path = f"{folder}/{_SOCKET}"
        # A comma separates hosts in libpq. The short folder must be the same for every process of this user, with or
        # without a login session: so neither XDG_RUNTIME_DIR nor TMPDIR.
        if len(os.fsencode(path)) >= SOCKET_PATH_BYTES or "," in path:
            digest = hashlib.blake2b(os.fsencode(self.home), digest_size=6).hexdigest()
            return Path(f"/tmp/startlist-{self.account.uid}-{digest}")  # noqa: S108  # made 0700, its owner is checked
        return folder

    @property
    def socket(self) -> Path:
        return self.socket_folder / _SOCKET

    @property
    def conninfo(self) -> str:
        return conninfo.make_conninfo(host=str(self.socket_folder), port=PORT, user=USER, dbname=DATABASE)

    def ping(self) -> pq.Ping:
        """Whether the server takes connections (OK), starts or stops (REJECT) or does not answer."""
        return pq.Ping(pq.PGconn.ping(f"{self.conninfo} connect_timeout=10".encode()))

    def check_reachable(self) -> None:
        """Refuse a home that the server's user cannot reach, before anything is made: we open no closed folder."""
        if not self.account.is_other:
            return
        for folder in (*reversed(self.home.parents), self.home):
            if folder.is_dir() and self._run("/bin/sh", "-c", 'cd "$0"', str(folder)).returncode:
                raise ConfigurationError(
                    f"STARTLIST_HOME: the embedded database runs as user {self.account.name}, who may not enter"
                    f" {folder}: name another folder (/var/lib/startlist, for instance), or a database with"
                    " STARTLIST_DATABASE_URL"
                )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time makes, starts or stops this server; a killed one frees it."""
        if not self.home.is_dir():
            self.home.mkdir(parents=True, exist_ok=True)
            self.home.chmod(0o711 if self.account.is_other else 0o700)
        handle = os.open(self.home / "postgresql.lock", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise DatabaseError(
                            f"another process has been starting or stopping the database in {self.home} for"
                            f" {LOCK_SECONDS} s"
                        ) from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(handle)

    def make(self) -> None:
        """Make the folders and, in one step that is seen whole or not at all, the data."""
        self._own(self.folder)
        self._own(self.socket_folder)
        if self.data.exists():
            return
        programs = self._programs(None)
        partial = self.folder / "data.partial"
        if partial.exists():
            shutil.rmtree(partial)
        # PostgreSQL 17 brought its own C.UTF-8, which no update of the system's C library can change.
        locale = (
            ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            if programs.major >= 17
            else ["--locale=C.UTF-8"]
        )
        options = ["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--data-checksums", f"-U{USER}"]
        made = self._run(programs.program("initdb"), f"--pgdata={partial}", *options, *locale)
        if made.returncode:
            raise DatabaseError(f"initdb failed: {_last_line(made.stderr)}")
        settings = _SETTINGS
        if programs.major >= 15 and "lz4" in self._run(programs.program("pg_config"), "--configure").stdout:
            settings += "wal_compression = lz4\n"
        # Written by the server's user: root must not write into a folder that another user may change.
        self._check(self._run("/bin/sh", "-c", 'cat >>"$0"', str(partial / "postgresql.conf"), text=settings))
        single = [programs.program("postgres"), "--single", "-D", str(partial), "postgres"]
        self._check(self._run(*single, text=f"create database {DATABASE}\n"))
        partial.rename(self.data)

    def start(self) -> None:
        """Start the server, whatever the last one left behind."""
        programs: Binaries | None = None
        begun = time.monotonic()
        while True:
            state = self.ping()
            waited = time.monotonic() - begun
            if state == pq.Ping.OK:
                return
            if state == pq.Ping.REJECT and waited < RECOVERY_SECONDS:
                time.sleep(0.05)
                continue
            if programs is None:
                programs = self._programs(int((self.data / "PG_VERSION").read_text().split(".")[0]))
            if self._postmaster() is not None and not self.socket.exists():
                self.stop()  # somebody cleaned /tmp: nobody can reach this server any more
                continue
            if self._postmaster() is None:
                # Left by a killed server or a reboot; PostgreSQL would trust a pid that now belongs to another
                # program. What guards the data from two servers is the shared memory, which it checks as well.
                (self.data / "postmaster.pid").unlink(missing_ok=True)
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
            seen = self.log.stat().st_size if self.log.exists() else 0
            settings = [
                "listen_addresses=",
                f'unix_socket_directories="{self.socket_folder}"',
                "unix_socket_permissions=0700",
                f"port={PORT}",
            ]
            options = " ".join(f"-c '{setting}'" for setting in settings)
            command = [programs.program("pg_ctl"), "start", "-w", "-t60", f"-D{self.data}", f"-l{self.log}", "-o"]
            started = self._run(*command, options)
            if started.returncode == 0 or self.ping() != pq.Ping.NO_RESPONSE:
                continue
            said = self.log.read_bytes()[seen:].decode(errors="replace") if self.log.exists() else started.stderr
            if waited > RETRY_SECONDS or not any(words in said for words in _STILL_GOING):
                raise DatabaseError(
                    f"the embedded PostgreSQL does not start: {_last_line(said, 'FATAL:')} (its log: {self.log})"
                )
            time.sleep(0.1)

    def stop(self) -> bool:
        """Stop the server and wait until it has written everything; false if it did not run."""
        if self._postmaster() is None:
            return False
        programs = self._programs(int((self.data / "PG_VERSION").read_text().split(".")[0]))
        stopped = self._run(programs.program("pg_ctl"), "stop", "-w", "-t60", "-mfast", f"-D{self.data}")
        if stopped.returncode and self._postmaster() is not None:
            raise DatabaseError(f"the embedded PostgreSQL does not stop: {_last_line(stopped.stderr)}")
        return True

    def _postmaster(self) -> int | None:
        """The pid of the running server, if the process that postmaster.pid names is a server on our data."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if str(self.data) in _command_line(pid) else None

    def _own(self, folder: Path) -> None:
        """Make a folder that only the server's user may enter."""
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            if self.account.is_other:
                os.chown(folder, self.account.uid, self.account.gid)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.account.uid or found.st_mode & 0o077:
            raise ConfigurationError(f"{folder} must be a folder of user {self.account.name} with mode 0700")

    def _programs(self, major: int | None) -> Binaries:
        """The programs, copied into the home once where the server's user cannot run the installed ones."""
        found = binaries.server(major)
        if not self.account.is_other or self._can_run(found):
            return found
        copy = self.home / f"server-{found.version}"
        package, tree = found.folder.parents[1], found.folder.parent
        copied = Binaries(copy / package.name / tree.name / "bin", found.version, found.bundled)
        if found.bundled and not copy.is_dir():
            partial = self.home / "server.partial"
            if partial.exists():
                shutil.rmtree(partial)
            shutil.copytree(tree, partial / package.name / tree.name, ignore=shutil.ignore_patterns("include", "*.a"))
            libraries = package.with_name(f"{package.name}.libs")  # a wheel's libraries are found by relative path
            if libraries.is_dir():
                shutil.copytree(libraries, partial / libraries.name)
            for path in (partial, *partial.rglob("*")):
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            partial.rename(copy)
        if not self._can_run(copied):
            raise ConfigurationError(
                f"user {self.account.name}, whom the embedded database runs as, cannot run PostgreSQL in"
                f" {found.folder}: install it where every user may read, or name a database with"
                " STARTLIST_DATABASE_URL"
            )
        return copied

    def _can_run(self, programs: Binaries) -> bool:
        try:
            return self._run(programs.program("initdb"), "--version").returncode == 0
        except (PermissionError, FileNotFoundError):
            return False

    def _run(self, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program as the server's user."""
        drop: dict[str, Any] = {}
        if self.account.is_other:
            drop = {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        return subprocess.run(  # noqa: S603  # a list of ours, no shell
            command,
            input=text or "",
            cwd="/",
            env=_ENVIRONMENT,
            umask=0o077,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            **drop,
        )

    def _check(self, done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode:
            raise DatabaseError(f"the embedded database cannot be made: {_last_line(done.stderr)}")


def _account(folder: Path) -> _Account:
    """Whom the server runs as: for root the owner of the data, or `postgres`, or `nobody`; else the caller."""
    uid = os.geteuid()
    owner = None
    try:
        owner = folder.stat().st_uid
    except (FileNotFoundError, NotADirectoryError):
        pass
    except PermissionError:
        raise ConfigurationError(f"{folder} cannot be read: name another folder with STARTLIST_HOME") from None
    if uid != 0:
        if owner not in (None, uid):
            raise ConfigurationError(
                f"the embedded database in {folder} belongs to another user: run the command as that user or as root,"
                " or name another folder with STARTLIST_HOME"
            )
        return _Account.of(_entry(uid))
    if owner:
        return _Account.of(_entry(owner))
    for name in ("postgres", "nobody"):
        try:
            return _Account.of(pwd.getpwnam(name))
        except KeyError:
            continue
    raise ConfigurationError(
        "PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody: make one, or name a"
        " database with STARTLIST_DATABASE_URL"
    )


def _entry(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise ConfigurationError(
            f"PostgreSQL needs a user with an entry in /etc/passwd, and user id {uid} has none: make one, or name a"
            " database with STARTLIST_DATABASE_URL"
        ) from None


def _command_line(pid: int) -> str:
    """How a process was called; empty if there is none (any more)."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            return ""
    command = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, check=False).stdout.decode(errors="replace")  # noqa: S603


def _last_line(text: str, mark: str = "") -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and mark in line]
    if not lines:
        return _last_line(text) if mark else "no reason given"
    return re.sub(r"^.*?(FATAL|PANIC|error):\s*", "", lines[-1])
