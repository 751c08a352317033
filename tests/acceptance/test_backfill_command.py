"""`startlist backfill` as a user types it: what it prints, what its options do, how it ends, what `status` says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime

import pytest

from startlist.store.database import Database
from tests import truth
from tests.past import assert_only_the_past, assert_read, over, progress
from tests.scene import Row, Scene, scene
from tests.support import Cli, Result

QUIET_LOG = {"STARTLIST_LOG_LEVEL": "error"}


@pytest.fixture
def at(database: Database, cli: Cli) -> Iterator[Scene]:
    """Two partners with two races each, held twice in the past and once to come, twenty registered each time."""
    with scene(database, cli, registrations=240, races=4, events=1, partners=2, years=3) as opened:
        yield opened


def lines(result: Result) -> list[list[str]]:
    """The words of each line below the headings of the only table."""
    return [line.split() for line in result.stdout.split("──\n")[-1].splitlines()]


def registrations(at: Scene, races: list[int]) -> int:
    """How many active registrations RunSignup has in what is over of some races."""
    found = 0
    for race in races:
        events = at.control.truth(race)["events"]
        found += sum(len(events[event]["active"]) for event in over(at)[race])
    return found


def days(at: Scene, race: int) -> dict[int, date]:
    """The days of a race's events that are over."""
    fields = at.control.truth(race)["race"]["events"]
    starts = {event["event_id"]: event["start_time"].split()[0] for event in fields}
    return {event: datetime.strptime(starts[event], "%m/%d/%Y").replace(tzinfo=UTC).date() for event in over(at)[race]}


# -- what it prints ----------------------------------------------------------------------------------------------------


def test_a_table_per_partner_and_a_line_for_the_whole(at: Scene, cli: Cli) -> None:
    done = cli("backfill")
    assert done.code == 0, done.stderr
    first, second, whole = lines(done)
    mine, theirs = (registrations(at, key["race_ids"]) for key in at.control.partners())
    assert first[:8] == ["1", "Peak", "Timing", "2", "0", "2", "done", str(mine)]
    assert second[:10] == ["2", "Blue", "Ridge", "Race", "Services", "2", "0", "2", "done", str(theirs)]
    calls = at.control.counts()["calls"]
    assert calls == 2 * (1 + 2 * 3)  # the list; the record, registrations and removed ones of each race
    assert " ".join(whole).startswith(
        f"completed: the past of 4 races read, {mine + theirs} registrations; {calls} calls, "
    )
    assert done.stderr.count("backfill.race") == 4  # one event for each race in the log
    assert "\x1b[" not in done.stdout + done.stderr  # no terminal, no progress
    assert_read(at)
    again = cli("backfill")
    assert again.code == 0
    assert "completed: the past of 0 races read" in again.stdout
    assert [line[:4] for line in lines(again)[:1]] == [["1", "Peak", "Timing", "2"]]


def test_json_holds_the_same(at: Scene, cli: Cli) -> None:
    done = at.backfill()
    assert done["status"] == "completed"
    assert done["states"] == {"done": 4}
    assert done["error"] is None
    assert done["api_calls"] == at.control.counts()["calls"] == sum(one["api_calls"] for one in done["partners"])
    for partner, key in zip(done["partners"], at.control.partners(), strict=True):
        assert (partner["races"], partner["finished_before"], partner["left_alone"]) == (2, 0, 0)
        assert partner["company_name"] == key["partner"]
        assert partner["rows_received"] == partner["rows_inserted"] == registrations(at, key["race_ids"])
        assert partner["rows_removed"] > 0
        assert sorted(race["race_id"] for race in partner["races_read"]) == sorted(key["race_ids"])
        assert {(race["state"], race["reason"]) for race in partner["races_read"]} == {("done", None)}
        assert sum(race["rows_received"] for race in partner["races_read"]) == partner["rows_received"]
    rows = {row["race_id"]: row for row in progress(at)}
    for race in [race for partner in done["partners"] for race in partner["races_read"]]:
        row = rows[race["race_id"]]
        assert {name: row[name] for name in race.keys() & row.keys()} == {
            name: race[name] for name in race.keys() & row.keys()
        }


def test_quiet_says_problems_only(at: Scene, cli: Cli) -> None:
    race = at.control.partners()[0]["race_ids"][0]
    at.control.fault("error", code=7, match={"race_id": race, "endpoint": "participants"}, times=None)
    done = cli("backfill", "--quiet", env=QUIET_LOG)
    assert (done.code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"startlist: race {race} (")
    assert "refused: RunSignup reports error 7: permission denied; the race's director has to give" in line


