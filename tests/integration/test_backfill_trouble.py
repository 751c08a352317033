"""Old years that answer errors, keys that are wrong, bad records: what is stored stays, what can be read arrives."""

from __future__ import annotations

from typing import Any

import pytest

from tests.syncing import FIRST, RACE, SECOND, Rig
from tests.years import Clock, add_race, add_years, assert_adds_up, assert_nothing_marked, events_of

MINUTE = 60
# What RunSignup may answer about a year that it does not tell any more, and what is said of it.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("error", {"code": 3}, "RunSignup reports error 3"),
    ("error", {"code": 9}, "RunSignup reports error 9"),
    ("error", {"code": 7}, "permission denied"),
    ("error", {"code": 999}, "RunSignup reports error 999"),
    ("error", {"code": 301}, "RunSignup reports error 301"),
]
# What may be cured by asking later; each is asked three times.
STUMBLES: list[tuple[str, dict[str, Any]]] = [
    ("error", {"code": 4}),
    ("http", {"status": 500}),
    ("html", {}),
    ("truncate", {}),
    ("cut", {}),
    ("reset", {}),
    ("wrong_shape", {"value": {"participants": "none"}}),
]


def unreadable(
    rig: Rig, events: list[int], kind: str, endpoint: str | None = "participants", **parameters: Any
) -> None:
    for event in events:
        rig.control.fault(kind, match={"endpoint": endpoint, "event_id": event}, times=None, **parameters)


async def watermarks(rig: Rig, race_id: int = RACE) -> tuple[int, int]:
    cursor = await rig.cursor(race_id)
    return cursor["participants_watermark"], cursor["removed_watermark"]


# -- years that cannot be read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "parameters", "says"), REFUSED)
async def test_the_readable_years_arrive_and_the_refused_ones_are_noted(
    rig: Rig, kind: str, parameters: dict[str, Any], says: str
) -> None:
    await rig.sync()
    before = await watermarks(rig)
    past = add_years(rig, 4)
    other = add_race(rig)
    rig.control.refund(rig.control.register(past[0])[0])
    unreadable(rig, past[2:], kind, **parameters)
    done = await rig.backfill()
    assert (done.status, done.exit_status, done.states) == ("partial", 1, {"partial": 1, "done": 1})
    await rig.assert_truth(events=[FIRST, SECOND, *past[:2]])
    await rig.assert_truth(other)
    assert await watermarks(rig) == before
    asked = [call["event_ids"] for call in rig.asked("participants") if call["race_id"] == RACE]
    assert asked[:5] == [past, past[:1], past[1:2], past[2:3], past[3:]]
    assert len(asked) <= 6  # once more whether the key is still good, where rights are denied
    row = await rig.past()
    assert row["state"] == "partial"
    assert says in row["reason"]
    for event in past[2:]:
        assert str(event) in row["reason"]
    assert (row["event_ids"], row["unread_event_ids"]) == (past[:2], past[2:])
    last = await rig.last_pass()
    assert (last["sync_type"], last["status"]) == ("backfill", "partial")
    assert last["error_message"] == row["reason"]
    await assert_adds_up(rig)
    again = await rig.backfill()
    assert rig.endpoints() == {"races": 1}
    assert (again.exit_status, again.partners[0].left_alone) == (0, 1)
    rig.control.clear_faults()
    done = await rig.backfill(retry=True)
    assert done.states == {"done": 1}
    assert [call["event_ids"] for call in rig.asked("participants")] == [past[2:]]
    await rig.assert_truth(events=[FIRST, SECOND, *past])


