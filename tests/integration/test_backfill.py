"""A backfill: everything that is over, exactly as sent, once; what is coming is left to the sync."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from startlist.sandbox import World, bulk
from startlist.store.database import Database
from startlist.sync.backfill.plan import Options
from startlist.sync.backfill.run import PlannedPast, dry_run
from startlist.sync.gate import utc_now
from tests.support import MakeSettings
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig
from tests.years import Told, add_race, add_years, assert_adds_up, assert_nothing_marked, events_of

DAY = 86_400
COMING = (FIRST, SECOND)


# -- all that is over --------------------------------------------------------------------------------------------------


async def test_a_race_of_many_years_arrives_in_full_but_for_what_is_coming(rig: Rig) -> None:
    past = add_years(rig, 4, runners=5)
    newest, *_, oldest = past
    ids = sorted(row["registration_id"] for row in rig.control.truth(RACE)["events"][newest]["active"])
    rig.control.refund(ids[0])
    rig.control.defer(ids[1])
    new = rig.control.transfer(ids[2], oldest, transfer_bibs=True)
    rig.control.assign_bib(ids[3], 17, chip="C17")
    rig.control.edit(ids[4], last_name="Ñuñez", team_name="The Hares")
    done = await rig.backfill()
    assert (done.status, done.exit_status, done.states) == ("completed", 0, {"done": 1})
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 1, "removed_participants": 1}
    assert rig.asked("participants")[0]["event_ids"] == past
    await rig.assert_truth(events=past)
    assert await rig.rows("select * from runsignup_participants where event_id = any(%s)", list(COMING)) == []
    transferred = await rig.registration(ids[2])
    assert (transferred["removed_reason"], transferred["new_registration_id"]) == ("transferred", new)
    assert {row["removed_reason"] for row in await rig.rows("select * from runsignup_participants")} == {
        None, "removed", "deferred", "transferred"
    }  # fmt: skip
    figures = done.partners[0].figures
    assert (figures.rows_received, figures.rows_inserted, figures.rows_removed) == (18, 18, 3)
    row = await rig.past()
    assert (row["state"], row["reason"], row["checkpoint"]) == ("done", None, None)
    assert row["event_ids"] == sorted(past)
    assert row["unread_event_ids"] == []
    assert row["finished_at"] is not None
    await assert_adds_up(rig)


async def test_the_first_time_nothing_is_news(rig: Rig) -> None:
    past = add_years(rig, 2)
    rig.control.assign_bib(rig.control.register(past[0])[0], 5)
    rig.control.refund(rig.control.register(past[1])[0])
    await rig.backfill()
    assert await rig.changes() == []
    assert await rig.bibs() == []
    stored = await rig.rows("select event_id, first_full_at from runsignup_events order by event_id")
    assert {row["event_id"] for row in stored if row["first_full_at"]} == set(past)


async def test_the_place_of_the_sync_is_not_touched(rig: Rig) -> None:
    await rig.backfill()
    await assert_nothing_marked(rig)
    past = add_years(rig, 2)
    await rig.sync()
    before = await rig.cursor()
    rig.control.clock(advance=3600)
    await rig.backfill()
    assert await rig.cursor() == before
    await rig.assert_truth(events=[*COMING, *past])
    rig.control.edit(PERSON, last_name="Later")
    await rig.sync()
    last = await rig.last_pass()
    assert (last["sync_type"], last["status"]) == ("incremental", "completed")
    assert rig.bound() == before["participants_watermark"] - 60
    await rig.assert_truth(events=[*COMING, *past])


async def test_a_sync_after_the_backfill_reads_the_coming_events_in_full(rig: Rig) -> None:
    past = add_years(rig, 2)
    await rig.backfill()
    await rig.sync()
    assert [kind for kind, _, _ in await rig.passes()] == ["backfill", "full"]
    assert await rig.changes() == []
    await rig.assert_truth(events=[*COMING, *past])


async def test_races_and_events_are_stored_as_their_record_has_them(rig: Rig) -> None:
    past = add_years(rig, 2)
    await rig.backfill()
    race = await rig.one("select * from runsignup_races")
    assert (race["race_id"], race["name"], race["credential_id"]) == (RACE, "Sandbox 5K & 10K", 1)
    assert race["record_read_at"] is None  # by a sync, whose race it is as long as it is coming
    events = await rig.rows("select event_id from runsignup_events order by event_id")
    assert [row["event_id"] for row in events] == sorted([*COMING, *past])
    assert (await rig.credential())["verified_at"] is not None


async def test_the_races_held_last_go_first(rig: Rig, make_settings: MakeSettings) -> None:
    rig.settings = make_settings(api_url=rig.sandbox.url, concurrent_calls=1)
    for event in COMING:
        rig.control.remove_event(event)
    by_days = {days: add_race(rig, days=days) for days in (500, 3, 90)}
    await rig.backfill()
    order = [call["race_id"] for call in rig.asked("participants")]
    assert order == [by_days[3], by_days[90], by_days[500]]
    for race in order:
        await rig.assert_truth(race)


async def test_a_world_of_years(database: Database, make_settings: MakeSettings) -> None:
    world = World(seed=3)
    bulk(world, registrations=900, races=6, events_per_race=2, partners=2, years=3, row_bytes=700, removed_share=0.1)
    async with Rig.open(database, make_settings, world) as rig:
        coming = {int(event) for events in rig.control.summary()["future"].values() for event in events}
        done = await rig.backfill()
        assert (done.status, done.states) == ("completed", {"done": 6})
        assert [partner.states for partner in done.partners] == [{"done": 3}, {"done": 3}]
        for key in rig.control.partners():
            for race in key["race_ids"]:
                over = [event for event in events_of(rig, race) if event not in coming]
                assert len(over) == 4
                await rig.assert_truth(race, events=over, partner=rig.partners[key["partner"]])
        assert await rig.changes() == []
        await assert_adds_up(rig)
        await assert_nothing_marked(rig)
        again = await rig.backfill()
        assert rig.endpoints() == {"races": 2}
        assert again.status == "completed"


# -- what was read is not read again -----------------------------------------------------------------------------------


async def test_a_second_run_asks_for_the_race_list_only(rig: Rig) -> None:
    past = add_years(rig, 2)
    add_race(rig, 2)
    await rig.backfill()
    written, legs = await rig.written(), await rig.passes()
    told = Told()
    done = await rig.backfill(progress=told)
    assert rig.endpoints() == {"races": 1}
    assert (done.status, done.exit_status) == ("completed", 0)
    assert (done.partners[0].finished_before, done.partners[0].races) == (2, [])
    assert told.planned == [(2, 2, 700)]
    assert (await rig.written(), await rig.passes()) == (written, legs)
    await rig.assert_truth(events=past)


async def test_an_event_that_was_coming_and_is_over_now_is_read_by_the_next_run(rig: Rig) -> None:
    past = add_years(rig, 1)
    await rig.sync()
    await rig.backfill()
    rig.control.edit(PERSON, last_name="On the last day")
    rig.control.refund(PERSON + 1)
    days = timedelta(days=13)
    done = await rig.backfill(now=lambda: utc_now() + days)
    assert done.states == {"done": 1}
    assert rig.asked("participants")[0]["event_ids"] == [SECOND, FIRST]  # by their starts
    assert (await rig.last_pass())["reason"] == f"not read yet: event {FIRST}, {SECOND}"
    assert (await rig.past())["event_ids"] == sorted([*COMING, *past])
    await rig.assert_truth()
    # The sync had read it before, so what differs is news.
    assert sorted(await rig.changes()) == [("removed", PERSON + 1), ("updated", PERSON)]
    await assert_adds_up(rig)
    await rig.backfill(now=lambda: utc_now() + days)
    assert rig.endpoints() == {"races": 1}


async def test_a_race_whose_record_changed_is_looked_at_again(rig: Rig) -> None:
    past = add_years(rig, 2)
    await rig.backfill()
    rig.control.clock(advance=120)  # RunSignup shows minutes
    older = rig.control.add_event(RACE, "Found in a drawer", in_days=-2000)
    rig.control.register(older, 2)
    done = await rig.backfill()
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 1, "removed_participants": 1}
    assert rig.asked("participants")[0]["event_ids"] == [older]
    assert done.states == {"done": 1}
    assert (await rig.past())["event_ids"] == sorted([*past, older])
    await rig.assert_truth(events=[*past, older])
    rig.control.clock(advance=120)
    rig.control.edit_race(RACE, name="Only the name")
    await rig.backfill()
    assert rig.endpoints() == {"races": 1, "race": 1}
    assert (await rig.past())["state"] == "done"
    await rig.backfill()
    assert rig.endpoints() == {"races": 1}
    name = "select name from runsignup_races"
    assert (await rig.one(name))["name"] == "Sandbox 5K & 10K"  # a race that is coming is the sync's
    await rig.sync()
    assert (await rig.one(name))["name"] == "Only the name"
    await assert_adds_up(rig)


async def test_restart_reads_everything_again_and_doubles_nothing(rig: Rig) -> None:
    past = add_years(rig, 2)
    await rig.backfill()
    written = await rig.written()
    edited = rig.control.truth(RACE)["events"][past[0]]["active"][0]["registration_id"]
    rig.control.edit(edited, last_name="Corrected")
    done = await rig.backfill(restart=True)
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 1, "removed_participants": 1}
    figures = done.partners[0].figures
    assert (figures.rows_inserted, figures.rows_updated, figures.rows_unchanged) == (0, 1, 5)
    assert len(await rig.written()) == len(written)
    assert await rig.changes() == [("updated", edited)]
    await rig.assert_truth(events=past)


async def test_retry_asks_again_for_what_was_empty_and_not_for_what_was_read(rig: Rig) -> None:
    past = add_years(rig, 2)
    empty = add_race(rig, runners=0)
    done = await rig.backfill()
    assert (done.status, done.states) == ("completed", {"done": 1, "empty": 1})
    row = await rig.past(empty)
    assert (row["state"], row["reason"]) == ("empty", "RunSignup has no registrations of its past")
    (event,) = events_of(rig, empty)
    rig.control.register(event, 2)
    await rig.backfill()
    assert rig.endpoints() == {"races": 1}
    done = await rig.backfill(retry=True)
    assert {call["race_id"] for call in rig.asked("participants")} == {empty}
    assert done.states == {"done": 1}
    await rig.assert_truth(empty)
    await rig.assert_truth(events=past)


async def test_since_reads_some_years_and_a_later_run_the_others(rig: Rig) -> None:
    past = add_years(rig, 4)
    since = (datetime.now(UTC) - timedelta(days=800)).date()
    done = await rig.backfill(since=since)
    assert done.states == {"done": 1}
    assert rig.asked("races")[0]["params"]["start_date"] == since.isoformat()
    assert rig.asked("participants")[0]["event_ids"] == past[:2]
    await rig.assert_truth(events=past[:2])
    await rig.backfill(since=since)
    assert rig.endpoints() == {"races": 1}
    await rig.backfill()
    assert rig.asked("participants")[0]["event_ids"] == past[2:]
    await rig.assert_truth(events=past)
    assert (await rig.past())["event_ids"] == sorted(past)
    await assert_adds_up(rig)


async def test_since_leaves_out_races_that_are_long_over(rig: Rig) -> None:
    old = add_race(rig, days=3000)
    await rig.backfill()
    await rig.assert_truth(old)
    await rig.backfill(restart=True, since=date.today() - timedelta(days=400))  # noqa: DTZ011 - any day will do
    assert {call["race_id"] for call in rig.calls if call["race_id"]} == {RACE}


async def test_a_race_of_which_nothing_is_over_is_noted_and_not_asked_for_again(rig: Rig) -> None:
    await rig.sync()
    done = await rig.backfill()
    assert (done.status, done.exit_status) == ("completed", 0)
    assert rig.endpoints() == {"races": 1, "race": 1}
    row = await rig.past()
    assert (row["state"], row["reason"]) == ("empty", "no event of it is over")
    await rig.backfill()
    assert rig.endpoints() == {"races": 1}


async def test_a_new_partner_of_whom_nothing_is_over_is_done_as_well(rig: Rig) -> None:
    done = await rig.backfill()
    assert (done.status, done.exit_status) == ("completed", 0)


async def test_only_one_partner_or_the_first_of_them(rig: Rig) -> None:
    rig.control.add_partner("Chip & Go")
    theirs = add_race(rig, keys=["Chip & Go"])
    past = add_years(rig, 1)
    await rig.adopt()
    done = await rig.backfill(timing_partner_id=2)
    assert [partner.timing_partner_id for partner in done.partners] == [2]
    await rig.assert_truth(theirs, partner=2)
    done = await rig.backfill(first_partners=1)
    assert [partner.timing_partner_id for partner in done.partners] == [1]
    await rig.assert_truth(events=past)


async def test_two_partners_with_the_same_race_have_a_copy_each(rig: Rig) -> None:
    past = add_years(rig, 2)
    rig.control.add_partner("Chip & Go")
    rig.control.share(RACE, "Chip & Go")
    await rig.adopt()
    await rig.backfill()
    await rig.assert_truth(events=past, partner=1)
    await rig.assert_truth(events=past, partner=2)


# -- what it would take ------------------------------------------------------------------------------------------------


async def plan_of(rig: Rig, **options: Any) -> list[PlannedPast]:
    rig.control.reset_log()
    async with rig.context() as context:
        found = await dry_run(context, Options(**options))
    rig.calls = rig.control.log()
    return found


async def test_a_dry_run_asks_for_the_race_lists_only_and_stores_nothing(rig: Rig) -> None:
    past = add_years(rig, 3)
    add_race(rig, 2)
    rig.control.add_partner("Chip & Go")
    add_race(rig, keys=["Chip & Go"])
    await rig.adopt()
    mine, theirs = await plan_of(rig)
    assert rig.endpoints() == {"races": 2}
    assert (mine.races, theirs.races) == (2, 1)
    assert (mine.calls, theirs.calls) == (6, 3)
    assert (mine.calls_per_hour, mine.calls_left) == (700, 699)
    assert mine.events >= 1  # the list shows the current events only
    for table in ("runsignup_races", "backfill_progress", "sync_history", "sync_runs"):
        assert await rig.count(table) == 0
    await rig.sync()
    assert (await plan_of(rig, timing_partner_id=1))[0].races == 2
    await rig.backfill()
    mine, theirs = await plan_of(rig)
    assert (mine.races, mine.finished_before, mine.events, mine.calls, mine.seconds) == (0, 2, 0, 0, 0)
    rig.control.clock(advance=120)
    rig.control.add_event(RACE, "Found in a drawer", in_days=-2000)
    (mine,) = await plan_of(rig, first_partners=1)
    assert (mine.races, mine.finished_before) == (1, 1)
    await rig.assert_truth(events=past, beside=[FIRST, SECOND])


# -- large events ------------------------------------------------------------------------------------------------------


async def test_rule_2_large_past_events_are_read_page_by_page_each_alone(
    database: Database, make_settings: MakeSettings
) -> None:
    world = World(seed=9)
    bulk(world, registrations=3_300, races=1, events_per_race=1, years=3, row_bytes=600, removed_share=0.35)
    async with Rig.open(database, make_settings, world) as rig:
        ((race, future),) = rig.control.summary()["future"].items()
        past = [event for event in events_of(rig, int(race)) if event not in {int(one) for one in future}]
        for endpoint in ("participants", "removed_participants"):
            rig.control.fault("clamp", match={"endpoint": endpoint}, times=None, rows=500)
        sizes = {
            event: (len(rows["active"]), len(rows["removed"]))
            for event, rows in rig.control.truth(int(race))["events"].items()
        }
        done = await rig.backfill()
        assert done.states == {"done": 1}
        await rig.assert_truth(int(race), events=past)
        # All at once, which is cut; then each alone, the newest first, until a page is shorter than a round number.
        pages = sum(sizes[event][0] // 500 + 1 for event in past)
        asked = [tuple(call["event_ids"]) for call in rig.asked("participants")]
        assert len(asked) == 1 + pages
        assert list(dict.fromkeys(asked)) == [tuple(past), *((event,) for event in past)]
        removed = [tuple(call["event_ids"]) for call in rig.asked("removed_participants")]
        together = sum(sizes[event][1] for event in past)
        assert len(removed) == (1 if together < 500 else 1 + sum(sizes[event][1] // 500 + 1 for event in past))
        assert (await rig.past(int(race)))["api_calls"] == len(rig.calls) - 1
        await assert_adds_up(rig)


# -- a race that shrinks while it is read ------------------------------------------------------------------------------


async def test_rows_that_vanish_between_the_pages_mark_nobody_and_double_nothing(rig: Rig) -> None:
    past = add_years(rig, 2, runners=700)
    ids = sorted(row["registration_id"] for row in rig.control.truth(RACE)["events"][past[0]]["active"])
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    gone = [ids[3], ids[4], ids[650]]  # read already, or still to be read
    vanish = [{"name": "vanish", "registration_id": number} for number in gone]
    refund = [{"name": "refund", "registration_id": ids[number]} for number in (10, 660)]
    rig.control.fault("before", match={"endpoint": "participants", "page_after": True}, changes=vanish + refund)
    done = await rig.backfill()
    assert done.states == {"done": 1}
    stored = await rig.rows("select * from runsignup_participants where event_id = %s", past[0])
    by_id = {row["registration_id"]: row for row in stored}
    await assert_nothing_marked(rig)
    assert set(by_id) == set(ids) - {ids[650]}
    assert {number for number, row in by_id.items() if row["removed_at"]} == {ids[10], ids[660]}
    await assert_adds_up(rig)


async def test_an_event_that_empties_while_it_is_read(rig: Rig) -> None:
    past = add_years(rig, 2, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    rig.control.fault(
        "then", match={"endpoint": "participants", "event_id": past[1]}, skip=1,
        changes=[{"name": "vanish", "event_id": past[1]}],
    )  # fmt: skip
    done = await rig.backfill()
    assert done.states == {"done": 1}
    await assert_nothing_marked(rig)
    assert len(await rig.rows("select * from start_list where event_id = %s", past[1])) == 500
    again = await rig.backfill(restart=True)
    assert again.states == {"done": 1}
    await assert_nothing_marked(rig)
    assert len(await rig.rows("select * from start_list where event_id = %s", past[1])) == 500


async def test_a_transfer_while_the_removed_list_is_read_is_followed(rig: Rig) -> None:
    past = add_years(rig, 2)
    moved = rig.control.truth(RACE)["events"][past[0]]["active"][0]["registration_id"]
    transfer = {"name": "transfer", "registration_id": moved, "to_event_id": past[1]}
    rig.control.fault("before", match={"endpoint": "removed_participants"}, changes=[transfer])
    await rig.backfill()
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 2, "removed_participants": 1}
    await rig.assert_truth(events=past)


@pytest.mark.parametrize("kind", ["ignore_cursor", "duplicate_rows", "object_envelope", "key_order"])
async def test_odd_answers_double_nothing(rig: Rig, kind: str) -> None:
    past = add_years(rig, 1, runners=4)
    rig.control.fault(kind, match={"endpoint": "participants"}, times=None)
    done = await rig.backfill()
    assert done.states == {"done": 1}
    await rig.assert_truth(events=past)
