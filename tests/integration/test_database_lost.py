"""The database lost in mid-pass, in every way it can be: the page is rolled back, exit 1, the next run completes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from startlist.store import local
from startlist.store.database import Database
from tests.scene import UNDER_WAY, Moment, Scene, scene
from tests.support import Cli

IN_MID_COPY: Moment = ("runsignup_participants", 700)  # pages have 500 rows
AT_THE_CHECKPOINT: Moment = ("sync_cursors", 1)
AT_A_CALL: Moment = ({"endpoint": "participants"}, 1)


SAYS = ("the connection to the database failed", "terminating connection", "was lost")


def fails_clearly(child: subprocess.Popen[str]) -> None:
    """Exit 1 at once, one line that says what was lost, no traceback."""
    output, errors = child.communicate(timeout=20)
    assert child.returncode == 1, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("startlist: ")
    assert "Traceback" not in output + errors
    assert any(one in last for one in SAYS), last


def rolled_back(at: Scene) -> None:
    """Only whole pages are stored: as many rows as the passes have counted, page by page, and all of them right."""
    assert at.repeated() <= UNDER_WAY
    assert at.differences(unfinished=True) == []
    counted = "select coalesce(sum(rows_inserted + rows_removed), 0) from sync_history"
    stored = at.conn.execute("select count(*) from runsignup_participants").fetchone()
    assert stored == at.conn.execute(counted).fetchone()


def goes_on(at: Scene, *, lost: int) -> None:
    """The next run completes what so many runs began."""
    at.sync()
    assert at.repeated() <= UNDER_WAY
    assert at.differences() == []
    assert [(status, closed) for status, _, closed in at.history()] == [("failed", True)] * lost + [("completed", True)]


@pytest.mark.parametrize(
    ("connection", "moment"),
    [
        ("startlist pass", IN_MID_COPY),
        ("startlist pass", AT_THE_CHECKPOINT),
        ("startlist pass", AT_A_CALL),
        ("startlist lane", AT_A_CALL),
        ("startlist", AT_A_CALL),
    ],
)
def test_a_connection_is_lost(connection: str, moment: Moment, database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=2_400) as at:
        with at.held(moment, answer_after=2) as child:
            lose(at, connection)
            fails_clearly(child)
        rolled_back(at)
        goes_on(at, lost=1)


def test_the_run_fails_when_only_its_own_connection_is_lost(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=2_400) as at:
        with at.held(AT_A_CALL, answer_after=2) as child:
            lose(at, "startlist run")
            fails_clearly(child)
        assert at.history() == [("completed", None, True)]
        assert at.runs() == [("failed", True)]
        assert at.differences() == []


def lose(at: Scene, connection: str) -> None:
    """Let the server end the connections whose names begin so."""
    at.conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name like %s",
        [f"{connection}%"],
    )


@pytest.mark.slow
def test_the_server_is_lost(home: Path, cli: Cli) -> None:
    assert cli("init").code == 0
    database = Database(local.start(home), "startlist", embedded=True)

    def killed() -> None:
        os.kill(int((home / "postgresql/data/postmaster.pid").read_text().split("\n")[0]), signal.SIGKILL)

    def stopped() -> None:
        local.stop(home)

    ways: list[tuple[Callable[[], None], Moment]] = [
        (killed, IN_MID_COPY),
        (stopped, AT_A_CALL),
        (killed, AT_THE_CHECKPOINT),
        (stopped, IN_MID_COPY),
    ]
    with scene(database, cli, registrations=2_400) as at:
        for way, moment in ways:
            with at.held(moment, answer_after=2) as child:
                way()
                fails_clearly(child)
            local.start(home)
            at.reconnect()
            rolled_back(at)
        goes_on(at, lost=len(ways))
