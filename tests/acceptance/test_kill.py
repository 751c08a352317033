"""`startlist sync` killed, interrupted and terminated in mid-pass: the next run goes on and ends with the truth.

Where a process dies is not left to chance: triggers in the database hold it at the n-th row of a table (in mid-COPY,
before a checkpoint, before a commit), the sandbox holds it at a call. The moments themselves are drawn by seed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest

from startlist.sandbox import World, bulk, running
from startlist.sandbox.server import Sandbox
from startlist.store.database import Database
from tests import truth
from tests.support import Cli

FEEDS = ("participants", "removed_participants")
HELD_TABLES = (
    "api_calls",
    "runsignup_participants",
    "runsignup_changes",
    "runsignup_bib_changes",
    "runsignup_events",
    "sync_cursors",
    "sync_history",
)
UNDER_WAY = 2  # the page that is being merged, and the one that is fetched meanwhile
LOCK = 4711

HOLD = f"""
create table hold_at (table_name text, step bigint);
insert into hold_at values (null, 0);
create function hold() returns trigger language plpgsql set search_path from current as $$
begin
    if tg_table_name = (select table_name from hold_at)
       and nextval('hold_' || tg_table_name) = (select step from hold_at) then
        perform pg_advisory_xact_lock_shared({LOCK});
    end if;
    return new;
