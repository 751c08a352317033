"""A sync or a backfill held at a chosen moment, for tests that end it there.

Where a process dies is not left to chance: triggers in the database hold it at the n-th row of a table (in mid-COPY,
before a checkpoint, before a commit), the sandbox holds it at a call.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from startlist.sandbox import World, bulk, running
from startlist.sandbox.server import Sandbox
from startlist.store.database import Database
from tests import truth
from tests.support import Cli

Row = dict[str, Any]
Moment = tuple[str | Row, int]
"""Before the n-th row of a table from now on is written; or at a call that matches, after n such calls."""

FEEDS = ("participants", "removed_participants")
HELD_TABLES = (
    "api_calls",
    "runsignup_participants",
    "runsignup_changes",
    "runsignup_bib_changes",
    "runsignup_events",
    "sync_cursors",
    "sync_history",
    "backfill_progress",
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


def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.004)


def until_said(child: subprocess.Popen[str], words: str) -> str:
    """Wait until a run has logged something; all that it logged so far, which is not in its output any more."""
    assert child.stderr is not None
    stream, said = child.stderr.fileno(), b""
    os.set_blocking(stream, False)

    def heard() -> bool:
        nonlocal said
        try:
            said += os.read(stream, 65_536)
        except BlockingIOError:
            assert child.poll() is None, said.decode()
        return words.encode() in said

    until(heard)
    os.set_blocking(stream, True)
    return said.decode()


class Scene:
    """A sandbox, a database that knows its keys, and the command, held where a test wants it.

    Answers have 500 rows at most, so that a few thousand registrations make a dozen pages.
    """

    def __init__(self, sandbox: Sandbox, database: Database, cli: Cli) -> None:
        self.control, self.database, self.cli = sandbox.control, database, cli
        self.conn: truth.Connection = psycopg.connect(autocommit=True, **database.parameters("test"))
        self.asked: Counter[str] = Counter()
        cli.env["STARTLIST_API_URL"] = sandbox.url
        self.conn.execute(HOLD.encode())
        for key in self.control.partners():
            self.conn.execute("insert into timing_partners (company_name) values (%s)", [key["partner"]])
            self.conn.execute(
                "insert into partner_provider_credentials (timing_partner_id, principal, secret)"
                " select max(timing_partner_id), %s, %s from timing_partners",
                [key["key"], key["secret"]],
            )
        self._clamp()

    def _clamp(self) -> None:
        for endpoint in FEEDS:
            self.control.fault("clamp", match={"endpoint": endpoint}, times=None, rows=500)

    def reconnect(self) -> None:
        """Look at the database again after its server was gone."""
        self.conn.close()
        self.conn = psycopg.connect(autocommit=True, **self.database.parameters("test"))

    # -- runs ------------------------------------------------------------------------------------------------------

    def sync(self, *options: object) -> Row:
        """A sync to its end, in good order; what `--json` says."""
        return self._run("sync", *options)

    def backfill(self, *options: object) -> Row:
        """A backfill to its end, in good order; what `--json` says."""
        return self._run("backfill", *options)

    def _run(self, command: str, *options: object) -> Row:
        done = self.cli(command, "--json", *options)
        assert done.code == 0, done.stderr
        summary: Row = done.json
        return summary

    @contextmanager
    def held(
        self, moment: Moment, *options: object, command: str = "sync", answer_after: float | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """A run that stands at a moment, or ended before it; after the block, which ends it, nothing of it is left.

        A call is never answered, or after so many seconds.
        """
        what, count = moment
        if isinstance(what, str):
            hold = self._held_at_row(what, count)
        else:
            hold = self._held_at_call(what, count, answer_after)
        with hold as stands:
            child = self.cli.start(command, "--json", *options)
            until(lambda: child.poll() is not None or stands())
            yield child
        child.wait(30)
        with suppress(psycopg.OperationalError):  # the server may have gone before the run
            until(lambda: self.connections() == 0)
            assert self._advisory_locks("granted") == 0

    @contextmanager
    def _held_at_row(self, table: str, rows: int) -> Iterator[Callable[[], bool]]:
        self.conn.execute("select pg_advisory_lock(%s)", [LOCK])
        passed = f"coalesce(pg_sequence_last_value('hold_{table}'), 0)"
        self.conn.execute(f"update hold_at set table_name = %s, step = %s + {passed}".encode(), [table, rows])
        try:
            yield lambda: self._advisory_locks("not granted") > 0
        finally:
            with suppress(psycopg.OperationalError):  # then the run is free as well
                self.let_go()

    @contextmanager
    def _held_at_call(self, match: Row, skip: int, answer_after: float | None) -> Iterator[Callable[[], bool]]:
        if answer_after is None:
            fault = self.control.fault("timeout", match=match, skip=skip)
        else:
            fault = self.control.fault("delay", match=match, skip=skip, ms=answer_after * 1000)
        answered, last = self._answered(), self._count("select coalesce(max(sync_history_id), 0) from sync_history")
        stored = f"select coalesce(sum(rows_received), 0) from sync_history where sync_history_id > {last}"
        try:
            # Every page that was answered is merged and committed.
            yield lambda: self._used(fault) and self._count(stored) == self._answered() - answered
        finally:
            self.control.clear_faults()
            self._clamp()

    def _used(self, fault: Row) -> bool:
        return any(one["used"] for one in self.control.faults() if one["kind"] == fault["kind"])

    def _answered(self) -> int:
        return sum(call["rows"] for call in self.control.log() if call["endpoint"] == "participants")

    def let_go(self) -> None:
        """Let a run that is held at a row go on."""
        self.conn.execute("select pg_advisory_unlock(%s)", [LOCK])

    def _advisory_locks(self, state: str) -> int:
        return self._count(
            f"""
            select count(*) from pg_locks
            where locktype = 'advisory' and pid <> pg_backend_pid() and {state}
              and database = (select oid from pg_database where datname = current_database())
            """
        )

    def connections(self) -> int:
        """How many connections of runs there are."""
        return self._count(
            """
            select count(*) from pg_stat_activity
            where datname = current_database() and application_name like 'startlist%'
            """
        )

    def _count(self, query: str) -> int:
        row = self.conn.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    # -- what is seen afterwards -----------------------------------------------------------------------------------

    def calls(self) -> Counter[str]:
        """The calls of the feeds that the log has, each with how often it was made."""
        return Counter(
            json.dumps([call["endpoint"], call["race_id"], call["event_ids"], call["params"]])
            for call in self.control.log()
            if call["endpoint"] in FEEDS
        )

    def repeated(self) -> int:
        """How many calls of the feeds, since this was asked last, had been made in an earlier run."""
        new = self.calls()
        self.control.reset_log()
        assert all(times == 1 for times in new.values()), "the same call twice in one run"
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
        """The stored bibs of registrations."""
        query = "select registration_id, bib_num from runsignup_participants where registration_id = any(%s)"
        return dict(self.conn.execute(query, [list(registration_ids)]).fetchall())

    def active(self) -> int:
        """How many registrations RunSignup lists as active."""
        races = self.conn.execute("select race_id from runsignup_races").fetchall()
        return sum(len(event.active) for (race,) in races for event in truth.truth(self.control, race).values())

    def differences(self, **more: Any) -> list[str]:
        """As in `truth`."""
        return truth.differences(self.conn, self.control, **more)


@contextmanager
def scene(
    database: Database,
    cli: Cli,
    *,
    registrations: int,
    races: int = 1,
    events: int = 3,
    partners: int = 1,
    years: int = 1,
) -> Iterator[Scene]:
    """A scene of races some weeks off and in the years before, a fifth of their registrations removed."""
    world = World(seed=5)
    bulk(
        world, registrations=registrations, races=races, events_per_race=events, partners=partners, row_bytes=900,
        removed_share=0.2, years=years,
    )  # fmt: skip
    with running(world) as sandbox:
        at = Scene(sandbox, database, cli)
        try:
            yield at
        finally:
            at.conn.close()
