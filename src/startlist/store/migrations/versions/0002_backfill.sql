create table backfill_progress (
    timing_partner_id bigint not null references timing_partners on delete cascade,
    race_id           bigint not null,
    state             text not null default 'waiting'
        check (state in ('waiting', 'reading', 'done', 'partial', 'empty', 'refused', 'gone', 'failed')),
    reason            text,
    record_modified   timestamptz, -- the race's last_modified, when its own record was last read for this
    event_ids         bigint[] not null default '{}', -- events that were read to their end
    unread_event_ids  bigint[] not null default '{}', -- events that could not be read
    checkpoint        jsonb, -- where an unfinished race stands; never the sync's cursor
    api_calls         integer not null default 0,
    rows_received     integer not null default 0,
    rows_inserted     integer not null default 0,
    rows_updated      integer not null default 0,
    rows_unchanged    integer not null default 0,
    rows_removed      integer not null default 0,
    quarantined       integer not null default 0,
    begun_at          timestamptz,
    updated_at        timestamptz not null default now(),
    finished_at       timestamptz,
    primary key (timing_partner_id, race_id)
);