@pytest.mark.parametrize(("kind", "parameters"), STUMBLES)
async def test_the_readable_years_arrive_and_the_others_are_asked_again_by_the_next_run(
    rig: Rig, kind: str, parameters: dict[str, Any]
) -> None:
    await rig.sync()
    before = await watermarks(rig)
    past = add_years(rig, 4)
    other = add_race(rig)
    rig.control.refund(rig.control.register(past[0])[0])
    unreadable(rig, past[2:], kind, **parameters)
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (done.exit_status, done.states) == (1, {"failed": 1, "done": 1})
    await rig.assert_truth(events=[FIRST, SECOND, *past[:2]])
    await rig.assert_truth(other)
    assert await watermarks(rig) == before
    row = await rig.past()
    assert (row["state"], row["event_ids"], row["unread_event_ids"]) == ("failed", past[:2], [])
    await assert_adds_up(rig)
    rig.control.clear_faults()
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"done": 1})
    assert [call["event_ids"] for call in rig.asked("participants")] == [past[2:]]
    await rig.assert_truth(events=[FIRST, SECOND, *past])


@pytest.mark.parametrize(("kind", "parameters"), [*[(kind, parameters) for kind, parameters, _ in REFUSED], *STUMBLES])
async def test_a_race_of_which_no_year_can_be_read(rig: Rig, kind: str, parameters: dict[str, Any]) -> None:
    await rig.sync()
    before, written, events = await watermarks(rig), await rig.written(), await rig.rows(EVENTS)
    past = add_years(rig, 4)
    unreadable(rig, past, kind, **parameters)
    other = add_race(rig)
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert done.exit_status == 1
    await rig.assert_truth(other)
    assert await watermarks(rig) == before
    kept = {(row["event_id"], row["registration_id"]) for row in written}
    assert [row for row in await rig.written() if (row["event_id"], row["registration_id"]) in kept] == written
    assert [row for row in await rig.rows(EVENTS) if row["event_id"] in (FIRST, SECOND)] == events
    assert await rig.rows("select * from runsignup_participants where removed_at is not null") == []
    assert await rig.rows("select * from runsignup_participants where missing_since is not null") == []
    row = await rig.past()
    refused = kind == "error" and parameters["code"] != 4
    state = "refused" if parameters.get("code") == 7 else "partial" if refused else "failed"
    assert row["state"] == state
    assert row["reason"]
    assert row["event_ids"] == []
    rig.control.clear_faults()
    done = await rig.backfill(retry=refused)
    assert done.states == {"done": 1}
    await rig.assert_truth(events=[FIRST, SECOND, *past])


EVENTS = "select event_id, gone_at, first_full_at from runsignup_events order by event_id"


@pytest.mark.parametrize("code", [3, 13, 301])
@pytest.mark.parametrize("endpoint", [None, "participants"], ids=["both lists", "participants"])
async def test_old_races_that_answer_errors_to_a_new_key_are_no_empty_ones(
    rig: Rig, code: int, endpoint: str | None
) -> None:
    """Nothing shows that they are the partner's: so nothing of them is kept, and all is told."""
    races = [add_race(rig, 2, days=10 * number) for number in range(3)]
    events = [event for race in races for event in events_of(rig, race)]
    for race in races:
        rig.control.refund(rig.control.register(events_of(rig, race)[0])[0])
    for what in ("participants", "removed_participants") if endpoint is None else (endpoint,):
        unreadable(rig, events, "error", what, code=code)
    done = await rig.backfill()
    assert (done.status, done.exit_status) == ("failed", 1)
    told = {race.race_id: race.outcome for race in done.partners[0].races if race.race_id in races}
    assert {outcome.state for outcome in told.values()} == {"failed"}
    assert all(f"RunSignup reports error {code}" in (outcome.reason or "") for outcome in told.values())
    for table in ("runsignup_races", "runsignup_participants", "backfill_progress"):
        assert await rig.count(table) == 0
    rig.control.clear_faults()
    done = await rig.backfill()
    assert done.exit_status == 0
    for race in races:
        await rig.assert_truth(race)
    assert {row["race_id"] for row in await rig.rows("select race_id from runsignup_races")} >= set(races)


