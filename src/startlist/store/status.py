"""What is fresh and what is wrong: where each race stands, and what keeps it from moving."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from startlist.config import Settings
from startlist.store import backfill, partners, processes
from startlist.store.backfill import BackfillState, partner_key
from startlist.store.database import Connection, Database
from startlist.store.partners import CredentialState
from startlist.store.processes import WorkerState, leader_key, run_key
from startlist.store.reading import Filters, reader, rows


@dataclass(frozen=True, slots=True)
class RaceState:
    """One race: how far it is complete, its last pass, a pass under way, and what waits.

    `complete_as_of` is an instant of RunSignup's clock; watermarks are its epoch seconds. `start_time` is the next
    start, else the last. `uncovered` are its events (`event_id`, `name`) that count and were never read to the end;
    `bad_registrations` (`event_id`, `registration_id`, `bib_num`, `first_name`, `last_name`) are stored ones whose
    newer version is in quarantine. `checkpoint` tells `kind`, `feed` and `begun` of an unfinished pass, `suspicion`
    since when what is missing (`events`: id to absent and active before) waits for a decision. From `rank` on it is as
    the scheduler has planned it; None where none knows it.
    """

    timing_partner_id: int
    company_name: str
    race_id: int
    name: str | None
    timezone: str | None
    start_time: datetime | None
    over: bool
    current: bool
    gone_at: datetime | None
    credential_id: int | None
    participants_watermark: int | None
    removed_watermark: int | None
    complete_as_of: datetime | None
    last_full_at: datetime | None
    last_incremental_at: datetime | None
    last_pass_at: datetime | None
    last_sync_type: str | None
    last_status: str | None
    last_reason: str | None
    last_error_code: int | None
    last_error_message: str | None
    running_since: datetime | None
    running_sync_type: str | None
    running_api_calls: int | None
    running_rows_received: int | None
    checkpoint: dict[str, Any] | None
    suspicion: dict[str, Any] | None
    uncovered: list[dict[str, Any]]
    quarantined: int
    bad_registrations: list[dict[str, Any]]
    rank: str | None
    next_sync_at: datetime | None
    planned_at: datetime | None
    period_seconds: int | None
    stretch: float | None
    failures: int | None
    stale_at: datetime | None


@dataclass(frozen=True, slots=True)
class Holders:
    """Which races' locks were held, and by which server process, at the instant `at`."""

    at: datetime
    pids: dict[int, int]

    def pid(self, database: Database, race: RaceState) -> int | None:
        """The server process that works for the race's running pass."""
        return self.pids.get(database.lock_key("race", race.timing_partner_id, race.race_id))

    def alive(self, database: Database, race: RaceState) -> bool | None:
        """Whether somebody holds the lock that a running pass needs; None when no pass is said to run."""
        if race.running_since is None:
            return None
        return race.running_since >= self.at or self.pid(database, race) is not None

    def leads(self, database: Database) -> bool:
        """Whether a scheduler leads."""
        return leader_key(database) in self.pids

    def works(self, database: Database, worker: WorkerState) -> bool:
        """Whether a worker is alive."""
        return run_key(database, worker.run_id) in self.pids

    def backfilling(self, database: Database, one: BackfillState | CredentialState) -> bool:
        """Whether somebody is reading the partner's past, or waits to go on with it."""
        return partner_key(database, one.timing_partner_id) in self.pids


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that `status` tells; `unlisted_quarantine` counts bad records of the race list by timing partner."""

    holders: Holders
    races: list[RaceState]
    credentials: list[CredentialState]
    unlisted_quarantine: dict[int, int]
    backfills: list[BackfillState]
    workers: list[WorkerState]


# Races that are stored, have a cursor, or were tried within a day (a race whose first pass failed is not stored).
# Shown are those with an event that counts, those named, and those where something waits.
STATES: LiteralString = """
with recent as (
    select coalesce((select sync_history_id from sync_history where started_at < now() - interval '1 day'
                     order by sync_history_id desc limit 1), 0) as after
),
known as (
    select timing_partner_id, race_id from runsignup_races
    union
    select timing_partner_id, race_id from sync_cursors
    union
    select timing_partner_id, race_id from sync_history
    where sync_history_id > (select after from recent) and sync_type <> 'backfill'
),
standing as (
    select known.timing_partner_id, t.company_name, known.race_id, r.name, coalesce(e.timezone, r.timezone) as timezone,
           coalesce(e.next_start, e.last_start) as start_time,
           e.next_start is null and e.last_start is not null as over,
           coalesce(e.counting > 0, false) and r.gone_at is null as current,
           r.gone_at, coalesce(last.credential_id, r.credential_id) as credential_id,
           k.participants_watermark, k.removed_watermark,
           case when k.participants_watermark is not null
                then to_timestamp(least(k.participants_watermark, k.removed_watermark)) end as complete_as_of,
           k.last_full_at, k.last_incremental_at,
           last.finished_at as last_pass_at, last.sync_type as last_sync_type, last.status as last_status,
           last.reason as last_reason, last.error_code as last_error_code, last.error_message as last_error_message,
           running.started_at as running_since, running.sync_type as running_sync_type,
           running.api_calls as running_api_calls, running.rows_received as running_rows_received,
           case when k.checkpoint is not null
                then jsonb_build_object('kind', k.checkpoint -> 'kind', 'feed', k.checkpoint -> 'feed',
                                        'begun', k.checkpoint -> 'begun') end as checkpoint,
           k.rank, k.next_sync_at, k.planned_at, k.period_seconds, k.stretch, k.failures, k.stale_at,
           k.suspicion, coalesce(e.uncovered, '[]') as uncovered, e.next_start, e.last_start
    from known
    join timing_partners as t using (timing_partner_id)
    left join runsignup_races as r on r.timing_partner_id = known.timing_partner_id and r.race_id = known.race_id
    left join sync_cursors as k on k.timing_partner_id = known.timing_partner_id and k.race_id = known.race_id
    cross join lateral (
        select max(e.timezone) as timezone,
               min(e.start_time) filter (where e.start_time >= now() and e.gone_at is null) as next_start,
               max(e.start_time) filter (where e.start_time < now()) as last_start,
               count(*) filter (where c.counts) as counting,
               jsonb_agg(jsonb_build_object('event_id', e.event_id, 'name', e.name) order by e.event_id)
                   filter (where c.counts and k.participants_watermark is not null
                                 and not e.event_id = any(k.event_ids)) as uncovered,
               count(*) filter (where %(event)s::bigint is null or e.event_id = %(event)s) as named,
               max(e.start_time) as latest_start
        from runsignup_events as e
        cross join lateral (
            select e.gone_at is null
                   and coalesce(greatest(e.start_time, e.end_time) + interval '1 day' > now(), true) as counts) as c
        where e.timing_partner_id = known.timing_partner_id and e.race_id = known.race_id
    ) as e
    left join lateral (
        select * from sync_history as h
        where h.timing_partner_id = known.timing_partner_id and h.race_id = known.race_id
          and h.status not in ('running', 'skipped') and h.sync_type <> 'backfill'
        order by h.sync_history_id desc
        limit 1
    ) as last on true
    left join lateral (
        select * from sync_history as h
        where h.timing_partner_id = known.timing_partner_id and h.race_id = known.race_id and h.status = 'running'
          and h.sync_type <> 'backfill'
        order by h.sync_history_id desc
        limit 1
    ) as running on true
    where (%(partner)s::bigint is null or known.timing_partner_id = %(partner)s)
      and (%(race)s::bigint is null or known.race_id = %(race)s)
      and (%(event)s::bigint is null or e.named > 0)
      and (%(since)s::timestamptz is null or e.latest_start >= %(since)s)
)
select s.timing_partner_id, s.company_name, s.race_id, s.name, s.timezone, s.start_time, s.over, s.current, s.gone_at,
       s.credential_id, s.participants_watermark, s.removed_watermark, s.complete_as_of, s.last_full_at,
       s.last_incremental_at, s.last_pass_at, s.last_sync_type, s.last_status, s.last_reason, s.last_error_code,
       s.last_error_message, s.running_since, s.running_sync_type, s.running_api_calls, s.running_rows_received,
       s.checkpoint, s.suspicion, s.uncovered, q.quarantined, q.bad_registrations,
       s.rank, s.next_sync_at, s.planned_at, s.period_seconds, s.stretch, s.failures, s.stale_at
