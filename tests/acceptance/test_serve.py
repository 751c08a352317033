"""`startlist serve` and `worker` as processes: a race stays fresh, whatever is killed, restarted or stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from startlist.sandbox import World, bulk, running
from startlist.store import local
from startlist.store.database import Database
from tests import truth
from tests.scene import until
from tests.scheduling import in_zone
from tests.support import COMMAND, Cli

FAST = {  # race day's cadence, for tests
    "STARTLIST_MONITORING": "off",
    "STARTLIST_CADENCE_RACE_SECONDS": "2",
    "STARTLIST_CADENCE_NEAR_SECONDS": "4",
    "STARTLIST_CALLS_PER_HOUR": "100000",
}
PERIOD = 2.0


class Stage:
    """A sandbox with a race that starts in two hours, a database that knows its key, and processes."""

    def __init__(self, control: Any, url: str, database: Database, cli: Cli) -> None:
        self.control, self.database, self.cli = control, database, cli
        self.conn: truth.Connection = psycopg.connect(autocommit=True, **database.parameters("test"))
        cli.env |= FAST | {"STARTLIST_API_URL": url}
        for key in control.partners():
            self.execute("insert into timing_partners (company_name) values (%s)", key["partner"])
            self.execute(
                "insert into partner_provider_credentials (timing_partner_id, principal, secret)"
                " select max(timing_partner_id), %s, %s from timing_partners",
                key["key"], key["secret"],
            )  # fmt: skip
        self.races: list[int] = control.partners()[0]["race_ids"]
        soon = in_zone(self.value("select now()") + timedelta(hours=2))
        for race in self.races:
            for event in control.truth(race)["events"]:
                control.edit_event(event, start_time=soon)

    def reconnect(self) -> None:
        self.conn.close()
        self.conn = psycopg.connect(autocommit=True, **self.database.parameters("test"))

    def reachable(self) -> bool:
        """Whether the database answers again."""
        try:
            self.reconnect()
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, query: str, *values: Any) -> None:
        self.conn.execute(query.encode(), values)

    def value(self, query: str, *values: Any) -> Any:
        row = self.conn.execute(query.encode(), values).fetchone()
        return None if row is None else row[0]

    def start(self, command: str = "serve", **env: str) -> subprocess.Popen[str]:
        """A process whose log goes to a file."""
        with (self.cli.cwd / f"{command}-{len(self.cli.started)}.log").open("w") as log:
            process = subprocess.Popen(
                [COMMAND, command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=self.cli._environment(env),
                cwd=self.cli.cwd,
                text=True,
            )
        self.cli.started.append(process)
        return process

    def log(self, process: subprocess.Popen[str]) -> str:
        number = self.cli.started.index(process)
        (path,) = self.cli.cwd.glob(f"*-{number}.log")
        return path.read_text()

    def passes(self, more: str = "") -> int:
        return int(self.value(f"select count(*) from sync_history where status = 'completed' {more}"))

    def fresh(self) -> None:
        """Wait for two passes of every race that begin from now on and end well."""
        after = self.value("select coalesce(max(sync_history_id), 0) from sync_history")
        until(
            lambda: all(self.passes(f"and race_id = {race} and sync_history_id > {after}") >= 2 for race in self.races)
        )

    def leader(self) -> int | None:
        """The server process of the scheduler that leads."""
        found = self.value(
            "select a.pid from pg_stat_activity as a join pg_locks as l using (pid)"
            " where a.application_name like 'startlist scheduler %%' and l.locktype = 'advisory' and l.granted"
        )
        return None if found is None else int(found)

    def equal(self) -> bool:
        return truth.differences(self.conn, self.control) == []


@contextmanager
def stage(database: Database, cli: Cli, *, registrations: int = 60, races: int = 2) -> Iterator[Stage]:
    world = World(seed=5)
    bulk(world, registrations=registrations, races=races, events_per_race=2, row_bytes=600, removed_share=0.1)
    with running(world) as sandbox:
        at = Stage(sandbox.control, sandbox.url, database, cli)
        try:
            yield at
        finally:
            for process in cli.started:
                if process.poll() is None:
                    process.kill()
                process.wait()
            at.conn.close()


@pytest.fixture
def at(database: Database, cli: Cli) -> Iterator[Stage]:
    with stage(database, cli) as made:
        yield made


def stopped(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> float:
    """End a process; how long it took."""
    begun = time.monotonic()
    process.send_signal(number)
    process.wait(20)
    return time.monotonic() - begun


def memory(process: subprocess.Popen[str]) -> float:
    """The most that a process ever had in memory, in MB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the process is gone")


