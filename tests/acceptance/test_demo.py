"""`startlist demo` as a user types it."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from startlist.store import local
from tests.support import Cli, Result

# Each of these makes the whole world of the demo anew.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def played(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, Result]]:
    """A demo that was played in its own home, which it left running."""
    cli = Cli({"STARTLIST_HOME": str(module_home)}, tmp_path_factory.mktemp("demo"))
    yield cli, cli("demo", timeout=110)
    cli("demo", "--stop")


def test_demo_tells_the_story_and_leaves_everything_running(played: tuple[Cli, Result], module_home: Path) -> None:
    cli, told = played
    assert told.code == 0, told.stdout + told.stderr
    assert told.stderr == ""
    headings = [line for line in told.stdout.splitlines() if line[:2] in ("1.", "2.", "3.", "4.", "5.", "6.")]
    assert [line.split(". ")[1].split(":")[0] for line in headings] == [
        "A database, a RunSignup and its timing partners",
        "Full sync",
        "An hour of life in RunSignup",
        "Incremental sync",
        "Bibs, the moment they are known",
        "The proof",
    ]
    assert "1,336 events" in told.stdout
    assert "13 timing partners with 14 API keys" in told.stdout
    assert "45 bibs are assigned" in told.stdout
    assert "all equal, none missing, none too many" in told.stdout
    assert "NOT SO" not in told.stdout

    # What it says to try next works as it stands.
    exports = [line.split()[1] for line in told.stdout.splitlines() if line.startswith("  export ")]
    env = dict(export.split("=", 1) for export in exports)
    assert env["STARTLIST_HOME"] == str(module_home)
    bibs = cli("bibs", "--json", env=env)
    assert len(bibs.json) == 52
    curl = next(line for line in told.stdout.splitlines() if "curl -X POST " in line).split()[-1]
    with urllib.request.urlopen(urllib.request.Request(curl, method="POST")) as answer:
        happened = json.load(answer)["counts"]
    once_more = cli("sync", "--json", env=env).json
    assert once_more["run_id"] == 3
    assert sum(partner["bib_changes"] for partner in once_more["partners"]) == sum(
        happened[kind] for kind in ("bib_assigned", "bib_changed", "bib_cleared")
    )


def test_demo_begins_anew_and_prints_json_for_scripts(played: tuple[Cli, Result], module_home: Path) -> None:
    cli, _ = played
    done = cli("demo", "--seed", 2, "--json", timeout=110)
    assert done.code == 0, done.stdout + done.stderr
    answer = done.json
    assert answer["equal"] is True
    assert set(answer["checks"].values()) == {True}
    assert answer["sandbox"]["partners"] == 13
    assert answer["sandbox"]["events"] > 1000
    assert answer["full"]["run_id"] == 1, "nothing is left of the demo before"
    assert answer["full"]["total_events"] == answer["sandbox"]["future_events"]
    assert answer["proof"]["active"] == answer["incremental"]["total_participants"]
    assert answer["found"]["added"] == answer["happened"]["registered"] + answer["happened"]["transferred"]
    assert answer["bib_changes"]["assigned"] == answer["happened"]["bib_assigned"] == 45

    stopped = cli("demo", "--stop")
    assert stopped.stdout.splitlines() == [
        "The local RunSignup is stopped.",
        f"The database in {module_home} is stopped.",
    ]
    assert not local.is_running(module_home)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(answer["api_url"])
    assert "did not run" in cli("demo", "--stop").stdout


def test_demo_leaves_a_home_with_other_timing_partners_alone(cli: Cli, home: Path) -> None:
    assert cli("init").code == 0
    assert cli("partner", "add", "Real Timing", "--api-key", "k", env={"STARTLIST_API_SECRET": "s"}).code == 0
    refused = cli("demo")
    assert refused.code == 2
    assert f"STARTLIST_HOME: the database in {home} is not a demo's" in refused.stderr
    assert [partner["company_name"] for partner in cli("partner", "list", "--json").json] == ["Real Timing"]
    assert cli("demo", "--stop").stdout.endswith("did not run.\n")
    assert local.is_running(home), "a database that is not a demo's is not a demo's to stop"


def test_demo_leaves_a_database_of_the_user_alone(cli: Cli, database_url: str) -> None:
    assert cli("partner", "add", "Real Timing", "--api-key", "k", env={"STARTLIST_API_SECRET": "s"}).code == 0
    refused = cli("demo")
    assert refused.code == 2
    assert "STARTLIST_DATABASE_URL: the schema startlist there is not a demo's" in refused.stderr
    assert "STARTLIST_DATABASE_SCHEMA" in refused.stderr
    assert len(cli("partner", "list", "--json").json) == 1


def test_demo_stopped_halfway_leaves_no_runsignup_behind(cli: Cli, home: Path, database_url: str) -> None:
    process = cli.start("demo")
    file = home / "sandbox.pid"
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert int(file.read_text()) > 0
    second = cli("demo")
    assert second.code == 2, second.stdout + second.stderr
    assert f"another demo is under way in {home}" in second.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert cli("demo", "--stop").stdout == "The local RunSignup did not run.\n"