async def test_a_race_of_which_neither_list_can_be_read_stops_no_other(rig: Rig) -> None:
    await rig.sync()
    bad, good = add_race(rig), add_race(rig, days=10)
    unreadable(rig, events_of(rig, bad), "error", code=13)
    unreadable(rig, events_of(rig, bad), "error", "removed_participants", code=7)
    done = await rig.backfill()
    assert (done.exit_status, done.states["refused"], done.states["done"]) == (1, 1, 1)
    assert (await rig.past(bad))["state"] == "refused"
    await rig.assert_truth(good)
    assert await rig.rows("select 1 from sync_history where status = 'running'") == []


async def test_what_is_gone_or_fails_before_the_key_is_proved_is_noted_afterwards(rig: Rig) -> None:
    gone, broken = add_race(rig), add_race(rig, days=10)
    good = [add_race(rig, days=20 + number) for number in range(2)]
    rig.control.fault("error", code=201, match={"endpoint": "race", "race_id": gone}, times=None)
    rig.control.fault("error", code=13, match={"endpoint": "race", "race_id": broken}, times=None)
    done = await rig.backfill()
    assert done.exit_status == 1
    states = {row["race_id"]: row["state"] for row in await rig.rows("select race_id, state from backfill_progress")}
    assert (states[gone], states[broken]) == ("gone", "failed")
    assert [states[race] for race in good] == ["done", "done"]
    await rig.backfill()
    assert gone not in {call["race_id"] for call in rig.calls}  # not asked again, unless asked for


async def test_a_stored_race_that_fails_before_the_key_is_proved_keeps_its_place(rig: Rig) -> None:
    await rig.sync()
    add_years(rig, 2)
    for endpoint in ("removed_participants", "race"):
        match = {"endpoint": endpoint, "race_id": RACE}
        rig.control.fault("http", status=503, match=match, times=None, skip=int(endpoint == "race"))
    clock = Clock(rig)
    await rig.backfill(now=clock.now, sleep=clock.sleep)
    place = (await rig.past())["checkpoint"]
    assert place is not None
    good = add_race(rig)
    await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (await rig.past(good))["state"] == "done"
    assert (await rig.past())["checkpoint"] == place


async def test_a_stored_race_that_is_listed_no_more_is_looked_at(rig: Rig) -> None:
    """Its record was never read: that nothing of it is known to be over says nothing."""
    await rig.sync()
    past = add_years(rig, 2)
    rig.control.fault("then", match={"endpoint": "races"}, times=None, rows=[])
    await rig.conn.execute("update runsignup_races set record_read_at = null")
    await rig.conn.execute("delete from runsignup_events where event_id = any(%s)", [past])
    done = await rig.backfill()
    assert done.states == {"done": 1}
    await rig.assert_truth(events=[FIRST, SECOND, *past])


async def test_a_race_that_a_sync_finds_gone_is_closed(rig: Rig) -> None:
    await rig.sync()
    add_years(rig, 1)
    rig.control.fault("http", status=503, match={"endpoint": "race"}, times=None)
    clock = Clock(rig)
    assert (await rig.backfill(now=clock.now, sleep=clock.sleep)).states == {"failed": 1}
    rig.control.clear_faults()
    rig.control.delete_race(RACE)
    await rig.sync(race_id=RACE)
    done = await rig.backfill()
    assert (await rig.past())["state"] == "gone"
    assert (await rig.backfill()).exit_status == 0, done


async def test_dead_old_years_do_not_hold_up_a_later_run(rig: Rig) -> None:
    """Where RunSignup answers everything else it is not away, and waiting for it would cure nothing."""
    await rig.sync()
    races = [add_race(rig, 2, days=10 * number) for number in range(3)]
    unreadable(rig, [events_of(rig, race)[-1] for race in races], "http", status=500)
    clock = Clock(rig)
    for _ in range(2):
        done = await rig.backfill(now=clock.now, sleep=clock.sleep)
        assert done.states["failed"] == 3
    assert max(clock.slept, default=0) < 15


