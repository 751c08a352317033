"""`startlist partner` as a user calls it; the secret shows nowhere but on the wire."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from pathlib import Path

import psycopg
import pytest

from startlist.sandbox import running
from startlist.sandbox.server import Sandbox
from startlist.store.database import Database
from tests.support import COMMAND, Cli, Result

SECRET = "hush-7f3a-of-a-timer"
GIVEN = {"STARTLIST_API_SECRET": SECRET}


def said(result: Result) -> str:
    return result.stdout + result.stderr


def stored(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, options="-c search_path=startlist") as conn:
        return conn.execute(query.encode()).fetchall()


def test_add_prints_the_id_and_seals_the_secret(cli: Cli, database: Database, database_url: str) -> None:
    first = cli("partner", "add", "Acme Timing", "--api-key", "key-1", env=GIVEN)
    assert (first.code, first.stdout) == (0, "1\n")
    assert "startlist partner check 1" in first.stderr
    more = cli(
        "partner", "add", "Best", "--api-key", "key-2", "--credential-type", "v2", "--id", 40, "--email", "a@b.example",
        "--calls-per-hour", 300, "--json", env=GIVEN,
    )  # fmt: skip
    assert more.json["timing_partner_id"] == 40
    query = "select timing_partner_id, principal, credential_type, calls_per_hour, secret like 'fernet:%' as sealed"
    rows = stored(database_url, query + " from partner_provider_credentials order by 1")
    assert rows == [(1, "key-1", "legacy", None, True), (40, "key-2", "v2", 300, True)]
    assert stored(database_url, "select contact_email from timing_partners where timing_partner_id = 40") == [
        ("a@b.example",)
    ]
    assert cli("partner", "add", "Next", "--api-key", "key-3", env=GIVEN).stdout == "41\n"
    again = cli("partner", "add", "Acme Timing", "--api-key", "key-4", "--id", 1, env=GIVEN)
    assert (again.code, again.stdout) == (0, "1\n")
    assert SECRET not in said(first) + said(more) + said(again)


def test_the_secret_comes_from_a_file_first(cli: Cli, database: Database, tmp_path: Path, home: Path) -> None:
    (tmp_path / "secret.txt").write_text(f"{SECRET}\n")
    env = {"STARTLIST_API_SECRET": "another"}
    assert cli("partner", "add", "A", "--api-key", "k", "--api-secret-file", tmp_path / "secret.txt", env=env).code == 0
    assert opened(cli, home) == [SECRET]
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    for file, says in (("two.txt", "on one line"), ("none.txt", "No such file")):
        failed = cli("partner", "add", "B", "--api-key", "k2", "--api-secret-file", tmp_path / file)
        assert failed.code == 2
        assert says in failed.stderr
        assert file in failed.stderr
        assert "one\n" not in failed.stderr


def opened(cli: Cli, home: Path) -> list[str | None]:
    """The secrets as the program reads them."""
    import asyncio

    from pydantic import SecretStr

    from startlist.config import Settings
    from startlist.store import partners
    from startlist.store.sealing import open_key_ring

    settings = Settings(  # type: ignore[call-arg]
        _env_file=None, home=home, database_url=SecretStr(cli.env["STARTLIST_DATABASE_URL"])
    )

    async def read() -> list[str | None]:
        database = await Database.open(settings)
        async with await database.connect() as conn:
            ring = await open_key_ring(conn, settings)
            return [one.secret for one in await partners.credentials(conn, ring, settings)]

    return asyncio.run(read())


def test_without_a_terminal_a_missing_secret_is_an_error_that_says_how(cli: Cli, database: Database) -> None:
    failed = cli("partner", "add", "Acme", "--api-key", "k")
    assert (failed.code, failed.stdout) == (2, "")
    for way in ("STARTLIST_API_SECRET", "--api-secret-file", "terminal"):
        assert way in failed.stderr


def test_a_terminal_is_asked_for_the_secret_which_does_not_echo(cli: Cli, database: Database, home: Path) -> None:
    screen = on_a_terminal(cli, ["partner", "add", "Acme", "--api-key", "k"], "API secret", SECRET)
    assert "1" in screen
    assert SECRET not in screen
    assert opened(cli, home) == [SECRET]


def on_a_terminal(cli: Cli, arguments: list[str], question: str, answer: str) -> str:
    """Run a command on a terminal of its own, answer its question, and return what the screen showed."""
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if not key.startswith("STARTLIST_")} | cli.env
    screen = ""
    with subprocess.Popen(
        [COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    ) as process:
        os.close(theirs)
        answered = False
        while select.select([ours], [], [], 30)[0]:
            try:
                screen += os.read(ours, 4096).decode()
            except OSError:  # the command has ended
                break
            if f"{question}: " in screen and not answered:
                answered = True
                os.write(ours, answer.encode() + b"\n")
        process.terminate()
    os.close(ours)
    return screen


def test_the_same_api_key_twice_is_refused(cli: Cli, database: Database, database_url: str) -> None:
    assert cli("partner", "add", "Acme", "--api-key", "k", env=GIVEN).code == 0
    for arguments in (["Acme"], ["Acme", "--id", "1"], ["Other"]):
        failed = cli("partner", "add", *arguments, "--api-key", "k", env=GIVEN)
        assert (failed.code, failed.stdout) == (2, "")
        assert "API key k belongs to timing partner 1 already" in failed.stderr
    assert stored(database_url, "select count(*) from timing_partners") == [(1,)]


def test_list_shows_state_and_no_secret(cli: Cli, database: Database, database_url: str) -> None:
    empty = cli("partner", "list")
    assert (empty.code, empty.stdout) == (0, "")
    assert "startlist partner add" in empty.stderr
    cli("partner", "add", "Acme Timing", "--api-key", "key-1", env=GIVEN)
    shown = cli("partner", "list")
    assert "Acme Timing" in shown.stdout
    assert "not verified yet" in shown.stdout
    stop = "update partner_provider_credentials set stopped_at = now(), stopped_reason = 'refused' returning 1"
    stored(database_url, stop)
    assert "stopped: refused" in cli("partner", "list").stdout
    (one,) = cli("partner", "list", "--json").json
    assert (one["timing_partner_id"], one["principal"], one["calls_per_hour"]) == (1, "key-1", 1000)
    assert "secret" not in one
    assert SECRET not in said(shown)


def test_a_secret_put_there_by_sql_is_never_shown(cli: Cli, database: Database, database_url: str) -> None:
    insert = f"""
        with t as (insert into timing_partners (company_name) values ('Acme') returning timing_partner_id)
        insert into partner_provider_credentials (timing_partner_id, provider_id, principal, secret)
        select timing_partner_id, 2, 'k', '{SECRET}' from t returning 1
    """
    stored(database_url, insert)
    for arguments in (["partner", "list"], ["partner", "list", "--json"], ["key", "rotate"]):
        result = cli(*arguments, env={"STARTLIST_LOG_LEVEL": "debug"})
        assert result.code == 0
        assert SECRET not in said(result)
    ((sealed,),) = stored(database_url, "select secret from partner_provider_credentials")
    assert str(sealed).startswith("fernet:")


def test_rotate_gives_a_new_secret_and_asks_which_of_several(cli: Cli, database: Database, home: Path) -> None:
    cli("partner", "add", "Acme", "--api-key", "key-1", env={"STARTLIST_API_SECRET": "old"})
    done = cli("partner", "rotate", 1, env=GIVEN)
    assert done.code == 0
    assert opened(cli, home) == [SECRET]
    cli("partner", "add", "Acme", "--id", 1, "--api-key", "key-2", env={"STARTLIST_API_SECRET": "second"})
    unclear = cli("partner", "rotate", 1, env=GIVEN)
    assert unclear.code == 2
    assert "key-1, key-2" in unclear.stderr
    assert cli("partner", "rotate", 1, "--api-key", "key-2", env={"STARTLIST_API_SECRET": "third"}).code == 0
    assert opened(cli, home) == [SECRET, "third"]
    unknown = cli("partner", "rotate", 9, env=GIVEN)
    assert unknown.code == 2
    assert "no timing partner 9" in unknown.stderr
    assert SECRET not in said(done) + said(unclear) + said(unknown)


def test_remove_says_what_goes_and_wants_a_yes(cli: Cli, database: Database, database_url: str) -> None:
    cli("partner", "add", "Acme", "--api-key", "key-1", env=GIVEN)
    cli("partner", "add", "Best", "--api-key", "key-2", env=GIVEN)
    refused = cli("partner", "remove", 1)
    assert refused.code == 2
    assert "--yes" in refused.stderr
    screen = on_a_terminal(cli, ["partner", "remove", "1"], "Delete them? [y/N]", "n")
    assert "1 rows of timing_partners" in screen
    assert "Nothing was deleted" in screen
    assert stored(database_url, "select count(*) from timing_partners") == [(2,)]
    done = cli("partner", "remove", 1, "--yes")
    assert done.code == 0
    assert "partner_provider_credentials" in done.stdout
    assert stored(database_url, "select timing_partner_id from timing_partners") == [(2,)]
    assert cli("partner", "remove", 1, "--yes").code == 2
    assert cli("partner", "remove", 2, "--yes", "--json").json["deleted"]["timing_partners"] == 1


@pytest.mark.parametrize("arguments", [["add", " ", "--api-key", "k"], ["add", "Acme", "--api-key", ""]])
def test_empty_words_are_refused(cli: Cli, database: Database, arguments: list[str]) -> None:
    failed = cli("partner", *arguments, env=GIVEN)
    assert failed.code == 2
    assert "is empty" in failed.stderr


def test_a_foreign_key_file_stops_everything(cli: Cli, database: Database, home: Path) -> None:
    assert cli("partner", "add", "Acme", "--api-key", "k", env=GIVEN).code == 0
    (home / "secret.key").unlink()
    failed = cli("partner", "rotate", 1, env=GIVEN)
    assert failed.code == 2
    assert "their key is not here" in failed.stderr
    assert not (home / "secret.key").exists()


def add_from(sandbox: Sandbox, cli: Cli, *names: str) -> dict[str, str]:
    """Add the sandbox's keys as partners of the same names; returns what points the command at the sandbox."""
    for one in sandbox.control.partners():
        if not names or one["name"] in names:
            arguments = ["--api-key", one["key"], "--credential-type", one["type"]]
            added = cli("partner", "add", one["name"], *arguments, env={"STARTLIST_API_SECRET": one["secret"]})
            assert added.code == 0, added.stderr
    return {"STARTLIST_API_URL": sandbox.url}


