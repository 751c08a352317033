"""`startlist backfill` beside other backfills, which share its work, and beside syncs, which it never holds up."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import count, pairwise

import pytest

from startlist.store.database import Database
from tests import truth
from tests.past import assert_read, cursors, over, progress
from tests.scene import UNDER_WAY, Moment, Row, Scene, scene, until
from tests.support import Cli

AT_A_CALL: Moment = ({"endpoint": "participants"}, 1)


def ended(child: subprocess.Popen[str]) -> tuple[int, Row]:
    """Wait for a run's end: its exit status, and what `--json` said."""
    output, errors = child.communicate(timeout=120)
    assert "Traceback" not in errors
    return child.returncode, json.loads(output)


def races_asked(at: Scene) -> Counter[int]:
    """How often each race's record was asked for."""
    return Counter(call["race_id"] for call in at.control.log() if call["endpoint"] == "race")


# -- several backfills -------------------------------------------------------------------------------------------------


def test_two_backfills_share_the_work(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=2_700, races=9, events=1, partners=3, years=3) as at:
        at.control.settings(latency_ms=20, latency_jitter_ms=20)
        done = [ended(child) for child in [at.cli.start("backfill", "--json") for _ in range(2)]]
        assert {code for code, _ in done} <= {0, 3}
        assert sum(summary["states"].get("done", 0) for _, summary in done) == 9
        assert set().union(*(summary["states"] for _, summary in done)) <= {"done", "held"}
        assert set(races_asked(at).values()) == {1}
        counts = at.control.counts()
        assert counts["max_concurrent"] == 2
        assert counts["by_error"] == {}
        assert at.repeated() == 0  # and none of them twice
        assert_read(at)
        assert_apart(at)
        assert sum(summary["api_calls"] for _, summary in done) == counts["calls"]


def assert_apart(at: Scene) -> None:
    """No race was under work twice at a time."""
    spans: dict[tuple[int, int], list[Row]] = {}
    for row in truth.rows_of(at.conn, "sync_history"):
        spans.setdefault((row["timing_partner_id"], row["race_id"]), []).append(row)
    for own in spans.values():
        own.sort(key=lambda row: row["started_at"])
        assert all(one["finished_at"] <= other["started_at"] for one, other in pairwise(own))


def test_a_race_that_another_backfill_reads_is_left_to_it(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=300, races=1, events=1, years=3) as at:
        with at.held(({"endpoint": "participants"}, 0), command="backfill", answer_after=4) as first:
            second = at.cli("backfill", "--json")
            assert (second.code, second.json["status"], second.json["states"]) == (3, "skipped", {"held": 1})
            assert first.poll() is None
            code, summary = ended(first)
        assert (code, summary["states"]) == (0, {"done": 1})
        assert at.repeated() == 0
        assert_read(at)


def test_what_a_killed_one_held_is_read_by_the_other(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=1_800, races=6, events=1, years=3) as at:
        with at.held(AT_A_CALL, command="backfill") as first:
            at.repeated()
            at.control.settings(latency_ms=100)
            second = at.cli.start("backfill", "--json")
            until(lambda: any(call["endpoint"] == "race" for call in at.control.log()))
            first.kill()
            code, summary = ended(second)
        assert code == 0
        assert set(summary["states"]) == {"done"}
        assert at.repeated() <= UNDER_WAY
        assert_read(at)
        assert at.runs()[-1] == ("completed", True)
        ended_so = Counter(at.history())
        assert ended_so.keys() == {("completed", None, True), ("failed", "interrupted", True)}
        assert ended_so["completed", None, True] == 6


def test_begun_anew_while_another_is_at_it(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=900, races=3, events=1, years=3) as at:
        with at.held(AT_A_CALL, command="backfill", answer_after=3) as first:
            anew = at.cli("backfill", "--restart", "--json")
            assert anew.code in (0, 3), anew.stderr
            assert set(anew.json["states"]) <= {"done", "held"}
            code, summary = ended(first)
        assert code == 0
        assert set(summary["states"]) <= {"done", "held"}
        at.backfill()
        assert_read(at)


