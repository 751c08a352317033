"""Full passes: everything of the wanted events, exactly as sent; when a race gets one, and which events are wanted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from startlist.store.database import Database
from tests.support import MakeSettings
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig

DAY = 86_400


def local(zone: str, **ago: float) -> str:
    """A time so long ago on a clock of that zone, as RunSignup writes it."""
    return wire(datetime.now(UTC) - timedelta(**ago), zone)


def wire(when: datetime, zone: str) -> str:
    here = when.astimezone(ZoneInfo(zone))
    return f"{here.month}/{here.day}/{here.year} {here.hour:02}:{here.minute:02}"


async def test_first_sync_stores_the_race_its_events_and_everyone(rig: Rig) -> None:
    done = await rig.sync()
    assert (done.status, done.exit_status) == ("completed", 0)
    await rig.assert_truth()
    race = await rig.one("select * from runsignup_races")
    assert (race["race_id"], race["name"], race["credential_id"]) == (RACE, "Sandbox 5K & 10K", 1)
    events = await rig.rows("select * from runsignup_events order by event_id")
    assert [(event["event_id"], event["name"], event["race_id"]) for event in events] == [
        (FIRST, "5K", RACE), (SECOND, "10K", RACE)
    ]  # fmt: skip
    assert all(event["first_full_at"] for event in events)
    assert await rig.passes() == [("full", "completed", "never synced")]
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 1, "removed_participants": 1}
    cursor = await rig.cursor()
    assert cursor["event_ids"] == [FIRST, SECOND]
    assert cursor["last_full_at"] is not None
    assert cursor["checkpoint"] is None


async def test_first_full_pass_writes_no_changes(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 7)
    rig.control.refund(PERSON + 1)
    done = await rig.sync()
    assert await rig.changes() == []
    assert await rig.bibs() == []
    figures = done.partners[0].figures
    assert (figures.rows_received, figures.rows_inserted, figures.rows_removed) == (11, 11, 1)
    assert done.total_participants == 11
    await rig.assert_truth()


async def test_unchanged_forced_full_pass_writes_no_row(rig: Rig) -> None:
    rig.control.register(SECOND, 3)
    rig.control.refund(PERSON)
    await rig.sync()
    before = await rig.written()
    race, events = await rig.rows("select xmin::text from runsignup_races"), await rig.rows("select * from start_list")
    done = await rig.sync(force_full=True)
    assert await rig.written() == before
    assert done.partners[0].figures.rows_unchanged == 14
    assert (await rig.passes())[1] == ("full", "completed", "forced")
    assert await rig.rows("select xmin::text from runsignup_races") == race
    assert await rig.rows("select * from start_list") == events
    assert await rig.changes() == []


async def test_trap_45_other_key_order_and_escapes_are_no_change(rig: Rig) -> None:
    rig.control.edit(PERSON, first_name='Renée "R/R" Ñuñez', giveaway="M/L")
    await rig.sync()
    before = await rig.written()
    rig.control.fault("key_order", times=None)
    done = await rig.sync(force_full=True)
    figures = done.partners[0].figures
    assert (figures.rows_updated, figures.rows_unchanged) == (0, 12)
    assert await rig.written() == before
    assert await rig.changes() == []
    await rig.assert_truth()


async def test_later_event_is_read_in_full_and_what_is_new_in_the_others_is_told(rig: Rig) -> None:
    await rig.sync()
    new_event = rig.control.add_event(RACE, "1 Mile", in_days=10)
    rig.control.register(new_event, 2, bib_num=5)
    (late,) = rig.control.register(FIRST, bib_num=99)
    await rig.sync()
    assert (await rig.passes())[1] == ("full", "completed", f"new event {new_event}")
    await rig.assert_truth()
    assert await rig.changes() == [("added", late)]
    assert await rig.bibs() == [("assigned", late, None, "99")]
    assert (await rig.cursor())["event_ids"] == [FIRST, SECOND, new_event]
    await rig.sync()
    assert (await rig.passes())[2][0] == "incremental"


async def test_full_pass_is_due_again_after_the_days_that_the_user_chose(rig: Rig) -> None:
    await rig.sync()
    await rig.pass_time(3 * DAY)
    await rig.sync()
    assert (await rig.last_pass())["sync_type"] == "incremental"
    await rig.sync(incremental_days=2)
    last = await rig.last_pass()
    assert (last["sync_type"], last["reason"]) == ("full", "last full pass more than 2 days ago")
    await rig.pass_time(8 * DAY)
    await rig.sync()
    assert (await rig.last_pass())["sync_type"] == "full"


async def test_incremental_passes_do_not_put_the_full_pass_off(rig: Rig) -> None:
    await rig.sync()
    for _ in range(3):
        await rig.pass_time(2.5 * DAY)
        await rig.sync()
    assert [kind for kind, _, _ in await rig.passes()] == ["full", "incremental", "incremental", "full"]


async def test_trap_03_rows_in_the_second_element(rig: Rig) -> None:
    rig.control.vanish(event_id=FIRST)
    rig.control.register(SECOND, 2)
    await rig.sync()
    await rig.assert_truth()
    assert {row["event_id"] for row in await rig.rows("select event_id from start_list")} == {SECOND}


async def test_trap_02_a_race_without_registrations_is_done(rig: Rig) -> None:
    rig.control.vanish(event_id=FIRST)
    done = await rig.sync()
    assert done.exit_status == 0
    assert await rig.count("runsignup_participants") == 0
    assert (await rig.cursor())["participants_watermark"] is not None


@pytest.mark.parametrize("value", [[], [{"event": {"event_id": FIRST, "participants": []}}]])
async def test_an_answer_that_leaves_out_an_event_is_a_page(rig: Rig, value: object) -> None:
    rig.control.fault("wrong_shape", match={"endpoint": "participants"}, value=value)
    done = await rig.sync()
    assert done.exit_status == 0
    assert await rig.count("runsignup_participants") == 0


async def test_object_in_place_of_an_array_is_read_as_well(rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    rig.control.fault("object_envelope", times=None)
    rig.control.refund(PERSON)
    await rig.sync()
    await rig.assert_truth()


async def test_the_start_list_tells_the_age_on_race_day(rig: Rig) -> None:
    zone = "Pacific/Honolulu"
    race = rig.control.add_race("Birthday Run", timezone=zone)
    event = rig.control.add_event(race, start_time="7/4/2031 20:00")  # in UTC it is the 5th by then
    by_year = rig.control.add_event(race, start_time="7/4/2031 20:00", age_calc_base_date="12/31/2031")
    born = ["2001-07-04", "2001-07-05", None]
    for asked in (event, by_year):
        for dob in born:
            rig.control.register(asked, dob=dob, age=29, team_name="The Hares")
    rig.control.refund(rig.control.register(event)[0])
    await rig.sync()
    rows = await rig.rows("select * from start_list where race_id = %s order by event_id, registration_id", race)
    assert [row["race_day_age"] for row in rows] == [30, 29, None, 30, 30, None]
    assert {(row["age"], row["team_name"], row["race_name"], row["event_name"]) for row in rows} == {
        (29, "The Hares", "Birthday Run", "5K")
    }
    assert {row["start_time"] for row in rows} == {datetime(2031, 7, 5, 6, tzinfo=UTC)}


# -- which events are wanted -------------------------------------------------------------------------------------------


async def test_trap_35_only_the_events_that_count_are_asked(rig: Rig) -> None:
    for year in range(1, 13):
        old = rig.control.add_event(RACE, f"5K {year}", in_days=-364 * year)
        rig.control.register(old)
    await rig.sync()
    assert [call["event_ids"] for call in rig.asked("participants")] == [[FIRST, SECOND]]
    await rig.assert_truth(events=[FIRST, SECOND])


async def test_trap_36_a_race_of_this_morning_in_hawaii_is_still_read(rig: Rig) -> None:
    race = rig.control.add_race("Sunrise Run", timezone="Pacific/Honolulu")
    event = rig.control.add_event(race, start_time=local("Pacific/Honolulu", hours=2))
    rig.control.register(event, 3)
    await rig.sync()
    await rig.assert_truth(race)
    (late,) = rig.control.register(event)
    await rig.sync()
    assert ("added", late) in await rig.changes()


async def test_rule_3_an_event_counts_until_a_day_after_its_end(rig: Rig) -> None:
    zone = "America/Denver"
    race = rig.control.add_race("Stage Race", timezone=zone)

    def add(name: str, start: str, end: str | None = None) -> int:
        return int(rig.control.add_event(race, name, start_time=start, end_time=end, race_event_days_id=1))

    ended = add("Over", local(zone, days=1, hours=2))
    ends_late = add("Long", local(zone, days=3), local(zone, hours=22))
    backwards = add("Backwards", local(zone, hours=20), local(zone, days=30))
    await rig.sync(race_id=race)
    (asked,) = rig.asked("participants")
    assert sorted(asked["event_ids"]) == sorted([ends_late, backwards])
    await rig.sync(race_id=race, include_past_days=2)
    assert sorted(rig.asked("participants")[0]["event_ids"]) == sorted([ended, ends_late, backwards])
    assert (await rig.last_pass(race))["reason"] == f"new event {ended}"


async def test_rule_3_a_race_that_is_over_is_read_when_it_is_named(rig: Rig) -> None:
    race = rig.control.add_race("Last Year's")
    last_year = [rig.control.add_event(race, name, in_days=-90) for name in ("5K", "10K")]
    before = rig.control.add_event(race, "5K", in_days=-454)
    for event in (*last_year, before):
        rig.control.register(event, 2)
    await rig.sync()
    assert {call["race_id"] for call in rig.asked("participants")} == {RACE}
    done = await rig.sync(race_id=race, timing_partner_id=1)
    assert done.exit_status == 0
    await rig.assert_truth(race, events=last_year)
    nobody_said_whose = await rig.sync(race_id=race)
    assert nobody_said_whose.exit_status == 0  # it is stored by now


async def test_a_race_that_nobody_knows_is_a_wrong_option(rig: Rig) -> None:
    done = await rig.sync(race_id=4711)
    assert done.exit_status == 2
    assert "race 4711 is in no partner's list" in str(done.error)


async def test_a_named_race_whose_events_are_all_gone_is_known_and_has_nothing_to_read(rig: Rig) -> None:
    await rig.sync()
    for event_id in (FIRST, SECOND):
        rig.control.remove_event(event_id, silent=True)
    await rig.sync()
    done = await rig.sync(race_id=RACE)
    assert (done.status, done.error) == ("completed", None)
    assert done.partners[0].races[0].outcome.event_ids == frozenset()
    assert rig.endpoints() == {"races": 1}
    plan, errors = await rig.plan(race_id=RACE)
    assert [(one.race_id, one.event_ids, one.calls) for one in plan] == [(RACE, [], 0)]
    assert errors == []


async def test_rule_3_an_event_without_a_readable_start_counts_while_it_is_listed(rig: Rig) -> None:
    rig.control.edit_event(SECOND, start_time="to be announced")
    rig.control.register(SECOND, 2)
    await rig.sync()
    await rig.assert_truth()
    assert (await rig.one("select start_time from runsignup_events where event_id = %s", SECOND))["start_time"] is None
    rig.control.edit_event(SECOND, race_event_days_id=1, silent=True)  # of another year: not in the list any more
    await rig.sync()
    assert [call["event_ids"] for call in rig.asked("participants")] == [[FIRST]]


async def test_rule_3_an_unknown_zone_is_eastern_with_a_warning(rig: Rig) -> None:
    rig.control.edit_race(RACE, timezone="Mars/Olympus_Mons")
    rig.control.edit_event(FIRST, start_time="7/4/2031 07:00")
    with capture_logs() as logs:
        await rig.sync()
    event = await rig.one("select start_time, timezone from runsignup_events where event_id = %s", FIRST)
    assert event == {"start_time": datetime(2031, 7, 4, 11, tzinfo=UTC), "timezone": "America/New_York"}
    assert [(line["log_level"], line["race_id"]) for line in logs if line["event"] == "race.zone_unknown"] == [
        ("warning", RACE)
    ]
    assert (await rig.one("select timezone from runsignup_races"))["timezone"] == "Mars/Olympus_Mons"


async def test_trap_13_event_times_are_of_the_race_and_the_others_eastern(rig: Rig) -> None:
    race = rig.control.add_race("Rockies Run", timezone="America/Denver", created="9/7/2021 15:15")
    event = rig.control.add_event(race, start_time="7/4/2031 07:00", registration_opens="9/7/2021 15:15")
    (runner,) = rig.control.register(event, registration_date="11/1/2026 01:30")
    await rig.sync()
    stored = await rig.one(
        "select start_time, registration_opens, race_day from runsignup_events where race_id = %s", race
    )
    assert stored["start_time"] == datetime(2031, 7, 4, 13, tzinfo=UTC)
    assert stored["registration_opens"] == datetime(2021, 9, 7, 19, 15, tzinfo=UTC)
    assert stored["race_day"].isoformat() == "2031-07-04"
    created = await rig.one("select created from runsignup_races where race_id = %s", race)
    assert created["created"] == datetime(2021, 9, 7, 19, 15, tzinfo=UTC)
    # 1:30 comes twice that night in the East; the first is meant.
    assert (await rig.registration(runner))["registration_date"] == datetime(2026, 11, 1, 5, 30, tzinfo=UTC)


async def test_rule_3_the_list_gives_the_next_day_only_so_the_record_is_read_too(rig: Rig) -> None:
    spring = rig.control.add_event(RACE, "Spring 5K", in_days=120)
    rig.control.register(spring, 2)
    await rig.sync()
    await rig.assert_truth()
    assert sorted(rig.asked("participants")[0]["event_ids"]) == [FIRST, SECOND, spring]
    await rig.sync()
    assert sorted(rig.asked("participants")[0]["event_ids"]) == [FIRST, SECOND, spring]
    assert "race" not in rig.endpoints()


async def test_rule_3_when_the_record_is_read(rig: Rig) -> None:
    soon = rig.control.add_race("Soon")
    rig.control.register(rig.control.add_event(soon, in_days=5))

    async def records() -> list[int]:
        await rig.sync()
        return sorted(call["race_id"] for call in rig.asked("race"))

    assert await records() == [RACE, soon]  # new
    assert await records() == []
    await rig.pass_time(DAY)
    assert await records() == [soon]  # within seven days: once a day
    assert await records() == []
    rig.control.clock(advance=120)  # RunSignup shows minutes
    rig.control.edit_race(RACE, name="Sandbox 5K, 10K & More")
    assert await records() == [RACE]
    assert await records() == []
    assert (await rig.one("select name from runsignup_races where race_id = %s", RACE))["name"].endswith("& More")
    assert all(call["params"]["future_events_only"] == "T" for call in rig.asked("race"))


async def test_races_go_in_order_of_their_next_start(database: Database, make_settings: MakeSettings) -> None:
    async with Rig.open(database, make_settings, concurrent_calls=1) as rig:
        days = {rig.control.add_race(f"In {days} days"): days for days in (40, 3, 200, 20)}
        for race, ahead in days.items():
            rig.control.register(rig.control.add_event(race, in_days=ahead))
        await rig.sync()
        await rig.sync(force_full=True)
        order = [call["race_id"] for call in rig.asked("participants")]
        assert [days.get(race, 10) for race in order] == [3, 10, 20, 40, 200]
        await rig.check()


async def test_one_pass_of_many_races_and_partners(rig: Rig) -> None:
    rig.control.add_partner("Chip & Go", "v2")
    races = [rig.control.add_race(f"Run {n}", keys=["Chip & Go"]) for n in range(4)]
    for race in races:
        rig.control.register(rig.control.add_event(race, in_days=20), 5)
    await rig.adopt()
    done = await rig.sync()
    assert done.exit_status == 0
    await rig.assert_truth()
    for race in races:
        await rig.assert_truth(race, partner=2)
    assert [(p.company_name, len(p.synced)) for p in sorted(done.partners, key=lambda p: p.timing_partner_id)] == [
        ("Peak Timing", 1), ("Chip & Go", 4)
    ]  # fmt: skip


async def test_the_first_partner_only(rig: Rig) -> None:
    rig.control.add_partner("Chip & Go")
    await rig.adopt()
    done = await rig.sync(only_first_partner=True)
    assert [partner.company_name for partner in done.partners] == ["Peak Timing"]
    assert {call["key"] for call in rig.calls} == {"Peak Timing"}
    named = await rig.sync(only_first_partner=True, timing_partner_id=2)
    assert [partner.company_name for partner in named.partners] == ["Chip & Go"]


async def test_trap_47_the_same_race_by_another_host_is_one_race(rig: Rig) -> None:
    await rig.sync()
    rig.settings = rig.settings.model_copy(update={"api_url": rig.settings.api_url.replace("127.0.0.1", "localhost")})
    await rig.sync(force_full=True)
    assert await rig.count("runsignup_races") == 1
    assert await rig.changes() == []
    await rig.assert_truth()
