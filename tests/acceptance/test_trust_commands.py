"""`doctor`, `preflight`, `quarantine`, `purge`, `verify` and `compare` as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest
import typer

from startlist.cli.compare import compare
from startlist.sandbox import running
from startlist.store.database import Database
from tests.stored import Stored
from tests.support import Cli
from tests.syncing import PERSON, RACE


@pytest.fixture
def stored(database: Database, database_url: str) -> Iterator[Stored]:
    """A race of two partners: an event of long ago and one that comes, with a runner and a bad record in each."""
    filler = Stored(database_url)
    for partner in (filler.partner("Acme"), filler.partner("Best")):
        filler.race(partner, 10)
        for event, start in ((partner * 100, "-900 days"), (partner * 100 + 1, "1 day")):
            filler.event(partner, 10, event, start)
            filler.registration(partner, 10, event, event, first_name="Ann", last_name="Lee", gender="F", age=30)
        filler.cursor(partner, 10, [partner * 100 + 1])
    yield filler
    filler.close()


def test_preflight_names_who_is_hit_and_how_fresh_that_is(cli: Cli, stored: Stored) -> None:
    ambiguous = cli("preflight", 10)
    assert (ambiguous.code, ambiguous.stdout) == (2, "")
    assert "1 (Acme) and 2 (Best)" in ambiguous.stderr
    found = cli("preflight", 10, "--timing-partner", 1)
    assert found.code == 1
    assert "Complete as of" in found.stdout
    assert "FAIL  1: registrations without a bib" in found.stdout
    assert "Ann Lee" in found.stdout
    assert "Ann Lee" not in found.stderr
    assert found.stdout.index("FAIL") < found.stdout.index("pass  ")
    stored.conn.execute("update runsignup_participants set bib_num = '7'")
    stored.conn.execute("update sync_cursors set participants_watermark = participants_watermark - 200000")
    passed = cli("preflight", 10, "--timing-partner", 1, "--json")
    assert passed.code == 0
    assert passed.json["passed"] is True
    assert {check["count"] for check in passed.json["checks"]} == {0}
    assert "stale" in passed.json["warnings"][0]
    for arguments in (("--timing-partner", 3), ("--timing-partner", 1, "--event", 5)):
        wrong = cli("preflight", 10, *arguments)
        assert (wrong.code, wrong.stdout) == (2, "")
        assert wrong.stderr


def test_quarantine_lists_shows_and_tries_again(cli: Cli, stored: Stored) -> None:
    raw = {"registration_id": 5, "event_id": 101, "user": {"first_name": "Zoë\x1b[2J"}, "last_modified": 1_700_000_000}
    for number, text in enumerate((json.dumps(raw, ensure_ascii=False), '{"registration_id": 6, "user": 1}')):
        stored.insert("runsignup_quarantine", timing_partner_id=1, race_id=10, event_id=101, registration_id=5 + number,
                      endpoint="participants", reason="an old reason", raw=text, raw_hash=b"%d" % number)  # fmt: skip
    assert [one["quarantine_id"] for one in cli("quarantine", "list", "--json").json] == [2, 1]
    assert "raw" not in cli("quarantine", "list", "--event", 101, "--limit", 1, "--json").json[0]
    shown = cli("quarantine", "show", 1)
    assert shown.code == 0
    assert "Zoë" in shown.stdout
    assert "\x1b" not in shown.stdout
    tried = cli("quarantine", "retry", "--race", 10, "--json")
    assert (tried.code, [one["fate"] for one in tried.json]) == (1, ["bad", "stored"])
    assert "Zo" not in tried.stderr
    assert stored.value("select first_name from runsignup_participants where registration_id = 5").startswith("Zoë")
    listed = cli("quarantine", "list").stdout
    assert "user is not an object" in listed
    assert "resolved" in cli("quarantine", "list", "--all").stdout
    for arguments in (("show", 99), ("retry", 98, 99)):
        wrong = cli("quarantine", *arguments)
        assert (wrong.code, wrong.stdout) == (2, "")


def test_purge_counts_first_and_wants_a_yes(cli: Cli, stored: Stored) -> None:
    for arguments in ((), ("--race", 99), ("--before", "2999-01-01")):
        assert cli("purge", *arguments, "--yes").code == 2
    asked = cli("purge", "--race", 10)
    assert asked.code == 2
    assert "2 rows of 2 races" in asked.stderr
    assert "Kept: event 101" in asked.stderr
    assert stored.value("select count(*) from runsignup_participants") == 4
    done = cli("purge", "--race", 10, "--partner", 1, "--yes", "--json")
    assert done.code == 0
    assert [one["registrations"] for one in done.json["deleted"]] == [1]
    assert done.json["kept_event_ids"] == [101]
    stored.conn.execute("select pg_advisory_lock(%s)", [Database("", "startlist").lock_key("race", 2, 10)])
    held = cli("purge", "--before", "2026-01-01", "--yes")
    assert held.code == 3
    assert "another run" in held.stderr
    assert stored.value("select count(*) from runsignup_participants") == 3


def test_verify_tells_mends_and_is_clean_again(cli: Cli, database: Database, database_url: str) -> None:
    with running() as sandbox, closing(Stored(database_url)) as stored:
        cli.env["STARTLIST_API_URL"] = sandbox.url
        key = sandbox.control.partners()[0]
        secret = {"STARTLIST_API_SECRET": key["secret"]}
        assert cli("partner", "add", key["partner"], "--api-key", key["key"], env=secret).code == 0
        assert cli("sync").code == 0
        clean = cli("verify")
        assert (clean.code, clean.stdout.count("complete: 12 active, 0 removed")) == (0, 1)
        stored.conn.execute(
            "update runsignup_participants set last_name = 'Wrong' where registration_id = %s", [PERSON]
        )
        told = cli("verify", "--race", RACE)
        assert told.code == 1
        assert "1 difference" in told.stdout
        assert all(word in told.stdout for word in ("ours", "theirs", "last_name", "Wrong"))
        assert "--repair mends" in told.stderr
        assert "Wrong" not in told.stderr
        (found,) = cli("verify", "--json").json
        assert [(one["field"], one["ours"]) for one in found["differences"]] == [("last_name", "Wrong")]
        mended = cli("verify", "--repair")
        assert mended.code == 0
        assert "mended, and now complete" in mended.stdout


def test_verify_shows_what_each_key_is_good_for(cli: Cli, database: Database) -> None:
    with running() as sandbox:
        cli.env["STARTLIST_API_URL"] = sandbox.url
        assert cli("verify", "--account").code == 2  # there is no key
        key = sandbox.control.partners()[0]
        secret = {"STARTLIST_API_SECRET": key["secret"]}
        assert cli("partner", "add", key["partner"], "--api-key", key["key"], env=secret).code == 0
        sound = cli("verify", "--account")
        assert (sound.code, "1 API key: shown good." in sound.stdout) == (0, True)
        assert all(check in sound.stdout for check in ("authentication", "changed in 30 days", "bib search"))
        sandbox.control.fault("empty", match={"endpoint": "participants", "incremental": True}, times=None)
        failed = cli("verify", "--account", "--json")
        (account,) = failed.json
        assert (failed.code, account["result"], account["timing_partner_id"]) == (1, "fail", 1)
        assert [one["result"] for one in account["checks"]] == ["pass", "pass", "fail", "fail", "fail", "pass"]
        assert key["secret"] not in failed.stdout + failed.stderr
        misused = cli("verify", "--account", "--repair")
        assert (misused.code, "--account mends nothing" in misused.stderr) == (2, True)


def test_compare_tells_the_cost_and_what_incremental_passes_miss(cli: Cli, database: Database) -> None:
    with running() as sandbox:
        cli.env["STARTLIST_API_URL"] = sandbox.url
        key = sandbox.control.partners()[0]
        secret = {"STARTLIST_API_SECRET": key["secret"]}
        assert cli("partner", "add", key["partner"], "--api-key", key["key"], env=secret).code == 0
        assert cli("compare", RACE).code == 2  # not stored
        assert cli("sync").code == 0
        sandbox.control.reset_log()
        same = cli("compare", RACE, "--json")
        assert (same.code, same.json["same"], same.json["incremental"]["rows"]) == (0, True, 0)
        calls = [call for call in sandbox.control.log() if call["race_id"] == RACE]
        assert same.json["incremental"]["calls"] + same.json["full"]["calls"] == len(calls)
        assert 0 < same.json["incremental"]["bytes"] < same.json["full"]["bytes"]
        assert (same.json["full"]["rows"], same.json["full"]["registrations"]) == (12, 12)
        sandbox.control.edit(PERSON, silent=True, last_name="Silent")
        differs = cli("compare", RACE)
        assert differs.code == 1
        assert str(PERSON) in differs.stdout
        assert "1 registration that the incremental did not" in differs.stdout


@pytest.mark.usefixtures("logging_as_before")
def test_compare_does_not_wait_for_ever_for_a_race_that_another_run_holds(
    cli: Cli, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as sandbox, closing(Stored(database_url)) as stored:
        cli.env["STARTLIST_API_URL"] = sandbox.url
        key = sandbox.control.partners()[0]
        secret = {"STARTLIST_API_SECRET": key["secret"]}
        assert cli("partner", "add", key["partner"], "--api-key", key["key"], env=secret).code == 0
        assert cli("sync").code == 0
        stored.conn.execute("select pg_advisory_lock(%s)", [database.lock_key("race", 1, RACE)])
        monkeypatch.setattr("startlist.sync.race.LOCK_WAIT_SECONDS", 0.05)  # a minute, for a user
        for name, value in cli.env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(typer.Exit) as ended:
            compare(RACE)
    assert ended.value.exit_code == 3
    assert f"race {RACE}: another run holds this race" in capsys.readouterr().err


def test_doctor_says_what_to_do(cli: Cli, stored: Stored) -> None:
    sound = cli("doctor", "--offline")
    assert sound.code == 0
    assert "startlist partner add NAME --id 1 --api-key K" in sound.stdout
    stored.conn.execute("update sync_cursors set participants_watermark = 1")
    failing = cli("doctor", "--offline", "--json")
    assert failing.code == 1
    assert [one["check"] for one in failing.json if one["verdict"] == "fail"] == ["stale races"]
    assert all(one["todo"] for one in failing.json if one["verdict"] == "fail")
    gone = cli("doctor", env={"STARTLIST_DATABASE_URL": "postgresql://x:secret@127.0.0.1:1/none"})
    assert gone.code == 1
    assert "not checked: the database cannot be used" in gone.stdout
    assert "secret" not in gone.stdout + gone.stderr
