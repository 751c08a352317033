"""What two runs cost for one race, and what each left of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from startlist.store.database import Connection
from startlist.store.reading import rows
from startlist.store.registrations import Key


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run asked of RunSignup for one race; `rows`: of both lists, `seconds`: of its passes."""

    calls: int
    rows: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Left:
    """A registration as a run left it; `changed`: when RunSignup last changed it or its removal."""

    event_id: int
    registration_id: int
    fingerprint: str
    changed: datetime | None


COST: LiteralString = """
select count(*)::int as calls,
       coalesce(sum(c.rows) filter (where c.endpoint <> 'race'), 0)::int as rows,
       coalesce(sum(c.bytes), 0)::bigint as bytes,
       (select coalesce(sum(extract(epoch from finished_at - started_at)), 0)::float8
        from sync_history where run_id = %(run)s and race_id = %(race)s) as seconds
from api_calls as c
where c.run_id = %(run)s and c.race_id = %(race)s
"""

# Of all columns but those that say when and how a pass came to the row.
LEFT: LiteralString = """
select event_id, registration_id,
       md5((to_jsonb(p) - '{first_seen_at,changed_at,missing_since,content_hash}'::text[]
            || jsonb_build_object('missing', missing_since is not null))::text) as fingerprint,
       greatest(last_modified, removal_modified_at) as changed
from runsignup_participants as p
where timing_partner_id = %(partner)s and event_id = any(%(events)s::bigint[])
"""


async def cost(conn: Connection, run_id: int, race_id: int) -> Cost:
    """What a run's calls and passes of one race amount to."""
    (found,) = await rows(conn, Cost, COST, {"run": run_id, "race": race_id})
    return found


async def left(conn: Connection, timing_partner_id: int, event_ids: Collection[int]) -> dict[Key, Left]:
    """Each stored registration of these events, by event and registration."""
    found = await rows(conn, Left, LEFT, {"partner": timing_partner_id, "events": list(event_ids)})
    return {(one.event_id, one.registration_id): one for one in found}
