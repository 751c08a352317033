"""`startlist backfill` ended at every page and every kind of moment: the same command goes on and ends with the truth.

By `kill -9`, by a crash between two steps, by SIGINT and SIGTERM.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import AbstractContextManager

import pytest

from startlist.config import Settings
from startlist.store.database import Database
from startlist.sync.backfill.plan import Options
from startlist.sync.backfill.progress import BackfillProgress
from startlist.sync.backfill.run import run
from startlist.sync.context import Context
from tests.past import assert_closed, assert_nothing_wrong, assert_read, over
from tests.scene import UNDER_WAY, Moment, Scene, scene
from tests.support import Cli, MakeSettings

AT_ONCE = 3  # pages of all races that are fetched or merged

MOMENTS: list[Moment] = [
    ({"endpoint": "races"}, 0),
    ("api_calls", 1),
    ({"endpoint": "race"}, 0),
    ("runsignup_events", 2),
    ("runsignup_participants", 1),
    ("backfill_progress", 1),
    ({"endpoint": "participants"}, 1),
    ("sync_history", 3),
    ("runsignup_participants", 612),
    ("api_calls", 6),
    ({"endpoint": "removed_participants"}, 0),
    ("runsignup_participants", 40),
    ({"endpoint": "removed_participants"}, 1),
]


def past_scene(database: Database, cli: Cli) -> AbstractContextManager[Scene]:
    """Four events that are over, in two years, with two pages each; two that are coming."""
    return scene(database, cli, registrations=4_200, events=2, years=3)


def kill_at(at: Scene, moment: Moment) -> bool:
    """Kill a backfill of one race at a moment; False if it ended, in good order, before that came."""
    came = killed_at(at, moment)
    assert at.repeated() <= UNDER_WAY, moment
    return came


def killed_at(at: Scene, moment: Moment) -> bool:
    """The same, however many calls were under way."""
    with at.held(moment, command="backfill") as child:
        came = child.poll() is None
        if came:
            os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == (-signal.SIGKILL if came else 0)
    return came


def finish(at: Scene) -> None:
    """The same command once more ends the work."""
    done = at.backfill()
    assert (done["status"], done["states"], done["error"]) == ("completed", {"done": 1}, None)
    assert at.repeated() <= UNDER_WAY
    assert_finished(at)


def assert_finished(at: Scene) -> None:
    """All is read, what was ended before says so, and another backfill finds nothing to do."""
    assert_read(at)
    *ended, last = at.history()
    assert last == ("completed", None, True)
    assert set(ended) <= {("failed", "interrupted", True)}
    assert_closed(at)
    at.control.reset_log()
    again = at.backfill()
    assert (again["states"], again["api_calls"], again["partners"][0]["finished_before"]) == ({}, 1, 1)
    assert [call["endpoint"] for call in at.control.log()] == ["races"]


# -- kill -9 -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_before_every_page(database: Database, cli: Cli) -> None:
    with past_scene(database, cli) as at:
        kills = 0
        while kill_at(at, ("backfill_progress", 3)):  # a page is stored (an upsert counts twice), nothing of the next
            kills += 1
            assert_nothing_wrong(at)
        assert kills == 1 + 4 * 2 + 1 + 4  # all events together, each alone; their removed lists; the end
        assert_finished(at)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_every_call(database: Database, cli: Cli) -> None:
    with past_scene(database, cli) as at:
        (race,) = over(at)
        kills = 0
        while kill_at(at, ({"race_id": race}, 2)):  # the third is asked for once the first is stored
            kills += 1
            assert_nothing_wrong(at)
        assert kills >= 6
        assert_finished(at)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_every_kind_of_moment(database: Database, cli: Cli) -> None:
    with past_scene(database, cli) as at:
        for moment in MOMENTS:
            assert kill_at(at, moment), moment
            assert [status for status, _, _ in at.history()].count("running") <= 1
            assert_nothing_wrong(at)
        finish(at)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_races_at_once_killed_anywhere(database: Database, cli: Cli) -> None:
    chance = random.Random(3)
    rows = {"api_calls": 9, "runsignup_participants": 400, "runsignup_events": 9, "sync_history": 6}
    with scene(database, cli, registrations=4_800, races=8, events=1, partners=2, years=3) as at:
        kills, repeated = 0, 0
        for _ in range(8):
            table = chance.choice(list(rows))
            kills += killed_at(at, (table, chance.randint(1, rows[table])))
            repeated += at.repeated()
            assert_nothing_wrong(at)
        assert kills >= 4
        at.backfill()
        assert repeated + at.repeated() <= AT_ONCE * kills
        assert_read(at)
        assert_closed(at)


# -- a crash between two steps -----------------------------------------------------------------------------------------


class Crash(RuntimeError):
    """What no part of the program expects."""


class CrashingProgress(BackfillProgress):
    """Ends the run at its n-th page, right after it was stored, or at its n-th answer, before anything is done."""

    def __init__(self, *, pages: int | None = None, answers: int | None = None) -> None:
        self.pages, self.answers = pages, answers

    def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
        if self.pages is not None:
            self.pages -= 1
            if self.pages == 0:
                raise Crash

    def call_made(self, timing_partner_id: int, credential_id: int, calls_left: int) -> None:
        if self.answers is not None:
            self.answers -= 1
            if self.answers == 0:
                raise Crash


@pytest.mark.slow
@pytest.mark.parametrize("step", [{"pages": 1}, {"pages": 2}, {"answers": 4}], ids=str)
async def test_a_crash_right_after_a_page_or_an_answer(
    step: dict[str, int], database: Database, cli: Cli, make_settings: MakeSettings
) -> None:
    with past_scene(database, cli) as at:
        settings = make_settings(api_url=cli.env["STARTLIST_API_URL"])
        crashes = 0
        while await crashed(database, settings, CrashingProgress(**step)):
            crashes += 1
            assert at.repeated() <= UNDER_WAY
            assert_nothing_wrong(at)
        assert crashes >= 4
        assert at.repeated() <= UNDER_WAY
        assert_read(at)
        assert {status for status, _, _ in at.history()} == {"failed", "completed"}


async def crashed(database: Database, settings: Settings, progress: BackfillProgress) -> bool:
    """Run a backfill in this process; whether it crashed as it was told to. Otherwise it did all it had to."""
    try:
        done = await run(lambda: Context(database, settings, progress=progress), Options(), progress)
    except ExceptionGroup as errors:
        if errors.split(Crash)[1] is not None:
            raise
        return True
    assert done.exit_status == 0
    return False


# A row that the server refuses, once, and only in the page's last moment: nothing of the page may stay.
REFUSED_AT_COMMIT = """
create sequence pages;
create function refuse() returns trigger language plpgsql as $$
begin
    if new.checkpoint is not null and nextval('pages') % 3 = 0 then
        raise exception 'a fault in mid-commit' using errcode = 'P0001';
    end if;
    return null;
