alter table runsignup_races
    add column adopted boolean not null default false; -- whether the schedule has taken it up

update runsignup_races r set adopted = true
from sync_cursors c
where (c.timing_partner_id, c.race_id) = (r.timing_partner_id, r.race_id) and c.planned_at is not null;

create index runsignup_races_new on runsignup_races (timing_partner_id, race_id) where not adopted;