def test_check_verifies_with_two_calls_and_ends_a_stop(cli: Cli, database: Database, database_url: str) -> None:
    with running() as sandbox:
        env = add_from(sandbox, cli)
        stored(database_url, "update partner_provider_credentials set stopped_at = now() returning 1")
        done = cli("partner", "check", env=env)
        assert done.code == 0
        assert "accepted: registrations of race" in done.stdout
        assert sandbox.control.counts()["by_endpoint"] == {"races": 1, "participants": 1}
        (one,) = cli("partner", "list", "--json").json
        assert one["verified_at"] is not None
        assert one["stopped_at"] is None
        assert one["calls_last_hour"] == 2
        (shown,) = cli("partner", "check", 1, "--json", env=env).json
        assert (shown["accepted"], shown["races_listed"]) == (True, 1)


def test_trap_37_a_wrong_legacy_key_is_not_fooled_by_the_public_list(cli: Cli, database: Database) -> None:
    with running() as sandbox:
        control = sandbox.control
        for number in range(5):
            control.add_event(control.add_race(f"Race {number}"), "5K")
        key = control.partners()[0]
        assert cli("partner", "add", "Peak", "--api-key", key["key"], env={"STARTLIST_API_SECRET": "wrong"}).code == 0
        failed = cli("partner", "check", "--json", env={"STARTLIST_API_URL": sandbox.url})
        assert failed.code == 1
        (one,) = failed.json
        assert (one["accepted"], one["races_listed"]) == (False, 6)
        assert "permission denied" in one["result"]
        assert control.counts()["calls"] == 4
        (state,) = cli("partner", "list", "--json").json
        assert state["verified_at"] is None
        cli("partner", "rotate", 1, env={"STARTLIST_API_SECRET": key["secret"]})
        assert cli("partner", "check", env={"STARTLIST_API_URL": sandbox.url}).code == 0


