"""What a user gets wrong, and what RunSignup gets wrong: each is told in a line that helps, and nothing is lost."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from startlist.sandbox import running
from startlist.sandbox.server import Sandbox
from startlist.store.database import SCHEMA_REVISION
from tests.conftest import Server
from tests.support import COMMAND, Cli, Result

OTHER_KEY = base64.urlsafe_b64encode(bytes(32)).decode()  # fixed: parameters name their tests in every process

RACE, FIRST = 100_001, 700_001  # of the sandbox's small world, with twelve people in it
NAMES = ("Turkey Trot", "Frostbite Five")  # of two more races
WRONG = "hush-not-the-secret"

Stored = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Three races of Peak Timing, of which Valley Timing sees one too."""
    with running() as started:
        control = started.control
        valley = control.add_partner("Valley Timing", "v2")
        for name in NAMES:
            event = control.add_event(control.add_race(name, keys=[control.partners()[0]["key"]]), "5K")
            control.register(event, count=3)
        control.share(RACE, valley["key"])
        yield started


@pytest.fixture(autouse=True)
def _no_faults(sandbox: Sandbox) -> None:
    sandbox.control.clear_faults()


def know(url: str, sandbox: Sandbox, *names: str, secret: str | None = None) -> None:
    """Insert the sandbox's keys of these partners, as another program would."""
    with connected(url) as conn:
        for key in sandbox.control.partners():
            if key["name"] in names:
                conn.execute(
                    "with t as (insert into timing_partners (company_name) values (%s) returning timing_partner_id)"
                    " insert into partner_provider_credentials (timing_partner_id, principal, secret, credential_type)"
                    " select timing_partner_id, %s, %s, %s from t",
                    [key["name"], key["key"], secret or key["secret"], key["type"]],
                )


def connected(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url, options="-c search_path=startlist -c timezone=UTC", autocommit=True)


def stored(url: str) -> Stored:
    """Every row of every table."""
    with connected(url) as conn:
        query = "select tablename from pg_tables where schemaname = 'startlist' order by 1"
        return {
            name: conn.execute(sql.SQL("select * from {} t order by t::text").format(sql.Identifier(name))).fetchall()
            for (name,) in conn.execute(query).fetchall()
        }


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with connected(url) as conn:
        return conn.execute(query.encode()).fetchall()


def execute(url: str, *statements: str) -> None:
    with connected(url) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@pytest.fixture(scope="module")
def ready(
    server: Server, template: str, module_home: Path, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cli]:
    """Two partners who have synced; what is refused changes nothing, so all tests of that share it."""
    name = server.create(template)
    url = server.url_of(name)
    know(url, sandbox, "Peak Timing", "Valley Timing")
    variables = {"STARTLIST_HOME": module_home, "STARTLIST_DATABASE_URL": url, "STARTLIST_API_URL": sandbox.url}
    cli = Cli({key: str(value) for key, value in variables.items()}, tmp_path_factory.mktemp("work"))
    done = cli("sync", "--quiet")
    assert done.code == 0, done.stderr
    yield cli
    server.drop(name)


@pytest.fixture
def unchanged(ready: Cli) -> Iterator[Cli]:
    """The same, for a test after which the database and the folder have to be as they were."""
    before, files = stored(ready.env["STARTLIST_DATABASE_URL"]), sorted(ready.cwd.rglob("*"))
    yield ready
    assert stored(ready.env["STARTLIST_DATABASE_URL"]) == before
    assert sorted(ready.cwd.rglob("*")) == files


def refused(result: Result, *says: str, code: int = 2) -> None:
    """One line on stderr says it, nothing else is printed."""
    assert result.code == code, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("startlist: ")
    for words in says:
        assert words in line


# -- settings ----------------------------------------------------------------------------------------------------------