async def test_the_newest_year_alone_cannot_be_read(rig: Rig) -> None:
    past = add_years(rig, 3)
    unreadable(rig, past[:1], "error", code=3)
    done = await rig.backfill()
    assert done.states == {"partial": 1}
    assert [call["event_ids"] for call in rig.asked("participants")] == [past, past[:1], past[1:2], past[2:]]
    await rig.assert_truth(events=past[1:])
    await assert_adds_up(rig)


async def test_a_race_of_a_single_year_that_cannot_be_read(rig: Rig) -> None:
    await rig.sync()
    past = add_years(rig, 1)
    unreadable(rig, past, "error", code=3)
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (1, {"partial": 1})
    assert len(rig.asked("participants")) == 1
    row = await rig.past()
    assert "RunSignup reports error 3: invalid parameters" in row["reason"]
    assert row["unread_event_ids"] == past
    assert await rig.rows("select * from runsignup_events where first_full_at is not null") == await rig.rows(
        "select * from runsignup_events where event_id in (%s, %s)", FIRST, SECOND
    )


async def test_a_page_that_breaks_off_in_the_middle_of_an_old_year(rig: Rig) -> None:
    past = add_years(rig, 3, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    rig.control.fault(
        "truncate", match={"endpoint": "participants", "event_id": past[1], "page_after": True}, times=None
    )
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert done.states == {"failed": 1}
    await rig.assert_truth(events=[past[0], past[2]], beside=[past[1]])
    assert len(await rig.rows("select * from start_list where event_id = %s", past[1])) == 500
    assert (await rig.past())["event_ids"] == [past[0], past[2]]
    await assert_nothing_marked(rig)
    await assert_adds_up(rig)
    rig.control.clear_faults()
    assert (await rig.backfill()).states == {"done": 1}
    assert {tuple(call["event_ids"]) for call in rig.asked("participants")} == {(past[1],)}
    await rig.assert_truth(events=past)
    assert await rig.changes() == []  # nothing of it was ever told, so nothing of it is news


# -- years that answer nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["empty", "empty_array"])
async def test_old_years_that_answer_nothing_wipe_nothing(rig: Rig, kind: str) -> None:
    past = add_years(rig, 3)
    rig.control.refund(rig.control.register(past[0])[0])
    await rig.backfill()
    rows = await rig.written()
    events = await rig.rows(EVENTS)
    rig.control.fault(kind, match={"race_id": RACE, "endpoint": "participants"}, times=None)
    rig.control.fault(kind, match={"race_id": RACE, "endpoint": "removed_participants"}, times=None)
    done = await rig.backfill(restart=True)
    assert (done.exit_status, done.states) == (0, {"empty": 1})
    assert await rig.written() == rows
    assert await rig.rows(EVENTS) == events
    await assert_nothing_marked(rig)
    assert await rig.changes() == []
    reason = (await rig.past())["reason"]
    assert reason == "RunSignup has no registrations of its past; the 9 that are stored of it stay"
    await rig.assert_truth(events=past)
    await rig.backfill()
    assert rig.endpoints() == {"races": 1}


async def test_years_of_which_only_some_answer_nothing(rig: Rig) -> None:
    past = add_years(rig, 3)
    await rig.backfill()
    rows = await rig.written()
    rig.control.vanish(event_id=past[2])
    done = await rig.backfill(restart=True)
    assert done.states == {"done": 1}
    assert await rig.written() == rows
    await assert_nothing_marked(rig)


async def test_years_that_answer_later_are_no_news(rig: Rig) -> None:
    """RunSignup did not tell of them at first; that is no change of theirs."""
    past = add_years(rig, 2)
    rig.control.assign_bib(rig.control.truth(RACE)["events"][past[0]]["active"][0]["registration_id"], 5)
    rig.control.fault("empty", match={"race_id": RACE}, times=None)
    await rig.backfill()
    assert (await rig.past())["state"] == "empty"
    rig.control.clear_faults()
    await rig.backfill(retry=True)
    await rig.assert_truth(events=past)
    assert await rig.changes() == []
    assert await rig.bibs() == []


# -- gone --------------------------------------------------------------------------------------------------------------


async def test_a_race_that_is_gone_keeps_its_rows_and_is_not_asked_for_again(rig: Rig) -> None:
    race = add_race(rig, 2)
    await rig.backfill()
    rows = await rig.written()
    rig.control.fault("error", code=201, match={"race_id": race}, times=None)
    done = await rig.backfill(restart=True)
    assert (done.exit_status, done.states["gone"]) == (1, 1)
    assert await rig.written() == rows
    await assert_nothing_marked(rig)
    row = await rig.past(race)
    assert (row["state"], row["checkpoint"]) == ("gone", None)
    assert "201" in row["reason"]
    assert (await rig.one("select gone_at from runsignup_races where race_id = %s", race))["gone_at"] is not None
    await rig.backfill()
    assert rig.endpoints() == {"races": 1}
    rig.control.clear_faults()
    done = await rig.backfill(retry=True)
    assert (await rig.past(race))["state"] == "done"
    await rig.assert_truth(race)


async def test_rule_10_an_event_that_goes_while_it_is_read_is_left(rig: Rig) -> None:
    past = add_years(rig, 3)
    await rig.sync()
    await rig.backfill(since=None)
    rows = await rig.written()
    remove = [{"name": "remove_event", "event_id": past[1]}]
    rig.control.fault("before", match={"endpoint": "participants"}, changes=remove)
    done = await rig.backfill(restart=True)
    assert done.states == {"done": 1}
    asked = [call["event_ids"] for call in rig.asked("participants")]
    assert asked == [past, [past[0], past[2]]]
    assert len(rig.asked("race")) == 2
    gone = await rig.rows("select event_id from runsignup_events where gone_at is not null")
    assert [row["event_id"] for row in gone] == [past[1]]
    assert await rig.written() == rows
    assert (await rig.past())["event_ids"] == sorted([past[0], past[2]])
    await rig.backfill()
    assert "participants" not in rig.endpoints()


async def test_rule_10_every_event_goes_while_it_is_read(rig: Rig) -> None:
    await rig.sync()
    past = add_years(rig, 2)
    remove = [{"name": "remove_event", "event_id": event} for event in past]
    rig.control.fault("before", match={"endpoint": "participants"}, changes=remove)
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (0, {"empty": 1})
    await rig.assert_truth(events=[FIRST, SECOND])


# -- the removed list --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters"), [("error", {"code": 3}), ("error", {"code": 9}), ("error", {"code": 7})]
)
async def test_a_removed_list_that_fails_alone_costs_no_registration(
    rig: Rig, kind: str, parameters: dict[str, Any]
) -> None:
    past = add_years(rig, 3)
    (refunded,) = rig.control.register(past[0])
    rig.control.refund(refunded)
    unreadable(rig, past[1:], kind, "removed_participants", **parameters)
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (1, {"partial": 1})
    row = await rig.past()
    assert "the removed list of event" in row["reason"]
    assert f"{past[1]}, {past[2]}" in row["reason"]
    assert (row["event_ids"], row["unread_event_ids"]) == (past[:1], past[1:])  # --retry asks these again
    await rig.assert_truth(events=past)
    await assert_nothing_marked(rig)
    await rig.backfill()
    assert rig.endpoints() == {"races": 1}
    await assert_adds_up(rig)


