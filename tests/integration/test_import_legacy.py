"""Taking over from the replaced system: nothing lost, nothing of ours overwritten, and right after the next sync."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from psycopg.rows import dict_row

from startlist.config import Settings
from startlist.errors import ConfigurationError, StartlistError
from startlist.store import purge
from startlist.store.database import Database
from startlist.store.legacy import importing
from startlist.store.legacy.importing import Imported, import_legacy
from startlist.store.partners import credentials
from startlist.store.sealing import open_key_ring
from tests.legacy import Legacy, Row
from tests.support import with_option
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig

STALE = range(59_000_001, 59_000_009)  # more than a suspicion would take


@pytest.fixture
def legacy(database_url: str) -> Iterator[Legacy]:
    """The old tables, empty, in the schema public of the database that ours live in."""
    old = Legacy(database_url)
    yield old
    old.close()


@pytest.fixture
def acme(legacy: Legacy) -> Legacy:
    """One partner with a key and a race (10) of two events (100, 101)."""
    legacy.partner(1, "Acme", "key-1", "hush-1")
    legacy.race(10, 1, [100, 101])
    return legacy


async def rows(database: Database, query: str) -> list[Row]:
    async with await database.connect() as conn, conn.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(query.encode())).fetchall()


async def one(database: Database, query: str) -> Row:
    (row,) = await rows(database, query)
    return row


def left(done: Imported, table: str = "runsignup_participants") -> dict[str, int]:
    return {reason: count for reason, count in done.tables[table].left.items() if count}


def added(done: Imported) -> list[int]:
    """Partners, keys, races, events, registrations."""
    return [taken.inserted for taken in done.tables.values()]


# -- and then a sync ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stale", [[], list(STALE)], ids=["current", "stale"])
async def test_after_the_next_sync_the_store_is_the_truth(rig: Rig, legacy: Legacy, stale: list[int]) -> None:
    (key,) = rig.control.partners()
    await rig.conn.execute("delete from timing_partners")
    legacy.partner(1, key["partner"], key["key"], key["secret"])
    legacy.race(RACE, 1, [FIRST])
    for number in [*range(PERSON, PERSON + 10), *stale]:
        legacy.registration(RACE, FIRST, number, bib_num="9", payment_info={"race_fee": "$5.00"})
        legacy.registration(RACE, FIRST, number, bib_num="8", fetched_date="2026-01-01")
    for number in (PERSON, PERSON + 1):
        rig.control.refund(number)
    rig.control.register(SECOND)
    rig.control.register(SECOND)
    done = await import_legacy(rig.database, rig.settings)
    assert added(done) == [1, 1, 1, 1, 10 + len(stale)]
    assert {row["bib_num"] for row in await rig.rows("select bib_num from start_list where event_id = %s", FIRST)} == {
        "9"
    }
    synced = await rig.sync()
    assert (synced.exit_status, synced.partners[0].company_name) == (0, key["partner"])
    await rig.assert_truth(missing=stale)
    # What the old system had wrong is told where a runner left the list; the rest is no news.
    assert sorted(await rig.changes()) == [
        *(("missing", number) for number in stale),
        ("removed", PERSON),
        ("removed", PERSON + 1),
    ]
    assert await rig.bibs() == []
    assert await rig.passes() == [("full", "completed", "never synced")]
    again = await import_legacy(rig.database, rig.settings)
    assert not again.changed
    await rig.assert_truth(missing=stale)


async def test_an_event_of_which_nobody_answers_is_a_suspicion(rig: Rig, legacy: Legacy) -> None:
    legacy.partner(1, "Peak Timing")
    legacy.race(RACE, 1, [SECOND])
    for number in STALE:
        legacy.registration(RACE, SECOND, number)
    await import_legacy(rig.database, rig.settings)
    done = await rig.sync()
    assert done.exit_status == 1
    assert await rig.rows("select 1 from runsignup_participants where missing_since is not null") == []
    accepted = await rig.sync(race_id=RACE, accept_missing=True)
    assert accepted.exit_status == 0
    await rig.assert_truth(missing=list(STALE))


async def test_what_a_sync_has_read_is_never_touched(rig: Rig, legacy: Legacy) -> None:
    await rig.sync()
    before = await rig.written()
    legacy.partner(1, "Peak Timing", "another-key")
    legacy.race(RACE, 1, [FIRST], name="Old Name")
    legacy.registration(RACE, FIRST, PERSON, last_name="Old")
    legacy.registration(RACE, FIRST, STALE[0])
    done = await import_legacy(rig.database, rig.settings)
    assert left(done) == {"stored": 1, "not_in_runsignup": 1}
    assert added(done) == [0, 1, 0, 0, 0]
    assert await rig.written() == before
    assert (await rig.one("select name from runsignup_races"))["name"] != "Old Name"


# -- what is taken -----------------------------------------------------------------------------------------------------


async def test_dirty_rows_are_counted_by_reason_and_kept_in_a_file(
    database: Database, settings: Settings, acme: Legacy
) -> None:
    acme.partner(2, "Other")
    acme.race(20, None, [200])
    acme.registration(10, 100, 1, first_name="Ann", bib_num="7", address=["odd"], additional_data={"a": 1})
    acme.registration(10, 100, 1, first_name="Older", fetched_date="2026-04-01")
    acme.registration(10, 100, 1, first_name="Undated", fetched_date=None)
    acme.registration(10, 100, None, first_name="No id")
    acme.registration(10, None, 2)
    acme.registration(None, 999, 3)
    acme.registration(10, 100, 4, timing_partner_id=77)
    acme.registration(10, 100, 5, timing_partner_id=None)  # only one partner has this race
    acme.registration(20, 200, 6, timing_partner_id=None)
    acme.registration(10, 998, 7)  # an event without a row
    acme.registration(10, 101, 8, **dict.fromkeys(["fetched_date", "created_at", "last_name"]))
    acme.registration(20, 101, 9)  # the event's race counts
    before = acme.checksum()
    file = io.StringIO()
    done = await import_legacy(database, settings, rejected=file)
    assert left(done) == {
        "duplicate": 2, "no_registration_id": 1, "no_event_id": 1, "no_race_id": 1, "unknown_partner": 1,
        "no_partner": 1,
    }  # fmt: skip
    assert left(done, "runsignup_races") == {"no_partner": 1}
    kept = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [(line["reason"], line["row"].get("first_name")) for line in kept][:3] == [
        ("duplicate", "Older"), ("duplicate", "Undated"), ("no_registration_id", "No id"),
    ]  # fmt: skip
    assert len(kept) == 7
    taken = await rows(database, "select * from runsignup_participants order by registration_id")
    assert [(r["registration_id"], r["race_id"], r["event_id"]) for r in taken] == [
        (1, 10, 100), (5, 10, 100), (7, 10, 998), (8, 10, 101), (9, 10, 101),
    ]  # fmt: skip
    assert (taken[0]["first_name"], taken[0]["bib_num"]) == ("Ann", "7")
    assert taken[0]["additional_data"] == {"a": 1, "legacy": {"address": '["odd"]'}}
    assert (taken[0]["address"], taken[0]["field_errors"]) == (None, ["address"])
    event = await one(database, "select * from runsignup_events where event_id = 998")
    assert (event["name"], event["race_id"], event["first_full_at"]) == (None, 10, None)
    assert any("no row of their own" in warning for warning in done.warnings)
    assert acme.checksum() == before
    again = await import_legacy(database, settings)
    assert not again.changed
    assert left(again)["stored"] == 5
    assert await rows(database, "select * from runsignup_participants order by registration_id") == taken


async def test_a_table_of_texts_with_broken_json_and_days(database: Database, settings: Settings, acme: Legacy) -> None:
    acme.run(
        "alter table {s}.runsignup_participants alter dob type text, alter additional_data type text,"
        " alter bib_num type text, add last_modified timestamp;"
        "drop table {s}.providers"
    )
    acme.registration(
        10, 100, 1, dob="1990-02-31", additional_data='{"a": "\\u0000', bib_num="9" * 200,
        last_modified="2026-05-01 10:00",
    )  # fmt: skip
    acme.registration(10, 100, 2, dob="1990-02-28", additional_data=r'{"a": "b\nc"}', profile_image_url="http://x/y")
    done = await import_legacy(database, settings)
    assert added(done) == [1, 1, 1, 2, 2]
    broken, sound = await rows(database, "select * from runsignup_participants order by registration_id")
    assert (broken["dob"], broken["bib_num"], broken["last_modified"]) == (None, None, None)
    assert sorted(broken["field_errors"]) == ["additional_data", "bib_num", "dob"]
    assert broken["additional_data"]["legacy"]["additional_data"] == '{"a": "\\u0000'
    assert broken["additional_data"]["legacy"]["last_modified"].startswith("2026-05-01 10:00")
    assert sound["dob"] == date(1990, 2, 28)
    assert sound["additional_data"] == {"a": "b\nc", "user": {"profile_image_url": "http://x/y"}}


async def test_years_that_no_calendar_has_are_kept_beside_and_break_nothing(
    database: Database, settings: Settings, legacy: Legacy
) -> None:
    legacy.partner(1, "Acme", "key-1")
    legacy.race(10, 1, [100], next_date="20240-07-04", last_date="0044-03-15 BC")
    legacy.run("update {s}.runsignup_events set start_time = '20240-07-04 07:00', end_time = '0044-03-15 07:00 BC'")
    legacy.registration(10, 100, 1, dob="19850-05-01", registration_date="infinity")
    await import_legacy(database, settings)
    (row,) = await rows(database, "select * from runsignup_participants")
    assert (row["dob"], row["registration_date"], sorted(row["field_errors"])) == (
        None, None, ["dob", "registration_date"],
    )  # fmt: skip
    assert row["additional_data"]["legacy"] == {"dob": "19850-05-01", "registration_date": "infinity"}
    event = await one(database, "select * from runsignup_events")
    assert (event["start_time"], event["end_time"], event["race_day"]) == (None, None, None)
    assert event["additional_data"]["legacy"] == {
        "start_time": "20240-07-04 07:00:00", "end_time": "0044-03-15 07:00:00 BC",
    }  # fmt: skip
    race = await one(database, "select * from runsignup_races")
    assert (race["next_date"], race["last_date"]) == (None, None)
    assert race["additional_data"]["legacy"]["next_date"].startswith("20240-07-04")


async def test_times_are_read_on_the_clocks_they_were_written_by(
    database: Database, settings: Settings, acme: Legacy, database_url: str
) -> None:
    acme.race(20, 1, [200], timezone=None)
    acme.registration(10, 100, 1, registration_date="2026-01-15 08:00", created_at="2026-01-16 08:00")
    done = await import_legacy(database, settings, url=with_option(database_url, "timezone=America/Chicago"))
    assert done.timezone == "America/Chicago"
    events = {row["event_id"]: row for row in await rows(database, "select * from runsignup_events")}
    assert events[100]["start_time"] == datetime(2026, 7, 4, 13, 0, tzinfo=UTC)
    assert (events[100]["timezone"], events[100]["race_day"]) == ("America/Denver", date(2026, 7, 4))
    assert events[200]["start_time"] == datetime(2026, 7, 4, 11, 0, tzinfo=UTC)
    assert any("US Eastern" in warning for warning in done.warnings)
    row = await one(database, "select * from runsignup_participants")
    assert row["registration_date"] == datetime(2026, 1, 15, 14, 0, tzinfo=UTC)
    assert row["first_seen_at"] == datetime(2026, 1, 16, 14, 0, tzinfo=UTC)
    assert row["changed_at"] == datetime(2026, 5, 1, 17, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("local", "zone", "instant"),
    [
        ("2026-11-01 01:30", "America/Denver", datetime(2026, 11, 1, 7, 30, tzinfo=UTC)),  # comes twice
        ("2026-11-01 02:00", "America/Denver", datetime(2026, 11, 1, 9, 0, tzinfo=UTC)),
        ("2026-03-08 02:30", "America/Denver", datetime(2026, 3, 8, 9, 30, tzinfo=UTC)),  # does not come
        ("2026-04-05 01:45", "Australia/Lord_Howe", datetime(2026, 4, 4, 14, 45, tzinfo=UTC)),  # by half an hour
        ("2026-11-01 01:30-07", "America/Denver", datetime(2026, 11, 1, 8, 30, tzinfo=UTC)),
    ],
)
async def test_a_start_as_clocks_are_set_is_read_as_a_sync_reads_it(
    local: str, zone: str, instant: datetime, database: Database, settings: Settings, legacy: Legacy
) -> None:
    legacy.partner(1, "Acme", "key-1")
    legacy.run("alter table {s}.runsignup_events alter start_time type text")
    legacy.race(10, 1, [], timezone=zone)
    legacy.add("runsignup_events", event_id=100, race_id=10, timing_partner_id=1, start_time=local)
    await import_legacy(database, settings)
    assert (await one(database, "select * from runsignup_events"))["start_time"] == instant


# -- beside syncs ------------------------------------------------------------------------------------------------------


async def test_a_pass_that_writes_is_waited_for_and_what_it_stored_stays(
    database: Database, settings: Settings, acme: Legacy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await import_legacy(database, settings)  # races and events
    for number in (1, 2):
        acme.registration(10, 100, number)
    async with await database.connect(name="a pass") as conn:
        async with conn.transaction():
            await conn.execute(
                "insert into runsignup_participants (timing_partner_id, race_id, event_id, registration_id, last_name)"
                " values (1, 10, 100, 1, 'Synced')"
            )
            with monkeypatch.context() as patched:
                patched.setattr(importing, "_ALONE", importing._ALONE.replace("30s", "50ms"))
                with pytest.raises(StartlistError, match="nothing was imported"):
                    await import_legacy(database, settings)
            waiting = asyncio.create_task(import_legacy(database, settings))
            waits = "select from pg_locks join pg_database on pg_database.oid = database where not granted"
            while not await rows(database, f"{waits} and datname = current_database()"):
                await asyncio.sleep(0.02)
        done = await waiting
    assert (added(done)[-1], left(done)) == (1, {"stored": 1})
    stored = await rows(database, "select * from runsignup_participants order by registration_id")
    assert [row["last_name"] for row in stored] == ["Synced", "Legacy"]


# -- partners and keys -------------------------------------------------------------------------------------------------


async def test_partners_keep_their_ids_where_they_are_free_and_keys_are_sealed(
    database: Database, settings: Settings, legacy: Legacy
) -> None:
    async with await database.connect() as conn:
        await conn.execute("insert into timing_partners (company_name) values ('Ours'), (' acme  TIMING ')")
        await conn.execute(
            "insert into partner_provider_credentials (timing_partner_id, principal, secret) values (2, 'held', 'mine')"
        )
    legacy.run("insert into {s}.providers values (1, 'RunSignUp'), (2, 'ChronoTrack')")
    legacy.partner(1, "Acme Timing", "held", "theirs", provider=1)
    legacy.partner(7, "Seven", "key-7", "hush-7", provider=1)
    legacy.partner(2, "Two", "key-2", "hush-2", provider=2)
    legacy.partner(8, "Seven", "key-7", "hush-8", provider=1)
    legacy.partner(9, " ", "key-9", "", provider=1)
    done = await import_legacy(database, settings)
    assert added(done)[:2] == [4, 1]
    assert left(done, "partner_provider_credentials") == {
        "stored": 1, "other_provider": 1, "key_of_another_partner": 1, "no_key_or_secret": 1,
    }  # fmt: skip
    ours = await rows(database, "select timing_partner_id, company_name from timing_partners order by 1")
    numbers = {row["timing_partner_id"]: row["company_name"] for row in ours}
    two = next(number for number, name in numbers.items() if name == "Two")
    assert numbers == {1: "Ours", 2: " acme  TIMING ", 7: "Seven", 8: "Seven", 9: "timing partner 9", two: "Two"}
    assert sorted(done.renumbered) == [("1", 2), ("2", two)]
    sealed = await rows(database, "select secret from partner_provider_credentials where principal = 'key-7'")
    assert sealed[0]["secret"].startswith("fernet:")
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings)
        found = {one.principal: one.secret for one in await credentials(conn, ring, settings)}
        await conn.execute("update timing_partners set company_name = 'Renamed' where timing_partner_id = 7")
    assert found == {"held": "mine", "key-7": "hush-7"}
    again = await import_legacy(database, settings)
    assert not again.changed


@pytest.mark.parametrize("names", [("Alpha", "Alpha East"), ("Alpha", "Alpha")], ids=["two names", "one name"])
async def test_partners_that_share_a_key_are_found_again(
    names: tuple[str, str], database: Database, settings: Settings, legacy: Legacy
) -> None:
    for number, name in zip((10, 8), reversed(names), strict=True):
        legacy.partner(number, name, "shared")
        legacy.race(number, number, [number * 10])
        legacy.registration(number, number * 10, number, timing_partner_id=number)
    first = await import_legacy(database, settings)
    assert (added(first), first.renumbered) == ([2, 1, 2, 2, 2], [])
    assert await rows(database, "select timing_partner_id from partner_provider_credentials") == [
        {"timing_partner_id": 8}
    ]
    again = await import_legacy(database, settings)
    assert not again.changed
    assert again.renumbered == []
    assert [left(again, table) for table in ("runsignup_races", "runsignup_events")] == [{"stored": 2}] * 2
    stored = await rows(database, "select timing_partner_id, race_id from runsignup_participants order by 1")
    assert [(row["timing_partner_id"], row["race_id"]) for row in stored] == [(8, 8), (10, 10)]


async def test_who_was_purged_does_not_come_back(database: Database, settings: Settings, acme: Legacy) -> None:
    acme.run("update {s}.runsignup_events set start_time = '2020-07-04 07:00', end_time = null")
    acme.registration(10, 100, 1)
    await import_legacy(database, settings)
    async with await database.connect() as conn:
        chosen = await purge.choose(conn, timing_partner_id=None, race_id=10, before=None)
        parts = await purge.counted(conn, chosen)
    assert [part.registrations async for part in purge.purge(database, parts, wait_seconds=0)] == [1]
    acme.registration(10, 101, 2)
    again = await import_legacy(database, settings)
    assert (added(again)[-1], left(again)) == (0, {"purged": 2})


async def test_a_dry_run_counts_and_stores_nothing(database: Database, settings: Settings, acme: Legacy) -> None:
    acme.registration(10, 100, 1)
    done = await import_legacy(database, settings, dry_run=True)
    assert added(done) == [1, 1, 1, 2, 1]
    for table in ("timing_partners", "partner_provider_credentials", "runsignup_races", "runsignup_participants"):
        assert await rows(database, f"select 1 from {table}") == []


# -- what cannot be read -----------------------------------------------------------------------------------------------


async def test_a_source_that_is_none_is_named(database: Database, settings: Settings, acme: Legacy) -> None:
    for given, said in (
        ({"schema": "startlist"}, "was made by startlist itself"),
        ({"schema": "elsewhere"}, "has no table timing_partners, runsignup_races, .*--from-schema"),
        ({"url": "postgresql://u:p@h:x/db"}, "--from: "),
        ({"url": "postgresql://nobody:sesame@127.0.0.1:1/x"}, "--from: the database at 127.0.0.1:1"),
    ):
        with pytest.raises(ConfigurationError, match=said) as raised:
            await import_legacy(database, settings, **given)  # type: ignore[arg-type]
        assert "sesame" not in str(raised.value)
    acme.run("create role startlist_test_reader; grant usage on schema {s} to startlist_test_reader")
    try:
        url = with_option(database.conninfo, "role=startlist_test_reader")
        with pytest.raises(ConfigurationError, match=r"may not read public\.\w+: grant"):
            await import_legacy(database, settings, url=url)
    finally:
        acme.run("drop owned by startlist_test_reader; drop role startlist_test_reader")
    acme.run("alter table {s}.runsignup_participants drop column registration_id")
    with pytest.raises(ConfigurationError, match="has no column registration_id"):
        await import_legacy(database, settings)


# -- the views ---------------------------------------------------------------------------------------------------------


async def test_the_views_give_reports_the_old_names_and_values(
    database: Database, settings: Settings, acme: Legacy
) -> None:
    acme.registration(
        10, 100, 1, first_name="Ann", bib_num="7", dob="1990-01-02", address={"city": "Ely"}, team_info={"team_id": 3},
        registration_date="2026-01-15 08:00", profile_image_url="http://x/y", additional_data={"a": 1},
    )  # fmt: skip
    await import_legacy(database, settings)
    async with await database.connect() as conn:
        await conn.execute(
            "insert into sync_history (timing_partner_id, race_id, event_ids, sync_type, status, rows_received,"
            " rows_inserted, started_at) values (1, 10, '{100}', 'full', 'completed', 5, 4, '2026-05-01 12:00+00')"
        )
    for table in ("runsignup_races", "runsignup_events", "runsignup_participants"):
        (was,) = await rows(database, f"select * from public.{table} order by 1 limit 1")
        (now,) = await rows(database, f"select * from legacy_{table} order by 1 limit 1")
        assert was.keys() <= now.keys()
        not_the_same: dict[str, Any] = {"id": 1, "additional_data": {"a": 1}, "distance": "5.00"} | {
            name: was[name] for name in was if name.endswith(("_date", "created_at")) and name != "registration_date"
        }
        assert {n: v for n, v in now.items() if n in was and n not in not_the_same} == {
            n: v for n, v in was.items() if n not in not_the_same
        }
        if table != "runsignup_races" and "distance" not in was:
            assert now["fetched_date"] == was["fetched_date"]
    done = await one(database, "select * from legacy_sync_history")
    assert (done["event_id"], done["sync_time"], done["num_of_synced_records"], done["credentials_used"]) == (
        "100", datetime(2026, 5, 1, 12), 4, None,  # noqa: DTZ001  # as the old system had it
    )  # fmt: skip
    async with await database.connect() as conn:
        await conn.execute("update runsignup_participants set removed_at = now()")
    assert await rows(database, "select * from legacy_runsignup_participants") == []
