alter table sync_cursors
    add column waits_since timestamptz; -- when it became due, while it waits for a call of its credential's hour

alter table sync_history
    add column silent_bibs integer not null default 0; -- of the silent edits, those of a bib or chip

alter table partner_provider_credentials
    add column silent_bibs_at timestamptz; -- when a full pass last found a bib changed that no incremental pass could see
