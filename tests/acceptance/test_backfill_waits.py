"""`startlist backfill` that has to wait, for its share of the hour or for its hours: it says so and holds nothing."""

from __future__ import annotations

import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from startlist.store.database import Database
from tests import truth
from tests.past import assert_nothing_wrong, assert_read, over
from tests.scene import UNDER_WAY, Scene, scene, until, until_said
from tests.support import Cli

UTC_NOW = {"STARTLIST_TIMEZONE": "UTC", "TZ": "UTC"}


def limit(at: Scene, calls: int | None) -> None:
    at.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [calls])


def older(at: Scene, seconds: int) -> None:
    """The calls so far were made so much longer ago."""
    at.conn.execute("update api_calls set reserved_at = reserved_at - make_interval(secs => %s)", [seconds])


def assert_holds_nothing(at: Scene) -> None:
    """No race, no lane, no transaction; the run's own connection may show that the backfill is alive."""
    held = """
        select a.application_name from pg_locks as l join pg_stat_activity as a using (pid)
        where l.locktype = 'advisory' and a.datname = current_database() and a.application_name like 'startlist%'
    """
    until(lambda: all(name.startswith("startlist run ") for (name,) in at.conn.execute(held).fetchall()))
    busy = """
        select application_name, state from pg_stat_activity
        where datname = current_database() and application_name like 'startlist%'
          and (state <> 'idle' or xact_start is not null)
    """
    until(lambda: at.conn.execute(busy).fetchall() == [], seconds=10)  # what it was doing when it said so has ended
    passes = "select from pg_stat_activity where application_name ~ '^startlist (backfill|pass)'"
    until(lambda: at.conn.execute(passes).fetchone() is None, seconds=10)


def test_it_stops_at_its_share_of_the_hour_and_goes_on_from_there(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=600, races=6, events=1, years=3) as at:
        race, *_ = over(at)
        limit(at, 40)
        spent = at.sync()["api_calls"]  # they count as well
        child = at.cli.start("backfill", "--json")
        said = until_said(child, "credential.waiting")
        until(lambda: at.control.counts()["calls"] >= 27 and not running(at))
        assert_holds_nothing(at)
        assert child.poll() is None
        calls = at.control.counts()["calls"]
        assert calls in (27, 28)  # 70 %; one alone would not do for a race
        assert "has used the 70% share of its 40 calls an hour; free again" in said
        first = at.conn.execute("select min(reserved_at) + interval '3605 seconds' from api_calls").fetchone()
        assert first is not None
        free = re.search(r"free again (\S+ \S+) UTC", said)
        assert free is not None
        waits_until = datetime.strptime(free[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        assert abs(waits_until - first[0]) < timedelta(seconds=120)
        assert "running" in at.cli("status").stdout
        # The rest of the hour is the syncs'.
        assert at.sync("--race", race)["status"] == "completed"
        assert at.control.counts()["calls"] == calls + 3
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        output, errors = child.communicate(timeout=20)
        assert (child.returncode, output) == (143, "")
        assert "Traceback" not in errors
        finished = {row["race_id"] for row in truth.rows_of(at.conn, "backfill_progress") if row["state"] == "done"}
        assert 0 < len(finished) < 6
        at.repeated()
        older(at, 3606)
        done = at.backfill()
        assert done["partners"][0]["finished_before"] == len(finished)
        assert spent + done["api_calls"] < 40
        assert at.repeated() <= UNDER_WAY
        assert_read(at, synced=True)
        waited = [row for row in truth.rows_of(at.conn, "sync_history") if row["reason"] == "waiting"]
        assert waited
        assert {(row["sync_type"], row["status"]) for row in waited} == {("backfill", "partial")}


def running(at: Scene) -> bool:
    return at.conn.execute("select from sync_history where status = 'running'").fetchone() is not None


@pytest.mark.slow
def test_the_same_run_goes_on_after_the_hour(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=2_100, events=1, years=3) as at:
        limit(at, 8)
        with at.held(({"endpoint": "participants"}, 1), command="backfill", answer_after=1) as child:
            older(at, 3_585)  # the hour of the calls so far ends soon
            until_said(child, "credential.waiting")
            until(lambda: not running(at))
            assert_holds_nothing(at)
            assert_nothing_wrong(at)
            limit_reached = at.control.counts()["calls"]
            assert limit_reached <= 5
            while child.poll() is None:  # and waits again
                until(lambda: child.poll() is not None or waiting_again(at))
                older(at, 3_585)
            output, errors = child.communicate()
        assert child.returncode == 0, errors
        assert '"status": "completed"' in output
        assert at.repeated() == 0
        assert_read(at)


def waiting_again(at: Scene) -> bool:
    """Whether all calls of the share are made in this hour, and nobody is at work."""
    query = "select count(*) from api_calls where reserved_at > now() - interval '1000 seconds'"
    row = at.conn.execute(query).fetchone()
    return row is not None and row[0] >= 4 and not running(at)


@pytest.mark.slow
def test_two_backfills_share_one_budget(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=600, races=6, events=1, years=3) as at:
        limit(at, 20)
        for _ in range(4):
            at.control.reset_log()
            children = [at.cli.start("backfill", "--json") for _ in range(2)]
            until_spent(at, children)
            for child in children:
                child.terminate()
            for child in children:
                child.communicate(timeout=20)
            assert {child.returncode for child in children} <= {0, 3, 143}
            counts = at.control.counts()
            assert counts["calls"] <= 14
            assert counts["max_concurrent"] <= 2
            assert counts["by_error"] == {}
            assert at.repeated() <= 2 * UNDER_WAY
            older(at, 3_606)
        limit(at, None)
        at.backfill()
        assert_read(at)


def until_spent(at: Scene, children: list[subprocess.Popen[str]]) -> None:
    """Wait until the share is used up, but for one call that is not enough for a race, and nobody is at work."""

    def spent() -> bool:
        return at.control.counts()["calls"] >= 13 and not running(at)

    until(lambda: all(child.poll() is not None for child in children) or spent())


# -- hours of the day --------------------------------------------------------------------------------------------------


def window(begins: timedelta, ends: timedelta) -> tuple[str, datetime]:
    """Hours of the day, from now, as `--between` takes them; and when they begin."""
    now = datetime.now(UTC)
    return f"{now + begins:%H:%M}-{now + ends:%H:%M}", now + begins


def test_outside_its_hours_it_asks_nothing_and_says_until_when(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=60, races=2, events=1, years=2) as at:
        hours, begins = window(timedelta(hours=2), timedelta(hours=4))
        child: subprocess.Popen[str] = at.cli.start("backfill", "--between", hours, "--json", env=UTC_NOW)
        said = until_said(child, "credential.waiting")
        assert f"calls are made between {hours.replace('-', ' and ')}; goes on {begins:%Y-%m-%d %H:%M} UTC" in said
        assert_holds_nothing(at)
        assert at.control.log() == []
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130


def test_within_its_hours_it_works(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=60, races=2, events=1, years=2) as at:
        hours, _ = window(timedelta(hours=-1), timedelta(hours=3))
        done = at.cli("backfill", "--between", hours, env=UTC_NOW)
        assert done.code == 0, done.stderr
        assert "waiting" not in done.stderr
        assert_read(at)
