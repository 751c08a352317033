"""The merge of a page against a real PostgreSQL: what is written, what is a change, what is absent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from hashlib import blake2b
from typing import Any

import pytest
from psycopg.rows import dict_row

from startlist.store import changes, history, removals, stages
from startlist.store.database import Connection, Database
from startlist.store.registrations import Merged, Range, Scope, merge_registrations

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)


@dataclass
class Row:
    """A decoded registration."""

    registration_id: int
    event_id: int = 11
    user_id: int | None = 5
    first_name: str | None = "Ann"
    middle_name: str | None = None
    last_name: str | None = "Lee"
    email: str | None = "ann@example.com"
    phone: str | None = None
    gender: str | None = "F"
    dob: date | None = date(1990, 2, 3)
    age: int | None = 36
    address: bytes | None = b'{"zipcode": "08057"}'
    bib_num: str | None = None
    chip_num: str | None = None
    registration_date: datetime | None = T0
    last_modified: datetime | None = T0
    team_info: bytes = b"{}"
    payment_info: bytes = b'{"race_fee": 55.00}'
    additional_data: bytes = b'{"giveaway": "M", "user": {"is_anonymous": "F"}}'
    field_errors: list[str] = field(default_factory=list)
    absent: tuple[str, ...] = ()
    salt: str = field(default="")  # makes other bytes of the same content

    @property
    def content_hash(self) -> bytes:
        return b"\x01" + blake2b(repr(self).encode(), digest_size=15).digest()

    def decode(self) -> Any:
        return self


class Race:
    """One race's page merges, each in a transaction of its own as a pass makes them."""

    def __init__(self, database: Database, conn: Connection, history_id: int) -> None:
        self.database, self.conn, self.history_id = database, conn, history_id

    def scope(self, *, quiet: Collection[int] = ()) -> Scope:
        return Scope(1, 7, frozenset({11, 12}), frozenset(quiet), False, datetime(2026, 11, 5, tzinfo=UTC))

    async def merge(
        self, *rows: Row, answered: Range | None = None, quiet: Collection[int] = (), present: Collection[int] = ()
    ) -> Merged:
        async with self.conn.transaction():
            merged = await merge_registrations(
                self.conn, self.scope(quiet=quiet), rows, answered=answered, present=present
            )
            await self.write_changes()
        return merged

    async def remove(self, *records: Removed, absent: Collection[tuple[int, int]] = ()) -> removals.Applied:
        async with self.conn.transaction():
            applied = await removals.apply_removals(self.conn, scope=self.scope(), removals=records, absent=absent)
            await self.write_changes()
        return applied

    async def write_changes(self) -> None:
        await changes.write_changes(
            self.database, self.conn, timing_partner_id=1, race_id=7, sync_history_id=self.history_id
        )

    async def rows(self, query: str) -> list[dict[str, Any]]:
        async with self.conn.cursor(row_factory=dict_row) as cursor:
            return await (await cursor.execute(query.encode())).fetchall()

    async def changes(self) -> list[tuple[Any, ...]]:
        found = await self.rows("select * from runsignup_changes order by change_id")
        return [(c["change_type"], c["registration_id"], c["before"], c["after"]) for c in found]

    async def bibs(self) -> list[tuple[Any, ...]]:
        found = await self.rows("select * from runsignup_bib_changes order by bib_change_id")
        return [(c["kind"], c["registration_id"], c["old_bib"], c["new_bib"]) for c in found]


@dataclass
class Removed:
    registration_id: int
    modified_at: datetime | None = T0
    event_id: int = 11
    removed_reason: str | None = "removed"
    new_registration_id: int | None = None
    raw: bytes = b'{"removed_reason": "removed"}'


@pytest.fixture
async def race(database: Database) -> AsyncIterator[Race]:
    async with await database.connect() as conn:
        await conn.execute("insert into timing_partners (timing_partner_id, company_name) values (1, 'Peak')")
        await stages.prepare(conn)
        await stages.make(conn, changes.GATHERED)
        run_id = await history.open_run(conn, "test")
        cursor = await conn.execute(
            "insert into partner_provider_credentials (timing_partner_id, principal, secret) values (1, 'k', 's')"
            " returning credential_id"
        )
        credential = await cursor.fetchone()
        assert credential is not None
        history_id = await history.open_pass(
            conn, run_id=run_id, timing_partner_id=1, credential_id=credential[0], race_id=7, event_ids=[11, 12],
            sync_type="full", reason="test",
        )  # fmt: skip
        yield Race(database, conn, history_id)


async def test_first_full_pass_of_an_event_writes_rows_and_no_changes(race: Race) -> None:
    merged = await race.merge(Row(1, bib_num="7"), Row(2), quiet=[11])
    assert (merged.inserted, merged.changes) == (2, 0)
    stored = await race.rows("select * from runsignup_participants order by registration_id")
    assert [r["registration_id"] for r in stored] == [1, 2]
    assert stored[0]["payment_info"] == {"race_fee": 55.00}
    assert stored[0]["additional_data"] == {"giveaway": "M", "user": {"is_anonymous": "F"}}
    assert stored[0]["address"] == {"zipcode": "08057"}
    assert (stored[0]["dob"], stored[0]["registration_date"]) == (date(1990, 2, 3), T0)
    assert await race.changes() == []
    assert await race.bibs() == []


