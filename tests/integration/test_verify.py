"""`verify` finds every planted difference and no other, mends them, and is not misled by a sync or by time."""

from __future__ import annotations

import pytest

from startlist.sync.plan import Options
from startlist.sync.verify.race import Found, Reading
from startlist.sync.verify.run import Verified, verify
from tests.syncing import FIRST, PERSON, RACE, Rig


async def verified(rig: Rig, *, repair: bool = False) -> Verified:
    async with rig.context() as context:
        (found,) = await verify(context, Options(race_id=RACE), repair=repair)
    return found


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


async def test_a_silent_edit_is_a_difference_and_a_loud_one_comes_with_the_next_sync(rig: Rig) -> None:
    await rig.sync()
    rig.control.assign_bib(PERSON, "77", silent=True)
    found = await verified(rig)
    assert [one.field for one in found.differences] == ["bib_num"]
    assert (await verified(rig, repair=True)).result == "complete"
    rig.control.assign_bib(PERSON + 1, "78")
    found = await verified(rig)
    assert (found.result, found.newer) == ("complete", 1)


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
