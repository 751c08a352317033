"""`startlist sync` as a user types it: what it prints, what it writes, how it ends, and what it never says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from startlist.sandbox import running
from startlist.sandbox.server import Sandbox
from startlist.store.database import Database
from tests.support import Cli, Result
from tests.syncing import FIRST, PERSON, RACE, SECOND

SURNAME, EMAIL = "Quokkasdottir", "quokka.runs@example.com"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running() as started:
        yield started


@pytest.fixture
def sync(cli: Cli, database: Database, sandbox: Sandbox) -> Cli:
    """The command, with the sandbox's one key added as a timing partner."""
    cli.env["STARTLIST_API_URL"] = sandbox.url
    add(cli, sandbox, 0)
    return cli


def add(cli: Cli, sandbox: Sandbox, number: int, secret: str | None = None) -> None:
    key = sandbox.control.partners()[number]
    given = {"STARTLIST_API_SECRET": secret or key["secret"]}
    options = ["--credential-type", key["type"]]
    assert cli("partner", "add", key["partner"], "--api-key", key["key"], *options, env=given).code == 0


def stored(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, options="-c search_path=startlist") as conn:
        return conn.execute(query.encode()).fetchall()


def said(result: Result) -> str:
    return result.stdout + result.stderr


# -- what it prints ----------------------------------------------------------------------------------------------------


def test_a_table_per_partner_and_a_line_for_the_whole(sync: Cli, sandbox: Sandbox) -> None:
    first = sync("sync")
    assert first.code == 0
    assert "Peak Timing" in first.stdout
    assert "completed: 1 race with 2 events, 12 registrations on their start lists; 4 calls" in first.stdout
    assert "pass.completed" in first.stderr
    assert "\x1b[" not in said(first)  # no terminal, no progress
    sandbox.control.assign_bib(PERSON, 77)
    sandbox.control.refund(PERSON + 1)
    second = sync("sync")
    assert "1 incremental" in second.stdout
    assert "11 registrations on their start lists; 3 calls" in second.stdout
    bibs = sync("bibs", "--json").json
    assert [(row["registration_id"], row["new_bib"]) for row in bibs] == [(PERSON, "77")]


