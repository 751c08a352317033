"""`verify` finds every planted difference and no other, mends them, and is not misled by a sync or by time."""

from __future__ import annotations

import pytest

from startlist.store.cursors import lock_race
from startlist.sync.plan import Options
from startlist.sync.verify.race import Found, Reading
from startlist.sync.verify.run import Verification, Verified, verify
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig


async def verified(rig: Rig, *, repair: bool = False) -> Verified:
    async with rig.context() as context:
        (found,) = (await verify(context, Options(race_id=RACE), repair=repair)).races
    return found


async def all_verified(rig: Rig, *, repair: bool = False) -> Verification:
    async with rig.context() as context:
        return await verify(context, Options(), repair=repair)


async def numbers(rig: Rig) -> list[int]:
    found = await rig.rows(
        "select registration_id as n from runsignup_participants where event_id = %s and removed_at is null order by 1",
        FIRST,
    )
    return [row["n"] for row in found]


async def test_a_clean_store_is_complete_and_has_its_certificate(rig: Rig) -> None:
    await rig.sync()
    found = await verified(rig)
    assert (found.result, found.differences, found.newer, found.error) == ("complete", [], 0, None)
    row = await rig.one("select * from sync_verifications")
    assert (row["result"], row["active"], row["race_id"]) == ("complete", found.active, RACE)
    assert [call["endpoint"] for call in row["calls"]] == ["race", "participants", "removed-participants"]