# -- syncs beside it ---------------------------------------------------------------------------------------------------


def assign(at: Scene, race: int, bibs: Iterator[int], many: int = 5) -> dict[int, str]:
    """Bibs for so many runners of what is coming, a minute later."""
    coming = next(iter(at.control.summary()["future"][race]))
    runners = [row["registration_id"] for row in at.control.truth(race)["events"][coming]["active"]]
    given = {runner: str(next(bibs)) for runner in runners[:many]}
    for runner, bib in given.items():
        at.control.assign_bib(runner, bib)
    at.control.clock(advance=61)
    return given


@pytest.mark.parametrize("named", [True, False])
def test_a_sync_goes_on_while_a_call_of_the_backfill_is_under_way(named: bool, database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=2_100, events=1, years=3) as at:
        (race,) = over(at)
        at.sync()
        bibs = count(1)
        with at.held(AT_A_CALL, command="backfill") as child:
            given = assign(at, race, bibs)
            done = at.sync(*(["--race", race] if named else []))
            assert child.poll() is None
            assert [one["status"] for one in done["partners"][0]["races"]] == ["completed"]
            assert at.bibs_of(given) == given
            os.kill(child.pid, signal.SIGKILL)
        before = cursors(at)
        at.backfill()
        assert cursors(at) == before
        assert_read(at, synced=True)


@pytest.mark.parametrize("named", [True, False])
def test_a_sync_waits_for_a_page_and_is_never_skipped(named: bool, database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=2_100, events=1, years=3) as at:
        (race,) = over(at)
        at.sync()
        with at.held(("runsignup_participants", 700), command="backfill") as child:
            given = assign(at, race, count(1))
            sync = at.cli.start("sync", "--json", *(["--race", race] if named else []))
            until(lambda: waits_for_the_race(at, database, race))
            at.let_go()
            code, summary = ended(sync)
            before = cursors(at)
            assert ended(child)[0] == 0
        assert (code, summary["status"]) == (0, "completed")
        assert at.bibs_of(given) == given == at.bibs_by_log()
        assert cursors(at) == before
        assert_read(at, synced=True)
        assert {status for status, _, _ in at.history()} == {"completed"}


def waits_for_the_race(at: Scene, database: Database, race: int) -> bool:
    key = database.lock_key("race", 1, race)
    query = (
        "select from pg_locks where locktype = 'advisory' and not granted"
        " and (classid::bigint << 32) | objid::bigint = %s"
    )
    return at.conn.execute(query, [key]).fetchone() is not None