REGISTRATION, REGISTRATION_SECRET = "STARTLIST_API_REGISTRATION", "STARTLIST_API_REGISTRATION_SECRET"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "STARTLIST_DATABASE_URL",
            "postgresql://anna:geheim@127.0.0.1:1/x",
            "Connection refused; is the address right",
        ),
        ("STARTLIST_DATABASE_URL", "postgresql://anna:x@geheim/x@127.0.0.1:1/x", "percent-encoded"),
        ("STARTLIST_DATABASE_URL", "mysql://anna:geheim@127.0.0.1/x", "postgresql://user:password@host:port/database"),
        ("STARTLIST_DATABASE_SCHEMA", "Geheim", "lower-case letters"),
        ("STARTLIST_DATABASE_SCHEMA", "nowhere", "run `startlist init`"),
        ("STARTLIST_HOME", "/dev/null/home", "secret.key"),
        ("STARTLIST_API_URL", "http://geheim.example.org/rest", "write https://"),
        ("STARTLIST_API_URL", "https://anna:geheim@example.org/rest", "without user"),
        ("STARTLIST_API_URL", "https://example.org:geheim/rest", "cannot be read"),
        (REGISTRATION, "12.geheim", f"{REGISTRATION_SECRET}: set both or neither"),
        (REGISTRATION_SECRET, "geheim", f"{REGISTRATION} and"),
        ("STARTLIST_SECRET_KEY", "geheim", "a new one: openssl rand"),
        ("STARTLIST_SECRET_KEY", OTHER_KEY, "sealed with another key"),
        ("STARTLIST_TIMEZONE", "Mars/Geheim", "America/New_York"),
        ("STARTLIST_CALLS_PER_HOUR", "geheim", "must be a whole number"),
        ("STARTLIST_CONCURRENT_CALLS", "0", "must be 1 or more"),
        ("STARTLIST_LOG_LEVEL", "geheim", "'debug', 'info', 'warning' or 'error'"),
        ("STARTLIST_LOG_FORMAT", "geheim", "'console' or 'json'"),
        ("STARTLIST_LOG_FILE", "/nowhere/sync.log", "name a file in a folder that is there"),
    ],
)
def test_a_wrong_setting_stops_before_anything_is_done(
    unchanged: Cli, sandbox: Sandbox, name: str, value: str, says: str
) -> None:
    sandbox.control.reset_log()
    result = unchanged("sync", env={name: value})
    refused(result, name, says)
    assert "geheim" not in result.stderr.lower()
    assert sandbox.control.counts()["calls"] == 0


def test_trap_39_half_a_caller_registration_stops_every_command(unchanged: Cli) -> None:
    for words in (["sync", "--dry-run"], ["partner", "check"], ["bibs", "lookup", "1", "2"], ["status"]):
        refused(unchanged(*words, env={REGISTRATION: "12.token"}), "set both or neither")


def test_settings_come_from_the_env_file_and_are_named_alike(unchanged: Cli) -> None:
    file = unchanged.cwd / ".env"
    url = unchanged.env["STARTLIST_DATABASE_URL"]
    try:
        file.write_text(f"STARTLIST_DATABASE_URL={url}\nSTARTLIST_TIMEZONE=Mars/Olympus\n")
        nothing = {"STARTLIST_DATABASE_URL": None}
        refused(unchanged("races", env=nothing), "STARTLIST_TIMEZONE: not a known time zone")
        listed = unchanged("races", "--json", env=nothing | {"STARTLIST_TIMEZONE": "UTC"})
        assert RACE in [race["race_id"] for race in listed.json]
        file.write_bytes(b"STARTLIST_API_SECRET=geheim\xff\n")
        refused(unchanged("races"), ".env", "UTF-8")
    finally:
        file.unlink()


def test_a_setting_that_is_spelt_wrong_is_told(ready: Cli) -> None:
    done = ready("partner", "list", "--json", env={"STARTLIST_DATABASE": "postgresql://anna:geheim@127.0.0.1/x"})
    assert (done.code, len(done.json)) == (0, 2)
    assert done.stderr == "startlist: STARTLIST_DATABASE is no setting; is STARTLIST_DATABASE_URL meant?\n"


def test_ctrl_c_at_a_question_changes_nothing(unchanged: Cli) -> None:
    for words in (["partner", "add", "Acme", "--api-key", "k"], ["partner", "remove", "1"]):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [COMMAND, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | unchanged.env,
            cwd=unchanged.cwd,
        )  # fmt: skip
        os.close(theirs)
        screen = b""
        with suppress(OSError):  # the terminal's other end is closed
            while data := os.read(ours, 4096):
                screen += data
                # Python notes a signal that comes just before it reads, and reads: a person would press once more.
                while screen.endswith(b": ") and not select.select([ours], [], [], 0.5)[0]:
                    process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        os.close(ours)
        assert b"Nothing was changed." in screen
        assert b"Traceback" not in screen