def test_check_tells_good_keys_from_bad_ones(cli: Cli, database: Database) -> None:
    with running() as sandbox:
        control = sandbox.control
        good = control.add_partner("Good v2", "v2")
        bad = control.add_partner("Bad v2", "v2")
        control.add_event(control.add_race("Turkey Trot", keys=[good["key"]]), "10K")
        control.add_partner("No races")
        env = add_from(sandbox, cli)
        control.set_key(bad["key"])
        done = cli("partner", "check", "--json", env=env)
        assert done.code == 1
        results = {one["company_name"]: (one["accepted"], one["result"]) for one in done.json}
        assert {name: accepted for name, (accepted, _) in results.items()} == {
            "Peak Timing": True, "Good v2": True, "Bad v2": False, "No races": False,
        }  # fmt: skip
        assert "key authentication failed" in results["Bad v2"][1]
        assert "no race of the last 366 days" in results["No races"][1]
        for one in control.partners():
            assert one["secret"] not in said(done)


def test_one_race_that_is_closed_does_not_condemn_a_key(cli: Cli, database: Database) -> None:
    with running() as sandbox:
        control = sandbox.control
        control.add_event(control.add_race("Open"), "5K", in_days=90)
        env = add_from(sandbox, cli)
        control.fault("error", match={"endpoint": "participants"}, code=7)
        assert cli("partner", "check", env=env).code == 0


