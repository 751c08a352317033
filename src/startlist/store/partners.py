"""Timing partners and their credentials: what `partner add`, `list`, `rotate`, `remove` and every sync ask of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from startlist.config import Settings
from startlist.errors import ConfigurationError
from startlist.store.database import translated
from startlist.store.sealing import SEALED, KeyRing, hold_key

Connection = psycopg.AsyncConnection[tuple[object, ...]]


@dataclass(frozen=True)
class Credential:
    """One API key of a timing partner, opened; `calls_per_hour` is what holds for it after all settings."""

    credential_id: int
    timing_partner_id: int
    company_name: str
    principal: str
    secret: str = field(repr=False)
    credential_type: str
    calls_per_hour: int
    verified_at: datetime | None
    stopped_at: datetime | None
    stopped_reason: str | None


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


# A credential's own limit wins, then the setting where one was made, then the provider's row, then the default.
_LIMIT: LiteralString = "coalesce(c.calls_per_hour, %(configured)s::int, p.rate_limit_per_hour, %(default)s::int)"

_CREDENTIALS: LiteralString = (
    "select c.credential_id, c.timing_partner_id, t.company_name, c.principal, c.secret, c.credential_type, "
    + _LIMIT
    + """ as calls_per_hour, c.verified_at, c.stopped_at, c.stopped_reason
    from partner_provider_credentials c
    join timing_partners t using (timing_partner_id)
    join providers p using (provider_id)
    where c.provider_id = 2 and (%(partner)s::bigint is null or c.timing_partner_id = %(partner)s)
    order by c.timing_partner_id, c.credential_id
    """
)

_STATES: LiteralString = (
    "select t.timing_partner_id, t.company_name, t.contact_email, c.credential_id, c.principal, c.credential_type, "
    + _LIMIT
    + """ as calls_per_hour, coalesce(made.calls, 0) as calls_last_hour, c.verified_at, c.stopped_at, c.stopped_reason,
        case when c.paused_until > clock_timestamp() then c.paused_until end as paused_until
    from timing_partners t
    left join (partner_provider_credentials c join providers p using (provider_id))
        on c.timing_partner_id = t.timing_partner_id and c.provider_id = 2
    left join lateral (
        select count(*) as calls from api_calls a
        where a.credential_id = c.credential_id and a.reserved_at > clock_timestamp() - interval '1 hour'
    ) made on true
    where %(partner)s::bigint is null or t.timing_partner_id = %(partner)s
    order by t.timing_partner_id, c.credential_id
    """
)


def _limits(settings: Settings, timing_partner_id: int | None) -> dict[str, int | None]:
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
    with translated():
        await _seal_readable(conn, ring)
        async with conn.transaction(), conn.cursor(row_factory=class_row(Credential)) as cursor:
            await hold_key(conn, ring)
            await cursor.execute(_CREDENTIALS, _limits(settings, timing_partner_id))
            rows = await cursor.fetchall()
    return [_opened(row, ring) for row in rows]


def _opened(row: Credential, ring: KeyRing) -> Credential:
    if not ring.opens(row.secret):
        raise ConfigurationError(
            f"the secret of API key {row.principal} (timing partner {row.timing_partner_id}) cannot be opened;"
            f" give it anew: startlist partner rotate {row.timing_partner_id}"
        )
    return Credential(**{**row.__dict__, "secret": ring.open(row.secret)})


async def _seal_readable(conn: Connection, ring: KeyRing) -> None:
    readable = "from partner_provider_credentials where not starts_with(secret, %s)"
