alter table sync_cursors
    add column calls_per_hour real, -- that its cadence asks for, outside race day, before anything is stretched
    add column race_day_at timestamptz, -- when it next ranks as race day, or since when it does
    add column race_day_until timestamptz, -- when it ceases to
    add column race_day_calls real, -- that its cadence asks for in an hour of race day
    add column waits_since timestamptz; -- when it became due, while it waits for a call of its credential's hour

alter table sync_history
    add column silent_bibs integer not null default 0; -- of the silent edits, those of a bib or chip

alter table partner_provider_credentials
    add column silent_bibs_at timestamptz; -- when a full pass last found a bib changed that no incremental pass could see
