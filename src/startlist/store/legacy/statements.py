"""From the replaced system's values, staged as text, to rows of ours: the statements, in the order of their use."""

from __future__ import annotations

FUNCTIONS = """
create or replace function pg_temp.as_id(given text) returns bigint language sql immutable as
$$ select case when given ~ '^[0-9]{1,18}$' then nullif(given::bigint, 0) end $$;

create or replace function pg_temp.as_flag(given text) returns boolean language sql immutable as
$$ select case when lower(given) in ('t', 'true', '1', 'yes') then true
               when lower(given) in ('f', 'false', '0', 'no') then false end $$;

-- Days and instants beyond these years are typing errors, which PostgreSQL keeps and few programs can read.
create or replace function pg_temp.as_day(given text) returns date language plpgsql immutable strict as $$
begin
    return case when given::date between '0001-01-01' and '9999-12-31' then given::date end;
exception when data_exception then return null;
end $$;

create or replace function pg_temp.as_instant(given text) returns timestamptz language plpgsql stable strict as $$
begin
    return case when given::timestamptz between '0001-01-02' and '9999-12-30' then given::timestamptz end;
exception when data_exception then return null;
end $$;

-- On the race's clock, unless it says how far from UTC it is. Where clocks are set back a time comes twice: the first.
create or replace function pg_temp.as_start(given text, zone text) returns timestamptz language plpgsql stable strict
as $$
declare
    there timestamp;
begin
    if given ~ ':[0-9]{2}([.][0-9]+)?[+-][0-9]{2}' then
        return pg_temp.as_instant(given);
    end if;
    there := given;
    return case when there between '0001-01-02' and '9999-12-30' then coalesce(
        (select min(one) from (values (there at time zone zone - interval '1 hour'),
                                      (there at time zone zone - interval '30 minutes')) as earlier (one)
         where one at time zone zone = there),
        there at time zone zone) end;
exception when data_exception then return null;
end $$;

create or replace function pg_temp.as_object(given text) returns jsonb language plpgsql immutable strict as $$
declare
    parsed jsonb;
begin
    parsed := given;
    return case when jsonb_typeof(parsed) = 'object' then parsed end;
exception when data_exception then return null;
end $$;
"""

# Two partners may see one race, which the old tables had once: it goes to everyone whose rows name it.
OWNERS = """
create temp table legacy_owners on commit drop as
select distinct m.timing_partner_id, o.race_id
from (
    select timing_partner_id, pg_temp.as_id(race_id) as race_id from legacy_races
    union
    select timing_partner_id, pg_temp.as_id(race_id) from legacy_events
    union
    select p.timing_partner_id, coalesce(pg_temp.as_id(e.race_id), pg_temp.as_id(p.race_id))
    from legacy_participants p left join legacy_events e on pg_temp.as_id(e.event_id) = pg_temp.as_id(p.event_id)
) as o
join legacy_partners m on m.legacy_id = o.timing_partner_id
where o.race_id is not null
"""

PREPARE = """
create temp table legacy_zones on commit drop as select name from pg_timezone_names;
delete from legacy_races r using legacy_races newer
where r.race_id = newer.race_id
  and (coalesce(pg_temp.as_instant(r.fetched_date), '-infinity'), r.line)
    < (coalesce(pg_temp.as_instant(newer.fetched_date), '-infinity'), newer.line);
delete from legacy_events e using legacy_events newer
where e.event_id = newer.event_id
  and (coalesce(pg_temp.as_instant(e.fetched_date), '-infinity'), e.line)
    < (coalesce(pg_temp.as_instant(newer.fetched_date), '-infinity'), newer.line);
analyze legacy_races;
analyze legacy_events;
analyze legacy_participants;
"""

# One verdict on each row: null where it is to be stored, else why not. Of duplicates the newest counts.
JUDGE = """
create temp table legacy_rows on commit drop as
with placed as (
    select p.line, pg_temp.as_id(p.registration_id) as registration_id, pg_temp.as_id(p.event_id) as event_id,
           coalesce(pg_temp.as_id(e.race_id), pg_temp.as_id(p.race_id)) as race_id,
           p.timing_partner_id as named, m.timing_partner_id as known,
           pg_temp.as_instant(p.fetched_date) as fetched, pg_temp.as_id(p.id) as id
    from legacy_participants p
    left join legacy_events e on pg_temp.as_id(e.event_id) = pg_temp.as_id(p.event_id)
    left join legacy_partners m on m.legacy_id = p.timing_partner_id
),
alone as (
    select race_id, min(timing_partner_id) as timing_partner_id from legacy_owners group by race_id having count(*) = 1
),
owned as (
    select p.*, case when named is null then a.timing_partner_id else known end as partner
    from placed p left join alone a using (race_id)
),
ranked as (
    select o.*, row_number() over (partition by partner, event_id, registration_id
                                   order by fetched desc nulls last, id desc nulls last, line desc) as place
    from owned o
)
select r.line, r.partner, r.race_id, r.event_id, r.registration_id, r.fetched,
       case when r.registration_id is null then 'no_registration_id'
            when r.event_id is null then 'no_event_id'
            when r.race_id is null then 'no_race_id'
            when r.partner is null and r.named is null then 'no_partner'
            when r.partner is null then 'unknown_partner'
            when r.place > 1 then 'duplicate'
            when t.registration_id is not null then 'stored'
            when s.first_full_at is not null then 'not_in_runsignup'
            when s.purged_at is not null then 'purged' end as reason
from ranked r
left join runsignup_participants t
    on t.timing_partner_id = r.partner and t.event_id = r.event_id and t.registration_id = r.registration_id
left join runsignup_events s on s.timing_partner_id = r.partner and s.event_id = r.event_id
"""