# -- the key file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"rubbish\n", 0o600, "does not hold a Fernet key: bring back your copy"),
        (b"", 0o600, "does not hold a Fernet key: bring back your copy"),
        (b"\xff\xfe\x00", 0o600, "does not hold a Fernet key: bring back your copy"),
        (OTHER_KEY.encode(), 0o600, "sealed with another key"),
        (None, 0o644, "other users can read the key file"),
        (None, 0, "their key is not here: bring back the key file"),
    ],
    ids=["rubbish", "empty", "binary", "foreign", "readable for others", "lost"],
)
def test_a_key_file_that_does_not_fit_is_named(unchanged: Cli, content: bytes | None, mode: int, says: str) -> None:
    file = Path(unchanged.env["STARTLIST_HOME"]) / "secret.key"
    kept = file.read_bytes()
    try:
        if mode == 0:
            file.unlink()
        else:
            file.write_bytes(kept if content is None else content)
            file.chmod(mode)
        for words in (["sync"], ["partner", "rotate", "1"]):
            refused(unchanged(*words, env={"STARTLIST_API_SECRET": "new"}), str(file), says)
        assert file.exists() is (mode != 0), "no key is made while secrets are sealed with another"
        if mode == 0:
            assert unchanged("races").code == 0, "who only reads needs no key"
    finally:
        file.unlink(missing_ok=True)
        file.write_bytes(kept)
        file.chmod(0o600)


def test_status_says_whose_a_shared_race_is(unchanged: Cli) -> None:
    shown = unchanged("status").stdout
    for whose in ("Sandbox 5K & 10K (Peak Timing)", "Sandbox 5K & 10K (Valley Timing)"):
        assert whose in shown
    assert "Turkey Trot (Peak Timing)" not in shown


