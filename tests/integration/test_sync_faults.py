"""What goes wrong with RunSignup or the database: what is tried again, what is cured, what stays as it was."""

from __future__ import annotations

from typing import Any

import pytest

from startlist.store.database import Database
from startlist.sync.plan import Options
from startlist.sync.progress import Progress
from startlist.sync.run import run
from tests.support import MakeSettings, terminate
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig

HOUR = 3600
BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("truncate", {}),
    ("html", {}),
    ("wrong_shape", {"value": {"participants": "none"}}),
    ("wrong_shape", {"value": None}),
    ("wrong_shape", {"value": "sorry"}),
    ("wrong_shape", {"value": [1, 2]}),
    ("http", {"status": 204, "body": ""}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [("error", {"code": 3}), ("error", {"code": 9})]


async def add_race(rig: Rig, runners: int = 3) -> int:
    """One more race, so that there is another one beside the one that fails."""
    race: int = rig.control.add_race("The other race")
    rig.control.register(rig.control.add_event(race, in_days=30), runners)
    return race


# -- rule 5: the fallback ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "parameters"), [*BROKEN, *REFUSED])
async def test_rule_5_an_incremental_pass_falls_back(rig: Rig, kind: str, parameters: dict[str, Any]) -> None:
    await rig.sync()
    watermark = (await rig.cursor())["participants_watermark"]
    rig.control.clock(advance=HOUR)
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.edit(PERSON + 1, silent=True, last_name="In silence")
    attempts = 1 if kind == "error" else 3
    rig.control.fault(kind, match={"endpoint": "participants", "incremental": True}, times=attempts, **parameters)
    done = await rig.sync()
    assert done.exit_status == 0
    assert rig.endpoints() == {"races": 1, "participants": attempts + 1, "removed_participants": 1}
    await rig.assert_truth()
    (kind, status, reason) = (await rig.passes())[1]
    assert (kind, status) == ("full_fallback", "completed")
    assert reason
    assert (await rig.last_pass())["api_calls"] == attempts + 2
    assert (await rig.cursor())["participants_watermark"] > watermark


async def test_rule_5_a_fallback_is_followed_by_full_passes_for_an_hour(rig: Rig) -> None:
    await rig.sync()
    rig.control.fault("error", code=3, match={"incremental": True})
    await rig.sync()
    assert (await rig.last_pass())["reason"] == "RunSignup reports error 3: invalid parameters"
    kinds = []
    for minutes in (0, 55, 10):
        await rig.pass_time(minutes * 60)
        await rig.sync()
        kinds.append((await rig.last_pass())["sync_type"])
    assert kinds == ["full", "full", "incremental"]


async def test_rule_5_the_removed_list_falls_back_too(rig: Rig) -> None:
    await rig.sync()
    rig.control.refund(PERSON)
    rig.control.fault("truncate", match={"endpoint": "removed_participants", "incremental": True}, times=3)
    done = await rig.sync()
    assert done.exit_status == 0
    assert rig.endpoints() == {"races": 1, "participants": 2, "removed_participants": 4}
    assert (await rig.last_pass())["sync_type"] == "full_fallback"
    await rig.assert_truth()


@pytest.mark.parametrize(("kind", "parameters"), BROKEN[:3])
async def test_rule_5_a_broken_answer_is_asked_for_again(rig: Rig, kind: str, parameters: dict[str, Any]) -> None:
    await rig.sync()
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.fault(kind, match={"endpoint": "participants"}, times=2, **parameters)
    done = await rig.sync()
    assert done.exit_status == 0
    assert len(rig.asked("participants")) == 3
    assert (await rig.last_pass())["sync_type"] == "incremental"
    await rig.assert_truth()


@pytest.mark.parametrize(("kind", "parameters"), [*BROKEN[:3], REFUSED[0]])
async def test_rule_5_when_the_fallback_fails_too_nothing_is_touched(
    rig: Rig, kind: str, parameters: dict[str, Any]
) -> None:
    await rig.sync()
    before, rows = await rig.cursor(), await rig.written()
    rig.control.clock(advance=HOUR)
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.fault(kind, match={"endpoint": "participants"}, times=None, **parameters)
    done = await rig.sync()
    assert (done.status, done.exit_status) == ("failed", 1)
    assert len(rig.asked("participants")) == (2 if kind == "error" else 6)
    last = await rig.last_pass()
    assert (last["sync_type"], last["status"]) == ("full_fallback", "failed")
    assert last["error_message"]
    assert await rig.written() == rows
    after = await rig.cursor()
    for name in ("participants_watermark", "removed_watermark", "last_full_at", "event_ids", "checkpoint"):
        assert after[name] == before[name]
    rig.control.clear_faults()
    await rig.sync()
    await rig.assert_truth()


@pytest.mark.parametrize(("kind", "parameters"), [BROKEN[0], BROKEN[3], REFUSED[1]])
async def test_a_full_pass_has_nothing_to_fall_back_to(rig: Rig, kind: str, parameters: dict[str, Any]) -> None:
    rig.control.fault(kind, match={"endpoint": "participants"}, times=None, **parameters)
    done = await rig.sync()
    assert done.exit_status == 1
    assert len(rig.asked("participants")) == (1 if kind == "error" else 3)
    (only,) = await rig.passes()
    assert only[:2] == ("full", "failed")
    assert await rig.count("runsignup_participants") == 0


@pytest.mark.parametrize(
    ("kind", "parameters", "calls", "code"),
    [
        ("http", {"status": 503}, 3, None),
        ("error", {"code": 4}, 3, 4),
        ("error", {"code": 5}, 3, 5),
        ("reset", {}, 3, None),
        ("cut", {}, 3, None),
        ("error", {"code": 7}, 1, 7),
        ("error", {"code": 15}, 1, 15),
        ("error", {"code": 999}, 1, 999),
        ("http", {"status": 302, "location": "http://127.0.0.1:1/"}, 1, None),
        ("http", {"status": 404}, 1, None),
    ],
)
async def test_rule_5_trap_40_what_a_full_pass_would_not_cure(
    rig: Rig, kind: str, parameters: dict[str, Any], calls: int, code: int | None
) -> None:
    await rig.sync()
    rows, before = await rig.written(), await rig.cursor()
    rig.control.clock(advance=HOUR)
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.fault(kind, match={"endpoint": "participants"}, times=None, **parameters)
    done = await rig.sync()
    assert done.exit_status == 1
    assert rig.endpoints() == {"races": 1, "participants": calls}
    last = await rig.last_pass()
    assert (last["sync_type"], last["status"], last["error_code"]) == ("incremental", "failed", code)
    assert last["error_message"]
    assert last["api_calls"] == calls
    assert await rig.written() == rows
    assert (await rig.cursor())["participants_watermark"] == before["participants_watermark"]


@pytest.mark.parametrize(
    ("kind", "parameters"), [("http", {"status": 503}), ("error", {"code": 5}), ("reset", {}), ("cut", {})]
)
async def test_what_fails_once_is_tried_again(rig: Rig, kind: str, parameters: dict[str, Any]) -> None:
    for endpoint in ("races", "race", "participants", "removed_participants"):
        rig.control.fault(kind, match={"endpoint": endpoint}, times=2, **parameters)
    done = await rig.sync()
    assert done.exit_status == 0
    assert set(rig.endpoints().values()) == {3}
    await rig.assert_truth()


# -- rule 10: one race, one partner ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [3, 4, 7, 201, 301, 999])
async def test_rule_10_a_failed_race_never_stops_the_others(rig: Rig, code: int) -> None:
    other = await add_race(rig)
    await rig.sync()
    rig.control.register(rig.control.truth(other)["race"]["events"][0]["event_id"])
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.fault("error", code=code, match={"endpoint": "participants", "race_id": RACE}, times=None)
    done = await rig.sync()
    assert (done.status, done.exit_status) == ("failed", 1)
    (failed,) = done.failed_syncs()
    assert (failed["timing_partner_id"], failed["race_id"]) == (1, RACE)
    assert str(code) in failed["error"]
    await rig.assert_truth(other)
    assert {race["race_id"]: race["status"] for race in done.to_json()["partners"][0]["races"]} == {
        RACE: "failed", other: "completed"
    }  # fmt: skip


async def test_rule_10_a_failed_partner_never_stops_the_others(rig: Rig) -> None:
    rig.control.add_partner("Chip & Go")
    race = rig.control.add_race("Theirs", keys=["Chip & Go"])
    rig.control.register(rig.control.add_event(race), 3)
    await rig.adopt()
    rig.control.fault("html", match={"endpoint": "races", "key": "Peak Timing"}, times=None)
    done = await rig.sync()
    assert done.exit_status == 1
    (failed,) = done.failed_syncs()
    assert (failed["timing_partner_id"], failed["race_id"]) == (1, None)
    assert "the race list could not be read" in failed["error"]
    await rig.assert_truth(race, partner=2)
    assert done.to_json()["timing_partners_synced"] == 1


async def test_rule_2_201_alone_says_that_a_race_is_gone(rig: Rig) -> None:
    other = await add_race(rig)
    await rig.sync()
    rig.control.unshare(other, "Peak Timing")
    await rig.sync()
    assert (await gone(rig))[other] is False  # leaving the list means nothing
    assert other in {call["race_id"] for call in rig.calls}
    rig.control.share(other, "Peak Timing")
    rig.control.delete_race(other)
    done = await rig.sync()
    assert done.exit_status == 1
    assert (await rig.last_pass(other))["error_code"] == 201
    assert (await gone(rig))[other] is True
    assert await rig.count("start_list") == 15
    assert (await rig.sync()).exit_status == 0
    assert other not in {call["race_id"] for call in rig.calls}
    rig.control.undelete_race(other)
    await rig.sync()
    assert (await gone(rig))[other] is False
    await rig.assert_truth(other)


async def gone(rig: Rig, table: str = "race") -> dict[int, bool]:
    rows = await rig.rows(f"select {table}_id as id, gone_at is not null as gone from runsignup_{table}s")
    return {row["id"]: row["gone"] for row in rows}


async def test_rule_10_an_event_that_is_gone_is_left_out(rig: Rig) -> None:
    rig.control.register(SECOND, 4)
    await rig.sync()
    rig.control.remove_event(SECOND)
    rig.control.edit(PERSON, last_name="Edited")
    done = await rig.sync()
    assert done.exit_status == 0
    assert len(rig.asked("participants")) == 2
    assert [call["event_ids"] for call in rig.asked("participants")] == [[FIRST, SECOND], [FIRST]]
    assert "future_events_only" not in rig.asked("race")[-1]["params"]
    assert await gone(rig, "event") == {FIRST: False, SECOND: True}
    assert await rig.count("start_list") == 16
    assert (await rig.last_pass())["event_ids"] == [FIRST]
    await rig.sync()
    assert [call["event_ids"] for call in rig.asked("participants")] == [[FIRST]]
    rig.control.restore_event(SECOND)
    rig.control.register(SECOND)
    await rig.sync()
    assert await gone(rig, "event") == {FIRST: False, SECOND: False}
    await rig.assert_truth()


async def test_rule_10_an_event_that_goes_after_the_list_was_read(rig: Rig) -> None:
    rig.control.register(SECOND, 4)
    await rig.sync()
    leave = [{"name": "remove_event", "event_id": SECOND}]
    rig.control.fault("before", match={"endpoint": "participants"}, changes=leave)
    rig.control.edit(PERSON, last_name="Edited")
    assert (await rig.sync()).exit_status == 0
    assert await gone(rig, "event") == {FIRST: False, SECOND: True}
    assert (await rig.registration(PERSON))["last_name"] == "Edited"
    assert (await rig.cursor())["event_ids"] == [FIRST]


async def test_rule_10_all_events_gone(rig: Rig) -> None:
    await rig.sync()
    rig.control.remove_event(FIRST)
    rig.control.remove_event(SECOND)
    await rig.sync()
    assert await gone(rig, "event") == {FIRST: True, SECOND: True}
    assert await gone(rig) == {RACE: False}
    assert await rig.count("start_list") == 12
    await rig.sync()
    assert "participants" not in rig.endpoints()


async def test_rule_10_301_although_the_race_still_has_the_event(rig: Rig) -> None:
    await rig.sync()
    rig.control.fault("error", code=301, match={"endpoint": "participants"})
    assert (await rig.sync()).exit_status == 0
    assert await gone(rig, "event") == {FIRST: False, SECOND: False}
    rig.control.fault("error", code=301, match={"endpoint": "participants"}, times=None)
    done = await rig.sync()
    assert done.exit_status == 1
    assert rig.endpoints() == {"races": 1, "race": 1, "participants": 2}
    assert (await rig.last_pass())["error_code"] == 301
    assert await gone(rig, "event") == {FIRST: False, SECOND: False}


async def test_rule_10_code_17_stops_everything(rig: Rig) -> None:
    await add_race(rig)
    await rig.sync()
    rig.control.fault("error", code=17, match={"endpoint": "participants"}, times=None)
    done = await rig.sync()
    assert done.exit_status == 2
    assert "caller registration" in str(done.error)
    assert len(rig.asked("participants")) <= 2
    assert (await rig.one("select status from sync_runs order by run_id desc limit 1"))["status"] == "failed"


async def test_rule_10_an_unknown_caller_registration(database: Database, make_settings: MakeSettings) -> None:
    async with Rig.open(database, make_settings) as rig:
        rig.settings = make_settings(
            api_url=rig.sandbox.url, api_registration="9.unknown", api_registration_secret="hush"
        )
        done = await rig.sync()
        assert done.exit_status == 2
        assert rig.endpoints() == {"races": 1}
        assert "hush" not in str(done.error)
        registration, secret = rig.control.registration()
        rig.control.settings(registration_required=True)
        rig.settings = make_settings(
            api_url=rig.sandbox.url, api_registration=registration, api_registration_secret=secret
        )
        assert (await rig.sync()).exit_status == 0
        rig.settings = make_settings(api_url=rig.sandbox.url)
        assert (await rig.sync()).exit_status == 2


async def test_the_races_own_record_cannot_be_read(rig: Rig) -> None:
    rig.control.fault("html", match={"endpoint": "race"}, times=None)
    done = await rig.sync()
    assert done.exit_status == 1
    assert (await rig.passes())[0][:2] == ("full", "failed")
    rig.control.clear_faults()
    await rig.sync()
    rig.control.clock(advance=120)
    rig.control.edit_race(RACE, name="Renamed")
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.fault("html", match={"endpoint": "race"}, times=None)
    done = await rig.sync()
    assert done.status == "partial"
    await rig.assert_truth()  # its runners are synced all the same
    rig.control.clear_faults()
    done = await rig.sync()
    assert done.exit_status == 0
    assert len(rig.asked("race")) == 1
    assert (await rig.one("select name from runsignup_races"))["name"] == "Renamed"


async def test_records_of_the_race_list_that_cannot_be_stored(rig: Rig) -> None:
    rig.control.fault("bad_rows", match={"endpoint": "races"}, mode="insert", rows=["no race", {"race": {"name": "X"}}])
    done = await rig.sync()
    assert done.exit_status == 1
    await rig.assert_truth()
    kept = await rig.rows("select endpoint, race_id, raw, resolved_at from runsignup_quarantine order by quarantine_id")
    assert [(row["endpoint"], row["race_id"], row["resolved_at"]) for row in kept] == [("races", None, None)] * 2
    assert (await rig.sync()).exit_status == 0
    assert await rig.rows("select * from runsignup_quarantine where resolved_at is null") == []


# -- pages that repeat, shift, or never come ---------------------------------------------------------------------------


async def pages(rig: Rig, runners: int = 1300) -> list[int]:
    """One event, three pages of five hundred at most."""
    rig.control.remove_event(SECOND)
    rig.control.fault("clamp", rows=500, times=None)
    found: list[int] = rig.control.register(FIRST, runners)
    return found


async def test_trap_16_a_server_that_ignores_the_cursor(rig: Rig) -> None:
    await pages(rig)
    rig.control.fault("ignore_cursor", times=None)
    done = await rig.sync()
    assert done.exit_status == 1
    assert len(rig.asked("participants")) == 2
    assert "ignores the cursor" in done.failed_syncs()[0]["error"]
    assert (await rig.cursor())["participants_watermark"] is None


async def test_trap_16_page_two_fails_for_ever(rig: Rig) -> None:
    await pages(rig)
    rig.control.fault("error", code=4, match={"page_after": True}, times=None)
    for _ in range(2):
        assert (await rig.sync()).exit_status == 1
        assert len(rig.asked("participants")) <= 4
    assert (await rig.cursor())["participants_watermark"] is None


async def test_trap_09_page_two_fails_once(rig: Rig) -> None:
    await pages(rig, 10)
    await rig.sync()
    rig.control.clock(advance=HOUR)
    rig.control.register(FIRST, 1100)
    before = (await rig.cursor())["participants_watermark"]
    rig.control.fault("http", status=503, match={"page_after": True}, times=3)
    assert (await rig.sync()).exit_status == 1
    assert (await rig.cursor())["participants_watermark"] == before
    assert (await rig.sync()).exit_status == 0
    await rig.assert_truth()


async def test_rule_4_a_resumed_pass_goes_on_where_it_stood(rig: Rig) -> None:
    await pages(rig)
    second = int(rig.control.clock(freeze=True))
    rig.control.fault("reset", match={"page_after": True}, skip=1, times=3)
    await rig.sync()
    assert (await rig.last_pass())["rows_received"] == 1000
    checkpoint = (await rig.cursor())["checkpoint"]
    assert (checkpoint["kind"], checkpoint["feed"], checkpoint["position"]["after"]) == (
        "full", "participants", PERSON + 999
    )  # fmt: skip
    rig.control.clock(advance=HOUR)
    done = await rig.sync()
    assert done.exit_status == 0
    assert rig.endpoints() == {"races": 1, "participants": 1, "removed_participants": 1}
    assert rig.asked("participants")[0]["params"]["after_registration_id"] == str(PERSON + 999)
    cursor = await rig.cursor()
    assert cursor["participants_watermark"] in (second - 1, second - 2)  # of the first page, an hour ago
    assert cursor["removed_watermark"] >= second + HOUR - 2
    assert cursor["checkpoint"] is None
    assert await rig.changes() == []  # still the event's first full pass
    await rig.assert_truth()


async def test_rule_4_a_pass_that_failed_between_the_feeds(rig: Rig) -> None:
    await rig.sync()
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.refund(PERSON + 1)
    rig.control.fault("reset", match={"endpoint": "removed_participants"}, times=3)
    assert (await rig.sync()).exit_status == 1
    assert (await rig.registration(PERSON))["last_name"] == "Edited"
    await rig.sync()
    assert rig.endpoints() == {"races": 1, "removed_participants": 1}
    await rig.assert_truth()


@pytest.mark.parametrize("what", ["forced", "a day later", "other events", "another kind"])
async def test_rule_4_when_a_checkpoint_does_not_count(rig: Rig, what: str) -> None:
    await rig.sync()
    rig.control.fault("reset", match={"endpoint": "removed_participants"}, times=3)
    await rig.sync()
    assert (await rig.cursor())["checkpoint"]["kind"] == "incremental"
    if what == "a day later":
        await rig.conn.execute(
            "update sync_cursors set checkpoint = jsonb_set(checkpoint, '{begun}',"
            " to_jsonb((checkpoint ->> 'begun')::timestamptz - interval '24 hours'))"
        )
    elif what == "other events":
        rig.control.edit_event(SECOND, start_time="1/1/2020 08:00", silent=True)
    elif what == "another kind":
        await rig.pass_time(8 * 24 * HOUR)
    rig.control.register(FIRST)
    await rig.sync(force_full=what == "forced")
    assert len(rig.asked("participants")) == 1
    assert rig.asked("participants")[0]["params"].get("after_registration_id") is None
    assert (await rig.last_pass())["status"] == "completed"
    await rig.assert_truth()


@pytest.mark.parametrize(("kind", "parameters"), [("error", {"code": 7}), ("error", {"code": 15}), ("html", {})])
async def test_rule_4_any_other_failure_clears_the_checkpoint(rig: Rig, kind: str, parameters: dict[str, Any]) -> None:
    await pages(rig)
    rig.control.fault(kind, match={"page_after": True}, times=3, **parameters)
    await rig.sync()
    assert (await rig.cursor())["checkpoint"] is None
    rig.control.clear_faults()
    await rig.sync(force_full=True)
    await rig.assert_truth()


async def test_rule_4_a_pass_without_a_full_end_is_full_again(rig: Rig) -> None:
    """A first pass that broke off has no watermark: nothing may go on from it incrementally."""
    await pages(rig)
    rig.control.fault("html", match={"page_after": True}, times=3)
    await rig.sync()
    rig.control.clear_faults()
    await rig.sync()
    assert (await rig.last_pass())["reason"] == "never synced"
    assert await rig.changes() == []


async def test_the_same_row_twice_on_a_page(rig: Rig) -> None:
    rig.control.fault("duplicate_rows", rows=3, times=None)
    await rig.sync()
    figures = await rig.last_pass()
    assert (figures["rows_received"], figures["rows_inserted"], figures["rows_unchanged"]) == (15, 12, 3)
    rig.control.edit(PERSON, last_name="Edited")
    await rig.sync()
    assert await rig.changes() == [("updated", PERSON)]
    await rig.assert_truth()


async def test_rows_that_come_while_pages_are_read(rig: Rig) -> None:
    await pages(rig)
    more = [{"name": "register", "event_id": FIRST, "count": 700}]
    rig.control.fault("then", match={"endpoint": "participants"}, changes=more)
    await rig.sync()
    await rig.assert_truth()


# -- the database ------------------------------------------------------------------------------------------------------


class Breaking(Progress):
    """Ends the pass's connection after so many pages, as a lost server does."""

    def __init__(self, rig: Rig, after: int) -> None:
        self.rig = rig
        self.left = after

    def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
        self.left -= 1
        if not self.left:
            terminate(self.rig.database.conninfo, "startlist pass%")


@pytest.mark.parametrize("after", [1, 2])
async def test_a_database_lost_in_mid_pass(rig: Rig, after: int) -> None:
    await pages(rig)
    rig.control.reset_log()
    async with rig.context(progress=Breaking(rig, after)) as context:
        done = await run(context, Options())
    assert done.exit_status == 1
    assert done.error is not None
    assert await rig.count("runsignup_participants") == 500 * after
    assert (await rig.sync()).exit_status == 0
    assert len(rig.asked("participants")) == 3 - after
    await rig.assert_truth()
    interrupted = await rig.rows("select status, error_message from sync_history where status = 'failed'")
    assert interrupted == [{"status": "failed", "error_message": "interrupted"}]


async def test_a_row_that_the_database_refuses_fails_its_race_alone(rig: Rig) -> None:
    other = await add_race(rig)
    await rig.sync()
    await rig.conn.execute("alter table runsignup_participants add constraint no_boom check (last_name <> 'Boom-4711')")
    rig.control.edit(PERSON, last_name="Boom-4711")
    rig.control.edit(PERSON + 1, last_name="Fine")
    (more,) = rig.control.register(rig.control.truth(other)["race"]["events"][0]["event_id"])
    done = await rig.sync()
    assert done.exit_status == 1
    message = (await rig.last_pass())["error_message"]
    assert "no_boom" in message
    assert "Boom-4711" not in message  # what PostgreSQL calls DETAIL quotes rows
    assert await rig.changes() == [("added", more)]  # the page was rolled back as a whole
    await rig.assert_truth(other)
    await rig.conn.execute("alter table runsignup_participants drop constraint no_boom")
    await rig.sync()
    await rig.assert_truth()
