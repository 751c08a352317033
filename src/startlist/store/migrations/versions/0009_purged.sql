alter table runsignup_events
    add column purged_at timestamptz; -- when its registrations were purged last