RACES = """
insert into runsignup_races
    (timing_partner_id, race_id, credential_id, name, timezone, url, next_date, last_date, is_draft_race,
     is_private_race, is_registration_open, address, created, last_modified, additional_data, first_seen_at)
select o.timing_partner_id, o.race_id, c.credential_id, r.name, z.name, r.url, pg_temp.as_day(r.next_date),
       pg_temp.as_day(r.last_date), pg_temp.as_flag(r.is_draft_race), pg_temp.as_flag(r.is_private_race),
       pg_temp.as_flag(r.is_registration_open), pg_temp.as_object(r.address), pg_temp.as_instant(r.created),
       null, -- so that the race's own record is read again
       coalesce(pg_temp.as_object(r.additional_data), '{}') || jsonb_strip_nulls(jsonb_build_object(
           'description', r.description, 'external_race_url', r.external_race_url,
           'external_results_url', r.external_results_url, 'fb_page_id', r.fb_page_id, 'fb_event_id', r.fb_event_id,
           'logo_url', r.logo_url, 'next_end_date', r.next_end_date, 'last_end_date', r.last_end_date,
           'real_time_notifications_enabled',
           case pg_temp.as_flag(r.real_time_notifications_enabled) when true then 'T' when false then 'F' end,
           'legacy', nullif(jsonb_strip_nulls(jsonb_build_object(
               'next_date', case when pg_temp.as_day(r.next_date) is null then nullif(r.next_date, '') end,
               'last_date', case when pg_temp.as_day(r.last_date) is null then nullif(r.last_date, '') end)), '{}'))),
       coalesce(pg_temp.as_instant(r.created_at), now())
from legacy_owners o
left join legacy_races r on pg_temp.as_id(r.race_id) = o.race_id
left join legacy_zones z on z.name = r.timezone
left join lateral (
    select min(credential_id) as credential_id from partner_provider_credentials c
    where c.timing_partner_id = o.timing_partner_id and c.provider_id = 2 having count(*) = 1
) as c on true
on conflict do nothing
"""

EVENTS = """
insert into runsignup_events
    (timing_partner_id, event_id, race_id, race_event_days_id, name, event_type, start_time, end_time, timezone,
     race_day, distance, age_calc_base_date, registration_opens, giveaway, volunteer, require_dob, require_phone,
     additional_data, first_seen_at)
select o.timing_partner_id, pg_temp.as_id(e.event_id), o.race_id, pg_temp.as_id(e.race_event_days_id), e.name,
       e.event_type, s.start_time, s.end_time, z.zone,
       (s.start_time at time zone z.zone)::date, e.distance, pg_temp.as_day(e.age_calc_base_date),
       pg_temp.as_instant(e.registration_opens), e.giveaway, pg_temp.as_flag(e.volunteer),
       pg_temp.as_flag(e.require_dob), pg_temp.as_flag(e.require_phone),
       coalesce(pg_temp.as_object(e.additional_data), '{}')
           || jsonb_strip_nulls(jsonb_build_object('details', e.details, 'legacy', nullif(jsonb_strip_nulls(
                  jsonb_build_object(
                      'start_time', case when s.start_time is null then nullif(e.start_time, '') end,
                      'end_time', case when s.end_time is null then nullif(e.end_time, '') end)), '{}'))),
       coalesce(pg_temp.as_instant(e.created_at), now())
from legacy_events e
join legacy_owners o on o.race_id = pg_temp.as_id(e.race_id)
left join legacy_races r on pg_temp.as_id(r.race_id) = o.race_id
left join legacy_zones k on k.name = r.timezone
cross join lateral (select coalesce(k.name, 'America/New_York') as zone) as z
cross join lateral (
    select pg_temp.as_start(e.start_time, z.zone) as start_time, pg_temp.as_start(e.end_time, z.zone) as end_time
) as s
where pg_temp.as_id(e.event_id) is not null
on conflict do nothing
"""

