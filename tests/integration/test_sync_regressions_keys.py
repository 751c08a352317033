"""What once went wrong with keys, waits and lanes: stopped too soon or for ever, waits by the wrong clock."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest

from startlist.store import history, partners
from startlist.store.cursors import lock_race
from startlist.store.database import Connection
from startlist.sync.progress import Progress
from tests.support import MakeSettings, terminate
from tests.syncing import PERSON, RACE, Rig

HOUR = 3605  # a little more, as calls count


async def add_race(rig: Rig, key: str = "Peak Timing") -> int:
    """One more race of a key, with an event later than those of the first race, and three runners."""
    race: int = rig.control.add_race("The other race", keys=[key])
    rig.control.register(rig.control.add_event(race, in_days=20), 3)
    return race


async def add_partner(rig: Rig, kind: str = "legacy") -> int:
    """A second partner with a race of its own; the race."""
    rig.control.add_partner("Chip & Go", kind)
    race = await add_race(rig, "Chip & Go")
    await rig.adopt()
    return race


async def leave(rig: Rig, calls: int, credential_id: int = 1) -> None:
    """Let a credential have so many calls left in this hour."""
    await rig.conn.execute(
        "update partner_provider_credentials set calls_per_hour = %s + (select count(*) from api_calls"
        " where credential_id = %s) where credential_id = %s",
        [calls, credential_id, credential_id],
    )


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_a_race_that_was_taken_away_does_not_stop_a_key_of_one_race(rig: Rig) -> None:
    other = await add_race(rig)
    await rig.sync()
    rig.control.unshare(RACE, "Peak Timing")  # not listed any more, but known, and so asked for first
    await rig.pass_time(2 * HOUR)
    rig.control.register(rig.control.truth(other)["race"]["events"][0]["event_id"])
    done = await rig.sync()
    assert [call["race_id"] for call in rig.calls if call["error_code"] == 7] == [RACE]
    assert [failure["race_id"] for failure in done.failed_syncs()] == [RACE]
    assert (await rig.credential())["stopped_at"] is None
    await rig.assert_truth(other)


async def test_one_refusal_of_two_listed_races_stops_nothing_and_two_do(rig: Rig) -> None:
    other = await add_race(rig)
    await rig.sync()
    for refused, stopped in (([RACE], False), ([RACE, other], True)):
        await rig.pass_time(2 * HOUR)
        for race in refused:
            rig.control.fault("error", code=7, match={"endpoint": "participants", "race_id": race}, times=None)
        assert (await rig.sync()).exit_status == 1
        assert ((await rig.credential())["stopped_at"] is not None) is stopped


async def test_a_key_that_lists_nothing_any_more_is_stopped_by_three_refusals(rig: Rig) -> None:
    for race in [RACE, *[await add_race(rig) for _ in range(4)]]:
        await rig.sync(race_id=race)
        rig.control.unshare(race, "Peak Timing")
    await rig.pass_time(2 * HOUR)
    done = await rig.sync()
    assert rig.endpoints() == {"races": 1, "participants": 3}
    assert (await rig.credential())["stopped_at"] is not None
    assert "startlist partner rotate 1" in done.failed_syncs()[0]["error"]


@pytest.mark.parametrize("code", [201, 301])
async def test_a_stopped_key_whose_last_race_is_gone_recovers(rig: Rig, code: int) -> None:
    await add_race(rig)
    await rig.sync()
    last = await rig.one("select race_id, event_ids from sync_history order by sync_history_id desc limit 1")
    await rig.conn.execute(
        "update partner_provider_credentials set stopped_at = now(), stopped_reason = 'refused for a while'"
    )
    if code == 201:
        rig.control.delete_race(last["race_id"])
    else:
        for event_id in last["event_ids"]:
            rig.control.remove_event(event_id)
    assert (await rig.sync()).exit_status == 1
    assert rig.calls == []
    await rig.pass_time(HOUR)
    done = await rig.sync()
    assert rig.calls[0]["error_code"] == code
    assert [failure for failure in done.failed_syncs() if failure["race_id"] is None] == []
    assert (await rig.credential())["stopped_at"] is None
    assert (await rig.sync()).exit_status == 0


# -- what changes while a run waits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls_left", [0, 1])
async def test_a_partner_removed_while_it_waits_costs_the_others_nothing(rig: Rig, calls_left: int) -> None:
    """With no call left its race list waits, with one its pass."""
    race = await add_partner(rig)
    await rig.sync()
    rig.control.register(rig.control.truth(race)["race"]["events"][0]["event_id"])
    await leave(rig, calls_left)

    async def sleep(seconds: float) -> None:
        await partners.remove(rig.database, 1)

    done = await rig.sync(sleep=sleep)
    assert (done.status, done.error) == ("failed", None)
    assert {failure["timing_partner_id"] for failure in done.failed_syncs()} == {1}
    assert "was removed meanwhile" in done.failed_syncs()[0]["error"]
    await rig.assert_truth(race, partner=2)
    assert await rig.rows("select distinct timing_partner_id as id from runsignup_races") == [{"id": 2}]


async def test_a_partner_removed_by_who_holds_its_race_costs_the_others_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    race = await add_partner(rig)
    await rig.sync()
    record_skipped = history.record_skipped

    async def removed_before(conn: Connection, **values: Any) -> None:
        await rig.conn.execute("delete from timing_partners where timing_partner_id = 1")
        await record_skipped(conn, **values)

    monkeypatch.setattr(history, "record_skipped", removed_before)
    async with await rig.database.connect(name="holder") as holder:
        assert await lock_race(rig.database, holder, 1, RACE)
        done = await rig.sync()
    assert (done.status, done.error) == ("failed", None)
    assert "was removed meanwhile" in done.failed_syncs()[0]["error"]
    await rig.assert_truth(race, partner=2)


async def test_a_refusal_of_the_old_secret_does_not_stop_the_new_one(rig: Rig) -> None:
    race = await add_partner(rig, "v2")
    await rig.sync()
    (key,) = [key for key in rig.control.partners() if key["partner"] == "Chip & Go"]
    await leave(rig, 1, credential_id=2)

    async def sleep(seconds: float) -> None:
        rig.control.set_key(key["key"], "fresh-secret")
        await rig.rotate("fresh-secret", partner=2)
        await rig.pass_time(seconds)

    done = await rig.sync(sleep=sleep)
    assert any(call["error_code"] == 6 for call in rig.calls)
    assert done.exit_status == 1
    credential = await rig.credential(2)
    assert (credential["stopped_at"], credential["verified_at"]) == (None, None)
    rig.control.register(rig.control.truth(race)["race"]["events"][0]["event_id"])
    assert (await rig.sync()).exit_status == 0
    await rig.assert_truth(race, partner=2)


async def test_a_success_of_the_old_secret_does_not_verify_the_new_one(rig: Rig) -> None:
    await rig.sync()
    await leave(rig, 1)

    async def sleep(seconds: float) -> None:
        await rig.rotate("not the secret")
        await rig.pass_time(seconds + 5)  # the calls were made one after the other

    assert (await rig.sync(sleep=sleep)).exit_status == 0  # it began with the old secret, which still holds
    assert (await rig.credential())["verified_at"] is None
    assert (await rig.sync()).exit_status == 1
    assert (await rig.credential())["verified_at"] is None


# -- how long a wait is ------------------------------------------------------------------------------------------------


class Ahead(datetime):
    """A clock that is ten minutes ahead of the database's."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(minutes=10)


