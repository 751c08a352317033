"""What a sync asks RunSignup, call by call, against the sandbox's log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.syncing import FIRST, RACE, SECOND, Rig

TWO_PER_RACE = {"participants": 1, "removed_participants": 1}


async def test_a_sync_costs_the_list_and_two_calls_a_race(rig: Rig) -> None:
    races = [RACE, *(rig.control.add_race(f"Run {n}") for n in range(4))]
    for race in races[1:]:
        rig.control.register(rig.control.add_event(race, in_days=40), 3)
        rig.control.add_event(race, "10K", in_days=40)
    await rig.sync()
    assert rig.endpoints() == {"races": 1, "race": 5, "participants": 5, "removed_participants": 5}
    await rig.sync()
    assert rig.endpoints() == {"races": 1, "participants": 5, "removed_participants": 5}
    await rig.sync(force_full=True)
    assert rig.endpoints() == {"races": 1, "participants": 5, "removed_participants": 5}
    rig.control.clock(advance=60)
    rig.control.edit_race(races[2], name="Another name")
    await rig.sync()
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 5, "removed_participants": 5}
    assert [call["race_id"] for call in rig.asked("race")] == [races[2]]
    await rig.sync(race_id=races[3])
    assert rig.endpoints() == {"races": 1, "participants": 1, "removed_participants": 1}
    assert {call["race_id"] for call in rig.calls[1:]} == {races[3]}


@pytest.mark.parametrize(
    ("first", "second", "calls"),
    [
        (12, 0, 1),  # the first answer over both is the last
        (499, 2, 1),
        (500, 7, 1 + 2 + 1),  # both, then each alone, and the round one once more
        (300, 200, 1 + 1 + 1),  # round only together
        (12, 500, 1 + 1 + 2),
        (500, 500, 1 + 2 + 2),
        (0, 500, 1 + 1 + 2),
    ],
)
async def test_rule_2_multiples_of_500_over_several_events(rig: Rig, first: int, second: int, calls: int) -> None:
    rig.control.vanish(event_id=FIRST)
    if first:
        rig.control.register(FIRST, first)
    if second:
        rig.control.register(SECOND, second)
    for forced in (False, True, False):
        await rig.sync(force_full=forced)
        assert len(rig.asked("participants")) == calls
        assert len(rig.asked("removed_participants")) == 1
        await rig.assert_truth()
    await rig.pass_time(3600)
    rig.control.clock(advance=3600)
    await rig.sync()  # its answer holds the changes since, and none is recent by now
    await rig.sync()
    assert rig.endpoints() == {"races": 1, **TWO_PER_RACE}


@pytest.mark.parametrize(("rows", "calls"), [(499, 1), (500, 2), (501, 1), (2000, 2), (2500, 2), (2501, 2)])
async def test_trap_17_multiples_of_500_of_one_event(rig: Rig, rows: int, calls: int) -> None:
    rig.control.vanish(event_id=FIRST)
    rig.control.remove_event(SECOND)
    rig.control.register(FIRST, rows)
    done = await rig.sync()
    assert done.exit_status == 0
    assert len(rig.asked("participants")) == calls
    assert await rig.count("start_list") == rows
    assert done.partners[0].figures.rows_received == rows


async def test_rule_2_over_several_events_each_is_read_alone_from_the_start(rig: Rig) -> None:
    rig.control.vanish(event_id=FIRST)
    rig.control.register(FIRST, 500)
    rig.control.register(SECOND, 3)
    await rig.sync()
    pages = [(call["event_ids"], call["params"].get("after_registration_id")) for call in rig.asked("participants")]
    largest = str(max(row["registration_id"] for row in rig.control.truth(RACE)["events"][FIRST]["active"]))
    assert pages == [([FIRST, SECOND], None), ([FIRST], None), ([FIRST], largest), ([SECOND], None)]
    figures = await rig.last_pass()
    assert (figures["rows_received"], figures["rows_inserted"], figures["rows_unchanged"]) == (1006, 503, 503)
    await rig.assert_truth()


async def test_rule_2_the_removed_list_follows_the_same_rule(rig: Rig) -> None:
    for registration in rig.control.register(FIRST, 500):
        rig.control.refund(registration)
    await rig.sync()
    assert len(rig.asked("removed_participants")) == 4
    assert {call["params"]["results_per_page"] for call in rig.asked("removed_participants")} == {"1000"}
    await rig.assert_truth()


@pytest.mark.parametrize("rows", [500, 1000])
async def test_trap_15_a_server_that_hands_out_fewer_rows_than_asked(rig: Rig, rows: int) -> None:
    rig.control.register(FIRST, 1400)
    rig.control.register(SECOND, 30)
    rig.control.fault("clamp", rows=rows, times=None)
    await rig.sync()
    await rig.assert_truth()
    assert (await rig.cursor())["participants_watermark"] is not None


async def test_both_ways_to_count_a_page_over_several_events(rig: Rig) -> None:
    rig.control.settings(paging="per_event")
    rig.control.register(FIRST, 2600)
    rig.control.register(SECOND, 40)
    await rig.sync()
    await rig.assert_truth()


async def test_trap_34_33_25_32_what_every_question_says(rig: Rig) -> None:
    await rig.sync()
    (listed,), (record,) = rig.asked("races"), rig.asked("race")
    (active,), (removed,) = rig.asked("participants"), rig.asked("removed_participants")
    assert all(call["params"]["format"] == "json" for call in rig.calls)
    assert listed["params"].items() >= {"events": "T", "page": "1", "results_per_page": "1000"}.items()
    assert "start_date" in listed["params"]
    assert record["params"]["future_events_only"] == "T"
    assert active["event_ids"] == removed["event_ids"] == [FIRST, SECOND]
    flags = {name for name, value in active["params"].items() if value == "T"}
    assert flags == {
        "supports_nb", "include_questions", "include_registration_addons", "include_corrals",
        "include_user_anonymous_flag",
    }  # fmt: skip
    assert active["params"].items() >= {"sort": "registration_id ASC", "results_per_page": "2500"}.items()
    assert removed["params"].items() >= {"sort": "registration_id ASC", "supports_nb": "T"}.items()
    await rig.sync()
    for endpoint in ("participants", "removed_participants"):
        (call,) = rig.asked(endpoint)
        assert call["params"]["modified_after_timestamp"].isdigit()


async def test_rule_2_the_list_begins_eight_days_ago_or_earlier(rig: Rig) -> None:
    noon = datetime.now(UTC).replace(hour=17, minute=0)
    today = noon.astimezone(ZoneInfo("America/New_York")).date()
    await rig.sync(now=lambda: noon)
    assert rig.asked("races")[0]["params"]["start_date"] == str(today - timedelta(days=8))
    await rig.sync(now=lambda: noon, include_past_days=20)
    assert rig.asked("races")[0]["params"]["start_date"] == str(today - timedelta(days=20))


async def test_rule_2_the_list_is_read_page_by_page(rig: Rig) -> None:
    for number in range(1000):
        rig.control.add_race(f"Run {number}")
    planned, errors = await rig.plan()
    assert errors == []
    assert len(planned) == 1001
    assert [call["params"]["page"] for call in rig.calls] == ["1", "2"]


async def test_dry_run_asks_for_races_only_and_stores_nothing(rig: Rig) -> None:
    planned, errors = await rig.plan()
    assert errors == []
    assert rig.endpoints() == {"races": 1}
    (one,) = planned
    assert (one.race_id, one.sync_type, one.reason, one.record) == (RACE, "full", "never synced", "new race")
    assert (one.event_ids, one.calls) == ([FIRST, SECOND], 3)
    for table in ("runsignup_races", "runsignup_events", "runsignup_participants", "sync_history", "sync_cursors"):
        assert await rig.count(table) == 0
    await rig.sync()
    assert len(rig.calls) == 1 + one.calls
    (next_one,), _ = await rig.plan()
    assert (next_one.sync_type, next_one.record, next_one.calls) == ("incremental", None, 2)
    assert next_one.reason.startswith("changes since ")
    (forced,), _ = await rig.plan(force_full=True)
    assert (forced.sync_type, forced.reason) == ("full", "forced")


async def test_the_database_counts_every_call(rig: Rig) -> None:
    rig.control.fault("http", status=503, match={"endpoint": "participants"})
    await rig.sync()
    stored = await rig.rows("select * from api_calls order by call_id")
    names = {"removed_participants": "removed-participants"}
    assert [(row["endpoint"], row["race_id"], row["http_status"]) for row in stored] == [
        (names.get(call["endpoint"], call["endpoint"]), call["race_id"], call["http_status"]) for call in rig.calls
    ]
    assert [row["http_status"] for row in stored] == [200, 200, 503, 200, 200]
    assert [row["rows"] for row in stored] == [1, 1, None, 12, 0]
    assert (await rig.last_pass())["api_calls"] == 4
    run = await rig.one("select * from sync_runs")
    assert (run["command"], run["trigger"], run["status"]) == ("sync", "manual", "completed")
    assert {row["run_id"] for row in stored} == {run["run_id"]}
