"""The frame of the command line: version, help, usage errors, signals, and errors that nobody foresaw."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from startlist.cli.app import COMMANDS, build
from tests.support import COMMAND, Cli

PROJECT = Path(__file__).parents[2]


def test_version(cli: Cli) -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert cli("--version").stdout == f"startlist {version}\n"


def test_help_names_every_command(cli: Cli) -> None:
    shown = cli("--help")
    assert shown.code == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command.name}\b", shown.stdout)


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    shown = cli(command, "--help")
    assert shown.code == 0, shown.stderr
    assert f"startlist {command}" in shown.stdout


def leaves(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be typed, by its words."""
    inner = getattr(command, "commands", None)
    if inner is None or (command.invoke_without_command and path):
        yield path, command
    for name, one in (inner or {}).items():
        yield from leaves(one, *path, name)


TYPED = dict(leaves(typer.main.get_command(build(everything=True))))


@pytest.mark.parametrize("path", TYPED, ids=" ".join)
def test_help_teaches_by_examples_that_can_be_typed(path: tuple[str, ...]) -> None:
    command = TYPED[path]
    lines = [line.strip() for line in command.help.partition("Examples:\n")[2].splitlines()]
    assert lines, "an example says more than a list of options"
    for line in lines:
        assert len(line) <= 74, "a terminal of 80 columns has to hold it"
        words = shlex.split(re.split(r" {3,}", line)[0])
        words = [word for word in words if not re.match("[A-Z_]+=", word)]
        if words[0] == "startlist":
            assert tuple(words[1 : len(path) + 1]) == path
            command.make_context(path[-1], words[len(path) + 1 :])


def test_help_is_quick_because_it_loads_no_command() -> None:
    script = "import sys; sys.argv = ['startlist', '--version']; import startlist.cli; startlist.cli.main()"
    loaded = subprocess.run([sys.executable, "-X", "importtime", "-c", script], capture_output=True, text=True)
    for heavy in ("psycopg", "sqlalchemy", "httpx2", "rich.table", "pydantic"):
        assert f" {heavy}\n" not in loaded.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["init", "--nonsense"], ["db", "nonsense"], ["db", "restore"]])
def test_wrong_usage_ends_with_2(cli: Cli, arguments: list[str]) -> None:
    refused = cli(*arguments)
    assert refused.code == 2
    assert refused.stdout == ""
    assert refused.stderr


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "startlist", "--version"], capture_output=True, text=True)
    assert done.stdout == subprocess.run([COMMAND, "--version"], capture_output=True, text=True).stdout


def child(body: str, *signals: signal.Signals) -> subprocess.CompletedProcess[str]:
    """A command whose coroutine has this body, in its frame; it gets the signals once it prints a line."""
    script = (
        "import asyncio, sys, typer, structlog\n"
        "from startlist.cli import app, faults\n"
        "from startlist.errors import *\n"
        "async def command():\n" + "".join(f"    {line}\n" for line in body.splitlines()) + "def probe():\n"
        "    app.begin()\n"
        "    app.run(command())\n"
        "app.COMMANDS = (app.Command('probe', '', '', '__main__', 'probe'),)\n"
        "sys.argv = ['startlist', 'probe']\n"
        "app.main()\n"
    )
    environment = {"PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [sys.executable, "-u", "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd="/",
    ) as process:  # fmt: skip
        said = ""
        for number in signals:
            assert process.stdout is not None
            said += process.stdout.readline()
            process.send_signal(number)
        out, err = process.communicate(timeout=20)
    return subprocess.CompletedProcess([], process.returncode, said + out, err)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_runs_where_a_scheduler_closed_its_streams(cli: Cli, database_url: str, closed: str) -> None:
    command = f"exec {shlex.quote(str(COMMAND))} partner list {closed}"
    env = {"PATH": os.environ["PATH"]} | cli.env | {"STARTLIST_LOG_FILE": str(cli.cwd / "sync.log")}
    done = subprocess.run(["/bin/sh", "-c", command], env=env, cwd=cli.cwd, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr + (cli.cwd / "sync.log").read_text()
    assert ("No timing partner yet" in done.stderr) is ("2>" not in closed)


TIDY = "try:\n    print('ready')\n    await asyncio.sleep(60)\nfinally:\n    print('tidied')"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_command_clean_up(number: signal.Signals, status: int) -> None:
    done = child(TIDY, number)
    assert done.returncode == status
    assert done.stdout == "ready\ntidied\n"
    assert "Traceback" not in done.stderr


def test_a_second_signal_ends_a_command_that_hangs() -> None:
    body = TIDY.replace("print('tidied')", "print('slow')\n    await asyncio.sleep(60)")
    assert child(body, signal.SIGINT, signal.SIGINT).returncode == 130


def test_sigterm_in_a_command_without_a_loop(cli: Cli) -> None:
    script = (
        "import sys, time\nfrom startlist.cli import app\n"
        "def probe():\n    print('ready', flush=True); time.sleep(60)\n"
        "app.COMMANDS = (app.Command('probe', '', '', '__main__', 'probe'),)\n"
        "sys.argv = ['startlist', 'probe']\napp.main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 143


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("ConfigurationError('fix it')", 2),
        ("SchemaError('fix it')", 2),
        ("CallerRefused('fix it')", 2),
        ("DatabaseError('fix it')", 1),
        ("NetworkError('fix it')", 1),
        ("ExceptionGroup('several', [DatabaseError('fix it'), DatabaseError('fix it')])", 1),
        ("ExceptionGroup('several', [DatabaseError('fix it'), ConfigurationError('fix it')])", 2),
    ],
)
def test_errors_become_exit_statuses_and_one_line(error: str, status: int) -> None:
    done = child(f"raise {error}")
    assert done.returncode == status
    assert done.stderr.startswith("startlist: fix it")
    assert len(done.stderr.splitlines()) == 1


def test_a_fault_of_the_program_shows_where_but_no_values() -> None:
    done = child("secret = 'geheim'\nraise ValueError(f'invalid {secret}')")
    assert done.returncode == 1
    assert "in command" in done.stderr
    assert "ValueError" in done.stderr
    assert "geheim" not in done.stderr
    assert "fault of the program" in done.stderr


def test_a_database_error_that_nobody_translated_keeps_its_rows(database_url: str) -> None:
    done = child(
        f"import psycopg\nc = psycopg.connect({database_url!r})\n"
        "c.execute('create temp table t (email text primary key)')\n"
        "for _ in '12': c.execute('insert into t values (lower(%s))', ['ANNA@example.org'])"
    )
    assert done.returncode == 1
    assert "t_pkey" in done.stderr
    assert "anna" not in done.stderr


def test_logged_exceptions_tell_no_values() -> None:
    done = child(
        "secret = 'geh' + 'eim'\n"
        "try:\n    raise ValueError(secret)\nexcept ValueError:\n"
        "    structlog.get_logger().error('pass.failed', race_id=7, exc_info=True)"
    )
    assert "pass.failed" in done.stderr
    assert "race_id=7" in done.stderr
    assert "ValueError" in done.stderr
    assert "geheim" not in done.stderr