async def test_a_removed_list_of_which_nothing_can_be_read(rig: Rig) -> None:
    past = add_years(rig, 4)
    rig.control.fault("error", code=9, match={"endpoint": "removed_participants"}, times=None)
    done = await rig.backfill()
    assert done.states == {"partial": 1}
    assert len(rig.asked("removed_participants")) == 5  # all, then each alone
    await rig.assert_truth(events=past)
    rig.control.clear_faults()
    rig.control.refund(rig.control.truth(RACE)["events"][past[3]]["active"][0]["registration_id"])
    done = await rig.backfill(retry=True)
    assert done.states == {"done": 1}
    await rig.assert_truth(events=past)


async def test_years_of_which_neither_list_can_be_read(rig: Rig) -> None:
    past = add_years(rig, 4)
    rig.control.refund(rig.control.register(past[0])[0])
    moved = rig.control.truth(RACE)["events"][past[0]]["active"][0]["registration_id"]
    unreadable(rig, past[2:], "error", None, code=3)
    transfer = {"name": "transfer", "registration_id": moved, "to_event_id": past[1]}
    rig.control.fault("before", match={"endpoint": "removed_participants"}, changes=[transfer])
    done = await rig.backfill()
    assert done.states == {"partial": 1}
    row = await rig.past()
    assert (row["event_ids"], row["unread_event_ids"]) == (past[:2], past[2:])
    for event in past[:2]:
        assert str(event) not in row["reason"]
    await rig.assert_truth(events=past[:2])
    await rig.backfill()
    assert rig.endpoints() == {"races": 1}


