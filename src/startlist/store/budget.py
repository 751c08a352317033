"""The budget of each credential, counted from `api_calls` on the server's clock, exact over all processes."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

from startlist.errors import CredentialRemoved
from startlist.store.database import Connection, translated
from startlist.store.partners import Credential


class Rank(IntEnum):
    """How pressing a call is; what typed commands ask ranks as race day does."""

    BACKFILL = 0
    ROUTINE = 1
    RACE_WEEK = 2
    RACE_DAY = 3

    @property
    def share(self) -> float:
        """The part of the hour's calls, those of everybody, below which this rank may make one."""
        return _SHARES[self]


_SHARES = {Rank.BACKFILL: 0.7, Rank.ROUTINE: 0.85, Rank.RACE_WEEK: 0.95, Rank.RACE_DAY: 1.0}


@dataclass(frozen=True)
class Reservation:
    """A call that may be made now; `calls_left` is what remains of the share of the hour after it."""

    call_id: int
    calls_left: int


@dataclass(frozen=True)
class Wait:
    """A refused call: free again at `until` (server's clock), in `seconds`, paused by RunSignup or spent."""

    until: datetime
    seconds: float
    paused: bool
    calls_left: int


async def reserve(
    conn: Connection,
    credential: Credential,
    *,
    endpoint: str,
    race_id: int | None,
    run_id: int | None,
    first: bool,
    share: float = 1.0,
) -> Reservation | Wait:
    """Reserve one call of the credential's rolling hour while all calls in it, of whatever class, are below a share.

    The first of a pass wants two free calls, for both feeds. Raises `CredentialRemoved` when the credential was
    removed meanwhile.
    """
    limit = calls_of_share(credential.calls_per_hour, share)
    needed = min(2 if first else 1, limit)
    query = """
        select reservation, calls_left, free_at, wait_seconds, paused
        from reserve_call(%s::bigint, %s::integer, %s::integer, %s::bigint, %s::text, %s::bigint)
    """
    values = [credential.credential_id, limit, needed, run_id, endpoint, race_id]
    with translated():
        row = await (await conn.execute(query, values)).fetchone()
    match row:
        case (int(call_id), int(left), _, _, _):
            return Reservation(call_id, left)
        case (None, int(left), datetime() as until, float(seconds), bool(paused)):
            return Wait(until, seconds, paused, left)
        case _:
            raise CredentialRemoved(f"credential {credential.credential_id} was removed meanwhile")


def calls_of_share(calls_per_hour: int, share: float) -> int:
    """How many calls of the hour a share is; one at least, so that nobody waits for ever."""
    return max(1, math.floor(calls_per_hour * share + 1e-9))


async def record(
    conn: Connection,
    call_id: int,
    *,
    seconds: float,
    http_status: int | None,
    error_code: int | None,
    rows: int | None,
    nbytes: int | None,
) -> None:
    """Write down how a call that was sent ended; a success ends the doubling of pauses."""
    query = """
        with ended as (
            update api_calls set
                started_at = clock_timestamp() - make_interval(secs => %(seconds)s::double precision),
                ms = round(%(seconds)s::double precision * 1000),
                http_status = %(http_status)s::integer, error_code = %(error_code)s::integer,
                rows = %(rows)s::integer, bytes = %(nbytes)s::bigint
            where call_id = %(call_id)s::bigint
            returning credential_id, http_status = 200 and error_code is null as succeeded
        )
        update partner_provider_credentials c set pause_seconds = 0, paused_until = null
        from ended
        where ended.succeeded and c.credential_id = ended.credential_id
          and c.pause_seconds > 0 and c.paused_until <= clock_timestamp()
    """
    values = {
        "call_id": call_id,
        "seconds": seconds,
        "http_status": http_status,
        "error_code": error_code,
        "rows": rows,
        "nbytes": nbytes,
    }
    with translated():
        await conn.execute(query, values)


async def pause(conn: Connection, credential_id: int, retry_after: float | None) -> None:
    """Pause a credential for all processes: for `retry_after` seconds, else 60 s, doubling up to 15 min.

    Calls that were throttled together pause it once; a `retry_after` over a day counts as one.
    """
    query = """
        update partner_provider_credentials c set
            paused_until = greatest(c.paused_until, m.moment + make_interval(secs => coalesce(m.asked, m.own))),
            pause_seconds = case when m.asked is null then m.own else c.pause_seconds end
        from (
            select clock_timestamp() as moment, %s::double precision as asked,
                   case when paused_until > clock_timestamp() and pause_seconds > 0 then pause_seconds
                        else least(greatest(2 * pause_seconds, 60), 900) end as own
            from partner_provider_credentials where credential_id = %s
        ) m
        where c.credential_id = %s
    """
    with translated():
        asked = None if retry_after is None else min(retry_after, 86400.0)
        await conn.execute(query, [asked, credential_id, credential_id])


