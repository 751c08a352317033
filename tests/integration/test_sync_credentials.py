"""Keys: wrong, revoked, stopped, tried again, rotated, and two of them for one partner."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from startlist.errors import ConfigurationError
from tests.syncing import PERSON, RACE, Rig

HOUR = 3600


async def add_races(rig: Rig, count: int, key: str = "Peak Timing") -> list[int]:
    """More races of a key, each with an event and three runners."""
    races: list[int] = [rig.control.add_race(f"Race {number}", keys=[key]) for number in range(count)]
    for number, race in enumerate(races):
        rig.control.register(rig.control.add_event(race, in_days=20 + number), 3)
    return races


def refused(rig: Rig) -> int:
    """How many calls of the last sync answered 7."""
    return sum(call["error_code"] == 7 for call in rig.calls)


# -- a key that is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("races", [1, 2, 6])
async def test_trap_37_a_wrong_legacy_key_stores_nothing_of_the_public_list(rig: Rig, races: int) -> None:
    await add_races(rig, races - 1)
    await rig.rotate("not the secret")
    done = await rig.sync()
    assert (done.status, done.exit_status) == ("failed", 1)
    for table in ("runsignup_races", "runsignup_events", "runsignup_participants"):
        assert await rig.count(table) == 0
    assert refused(rig) == min(races, 3)
    credential = await rig.credential()
    assert credential["stopped_at"] is not None
    assert credential["verified_at"] is None
    errors = " ".join(failure["error"] for failure in done.failed_syncs())
    assert "permission denied" in errors
    assert "startlist partner rotate 1" in errors
    planned, said = await rig.plan()
    assert planned == []
    assert "stopped" in said[0]
    assert rig.calls == []


async def test_trap_37_a_key_that_turns_wrong_keeps_what_is_stored(rig: Rig) -> None:
    known = await add_races(rig, 3)
    await rig.sync()
    rows = await rig.written()
    rig.control.add_partner("Chip & Go")
    await add_races(rig, 4, key="Chip & Go")  # public, and not ours
    rig.control.revoke_key("Peak Timing")
    await rig.pass_time(2 * HOUR)
    done = await rig.sync()
    assert done.exit_status == 1
    assert refused(rig) == 3
    assert {call["race_id"] for call in rig.asked("participants")} < {RACE, *known}  # the known ones are asked first
    assert {row["race_id"] for row in await rig.rows("select race_id from runsignup_races")} == {RACE, *known}
    assert await rig.written() == rows
    assert (await rig.credential())["stopped_reason"].startswith("3 races answered")


async def test_rule_1_a_wrong_v2_key_is_stopped_by_code_6(rig: Rig) -> None:
    key = rig.control.add_partner("Chip & Go", "v2")
    await add_races(rig, 2, key="Chip & Go")
    await rig.adopt()
    await rig.sync()
    rig.control.set_key(key["key"], "another-secret")
    done = await rig.sync()
    assert done.exit_status == 1
    assert [call["endpoint"] for call in rig.calls if call["error_code"] == 6] == ["races"]
    (failure,) = done.failed_syncs()
    assert (failure["timing_partner_id"], failure["race_id"]) == (2, None)
    assert "error 6" in failure["error"]
    assert (await rig.credential(2))["stopped_at"] is not None
    assert (await rig.credential(1))["stopped_at"] is None
    await rig.assert_truth()


async def test_rule_1_code_6_in_mid_run_stops_the_credential(rig: Rig) -> None:
    await add_races(rig, 4)
    await rig.sync()
    rig.control.fault("error", code=6, match={"endpoint": "participants"}, times=None)
    done = await rig.sync()
    assert done.exit_status == 1
    assert len(rig.asked("participants")) <= 2
    assert (await rig.credential())["stopped_reason"].startswith("RunSignup reports error 6")


# -- permission denied: the race's, or the key's -----------------------------------------------------------------------


async def test_rule_1_a_single_7_is_that_races_alone(rig: Rig) -> None:
    (other,) = await add_races(rig, 1)
    await rig.sync()
    rig.control.unshare(RACE, "Peak Timing")
    for _ in range(3):
        done = await rig.sync()
        assert done.exit_status == 1
        assert [failure["race_id"] for failure in done.failed_syncs()] == [RACE]
    assert (await rig.credential())["stopped_at"] is None
    await rig.assert_truth(other)
    assert await rig.count("start_list") == 15


async def test_rule_1_three_7s_with_a_success_within_the_hour_stop_nothing(rig: Rig) -> None:
    known = await add_races(rig, 4)
    await rig.sync()
    for race in [RACE, *known[:3]]:
        rig.control.unshare(race, "Peak Timing")
    done = await rig.sync()
    assert refused(rig) == 4
    assert done.exit_status == 1
    assert (await rig.credential())["stopped_at"] is None
    await rig.assert_truth(known[3])


async def test_rule_1_three_7s_without_a_success_in_the_hour_stop(rig: Rig) -> None:
    await add_races(rig, 5)
    await rig.sync()
    await rig.pass_time(HOUR + 10)
    rig.control.fault("error", code=7, match={"endpoint": "participants"}, times=None)
    done = await rig.sync()
    assert refused(rig) == 3
    assert (await rig.credential())["stopped_at"] is not None
    assert done.exit_status == 1
    assert len([failure for failure in done.failed_syncs() if failure["race_id"] is None]) == 1


async def test_rule_1_the_same_race_three_times_is_one_race(rig: Rig) -> None:
    await add_races(rig, 3)
    await rig.sync()
    await rig.pass_time(HOUR + 10)
    rig.control.fault("error", code=7, match={"endpoint": "participants", "race_id": RACE}, times=None)
    for _ in range(4):
        await rig.sync(race_id=RACE)
    assert (await rig.credential())["stopped_at"] is None


# -- stopped -----------------------------------------------------------------------------------------------------------


async def stop(rig: Rig) -> None:
    """A credential that worked, and then was refused."""
    await rig.sync()
    rig.control.revoke_key("Peak Timing")
    await rig.pass_time(2 * HOUR)
    await rig.sync()
    assert (await rig.credential())["stopped_at"] is not None


async def test_rule_1_a_stopped_credential_is_tried_once_an_hour_with_one_call(rig: Rig) -> None:
    await stop(rig)
    done = await rig.sync()
    assert rig.calls == []
    assert done.exit_status == 1
    assert "stopped since" in done.failed_syncs()[0]["error"]
    for _ in range(2):
        await rig.pass_time(HOUR + 1)
        done = await rig.sync()
        assert rig.endpoints() == {"participants": 1}
        assert done.exit_status == 1
        assert (await rig.sync()).exit_status == 1
        assert rig.calls == []


async def test_rule_1_a_stopped_credential_that_works_again_goes_on(rig: Rig) -> None:
    await stop(rig)
    (key,) = rig.control.partners()
    rig.control.set_key("Peak Timing", key["secret"])
    rig.control.edit(PERSON, last_name="Meanwhile")
    await rig.pass_time(HOUR + 1)
    done = await rig.sync()
    assert done.exit_status == 0
    assert rig.endpoints() == {"participants": 2, "races": 1, "removed_participants": 1}
    credential = await rig.credential()
    assert (credential["stopped_at"], credential["stopped_reason"]) == (None, None)
    assert credential["verified_at"] is not None
    await rig.assert_truth()


async def test_rule_1_rotate_ends_a_stop_at_once(rig: Rig) -> None:
    await stop(rig)
    rig.control.set_key("Peak Timing", "fresh-secret")
    await rig.rotate("fresh-secret")
    credential = await rig.credential()
    assert (credential["stopped_at"], credential["verified_at"]) == (None, None)
    assert (await rig.sync()).exit_status == 0
    assert (await rig.credential())["verified_at"] is not None
    await rig.assert_truth()


async def test_rule_1_a_wrong_rotation_is_found_out_again(rig: Rig) -> None:
    await add_races(rig, 5)
    await rig.sync()
    await rig.rotate("wrong")  # the successes of the old secret do not speak for the new one
    assert (await rig.sync()).exit_status == 1
    assert refused(rig) == 3
    assert (await rig.credential())["stopped_at"] is not None


# -- several credentials -----------------------------------------------------------------------------------------------


async def two_keys(rig: Rig) -> dict[str, Any]:
    """A second credential of the same partner, which reaches the race too."""
    key: dict[str, Any] = rig.control.add_partner("Peak Timing", "v2")
    rig.control.share(RACE, key["name"])
    await rig.adopt()
    return key


async def test_rule_2_a_race_of_two_credentials_is_read_once(rig: Rig) -> None:
    await two_keys(rig)
    done = await rig.sync()
    assert done.exit_status == 0
    assert rig.endpoints() == {"races": 2, "race": 1, "participants": 1, "removed_participants": 1}
    assert [partner.company_name for partner in done.partners] == ["Peak Timing"]
    assert (await rig.one("select credential_id from runsignup_races"))["credential_id"] == 1
    await rig.assert_truth()


async def test_rule_2_it_is_asked_with_its_stored_credential(rig: Rig) -> None:
    key = await two_keys(rig)
    await rig.sync()
    await rig.conn.execute("update runsignup_races set credential_id = 2")
    await rig.sync()
    assert {call["key"] for call in rig.calls if call["race_id"]} == {key["name"]}
    assert (await rig.last_pass())["credential_id"] == 2


async def test_rule_2_on_7_once_with_the_other(rig: Rig) -> None:
    (mine,) = await add_races(rig, 1)
    key = await two_keys(rig)
    await rig.sync()
    rig.control.edit(PERSON, last_name="Edited")
    rig.control.fault("error", code=7, match={"race_id": RACE, "key": "Peak Timing"}, times=None)
    done = await rig.sync()
    assert (done.status, done.exit_status) == ("completed", 0)
    asked = [(call["key"], call["error_code"]) for call in rig.calls if call["race_id"] == RACE]
    assert asked == [("Peak Timing", 7), (key["name"], None), (key["name"], None)]
    assert (await rig.one("select credential_id from runsignup_races where race_id = %s", RACE))["credential_id"] == 2
    assert [status for _, status, _ in await rig.passes(RACE)] == ["completed", "failed", "completed"]
    await rig.assert_truth()
    await rig.assert_truth(mine)
    await rig.sync()
    assert [call["key"] for call in rig.calls if call["race_id"] == RACE] == [key["name"]] * 2


async def test_rule_2_both_refused(rig: Rig) -> None:
    await add_races(rig, 1)
    await two_keys(rig)
    await rig.sync()
    rig.control.fault("error", code=7, match={"race_id": RACE}, times=None)
    done = await rig.sync()
    assert done.exit_status == 1
    assert len([call for call in rig.calls if call["race_id"] == RACE]) == 2


async def test_a_stopped_credential_leaves_its_races_to_the_other(rig: Rig) -> None:
    key = await two_keys(rig)
    await rig.sync()
    rig.control.fault("error", code=6, match={"key": "Peak Timing"}, times=None)
    rig.control.edit(PERSON, last_name="Edited")
    done = await rig.sync()
    assert done.exit_status == 1  # a credential is stopped, and that is said
    assert {call["key"] for call in rig.calls if call["race_id"]} == {key["name"]}
    await rig.assert_truth()


async def test_two_partners_with_the_same_race_have_a_copy_each(rig: Rig) -> None:
    rig.control.add_partner("Chip & Go")
    rig.control.share(RACE, "Chip & Go")
    await rig.adopt()
    await rig.sync()
    await rig.assert_truth(partner=1)
    await rig.assert_truth(partner=2)
    rig.control.assign_bib(PERSON, 4)
    await rig.sync()
    assert await rig.bibs() == [("assigned", PERSON, None, "4")] * 2
    only_one = await rig.sync(timing_partner_id=2, force_full=True)
    assert [partner.timing_partner_id for partner in only_one.partners] == [2]


# -- what proves a key -------------------------------------------------------------------------------------------------


async def test_rule_1_verified_by_a_participants_call(rig: Rig) -> None:
    assert (await rig.credential())["verified_at"] is None
    await rig.sync()
    assert (await rig.credential())["verified_at"] is not None


async def test_rule_1_new_races_wait_for_a_proof(rig: Rig) -> None:
    """The list names races that nothing is to be read of: they are stored once the key is proved, not before."""
    over = rig.control.add_race("Over")
    rig.control.add_event(over, in_days=-5)
    rig.control.fault("error", code=7, match={"endpoint": "participants"}, times=1)
    await rig.sync()
    assert await rig.count("runsignup_races") == 0
    await rig.rotate(rig.control.partners()[0]["secret"])
    await rig.sync()
    assert {row["race_id"] for row in await rig.rows("select race_id from runsignup_races")} == {RACE, over}


async def test_no_partner_at_all_is_a_configuration_error(rig: Rig) -> None:
    await rig.conn.execute("delete from timing_partners")
    with pytest.raises(ConfigurationError, match="startlist partner add"):
        await rig.sync()


# -- secrets -----------------------------------------------------------------------------------------------------------


async def test_trap_38_no_table_and_no_error_holds_a_secret_or_a_person(rig: Rig) -> None:
    secret = rig.control.partners()[0]["secret"]
    rig.control.edit(PERSON, last_name="Verysecretname", email="very.secret@example.com")
    rig.control.fault("bad_rows", match={"endpoint": "participants"}, what=["no_user"])
    with capture_logs() as logs:
        for kind, parameters in (
            ("html", {}), ("reset", {}), ("error", {"code": 7, "message": f"Denied for {secret}"}),
            ("http", {"status": 503, "body": secret}), ("error", {"code": 999, "message": secret}),
            ("wrong_shape", {"value": {"secret": secret}}),
        ):  # fmt: skip
            await rig.sync()
            rig.control.clear_faults()
            rig.control.fault(kind, match={"endpoint": "participants"}, times=None, **parameters)
        await rig.sync()
        rig.control.revoke_key("Peak Timing")
        rig.control.clear_faults()
        await rig.pass_time(2 * HOUR)
        done = await rig.sync()
    assert done.exit_status == 1
    said = str(logs) + str(done.to_json())
    tables = await rig.rows("select table_name as name from information_schema.tables where table_schema = 'startlist'")
    for table in tables:
        for row in await rig.rows(f"select t::text as content from {table['name']} as t"):
            assert secret not in row["content"]
            if table["name"] not in (
                "runsignup_participants",
                "runsignup_changes",
                "runsignup_quarantine",
                "start_list",
            ):
                said += row["content"]
    assert secret not in said
    assert "Verysecretname" not in said
    assert "very.secret" not in said
