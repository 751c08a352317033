"""`startlist init` as a user types it."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from startlist.store import local
from startlist.store.database import SCHEMA_REVISION
from tests.support import Cli


def test_init_makes_a_database_from_nothing_and_says_where(cli: Cli, home: Path) -> None:
    first = cli("init")
    assert first.code == 0, first.stderr
    assert f"{home}/postgresql/run (embedded, in {home})" in first.stdout
    assert f"Database startlist, schema startlist: made at revision {SCHEMA_REVISION}" in first.stdout
    assert local.is_running(home), "the server has to outlive the command"
    again = cli("init")
    assert f"is up to date (revision {SCHEMA_REVISION})" in again.stdout


def test_init_json_names_the_place(cli: Cli, database_url: str) -> None:
    done = cli("init", "--json")
    assert done.code == 0, done.stderr
    answer = done.json
    assert answer["embedded"] is False
    assert answer["home"] is None
    assert answer["schema"] == "startlist"
    assert answer["database"] in database_url
    assert answer["previous_revision"] == answer["revision"] == SCHEMA_REVISION
    assert int(answer["server_version"].split(".")[0]) >= 13


def test_init_in_a_schema_of_the_users_choice(cli: Cli, empty_database_url: str) -> None:
    env = {"STARTLIST_DATABASE_URL": empty_database_url, "STARTLIST_DATABASE_SCHEMA": "races_2027"}
    assert cli("init", env=env).code == 0
    with psycopg.connect(empty_database_url) as connection:
        found = connection.execute("select schemaname from pg_tables where tablename = 'timing_partners'")
        assert found.fetchall() == [("races_2027",)]


def test_init_leaves_the_tables_of_another_system_alone(cli: Cli, empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("create schema startlist")
        connection.execute("create table startlist.timing_partners (id int)")
    refused = cli("init", env={"STARTLIST_DATABASE_URL": empty_database_url})
    assert refused.code == 2
    assert "import-legacy" in refused.stderr
    with psycopg.connect(empty_database_url) as connection:
        found = connection.execute("select tablename from pg_tables where schemaname = 'startlist'")
        assert found.fetchall() == [("timing_partners",)]


def test_an_unreachable_database_ends_with_2_and_one_line(cli: Cli) -> None:
    refused = cli("init", env={"STARTLIST_DATABASE_URL": "postgresql://anna:geheim@127.0.0.1:1/x"})
    assert refused.code == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("startlist: STARTLIST_DATABASE_URL: the database at 127.0.0.1:1")
    assert len(refused.stderr.splitlines()) == 1
    assert "geheim" not in refused.stderr


def test_no_log_level_tells_the_password(cli: Cli) -> None:
    env = {"STARTLIST_DATABASE_URL": "postgresql://anna:geheim@127.0.0.1:1/x", "STARTLIST_LOG_LEVEL": "debug"}
    refused = cli("init", env=env)
    assert refused.code == 2
    assert "Error" in refused.stderr, "debug shows where it happened"
    assert "database.py" in refused.stderr
    assert "geheim" not in refused.stderr


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("STARTLIST_TIMEZONE", "Mars/Olympus", "STARTLIST_TIMEZONE: not a known time zone"),
        ("STARTLIST_API_URL", "http://example.org", "STARTLIST_API_URL: plain http"),
        ("STARTLIST_API_REGISTRATION", "12.token", "STARTLIST_API_REGISTRATION_SECRET"),
        ("STARTLIST_DATABASE_URL", "mysql://x", "STARTLIST_DATABASE_URL: must begin with postgresql://"),
        ("STARTLIST_DATABASE_SCHEMA", 'x"; drop', "STARTLIST_DATABASE_SCHEMA"),
        ("STARTLIST_LOG_LEVEL", "loud", "STARTLIST_LOG_LEVEL"),
        ("STARTLIST_LOG_FILE", "/nowhere/at/all.log", "STARTLIST_LOG_FILE"),
        ("STARTLIST_HOME", "/dev/null/x", "STARTLIST_HOME"),
        ("STARTLIST_CALLS_PER_HOUR", "0", "STARTLIST_CALLS_PER_HOUR"),
    ],
)
def test_a_wrong_setting_ends_with_2_and_its_name(cli: Cli, variable: str, value: str, says: str) -> None:
    refused = cli("init", env={variable: value})
    assert refused.code == 2
    assert says in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def put_back(url: str) -> None:
    """The schema as it was before its last revision."""
    with psycopg.connect(url) as connection:
        connection.execute("alter table startlist.runsignup_events drop column purged_at")
        connection.execute("update startlist.startlist_version set version_num = '0008'")


def test_an_upgrade_is_preceded_by_a_backup_that_restores(
    cli: Cli, home: Path, database_url: str, empty_database_url: str
) -> None:
    put_back(database_url)
    done = cli("init", "--json")
    assert done.code == 0, done.stderr
    assert (done.json["previous_revision"], done.json["revision"]) == ("0008", SCHEMA_REVISION)
    (file,) = (home / "backups").iterdir()
    assert done.json["backup"] == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    restored = cli("db", "restore", file, "--json", env={"STARTLIST_DATABASE_URL": empty_database_url})
    assert restored.json["revision"] == "0008"
    assert cli("init", "--json").json["backup"] is None, "nothing was upgraded"


def test_without_a_backup_nothing_is_upgraded_unless_asked(cli: Cli, home: Path, database_url: str) -> None:
    put_back(database_url)
    (home / "backups").write_text("in the way")
    refused = cli("init")
    assert refused.code == 2
    assert str(home / "backups") in refused.stderr
    assert cli("init", "--no-backup", "--json").json["previous_revision"] == "0008"
