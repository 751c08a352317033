"""What PostgreSQL does for one page: EXPLAIN (ANALYZE, BUFFERS, WAL) of the statements that a merge runs.

    python -m benchmarks.statements [REGISTRATIONS]

Everything is rolled back. COPY cannot be explained: its share is shown by an INSERT of the same rows from a temporary
table, which writes the same rows, index entries and WAL but parses no JSON.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import psycopg

from benchmarks.cases import SCHEMA
from benchmarks.stand import sandbox, stand
from startlist.store import registrations, stages
from startlist.store.changes import GATHERED
from startlist.store.database import Connection

PAGE = 2500
CHANGED = 25
_STAGED = (
    "timing_partner_id, race_id, event_id, registration_id, user_id, first_name, middle_name, last_name, email, phone,"
    " gender, dob, age, address, bib_num, chip_num, registration_date, team_info, payment_info, additional_data,"
    " field_errors, last_modified, content_hash"
)
_FILL = f"insert into stage_registrations ({_STAGED}, absent) select {_STAGED}, '{{}}' from runsignup_participants"


def main(count: int) -> None:
    """Fill a table of so many registrations and explain each statement of a page."""
    with stand() as ground, sandbox(count, 5000) as world:
        ground.prepare(SCHEMA, (world.key, world.secret))
        ground.sync(SCHEMA, world)
        asyncio.run(_explain_all(ground.url))


async def _explain_all(url: str) -> None:
    options = f"-c search_path={SCHEMA}"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, options=options) as conn:
        await stages.prepare(conn)
        await stages.make(conn, registrations.STAGE, GATHERED)
        cursor = await conn.execute("select event_id from runsignup_participants limit 1")
        event_id = (await cursor.fetchone() or (0,))[0]
        query = "select registration_id from runsignup_participants where event_id = %s order by 1 limit %s"
        ids = [row[0] for row in await (await conn.execute(query, [event_id, PAGE])).fetchall()]
        known: dict[str, Any] = {"partner": 1, "events": [event_id], "after": ids[0] - 1, "up_to": ids[-1]}
        await _explain(conn, f"the hashes known of a page of {len(ids):,}", registrations.KNOWN_IN_RANGE, known)

        where = " where event_id = %(event)s and registration_id <= %(up_to)s"
        await conn.execute("begin")
        await conn.execute(_FILL + where, {"event": event_id, "up_to": ids[CHANGED - 1]})
        await conn.execute("update stage_registrations set bib_num = registration_id::text, last_modified = now()")
        merge = {"partner": 1, "announced": [event_id], "last_query": None}
        await _explain(conn, f"the merge of {CHANGED} that differ", registrations.MERGE, merge)
        await conn.execute("rollback")

        await conn.execute("begin")
        await conn.execute(_FILL + where, {"event": event_id, "up_to": ids[-1]})
        await conn.execute("update stage_registrations set event_id = -1")
        insert = f"insert into runsignup_participants ({_STAGED}) select {_STAGED} from stage_registrations"
        await _explain(conn, f"{len(ids):,} new rows, as an INSERT", insert, {})
        await conn.execute("rollback")


async def _explain(conn: Connection, title: str, statement: str, values: dict[str, Any]) -> None:
    for _ in range(2):  # the first time functions are compiled and plans made, as once in a sync
        async with conn.transaction(force_rollback=True):
            cursor = await conn.execute(f"explain (analyze, buffers, wal, costs off) {statement}", values)
            plan = [line for (line,) in await cursor.fetchall()]
    print(f"== {title}", *plan, "", sep="\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