from standing as s
cross join lateral (
    select count(distinct q.quarantine_id) as quarantined,
           coalesce(jsonb_agg(distinct jsonb_build_object(
               'event_id', p.event_id, 'registration_id', p.registration_id, 'bib_num', p.bib_num,
               'first_name', p.first_name, 'last_name', p.last_name))
               filter (where p.registration_id is not null), '[]') as bad_registrations
    from runsignup_quarantine as q
    left join runsignup_participants as p
        on p.timing_partner_id = q.timing_partner_id and p.registration_id = q.registration_id
        and p.event_id in (select e.event_id from runsignup_events as e
                           where e.timing_partner_id = q.timing_partner_id and e.race_id = q.race_id)
        and (q.event_id is null or p.event_id = q.event_id)
        and q.endpoint = 'participants'
    where q.timing_partner_id = s.timing_partner_id and q.race_id = s.race_id and q.resolved_at is null
) as q
where s.current or %(race)s::bigint is not null or %(event)s::bigint is not null
   or s.running_since is not null or s.suspicion is not null or q.quarantined > 0 or s.stale_at < now()
   or (s.last_status in ('failed', 'partial') and s.last_pass_at > now() - interval '1 day')
order by s.next_start nulls last, s.last_start desc nulls last, s.race_id, s.timing_partner_id
"""

# Of records of the race list, which belong to no race.
UNLISTED: LiteralString = """
select timing_partner_id, count(*)
from runsignup_quarantine
where race_id is null and resolved_at is null
  and (%(partner)s::bigint is null or timing_partner_id = %(partner)s)
