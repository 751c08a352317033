"""What a backfill has to leave behind: of what is over everything, of what is coming nothing."""

from __future__ import annotations

from tests import truth
from tests.scene import Row, Scene


def over(at: Scene) -> dict[int, set[int]]:
    """The events that are over, by race."""
    coming = {event for events in at.control.summary()["future"].values() for event in events}
    races = sorted({race for key in at.control.partners() for race in key["race_ids"]})
    return {race: set(at.control.truth(race)["events"]) - coming for race in races}


def assert_nothing_wrong(at: Scene) -> None:
    """In the middle of it: what is stored is right, of past events only, and the syncs' places are not touched."""
    assert at.differences(covered_by="backfill_progress", unfinished=True) == []
    assert_only_the_past(at)


def assert_read(at: Scene, *, synced: bool = False) -> None:
    """At its end: everything that is over is stored as RunSignup has it; what is coming is left to the syncs."""
    assert at.differences(covered_by="backfill_progress") == []
    assert {row["race_id"]: set(row["event_ids"]) for row in progress(at)} == over(at)
    assert {(row["state"], row["checkpoint"]) for row in progress(at)} == {("done", None)}
    past = [event for events in over(at).values() for event in events]
    registered = sum(
        len(rows["active"])
        for race in over(at)
        for event, rows in at.control.truth(race)["events"].items()
        if event in past
    )
    counted = "select count(*) from runsignup_participants where removed_at is null and event_id = any(%s)"
    assert at.conn.execute(counted, [past]).fetchone() == (registered,)
    if synced:
        assert at.differences() == []
    else:
        assert_only_the_past(at)


def assert_only_the_past(at: Scene) -> None:
    """Nothing of events that are coming, no change written of what was merely found, no place of a sync."""
    past = [event for events in over(at).values() for event in events]
    query = "select distinct event_id from runsignup_participants where not event_id = any(%s)"
    assert at.conn.execute(query, [past]).fetchall() == []
    for table in ("runsignup_changes", "runsignup_bib_changes", "sync_cursors"):
        assert truth.rows_of(at.conn, table) == []


def progress(at: Scene) -> list[Row]:
    """The rows of `backfill_progress`, by race."""
    return sorted(truth.rows_of(at.conn, "backfill_progress"), key=lambda row: int(row["race_id"]))


def cursors(at: Scene) -> list[Row]:
    """Where the syncs stand."""
    return truth.rows_of(at.conn, "sync_cursors")


def assert_closed(at: Scene) -> None:
    """A minute later another backfill, which has nothing to do, closes the runs that died without a word."""
    at.conn.execute("update sync_runs set started_at = started_at - interval '2 minutes'")
    assert at.backfill()["states"] == {}
    assert all(closed for *_, closed in [*at.runs(), *at.history()])
    assert {status for status, _ in at.runs()} <= {"interrupted", "failed", "completed"}
