"""`purge`: the people of events that are over are deleted for good, and nothing brings them back by itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from startlist.store.database import Database
from startlist.store.purge import Chosen, Part, choose, counted, purge
from startlist.store.reading import reader
from tests.stored import Stored
from tests.syncing import FIRST, RACE, SECOND, Rig
from tests.years import add_years

PERSONAL = ("runsignup_participants", "runsignup_changes", "runsignup_bib_changes", "runsignup_quarantine")


async def asked(database: Database, **wanted: Any) -> tuple[list[Chosen], list[Part]]:
    given: dict[str, Any] = {"timing_partner_id": None, "race_id": None, "before": None} | wanted
    async with reader(database) as conn:
        chosen = await choose(conn, **given)
        return chosen, await counted(conn, chosen)


async def purged(database: Database, **wanted: Any) -> list[Part]:
    _, parts = await asked(database, **wanted)
    return [part async for part in purge(database, parts, wait_seconds=0)]


@pytest.fixture
def stored(database: Database, database_url: str) -> Iterator[Stored]:
    """Two partners with race 10: an event of long ago, one over for five days, one to come; a runner of each kind."""
    filler = Stored(database_url)
    for partner in (filler.partner("Acme", "a"), filler.partner("Best", "b")):
        filler.race(partner, 10)
        for number, start in enumerate(("-900 days", "-5 days", "20 days"), partner * 100):
            filler.event(partner, 10, number, start, first_full_at=filler.at(start))
            filler.registration(partner, 10, number, number * 10, first_name="Ann")
            filler.changed(partner, 10, number, number * 10, "updated", after={"first_name": "Ann"})
            filler.bib(partner, 10, number, number * 10, "assigned", new_bib="1")
            filler.insert("runsignup_quarantine", timing_partner_id=partner, race_id=10, event_id=number,
                          endpoint="participants", reason="r", raw="{}", raw_hash=str(number).encode())  # fmt: skip
        filler.cursor(partner, 10, [partner * 100 + 1, partner * 100 + 2], checkpoint={"absent": [1]})
    yield filler
    filler.close()


def events_left(stored: Stored) -> dict[str, list[int]]:
    return {
        table: [row[0] for row in stored.conn.execute(f"select event_id from {table} order by event_id".encode())]
        for table in PERSONAL
    }


async def test_only_what_is_over_and_was_asked_for_goes_from_every_table(stored: Stored, database: Database) -> None:
    chosen, parts = await asked(database, timing_partner_id=1)
    assert [(one.event_id, one.over) for one in chosen] == [(100, True), (101, False), (102, False)]
    assert [(part.event_ids, part.rows, part.whole) for part in parts] == [([100], 4, False)]
    assert [(part.rows, part.held) for part in await purged(database, timing_partner_id=1)] == [(4, False)]
    assert set(map(tuple, events_left(stored).values())) == {(101, 102, 200, 201, 202)}
    assert await purged(database, timing_partner_id=1) == []
    kept = stored.conn.execute("select count(*) from runsignup_events").fetchone()
    assert kept == (6,)


async def test_the_filters_choose(stored: Stored, database: Database) -> None:
    assert [part.timing_partner_id for part in (await asked(database, race_id=10))[1]] == [1, 2]
    assert (await asked(database, race_id=11))[1] == []
    old = stored.value("select min(race_day) from runsignup_events")
    assert (await asked(database, before=old))[1] == []  # the day itself is not before it
    assert len((await asked(database, before=date(2999, 1, 1)))[1]) == 2
    stored.conn.execute("update runsignup_events set start_time = now() - interval '9 days' where event_id = 101")
    assert [part.event_ids for part in (await asked(database, timing_partner_id=1))[1]] == [[100, 101]]
    assert [part.event_ids for part in (await asked(database, timing_partner_id=1, kept_days=30))[1]] == [[100]]


async def test_of_a_race_that_is_over_nothing_is_left_and_its_place_is_forgotten(
    stored: Stored, database: Database
) -> None:
    stored.conn.execute("update runsignup_events set start_time = now() - interval '30 days' where event_id < 200")
    stored.registration(1, 10, 999, 5, first_name="Of an event that was never listed")
    stored.insert("runsignup_quarantine", timing_partner_id=1, race_id=10, endpoint="participants", reason="r",
                  raw="?", raw_hash=b"no event")  # fmt: skip
    (part,) = await purged(database, timing_partner_id=1)
    assert (part.registrations, part.changes, part.bib_changes, part.quarantined) == (4, 3, 3, 4)
    assert set(map(tuple, events_left(stored).values())) == {(200, 201, 202)}
    cursor = stored.conn.execute(
        "select event_ids, checkpoint, last_full_at, participants_watermark, removed_watermark from sync_cursors"
        " where timing_partner_id = 1"
    ).fetchone()
    assert cursor == ([], None, None, None, None)
    assert stored.value("select count(*) from runsignup_events where first_full_at is not null") == 3


async def test_a_race_that_somebody_reads_is_kept(stored: Stored, database: Database) -> None:
    for name in ("race", "backfill"):
        key = database.lock_key(name, 1, 10)
        stored.conn.execute("select pg_advisory_lock(%s)", [key])
        assert [(part.timing_partner_id, part.held) for part in await purged(database, timing_partner_id=1)] == [
            (1, True)
        ]
        stored.conn.execute("select pg_advisory_unlock(%s)", [key])
    assert events_left(stored)["runsignup_participants"] == [100, 101, 102, 200, 201, 202]
    locks = "select count(*) from pg_locks join pg_database on pg_database.oid = pg_locks.database"
    assert stored.value(f"{locks} where locktype = 'advisory' and datname = current_database()") == 0


async def test_neither_a_sync_nor_a_backfill_brings_them_back(rig: Rig) -> None:
    past = add_years(rig, 3, runners=4)
    await rig.sync()
    await rig.backfill()
    await purged(rig.database, race_id=RACE)
    left = "select distinct event_id from runsignup_participants order by 1"
    coming = [row["event_id"] for row in await rig.rows(left)]
    assert not set(coming) & set(past)
    assert set(coming) <= {FIRST, SECOND}
    await rig.sync(force_full=True)
    await rig.backfill()
    await rig.conn.execute("update backfill_progress set record_modified = null")  # the race changed in RunSignup
    await rig.backfill(retry=True)
    assert [row["event_id"] for row in await rig.rows(left)] == coming
    await rig.backfill(restart=True)  # but who asks for everything gets it
    await rig.assert_truth()


async def test_a_race_that_no_backfill_knew_is_not_read_by_the_next_one(rig: Rig) -> None:
    past = add_years(rig, 2, runners=4)
    await rig.backfill()
    await rig.conn.execute("delete from backfill_progress")
    await purged(rig.database, race_id=RACE)
    await rig.backfill()
    assert await rig.rows("select * from runsignup_participants where event_id = any(%s)", past) == []
    assert (await rig.past())["state"] == "done"