async def test_later_registration_is_added_and_its_bib_assigned(race: Race) -> None:
    await race.merge(Row(1, bib_num="7"), Row(2))
    assert [change[:2] for change in await race.changes()] == [("added", 1), ("added", 2)]
    assert await race.bibs() == [("assigned", 1, None, "7")]


async def test_unchanged_rows_are_not_written(race: Race) -> None:
    await race.merge(Row(1), Row(2), quiet=[11])
    before = await race.rows("select xmin::text, ctid::text from runsignup_participants")
    merged = await race.merge(Row(1), Row(2), Row(2))
    assert (merged.unchanged, merged.updated, merged.inserted) == (3, 0, 0)
    assert await race.rows("select xmin::text, ctid::text from runsignup_participants") == before


async def test_trap_45_other_bytes_of_the_same_content_are_no_change(race: Race) -> None:
    await race.merge(Row(1), quiet=[11])
    before = await race.rows("select xmin::text, content_hash from runsignup_participants")
    merged = await race.merge(
        Row(
            1,
            salt="x",
            additional_data=b'{"user":{"is_anonymous":"F"},"giveaway":"M"}',
            payment_info=b'{"race_fee":55}',
        )
    )
    assert (merged.unchanged, merged.updated, merged.changes) == (1, 0, 0)
    assert await race.rows("select xmin::text, content_hash from runsignup_participants") == before


async def test_a_new_mapping_version_rewrites_without_a_change(race: Race) -> None:
    await race.merge(Row(1), quiet=[11])
    await race.conn.execute("update runsignup_participants set content_hash = set_byte(content_hash, 0, 0)")
    merged = await race.merge(Row(1))
    assert (merged.updated, merged.changes) == (1, 0)
    assert (await race.rows("select get_byte(content_hash, 0) as v from runsignup_participants"))[0]["v"] == 1


async def test_only_what_differs_is_in_the_change(race: Race) -> None:
    await race.merge(Row(1), quiet=[11])
    await race.merge(Row(1, email=None, additional_data=b'{"giveaway": "L", "user": {"is_anonymous": "F"}, "n": null}'))
    assert await race.changes() == [
        (
            "updated",
            1,
            {"email": "ann@example.com", "additional_data": {"giveaway": "M"}},
            {"email": None, "additional_data": {"giveaway": "L", "n": None}},
        )
    ]


async def test_only_last_modified_moving_updates_without_a_change(race: Race) -> None:
    await race.merge(Row(1), quiet=[11])
    merged = await race.merge(Row(1, last_modified=datetime(2026, 11, 6, tzinfo=UTC)))
    assert (merged.updated, merged.changes) == (1, 0)
    assert (await race.rows("select last_modified from runsignup_participants"))[0]["last_modified"].day == 6


async def test_bib_changes_have_their_kinds(race: Race) -> None:
    await race.merge(Row(1), quiet=[11])
    for bib, chip in (("7", None), ("8", None), ("8", "AB"), (None, "AB")):
        await race.merge(Row(1, bib_num=bib, chip_num=chip))
    assert await race.bibs() == [
        ("assigned", 1, None, "7"),
        ("changed", 1, "7", "8"),
        ("chip", 1, "8", "8"),
        ("cleared", 1, "8", None),
    ]


async def test_absent_keys_leave_what_is_stored(race: Race) -> None:
    await race.merge(Row(1, bib_num="7"), quiet=[11])
    gone = Row(
        1, dob=None, gender=None, email=None, bib_num=None, absent=("dob", "gender", "email", "phone", "bib_num")
    )
    merged = await race.merge(gone)
    assert (merged.unchanged, merged.changes) == (1, 0)
    await race.merge(replace(gone, first_name="Anna"))
    stored = (await race.rows("select * from runsignup_participants"))[0]
    assert (stored["first_name"], stored["bib_num"], stored["gender"], stored["email"]) == (
        "Anna", "7", "F", "ann@example.com",
    )  # fmt: skip


async def test_silent_edits_are_counted(race: Race) -> None:
    await race.merge(Row(1), Row(2), quiet=[11])
    merged = await race.merge(Row(1, age=37), Row(2, age=37, last_modified=datetime(2026, 11, 6, tzinfo=UTC)))
    assert merged.silent_edits == 1


async def test_the_same_registration_twice_in_a_page_counts_once(race: Race) -> None:
    later = datetime(2026, 11, 6, tzinfo=UTC)
    merged = await race.merge(Row(1, age=40, last_modified=later), Row(1), quiet=[11])
    assert (merged.inserted, merged.unchanged) == (1, 1)
    assert (await race.rows("select age from runsignup_participants"))[0]["age"] == 40


