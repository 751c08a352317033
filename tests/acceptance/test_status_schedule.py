"""What `status` says of the schedule: classes, next turns, what is stale, who is at work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from startlist.store.database import Database
from tests.stored import Stored
from tests.support import Cli


@pytest.fixture
def stored(database: Database, database_url: str) -> Iterator[Stored]:
    """A partner with a race in two hours, which is planned, and one in a month, which is not."""
    filler = Stored(database_url)
    partner = filler.partner("Acme", "acme-key", verified_at="now()")
    for race, start in ((10, "2 hours"), (20, "30 days")):
        filler.race(partner, race)
        filler.event(partner, race, race * 10, start)
    plan(filler, 10)
    filler.cursor(partner, 20, [200])
    yield filler
    filler.close()


def plan(stored: Stored, race: int, *, due: str = "30 seconds", stale: str = "150 seconds", **more: Any) -> None:
    """A race of the minute cadence whose next turn is so far from now."""
    planned: dict[str, Any] = {
        "next_sync_at": stored.at(due), "planned_at": stored.at("-30 seconds"), "stale_at": stored.at(stale),
        "rank": "race_day", "period_seconds": 60, "stretch": 1, "failures": 0,
    }  # fmt: skip
    stored.cursor(1, race, [race * 10], "-1 minute", **planned | more)


def races(cli: Cli) -> dict[int, Any]:
    return {race["race_id"]: race for race in cli("status", "--json").json["races"]}


def test_status_tells_the_class_and_the_next_turn(cli: Cli, stored: Stored) -> None:
    found = races(cli)
    assert (found[10]["rank"], found[10]["period_seconds"], found[10]["failures"]) == ("race_day", 60, 0)
    assert (found[10]["lag_seconds"], found[10]["stale"]) == (0, False)
    assert (found[20]["rank"], found[20]["lag_seconds"], found[20]["stale"]) == (None, None, False)
    shown = cli("status", env={"COLUMNS": "240"})
    assert "race day" in shown.stdout
    assert " in 2" in shown.stdout
    checked = cli("status", "--check")
    assert (checked.code, checked.stdout) == (0, "")


def test_a_race_that_is_a_period_late_is_stale(cli: Cli, stored: Stored) -> None:
    stored.conn.execute("delete from sync_cursors where race_id = 10")
    plan(stored, 10, due="-130 seconds", stale="-10 seconds")
    found = races(cli)[10]
    assert found["stale"]
    assert found["lag_seconds"] >= 130
    assert any("it is stale: due for 2 min" in problem for problem in found["problems"])
    checked = cli("status", "--check")
    assert checked.code == 1
    first, second = checked.stdout.splitlines()
    assert first == "no scheduler runs: startlist serve"
    assert "race 10, Acme" in second
    assert "stale: due for 2 min" in second


def test_a_race_that_keeps_failing_is_stale_though_its_next_turn_is_to_come(cli: Cli, stored: Stored) -> None:
    stored.conn.execute("delete from sync_cursors where race_id = 10")
    plan(stored, 10, stale="-10 seconds", failures=7)
    checked = cli("status", "--check")
    assert checked.code == 1
    assert "7 passes in a row failed" in checked.stdout


def test_without_a_scheduler_a_race_is_stale_after_a_day(cli: Cli, stored: Stored) -> None:
    stored.conn.execute("delete from sync_cursors where race_id = 20")
    stored.cursor(1, 20, [200], "-25 hours")
    checked = cli("status", "--check")
    assert checked.code == 1
    assert "no scheduler knows it" in checked.stdout


def test_a_stopped_key_is_something_to_watch_for(cli: Cli, stored: Stored) -> None:
    stored.conn.execute("update partner_provider_credentials set stopped_at = now(), stopped_reason = 'code 6'")
    checked = cli("status", "--check")
    assert checked.code == 1
    assert "is stopped" in checked.stdout


def test_a_cadence_that_is_stretched_is_said(cli: Cli, stored: Stored) -> None:
    stored.conn.execute("update sync_cursors set stretch = 2.5 where race_id = 10")
    (said,) = cli("status", "--json").json["problems"]
    assert "2.5 times less often" in said


def test_why_passes_every_minute_are_full_is_said(cli: Cli, stored: Stored) -> None:
    for days, times in ((8, 0), (3, 1)):
        stored.conn.execute(
            "update partner_provider_credentials set silent_bibs_at = now() - make_interval(days => %s)", [days]
        )
        said = cli("status").stdout
        assert said.count("without its saying so (last found 3 days ago)") == times


def test_a_worker_that_vanished_is_told_from_one_that_lives(cli: Cli, stored: Stored, database: Database) -> None:
    stored.insert("sync_runs", command="serve", trigger="schedule", status="running")
    document = cli("status", "--json").json
    assert not document["scheduler_leads"]
    assert [one["alive"] for one in document["workers"]] == [False]
    assert any("ended without a word" in problem for problem in document["problems"])
    for key in (database.lock_key("worker run", 1), database.lock_key("scheduler")):
        stored.conn.execute("select pg_advisory_lock(%s)", [key])
    document = cli("status", "--json").json
    assert document["scheduler_leads"]
    assert [one["alive"] for one in document["workers"]] == [True]
    assert document["problems"] == []
    assert "Workers" in cli("status").stdout
