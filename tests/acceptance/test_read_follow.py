"""`--follow` as a user sees it: rows as they come, until Ctrl-C, SIGTERM or a closed pipe."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from startlist.store.database import Database
from tests.stored import Stored
from tests.support import COMMAND, Cli


@pytest.fixture
def stored(database: Database, database_url: str) -> Iterator[Stored]:
    """A database with two bib changes of Ann Lee, whose race is tomorrow."""
    filler = Stored(database_url)
    filler.race(filler.partner("Acme"), 10)
    filler.event(1, 10, 100, "1 day")
    filler.registration(1, 10, 100, 5, first_name="Ann", last_name="Lee")
    filler.bib(1, 10, 100, 5, "assigned", new_bib="12", detected_at=filler.at("-1 hour"))
    filler.bib(1, 10, 100, 5, "changed", old_bib="12", new_bib="15")
    yield filler
    filler.close()


def begun(process: subprocess.Popen[str]) -> str:
    """Wait until it follows; what it said of it."""
    assert process.stderr is not None
    for line in process.stderr:
        if "Following" in line:
            return line
    raise AssertionError("it ended")


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def row(process: subprocess.Popen[str]) -> Any:
    return json.loads(line(process))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_new_bibs_come_until_a_signal(cli: Cli, stored: Stored, number: int, status: int) -> None:
    process = cli.start("bibs", "--follow")
    assert "after id 2" in begun(process)
    stored.bib(1, 10, 100, 5, "changed", old_bib="15", new_bib="16")
    assert line(process).split("  ")[2:] == ["Turkey Trot", "5K", "5", "Ann Lee", "bib 15 → 16\n"]
    process.send_signal(number)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == status


def test_json_is_one_row_a_line_from_where_a_script_stopped(cli: Cli, stored: Stored) -> None:
    process = cli.start("bibs", "--follow", "--json", "--after-id", 1)
    assert row(process) | {"detected_at": ""} == {
        "bib_change_id": 2, "timing_partner_id": 1, "race_id": 10, "event_id": 100, "registration_id": 5,
        "sync_history_id": None, "kind": "changed", "old_bib": "12", "new_bib": "15", "old_chip": None,
        "new_chip": None, "source_modified_at": None, "detected_at": "",
    }  # fmt: skip
    stored.bib(1, 10, 100, 5, "cleared", old_bib="15")
    assert row(process)["bib_change_id"] == 3


@pytest.mark.parametrize(
    ("arguments", "first"), [(["--limit", "1"], 2), (["--since", "30m"], 2), (["--since", "2h"], 1)]
)
def test_what_came_before_can_be_had_first(cli: Cli, stored: Stored, arguments: list[str], first: int) -> None:
    process = cli.start("bibs", "--follow", "--json", *arguments)
    begun(process)
    stored.bib(1, 10, 100, 5, "cleared", old_bib="15")
    assert [row(process)["bib_change_id"] for _ in range(first, 4)] == list(range(first, 4))


def test_changes_are_followed_too_and_filtered(cli: Cli, stored: Stored) -> None:
    process = cli.start("changes", "--follow", "--event", 100)
    assert "after id 0" in begun(process)
    stored.changed(1, 10, 101, 6, "added")
    stored.changed(1, 10, 100, 5, "updated", before={"last_name": "Lea"}, after={"last_name": "Lee"})
    assert line(process).endswith("Ann Lee  last name Lea → Lee\n")


def test_a_lost_database_is_awaited(cli: Cli, stored: Stored) -> None:
    process = cli.start("bibs", "--follow", "--json", "--after-id", 1)
    assert row(process)["bib_change_id"] == 2  # it is connected
    begun(process)
    stored.conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'startlist follow'"
    )
    stored.bib(1, 10, 100, 5, "cleared", old_bib="15")
    assert row(process)["bib_change_id"] == 3
    assert process.stderr is not None
    assert "waiting for the database" in process.stderr.readline()
    assert "nothing was left out" in process.stderr.readline()


def test_a_closed_pipe_ends_it_quietly_even_while_nothing_comes(cli: Cli, stored: Stored) -> None:
    command = f"{shlex.quote(str(COMMAND))} bibs --follow --limit 2 | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], env=cli._environment(None), cwd=cli.cwd, capture_output=True,
        text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert [said for said in done.stderr.splitlines() if "Following" not in said] == []
