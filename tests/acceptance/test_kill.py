"""`startlist sync` killed, interrupted and terminated in mid-pass: the next run goes on and ends with the truth.

Some of the moments are chosen, the others drawn by seed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import count

import pytest

from startlist.store.database import Database
from tests.scene import HELD_TABLES, UNDER_WAY, Moment, Scene, scene
from tests.support import Cli

FIRST_FULL: list[Moment] = [
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


def kill_at(at: Scene, moment: Moment, *options: object) -> bool:
    """Kill a run at a moment; False if it ended, in good order, before that came."""
    with at.held(moment, *options) as child:
        came = child.poll() is None
        if came:
            os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == (-signal.SIGKILL if came else 0)
    assert at.repeated() <= UNDER_WAY, moment
    assert [status for status, _, _ in at.history()].count("running") <= came
    return came


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_first_full_pass_killed_at_every_kind_of_moment(database: Database, cli: Cli) -> None:
    with scene(database, cli, registrations=3_600) as at:
        for moment in FIRST_FULL:
            assert kill_at(at, moment), moment
            assert at.differences(unfinished=True) == []
        done = at.sync()
        assert done["status"] == "completed"
        assert at.repeated() <= UNDER_WAY
        assert at.differences() == []
        assert done["total_participants"] == at.active()
        *killed, last = at.history()
        assert last == ("completed", None, True)
        assert set(killed) == {("failed", "interrupted", True)}
        at.sync()
        assert at.differences() == []


def live(at: Scene, chance: random.Random, bibs: Iterator[int]) -> None:
    """A minute of life: bibs for many, and some of everything else."""
    events = at.control.truth(at.control.partners()[0]["race_ids"][0])["events"]
    active = [row["registration_id"] for rows in events.values() for row in rows["active"]]
    removed = [row["registration_id"] for rows in events.values() for row in rows["removed"]]
    chance.shuffle(active)
    for _ in range(120):
        bib = next(bibs)
        at.control.assign_bib(active.pop(), bib, chip=chance.choice((None, f"C{bib}")))
    for _ in range(10):
        at.control.clear_bib(active.pop())
        at.control.edit(active.pop(), last_name="O'Neil", city="Haddonfield")
        chance.choice((at.control.refund, at.control.defer))(active.pop())
        at.control.transfer(active.pop(), chance.choice(list(events)), transfer_bibs=True)
    at.control.restore(chance.choice(removed))
    for event_id in events:
        at.control.register(event_id, chance.randint(0, 20))
    at.control.clock(advance=chance.randint(61, 200))


def caught_up(at: Scene, *options: object) -> None:
    """The pass goes on to its end, and the next one brings what happened meanwhile."""
    at.sync(*options)
    assert at.repeated() <= UNDER_WAY
    at.sync()
    at.repeated()
    assert at.differences() == []
    at.asked.clear()  # whatever follows is a new pass


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_passes_killed_while_the_world_goes_on(database: Database, cli: Cli) -> None:
    chance = random.Random(11)
    incremental: list[Moment] = [
        ("runsignup_changes", 1),
        ({"endpoint": "participants"}, 1),
        ({"endpoint": "participants"}, 1),
        ("runsignup_bib_changes", 77),
        ({"endpoint": "removed_participants"}, 0),
    ]
    full: list[Moment] = [
        ({"endpoint": "participants"}, 2),
        ("sync_cursors", 2),
        ({"endpoint": "participants"}, 1),
        ("runsignup_participants", 70),
        ({"endpoint": "removed_participants"}, 1),
    ]
    anywhere: list[Moment] = [(chance.choice(HELD_TABLES), chance.randint(1, 9)) for _ in range(5)]
    # A full pass that is due for its age goes on from its checkpoint; a forced one would begin anew.
    due = ("--incremental-days", 0)
    with scene(database, cli, registrations=2_100) as at:
        at.sync()
        bibs = count(10_001)
        for _ in range(5):
            live(at, chance, bibs)
        for moment in incremental:
            assert kill_at(at, moment), moment
            live(at, chance, bibs)
        caught_up(at)
        for moment in full:
            assert kill_at(at, moment, *due), moment
            live(at, chance, bibs)
        caught_up(at, *due)
        for moment in anywhere:
            live(at, chance, bibs)
            if not kill_at(at, moment, *due):
                at.asked.clear()
        caught_up(at)
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
    with scene(database, cli, registrations=2_400) as at:
        moments: list[Moment] = [
            ({"endpoint": "participants"}, 2),
            ("runsignup_participants", 300),
            ("sync_cursors", 1),
            ({"endpoint": "removed_participants"}, 0),
        ]
        for moment in moments:
            with at.held(moment) as child:
                began = time.monotonic()
                child.send_signal(number)
                assert child.wait(10) == status
                assert time.monotonic() - began < 5
            output, errors = child.communicate()
            assert output == ""
            assert "Traceback" not in errors
            assert at.repeated() <= UNDER_WAY, moment
            assert at.differences(unfinished=True) == []
            # Nobody has to come along first: the interrupted pass and run say so themselves.
            assert at.history()[-1] == ("failed", "interrupted", True)
            assert at.runs()[-1] == ("interrupted", True)
        at.sync()
        assert at.repeated() <= UNDER_WAY
        assert at.differences() == []
