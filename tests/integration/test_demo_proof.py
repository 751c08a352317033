"""The demo's proof and its account of what happened: they have to notice what is wrong."""

from __future__ import annotations

import psycopg
import pytest

from startlist.cli.happenings import Found, Hour
from startlist.cli.proof import prove
from startlist.store import demo
from startlist.store.changelog import BIBS, CHANGES
from startlist.store.database import Database
from startlist.store.reading import Filters, reader
from tests.syncing import FIRST, PERSON, RACE, Rig


async def test_what_was_synced_is_proved_equal(rig: Rig) -> None:
    rig.control.refund(PERSON)
    await rig.sync()
    proof = await prove(rig.database, rig.control)
    assert (proof.races, proof.events, proof.active, proof.removed) == (1, 2, 11, 1)
    assert proof.differences == []


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("bib_num = '7'", "bib_num"),
        ("email = 'x@example.com'", "email"),
        ("registration_date = registration_date + interval '1 hour'", "registration_date"),
        ("payment_info = payment_info || '{\"amount_paid\": 1}'", "payment_info"),
        ("additional_data = additional_data - 'giveaway'", "additional_data"),
        ("removed_at = now()", "removed_at"),
        ("missing_since = now()", "missing_since"),
    ],
)
async def test_the_proof_names_a_field_that_differs(rig: Rig, damage: str, named: str) -> None:
    await rig.sync()
    await rig.conn.execute(f"update runsignup_participants set {damage} where registration_id = {PERSON}".encode())
    proof = await prove(rig.database, rig.control)
    assert proof.differences == [f"race {RACE}, event {FIRST}, registration {PERSON}: {named}"]


async def test_the_proof_names_what_is_missing_and_what_is_too_many(rig: Rig) -> None:
    await rig.sync()
    rig.control.vanish(registration_id=PERSON)
    await rig.conn.execute(f"delete from runsignup_participants where registration_id = {PERSON + 1}".encode())
    later = rig.control.add_event(RACE, "Half", in_days=20)
    proof = await prove(rig.database, rig.control)
    assert sorted(proof.differences) == [
        f"race {RACE}, event {FIRST}, registration {PERSON}: stored, and RunSignup does not have it",
        f"race {RACE}, event {FIRST}, registration {PERSON + 1}: not stored",
        f"race {RACE}, event {later}: never read in full",
    ]
    assert proof.different == 3


async def test_the_account_of_an_hour_notices_what_was_not_found_and_what_did_not_happen(rig: Rig) -> None:
    await rig.sync()
    hour = Hour.of(rig.control.hour_of_life(scale=0.1))
    await rig.sync()
    async with reader(rig.database) as conn:
        changes = await CHANGES.after(conn, Filters(), 0, 1000, limit=1000)
        bibs = await BIBS.after(conn, Filters(), 0, 1000, limit=1000)
    found = Found(changes, bibs)
    assert found.has_all(hour)
    assert found.others(hour) == []
    assert {line[0]: line[1] == line[2] for line in found.lines(hour)}["people register"] is True
    assert not Found(changes, bibs[1:]).has_all(hour)
    for at in range(len(changes)):
        assert not Found([*changes[:at], *changes[at + 1 :]], bibs).has_all(hour)
    for kind, numbers in hour.registrations.items():
        if numbers:
            less = Hour({**hour.registrations, kind: set()}, hour.ended)
            assert found.others(less), kind


async def test_a_demo_begins_in_an_empty_schema_and_again_after_itself(empty_database_url: str) -> None:
    database = Database(empty_database_url, "startlist")
    for _ in range(2):
        assert await demo.begin(database)
        async with await database.connect() as conn:
            found = await conn.execute("select count(*), max(timing_partner_id) from timing_partners")
            assert await found.fetchone() == (0, None)
            await conn.execute(f"insert into timing_partners values (default, 'A', 'a@{demo.ADDRESSES}')".encode())
            found = await conn.execute("select timing_partner_id from timing_partners")
            assert await found.fetchall() == [(1,)]


async def test_a_demo_takes_no_schema_with_tables_or_timing_partners_of_others(
    empty_database_url: str, database: Database
) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("create schema startlist")
        connection.execute("create table startlist.mine (id int)")
    assert not await demo.begin(Database(empty_database_url, "startlist"))
    async with await database.connect() as conn:
        await conn.execute(f"insert into timing_partners values (default, 'A', 'a@{demo.ADDRESSES}')".encode())
        await conn.execute("insert into timing_partners values (default, 'B', null)")
        assert not await demo.begin(database)
        found = await conn.execute("select count(*) from timing_partners")
        assert await found.fetchone() == (2,)
