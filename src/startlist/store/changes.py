"""What a page changed: gathered while it is merged, written as its last statements, in commit order."""

from __future__ import annotations

import json

from startlist.store.database import Connection, Database

# Gathered on the server: a page that changes 2,500 rows moves nothing through the client.
GATHERED = """
create temp table if not exists page_changes (
    n                  bigint generated always as identity,
    change_type        text not null,
    event_id           bigint not null,
    registration_id    bigint not null,
    before             jsonb,
    after              jsonb,
    source_modified_at timestamptz,
    bib_kind           text,
    old_bib            text,
    new_bib            text,
    old_chip           text,
    new_chip           text
) on commit delete rows
"""

WRITE_CHANGES = """
insert into runsignup_changes
    (timing_partner_id, race_id, event_id, registration_id, sync_history_id, change_type, before, after,
     source_modified_at)
select %(partner)s, %(race)s, event_id, registration_id, %(history)s, change_type, before, after, source_modified_at
from page_changes
order by n
"""

WRITE_BIB_CHANGES = """
with written as (
    insert into runsignup_bib_changes
        (timing_partner_id, race_id, event_id, registration_id, sync_history_id, kind, old_bib, new_bib, old_chip,
         new_chip, source_modified_at)
    select %(partner)s, %(race)s, event_id, registration_id, %(history)s, bib_kind, old_bib, new_bib, old_chip,
           new_chip, source_modified_at
    from page_changes
    where bib_kind is not null
    order by n
    returning bib_change_id
)
select count(*), max(bib_change_id) from written
"""


async def write_changes(
    database: Database, conn: Connection, *, timing_partner_id: int, race_id: int, sync_history_id: int | None
) -> None:
    """Write the gathered changes; must end the page's transaction. Without a pass's row they belong to none.

    Change ids have to become visible in their order, or a reader that remembers the last id would pass over a
    slower writer's rows. So one lock is taken before the first id is drawn and held until the commit that follows.
    """
    values = {"partner": timing_partner_id, "race": race_id, "history": sync_history_id}
    await conn.execute("select pg_advisory_xact_lock(%s)", [database.lock_key("changes")])
    await conn.execute(WRITE_CHANGES, values)
    cursor = await conn.execute(WRITE_BIB_CHANGES, values)
    count, last_id = await cursor.fetchone() or (0, None)
    if count:
        payload = {"timing_partner_id": timing_partner_id, "race_id": race_id, "last_id": last_id}
        await conn.execute("select pg_notify('startlist_bibs', %s)", [json.dumps(payload, separators=(",", ":"))])