def test_check_without_anyone_to_check(cli: Cli, database: Database, database_url: str) -> None:
    assert cli("partner", "check").code == 2
    unknown = cli("partner", "check", 3)
    assert unknown.code == 2
    assert "no timing partner 3" in unknown.stderr
    stored(database_url, "insert into timing_partners (company_name) values ('Bare') returning 1")
    bare = cli("partner", "check", 1)
    assert bare.code == 2
    assert "no API key" in bare.stderr


def test_half_known_callers_and_lost_networks_are_said(cli: Cli, database: Database) -> None:
    with running() as sandbox:
        env = add_from(sandbox, cli)
        caller = {"STARTLIST_API_REGISTRATION": "1.unknown", "STARTLIST_API_REGISTRATION_SECRET": "hush-caller"}
        refused = cli("partner", "check", env=env | caller)
        assert refused.code == 2
        assert "caller registration" in refused.stderr
        assert "hush-caller" not in said(refused)
    gone = cli("partner", "check", env=env)
    assert gone.code == 1
    assert "no answer from RunSignup" in gone.stdout


@pytest.mark.parametrize(("fault", "log_format"), [("reset", "console"), ("truncate", "json")])
def test_trap_38_secrets_show_nowhere_in_a_failing_run(
    cli: Cli, database: Database, fault: str, log_format: str
) -> None:
    with running() as sandbox:
        env = add_from(sandbox, cli) | {"STARTLIST_LOG_LEVEL": "debug", "STARTLIST_LOG_FORMAT": log_format}
        sandbox.control.fault(fault, times=None)
        result = cli("partner", "check", "--json", env=env)
        assert result.code == 1
        assert sandbox.control.partners()[0]["secret"] not in said(result)
        assert "api_secret" not in said(result)
