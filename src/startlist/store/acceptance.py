"""What a full pass of an account stored, for the checks that are made against it; and their certificates."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from startlist.store.database import Connection
from startlist.store.reading import rows
from startlist.store.registrations import Key


@dataclass(frozen=True, slots=True)
class PassOfRace:
    """How the last pass of a race ended; `asked_at`: what the race's watermark says, in epoch seconds."""

    race_id: int
    status: str
    error_message: str | None
    event_ids: list[int]
    asked_at: int | None
    registrations: int


@dataclass(frozen=True, slots=True)
class Cost:
    """The calls of some runs made with one credential, and those of them that answered registrations or removals."""

    calls: int
    pages: int


@dataclass(frozen=True, slots=True)
class KnownBib:
    """A registration that has a bib which RunSignup can be asked for."""

    race_id: int
    event_id: int
    registration_id: int
    bib_num: str


PASSES: LiteralString = """
select h.race_id, h.status, h.error_message, h.event_ids, c.participants_watermark as asked_at,
       (select count(*) from runsignup_participants as p
        where p.timing_partner_id = h.timing_partner_id and p.event_id = any(h.event_ids)
          and p.removed_at is null)::int as registrations
from (select distinct on (race_id) * from sync_history
      where run_id = any(%(runs)s::bigint[])
        and (%(credential)s::bigint is null or credential_id = %(credential)s)
      order by race_id, sync_history_id desc) as h
left join sync_cursors as c on c.timing_partner_id = h.timing_partner_id and c.race_id = h.race_id
order by h.race_id
"""

COST: LiteralString = """
select count(*)::int as calls,
       count(*) filter (where endpoint in ('participants', 'removed-participants') and http_status = 200
                        and error_code is null)::int as pages
from api_calls where run_id = any(%(runs)s::bigint[]) and credential_id = %(credential)s
"""

CHANGED_SINCE: LiteralString = """
select event_id, registration_id, last_modified
from runsignup_participants
where timing_partner_id = %(partner)s and event_id = any(%(events)s::bigint[]) and last_modified >= %(since)s
  and removed_at is null and missing_since is null
"""

KNOWN_BIB: LiteralString = """
select race_id, event_id, registration_id, bib_num
from runsignup_participants
where timing_partner_id = %(partner)s and event_id = any(%(events)s::bigint[]) and bib_num ~ '^[0-9]+$'
  and removed_at is null and missing_since is null
order by last_modified desc nulls last, registration_id
limit 1
"""

CERTIFY: LiteralString = """
insert into account_verifications (run_id, timing_partner_id, credential_id, started_at, result, checks)
values (%s, %s, %s, %s, %s, %s)
returning account_verification_id
"""


async def passes(conn: Connection, run_ids: Collection[int], credential_id: int | None) -> list[PassOfRace]:
    """The races that these runs read with a credential, or with any."""
    return await rows(conn, PassOfRace, PASSES, {"runs": list(run_ids), "credential": credential_id})


async def cost(conn: Connection, run_ids: Collection[int], credential_id: int) -> Cost:
    """What these runs asked with a credential."""
    (found,) = await rows(conn, Cost, COST, {"runs": list(run_ids), "credential": credential_id})
    return found


async def changed_since(
    conn: Connection, timing_partner_id: int, event_ids: Collection[int], since: datetime
) -> dict[Key, datetime]:
    """The active registrations of these events that were last changed then or later, and when."""
    values = {"partner": timing_partner_id, "events": list(event_ids), "since": since}
    found = await (await conn.execute(CHANGED_SINCE, values)).fetchall()
    return {(event_id, number): changed for event_id, number, changed in found}


async def known_bib(conn: Connection, timing_partner_id: int, event_ids: Collection[int]) -> KnownBib | None:
    """The bib of the registration of these events that was changed last, of those whose bib is a number."""
    found = await rows(conn, KnownBib, KNOWN_BIB, {"partner": timing_partner_id, "events": list(event_ids)})
    return found[0] if found else None


async def certify(
    conn: Connection, run_id: int | None, key: tuple[int, int], started_at: datetime, result: str,
    checks: list[dict[str, Any]],
) -> int:  # fmt: skip
    """Keep what was checked of a credential (partner and credential), and the result; the certificate's id."""
    row = await (await conn.execute(CERTIFY, [run_id, *key, started_at, result, Jsonb(checks)])).fetchone()
    assert row is not None  # noqa: S101 - an insert with returning gives its row
    return int(row[0])