async def pause_left(conn: Connection, credential_id: int) -> tuple[float, datetime]:
    """For how many seconds, and until when, the credential is paused; 0 and the present when it is not, or is gone."""
    query = """
        select extract(epoch from p.until - clock_timestamp())::float8, p.until
        from partner_provider_credentials,
             lateral (select greatest(paused_until, clock_timestamp()) as until) as p
        where credential_id = %s
    """
    with translated():
        row = await (await conn.execute(query, [credential_id])).fetchone()
    return (0.0, datetime.now(UTC)) if row is None else (max(row[0], 0.0), row[1])


async def calls_left(conn: Connection, credential: Credential, share: float = 1.0) -> int:
    """How many calls of a share of the hour the credential may still make, pauses aside."""
    query = """
        select count(*) from api_calls
        where credential_id = %s and reserved_at > statement_timestamp() - interval '3605 seconds'
    """
    with translated():
        row = await (await conn.execute(query, [credential.credential_id])).fetchone()
    return max(0, calls_of_share(credential.calls_per_hour, share) - (int(row[0]) if row else 0))


async def free_at(conn: Connection, credential: Credential, share: float, *, ahead: int = 0) -> datetime | None:
    """When a pass may begin again, by the hour and by pauses; None when it may now, or the credential was removed.

    `ahead`: so many others are to have their calls before.
    """
    query = """
        select f.free_at
        from partner_provider_credentials c
        cross join lateral (
            select greatest(c.paused_until, (
                select least(a.reserved_at, clock_timestamp()) + interval '3605 seconds' from api_calls a
                where a.credential_id = c.credential_id
                order by a.reserved_at desc offset %s limit 1)) as free_at
        ) f
        where c.credential_id = %s and f.free_at > clock_timestamp()
    """
    limit = calls_of_share(credential.calls_per_hour, share)
    with translated():
        offset = max(limit - 2 * (ahead + 1), 0)
        row = await (await conn.execute(query, [offset, credential.credential_id])).fetchone()
    return row[0] if row else None


async def usual_seconds(conn: Connection) -> float | None:
    """The median length of the newest thousand calls, in seconds; None when none was made."""
    query = """
        select percentile_cont(0.5) within group (order by ms) / 1000
        from (select ms from api_calls where ms is not null order by call_id desc limit 1000) as newest
    """
    with translated():
        row = await (await conn.execute(query)).fetchone()
    return None if row is None or row[0] is None else float(row[0])


async def last_call_at(conn: Connection, credential_id: int) -> datetime | None:
    """When the credential's last call was reserved; a stopped credential is tried again an hour after it."""
    query = "select max(reserved_at) from api_calls where credential_id = %s"
    with translated():
        row = await (await conn.execute(query, [credential_id])).fetchone()
    return row[0] if row and isinstance(row[0], datetime) else None


async def refused_races(conn: Connection, credential_id: int) -> frozenset[int]:
    """The races that answered 7 within the last hour to the present secret; none after any success in it.

    Only calls that need rights tell: a wrong legacy key reads the race list and public races like anyone. Of a race
    that another key reads a refusal tells nothing of a key that was proved: it may never have had it.
    """
    query = """
        select case when bool_or(a.http_status = 200 and a.error_code is null) then '{}'
                    else array_agg(distinct a.race_id) filter (
                        where a.error_code = 7 and (r.credential_id is null or r.credential_id = a.credential_id
                                                    or c.verified_at is null)) end
        from api_calls a
        join partner_provider_credentials c using (credential_id)
        left join runsignup_races r on r.timing_partner_id = c.timing_partner_id and r.race_id = a.race_id
        where a.credential_id = %s
          and a.reserved_at > greatest(statement_timestamp() - interval '1 hour', c.rotated_at)
          and a.endpoint in ('participants', 'removed-participants', 'search-bib')
    """
    with translated():
        row = await (await conn.execute(query, [credential_id])).fetchone()
    return frozenset(row[0] or ()) if row else frozenset()


def refusals_stop(refused: Collection[int], listed: Collection[int]) -> bool:
    """Whether these refused races stop a credential that lists those: any three, or all where it lists one or two."""
    return set(listed) <= set(refused) if 0 < len(listed) < 3 else len(refused) >= 3
