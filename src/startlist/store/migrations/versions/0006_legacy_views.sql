-- The replaced system's tables as reports know them: its column names, and times without zone as it had them. Times of
-- a race are on the race's clock, all others in the session's time zone. Its race and event tables were keyed by
-- RunSignup's number alone, so of two timing partners that see one race the first is shown.

create view legacy_runsignup_races as
select distinct on (r.race_id)
       r.race_id,
       r.name,
       r.last_date::timestamp as last_date,
       r.additional_data ->> 'last_end_date' as last_end_date,
       r.next_date::timestamp as next_date,
       r.additional_data ->> 'next_end_date' as next_end_date,
       r.is_draft_race,
       r.is_private_race,
       r.is_registration_open,
       r.created::timestamp as created,
       r.last_modified::timestamp as last_modified,
       r.additional_data ->> 'description' as description,
       r.url,
       r.additional_data ->> 'external_race_url' as external_race_url,
       r.additional_data ->> 'external_results_url' as external_results_url,
       r.additional_data ->> 'fb_page_id' as fb_page_id,
       r.additional_data ->> 'fb_event_id' as fb_event_id,
       r.address,
       r.timezone,
       r.additional_data ->> 'logo_url' as logo_url,
       r.additional_data ->> 'real_time_notifications_enabled' in ('T', 'true') as real_time_notifications_enabled,
       coalesce(greatest(c.last_full_at, c.last_incremental_at), r.record_read_at, r.first_seen_at)::timestamp
           as fetched_date,
       null::varchar(255) as credentials_used,
       r.timing_partner_id,
       r.first_seen_at::timestamp as created_at
from runsignup_races r
left join sync_cursors c using (timing_partner_id, race_id)
order by r.race_id, r.timing_partner_id;

create view legacy_runsignup_events as
select distinct on (e.event_id)
       e.event_id,
       e.race_id,
       e.name,
       e.additional_data ->> 'details' as details,
       e.start_time at time zone coalesce(e.timezone, 'America/New_York') as start_time,
       e.end_time at time zone coalesce(e.timezone, 'America/New_York') as end_time,
       e.age_calc_base_date,
       e.registration_opens::timestamp as registration_opens,
       e.event_type,
       e.distance,
       e.volunteer,
       e.require_dob,
       e.require_phone,
       e.giveaway,
       coalesce(greatest(c.last_full_at, c.last_incremental_at), e.first_seen_at)::timestamp as fetched_date,
       null::varchar(255) as credentials_used,
       e.timing_partner_id,
       e.first_seen_at::timestamp as created_at
from runsignup_events e
left join sync_cursors c using (timing_partner_id, race_id)
order by e.event_id, e.timing_partner_id;

create view legacy_runsignup_participants as
select p.registration_id as id,
       p.race_id,
       p.event_id,
       p.registration_id,
       p.user_id,
       p.first_name,
       p.middle_name,
       p.last_name,
       p.email,
       p.address,
       p.dob,
       p.gender,
       p.phone,
       p.additional_data #>> '{user,profile_image_url}' as profile_image_url,
       p.bib_num,
       p.chip_num,
       p.age,
       p.registration_date::timestamp as registration_date,
       p.team_info,
       p.payment_info,
       p.additional_data,
       case when p.content_hash is null then p.changed_at
            else coalesce(greatest(c.last_full_at, c.last_incremental_at), p.changed_at) end::timestamp
           as fetched_date,
       null::varchar(255) as credentials_used,
       p.timing_partner_id,
       p.first_seen_at::timestamp as created_at,
       p.last_modified::timestamp as last_modified
from runsignup_participants p
left join sync_cursors c using (timing_partner_id, race_id)
where p.removed_at is null;

create view legacy_sync_history as
select h.sync_history_id,
       h.timing_partner_id,
       2 as provider_id,
       h.race_id,
       case when cardinality(h.event_ids) = 1 then h.event_ids[1]::text end as event_id,
       h.event_ids,
       h.sync_type as operation_type,
       'pull' as sync_direction,
       h.started_at::timestamp as sync_time,
       h.status,
       h.rows_inserted + h.rows_updated as num_of_synced_records,
       h.rows_received - h.quarantined as entries_success,
       h.quarantined as entries_failed,
       extract(epoch from h.finished_at - h.started_at)::int as duration_seconds,
       coalesce(h.error_message, h.reason) as reason,
       null::varchar(255) as credentials_used
from sync_history h;