def some(at: Stage) -> list[int]:
    """Registrations that are active, of the first race."""
    events = at.control.truth(at.races[0])["events"]
    return [row["registration_id"] for rows in events.values() for row in rows["active"]]


def test_a_race_in_the_minute_cadence_stays_fresh_and_a_bib_is_told(at: Stage) -> None:
    process = at.start()
    at.fresh()
    assert at.equal()
    registration = some(at)[0]
    with psycopg.connect(autocommit=True, **at.database.parameters("test listener")) as listener:
        listener.execute("listen startlist_bibs")
        begun = time.monotonic()
        at.control.assign_bib(registration, 1207)
        told = next(listener.notifies(timeout=PERIOD + 20))
        assert time.monotonic() - begun < PERIOD + 10  # two seconds more than its period, where nothing else runs
    assert json.loads(told.payload)["race_id"] == at.races[0]
    assert at.value("select bib_num from runsignup_participants where registration_id = %s", registration) == "1207"
    assert memory(process) < 150
    assert stopped(process) < 10
    assert process.returncode == 0
    assert at.value("select array_agg(status) from sync_runs") == ["completed"]
    assert at.value("select count(*) from sync_history where status = 'running'") == 0
    assert "Traceback" not in at.log(process)


def test_ctrl_c_ends_it_in_order_as_well(at: Stage) -> None:
    process = at.start()
    at.fresh()
    assert stopped(process, signal.SIGINT) < 10
    assert process.returncode == 130


def test_the_job_of_a_worker_that_is_killed_is_done_by_another(at: Stage) -> None:
    leads = at.start()
    at.fresh()
    stopped(leads)
    at.control.fault("timeout", match={"endpoint": "participants"}, times=None)
    victim = at.start()
    until(lambda: at.value("select count(*) from sync_history where status = 'running'") > 0)
    helper = at.start("worker")
    until(lambda: at.value("select count(*) from procrastinate_workers") == 2)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    at.control.clear_faults()
    begun = time.monotonic()
    second = at.start()
    at.fresh()
    assert time.monotonic() - begun < 60
    assert at.equal()
    for process in (helper, second):
        assert stopped(process) < 10
        assert process.returncode == 0


def test_a_second_serve_helps_and_takes_over_when_the_first_one_dies(at: Stage) -> None:
    first = at.start()
    at.fresh()
    leader = at.leader()
    second = at.start()
    until(lambda: at.value("select count(*) from procrastinate_workers") == 2)
    assert at.leader() == leader
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    until(lambda: at.leader() not in (None, leader))
    at.fresh()
    assert at.equal()
    assert "scheduler.leads" in at.log(second)
    stopped(second)
    assert second.returncode == 0


def test_sigterm_ends_a_long_pass_at_a_page_and_the_next_process_goes_on(database: Database, cli: Cli) -> None:
    with stage(database, cli, registrations=4_000, races=1) as at:
        for endpoint in ("participants", "removed_participants"):
            at.control.fault("clamp", match={"endpoint": endpoint}, times=None, rows=500)
        at.control.fault("delay", match={"endpoint": "participants"}, times=None, ms=700)
        process = at.start()
        until(lambda: bool(at.value("select count(*) > 0 from sync_cursors where checkpoint is not null")))
        assert stopped(process) < 10
        assert process.returncode == 0
        assert at.value("select checkpoint is not null from sync_cursors")
        assert at.value("select count(*) from sync_history where status = 'running'") == 0
        second = at.start()
        at.fresh()
        assert at.equal()
        stopped(second)


