"""Two syncs at once on one database: within lanes and budget together, no race twice, ids in the order of commits."""

from __future__ import annotations

import subprocess
from itertools import count, pairwise

from startlist.store.database import Database
from tests import truth
from tests.scene import Scene, scene, until
from tests.support import Cli

FIRST_CALL = ({"endpoint": "participants"}, 0)


def finished(*children: subprocess.Popen[str]) -> list[int]:
    """Wait for runs to end and return their exit status."""
    for child in children:
        child.communicate(timeout=60)
    return [child.returncode for child in children]


def passes(at: Scene) -> list[truth.Row]:
    return truth.rows_of(at.conn, "sync_history")


def assert_apart(rows: list[truth.Row]) -> None:
    """No race was under work twice at a time."""
    spans: dict[tuple[int, int], list[truth.Row]] = {}
    for row in rows:
        if row["status"] != "skipped":
            spans.setdefault((row["timing_partner_id"], row["race_id"]), []).append(row)
    for own in spans.values():
        own.sort(key=lambda row: row["started_at"])
        assert all(one["finished_at"] <= other["started_at"] for one, other in pairwise(own))


def test_started_together(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=2_400, races=12, events=2, partners=3) as at:
        at.control.settings(latency_ms=15, latency_jitter_ms=20)
        for options in ([], [], ["--force-full-sync"]):
            at.control.reset_log()
            codes = finished(*(at.cli.start("sync", "--quiet", *options) for _ in range(2)))
            assert set(codes) <= {0, 3}
            assert 0 in codes
            counts = at.control.counts()
            assert counts["max_concurrent"] == 2
            assert counts["by_error"] == {}
            assert at.differences() == []
            assert at.conn.execute("select count(*) from api_calls where http_status is null").fetchone() == (0,)
            at.control.hour_of_life(seed=len(passes(at)), scale=0.3)
        rows = passes(at)
        assert {row["status"] for row in rows} <= {"completed", "skipped"}
        assert_apart(rows)
        at.sync()
        at.sync("--force-full-sync")
        assert at.differences() == []


def test_a_race_that_is_held_is_skipped_and_all_held_is_status_3(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=40, races=1) as at:
        with at.held(FIRST_CALL, answer_after=3) as first:
            second = at.cli("sync", "--json")
            assert second.code == 3, second.stderr
            assert second.json["status"] == "skipped"
            assert first.poll() is None
            assert first.wait(30) == 0
        assert [row["status"] for row in passes(at)] == ["completed", "skipped"]
        assert at.control.counts()["by_endpoint"]["participants"] == 1
        assert at.differences() == []


def test_a_run_that_finds_some_races_held_does_the_others(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=80, races=4) as at:
        with at.held(FIRST_CALL, answer_after=4) as first:
            held = at.control.log()[-1]["race_id"]
            second = at.cli("sync", "--json")
            assert second.code == 0, second.stderr
            skipped = [race["race_id"] for race in second.json["partners"][0]["races"] if race["status"] == "skipped"]
            assert skipped == [held]
            assert first.wait(30) == 0
        rows = passes(at)
        assert_apart(rows)
        assert at.differences() == []


def test_a_named_race_is_waited_for(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=40, races=1) as at:
        race_id = at.control.partners()[0]["race_ids"][0]
        with at.held(FIRST_CALL, answer_after=2) as first:
            second = at.cli("sync", "--race", race_id, "--json")
            assert second.code == 0, second.stderr
            assert first.wait(30) == 0
        assert [row["status"] for row in passes(at)] == ["completed", "completed"]
        assert_apart(passes(at))
        assert at.differences() == []


def test_two_processes_share_one_budget(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=600, races=9) as at:
        budget = 14  # a race list for each, then some of the races; all of them want three calls each
        at.control.settings(calls_per_hour=budget, latency_ms=10)
        at.conn.execute("update partner_provider_credentials set calls_per_hour = %s", [budget])
        for _ in range(3):
            at.control.reset_log()
            (before,) = at.conn.execute("select coalesce(max(run_id), 0) from sync_runs").fetchone() or (0,)
            children = start_two(at)
            until_spent(at, budget, before, children)
            for child in children:
                child.terminate()
            for child in children:
                child.communicate(timeout=20)
            assert {child.returncode for child in children} <= {0, 143}
            counts = at.control.counts()
            assert counts["calls"] <= budget
            assert counts["by_error"] == {}
            an_hour_later(at)
        at.control.settings(calls_per_hour=None)
        at.conn.execute("update partner_provider_credentials set calls_per_hour = null")
        at.sync()
        assert at.differences() == []
        assert_apart(passes(at))


def start_two(at: Scene) -> list[subprocess.Popen[str]]:
    return [at.cli.start("sync", "--quiet") for _ in range(2)]


def ended(children: list[subprocess.Popen[str]]) -> bool:
    return all(child.poll() is not None for child in children)


def until_spent(at: Scene, budget: int, before: int, children: list[subprocess.Popen[str]]) -> None:
    """Wait until the hour's calls are made, but for one that is not enough for a pass, and both wait for the next."""

    def spent() -> bool:
        running = at.conn.execute("select from sync_history where status = 'running'").fetchall()
        begun = at.conn.execute("select from sync_runs where run_id > %s", [before]).fetchall()
        return at.control.counts()["calls"] >= budget - 1 and not running and len(begun) == len(children)

    until(lambda: ended(children) or spent())


def an_hour_later(at: Scene) -> None:
    """The calls so far are no longer counted, here and there."""
    at.conn.execute("update api_calls set reserved_at = reserved_at - interval '3606 seconds'")
    at.control.clock(advance=3606)


# Leaves a while between the ids that a page draws and its commit.
SLOW = """
create function slow() returns trigger language plpgsql as $$
begin
    perform pg_sleep(0.02 * random());
    return null;
end $$;
create trigger slow after insert on runsignup_changes for each statement execute function slow();
create trigger slow after insert on runsignup_bib_changes for each statement execute function slow();
"""


def test_who_polls_by_the_last_id_sees_every_change_once(database: Database, cli: Cli) -> None:
    logs = {"runsignup_changes": "change_id", "runsignup_bib_changes": "bib_change_id"}
    with scene(database, cli, registrations=600, races=20, events=1, partners=4) as at:
        at.sync()
        at.conn.execute(SLOW.encode())
        bibs = count(1)
        seen: dict[str, list[int]] = {table: [] for table in logs}
        for _ in range(2):
            for race in [race for key in at.control.partners() for race in key["race_ids"]]:
                for rows in at.control.truth(race)["events"].values():
                    for row in rows["active"][:8]:
                        at.control.assign_bib(row["registration_id"], next(bibs))
            children = start_two(at)
            while True:
                over = ended(children)  # asked first, so that what came last is still read
                for table, key in logs.items():
                    after = seen[table][-1] if seen[table] else 0
                    query = f"select {key} from {table} where {key} > %s order by {key}"
                    seen[table] += [row[0] for row in at.conn.execute(query.encode(), [after])]
                if over:
                    break
            assert set(finished(*children)) <= {0, 3}
        for table, key in logs.items():
            assert seen[table] == [row[key] for row in truth.rows_of(at.conn, table)]
            assert len(seen[table]) == 2 * 20 * 8
        assert at.differences() == []