# -- options and arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("sync --accept-missing", "--accept-missing needs --race"),
        (
            "sync --summary /nowhere/at/all.json",
            "--summary: /nowhere/at/all.json cannot be written: there is no folder",
        ),
        ("sync --summary /tmp", "--summary: /tmp is a folder"),
        ("sync --timing-partner 9", "no timing partner 9; startlist partner list"),
        ("partner check 9", "no timing partner 9; startlist partner list"),
        ("partner remove 9", "no timing partner 9; startlist partner list"),
        ("partner remove 1", "confirm with --yes"),
        ("partner rotate 1", "the API secret is missing: set STARTLIST_API_SECRET, name a file with --api-secret-file"),
        ("races --timing-partner 9", "no timing partner 9; startlist partner list"),
        ("bibs lookup 100001 17", "1 (Peak Timing) and 2 (Valley Timing): choose with --timing-partner"),
        ("bibs lookup 100001 17 --timing-partner 9", "race 100001 of timing partner 9 is not stored"),
        ("bibs lookup 100001 none --timing-partner 1", "only for bibs that are a number"),
        ("bibs lookup 99 17", "race 99 is not stored: startlist races shows what is"),
        ("bibs --follow --after-id 3 --limit 2", "leave out --limit"),
        ("db restore /nowhere/at/all.dump", "/nowhere/at/all.dump: no such file"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(unchanged: Cli, words: str, says: str) -> None:
    refused(unchanged(*words.split()), says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("sync --race turkey", "'--race': 'turkey' is not a whole number"),
        ("sync --race 0", "'--race': it must be 1 or more"),
        ("races --event 99999999999999999999", "'--event': 99999999999999999999 is too large"),
        ("sync --incremental-days 99999999999", "'--incremental-days': 99999999999 is too large"),
        ("races --limit 0", "'--limit': it must be 1 or more"),
        ("history --since yesterday", "'--since': 'yesterday' is not a date"),
        ("history --since 0001-01-01T00:00+14:00", "'--since': '0001-01-01T00:00+14:00' is not a date"),
        ("partner check x", "'ID': 'x' is not a whole number"),
        ("partner add Acme", "Missing option '--api-key'"),
        ("partner add Acme --api-key k --api-secret s", "No such option: --api-secret"),
        ("partner add Acme --api-key k --credential-type v3", "'v3' is not one of"),
        ("sync --force", "No such option: --force"),
        ("bibs lookup 100001", "Missing argument 'BIB'"),
    ],
)
def test_a_wrong_option_is_named(unchanged: Cli, words: str, says: str) -> None:
    result = unchanged(*words.split(), env={"STARTLIST_API_SECRET": WRONG})
    assert (result.code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    unboxed = " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
    assert says in unboxed
    assert "Try 'startlist" in unboxed


def test_a_name_or_secret_that_nobody_could_type_is_refused(unchanged: Cli) -> None:
    for words, secret, says in (
        (["Acme\nTiming", "--api-key", "k"], "s", "NAME holds signs that cannot be shown"),
        ([" ", "--api-key", "k"], "s", "NAME is empty"),
        (["Acme", "--api-key", "\x1b[2Jk"], "s", "--api-key holds signs"),
        (["Acme", "--api-key", "k"], "geh\u00e9im", "STARTLIST_API_SECRET must hold the API secret alone"),
        (["Acme", "--api-key", "k"], "geh\neim", "STARTLIST_API_SECRET must hold the API secret alone"),
    ):
        result = unchanged("partner", "add", *words, env={"STARTLIST_API_SECRET": secret})
        refused(result, says)
        assert "geh" not in result.stderr


def test_a_race_that_nobody_has_is_refused(ready: Cli) -> None:
    for words in (["--race", 99, "--quiet"], ["--race", 99, "--dry-run"]):
        refused(ready("sync", *words, env={"STARTLIST_LOG_LEVEL": "warning"}), "race 99 is in no partner's list")


def test_nobody_to_sync_for(cli: Cli, database_url: str) -> None:
    before = stored(database_url)
    for words in (["sync"], ["sync", "--dry-run"], ["partner", "check"]):
        refused(cli(*words), "startlist partner add NAME --api-key K")
    assert {name: found for name, found in stored(database_url).items() if name != "secret_keys"} == {
        name: found for name, found in before.items() if name != "secret_keys"
    }


def test_a_summary_for_a_pipe_or_a_link_leaves_them_what_they_are(ready: Cli, tmp_path: Path) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file.json"
    os.mkfifo(pipe)
    link.symlink_to(file)
    file.write_text("old")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert ready("sync", "--quiet", "--summary", pipe).code == 0
    reader.join(10)
    assert pipe.is_fifo()
    assert ready("sync", "--quiet", "--summary", link).code == 0
    assert link.is_symlink()
    for document in (read[0], file.read_text()):
        assert json.loads(document)["status"] == "completed"


# -- the schema --------------------------------------------------------------------------------------------------------


def test_a_schema_that_does_not_fit_is_refused_with_what_to_do(cli: Cli, database_url: str) -> None:
    commands = (["sync"], ["status"], ["partner", "list"], ["db", "backup"])
    for revision, says in (("0000", "run `startlist init`"), ("9999", "upgrade the program")):
        execute(database_url, f"update startlist_version set version_num = '{revision}'")
        for words in commands:
            refused(cli(*words), revision, SCHEMA_REVISION, says)
    refused(cli("init"), "9999", "upgrade the program")
    execute(database_url, "set client_min_messages = warning", "drop schema startlist cascade")
    for words in commands:
        refused(cli(*words), "run `startlist init`", "STARTLIST_DATABASE_SCHEMA")


def test_tables_of_another_system_are_never_adopted(cli: Cli, empty_database_url: str) -> None:
    execute(
        empty_database_url,
        "create schema startlist",
        "create table runsignup_participants (id int)",
        "insert into runsignup_participants values (7)",
    )
    env = {"STARTLIST_DATABASE_URL": empty_database_url}
    refused(cli("init", env=env), "import-legacy", "STARTLIST_DATABASE_SCHEMA", "runsignup_participants")
    refused(cli("sync", env=env), "run `startlist init`")
    assert stored(empty_database_url) == {"runsignup_participants": [(7,)]}


# -- keys that RunSignup does not accept -------------------------------------------------------------------------------


@pytest.fixture
def sync(cli: Cli, database_url: str, sandbox: Sandbox) -> Cli:
    """The command on an empty database of its own."""
    cli.env |= {"STARTLIST_API_URL": sandbox.url, "STARTLIST_LOG_LEVEL": "error"}
    return cli


def lines(result: Result) -> list[str]:
    """What a command says to its user, without what it logs."""
    return [line for line in result.stderr.splitlines() if line.startswith("startlist: ")]


@pytest.mark.parametrize(
    ("partner", "says"),
    [("Peak Timing", "3 races answered: permission denied"), ("Valley Timing", "key authentication failed")],
    ids=["legacy", "v2"],
)
def test_a_wrong_key_stores_nothing_of_the_public_list(
    sync: Cli, database_url: str, sandbox: Sandbox, partner: str, says: str
) -> None:
    know(database_url, sandbox, partner, secret=WRONG)
    result = sync("sync", "--json")
    assert result.code == 1
    assert result.json["status"] == "failed"
    first = lines(result)[0]
    for words in (partner, says, "give it the right secret: startlist partner rotate 1"):
        assert words in first
    assert "Traceback" not in result.stderr
    found = stored(database_url)
    for table in ("races", "events", "participants", "changes", "bib_changes", "quarantine"):
        assert found[f"runsignup_{table}"] == []
    assert found["sync_cursors"] == []
    assert not any(name in str(found) for name in NAMES)
    assert WRONG not in str(found) + result.stdout + result.stderr
    again = sync("sync", "--quiet")
    assert (again.code, len(lines(again))) == (1, 1)
    assert "stopped since" in again.stderr
    sandbox.control.reset_log()
    assert sync("sync", "--quiet").code == 1
    assert sandbox.control.counts()["calls"] == 0, "it is tried again once an hour"


def test_a_damaged_secret_fails_its_partner_only(sync: Cli, database_url: str, sandbox: Sandbox) -> None:
    know(database_url, sandbox, "Peak Timing")
    know(database_url, sandbox, "Valley Timing")
    assert sync("sync", "--quiet").code == 0
    execute(
        database_url, "update partner_provider_credentials set secret = 'fernet:gone' where credential_type = 'legacy'"
    )
    checked = sync("partner", "check")
    assert checked.code == 1
    assert "its stored secret is damaged" in checked.stdout
    result = sync("sync", "--json")
    assert result.code == 1
    assert [partner["races_synced"] for partner in result.json["partners"]] == [0, 1]
    (line,) = lines(result)
    assert "Peak Timing" in line
    assert "its stored secret is damaged and cannot be opened; give it the right secret: startlist partner" in line
    looked = sync("bibs", "lookup", RACE, 17, "--timing-partner", 1)
    assert looked.code == 1
    assert "damaged" in looked.stderr
    (key, *_) = sandbox.control.partners()
    assert sync("partner", "rotate", 1, env={"STARTLIST_API_SECRET": key["secret"]}).code == 0
    assert sync("sync", "--quiet").code == 0


def test_a_secret_that_no_header_can_hold_fails_its_partner_only(
    sync: Cli, database_url: str, sandbox: Sandbox
) -> None:
    know(database_url, sandbox, "Valley Timing", secret="geh\u00e9im")
    know(database_url, sandbox, "Peak Timing")
    result = sync("sync", "--json")
    assert result.code == 1
    assert [partner["races_synced"] for partner in result.json["partners"]] == [0, 3]
    (line,) = lines(result)
    assert "Valley Timing" in line
    assert "not copied rightly; give it the right secret" in line
    assert "geh" not in result.stdout + result.stderr


# -- what RunSignup answers --------------------------------------------------------------------------------------------


def ended(url: str) -> dict[int, tuple[str, int | None]]:
    """How each race's last pass ended, with RunSignup's error code."""
    query = "select race_id, status, error_code from sync_history order by sync_history_id"
    return {race: (status, code) for race, status, code in rows(url, query)}


@pytest.mark.parametrize(
    ("code", "says"),
    [(7, "permission denied; the race's director has to give"), (201, "race not found; RunSignup knows no race")],
)
def test_one_race_that_is_refused_fails_alone(
    sync: Cli, database_url: str, sandbox: Sandbox, code: int, says: str
) -> None:
    know(database_url, sandbox, "Peak Timing")
    sandbox.control.fault("error", match={"endpoint": "participants", "race_id": RACE}, times=None, code=code)
    result = sync("sync", "--quiet")
    assert (result.code, result.stdout) == (1, "")
    (line,) = lines(result)
    assert line.startswith(f"startlist: race {RACE} (Sandbox 5K & 10K; Peak Timing): RunSignup reports error {code}")
    assert says in line
    assert ended(database_url) == {RACE: ("failed", code)} | dict.fromkeys((RACE + 1, RACE + 2), ("completed", None))
    assert "failed" in sync("history", "--race", RACE).stdout
    sandbox.control.clear_faults()
    assert sync("sync", "--quiet").code == 0


def test_a_caller_registration_that_runsignup_does_not_know_stops_everything(
    sync: Cli, database_url: str, sandbox: Sandbox
) -> None:
    know(database_url, sandbox, "Peak Timing", "Valley Timing")
    env = {REGISTRATION: "12.unknown", REGISTRATION_SECRET: WRONG}
    for words in (["sync", "--quiet"], ["sync", "--dry-run"], ["partner", "check"]):
        result = sync(*words, env=env)
        assert result.code == 2
        (line,) = lines(result)
        for says in ("error 17", REGISTRATION, REGISTRATION_SECRET):
            assert says in line
        assert WRONG not in result.stdout + result.stderr
    assert stored(database_url)["runsignup_races"] == []
    sandbox.control.settings(registration_required=True)
    try:
        assert sync("sync", "--quiet").code == 2
        token, secret = sandbox.control.registration()
        assert sync("sync", "--quiet", env={REGISTRATION: token, REGISTRATION_SECRET: secret}).code == 0
    finally:
        sandbox.control.settings(registration_required=False)


def kept(url: str) -> Stored:
    """What a failed pass leaves alone."""
    columns = "participants_watermark, removed_watermark, event_ids, last_full_at, last_incremental_at, checkpoint"
    return {
        "rows": rows(url, "select * from runsignup_participants order by registration_id"),
        "marks": rows(url, f"select {columns} from sync_cursors order by race_id"),
        "changes": rows(url, "select * from runsignup_changes"),
    }


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("html", {}), ("truncate", {}), ("wrong_shape", {"value": {"x": 1}})],
    ids=["html", "truncated", "an object without a page"],
)
def test_an_answer_that_is_no_page_fails_the_pass_and_changes_nothing(
    sync: Cli, database_url: str, sandbox: Sandbox, kind: str, parameters: Mapping[str, Any]
) -> None:
    know(database_url, sandbox, "Peak Timing")
    assert sync("sync", "--quiet").code == 0
    before = kept(database_url)
    sandbox.control.fault(kind, match={"endpoint": "participants", "race_id": RACE}, times=None, **parameters)
    result = sync("sync", "--race", RACE, "--quiet")
    assert result.code == 1
    (line,) = lines(result)
    assert "RunSignup's answer cannot be used" in line
    assert "run this again in a while" in line
    assert kept(database_url) == before
    query = f"select sync_type, status from sync_history where race_id = {RACE} order by sync_history_id desc limit 1"
    assert rows(database_url, query) == [("full_fallback", "failed")]
    sandbox.control.clear_faults()
    assert sync("sync", "--quiet").code == 0