def test_dry_run_makes_no_participants_call_and_stores_nothing(at: Scene, cli: Cli) -> None:
    planned = cli("backfill", "--dry-run")
    assert planned.code == 0
    assert "4 races to read, about 12 calls" in planned.stdout
    assert "Nothing was read or stored." in planned.stdout
    first, second = cli("backfill", "--dry-run", "--json").json
    for one in (first, second):
        assert (one["races"], one["finished_before"], one["left_alone"], one["errors"]) == (2, 0, 0, [])
        assert one["calls"] == 2 * 3
        assert one["calls_per_hour"] == 700
        assert one["calls_left"] == 698  # the lists of both dry runs count
        assert 0 < one["seconds"] < 60
    assert {call["endpoint"] for call in at.control.log()} == {"races"}
    for table in ("runsignup_races", "runsignup_participants", "backfill_progress", "sync_history", "sync_runs"):
        assert truth.rows_of(at.conn, table) == []
    at.backfill("--timing-partner", 1)
    first, second = cli("backfill", "--dry-run", "--json").json
    assert (first["races"], first["finished_before"], first["calls"], first["seconds"]) == (0, 2, 0, 0)
    assert (second["races"], second["finished_before"]) == (2, 0)


def test_dry_run_tells_how_long_a_small_budget_takes(at: Scene, cli: Cli) -> None:
    at.conn.execute("update partner_provider_credentials set calls_per_hour = 5")  # three of them for a backfill
    first, _ = cli("backfill", "--dry-run", "--json").json
    assert (first["calls"], first["calls_left"], first["calls_per_hour"]) == (6, 2, 3)
    assert 4 * 1200 <= first["seconds"] < 4 * 1200 + 60
    half, _ = cli("backfill", "--dry-run", "--json", "--between", "00:00-12:00").json
    assert half["calls"] == 6
    assert half["seconds"] > 1.9 * first["seconds"]


def test_on_a_terminal_it_shows_how_far_it_is(at: Scene, cli: Cli) -> None:
    at.control.settings(latency_ms=100)
    ours, theirs = os.openpty()
    child = cli.start("backfill", env={"COLUMNS": "100"}, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how a terminal ends on Linux
        while more := os.read(ours, 65_536):
            shown += more
    os.close(ours)
    assert child.wait(20) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    figures = r"[\d,]+ rows, [\d,]+/s, \d+ calls, [\d,]+ left, [\d.]+ s to go"
    for partner in ("1 Peak Timing", "2 Blue Ridge"):
        assert re.search(rf"{partner} .* \d/2 +races, {figures}", text), text
    assert "backfill.race" not in text  # a log has its own place
    assert child.stdout is not None
    assert "completed: the past of 4 races read" in child.stdout.read()


# -- its options -------------------------------------------------------------------------------------------------------


def test_one_partner_and_the_first_so_many(at: Scene) -> None:
    second = at.backfill("--timing-partner", 2)
    assert [partner["timing_partner_id"] for partner in second["partners"]] == [2]
    first = at.backfill("--limit", 1)
    assert [partner["timing_partner_id"] for partner in first["partners"]] == [1]
    assert first["states"] == second["states"] == {"done": 2}
    assert_read(at)


def test_since_reads_the_newer_part_and_a_run_without_it_the_rest(at: Scene) -> None:
    newest = {race: max(days(at, race).values()) for race in over(at)}
    since = min(newest.values())
    at.backfill("--since", since)
    read = {row["race_id"]: set(row["event_ids"]) for row in progress(at)}
    assert read == {race: {event for event, day in days(at, race).items() if day >= since} for race in over(at)}
    assert {len(events) for events in read.values()} == {1}
    assert at.differences(covered_by="backfill_progress") == []
    assert_only_the_past(at)
    at.repeated()
    rest = at.backfill()
    assert rest["states"] == {"done": 4}
    assert at.repeated() == 0
    assert_read(at)


def test_restart_reads_everything_again_and_changes_nothing(at: Scene) -> None:
    at.backfill()
    before = truth.rows_of(at.conn, "runsignup_participants")
    at.control.reset_log()
    again = at.backfill("--restart")
    assert again["states"] == {"done": 4}
    assert at.control.counts()["calls"] == 2 * (1 + 2 * 3)
    assert truth.rows_of(at.conn, "runsignup_participants") == before
    figures = [(one["finished_before"], one["rows_inserted"], one["rows_updated"]) for one in again["partners"]]
    assert figures == [(0, 0, 0)] * 2
    assert all(one["rows_unchanged"] == one["rows_received"] > 0 for one in again["partners"])
    assert_read(at)


def test_restart_in_the_middle_begins_anew(at: Scene) -> None:
    with at.held(({"endpoint": "removed_participants"}, 2), command="backfill") as child:
        child.kill()
    done = at.backfill("--restart")
    assert done["states"] == {"done": 4}
    assert [one["finished_before"] for one in done["partners"]] == [0, 0]
    assert_read(at)


def test_retry_asks_again_for_what_could_not_be_read(at: Scene, cli: Cli) -> None:
    refused, gone = at.control.partners()[0]["race_ids"][0], at.control.partners()[1]["race_ids"][0]
    at.control.fault("error", code=7, match={"race_id": refused, "endpoint": "participants"}, times=None)
    at.control.fault("error", code=201, match={"race_id": gone, "endpoint": "participants"}, times=None)
    first = cli("backfill")
    assert first.code == 1
    assert "1 done, 1 refused" in first.stdout
    assert "1 done, 1 gone" in first.stdout
    assert {row["race_id"]: row["state"] for row in progress(at) if row["state"] != "done"} == {
        refused: "refused",
        gone: "gone",
    }
    at.control.reset_log()
    second = cli("backfill")
    assert second.code == 0
    assert "2 races not asked for again" in second.stdout
    assert [call["endpoint"] for call in at.control.log()] == ["races"] * 2
    at.control.clear_faults()
    third = at.backfill("--retry")
    assert third["states"] == {"done": 2}
    assert [one["finished_before"] for one in third["partners"]] == [1, 1]
    assert_read(at)


# -- how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--since", "nonsense"], "write a day as 2024-01-31"),
        (["--since", "2024-13-01"], "write a day as 2024-01-31"),
        (["--between", "nonsense"], "--between: write two times of the day, as 22:00-05:00"),
        (["--between", "25:00-05:00"], "--between: write two times of the day, as 22:00-05:00"),
        (["--between", "22:00"], "--between: write two times of the day, as 22:00-05:00"),
        (["--between", "22:00-22:00"], "--between: both times are the same"),
        (["--limit", 0], "it must be 1 or more"),
        (["--limit", "many"], "--limit"),
        (["--timing-partner", 9], "there is no timing partner 9"),
        (["--restart", "--retry"], "--retry is not needed"),
        (["--nonsense"], "--nonsense"),
    ],
    ids=str,
)
def test_exit_2_for_wrong_use(arguments: list[object], says: str, at: Scene, cli: Cli) -> None:
    refused = cli("backfill", *arguments)
    assert (refused.code, refused.stdout) == (2, "")
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
    assert at.control.log() == []
    assert at.runs() == []


