"""The demo's RunSignup: a sandbox in a process of its own, which goes on when the command has ended.

The process holds the lock of `HOME/sandbox.pid` as long as it lives, so that the number in that file is never taken
for another program's.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from startlist.errors import ConfigurationError, StartlistError

PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class Background:
    """A sandbox that runs: its address, its process, its keys with their made-up secrets, and what there is in it."""

    url: str
    pid: int
    keys: list[dict[str, Any]]
    summary: dict[str, Any]


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """One demo at a time in a home, which is made if need be. Raises `ConfigurationError` while another goes on."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = _open(home / "demo.lock")
    except OSError as error:
        raise ConfigurationError(f"STARTLIST_HOME: {error.filename}: {error.strerror}") from None
    try:
        if not _locks(handle):
            raise ConfigurationError(f"another demo is under way in {home}: wait for its end")
        yield
    finally:
        os.close(handle)


def start(home: Path, *, seed: int, concurrent_calls: int) -> Background:
    """Start a sandbox on a free port. Raises `StartlistError` if it does not come up."""
    log = home / "sandbox.log"
    process = _launch(home, log, ["--seed", str(seed), "--max-concurrent", str(concurrent_calls)])
    assert process.stdout is not None  # noqa: S101  # for the type checker
    try:
        with process.stdout as output:
            line = output.readline()
    except BaseException:  # a signal
        process.kill()
        process.wait()
        raise
    if not line.endswith(b"\n"):
        process.wait()
        raise StartlistError(f"the local RunSignup did not start; why is in {log}")
    facts = json.loads(line)
    return Background(facts["url"], process.pid, facts["partners"], facts["summary"])


def _launch(home: Path, log: Path, options: list[str]) -> subprocess.Popen[bytes]:
    # -P: a folder of the user's that is named like a module must not be taken for it.
    command = [sys.executable, "-P", "-m", "startlist", "sandbox", "--json", "--port", "0", *options]
    handle = _open(home / "sandbox.pid")
    try:
        if not _locks(handle):
            raise StartlistError(f"a sandbox of another demo still runs in {home}")
        os.ftruncate(handle, 0)
        with log.open("wb") as said:
            # A session of its own: Ctrl-C is for the demo, which then ends the sandbox in its own way.
            process = subprocess.Popen(  # noqa: S603  # a list of ours, no shell
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said,
                cwd=home, start_new_session=True, pass_fds=[handle],
            )  # fmt: skip
        os.write(handle, b"%d\n" % process.pid)
        return process
    finally:
        os.close(handle)  # the process has it too, and so the lock


def was_here(home: Path) -> bool:
    """Whether a demo was played in this home, and not only refused."""
    return (home / "sandbox.pid").exists()


def stop(home: Path) -> bool:
    """End the sandbox of this home; false if none runs."""
    try:
        handle = os.open(home / "sandbox.pid", os.O_RDONLY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if _locks(handle):
            return False
        pid = int(os.read(handle, 20) or b"0")
        begun = time.monotonic()
        while not _locks(handle):
            waited = time.monotonic() - begun
            if pid <= 0 or waited > 2 * PATIENCE_SECONDS:
                raise StartlistError(f"the local RunSignup of {home} (process {pid}) does not end")
            with suppress(ProcessLookupError):  # its lock falls in a moment
                os.kill(pid, signal.SIGTERM if waited < PATIENCE_SECONDS else signal.SIGKILL)
            time.sleep(0.05)
    finally:
        os.close(handle)
    return True


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _locks(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