def test_no_network(sync: Cli, database_url: str, sandbox: Sandbox) -> None:
    know(database_url, sandbox, "Peak Timing")
    result = sync("sync", "--quiet", env={"STARTLIST_API_URL": "http://127.0.0.1:1/rest"})
    assert result.code == 1
    (line,) = lines(result)
    assert "Peak Timing" in line
    assert "the race list could not be read: no answer from RunSignup" in line


@pytest.mark.parametrize("what", ["not_object", "null", "no_registration_id", "zero_id", "no_user"])
def test_trap_43_a_bad_record_is_set_aside_and_the_others_are_stored(
    sync: Cli, database_url: str, sandbox: Sandbox, what: str
) -> None:
    know(database_url, sandbox, "Peak Timing")
    match = {"endpoint": "participants", "race_id": RACE}
    sandbox.control.fault("bad_rows", match=match, times=None, what=[what], mode="insert")
    result = sync("sync", "--race", RACE, "--quiet")
    assert result.code == 1
    (line,) = lines(result)
    assert f"race {RACE}" in line
    assert "1 records quarantined" in line
    assert ended(database_url) == {RACE: ("partial", None)}
    assert rows(database_url, "select count(*) from start_list") == [(12,)]
    ((reason, raw),) = rows(database_url, "select reason, raw from runsignup_quarantine where resolved_at is null")
    assert reason
    assert isinstance(raw, str)
    assert "quarantine" in sync("status").stdout


def test_a_misfit_field_does_not_cost_the_runner(sync: Cli, database_url: str, sandbox: Sandbox) -> None:
    know(database_url, sandbox, "Peak Timing")
    misfit = {"age": "old", "user": {"dob": "13/45/1990", "gender": 7}}
    match = {"endpoint": "participants", "race_id": RACE}
    sandbox.control.fault("bad_rows", match=match, times=None, fields=misfit)
    assert sync("sync", "--race", RACE, "--quiet").code == 0
    query = "select age, dob, additional_data, field_errors from runsignup_participants where field_errors <> '{}'"
    ((age, dob, additional, errors),) = rows(database_url, query)
    assert (age, dob) == (None, None)
    assert additional["age"] == "old"
    assert "13/45/1990" in str(additional)
    assert {"age", "dob"} <= set(errors)
    assert rows(database_url, "select count(*) from start_list") == [(12,)]
