"""What the reading commands ask of the store, where it is quicker to ask than to run a command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from startlist.errors import DatabaseError
from startlist.store import local, migrate
from startlist.store.changelog import BIBS, CHANGES, Entry
from startlist.store.database import Database
from startlist.store.reading import Filters, reader, stored_passes
from startlist.store.search import find
from tests.stored import Stored
from tests.support import MakeSettings


@pytest.fixture
def stored(database: Database, database_url: str) -> Iterator[Stored]:
    """A database with one timing partner and a race (10) with an event (100) tomorrow."""
    filler = Stored(database_url)
    filler.race(filler.partner("Acme"), 10)
    filler.event(1, 10, 100, "1 day")
    yield filler
    filler.close()


NAMES = {
    1: ("Élodie", "O'Brien"),
    2: ("Max", "Müller-Lüdenscheidt"),
    3: ("Percy", "50% Off"),
    4: ("A.", "B_C"),
    5: ("Ann", "Lee"),
    6: ("ŁUKASZ", "ŻAK"),
    7: ("Zoe\u0308", "Decomposed"),
}


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("ANN", [5]),
        ("lee ann", [5]),
        (" ann   lee ", [5]),
        ("ÉLODIE", [1]),
        ("élodie o'b", [1]),
        ("E\u0301lodie", [1]),
        ("elodie", []),  # accents as they are
        ("MÜLLER", [2]),
        ("vON max", [2]),
        ("łukasz żak", [6]),
        ("50%", [3]),
        ("%", [3]),
        ("_", [4]),
        ("b.c", []),
        ("(ann", []),
        ("[a-z]", []),
        ("ann|max", []),
        ("\\", []),
        ("\udcff", []),  # an argument that is not UTF-8
        ("", []),
    ],
)
async def test_names_match_in_any_case_and_nothing_in_them_is_a_pattern(
    stored: Stored, database: Database, term: str, found: list[int]
) -> None:
    for registration, (first, last) in NAMES.items():
        stored.registration(1, 10, 100, registration, first_name=first, middle_name="von", last_name=last)
    async with reader(database) as conn:
        assert [one.registration_id for one in await find(conn, term, Filters(), limit=9)] == found


@pytest.mark.parametrize(
    ("bib", "found"), [("12", [1]), ("7", []), ("007", [2]), (" E12 ", [3]), ("e12", []), ("1 2", [4]), ("112", [5])]
)
async def test_bibs_match_exactly(stored: Stored, database: Database, bib: str, found: list[int]) -> None:
    for registration, stored_bib in enumerate(("12", "007", "E12", "1 2", "112"), 1):
        stored.registration(1, 10, 100, registration, first_name="Route", last_name="12", bib_num=stored_bib)
    async with reader(database) as conn:
        assert [one.registration_id for one in await find(conn, bib, Filters(), limit=9)] == found


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (Filters(), [1, 2, 3, 4]),
        (Filters(race_id=10), [1, 3]),
        (Filters(timing_partner_id=2), [2, 4]),
        (Filters(event_id=200), [4]),
        (Filters(timing_partner_id=1, race_id=10, event_id=100), [1]),
        (Filters(race_id=10, event_id=200), []),
    ],
)
async def test_filters_limit_every_command_alike(
    stored: Stored, database: Database, filters: Filters, found: list[int]
) -> None:
    stored.race(stored.partner("Best"), 20)
    stored.race(1, 20)
    for number, (partner, race, event) in enumerate(((1, 10, 100), (2, 20, 201), (1, 10, 101), (2, 20, 200)), 1):
        if event != 100:
            stored.event(partner, race, event, "1 day")
        stored.registration(partner, race, event, number, bib_num="12")
        stored.ended(partner, race, "completed", event_ids=[event, 999])
        stored.changed(partner, race, event, number, "added")
        stored.bib(partner, race, event, number, "assigned")
    async with reader(database) as conn:
        assert sorted(one.registration_id for one in await find(conn, "12", filters, limit=9)) == found
        assert [one.sync_history_id for one in await stored_passes(conn, filters, limit=9)] == found[::-1]
        for log in (CHANGES, BIBS):
            for entries in (log.newest, log.after):
                assert [one.row.id for one in await entries(conn, filters, 0, 9, limit=9)] == found
                assert [one.row.id for one in await entries(conn, filters, 2, 3, limit=9)] == [
                    n for n in found if n == 3
                ]


async def test_since_reaches_the_instant_and_no_further(stored: Stored, database: Database) -> None:
    for hours in (5, 4, 3, 2, 1):
        stored.ended(1, 10, "completed", f"-{hours} hours")
        stored.changed(1, 10, 100, 5, "added", detected_at=stored.at(f"-{hours} hours"))
    filters = Filters(since=stored.at("-150 minutes"))
    assert filters.since is not None
    async with reader(database) as conn:
        assert [one.sync_history_id for one in await stored_passes(conn, filters, limit=9)] == [5, 4]
        after = await CHANGES.before(conn, filters.since)
        assert after == 2  # an hour of room: ids follow commits, times the beginnings of transactions
        assert [one.row.id for one in await CHANGES.newest(conn, filters, after, 9, limit=9)] == [4, 5]


async def test_a_reading_command_cannot_write(stored: Stored, database: Database) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        async with reader(database) as conn:
            await conn.execute("delete from runsignup_races")


async def ids(entries: AsyncIterator[list[Entry[Any]]], many: int) -> list[int]:
    """The ids of the next so many rows."""
    found: list[int] = []
    async for batch in entries:
        found += [entry.row.id for entry in batch]
        if len(found) >= many:
            return found
    raise AssertionError("a followed log has no end")


async def test_followed_rows_come_at_once_when_their_writer_notifies(stored: Stored, database: Database) -> None:
    async with aclosing(BIBS.follow(database, Filters(), 0, poll_seconds=60)) as entries:
        assert await anext(entries) == []  # it listens now
        stored.bib(1, 10, 100, 5, "assigned", new_bib="12")
        assert await asyncio.wait_for(ids(entries, 1), 5) == [1]


async def test_followed_rows_come_without_a_notification_too(stored: Stored, database: Database) -> None:
    async with aclosing(BIBS.follow(database, Filters(), 0, poll_seconds=0.02)) as entries:
        assert await anext(entries) == []
        stored.insert(
            "runsignup_bib_changes", timing_partner_id=1, race_id=10, event_id=100, registration_id=5, kind="chip"
        )
        assert await asyncio.wait_for(ids(entries, 1), 5) == [1]


async def test_followed_rows_are_all_there_in_order_whatever_is_filtered(stored: Stored, database: Database) -> None:
    stored.conn.execute(
        """insert into runsignup_changes (timing_partner_id, race_id, event_id, registration_id, change_type)
           select 1, 10 + n % 2, 100, n, 'added' from generate_series(1, 4500) as n"""
    )
    async with aclosing(CHANGES.follow(database, Filters(), 10, poll_seconds=0.01)) as entries:
        assert await ids(entries, 4490) == list(range(11, 4501))
        stored.changed(1, 10, 100, 5, "found")
        assert await ids(entries, 1) == [4501]
    async with aclosing(CHANGES.follow(database, Filters(race_id=11), 0, poll_seconds=0.01)) as entries:
        assert await ids(entries, 2250) == list(range(1, 4501, 2))


async def test_a_lost_connection_loses_no_row_and_tells_none_twice(stored: Stored, database: Database) -> None:
    told: list[str] = []
    follow = BIBS.follow(
        database,
        Filters(),
        0,
        on_lost=lambda error: told.append(str(error)),
        on_back=lambda: told.append("back"),
        poll_seconds=0.02,
        reconnect_seconds=0.02,
    )
    async with aclosing(follow) as entries:
        found: list[int] = []
        for number in range(1, 6):
            stored.bib(1, 10, 100, number, "assigned", new_bib="12")
            found += await ids(entries, 1)
            stored.conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'startlist follow'"
            )
            stored.bib(1, 10, 100, number, "cleared", old_bib="12")
            found += await ids(entries, 1)
    assert found == list(range(1, 11))
    assert told[1::2] == ["back"] * 5


async def test_what_waiting_cannot_cure_ends_following(stored: Stored, database: Database) -> None:
    async with aclosing(CHANGES.follow(database, Filters(), 0, poll_seconds=0.02)) as entries:
        await anext(entries)
        stored.conn.execute("drop table runsignup_changes")
        with pytest.raises(DatabaseError, match="runsignup_changes"):
            await ids(entries, 1)


async def test_following_survives_a_restart_of_the_embedded_database(home: Path, make_settings: MakeSettings) -> None:
    database = await Database.locate(make_settings())
    await migrate.upgrade(database)
    lost = asyncio.Event()
    follow = CHANGES.follow(
        database, Filters(), 0, on_lost=lambda _: lost.set(), poll_seconds=0.05, reconnect_seconds=0.05
    )
    add = """insert into runsignup_changes (timing_partner_id, race_id, event_id, registration_id, change_type)
             values ((select min(timing_partner_id) from timing_partners), 10, 100, 5, 'added')"""
    async with aclosing(follow) as entries:
        async with await database.connect() as conn:
            await conn.execute("insert into timing_partners (company_name) values ('Acme')")
            await conn.execute(add)
        assert await ids(entries, 1) == [1]
        await asyncio.to_thread(local.stop, home)
        coming = asyncio.create_task(ids(entries, 1))
        await asyncio.wait_for(lost.wait(), 10)
        await asyncio.to_thread(local.start, home)
        async with await database.connect() as conn:
            await conn.execute(add)
        assert await asyncio.wait_for(coming, 10) == [2]