def test_json_and_summary_hold_the_same(sync: Cli, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    done = sync("sync", "--json", "--summary", file)
    assert done.code == 0
    assert json.loads(file.read_text()) == done.json
    found = done.json
    assert found.keys() >= {
        "run_id", "started_at", "finished_at", "duration_seconds", "status", "total_races", "total_events",
        "total_participants", "api_calls", "timing_partners_synced", "failed_syncs", "partners",
    }  # fmt: skip
    assert (found["status"], found["total_races"], found["total_events"], found["total_participants"]) == (
        "completed", 1, 2, 12
    )  # fmt: skip
    assert (found["api_calls"], found["timing_partners_synced"], found["failed_syncs"]) == (4, 1, [])
    (partner,) = found["partners"]
    assert (partner["timing_partner_id"], partner["company_name"], partner["rows_inserted"]) == (1, "Peak Timing", 12)
    (race,) = partner["races"]
    assert (race["race_id"], race["sync_type"], race["status"], race["reason"], race["event_ids"]) == (
        RACE, "full", "completed", "never synced", [FIRST, SECOND]
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == [file]


def test_quiet_says_problems_only(sync: Cli, sandbox: Sandbox) -> None:
    env = {"STARTLIST_LOG_LEVEL": "error"}
    assert said(sync("sync", "--quiet", env=env)) == ""
    sandbox.control.fault("error", code=7, match={"race_id": RACE, "endpoint": "participants"})
    failed = sync("sync", "--quiet", env=env)
    assert (failed.code, failed.stdout) == (1, "")
    assert f"startlist: race {RACE} (" in failed.stderr
    assert "RunSignup reports error 7: permission denied; the race's director has to give" in failed.stderr


def test_dry_run_prints_the_plan_and_stores_nothing(sync: Cli, sandbox: Sandbox, database_url: str) -> None:
    sandbox.control.reset_log()
    planned = sync("sync", "--dry-run")
    assert planned.code == 0
    for word in (str(RACE), "full", "never synced", "its record first: new race", "about 3 calls"):
        assert word in planned.stdout
    assert [call["endpoint"] for call in sandbox.control.log()] == ["races"]
    (one,) = sync("sync", "--dry-run", "--json").json
    assert (one["race_id"], one["sync_type"], one["event_ids"], one["calls"]) == (RACE, "full", [FIRST, SECOND], 3)
    assert stored(database_url, "select count(*) from runsignup_races union all select count(*) from sync_history") == [
        (0,), (0,)
    ]  # fmt: skip


def test_options(sync: Cli, sandbox: Sandbox) -> None:
    sandbox.control.add_partner("Chip & Go")
    add(sync, sandbox, 1)
    first_only = sync("sync", "--test", "--json").json
    assert [partner["company_name"] for partner in first_only["partners"]] == ["Peak Timing"]
    second_only = sync("sync", "--timing-partner", 2, "--json").json
    assert [partner["company_name"] for partner in second_only["partners"]] == ["Chip & Go"]

    def reason(*options: object) -> str:
        (one,) = sync("sync", "--dry-run", "--race", RACE, "--json", *options).json
        return str(one["reason"])

    assert reason("--force-full-sync") == "forced"
    assert reason("--incremental-days", 0) == "last full pass more than 0 days ago"
    assert reason("--accept-missing") == "accepting what is missing"
    assert reason("--include-past-days", 30).startswith("changes since ")


def test_suddenly_empty_and_accepted(sync: Cli, sandbox: Sandbox) -> None:
    assert sync("sync").code == 0
    sandbox.control.vanish(event_id=FIRST)
    doubtful = sync("sync", "--force-full-sync")
    assert doubtful.code == 1
    assert "12 of 12 registrations are absent without a removal" in doubtful.stderr
    assert f"startlist sync --race {RACE} --accept-missing" in doubtful.stderr
    assert sync("sync", "--race", RACE, "--accept-missing").code == 0
    assert [change["change_type"] for change in sync("changes", "--json").json] == ["missing"] * 12


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_exit_2_for_wrong_use(cli: Cli, database: Database, sandbox: Sandbox, tmp_path: Path) -> None:
    cli.env["STARTLIST_API_URL"] = sandbox.url
    nobody = cli("sync")
    assert nobody.code == 2
    assert "startlist partner add" in nobody.stderr
    add(cli, sandbox, 0)
    for arguments, says in (
        (["--accept-missing"], "--race"),
        (["--race", 4711], "race 4711 is in no partner's list"),
        (["--timing-partner", 9], "there is no timing partner 9"),
        (["--summary", tmp_path / "no" / "file.json"], "--summary"),
        (["--incremental-days", -1], "--incremental-days"),
        (["--nonsense"], "--nonsense"),
    ):
        refused = cli("sync", *arguments)
        assert refused.code == 2, arguments
        assert says in refused.stderr
    half = cli("sync", env={"STARTLIST_API_REGISTRATION": "1.token"})  # trap 39
    assert half.code == 2
    assert "STARTLIST_API_REGISTRATION_SECRET" in half.stderr
    plain = cli("sync", env={"STARTLIST_API_URL": "http://api.runsignup.com/rest"})
    assert plain.code == 2
    assert "STARTLIST_API_URL" in plain.stderr


def test_exit_2_for_a_caller_registration_that_runsignup_does_not_know(sync: Cli) -> None:
    wrong = {"STARTLIST_API_REGISTRATION": "1.unknown", "STARTLIST_API_REGISTRATION_SECRET": "caller-hush"}
    refused = sync("sync", env=wrong)
    assert refused.code == 2
    assert "caller registration" in refused.stderr
    assert "caller-hush" not in said(refused)


def test_exit_1_for_a_wrong_key_and_nothing_stored(
    cli: Cli, database: Database, sandbox: Sandbox, database_url: str
) -> None:
    cli.env["STARTLIST_API_URL"] = sandbox.url
    for number in range(4):
        sandbox.control.add_event(sandbox.control.add_race(f"Public run {number}"))
    add(cli, sandbox, 0, secret="not-the-secret")
    failed = cli("sync")
    assert failed.code == 1
    assert "permission denied" in failed.stderr
    assert "startlist partner rotate 1" in failed.stderr
    assert stored(database_url, "select count(*) from runsignup_races") == [(0,)]


def test_exit_3_when_every_race_is_held(sync: Cli, database: Database, database_url: str) -> None:
    assert sync("sync").code == 0
    with psycopg.connect(database_url, autocommit=True) as holder:
        holder.execute("select pg_advisory_lock(%s)", [database.lock_key("race", 1, RACE)])
        held = sync("sync")
        assert held.code == 3
        assert "skipped" in held.stdout


def test_an_unreachable_database_stops_before_anything_is_asked(sync: Cli, sandbox: Sandbox) -> None:
    sandbox.control.reset_log()
    lost = sync("sync", env={"STARTLIST_DATABASE_URL": "postgresql://nobody:dbhush@127.0.0.1:1/none"})
    assert lost.code == 2
    assert "STARTLIST_DATABASE_URL" in lost.stderr
    assert "dbhush" not in said(lost)
    assert sandbox.control.log() == []


# -- where and how it runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Denver"])
def test_trap_05_06_any_time_zone_of_the_machine(sync: Cli, sandbox: Sandbox, database_url: str, zone: str) -> None:
    env = {"TZ": zone, "STARTLIST_TIMEZONE": zone}
    assert sync("sync", env=env).code == 0
    sandbox.control.edit(PERSON, last_name="Five-seconds-ago")
    sandbox.control.clock(advance=5)
    assert sync("sync", env=env).code == 0
    sent = [call for call in sandbox.control.log() if call["endpoint"] == "participants"][-1]
    assert sent["params"]["modified_after_timestamp"].isdigit()
    assert abs(int(sent["params"]["modified_after_timestamp"]) + 60 - sent["at"]) < 30
    last_name = "select last_name from runsignup_participants where registration_id = 60000001"
    assert stored(database_url, last_name) == [("Five-seconds-ago",)]
    modified = "select bool_and(last_modified <= now() + interval '1 minute') from runsignup_participants"
    assert stored(database_url, modified) == [(True,)]


@pytest.mark.parametrize(("kind", "level"), [("legacy", "debug"), ("v2", "debug"), ("legacy", "info")])
def test_trap_38_no_secret_and_no_person_is_ever_said(
    cli: Cli, database: Database, sandbox: Sandbox, tmp_path: Path, kind: str, level: str
) -> None:
    control = sandbox.control
    cli.env["STARTLIST_API_URL"] = sandbox.url
    registration, caller_secret = control.registration()
    cli.env |= {"STARTLIST_API_REGISTRATION": registration, "STARTLIST_API_REGISTRATION_SECRET": caller_secret}
    if kind == "v2":
        control.add_partner("Chip & Go", "v2")
        control.share(RACE, "Chip & Go")
    key = control.partners()[-1]
    add(cli, sandbox, -1)
    control.edit(PERSON, last_name=SURNAME, email=EMAIL, age="many")
    control.fault("bad_rows", match={"endpoint": "participants"}, rows=[{"email": EMAIL, "name": SURNAME}], index=3)
    control.fault("html", match={"endpoint": "removed_participants"}, skip=1, times=2)
    control.fault("reset", match={"endpoint": "races"}, skip=1, times=1)
    control.fault("error", match={"endpoint": "participants"}, code=7, message=SURNAME, skip=2, times=None)
    env = {"STARTLIST_LOG_LEVEL": level, "STARTLIST_LOG_FORMAT": "json" if level == "info" else "console"}
    results = [cli("sync", "--json", "--summary", tmp_path / "s.json", env=env) for _ in range(3)]
    assert [result.code for result in results] == [1, 0, 1]
    everything = "".join(map(said, results)) + (tmp_path / "s.json").read_text()
    for hidden in (key["secret"], caller_secret, registration, SURNAME, EMAIL):
        assert hidden not in everything
    if level == "info":
        assert all(isinstance(json.loads(line), dict) for line in results[0].stderr.splitlines() if line[:1] == "{")


def test_trap_38_nor_in_the_list_of_processes(sync: Cli, sandbox: Sandbox, database_url: str) -> None:
    secret = sandbox.control.partners()[0]["secret"]
    sandbox.control.fault("timeout", match={"endpoint": "participants"}, seconds=30)
    child = sync.start("sync")
    while not any(call["endpoint"] == "race" for call in sandbox.control.log()):
        assert child.poll() is None
    shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    names = stored(
        database_url, "select coalesce(string_agg(application_name || query, ' '), '') from pg_stat_activity"
    )
    child.kill()
    child.communicate()
    assert "startlist sync" in shown
    assert secret not in shown
    assert secret not in names[0][0]
