"""The figures that a monitoring system watches, read at once; they hold for all processes on the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row

from startlist.config import Settings
from startlist.store import partners, processes
from startlist.store.database import Connection, Database
from startlist.store.partners import CredentialState
from startlist.store.status import holders_of

MOST_PASSES = 50_000  # of the newest, among which those of the last hour are looked for
MOST_RACES = 500  # of race day, which are told one by one

Row = dict[str, Any]

PASSES: LiteralString = """
select sync_type, status, error_code, count(*)::int as passes, sum(rows_received)::bigint as received,
       sum(rows_inserted)::bigint as inserted, sum(rows_updated)::bigint as updated,
       sum(rows_unchanged)::bigint as unchanged, sum(rows_removed)::bigint as removed,
       sum(rows_missing)::bigint as missing, sum(quarantined)::bigint as quarantined,
       sum(bib_changes)::bigint as bib_changes
from sync_history
where sync_history_id > (select coalesce(max(sync_history_id), 0) - %(most)s from sync_history)
  and finished_at > now() - interval '1 hour'
group by sync_type, status, error_code
"""

CLASSES: LiteralString = """
select coalesce(rank, 'routine') as rank, count(*)::int as races,
       (count(*) filter (where next_sync_at <= now()))::int as due,
       (count(*) filter (where stale_at < now()))::int as stale,
       (count(*) filter (where failures > 0))::int as failing,
       greatest(coalesce(extract(epoch from now() - min(next_sync_at)), 0), 0)::float8 as lag_seconds,
       max(coalesce(stretch, 1))::float8 as stretch
from sync_cursors
where next_sync_at is not null
group by 1
"""

RACE_DAY: LiteralString = """
select timing_partner_id, race_id,
       extract(epoch from now() - greatest(last_full_at, last_incremental_at))::float8 as age_seconds
from sync_cursors
where next_sync_at is not null and rank = 'race_day' and coalesce(last_full_at, last_incremental_at) is not null
order by greatest(last_full_at, last_incremental_at)
limit %(most)s
"""

WAITING: LiteralString = """
select (select count(*) from runsignup_quarantine where resolved_at is null)::int as quarantined,
       (select count(*) from sync_cursors where suspicion is not null)::int as suspicions,
       (select count(*) from backfill_progress where state in ('waiting', 'reading', 'failed'))::int as backfill_left
"""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What was found at the instant `at`; of passes those that ended within the last hour.

    `passes` by `sync_type`, `status` and `error_code`; `classes` by `rank`; `race_day` each race of it, the oldest
    first.
    """

    at: datetime
    leads: bool
    workers: int
    passes: list[Row] = field(default_factory=list)
    classes: list[Row] = field(default_factory=list)
    race_day: list[Row] = field(default_factory=list)
    credentials: list[CredentialState] = field(default_factory=list)
    quarantined: int = 0
    suspicions: int = 0
    backfill_left: int = 0

    @property
    def problems(self) -> list[str]:
        """What keeps the database from being as fresh as it should be, in sentences; none: all is well."""
        said = [] if self.leads else ["no scheduler leads: startlist serve"]
        said += [
            f"stale races of class {one['rank']}: {one['stale']}; startlist status --check names them"
            for one in self.classes
            if one["stale"]
        ]
        stopped = sum(one.stopped_at is not None for one in self.credentials)
        if stopped:
            said.append(f"stopped API keys: {stopped}; startlist status says what to do")
        unlisted = sum(one.unlisted and one.stopped_at is None for one in self.credentials)
        if unlisted:
            said.append(f"API keys whose race list cannot be taken: {unlisted}; startlist status says why")
        return said


async def read_metrics(database: Database, conn: Connection, settings: Settings) -> Metrics:
    """All figures, by a few queries that each take milliseconds however much is stored."""
    holders = await holders_of(conn)
    waiting = (await _rows(conn, WAITING))[0]
    return Metrics(
        holders.at,
        holders.leads(database),
        sum(holders.works(database, worker) for worker in await processes.workers(conn)),
        await _rows(conn, PASSES, most=MOST_PASSES),
        await _rows(conn, CLASSES),
        await _rows(conn, RACE_DAY, most=MOST_RACES),
        [one for one in await partners.states(conn, settings) if one.credential_id is not None],
        **waiting,
    )


async def _rows(conn: Connection, query: LiteralString, **values: int) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchall()
