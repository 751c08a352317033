"""`startlist backfill` while its database goes away in mid-race: it waits for it and goes on, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from startlist.errors import DatabaseError
from startlist.store import local
from startlist.store.database import Database
from startlist.sync.backfill.plan import Options
from startlist.sync.backfill.progress import BackfillProgress
from startlist.sync.backfill.run import run
from startlist.sync.context import Context
from tests.past import assert_closed, assert_nothing_wrong, assert_read
from tests.scene import UNDER_WAY, Moment, Scene, scene, until_said
from tests.support import Cli, MakeSettings, terminate

IN_MID_COPY: Moment = ("runsignup_participants", 700)  # pages have 500 rows
AT_THE_CHECKPOINT: Moment = ("backfill_progress", 3)
AT_A_CALL: Moment = ({"endpoint": "participants"}, 2)

Way = Callable[[Path], None]


def killed(home: Path) -> None:
    """As a power cut ends the server."""
    os.kill(int((home / "postgresql/data/postmaster.pid").read_text().split("\n")[0]), signal.SIGKILL)


def stopped(home: Path) -> None:
    """As a restart ends it."""
    local.stop(home)


def survived(at: Scene, child: subprocess.Popen[str], *, lost: int = 1) -> str:
    """The same run reached its end in good order, and repeated what was under way only; what it logged."""
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors
    summary = json.loads(output)
    (partner,) = summary["partners"]
    assert (summary["status"], summary["states"], summary["error"]) == ("completed", {"done": 1}, None)
    assert (partner["races"], partner["finished_before"]) == (1, 0)
    assert sum(times - 1 for times in at.calls().values()) <= UNDER_WAY * lost
    assert_read(at)
    assert at.runs()[-1] == ("completed", True)
    assert_closed(at)
    return errors


@pytest.mark.parametrize(
    ("connection", "moment"),
    [
        ("startlist backfill%", IN_MID_COPY),
        ("startlist backfill%", AT_THE_CHECKPOINT),
        ("startlist backfill%", AT_A_CALL),
        ("startlist lane%", AT_A_CALL),
        ("startlist%", AT_A_CALL),
    ],
)
def test_a_connection_is_lost(connection: str, moment: Moment, database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=2_100, events=1, years=3) as at:
        with at.held(moment, command="backfill", answer_after=1) as child:
            terminate(database.conninfo, connection)
            at.let_go()
            errors = survived(at, child)
        assert "backfill.goes_on" in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "moment"),
    [(killed, IN_MID_COPY), (stopped, AT_A_CALL), (killed, AT_THE_CHECKPOINT), (stopped, IN_MID_COPY)],
)
def test_the_server_is_restarted(way: Way, moment: Moment, home: Path, cli: Cli) -> None:
    with scene(embedded(home, cli), cli, registrations=2_100, events=1, years=3) as at:
        with at.held(moment, command="backfill", answer_after=2) as child:
            way(home)
            local.start(home)
            at.reconnect()
            errors = survived(at, child)
        assert "backfill.database_away" in errors
        assert "backfill.goes_on" in errors


@pytest.mark.slow
def test_the_server_is_lost_and_the_command_run_again_by_hand(home: Path, cli: Cli) -> None:
    with scene(embedded(home, cli), cli, registrations=2_100, events=1, years=3) as at:
        with at.held(AT_THE_CHECKPOINT, command="backfill", answer_after=2) as child:
            killed(home)
            until_said(child, "backfill.database_away")
            began = time.monotonic()
            child.send_signal(signal.SIGTERM)
            output, errors = child.communicate(timeout=30)
            assert time.monotonic() - began < 5
            assert (child.returncode, output) == (143, "")
            assert "Traceback" not in errors
        done = at.backfill()  # which starts the server again
        at.reconnect()
        assert done["states"] == {"done": 1}
        assert sum(times - 1 for times in at.calls().values()) <= UNDER_WAY
        assert_read(at)
        assert_closed(at)
        assert at.history() == [("failed", "interrupted", True), ("completed", None, True)]


@pytest.mark.slow
def test_server_and_command_are_killed_together(home: Path, cli: Cli) -> None:
    with scene(embedded(home, cli), cli, registrations=2_100, events=1, years=3) as at:
        for moment in (IN_MID_COPY, AT_THE_CHECKPOINT):
            with at.held(moment, command="backfill") as child:
                assert child.poll() is None
                killed(home)
                child.kill()
            local.start(home)
            at.reconnect()
            assert_nothing_wrong(at)
            assert at.repeated() <= UNDER_WAY
        at.backfill()
        assert at.repeated() <= UNDER_WAY
        assert_read(at)


@pytest.mark.slow
async def test_a_server_that_stays_away_ends_the_run(home: Path, cli: Cli, make_settings: MakeSettings) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    class Told(BackfillProgress):
        def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
            if local.is_running(home):
                killed(home)

    database = embedded(home, cli)
    with scene(database, cli, registrations=2_100, events=1, years=3) as at:
        settings = make_settings(api_url=cli.env["STARTLIST_API_URL"])
        done = await run(lambda: Context(database, settings, progress=Told(), sleep=sleep), Options(), Told())
        assert done.exit_status == 1
        assert isinstance(done.error, DatabaseError)
        assert 900 <= sum(slept) < 930
        at.backfill()  # which starts the server again
        at.reconnect()
        assert sum(times - 1 for times in at.calls().values()) <= UNDER_WAY
        assert_read(at)


def embedded(home: Path, cli: Cli) -> Database:
    """An embedded database of the test's own, which may be lost."""
    assert cli("init").code == 0
    return Database(local.start(home), "startlist", embedded=True)
