alter table sync_cursors
    add column planned_at timestamptz, -- when next_sync_at was set; if that is later than now, the clock was set back
    add column rank text check (rank in ('routine', 'race_week', 'race_day')), -- at next_sync_at
    add column period_seconds integer, -- of the cadence at next_sync_at
    add column stretch real, -- by how much the period was lengthened, because there are too few calls
    add column failures integer not null default 0, -- passes in a row that failed
    add column stale_at timestamptz; -- when the race counts as stale, unless it is read to the end before

create index sync_cursors_due on sync_cursors (next_sync_at) where next_sync_at is not null;
create index sync_cursors_planned on sync_cursors (planned_at) where next_sync_at is not null;

alter table partner_provider_credentials
    add column next_list_at timestamptz, -- when its race list is read next; null: at once
    add column list_failures integer not null default 0, -- times in a row that this failed
    add column base_at timestamptz; -- when all its races were last made due at once

-- A race of which an event is new, moved, gone or back is due at once, if the scheduler knows it; else it adopts it.
create function event_moved() returns trigger language plpgsql set search_path from current as $$
begin
    update sync_cursors c
    set next_sync_at = clock_timestamp(), planned_at = clock_timestamp(),
        stale_at = least(c.stale_at, clock_timestamp() + interval '15 minutes')
    where c.timing_partner_id = new.timing_partner_id and c.race_id = new.race_id and c.planned_at is not null
      and coalesce(c.next_sync_at > clock_timestamp(), true)
      and coalesce(greatest(new.start_time, new.end_time) > now() - interval '9 days', true);
    return null;
end $$;
create trigger event_added after insert on runsignup_events for each row execute function event_moved();
create trigger event_moved after update on runsignup_events for each row
    when ((old.start_time, old.end_time, old.gone_at) is distinct from (new.start_time, new.end_time, new.gone_at))
    execute function event_moved();