end $$;
create constraint trigger refuse after insert or update on backfill_progress
    deferrable initially deferred for each row execute function refuse();
"""


@pytest.mark.slow
def test_a_page_that_fails_at_its_commit_leaves_nothing(database: Database, cli: Cli) -> None:
    with past_scene(database, cli) as at:
        at.conn.execute(REFUSED_AT_COMMIT.encode())
        failed = 0
        while (done := cli("backfill")).code == 1:
            failed += 1
            assert "failed: the database refused: a fault in mid-commit (SQLSTATE P0001)" in done.stderr
            assert "Traceback" not in done.stderr
            assert at.repeated() <= UNDER_WAY
            assert_nothing_wrong(at)
        assert failed >= 4
        assert at.repeated() <= UNDER_WAY
        assert done.code == 0, done.stderr
        assert_read(at)


# -- SIGINT, SIGTERM ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_ends_at_once_and_the_next_goes_on(
    number: signal.Signals, status: int, database: Database, cli: Cli
) -> None:
    moments: list[Moment] = [
        ({"endpoint": "participants"}, 2),
        ("runsignup_participants", 300),
        ("backfill_progress", 1),
        ({"endpoint": "removed_participants"}, 0),
    ]
    with past_scene(database, cli) as at:
        for moment in moments:
            with at.held(moment, command="backfill") as child:
                began = time.monotonic()
                child.send_signal(number)
                assert child.wait(10) == status
                assert time.monotonic() - began < 5
            output, errors = child.communicate()
            assert output == ""
            assert "Traceback" not in errors
            assert at.repeated() <= UNDER_WAY, moment
            assert_nothing_wrong(at)
            # Nobody has to come along first: the interrupted pass and run say so themselves.
            assert at.history()[-1] == ("failed", "interrupted", True), moment
            assert at.runs()[-1] == ("interrupted", True)
        finish(at)