# Rows whose event the old tables did not have are not lost: the event has a number only, until a sync reads it.
NAMELESS_EVENTS = """
insert into runsignup_events (timing_partner_id, event_id, race_id, timezone)
select distinct l.partner, l.event_id, min(l.race_id), min(coalesce(k.name, 'America/New_York'))
from legacy_rows l
left join legacy_races r on pg_temp.as_id(r.race_id) = l.race_id
left join legacy_zones k on k.name = r.timezone
where l.reason is null
group by l.partner, l.event_id
on conflict do nothing
"""

# Without a hash: nothing of it was read from RunSignup. Without `last_modified`, whose clock nobody knows: it would
# decide between an active record and its removal.
PARTICIPANTS = """
insert into runsignup_participants
    (timing_partner_id, race_id, event_id, registration_id, user_id, first_name, middle_name, last_name, email, phone,
     gender, dob, age, address, bib_num, chip_num, registration_date, team_info, payment_info, additional_data,
     field_errors, first_seen_at, changed_at)
select l.partner, l.race_id, l.event_id, l.registration_id, pg_temp.as_id(p.user_id), p.first_name, p.middle_name,
       p.last_name, p.email, p.phone, p.gender, v.dob, v.age, v.address, v.bib_num, v.chip_num, v.registered,
       v.team_info, v.payment_info,
       coalesce(v.additional_data, '{}')
           || case when p.profile_image_url is null then '{}'
                   else jsonb_build_object('user', coalesce(pg_temp.as_object(v.additional_data ->> 'user'), '{}')
                                                   || jsonb_build_object('profile_image_url', p.profile_image_url)) end
           || case when v.kept = '{}' then '{}' else jsonb_build_object('legacy', v.kept) end,
       array(select jsonb_object_keys(v.kept - 'last_modified')),
       coalesce(pg_temp.as_instant(p.created_at), l.fetched, now()), coalesce(l.fetched, now())
from legacy_rows l
join legacy_participants p using (line)
cross join lateral (
    select pg_temp.as_day(p.dob) as dob,
           case when p.age ~ '^[0-9]{1,3}$' then p.age::int end as age,
           pg_temp.as_object(p.address) as address,
           case when length(p.bib_num) <= 100 then nullif(p.bib_num, '') end as bib_num,
           case when length(p.chip_num) <= 100 then nullif(p.chip_num, '') end as chip_num,
           pg_temp.as_instant(p.registration_date) as registered,
           pg_temp.as_object(p.team_info) as team_info,
           pg_temp.as_object(p.payment_info) as payment_info,
           pg_temp.as_object(p.additional_data) as additional_data
    offset 0 -- else each value is worked out wherever it is named
) as w
cross join lateral (
    select w.*, jsonb_strip_nulls(jsonb_build_object(
        'last_modified', p.last_modified,
        'dob', case when w.dob is null then nullif(p.dob, '') end,
        'age', case when w.age is null then nullif(p.age, '') end,
        'user_id', case when pg_temp.as_id(p.user_id) is null then nullif(p.user_id, '') end,
        'bib_num', case when w.bib_num is null then nullif(p.bib_num, '') end,
        'chip_num', case when w.chip_num is null then nullif(p.chip_num, '') end,
        'registration_date', case when w.registered is null then nullif(p.registration_date, '') end,
        'address', case when w.address is null then nullif(nullif(p.address, ''), 'null') end,
        'team_info', case when w.team_info is null then nullif(nullif(p.team_info, ''), 'null') end,
        'payment_info', case when w.payment_info is null then nullif(nullif(p.payment_info, ''), 'null') end,
        'additional_data', case when w.additional_data is null then nullif(nullif(p.additional_data, ''), 'null') end
    )) as kept
    offset 0
) as v
where l.reason is null
on conflict do nothing
"""

REASONS = "select coalesce(reason, 'inserted'), count(*) from legacy_rows group by 1"

# Of each partner that had it.
PLACED_RACES = "select count(*) from legacy_owners"

PLACED_EVENTS = """
select count(*) from legacy_events e join legacy_owners o on o.race_id = pg_temp.as_id(e.race_id)
where pg_temp.as_id(e.event_id) is not null
"""

UNPLACED_RACES = """
select count(*) from legacy_races r
where not exists (select from legacy_owners o where o.race_id = pg_temp.as_id(r.race_id))
"""

UNPLACED_EVENTS = """
select count(*) from legacy_events e
where pg_temp.as_id(e.event_id) is null
   or not exists (select from legacy_owners o where o.race_id = pg_temp.as_id(e.race_id))
"""

UNKNOWN_ZONES = """
select count(*) from legacy_races r
where not exists (select from legacy_zones z where z.name = r.timezone)
  and exists (select from legacy_owners o where o.race_id = pg_temp.as_id(r.race_id))
"""

REJECTED = """
select jsonb_build_object('reason', l.reason, 'row', jsonb_strip_nulls(to_jsonb(p) - 'line'))::text
from legacy_rows l join legacy_participants p using (line)
where l.reason <> 'stored'
order by l.line
"""
