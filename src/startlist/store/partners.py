"""Timing partners and their credentials: what `partner add`, `list`, `rotate`, `remove` and every sync ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

from psycopg import sql
from psycopg.rows import class_row, dict_row

from startlist.config import Settings
from startlist.errors import ConfigurationError, StartlistError
from startlist.store import backfill
from startlist.store.cursors import lock_race
from startlist.store.database import Connection, Database, translated
from startlist.store.sealing import SEALED, KeyRing, hold_key


@dataclass(frozen=True)
class Credential:
    """One API key of a timing partner, opened; `calls_per_hour` is what holds for it after all settings.

    `secret` is None where what is stored is damaged: that fails this key alone.
    """

    credential_id: int
    timing_partner_id: int
    company_name: str
    principal: str
    secret: str | None = field(repr=False)
    credential_type: str
    calls_per_hour: int
    verified_at: datetime | None
    stopped_at: datetime | None
    stopped_reason: str | None
    rotated_at: datetime | None = None  # which secret this is: what is found out about it holds for no later one
    silent_bibs_at: datetime | None = None  # when a full pass last found a bib changed that was not dated anew


LIST_FAILURES = 5  # in a row, over some four minutes


@dataclass(frozen=True)
class CredentialState:
    """One line of `partner list`: a partner with one of its credentials (None where it has none); no secret."""

    timing_partner_id: int
    company_name: str
    contact_email: str | None
    credential_id: int | None
    principal: str | None
    credential_type: str | None
    calls_per_hour: int | None
    calls_last_hour: int
    verified_at: datetime | None
    stopped_at: datetime | None
    stopped_reason: str | None
    paused_until: datetime | None
    silent_bibs_at: datetime | None
    list_failures: int  # in a row: the schedule could not read its race list, or nothing proved the key

    @property
    def unlisted(self) -> bool:
        """Whether its race list cannot be taken: new races may be unknown. Some minutes pass until it is sure."""
        return self.list_failures >= LIST_FAILURES


@dataclass(frozen=True)
class Added:
    """What `add` made."""

    timing_partner_id: int
    credential_id: int
    company_name: str
    new_partner: bool


@dataclass(frozen=True)
class Rotated:
    """Whose secret `rotate` replaced; `old_principal` differs from `principal` when the key was replaced too."""

    timing_partner_id: int
    credential_id: int
    principal: str
    old_principal: str


_CREDENTIALS: LiteralString = """
    select (select fingerprint from secret_keys) as fingerprint, c.credential_id, c.timing_partner_id, t.company_name,
           c.principal, c.secret, c.credential_type,
           coalesce(c.calls_per_hour, %(configured)s::int, p.rate_limit_per_hour, %(default)s::int) as calls_per_hour,
           c.verified_at, c.stopped_at, c.stopped_reason, c.rotated_at, c.silent_bibs_at
    from partner_provider_credentials c
    join timing_partners t using (timing_partner_id)
    join providers p using (provider_id)
    where c.provider_id = 2 and (%(partner)s::bigint is null or c.timing_partner_id = %(partner)s)
    order by c.timing_partner_id, c.credential_id
"""

_STATES: LiteralString = """
    select t.timing_partner_id, t.company_name, t.contact_email, c.credential_id, c.principal, c.credential_type,
           case when c.credential_id is not null then coalesce(
               c.calls_per_hour, %(configured)s::int, p.rate_limit_per_hour, %(default)s::int
           ) end as calls_per_hour,
           coalesce(made.calls, 0) as calls_last_hour, c.verified_at, c.stopped_at, c.stopped_reason,
           case when c.paused_until > clock_timestamp() then c.paused_until end as paused_until, c.silent_bibs_at,
           coalesce(c.list_failures, 0) as list_failures
    from timing_partners t
    left join (partner_provider_credentials c join providers p using (provider_id))
        on c.timing_partner_id = t.timing_partner_id and c.provider_id = 2
    left join lateral (
        select count(*) as calls from api_calls a
        where a.credential_id = c.credential_id and a.reserved_at > statement_timestamp() - interval '1 hour'
    ) made on true
    where %(partner)s::bigint is null or t.timing_partner_id = %(partner)s
    order by t.timing_partner_id, c.credential_id