async def test_a_race_record_that_cannot_be_read_fails_that_race_alone(rig: Rig) -> None:
    add_years(rig, 1)
    other = add_race(rig)
    rig.control.fault("html", match={"endpoint": "race", "race_id": RACE}, times=None)
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (done.exit_status, done.states) == (1, {"failed": 1, "done": 1})
    await rig.assert_truth(other)
    rig.control.clear_faults()
    assert (await rig.backfill()).states == {"done": 1}


# -- bad records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["not_object", "no_registration_id", "zero_id", "no_user"])
async def test_rule_7_a_bad_record_is_set_aside_and_the_rest_is_stored(rig: Rig, what: str) -> None:
    past = add_years(rig, 2, runners=4)
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=[what], mode="insert")
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (1, {"partial": 1})
    await rig.assert_truth(events=past)
    row = await rig.past()
    assert (row["state"], row["reason"], row["quarantined"]) == ("partial", "1 records quarantined", 1)
    assert (row["rows_received"], row["rows_inserted"]) == (9, 8)
    (set_aside,) = await rig.rows("select * from runsignup_quarantine")
    assert (set_aside["race_id"], set_aside["endpoint"], set_aside["resolved_at"]) == (RACE, "participants", None)
    await rig.backfill()
    assert rig.endpoints() == {"races": 1}
    done = await rig.backfill(retry=True)
    assert done.states == {"done": 1}


async def test_rule_7_a_stored_row_whose_newer_version_is_bad_stays(rig: Rig) -> None:
    past = add_years(rig, 1, runners=4)
    await rig.backfill()
    rows = await rig.written()
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["no_user"])
    await rig.backfill(restart=True)
    assert await rig.written() == rows
    assert (await rig.past())["state"] == "partial"
    await rig.backfill(retry=True)
    assert (await rig.one("select resolved_at from runsignup_quarantine"))["resolved_at"] is not None
    assert (await rig.past())["state"] == "done"
    await rig.assert_truth(events=past)


async def test_rule_7_misfit_fields_and_what_postgresql_refuses(rig: Rig) -> None:
    add_years(rig, 1, runners=4)
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["misfit", "unstorable"], mode="replace")
    done = await rig.backfill()
    assert done.states == {"done": 1}
    errors = await rig.rows("select field_errors from runsignup_participants where field_errors <> '{}'")
    assert len(errors) >= 1


async def test_bad_records_of_the_race_list(rig: Rig) -> None:
    past = add_years(rig, 2)
    rig.control.fault("bad_rows", match={"endpoint": "races"}, rows=["no race"], mode="insert")
    done = await rig.backfill()
    assert (done.exit_status, done.states) == (1, {"done": 1})
    assert done.partners[0].errors == ["1 records of the race list quarantined"]
    await rig.assert_truth(events=past)
    await rig.sync()  # its list is another one, and says nothing of this record
    assert (await rig.one("select resolved_at from runsignup_quarantine"))["resolved_at"] is None
    rig.control.clock(advance=2 * MINUTE)
    add_years(rig, 1)
    assert (await rig.backfill()).exit_status == 0
    assert (await rig.one("select resolved_at from runsignup_quarantine"))["resolved_at"] is not None


