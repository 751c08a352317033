"""Records: bad ones are set aside, misfit fields are kept beside, nothing that was sent is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig


async def quarantine(rig: Rig) -> list[dict[str, Any]]:
    return await rig.rows("select * from runsignup_quarantine order by quarantine_id")


# -- bad records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "says", "has_id"),
    [
        ("not_object", "not an object", False),
        ("null", "not an object", False),
        ("no_registration_id", "registration_id", False),
        ("zero_id", "registration_id", False),
        ("negative_id", "registration_id", False),
        ("no_user", "user", True),
    ],
)
async def test_trap_43_32_a_bad_record_is_set_aside_and_the_rest_stored(
    rig: Rig, what: str, says: str, has_id: bool
) -> None:
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=[what], index=2)
    done = await rig.sync()
    assert (done.status, done.exit_status) == ("partial", 1)
    (kept,) = await quarantine(rig)
    assert says in kept["reason"]
    assert (kept["endpoint"], kept["race_id"], kept["seen_count"]) == ("participants", RACE, 1)
    assert kept["registration_id"] == (PERSON + 2 if has_id else None)
    assert kept["sync_history_id"] == (await rig.last_pass())["sync_history_id"]
    assert kept["resolved_at"] is None
    figures = await rig.last_pass()
    assert (figures["rows_received"], figures["rows_inserted"], figures["quarantined"]) == (12, 11, 1)
    assert "1 records quarantined" in figures["error_message"]
    stored = {row["registration_id"] for row in await rig.rows("select registration_id from start_list")}
    assert stored == {PERSON + number for number in range(12)} - {PERSON + 2}
    assert (await rig.cursor())["participants_watermark"] is not None  # not held back by it
    await rig.sync(force_full=True)
    await rig.assert_truth()
    assert [row["resolved_at"] is not None for row in await quarantine(rig)] == [True]


async def test_rule_7_a_record_without_any_event(rig: Rig) -> None:
    rig.control.remove_event(SECOND)
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["no_event_id"])
    done = await rig.sync()
    assert done.status == "partial"
    (kept,) = await quarantine(rig)
    assert "event" in kept["reason"]
    assert kept["registration_id"] == PERSON
    assert await rig.count("start_list") == 11


async def test_rule_7_one_row_for_each_distinct_record(rig: Rig) -> None:
    bad = {"registration_id": 5, "event_id": FIRST, "user": None}
    rig.control.fault(
        "bad_rows", match={"endpoint": "participants"}, rows=[bad, {**bad, "age": 3}], mode="insert", times=2
    )
    await rig.sync()
    await rig.sync(force_full=True)
    first, second = await quarantine(rig)
    assert (first["seen_count"], second["seen_count"]) == (2, 2)
    assert json.loads(first["raw"]) == bad
    assert first["last_seen_at"] > first["first_seen_at"]
    assert await rig.count("start_list") == 12


async def test_rule_7_as_sent_to_the_byte(rig: Rig) -> None:
    odd = {"registration_id": 0, "user": {"last_name": "A\u0000B \ud800 é/"}, "n": 1.50}
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, rows=[odd], mode="insert")
    await rig.sync()
    (kept,) = await quarantine(rig)
    assert json.loads(kept["raw"]) == odd
    assert "\\/" in kept["raw"]
    assert "\\u0000" in kept["raw"]


async def test_rule_7_a_stored_row_whose_newer_version_is_bad_stays(rig: Rig) -> None:
    await rig.sync()
    before = await rig.registration(PERSON)
    rig.control.edit(PERSON, last_name="Newer")
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["no_user"], times=2)
    done = await rig.sync()
    assert done.status == "partial"
    assert await rig.registration(PERSON) == before
    (kept,) = await quarantine(rig)
    assert (kept["registration_id"], kept["resolved_at"]) == (PERSON, None)
    full = await rig.sync(force_full=True)  # bad again: quarantined ones count as present
    assert full.status == "partial"
    assert await rig.registration(PERSON) == before
    assert await rig.changes() == []
    rig.control.edit(PERSON)
    await rig.sync()
    assert (await rig.registration(PERSON))["last_name"] == "Newer"
    assert await rig.rows("select * from runsignup_quarantine where resolved_at is null") == []


async def test_rule_7_an_incremental_pass_that_sees_no_bad_record_is_complete(rig: Rig) -> None:
    rig.control.edit(PERSON, last_modified=1)
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["no_user"])
    assert (await rig.sync()).status == "partial"
    assert (await rig.sync()).status == "completed"
    assert [row["resolved_at"] for row in await quarantine(rig)] == [None]  # nobody has seen it well yet


async def test_a_bad_removed_record(rig: Rig) -> None:
    await rig.sync()
    rig.control.refund(PERSON)
    rig.control.refund(PERSON + 1)
    rig.control.fault("bad_rows", match={"endpoint": "removed_participants"}, what=["no_registration_id"])
    done = await rig.sync()
    assert done.status == "partial"
    (kept,) = await quarantine(rig)
    assert kept["endpoint"] == "removed-participants"
    assert (await rig.last_pass())["quarantined"] == 0  # the figures are about participants rows
    assert await rig.changes() == [("removed", PERSON + 1)]
    await rig.sync()
    assert (await rig.changes())[1:] == [("removed", PERSON)]


async def test_a_page_of_nothing_but_bad_records(rig: Rig) -> None:
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["null"] * 12)
    done = await rig.sync()
    assert done.status == "partial"
    assert await rig.count("start_list") == 0
    figures = await rig.last_pass()
    assert (figures["rows_received"], figures["quarantined"]) == (12, 12)
    (kept,) = await quarantine(rig)  # twelve times the same
    assert kept["raw"] == "null"


async def test_a_bad_event_of_the_race(rig: Rig) -> None:
    bad = rig.control.add_event(RACE, "Bad", event_id="none")
    done = await rig.sync()
    assert (done.status, done.exit_status) == ("partial", 1)
    (kept,) = await quarantine(rig)
    assert (kept["endpoint"], kept["race_id"], json.loads(kept["raw"])["name"]) == ("race", RACE, "Bad")
    assert await rig.count("start_list") == 12
    rig.control.remove_event(bad)
    rig.control.clock(advance=120)
    rig.control.edit_race(RACE)
    assert (await rig.sync()).status == "completed"
    assert (await quarantine(rig))[0]["resolved_at"] is not None


# -- misfit fields -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "column", "kept"),
    [
        ({"age": "x"}, "age", {"age": "x"}),
        ({"age": 9_999_999_999}, "age", {"age": 9_999_999_999}),
        ({"user": {"dob": "13/45/1990"}}, "dob", {"user": {"dob": "13/45/1990"}}),
        ({"user": {"user_id": "abc"}}, "user_id", {"user": {"user_id": "abc"}}),
        ({"user": {"email": 5}}, "email", {"user": {"email": 5}}),
        ({"user": {"gender": ["F"]}}, "gender", {"user": {"gender": ["F"]}}),
        ({"user": {"address": "somewhere"}}, "address", {"user": {"address": "somewhere"}}),
        ({"bib_num": {"n": 1}}, "bib_num", {"bib_num": {"n": 1}}),
        ({"chip_num": True}, "chip_num", {"chip_num": True}),
        ({"registration_date": "soon"}, "registration_date", {"registration_date": "soon"}),
        ({"last_modified": "yesterday"}, "last_modified", {"last_modified": "yesterday"}),
    ],
)
async def test_rule_7_a_misfit_field_is_kept_beside_and_the_runner_stored(
    rig: Rig, fields: dict[str, Any], column: str, kept: dict[str, Any]
) -> None:
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, fields=fields)
    done = await rig.sync()
    assert (done.status, done.exit_status) == ("completed", 0)
    stored = await rig.registration(PERSON)
    assert stored[column] is None
    assert stored["field_errors"] == [column]
    found = stored["additional_data"]
    for name, value in kept.items():
        if name == "user":
            assert found["user"].items() >= value.items()
        else:
            assert found[name] == value
    assert PERSON in {row["registration_id"] for row in await rig.rows("select registration_id from start_list")}
    await rig.sync(force_full=True)
    await rig.assert_truth()  # it fits by now


async def test_rule_7_nul_and_surrogates_cost_a_sign_and_no_runner(rig: Rig) -> None:
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["unstorable"])
    done = await rig.sync()
    assert done.exit_status == 0
    stored = await rig.registration(PERSON)
    assert (stored["first_name"], stored["last_name"]) == ("Ann", "\ufffdLee")
    assert sorted(stored["field_errors"]) == ["first_name", "last_name"]


@pytest.mark.parametrize(
    "fields", [{"giveaway": "L\u0000"}, {"n\u0000w": 1}, {"question_responses": [{"response": "\ud83d"}]}]
)
async def test_rule_7_nul_and_surrogates_in_what_is_no_column(rig: Rig, fields: dict[str, Any]) -> None:
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, fields=fields)
    assert (await rig.sync()).exit_status == 0
    stored = await rig.registration(PERSON)
    assert stored["field_errors"] != []


async def test_rule_7_nul_in_a_removed_record_and_in_a_race(rig: Rig) -> None:
    rig.control.edit_race(RACE, name="Run\u0000ning", description="\ud800")
    rig.control.edit_event(FIRST, name="5\u0000K")
    rig.control.edit(PERSON, last_name="Le\u0000e")
    rig.control.refund(PERSON)
    assert (await rig.sync()).exit_status == 0
    assert (await rig.one("select name from runsignup_races"))["name"] == "Running"
    assert (await rig.one("select name from runsignup_events where event_id = %s", FIRST))["name"] == "5K"
    assert (await rig.registration(PERSON))["removal"]["user"]["last_name"] == "Lee"


async def test_unknown_keys_are_kept_under_their_names(rig: Rig) -> None:
    rig.control.edit(
        PERSON,
        nickname="Flash",
        medals=[1, {"a": None}],
        team_color="red",
        user={"shoe_size": 44.50, "is_anonymous": "T"},
    )
    await rig.sync()
    stored = await rig.registration(PERSON)
    assert stored["additional_data"].items() >= {"nickname": "Flash", "medals": [1, {"a": None}]}.items()
    assert stored["additional_data"]["user"] == {"shoe_size": 44.5, "is_anonymous": "T"}
    assert stored["team_info"]["team_color"] == "red"
    assert stored["field_errors"] == []
    rig.control.edit(PERSON, nickname="Slow")
    await rig.sync()
    change = await rig.one("select before, after from runsignup_changes")
    assert change == {
        "before": {"additional_data": {"nickname": "Flash"}}, "after": {"additional_data": {"nickname": "Slow"}}
    }  # fmt: skip


# -- values, trap by trap ----------------------------------------------------------------------------------------------


async def test_trap_01_rows_beside_the_event(rig: Rig) -> None:
    await rig.sync()
    assert await rig.count("start_list") == 12


async def test_trap_25_nonbinary(rig: Rig) -> None:
    rig.control.edit(PERSON, gender="X")
    rig.control.edit(PERSON + 1, gender="X")
    rig.control.refund(PERSON + 1)
    await rig.sync()
    assert (await rig.registration(PERSON))["gender"] == "X"
    assert (await rig.registration(PERSON + 1))["removal"]["user"]["gender"] == "X"


async def test_trap_26_zipcode_and_country_code(rig: Rig) -> None:
    rig.control.edit(PERSON, zipcode="08057", country_code="US", street=None)
    await rig.sync()
    address = (await rig.registration(PERSON))["address"]
    assert address.items() >= {"zipcode": "08057", "country_code": "US", "street": None}.items()


async def test_trap_27_money(rig: Rig) -> None:
    rig.control.edit(
        PERSON, race_fee="$1,055.00", extra_fees="-$5.00", partner_fee="", amount_paid=None, affiliate_profit="free"
    )
    rig.control.fault("drop_keys", match={"endpoint": "participants"}, keys=["processing_fee"])
    await rig.sync()
    row = await rig.one(
        "select payment_info, (payment_info ->> 'race_fee')::numeric(12, 2) as number,"
        " jsonb_typeof(payment_info -> 'race_fee') as kind, field_errors from runsignup_participants"
        " where registration_id = %s", PERSON,
    )  # fmt: skip
    assert (row["kind"], str(row["number"])) == ("number", "1055.00")
    paid = row["payment_info"]
    assert (paid["extra_fees"], paid["partner_fee"], paid["amount_paid"], paid["affiliate_profit"]) == (
        -5,
        "",
        None,
        "free",
    )
    assert "processing_fee" not in paid
    assert row["field_errors"] == ["affiliate_profit"]


async def test_trap_28_transaction_ids_are_text(rig: Rig) -> None:
    rig.control.edit(PERSON, transaction_id="ay_852631042119552C_0", rsu_transaction_id=None)
    await rig.sync()
    paid = (await rig.registration(PERSON))["payment_info"]
    assert (paid["transaction_id"], paid["rsu_transaction_id"]) == ("ay_852631042119552C_0", None)


@pytest.mark.parametrize(("sent", "stored"), [(3, "3"), ("3", "3"), ("0042", "0042"), ("A12", "A12"), (None, None)])
async def test_trap_29_bibs_are_text(rig: Rig, sent: Any, stored: str | None) -> None:
    rig.control.assign_bib(PERSON, sent)
    await rig.sync()
    assert (await rig.registration(PERSON))["bib_num"] == stored


async def test_trap_29_a_number_that_becomes_text_is_no_change(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 3)
    await rig.sync()
    rig.control.edit(PERSON, bib_num="3")
    await rig.sync()
    assert await rig.bibs() == []
    assert await rig.changes() == []


async def test_trap_30_31_answers_as_they_were_sent(rig: Rig) -> None:
    answers = [
        {"question_id": "1", "question_text": "First race?", "response": " No "},
        {"question_id": 2, "question_text": "Pick any", "responses": ["A", "B & C"]},
        {"question_id": 3, "question_text": "Empty", "response": None},
    ]
    rig.control.edit(PERSON, question_responses=answers)
    await rig.sync()
    assert (await rig.registration(PERSON))["additional_data"]["question_responses"] == answers


async def test_trap_44_names_as_they_were_sent(rig: Rig) -> None:
    name = "  Run+Walk 100% & More &amp; <b>"
    rig.control.edit_race(RACE, name=name)
    rig.control.edit(PERSON, first_name=" Zoë+Ann ", last_name="O'Neil%20")
    await rig.sync()
    assert (await rig.one("select name from runsignup_races"))["name"] == name
    stored = await rig.registration(PERSON)
    assert (stored["first_name"], stored["last_name"]) == (" Zoë+Ann ", "O'Neil%20")


async def test_ids_as_strings(rig: Rig) -> None:
    rig.control.fault("string_ids", times=None)
    rig.control.assign_bib(PERSON, 12)
    rig.control.transfer(PERSON + 1, SECOND)
    done = await rig.sync()
    assert done.exit_status == 0
    rig.control.clear_faults()
    await rig.sync(force_full=True)
    await rig.assert_truth()
    assert await rig.bibs() == []


# -- keys that are not there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["dob", "gender", "email", "phone", "bib_num"])
async def test_rule_6_an_absent_key_leaves_the_stored_value(rig: Rig, key: str) -> None:
    rig.control.assign_bib(PERSON, 5)
    rig.control.edit(PERSON, dob="1990-02-03", gender="F", email="a@example.com", phone="856-850-1510")
    await rig.sync()
    before = await rig.registration(PERSON)
    assert before[key] is not None
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.fault("drop_keys", match={"endpoint": "participants"}, keys=[key])
    await rig.sync()
    after = await rig.registration(PERSON)
    assert (after["last_name"], after[key]) == ("Edited", before[key])
    assert await rig.changes() == [("updated", PERSON)]
    assert await rig.bibs() == []
    assert (await rig.one("select before from runsignup_changes"))["before"] == {"last_name": before["last_name"]}


async def test_rule_6_a_null_in_place_of_it_is_the_truth(rig: Rig) -> None:
    rig.control.edit(PERSON, email="a@example.com", gender="F", dob="1990-02-03", phone="856-850-1510")
    await rig.sync()
    rig.control.edit(PERSON, email=None, gender=None, dob=None, phone=None)
    await rig.sync()
    stored = await rig.registration(PERSON)
    assert [stored[name] for name in ("email", "gender", "dob", "phone")] == [None] * 4


async def test_rule_6_a_whole_event_without_a_key_is_said(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 5)
    await rig.sync()
    before = await rig.rows("select registration_id, dob, email, bib_num from runsignup_participants order by 1")
    rig.control.fault("drop_keys", match={"endpoint": "participants"}, keys=["dob", "email", "bib_num"])
    done = await rig.sync(force_full=True)
    assert (done.status, done.exit_status) == ("partial", 1)
    assert f"event {FIRST} came without bib_num, dob, email" in done.failed_syncs()[0]["error"]
    after = await rig.rows("select registration_id, dob, email, bib_num from runsignup_participants order by 1")
    assert after == before
    assert await rig.changes() == []
    assert await rig.bibs() == []
    assert (await rig.sync(force_full=True)).status == "completed"
    await rig.assert_truth()


async def test_rule_6_one_record_without_a_key_is_nothing_to_say(rig: Rig) -> None:
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, rows=[
        {"registration_id": 59_000_000, "event_id": FIRST, "user": {"last_name": "Plain"}}
    ], mode="insert")  # fmt: skip
    assert (await rig.sync()).status == "completed"
    stored = await rig.registration(59_000_000)
    assert (stored["last_name"], stored["dob"], stored["bib_num"]) == ("Plain", None, None)


async def test_a_new_mapping_rewrites_rows_without_changes(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 5)
    await rig.sync()
    rows = await rig.rows("select registration_id, content_hash from runsignup_participants order by 1")
    await rig.conn.execute("update runsignup_participants set content_hash = set_byte(content_hash, 0, 0)")
    done = await rig.sync(force_full=True)
    assert done.partners[0].figures.rows_updated == 12
    assert await rig.changes() == []
    assert await rig.rows("select registration_id, content_hash from runsignup_participants order by 1") == rows
    await rig.assert_truth()


async def test_the_row_names_its_event_and_not_its_element(rig: Rig) -> None:
    user = {"last_name": "Elsewhere", "dob": None, "gender": None, "email": None, "phone": None}
    stray = {"registration_id": 59_000_000, "event_id": 4711, "user": user, "bib_num": 8}
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, rows=[stray], mode="insert")
    done = await rig.sync()
    assert done.exit_status == 0
    stored = await rig.registration(59_000_000)
    assert (stored["event_id"], stored["race_id"], stored["bib_num"]) == (4711, RACE, "8")
    assert await rig.changes() == []
    assert await rig.bibs() == []


async def test_a_row_without_an_event_has_that_of_its_element(rig: Rig) -> None:
    rig.control.fault("drop_keys", match={"endpoint": "participants"}, keys=["event_id"])
    await rig.sync()
    await rig.assert_truth()


async def test_far_dates(rig: Rig) -> None:
    rig.control.edit(PERSON, dob="0001-01-01", last_modified=253_402_300_799, registration_date="12/31/9998 23:59")
    await rig.sync()
    stored = await rig.registration(PERSON)
    assert stored["last_modified"] == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    await rig.assert_truth()