def test_exit_2_when_there_is_no_partner(cli: Cli, database: Database) -> None:
    nobody = cli("backfill")
    assert nobody.code == 2
    assert "startlist partner add" in nobody.stderr
    planned = cli("backfill", "--dry-run")
    assert planned.code == 2
    assert "startlist partner add" in planned.stderr


def test_a_wrong_key_stores_nothing_and_the_other_partner_is_read(at: Scene, cli: Cli) -> None:
    at.control.set_key(at.control.partners()[0]["key"], secret="another-one")
    done = cli("backfill")
    assert done.code == 1
    assert "startlist partner rotate 1" in done.stderr
    theirs = set(at.control.partners()[1]["race_ids"])
    assert {row["race_id"] for row in progress(at)} == theirs
    assert {row["race_id"] for row in truth.rows_of(at.conn, "runsignup_races")} == theirs


# -- status ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_status_while_it_runs_after_a_kill_and_after_the_end(at: Scene, cli: Cli) -> None:
    with at.held(({"endpoint": "removed_participants"}, 1), "--timing-partner", 1, command="backfill") as child:
        running = cli("status")
        assert "Backfill" in running.stdout
        assert "running" in line_of(running, "Peak Timing")
        assert "stands still" not in running.stdout
        state = backfill_state(cli)
        assert (state["running"], state["races"]) == (True, 2)
        assert state["left"] >= 1
        child.kill()
    killed = cli("status")
    assert killed.code == 0
    left = backfill_state(cli)["left"]
    assert f"the backfill of timing partner 1 (Peak Timing) stands still with {left} of 2 races left" in killed.stdout
    assert "startlist backfill goes on with it" in killed.stdout
    assert "stands still for" in line_of(killed, "Peak Timing")
    state = backfill_state(cli)
    assert state["running"] is False
    assert any("stands still" in problem for problem in cli("status", "--json").json["problems"])
    at.backfill()
    ended = cli("status")
    assert "Backfill" not in ended.stdout
    assert "stands still" not in ended.stdout
    state = backfill_state(cli)
    assert (state["running"], state["left"], state["done"]) == (False, 0, 2)
    assert state["rows_received"] == registrations(at, at.control.partners()[0]["race_ids"])
    assert_read(at)


def backfill_state(cli: Cli) -> Row:
    """What `status --json` says of the first partner's backfill."""
    found: Row = cli("status", "--json").json["backfills"][0]
    assert found["timing_partner_id"] == 1
    return found


def line_of(result: Result, partner: str) -> str:
    """The partner's line in the table of backfills."""
    table = result.stdout.split("\nBackfill\n")[1]
    return next(line for line in table.splitlines() if partner in line)