"""


def _limits(settings: Settings, timing_partner_id: int | None) -> dict[str, int | None]:
    """A credential's own limit wins, then the setting where one was made, then the provider's row, then the default."""
    return {
        "configured": settings.calls_per_hour if "calls_per_hour" in settings.model_fields_set else None,
        "default": Settings.model_fields["calls_per_hour"].default,
        "partner": timing_partner_id,
    }


async def credentials(
    conn: Connection, ring: KeyRing, settings: Settings, *, timing_partner_id: int | None = None
) -> list[Credential]:
    """All credentials with their secrets opened, in order of their ids; readable secrets are sealed on the way.

    Raises `ConfigurationError` when this process does not hold the key that sealed them.
    """
    limits = _limits(settings, timing_partner_id)
    with translated():
        rows = await _rows(conn, limits)
        if not all(row["secret"].startswith(SEALED) for row in rows):
            await _seal_readable(conn, ring)
            rows = await _rows(conn, limits)
    found = []
    for row in rows:
        ring.use(row.pop("fingerprint"))
        row["secret"] = ring.open(row["secret"]) if ring.opens(row["secret"]) else None
        found.append(Credential(**row))
    return found


async def _rows(conn: Connection, limits: dict[str, int | None]) -> list[dict[str, Any]]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_CREDENTIALS, limits)
        return await cursor.fetchall()


async def _seal_readable(conn: Connection, ring: KeyRing) -> None:
    """Seal what plain SQL put there. Two processes at once: the second finds nothing left."""
    query = (
        "select credential_id, secret from partner_provider_credentials where not starts_with(secret, %s) for update"
    )
    async with conn.transaction():
        await hold_key(conn, ring)
        for credential_id, secret in await (await conn.execute(query, [SEALED])).fetchall():
            await conn.execute(
                "update partner_provider_credentials set secret = %s where credential_id = %s",
                [ring.seal(str(secret)), credential_id],
            )


async def states(
    conn: Connection, settings: Settings, *, timing_partner_id: int | None = None
) -> list[CredentialState]:
    """All partners with their credentials, without secrets. Raises `ConfigurationError` for a partner we don't know."""
    with translated():
        async with conn.cursor(row_factory=class_row(CredentialState)) as cursor:
            await cursor.execute(_STATES, _limits(settings, timing_partner_id))
            found = await cursor.fetchall()
    if not found and timing_partner_id is not None:
        raise _unknown(timing_partner_id)
    return found


def _unknown(timing_partner_id: int) -> ConfigurationError:
    return ConfigurationError(f"there is no timing partner {timing_partner_id}; startlist partner list shows all")


async def add(
    conn: Connection,
    ring: KeyRing,
    *,
    name: str,
    principal: str,
    secret: str,
    credential_type: str,
    timing_partner_id: int | None = None,
    email: str | None = None,
    calls_per_hour: int | None = None,
) -> Added:
    """Add a timing partner with a credential, or one more credential to the partner of the id given.

    Raises `ConfigurationError` when the API key is there already or the id belongs to a partner of another name.
    """
    with translated():
        async with conn.transaction():
            await hold_key(conn, ring)
            holder = await _holder(conn, principal)
            if holder is not None:
                raise ConfigurationError(
                    f"API key {principal} belongs to timing partner {holder} already;"
                    f" startlist partner rotate {holder} --api-key {principal} gives it a new secret"
                )
            partner, is_new = await _partner(conn, timing_partner_id, name, email)
            query = """
                insert into partner_provider_credentials
                    (timing_partner_id, principal, secret, credential_type, calls_per_hour)
                values (%s, %s, %s, %s, %s)
                returning credential_id
            """
            values = [partner, principal, ring.seal(secret), credential_type, calls_per_hour]
            credential_id = await _number(conn, query, values)
    return Added(partner, credential_id, name, is_new)