async def test_absent_registrations_are_those_of_the_range_that_the_page_lacks(race: Race) -> None:
    await race.merge(*(Row(n) for n in range(1, 9)), Row(5, event_id=12), quiet=[11, 12])
    merged = await race.merge(Row(3), Row(5), answered=Range([11], 2, 6), present=[4])
    assert merged.absent == [(11, 6)]
    merged = await race.merge(Row(7), answered=Range([11], 6, None))
    assert merged.absent == [(11, 8)]


async def test_a_removal_keeps_the_row_and_its_columns(race: Race) -> None:
    await race.merge(Row(1, bib_num="7"), quiet=[11])
    applied = await race.remove(Removed(1, T0, new_registration_id=9))
    assert applied == (1, 1, [9])
    stored = (await race.rows("select * from runsignup_participants"))[0]
    assert (stored["bib_num"], stored["first_name"], stored["removed_at"]) == ("7", "Ann", T0)
    assert stored["removal"] == {"removed_reason": "removed"}
    assert await race.remove(Removed(1, T0, new_registration_id=9)) == (0, 0, [])
    assert [change[:2] for change in await race.changes()] == [("removed", 1)]
    assert await race.bibs() == []


async def test_an_older_removal_does_not_touch_a_newer_active_record(race: Race) -> None:
    await race.merge(Row(1, last_modified=datetime(2026, 11, 2, tzinfo=UTC)), quiet=[11])
    assert (await race.remove(Removed(1, T0))).removed == 0
    assert (await race.remove(Removed(1, T0), absent={(11, 1)})).removed == 1


async def test_seen_only_as_removed_is_a_row_that_is_not_on_the_start_list(race: Race) -> None:
    await race.remove(Removed(1))
    assert [change[:2] for change in await race.changes()] == [("removed", 1)]
    assert await race.rows("select * from start_list") == []
    async with race.conn.transaction():
        quiet = await removals.apply_removals(race.conn, scope=race.scope(quiet=[11]), removals=[Removed(2)], absent=())
    assert (quiet.removed, quiet.changes) == (1, 0)


async def test_only_a_later_active_record_restores(race: Race) -> None:
    await race.merge(Row(1), quiet=[11])
    await race.remove(Removed(1, T0))
    merged = await race.merge(Row(1))
    assert merged.contested == [(11, 1)]
    assert await race.rows("select * from start_list") == []
    await race.merge(Row(1, last_modified=datetime(2026, 11, 2, tzinfo=UTC)))
    assert len(await race.rows("select * from start_list")) == 1
    assert [change[0] for change in await race.changes()] == ["removed", "restored"]
    stored = (await race.rows("select * from runsignup_participants"))[0]
    assert (stored["removed_at"], stored["removed_reason"], stored["removal"]) == (None, None, None)


async def test_missing_stays_on_the_start_list_and_is_found_again(race: Race) -> None:
    await race.merge(Row(1), quiet=[11])
    async with race.conn.transaction():
        assert await removals.mark_missing(race.conn, 1, [(11, 1)]) == 1
        await race.write_changes()
    assert (await race.rows("select missing_since from start_list"))[0]["missing_since"] is not None
    merged = await race.merge(Row(1))
    assert (merged.updated, merged.changes) == (1, 1)
    assert (await race.rows("select missing_since from start_list"))[0]["missing_since"] is None
    assert [change[0] for change in await race.changes()] == ["missing", "found"]


async def test_a_full_pass_restores_what_the_removed_list_no_longer_names(race: Race) -> None:
    await race.merge(Row(1), quiet=[11])
    await race.remove(Removed(1, T0))
    async with race.conn.transaction():
        assert await removals.restore(race.conn, 1, [(11, 1)]) == 1
        await race.write_changes()
    assert [change[0] for change in await race.changes()] == ["removed", "restored"]
    assert len(await race.rows("select * from start_list")) == 1


async def test_bib_changes_notify_once_per_page(race: Race) -> None:
    await race.conn.execute("listen startlist_bibs")
    await race.merge(Row(1, bib_num="1"), Row(2, bib_num="2"))
    notes = [note.payload async for note in race.conn.notifies(timeout=1, stop_after=1)]
    assert notes == ['{"timing_partner_id":1,"race_id":7,"last_id":2}']


async def test_a_large_table_is_reached_by_its_key(race: Race) -> None:
    await race.merge(*(Row(n) for n in range(1, 3000)), quiet=[11])
    await race.conn.execute("set enable_hashjoin = off; set enable_mergejoin = off")
    async with race.conn.transaction():
        await stages.make(race.conn, removals.STAGE)
        await race.conn.execute("insert into stage_removals (event_id, registration_id) values (11, 5)")
        plan = await race.rows(
            "explain select from stage_removals s join runsignup_participants t"
            " on t.timing_partner_id = 1 and t.event_id = s.event_id and t.registration_id = s.registration_id"
        )
    assert "Index" in str(plan)