@pytest.mark.parametrize("calls_left", [0, 1])
async def test_waits_are_by_the_databases_clock(rig: Rig, monkeypatch: pytest.MonkeyPatch, calls_left: int) -> None:
    await rig.sync()
    for module in ("context", "gate", "work", "race"):
        monkeypatch.setattr(f"startlist.sync.{module}.datetime", Ahead, raising=False)
    await leave(rig, calls_left)

    async def sleep(seconds: float) -> None:
        assert len(rig.slept) < 10
        await rig.sleep(seconds)

    assert (await rig.sync(sleep=sleep)).exit_status == 0
    assert rig.slept[0] == pytest.approx(HOUR, abs=60)
    assert sum(rig.slept[1:]) < 5  # until the second of the calls of an hour ago is free too
    assert len([row for row in await rig.passes() if row[2] == "waiting"]) == calls_left


async def test_the_race_list_is_waited_for_as_often_as_needed(rig: Rig, make_settings: MakeSettings) -> None:
    await rig.sync()
    rig.settings = make_settings(api_url=rig.sandbox.url, calls_per_hour=4)  # as many as were made

    async def sleep(seconds: float) -> None:
        await rig.sleep(seconds)
        if len(rig.slept) < 6:  # another process was quicker
            await rig.conn.execute(
                "insert into api_calls (credential_id, endpoint) select 1, 'race' from generate_series(1, 4)"
            )

    assert (await rig.sync(sleep=sleep)).exit_status == 0
    assert len([seconds for seconds in rig.slept if seconds > 5]) == 6
    assert rig.endpoints() == {"races": 1, "participants": 1, "removed_participants": 1}
    assert [row for row in await rig.passes() if row[2] == "waiting"] == []  # it was the list that waited


async def test_a_throttled_race_list_is_asked_for_three_times_more(rig: Rig) -> None:
    rig.control.fault("error", code=14, match={"endpoint": "races"}, times=None)
    done = await rig.sync(sleep=rig.sleep)
    assert done.exit_status == 1
    assert rig.endpoints() == {"races": 4}
    assert [round(seconds, -1) for seconds in rig.slept] == [60, 120, 240]
    (failure,) = done.failed_syncs()
    assert "the race list could not be read" in failure["error"]


# -- lanes -------------------------------------------------------------------------------------------------------------


async def test_a_lost_lane_closes_the_pass_as_failed(rig: Rig) -> None:
    await rig.sync()
    rig.control.edit(PERSON, last_name="Edited")

    class Losing(Progress):
        calls = 0

        def call_made(self, timing_partner_id: int, credential_id: int, calls_left: int) -> None:
            self.calls += 1
            if self.calls == 3:  # the removed list was answered, and is not written down yet
                terminate(rig.database.conninfo, "startlist lane%")

    done = await rig.sync(progress=Losing())
    assert done.exit_status == 1
    assert done.error is not None
    last: dict[str, Any] = await rig.last_pass()
    assert (last["status"], last["error_message"]) == ("failed", str(done.error))
    assert last["finished_at"] is not None
    assert (await rig.sync()).exit_status == 0
    assert rig.endpoints() == {"races": 1, "removed_participants": 1}
    await rig.assert_truth()