# -- partial stays partial ---------------------------------------------------------------------------------------------


async def test_what_could_not_be_read_stays_said_when_the_race_is_looked_at_again(rig: Rig) -> None:
    past = add_years(rig, 2)
    unreadable(rig, past[1:], "error", code=3)
    await rig.backfill()
    reason = (await rig.past())["reason"]
    rig.control.clock(advance=2 * MINUTE)
    older = rig.control.add_event(RACE, "Found in a drawer", in_days=-2000)
    rig.control.register(older, 2)
    done = await rig.backfill()
    assert done.states == {"partial": 1}
    row = await rig.past()
    assert (row["reason"], row["unread_event_ids"]) == (reason, past[1:])
    await rig.assert_truth(events=[past[0], older])


async def test_what_could_not_be_read_stays_said_over_a_wait(rig: Rig) -> None:
    past = add_years(rig, 2)
    unreadable(rig, past[1:], "error", code=3)
    await rig.backfill()
    rig.control.clock(advance=2 * MINUTE)
    older = rig.control.add_event(RACE, "Found in a drawer", in_days=-2000)
    rig.control.register(older, 2)
    rig.control.fault("http", status=429, retry_after=60, match={"endpoint": "removed_participants"})
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert done.states == {"partial": 1}
    row = await rig.past()
    assert (row["state"], row["unread_event_ids"]) == ("partial", past[1:])
    assert str(past[1]) in row["reason"]


async def test_what_could_not_be_read_stays_said_after_a_failure(rig: Rig) -> None:
    past = add_years(rig, 2)
    unreadable(rig, past[1:], "error", code=3)
    await rig.backfill()
    rig.control.clock(advance=2 * MINUTE)
    older = rig.control.add_event(RACE, "Found in a drawer", in_days=-2000)
    rig.control.register(older, 2)
    rig.control.fault("html", match={"endpoint": "race"}, times=None)
    clock = Clock(rig)
    assert (await rig.backfill(now=clock.now, sleep=clock.sleep)).states == {"failed": 1}
    rig.control.clear_faults()
    done = await rig.backfill()
    assert done.states == {"partial": 1}
    row = await rig.past()
    assert (row["state"], row["unread_event_ids"]) == ("partial", past[1:])
    assert str(past[1]) in row["reason"]


# -- RunSignup is away for a moment ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "parameters"), [("html", {}), ("http", {"status": 503}), ("reset", {})])
@pytest.mark.parametrize("calls", [3, 8])
async def test_a_maintenance_in_mid_race_takes_no_year_for_unreadable(
    rig: Rig, kind: str, parameters: dict[str, Any], calls: int
) -> None:
    past = add_years(rig, 5, runners=600)
    rig.control.fault("clamp", match={"endpoint": "participants"}, times=None, rows=500)
    # The list, the record, all at once, the newest in two pages: then nothing answers for so many calls.
    rig.control.fault(kind, skip=5, times=calls, **parameters)
    clock = Clock(rig)
    done = await rig.backfill(now=clock.now, sleep=clock.sleep)
    assert (done.exit_status, done.states) == (0, {"done": 1})
    row = await rig.past()
    assert (row["state"], row["unread_event_ids"]) == ("done", [])
    await rig.assert_truth(events=past)
    await assert_adds_up(rig)


async def test_retry_asks_again_for_a_removed_list_beside_a_year_that_was_refused(rig: Rig) -> None:
    past = add_years(rig, 4)
    rig.control.refund(rig.control.register(past[1])[0])
    unreadable(rig, past[1:2], "error", "removed_participants", code=3)
    unreadable(rig, past[3:], "error", code=3)
    assert (await rig.backfill()).states == {"partial": 1}
    rig.control.clear_faults()
    assert (await rig.backfill(retry=True)).states == {"done": 1}
    await rig.assert_truth(events=past)