async def _holder(conn: Connection, principal: str) -> int | None:
    query = "select timing_partner_id from partner_provider_credentials where provider_id = 2 and principal = %s"
    row = await (await conn.execute(query, [principal])).fetchone()
    return None if row is None else int(row[0])


async def _partner(conn: Connection, timing_partner_id: int | None, name: str, email: str | None) -> tuple[int, bool]:
    if timing_partner_id is None:
        query = "insert into timing_partners (company_name, contact_email) values (%s, %s) returning timing_partner_id"
        return await _number(conn, query, [name, email]), True
    query = """
        insert into timing_partners (timing_partner_id, company_name, contact_email) values (%s, %s, %s)
        on conflict do nothing
    """
    if (await conn.execute(query, [timing_partner_id, name, email])).rowcount == 1:
        return timing_partner_id, True
    query = """
        update timing_partners set contact_email = coalesce(%s, contact_email) where timing_partner_id = %s
        returning company_name
    """
    row = await (await conn.execute(query, [email, timing_partner_id])).fetchone()
    if row is None or row[0] != name:
        raise ConfigurationError(f"timing partner {timing_partner_id} is {row[0] if row else 'gone'}, not {name}")
    return timing_partner_id, False


async def _number(conn: Connection, query: LiteralString, values: Sequence[object]) -> int:
    row = await (await conn.execute(query, values)).fetchone()
    return int(row[0]) if row else 0


async def rotate(
    conn: Connection, ring: KeyRing, *, timing_partner_id: int, principal: str | None, secret: str
) -> Rotated:
    """Replace a secret; the credential is unverified then, and neither stopped nor paused.

    A partner's only credential takes `principal` as its new key; of several, `principal` names the one that is meant.
    Raises `ConfigurationError` when no or more than one credential is meant.
    """
    with translated():
        async with conn.transaction():
            await hold_key(conn, ring)
            credential_id, old = await _meant(conn, timing_partner_id, principal)
            query = """
                update partner_provider_credentials
                set principal = %s, secret = %s, rotated_at = clock_timestamp(), verified_at = null,
                    stopped_at = null, stopped_reason = null, paused_until = null, pause_seconds = 0,
                    next_list_at = null, list_failures = 0, base_at = null
                where credential_id = %s
            """
            await conn.execute(query, [principal or old, ring.seal(secret), credential_id])
    return Rotated(timing_partner_id, credential_id, principal or old, old)


async def _meant(conn: Connection, timing_partner_id: int, principal: str | None) -> tuple[int, str]:
    query = """
        select c.credential_id, c.principal
        from timing_partners t left join partner_provider_credentials c using (timing_partner_id)
        where t.timing_partner_id = %s and coalesce(c.provider_id, 2) = 2
        order by c.credential_id
    """
    rows = await (await conn.execute(query, [timing_partner_id])).fetchall()
    if not rows:
        raise _unknown(timing_partner_id)
    held = {key: number for number, key in rows if number is not None}
    if not held:
        raise ConfigurationError(
            f"timing partner {timing_partner_id} has no credential; startlist partner add --id {timing_partner_id}"
        )
    if principal is not None and principal in held:
        return held[principal], principal
    if len(held) > 1:
        raise ConfigurationError(
            f"timing partner {timing_partner_id} has several API keys: {', '.join(held)}; name one with --api-key"
        )
    ((only, number),) = held.items()
    if principal is not None and (holder := await _holder(conn, principal)) is not None:
        raise ConfigurationError(f"API key {principal} belongs to timing partner {holder} already")
    return number, only