def test_sigterm_does_not_wait_for_an_answer_that_never_comes(at: Stage) -> None:
    process = at.start()
    at.fresh()
    at.control.fault("timeout", match={"endpoint": "participants"}, times=None)
    until(lambda: at.value("select count(*) from sync_history where status = 'running'") > 0)
    assert stopped(process) < 10
    assert process.returncode == 0
    assert at.value("select count(*) from sync_history where status = 'running'") == 0
    at.control.clear_faults()
    second = at.start()
    at.fresh()
    stopped(second)


@pytest.mark.parametrize("how", ["restart", "terminate", "kill"])
def test_a_database_that_goes_away_is_survived(how: str, home: Path, tmp_path: Path) -> None:
    cli = Cli({"STARTLIST_HOME": str(home)}, tmp_path)
    try:
        assert cli("init").code == 0
        database = Database(cli("db", "url", "--show-secret").stdout.strip(), "startlist")
        cli.env["STARTLIST_DATABASE_URL"] = database.conninfo.split("&options")[0].split("?options")[0]
        with stage(database, cli) as at:
            if how == "kill":  # nobody but serve starts it again
                del cli.env["STARTLIST_DATABASE_URL"]
            process = at.start()
            at.fresh()
            if how == "restart":
                at.conn.close()
                local.stop(home)
                local.start(home)
                at.reconnect()
            elif how == "kill":
                at.conn.close()
                pid = int((home / "postgresql" / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
                os.kill(pid, signal.SIGKILL)
                until(at.reachable)
            else:
                at.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'startlist %%'"
                )
            at.fresh()
            assert at.equal()
            assert process.poll() is None
            assert stopped(process) < 10
            assert process.returncode == 0
    finally:
        cli.close()


def test_a_leader_and_a_worker_that_are_paused_in_mid_pass_are_replaced_and_do_no_harm_when_they_wake_up(
    at: Stage,
) -> None:
    """As SIGSTOP does, or a machine that sleeps: their connections live on, with all locks, here with both lanes."""
    paused = [at.start(command, STARTLIST_WORKER_PASSES="1") for command in ("serve", "worker")]
    at.fresh()
    led_by = at.leader()
    at.control.fault("delay", ms=20_000, match={"endpoint": "participants"}, times=None)
    until(lambda: at.value("select count(distinct run_id) from sync_history where status = 'running'") == 2)
    left_open = at.value("select array_agg(sync_history_id) from sync_history where status = 'running'")
    for process in paused:
        process.send_signal(signal.SIGSTOP)
    at.control.clear_faults()
    begun = time.monotonic()
    another = at.start()
    for number, person in enumerate(some(at)[:5]):
        at.control.assign_bib(person, 900 + number)
    at.fresh()
    assert time.monotonic() - begun < 60
    assert at.equal()
    assert at.leader() not in (None, led_by)
    assert "worker.silent" in at.log(another)
    assert at.value("select count(*) from sync_history where status = 'failed' and error_message = 'interrupted'"
                    " and sync_history_id = any(%s)", left_open) == 2  # fmt: skip

    last = at.value("select max(change_id) from runsignup_changes")
    for process in paused:
        process.send_signal(signal.SIGCONT)
    until(lambda: at.value("select count(*) from sync_runs where status = 'running'") == 3)
    at.fresh()
    assert at.equal()
    assert at.value("select max(change_id) from runsignup_changes") == last  # nothing was stored twice
    for process in (*paused, another):
        assert process.poll() is None
        assert "Traceback" not in at.log(process)
        stopped(process)
        assert process.returncode == 0


@pytest.mark.parametrize(
    "connection", ["startlist run", "startlist scheduler", "startlist lane", "startlist queue", "startlist pass"]
)
def test_a_single_connection_that_is_lost_is_survived(connection: str, at: Stage) -> None:
    process = at.start()
    at.fresh()
    lost = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like %s"
    at.execute(lost, f"{connection} %")
    at.fresh()
    assert at.equal()
    assert process.poll() is None
    stopped(process)
    assert process.returncode == 0


def test_a_job_that_the_queue_lost_does_not_hold_its_race_back(at: Stage) -> None:
    process = at.start()
    at.fresh()
    key = f"race:1:{at.races[0]}"
    until(
        lambda: at.value(  # as when the connection broke while the worker took the job
            "insert into procrastinate_jobs (queue_name, task_name, lock, queueing_lock, status, worker_id)"
            " select 'startlist', 'startlist:race', %s, %s, 'doing', max(id) from procrastinate_workers"
            " on conflict do nothing returning true",
            key, key,
        ) is not None
    )  # fmt: skip
    at.fresh()
    assert "jobs.lost" in at.log(process)
    stopped(process)
    assert process.returncode == 0


def removed(at: Stage) -> bool:
    """Delete all partners; not while a page is stored that waits for their rows."""
    try:
        at.execute("delete from timing_partners")
    except psycopg.errors.DeadlockDetected:
        return False
    return True


def test_a_partner_that_is_removed_while_its_jobs_wait_leaves_the_others_fresh(at: Stage) -> None:
    process = at.start()
    at.fresh()
    until(lambda: removed(at))
    until(lambda: at.value("select count(*) from procrastinate_jobs") == 0)
    assert process.poll() is None
    stopped(process)
    assert process.returncode == 0


def test_a_start_that_is_moved_is_seen_by_itself(database: Database, cli: Cli) -> None:
    with stage(database, cli, races=1) as at:
        for event in at.control.truth(at.races[0])["events"]:
            at.control.edit_event(event, start_time=in_zone(at.value("select now()") + timedelta(days=20)))
        process = at.start(STARTLIST_CADENCE_EVENING_SECONDS="4", STARTLIST_CADENCE_ROUTINE_SECONDS="4")
        at.fresh()
        until(lambda: at.value("select rank from sync_cursors") == "routine")
        soon = in_zone(at.value("select now()") + timedelta(hours=2))
        for event in at.control.truth(at.races[0])["events"]:
            at.control.edit_event(event, start_time=soon)
        at.execute("update runsignup_races set record_read_at = now() - interval '2 days'")
        until(lambda: at.value("select rank from sync_cursors") == "race_day")
        stopped(process)


def test_a_caller_registration_that_is_refused_ends_it(at: Stage) -> None:
    process = at.start(STARTLIST_API_REGISTRATION="no.body", STARTLIST_API_REGISTRATION_SECRET="nothing")
    assert process.wait(30) == 2
    assert "STARTLIST_API_REGISTRATION" in at.log(process)


def test_a_database_that_does_not_fit_is_refused_at_once(cli: Cli, empty_database_url: str) -> None:
    done = cli("serve", env={"STARTLIST_DATABASE_URL": empty_database_url})
    assert done.code == 2
    assert "run `startlist init`" in done.stderr


def test_another_key_than_the_one_that_sealed_is_refused_at_once(cli: Cli, database: Database) -> None:
    added = cli("partner", "add", "Acme", "--api-key", "K", env={"STARTLIST_API_SECRET": "S"})
    assert added.code == 0
    done = cli("worker", env={"STARTLIST_SECRET_KEY": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="})
    assert done.code == 2
    assert "STARTLIST_SECRET_KEY" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_settings_are_refused_at_once(cli: Cli) -> None:
    done = cli("serve", env={"STARTLIST_CADENCE_NEAR_SECONDS": "100"})
    assert done.code == 2
    assert "STARTLIST_CADENCE_NEAR_SECONDS: must be a multiple of STARTLIST_CADENCE_RACE_SECONDS" in done.stderr
