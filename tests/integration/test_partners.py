"""Timing partners and credentials in the tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from startlist.config import Settings
from startlist.errors import ConfigurationError, StartlistError
from startlist.store import budget, partners
from startlist.store.cursors import lock_race
from startlist.store.database import Connection, Database
from startlist.store.partners import Credential
from startlist.store.sealing import KeyRing, open_key_ring


def settings_of(home: Path, calls_per_hour: int | None = None) -> Settings:
    if calls_per_hour is None:
        return Settings(_env_file=None, home=home)  # type: ignore[call-arg]
    return Settings(_env_file=None, home=home, calls_per_hour=calls_per_hour)  # type: ignore[call-arg]


async def added(
    conn: Connection, ring: KeyRing, name: str = "Acme", key: str = "key-1", number: int | None = None
) -> partners.Added:
    return await partners.add(
        conn, ring, name=name, principal=key, secret="hush-" + key, credential_type="legacy", timing_partner_id=number
    )


async def value(conn: Connection, query: str) -> object:
    row = await (await conn.execute(query)).fetchone()
    return row[0] if row else None


async def test_add_seals_and_gives_ids_in_order(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings_of(tmp_path))
        first = await added(conn, ring)
        second = await added(conn, ring, "Best Timing", "key-2")
        assert (first.timing_partner_id, second.timing_partner_id) == (1, 2)
        assert str(await value(conn, "select secret from partner_provider_credentials limit 1")).startswith("fernet:")
        one, two = await partners.credentials(conn, ring, settings_of(tmp_path))
        assert (one.secret, two.secret) == ("hush-key-1", "hush-key-2")
        assert (two.company_name, two.credential_type, two.verified_at) == ("Best Timing", "legacy", None)
        (only,) = await partners.credentials(conn, ring, settings_of(tmp_path), timing_partner_id=2)
        assert only == two


async def test_an_explicit_id_raises_the_sequence(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings_of(tmp_path))
        assert (await added(conn, ring, number=40)).timing_partner_id == 40
        assert (await added(conn, ring, "Next", "key-2")).timing_partner_id == 41
        assert (await added(conn, ring, "Lower", "key-3", 7)).timing_partner_id == 7
        await conn.execute("insert into timing_partners (timing_partner_id, company_name) values (60, 'By SQL')")
        await conn.execute(
            "insert into partner_provider_credentials (credential_id, timing_partner_id, principal, secret)"
            " values (90, 60, 'key-4', 'readable')"
        )
        last = await added(conn, ring, "After", "key-5")
        assert (last.timing_partner_id, last.credential_id) == (61, 91)
        query = "insert into providers (name) values ('another') returning provider_id"
        assert await value(conn, query) == 3


async def test_plain_sql_works_whatever_the_search_path_of_its_session(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        await conn.execute("set search_path = pg_catalog")
        schema = database.schema
        await conn.execute(f"insert into {schema}.timing_partners values (5, 'Acme')")
        await conn.execute(f"delete from {schema}.timing_partners")


async def test_several_credentials_of_one_partner(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings_of(tmp_path))
        partner = (await added(conn, ring)).timing_partner_id
        more = await added(conn, ring, "Acme", "key-2", partner)
        assert (more.timing_partner_id, more.new_partner) == (partner, False)
        assert len(await partners.states(conn, settings_of(tmp_path))) == 2
        with pytest.raises(ConfigurationError, match="timing partner 1 is Acme, not Other"):
            await added(conn, ring, "Other", "key-3", partner)


async def test_the_same_api_key_twice_is_refused(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings_of(tmp_path))
        await added(conn, ring)
        for number in (None, 1):
            with pytest.raises(ConfigurationError, match="API key key-1 belongs to timing partner 1 already"):
                await added(conn, ring, number=number)
        assert await value(conn, "select count(*) from timing_partners") == 1


@pytest.mark.parametrize(
    ("own", "setting", "provider", "effective"),
    [
        (None, None, None, 1000),
        (None, None, 300, 300),
        (None, 500, 300, 500),
        (200, 500, 300, 200),
        (None, 1000, 300, 1000),
    ],
)
async def test_whose_limit_wins(
    database: Database, tmp_path: Path, own: int | None, setting: int | None, provider: int | None, effective: int
) -> None:
    settings = settings_of(tmp_path, setting)
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings)
        await conn.execute("update providers set rate_limit_per_hour = %s", [provider])
        await partners.add(conn, ring, name="Acme", principal="k", secret="s", credential_type="v2", calls_per_hour=own)
        (credential,) = await partners.credentials(conn, ring, settings)
        assert credential.calls_per_hour == effective
        assert (await partners.states(conn, settings))[0].calls_per_hour == effective


async def test_states_tell_what_a_partner_may_do_and_no_secret(database: Database, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings)
        await added(conn, ring)
        await conn.execute("insert into timing_partners (company_name) values ('Without a key')")
        (credential,) = await partners.credentials(conn, ring, settings)
        await call(conn, credential, 5, 7)
        await partners.stop(conn, credential, "RunSignup refused it")
        await partners.stop(conn, credential, "a later reason")
        await budget.pause(conn, credential.credential_id, 30)
        state, bare = await partners.states(conn, settings)
        assert state.stopped_reason == "RunSignup refused it"
        assert state.calls_last_hour == 1
        assert state.paused_until is not None
        assert (bare.company_name, bare.credential_id, bare.calls_per_hour) == ("Without a key", None, None)
        assert "hush" not in repr(state)
        await partners.mark_verified(conn, credential)
        (state, _) = await partners.states(conn, settings)
        assert (state.stopped_at, state.stopped_reason) == (None, None)
        assert state.verified_at is not None
        with pytest.raises(ConfigurationError, match="there is no timing partner 9"):
            await partners.states(conn, settings, timing_partner_id=9)


async def test_rotate_starts_a_credential_afresh(database: Database, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings)
        await added(conn, ring)
        (credential,) = await partners.credentials(conn, ring, settings)
        for race in (1, 2, 3):
            await call(conn, credential, race, 7)
        await partners.mark_verified(conn, credential)
        await partners.stop(conn, credential, "3 races refused")
        await budget.pause(conn, credential.credential_id, 600)
        done = await partners.rotate(conn, ring, timing_partner_id=1, principal=None, secret="brand-new")
        assert (done.principal, done.old_principal) == ("key-1", "key-1")
        (after,) = await partners.credentials(conn, ring, settings)
        assert (after.secret, after.verified_at, after.stopped_at) == ("brand-new", None, None)
        assert (await partners.states(conn, settings))[0].paused_until is None
        assert not await budget.refused_races(conn, credential.credential_id)
        assert await budget.calls_left(conn, credential) == 997


async def test_rotate_takes_a_new_key_or_names_one_of_several(database: Database, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings)
        await added(conn, ring)
        done = await partners.rotate(conn, ring, timing_partner_id=1, principal="key-9", secret="x")
        assert (done.old_principal, done.principal) == ("key-1", "key-9")
        await added(conn, ring, key="key-2", number=1)
        for wrong in (None, "key-7"):
            with pytest.raises(ConfigurationError, match="several API keys: key-9, key-2; name one"):
                await partners.rotate(conn, ring, timing_partner_id=1, principal=wrong, secret="x")
        await partners.rotate(conn, ring, timing_partner_id=1, principal="key-2", secret="y")
        assert [one.secret for one in await partners.credentials(conn, ring, settings)] == ["x", "y"]
        await added(conn, ring, "Other", "key-3")
        with pytest.raises(ConfigurationError, match="key-2 belongs to timing partner 1 already"):
            await partners.rotate(conn, ring, timing_partner_id=2, principal="key-2", secret="z")
        with pytest.raises(ConfigurationError, match="no timing partner 5"):
            await partners.rotate(conn, ring, timing_partner_id=5, principal=None, secret="z")
        await conn.execute("insert into timing_partners (timing_partner_id, company_name) values (8, 'Bare')")
        with pytest.raises(ConfigurationError, match="has no credential"):
            await partners.rotate(conn, ring, timing_partner_id=8, principal=None, secret="z")


async def test_rotate_heals_a_secret_that_no_longer_opens(database: Database, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings)
        await added(conn, ring)
        await conn.execute("update partner_provider_credentials set secret = 'fernet:damaged'")
        await partners.rotate(conn, ring, timing_partner_id=1, principal=None, secret="again")
        assert (await partners.credentials(conn, ring, settings))[0].secret == "again"


async def call(conn: Connection, credential: Credential, race_id: int, error_code: int | None) -> None:
    made = await budget.reserve(conn, credential, endpoint="participants", race_id=race_id, run_id=None, first=False)
    assert isinstance(made, budget.Reservation)
    await budget.record(conn, made.call_id, seconds=0.1, http_status=200, error_code=error_code, rows=None, nbytes=20)


FILL = """
    insert into runsignup_races (timing_partner_id, race_id, credential_id)
        select timing_partner_id, 10, credential_id from partner_provider_credentials;
    insert into runsignup_events (timing_partner_id, event_id, race_id)
        select timing_partner_id, 20, 10 from timing_partners;
    insert into runsignup_participants (timing_partner_id, race_id, event_id, registration_id)
        select timing_partner_id, 10, 20, 30 + n from timing_partners, generate_series(1, 5) n;
    insert into sync_history (timing_partner_id, credential_id, race_id, sync_type, status)
        select timing_partner_id, credential_id, 10, 'full', 'completed' from partner_provider_credentials;
    insert into sync_cursors (timing_partner_id, race_id) select timing_partner_id, 10 from timing_partners;
    insert into runsignup_changes (timing_partner_id, race_id, event_id, registration_id, change_type)
        select timing_partner_id, 10, 20, 30, 'added' from timing_partners;
    insert into runsignup_bib_changes (timing_partner_id, race_id, event_id, registration_id, kind)
        select timing_partner_id, 10, 20, 30, 'assigned' from timing_partners;
    insert into runsignup_quarantine (timing_partner_id, endpoint, reason, raw, raw_hash)
        select timing_partner_id, 'participants', 'no id', '{}', '' from timing_partners;