end $$;
""" + "\n".join(
    f"create sequence hold_{table};"
    f" create trigger hold before insert or update on {table} for each row execute function hold();"
    for table in HELD_TABLES
)


def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.004)


class Scene:
    """A sandbox, a database that knows its key, and the command, held where a test wants it."""

    def __init__(self, sandbox: Sandbox, conn: truth.Connection, cli: Cli) -> None:
        self.sandbox, self.control, self.conn, self.cli = sandbox, sandbox.control, conn, cli
        self.asked: Counter[str] = Counter()
        self.race_id: int = self.control.partners()[0]["race_ids"][0]
        self.bib = 10_000
        cli.env["STARTLIST_API_URL"] = sandbox.url
        self.conn.execute(HOLD.encode())
        for key in self.control.partners():
            self.conn.execute("insert into timing_partners (company_name) values (%s)", [key["partner"]])
            self.conn.execute(
                "insert into partner_provider_credentials (timing_partner_id, principal, secret)"
                " select max(timing_partner_id), %s, %s from timing_partners",
                [key["key"], key["secret"]],
            )
        self.pages_of_500()

    def pages_of_500(self) -> None:
        for endpoint in FEEDS:
            self.control.fault("clamp", match={"endpoint": endpoint}, times=None, rows=500)

    # -- one leg ---------------------------------------------------------------------------------------------------

    def sync(self, *options: object) -> dict[str, Any]:
        """A run to its end, in good order; what `--json` says."""
        done = self.cli("sync", "--json", *options)
        assert done.code == 0, done.stderr
        summary: dict[str, Any] = done.json
        return summary

    @contextmanager
    def held_at_row(self, table: str, rows: int, *options: object) -> Iterator[subprocess.Popen[str]]:
        """A run that stands before so many more rows of a table are written; False if it ended before."""
        self.conn.execute("select pg_advisory_lock(%s)", [LOCK])
        passed = f"coalesce(pg_sequence_last_value('hold_{table}'), 0)"
        self.conn.execute(f"update hold_at set table_name = %s, step = %s + {passed}".encode(), [table, rows])
        child = self.cli.start("sync", "--json", *options)
        until(lambda: child.poll() is not None or self._waiting())
        try:
            yield child
        finally:
            self.conn.execute("update hold_at set table_name = null")
            self.conn.execute("select pg_advisory_unlock(%s)", [LOCK])
            child.wait(30)
            self._settled()

    @contextmanager
    def held_at_call(self, match: dict[str, Any], skip: int, *options: object) -> Iterator[subprocess.Popen[str]]:
        """A run that waits for the answer to a call, with every page before it stored."""
        fault = self.control.fault("timeout", match=match, skip=skip)
        child = self.cli.start("sync", "--json", *options)
        until(lambda: child.poll() is not None or self._used(fault))
        until(lambda: child.poll() is not None or self._stored_all())
        try:
            yield child
        finally:
            self.control.clear_faults()
            self.pages_of_500()
            child.wait(30)
            self._settled()

    def _waiting(self) -> bool:
        query = "select exists (select from pg_locks where locktype = 'advisory' and objid = %s and not granted)"
        return bool(self.conn.execute(query, [LOCK]).fetchone() == (True,))

    def _used(self, fault: dict[str, Any]) -> bool:
        return any(one["used"] and one["match"] == fault["match"] for one in self.control.faults())

    def _stored_all(self) -> bool:
        """Every page that was answered in this leg is merged and committed."""
        answered = sum(call["rows"] for call in self.control.log() if call["endpoint"] == "participants")
        query = "select coalesce(sum(rows_received), 0) from sync_history where status = 'running'"
        return self.conn.execute(query).fetchone() == (answered,)

    def _settled(self) -> None:
        """The server has noticed that the process is gone: its connections are closed, its locks free."""
        until(lambda: self.connections() == 0)
        query = "select count(*) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"
        query += " and database = (select oid from pg_database where datname = current_database())"
        assert self.conn.execute(query).fetchone() == (0,)

    def connections(self) -> int:
        query = (
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and application_name like 'startlist%'"
        )
        row = self.conn.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    # -- what is seen afterwards -----------------------------------------------------------------------------------

    def repeated(self) -> int:
        """How many calls of the feeds, since this was asked last, had been made in an earlier leg."""
        new = Counter(
            json.dumps([call["endpoint"], call["race_id"], call["event_ids"], call["params"]])
            for call in self.control.log()
            if call["endpoint"] in FEEDS
        )
        self.control.reset_log()
        assert all(times == 1 for times in new.values()), "the same call twice in one leg"
        again = sum(times for call, times in new.items() if call in self.asked)
        self.asked.update(new)
        return again

    def history(self) -> list[tuple[str, str | None, bool]]:
        """Of each pass: status, message, whether it is closed."""
        query = "select status, error_message, finished_at is not null from sync_history order by sync_history_id"
        return self.conn.execute(query).fetchall()

    def runs(self) -> list[tuple[str, bool]]:
        """Of each run: status, whether it is closed."""
        return self.conn.execute("select status, finished_at is not null from sync_runs order by run_id").fetchall()

    def bibs_by_log(self) -> dict[int, str | None]:
        """The last bib that the log tells of, by registration."""
        query = "select registration_id, new_bib from runsignup_bib_changes order by bib_change_id"
        return dict(self.conn.execute(query).fetchall())

    def bibs_of(self, registration_ids: Iterable[int]) -> dict[int, str | None]:
        query = "select registration_id, bib_num from runsignup_participants where registration_id = any(%s)"
        return dict(self.conn.execute(query, [list(registration_ids)]).fetchall())

    def truth(self) -> list[truth.EventTruth]:
        """What RunSignup has, event by event."""
        races = self.conn.execute("select race_id from runsignup_races").fetchall()
        return [event for (race_id,) in races for event in truth.truth(self.control, race_id).values()]

    def differences(self, **more: Any) -> list[str]:
        return truth.differences(self.conn, self.control, **more)


def world(registrations: int, *, races: int = 1, events: int = 3, removed: float = 0.2) -> World:
    made = World(seed=5)
    bulk(made, registrations=registrations, races=races, events_per_race=events, row_bytes=900, removed_share=removed)
    return made


@contextmanager
def scene(made: World, database: Database, cli: Cli) -> Iterator[Scene]:
    """Pages of 500 rows: a few thousand registrations have a dozen of them."""
    parameters = database.parameters("test")
    with running(made) as sandbox, psycopg.connect(autocommit=True, **parameters) as conn:
        yield Scene(sandbox, conn, cli)


FIRST_FULL: list[tuple[str, int] | tuple[dict[str, Any], int]] = [
    ("api_calls", 1),
    ({"endpoint": "race"}, 0),
    ("runsignup_events", 2),
    ("runsignup_participants", 1),
    ("runsignup_participants", 499),
    ("sync_cursors", 1),
    ({"endpoint": "participants"}, 1),
    ("sync_history", 3),
    ("runsignup_participants", 612),
    ("api_calls", 7),
    ({"endpoint": "participants"}, 2),
    ("sync_cursors", 3),
    ({"endpoint": "removed_participants"}, 0),
    ("runsignup_participants", 140),
    ({"endpoint": "removed_participants"}, 2),
    ("sync_cursors", 2),
    ("sync_history", 2),
    ("runsignup_events", 5),
    ("sync_history", 3),
]


def held_at(
    at: Scene, moment: str | dict[str, Any], count: int, *options: object
) -> AbstractContextManager[subprocess.Popen[str]]:
    """A run that stands before the n-th row of a table, or at the n-th call that matches."""
    if isinstance(moment, str):
        return at.held_at_row(moment, count, *options)
    return at.held_at_call(moment, count, *options)


def kill_at(at: Scene, moment: str | dict[str, Any], count: int, *options: object) -> bool:
    """Kill a run at a moment; False if it ended, in good order, before that came."""
    with held_at(at, moment, count, *options) as child:
        came = child.poll() is None
        if came:
            os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == (-signal.SIGKILL if came else 0)
    assert at.repeated() <= UNDER_WAY, (moment, count)
    assert [status for status, _, _ in at.history()].count("running") <= came
    return came


def test_first_full_pass_killed_at_every_kind_of_moment(database: Database, cli: Cli) -> None:
    with scene(world(3_600), database, cli) as at:
        for moment, count in FIRST_FULL:
            assert kill_at(at, moment, count), (moment, count)
            assert at.differences(unfinished=True) == []
        done = at.sync()
        assert done["status"] == "completed"
        assert at.repeated() <= UNDER_WAY
        assert at.differences() == []
        assert done["total_participants"] == sum(len(event.active) for event in at.truth())
        *killed, last = at.history()
        assert last == ("completed", None, True)
        assert set(killed) == {("failed", "interrupted", True)}
        at.sync()
        assert at.differences() == []


def live(at: Scene, chance: random.Random) -> None:
    """A minute of life: bibs for many, and some of everything else."""
    events = at.control.truth(at.race_id)["events"]
    active = [row["registration_id"] for rows in events.values() for row in rows["active"]]
    removed = [row["registration_id"] for rows in events.values() for row in rows["removed"]]
    chance.shuffle(active)
    for _ in range(120):
        at.bib += 1
        at.control.assign_bib(active.pop(), at.bib, chip=chance.choice((None, f"C{at.bib}")))
    for _ in range(10):
        at.control.clear_bib(active.pop())
        at.control.edit(active.pop(), last_name="O'Neil", city="Haddonfield")
        chance.choice((at.control.refund, at.control.defer))(active.pop())
        at.control.transfer(active.pop(), chance.choice(list(events)), transfer_bibs=True)
    at.control.restore(chance.choice(removed))
    for event_id in events:
        at.control.register(event_id, chance.randint(0, 20))
    at.control.clock(advance=chance.randint(61, 200))


def test_passes_killed_while_the_world_goes_on(database: Database, cli: Cli) -> None:
    chance = random.Random(11)
    moments: list[tuple[str | dict[str, Any], int]] = [
        ("runsignup_changes", 1),
        ("runsignup_participants", 130),
        ({"endpoint": "removed_participants"}, 0),
        ("runsignup_bib_changes", 77),
        ("runsignup_participants", 500),
        ("sync_history", 6),
        ("runsignup_changes", 40),
        ({"endpoint": "participants"}, 2),
        *((chance.choice(HELD_TABLES), chance.randint(1, 40)) for _ in range(6)),
    ]
    with scene(world(3_000), database, cli) as at:
        at.sync()
        for number, (moment, count) in enumerate(moments):
            live(at, chance)
            if number % 4 in (3, 0):
                at.asked.clear()  # a forced pass starts anew, and so does an ordinary one after it
            kill_at(at, moment, count, *(["--force-full-sync"] if number % 4 == 3 else []))
        live(at, chance)
        at.sync()
        at.sync()
        assert at.differences() == []
        # Nothing was written twice, and nothing was lost that only the logs tell of.
        twice = "select registration_id, new_bib from runsignup_bib_changes group by 1, 2, kind having count(*) > 1"
        assert at.conn.execute(twice + " and kind = 'assigned'").fetchall() == []
        by_log = at.bibs_by_log()
        assert by_log == at.bibs_of(by_log)
        forced = at.sync("--force-full-sync")["partners"][0]
        assert [forced[name] for name in ("rows_inserted", "rows_updated", "rows_removed", "silent_edits")] == [0] * 4


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_ends_at_once_and_the_next_goes_on(
    number: signal.Signals, status: int, database: Database, cli: Cli
) -> None:
    with scene(world(2_400), database, cli) as at:
        moments: list[tuple[str | dict[str, Any], int]] = [
            ({"endpoint": "participants"}, 2),
            ("runsignup_participants", 300),
            ("sync_cursors", 1),
            ({"endpoint": "removed_participants"}, 0),
        ]
        for moment, count in moments:
            with held_at(at, moment, count) as child:
                began = time.monotonic()
                child.send_signal(number)
                assert child.wait(10) == status
                assert time.monotonic() - began < 5
            output, errors = child.communicate()
            assert output == ""
            assert "Traceback" not in errors
            assert at.repeated() <= UNDER_WAY, (moment, count)
            assert at.differences(unfinished=True) == []
            # Nobody has to come along first: the interrupted pass and run say so themselves.
            assert at.history()[-1] == ("failed", "interrupted", True)
            assert at.runs()[-1] == ("interrupted", True)
        at.sync()
        assert at.repeated() <= UNDER_WAY
        assert at.differences() == []