PLANTED = {
    "hand-changed column": (
        "update runsignup_participants set last_name = 'X' where registration_id = %s",
        "last_name",
    ),
    "stale bib": ("update runsignup_participants set bib_num = '999' where registration_id = %s", "bib_num"),
    "additional data": (
        "update runsignup_participants set additional_data = additional_data || jsonb_build_object('zz', 1)"
        " where registration_id = %s",
        "additional_data.zz",
    ),
    "another null": (
        "update runsignup_participants set additional_data = additional_data - 'usatf_discount_additional_field'"
        " where registration_id = %s",
        "additional_data.usatf_discount_additional_field",
    ),
    "another race": ("update runsignup_participants set race_id = 1 where registration_id = %s", "race_id"),
    "lost row": ("delete from runsignup_participants where registration_id = %s", "state"),
    "wrong removal": ("update runsignup_participants set removed_at = now() where registration_id = %s", "state"),
    "wrongly missing": ("update runsignup_participants set missing_since = now() where registration_id = %s", "state"),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_a_planted_difference_is_found_and_mended(rig: Rig, planted: str) -> None:
    await rig.sync()
    number = (await numbers(rig))[0]
    statement, field = PLANTED[planted]
    await rig.conn.execute(statement.encode(), [number])
    found = await verified(rig)
    assert [(one.registration_id, one.field) for one in found.differences] == [(number, field)]
    assert (await verified(rig, repair=True)).result == "complete"
    await rig.assert_truth()
    assert number in {changed for _, changed in await rig.changes()}
    run = await rig.one("select trigger from sync_runs where command = 'sync' order by run_id desc limit 1")
    assert run["trigger"] == "verify"
    credential = await rig.one("select * from partner_provider_credentials")
    assert [name for name in credential if "silent" in name and credential[name] is not None] == []


async def test_a_silent_edit_is_a_difference_and_so_is_what_the_next_sync_brings(rig: Rig) -> None:
    await rig.sync()
    rig.control.assign_bib(PERSON, "77", silent=True)
    found = await verified(rig)
    assert [(one.field, one.newer) for one in found.differences] == [("bib_num", False)]
    assert (await verified(rig, repair=True)).result == "complete"
    rig.control.clock(advance=60)
    rig.control.assign_bib(PERSON + 1, "78")
    (entered,) = rig.control.register(FIRST)
    rig.control.refund(PERSON + 2)
    found = await verified(rig)
    assert (found.result, found.newer) == ("differs", 3)
    told = [(one.registration_id, one.field, one.ours, one.newer) for one in found.differences]
    for one in (
        (PERSON + 1, "bib_num", None, True),
        (entered, "state", "not stored", True),
        (PERSON + 2, "state", "active", True),
    ):
        assert one in told
    assert (await verified(rig, repair=True)).result == "complete"
    await rig.assert_truth()


async def test_the_start_time_is_compared_and_mended(rig: Rig) -> None:
    await rig.sync()
    await rig.conn.execute(
        "update runsignup_events set start_time = start_time + interval '1 h' where event_id = %s", [FIRST]
    )
    assert [one.field for one in (await verified(rig)).differences] == [f"event {FIRST} start_time"]
    assert (await verified(rig, repair=True)).result == "complete"


async def test_a_removal_that_is_not_stored_is_found_and_mended(rig: Rig) -> None:
    rig.control.refund(PERSON)
    await rig.sync()
    await rig.conn.execute(
        "update runsignup_participants set removed_at = null, removed_reason = null, removal = null,"
        " removal_modified_at = null where registration_id = %s",
        [PERSON],
    )
    # the sync that stored it asked later than the removal was made
    await rig.conn.execute("update sync_cursors set removed_watermark = removed_watermark + 5")
    assert [(one.field, one.theirs) for one in (await verified(rig)).differences] == [("state", "removed")]
    assert (await verified(rig, repair=True)).result == "complete"


async def test_a_repair_that_another_run_holds_up_touches_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.control.refund(PERSON)
    await rig.sync()
    await rig.conn.execute("update runsignup_participants set last_name = 'X' where registration_id = %s", [PERSON + 1])
    await rig.conn.execute(
        "update runsignup_participants set removed_reason = 'X' where registration_id = %s", [PERSON]
    )
    await rig.conn.execute("update sync_cursors set removed_watermark = removed_watermark + 5")
    before = await rig.rows("select * from runsignup_participants order by event_id, registration_id")
    monkeypatch.setattr("startlist.sync.race.LOCK_WAIT_SECONDS", 0.05)
    async with await rig.database.connect(name="holder") as holder:
        assert await lock_race(rig.database, holder, 1, RACE)
        held = await all_verified(rig, repair=True)
    assert [(one.result, one.repair) for one in held.races] == [("differs", "held")]
    assert held.exit_status == 3
    assert before == await rig.rows("select * from runsignup_participants order by event_id, registration_id")
    rig.control.fault("error", code=7, match={"endpoint": "removed_participants"}, skip=2)
    failed = await all_verified(rig, repair=True)
    assert (failed.races[0].repair, failed.exit_status) == ("failed", 1)
    rig.control.clear_faults()
    assert (await rig.registration(PERSON))["removal"] == next(r for r in before if r["removal"])["removal"]
    mended = await all_verified(rig, repair=True)
    assert [(one.result, one.repair) for one in mended.races] == [("complete", "done")]
    await rig.assert_truth()


async def test_stored_as_removed_and_in_neither_list(rig: Rig) -> None:
    await rig.sync()
    rig.control.vanish(registration_id=PERSON)
    await rig.conn.execute("update runsignup_participants set removed_at = now() where registration_id = %s", [PERSON])
    found = await verified(rig)
    assert [(d.registration_id, d.ours, d.theirs) for d in found.differences] == [
        (PERSON, "removed", "in neither list")
    ]


async def test_a_race_that_runsignup_changed_differs_until_the_next_sync(rig: Rig) -> None:
    await rig.sync()
    rig.control.clock(advance=120)  # its last change is told by the minute
    rig.control.edit_race(RACE, name="Another name")
    found = await verified(rig)
    assert [(one.field, one.newer) for one in found.differences] == [("race name", True)]
    assert found.newer == 1
    await rig.sync(race_id=RACE)
    assert (await verified(rig)).result == "complete"
    rig.control.edit_race(RACE, name="A third name", silent=True)
    assert [(one.field, one.newer) for one in (await verified(rig)).differences] == [("race name", False)]


async def test_of_past_events_nothing_is_told_unless_the_race_is_over(rig: Rig) -> None:
    past = rig.control.add_event(RACE, "Last year", in_days=-300)
    await rig.sync(race_id=RACE)
    await rig.conn.execute("update runsignup_events set name = 'X' where event_id = %s", [past])
    assert (await verified(rig)).result == "complete"


async def test_what_is_listed_and_was_never_stored_is_told_and_mended(rig: Rig) -> None:
    await rig.sync()
    await rig.conn.execute("delete from runsignup_events where event_id = %s", [SECOND])
    other = rig.control.add_race("New race")
    rig.control.add_event(other)
    found = await all_verified(rig)
    assert [(one.race_id, [(d.field, d.ours) for d in one.differences]) for one in found.races] == [
        (RACE, [(f"event {SECOND}", "not stored")]),
        (other, [("race", "not stored")]),
    ]
    assert found.exit_status == 1
    mended = await all_verified(rig, repair=True)
    assert [(one.result, one.repair) for one in mended.races] == [("complete", "done")] * 2
    await rig.assert_truth()


HELD_AS_GONE = {
    "an event": ("update runsignup_events set gone_at = now() where event_id = %s", FIRST, f"event {FIRST}"),
    "all events": ("update runsignup_events set gone_at = now() where race_id = %s", RACE, f"event {FIRST}"),
    "the race": ("update runsignup_races set gone_at = now() where race_id = %s", RACE, "race"),
}


@pytest.mark.parametrize("planted", HELD_AS_GONE)
@pytest.mark.parametrize("race_id", [None, RACE], ids=["all races", "one race"])
async def test_what_is_held_as_gone_and_is_listed_is_told_and_mended(
    rig: Rig, planted: str, race_id: int | None
) -> None:
    await rig.sync()
    statement, number, field = HELD_AS_GONE[planted]
    await rig.conn.execute(statement.encode(), [number])
    rig.control.register(FIRST)
    async with rig.context() as context:
        found = await verify(context, Options(race_id=race_id))
        mended = await verify(context, Options(race_id=race_id), repair=True)
    assert (field, "held as gone") in [(one.field, one.ours) for one in found.races[0].differences]
    assert (found.exit_status, mended.exit_status) == (1, 0)
    await rig.assert_truth()


async def test_a_race_of_which_only_an_undated_event_is_kept_fresh_is_compared(rig: Rig) -> None:
    race = rig.control.add_race("Half over")
    rig.control.add_event(race, "5K", in_days=-3)
    days = rig.control.truth(race)["race"]["events"][0]["race_event_days_id"]
    virtual = rig.control.add_event(race, "Virtual", in_days=-3, race_event_days_id=days)
    rig.control.edit_event(virtual, start_time=None)
    (runner, _) = rig.control.register(virtual, 2)
    await rig.sync()
    assert (await all_verified(rig)).exit_status == 0
    rig.control.assign_bib(runner, "77", silent=True)
    found = await all_verified(rig)
    assert [(one.registration_id, one.field) for one in found.races[-1].differences] == [(runner, "bib_num")]
    assert (await all_verified(rig, repair=True)).exit_status == 0


async def test_an_event_whose_first_pass_failed_is_no_part_of_a_complete_list(rig: Rig) -> None:
    await rig.sync()
    rig.control.clock(advance=120)
    added = rig.control.add_event(RACE, "Kids")
    rig.control.register(added)
    rig.control.fault("http", status=503, match={"endpoint": "participants"}, times=None)
    assert (await rig.sync()).exit_status == 1
    rig.control.clear_faults()
    assert (await verified(rig)).result == "differs"
    assert (await verified(rig, repair=True)).result == "complete"
    await rig.assert_truth()


async def test_what_a_repair_leaves_is_no_repair_done(rig: Rig) -> None:
    await rig.sync()
    for number in (await numbers(rig))[:20]:
        rig.control.vanish(registration_id=number)
    found = await verified(rig, repair=True)
    assert (found.result, found.repair) == ("differs", "failed")
    assert "--accept-missing" in (found.repair_error or "")


async def test_the_list_of_a_wrong_secret_is_nobodys(rig: Rig) -> None:
    await rig.sync()
    rig.control.add_event(rig.control.add_race("Somebody's"))
    await rig.rotate("not-the-secret")
    found = await all_verified(rig)
    assert [(one.race_id, one.result) for one in found.races] == [(RACE, "failed")]
    assert found.exit_status == 1


async def test_a_list_that_cannot_be_read_is_told(rig: Rig) -> None:
    await rig.sync()
    rig.control.fault("error", code=3, match={"endpoint": "races"})
    found = await all_verified(rig)
    assert [one.result for one in found.races] == ["complete"]
    assert "could not be read" in found.errors[0]
    assert found.exit_status == 1


async def test_a_sync_between_two_reads_is_no_difference(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.sync()
    rig.control.assign_bib(PERSON, "77", silent=True)
    read = Reading.read

    async def read_and_sync(reading: Reading) -> Found:
        found = await read(reading)
        assert [one.field for one in found.differences] in (["bib_num"], [])
        await rig.sync(force_full=True)
        return found

    monkeypatch.setattr(Reading, "read", read_and_sync)
    assert (await verified(rig)).differences == []