@pytest.mark.slow
def test_a_race_is_synced_every_minute_while_its_history_is_read(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=4_200, events=2, years=7) as at:
        (race,) = over(at)
        at.control.settings(latency_ms=150)
        alone = at.sync("--race", race)["duration_seconds"]
        bibs, syncs = count(1), 0
        given: dict[int, str] = {}
        child = at.cli.start("backfill", "--json")
        while child.poll() is None:
            before = cursors(at)
            given |= assign(at, race, bibs)
            done = at.sync("--race", race)
            assert [one["status"] for one in done["partners"][0]["races"]] == ["completed"]
            assert done["duration_seconds"] < alone + 5
            assert at.bibs_of(given) == given
            assert cursors(at) != before
            syncs += 1
        code, summary = ended(child)
        assert (code, summary["states"]) == (0, {"done": 1})
        assert syncs >= 3
        assert_read(at, synced=True)
        assert {status for status, _, _ in at.history()} == {"completed"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_what_is_over_is_edited_and_synced_while_it_is_backfilled(seed: int, database: Database, cli: Cli) -> None:
    chance = random.Random(seed)
    with scene(database, cli, registrations=4_200, events=1, years=6) as at:
        (race,) = over(at)
        synced = ("--race", race, "--include-past-days", 5_000)
        at.backfill()
        at.sync(*synced)  # which covers all of it from now on
        at.control.settings(latency_ms=120, latency_jitter_ms=200)
        child = at.cli.start("backfill", "--json", "--restart")
        syncs = 0
        while child.poll() is None:
            edit_anywhere(at, race, chance)
            edit_under_way(at, race)
            at.sync(*synced)
            syncs += 1
            # What the sync has just stored stays, whatever older pages the backfill had at hand.
            before = pages_read(at)
            until(lambda seen=before: child.poll() is not None or pages_read(at) != seen)  # type: ignore[misc]
            assert at.differences() == []
        code, summary = ended(child)
        assert (code, summary["states"]) == (0, {"done": 1})
        assert syncs >= 2
        at.sync(*synced)
        assert at.differences() == []


def pages_read(at: Scene) -> list[tuple[object, ...]]:
    """Where the backfill stands."""
    return at.conn.execute("select checkpoint, rows_received, state from backfill_progress").fetchall()


def edit_anywhere(at: Scene, race: int, chance: random.Random) -> None:
    """A minute's edits, bibs, refunds and returns, of what is over as well as of what is coming."""
    for rows in at.control.truth(race)["events"].values():
        active = [row["registration_id"] for row in rows["active"]]
        chance.shuffle(active)
        for runner in active[:30]:
            at.control.edit(runner, last_name=f"Edited {chance.random()}")
        for runner in active[30:40]:
            at.control.assign_bib(runner, chance.randint(1, 100_000))
        for runner in active[40:45]:
            at.control.refund(runner)
        for row in chance.sample(rows["removed"], min(3, len(rows["removed"]))):
            at.control.restore(row["registration_id"])
    at.control.clock(advance=61)


def edit_under_way(at: Scene, race: int) -> None:
    """Edit all of what is over right before the sync's answer: pages that wait for its end are stale from then on."""
    events = at.control.truth(race)["events"]
    edits = [
        {"name": "edit", "registration_id": row["registration_id"], "last_name": f"Edited {row['last_modified']}"}
        for event in over(at)[race]
        for row in events[event]["active"]
    ]
    at.control.fault("before", match={"endpoint": "participants", "incremental": True}, changes=edits)


def test_a_page_that_a_sync_overtook_is_read_again(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=2_100, events=1, years=3) as at:
        (race,) = over(at)
        at.sync()
        at.control.reset_log()
        with at.held(("runsignup_participants", 100), command="backfill") as child:
            # While its first page is stored, the next one, of the newest event alone, is there already.
            until(lambda: len(alone(at)) == 1)
            (newest,) = alone(at)
            runner = at.control.truth(race)["events"][newest]["active"][7]["registration_id"]
            at.control.edit(runner, last_name="Overtaker")
            sync = at.cli.start("sync", "--json", "--race", race, "--include-past-days", 5_000)
            until(lambda: waits_for_the_race(at, database, race))
            at.let_go()
            assert ended(sync)[0] == 0
            place = cursors(at)
            output, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        assert "backfill.overtaken" in errors
        assert cursors(at) == place
        assert_read(at, synced=True)
        name = "select last_name from runsignup_participants where registration_id = %s"
        assert at.conn.execute(name, [runner]).fetchall() == [("Overtaker",)]
        assert truth.rows_of(at.conn, "runsignup_changes") == []
        assert [row["state"] for row in progress(at)] == ["done"]
        assert json.loads(output)["states"] == {"done": 1}


def test_a_sync_that_is_killed_frees_the_race_for_the_backfill(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=600, events=1, years=3) as at:
        (race,) = over(at)
        with at.held(({"endpoint": "participants"}, 0), "--race", race) as sync:
            backfill = at.cli.start("backfill", "--json")
            until(lambda: waits_for_the_race(at, database, race))
            assert cursors(at) == []
            sync.kill()
            code, summary = ended(backfill)
        assert (code, summary["states"]) == (0, {"done": 1})
        assert_read(at)
        assert at.history() == [("failed", "interrupted", True), ("completed", None, True)]
        at.sync()
        assert_read(at, synced=True)


def alone(at: Scene) -> set[int]:
    """The events whose first registrations were asked for by themselves, and answered."""
    calls = [call for call in at.control.log() if call["endpoint"] == "participants" and call["http_status"]]
    return {call["event_ids"][0] for call in calls if len(call["event_ids"]) == 1}