async def stored_rows(conn: Connection, timing_partner_id: int) -> dict[str, int]:
    """How many rows of each table belong to a partner, tables without any left out.

    Raises `ConfigurationError` for a partner we don't know.
    """
    query = """
        select c.relname from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
          and a.attname = 'timing_partner_id' and not a.attisdropped
        order by c.relname = 'timing_partners' desc, c.relname
    """
    counts = {}
    with translated():
        for (name,) in await (await conn.execute(query)).fetchall():
            counting = sql.SQL("select count(*) from {} where timing_partner_id = %s").format(sql.Identifier(str(name)))
            row = await (await conn.execute(counting, [timing_partner_id])).fetchone()
            counts[str(name)] = int(row[0]) if row else 0
        made = """
            select count(*) from api_calls join partner_provider_credentials using (credential_id)
            where timing_partner_id = %s
        """
        counts["api_calls"] = await _number(conn, made, [timing_partner_id])
    if not counts["timing_partners"]:
        raise _unknown(timing_partner_id)
    return {name: count for name, count in counts.items() if count}


async def remove(database: Database, timing_partner_id: int) -> None:
    """Delete a partner with all its rows, in one transaction.

    Raises `ConfigurationError` if it is not there, `StartlistError` while a pass of one of its races is under way,
    whose next page would bring rows back.
    """
    races = "select race_id from runsignup_races where timing_partner_id = %s order by race_id"
    with translated():
        async with await database.connect(name="startlist remove") as conn:  # its end frees the locks of the races
            if not await backfill.keep_out(database, conn, timing_partner_id):
                raise StartlistError(
                    f"the past of timing partner {timing_partner_id} is being read: wait for the backfill or end it,"
                    " then remove again; nothing was removed"
                )
            for (race_id,) in await (await conn.execute(races, [timing_partner_id])).fetchall():
                if not await lock_race(database, conn, timing_partner_id, race_id):
                    raise StartlistError(
                        f"race {race_id} of timing partner {timing_partner_id} is being synced: wait for the sync"
                        " or end it, then remove again; nothing was removed"
                    )
            query = "delete from timing_partners where timing_partner_id = %s"
            if (await conn.execute(query, [timing_partner_id])).rowcount == 0:
                raise _unknown(timing_partner_id)


async def note_silent_bibs(conn: Connection, credential_id: int) -> None:
    """Note that bibs were changed in RunSignup so that no incremental pass of this credential could see it."""
    await conn.execute(
        "update partner_provider_credentials set silent_bibs_at = clock_timestamp() where credential_id = %s",
        [credential_id],
    )


async def mark_verified(conn: Connection, credential: Credential) -> None:
    """Note that RunSignup accepted this credential in a call that needs rights; a stop ends.

    Nothing is noted of a secret that was rotated away meanwhile.
    """
    query = """
        update partner_provider_credentials
        set verified_at = clock_timestamp(), stopped_at = null, stopped_reason = null,
            next_list_at = case when stopped_at is null then next_list_at end -- which makes all its races due
        where credential_id = %s and rotated_at is not distinct from %s
    """
    with translated():
        await conn.execute(query, [credential.credential_id, credential.rotated_at])


async def note_unlisted(conn: Connection, credential_id: int) -> None:
    """Its race list could not be read once more."""
    query = "update partner_provider_credentials set list_failures = list_failures + 1 where credential_id = %s"
    with translated():
        await conn.execute(query, [credential_id])


async def note_listed(conn: Connection, credential_id: int) -> None:
    """Its race list was read, and the key proved."""
    query = "update partner_provider_credentials set list_failures = 0 where credential_id = %s and list_failures > 0"
    with translated():
        await conn.execute(query, [credential_id])


async def stop(conn: Connection, credential: Credential, reason: str) -> None:
    """Stop a credential; one that is stopped already keeps its time and reason, one that was rotated goes on.

    Accepted again, all its races are due at once.
    """
    query = """
        update partner_provider_credentials
        set stopped_at = clock_timestamp(), stopped_reason = %s, base_at = null
        where credential_id = %s and stopped_at is null and rotated_at is not distinct from %s
    """
    with translated():
        await conn.execute(query, [reason, credential.credential_id, credential.rotated_at])