group by timing_partner_id
"""

LOCKS: LiteralString = """
select (classid::bigint << 32) | objid::bigint, pid
from pg_locks
where locktype = 'advisory' and objsubid = 1 and granted
  and database = (select oid from pg_database where datname = current_database())
"""


async def read_status(database: Database, settings: Settings, filters: Filters) -> Status:
    """All races that count, and others where something waits or that the filters name, by their next start.

    `since` leaves out races whose last start lies before it. Raises `ConfigurationError` for an unknown partner.
    """
    # A pass takes its race's lock before it says that it runs and gives it back after it said how it ended. So what is
    # said to run, began before the locks were looked at and has no holder then, was left by a process that is gone.
    async with await database.connect(name="startlist reading") as conn:
        holders = await holders_of(conn)
    async with reader(database) as conn:
        races = await rows(conn, RaceState, STATES, filters.values())
        credentials = await partners.states(conn, settings, timing_partner_id=filters.timing_partner_id)
        unlisted = await (await conn.execute(UNLISTED, {"partner": filters.timing_partner_id})).fetchall()
        running = {one.timing_partner_id for one in credentials if holders.backfilling(database, one)}
        backfills = await backfill.states(conn, filters.timing_partner_id, running=running)
        workers = await processes.workers(conn)
    return Status(holders, races, credentials, dict(unlisted), backfills, workers)


async def holders_of(conn: Connection) -> Holders:
    """Who holds which locks now."""
    row = await (await conn.execute("select clock_timestamp()")).fetchone()
    assert row is not None  # noqa: S101 - a select without from gives its row
    return Holders(row[0], dict(await (await conn.execute(LOCKS)).fetchall()))