"""


async def test_remove_takes_every_row_of_the_partner_and_of_no_other(database: Database, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with await database.connect() as conn:
        ring = await open_key_ring(conn, settings)
        await added(conn, ring)
        await added(conn, ring, "Stays", "key-2")
        await conn.execute(FILL)
        for credential in await partners.credentials(conn, ring, settings):
            await call(conn, credential, 10, None)
        before = await partners.stored_rows(conn, 1)
        assert before["runsignup_participants"] == 5
        assert {"timing_partners", "partner_provider_credentials", "api_calls", "runsignup_changes"} <= set(before)
        assert next(iter(before)) == "timing_partners"
        await partners.remove(database, 1)
        with pytest.raises(ConfigurationError, match="no timing partner 1"):
            await partners.stored_rows(conn, 1)
        for table in before:
            left = 5 if table == "runsignup_participants" else 1
            assert await value(conn, f"select count(*) from {table}") == left, table
        assert await partners.stored_rows(conn, 2) == before
        with pytest.raises(ConfigurationError, match="no timing partner 1"):
            await partners.remove(database, 1)


async def test_nothing_is_removed_while_a_race_is_being_synced(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn, await database.connect() as other:
        ring = await open_key_ring(conn, settings_of(tmp_path))
        await added(conn, ring)
        await conn.execute(FILL)
        before = await partners.stored_rows(conn, 1)
        assert await lock_race(database, other, 1, 10)
        with pytest.raises(StartlistError, match="race 10 of timing partner 1 is being synced"):
            await partners.remove(database, 1)
        assert await partners.stored_rows(conn, 1) == before
        await other.close()
        await partners.remove(database, 1)
