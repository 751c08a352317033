"""`quarantine retry`: what was set aside is merged as a sync would, and never over what is newer."""

from __future__ import annotations

import json
from typing import Any

from startlist.store import quarantine
from startlist.store.reading import Filters
from startlist.sync.retry import Fate, retry
from tests.syncing import FIRST, RACE, Rig

Row = dict[str, Any]


async def sent(rig: Rig, registration_id: int) -> Row:
    """A registration as RunSignup sends it."""
    rows = rig.control.truth(RACE)["events"][FIRST]["active"]
    row = next(dict(row) for row in rows if row["registration_id"] == registration_id)
    row["user"] = {name: value for name, value in row["user"].items() if name != "profile_image_url"}
    return {name: value for name, value in row.items() if name not in ("registration_notes", "est_finish_time")}


async def set_aside(rig: Rig, raw: Row | str, *, endpoint: str = "participants", event: int | None = FIRST,
                    race: int | None = RACE) -> None:  # fmt: skip
    """As an older program would have done, which could not read the record."""
    text = raw if isinstance(raw, str) else json.dumps(raw)
    number = raw.get("registration_id") if isinstance(raw, dict) else None
    await rig.conn.execute(
        "insert into runsignup_quarantine (timing_partner_id, race_id, event_id, registration_id, endpoint, reason,"
        " raw, raw_hash) values (1, %s, %s, %s, %s, 'old reason', %s, sha256(convert_to(%s, 'utf8')))",
        [race, event, number, endpoint, text, text],
    )


async def try_again(rig: Rig) -> list[Fate]:
    records = await quarantine.records(rig.conn, Filters(), raw=True)
    records.sort(key=lambda one: one.quarantine_id)
    done = await retry(rig.database, records)
    return [one.fate for one in sorted(done, key=lambda one: one.quarantine_id)]


async def still_open(rig: Rig) -> list[str]:
    return [one.reason for one in await quarantine.records(rig.conn, Filters())]


async def test_a_lost_registration_comes_back_as_a_sync_would_store_it(rig: Rig) -> None:
    await rig.sync()
    row = await sent(rig, (await rig.rows("select min(registration_id) as n from runsignup_participants"))[0]["n"])
    await rig.conn.execute("delete from runsignup_participants where registration_id = %s", [row["registration_id"]])
    del row["event_id"]  # the element around it named the event
    await set_aside(rig, row)
    assert await try_again(rig) == [Fate.STORED]
    await rig.assert_truth()
    assert await rig.changes() == [("added", row["registration_id"])]
    assert await still_open(rig) == []
    assert await try_again(rig) == []
    await rig.sync(force_full=True)  # and a pass finds nothing to do
    assert (await rig.last_pass())["silent_edits"] == 0


async def test_a_newer_version_is_merged_and_its_bib_is_news(rig: Rig) -> None:
    await rig.sync()
    row = await sent(rig, (await rig.rows("select min(registration_id) as n from runsignup_participants"))[0]["n"])
    await set_aside(rig, row | {"bib_num": 4711, "last_modified": row["last_modified"] + 10})
    assert await try_again(rig) == [Fate.STORED]
    assert await rig.changes() == [("updated", row["registration_id"])]
    assert await rig.bibs() == [("assigned", row["registration_id"], None, "4711")]


async def test_an_older_version_never_overwrites_a_newer_one(rig: Rig) -> None:
    await rig.sync()
    written = await rig.written()
    row = await sent(rig, (await rig.rows("select min(registration_id) as n from runsignup_participants"))[0]["n"])
    await set_aside(rig, row | {"bib_num": 4711, "last_modified": row["last_modified"] - 10})
    await set_aside(rig, row | {"bib_num": 4712, "last_modified": None})
    assert await try_again(rig) == [Fate.SUPERSEDED, Fate.UNFIT]
    assert await rig.written() == written
    assert await rig.changes() == []
    (undated,) = await quarantine.records(rig.conn, Filters())
    assert undated.quarantine_id == 2


async def test_a_removed_record_removes_and_an_older_removal_does_not(rig: Rig) -> None:
    await rig.sync()
    ids = [row["registration_id"] for row in await rig.rows("select registration_id from runsignup_participants"
                                                           " where removed_at is null order by 1 limit 2")]  # fmt: skip
    row = await sent(rig, ids[0])
    removed = {
        "user": row["user"], "removed_reason": "removed", "new_registration_id": None,
        "registration_id": ids[0], "last_modified_ts": row["last_modified"] + 5,
    }  # fmt: skip
    await set_aside(rig, removed, endpoint="removed-participants")
    other = await sent(rig, ids[1])
    older = removed | {"registration_id": ids[1], "last_modified_ts": other["last_modified"] - 5}
    await set_aside(rig, older, endpoint="removed-participants")
    assert await try_again(rig) == [Fate.STORED, Fate.STORED]
    assert (await rig.registration(ids[0]))["removed_reason"] == "removed"
    assert (await rig.registration(ids[1]))["removed_at"] is None
    assert await rig.changes() == [("removed", ids[0])]


async def test_what_still_does_not_fit_stays_with_the_reason_of_today(rig: Rig) -> None:
    await rig.sync()
    written = await rig.written()
    await set_aside(rig, {"registration_id": 5, "user": None})
    await set_aside(rig, '"?"')
    await set_aside(rig, {"registration_id": 6, "user": {}}, event=None)
    await set_aside(rig, {"event_id": "x"}, endpoint="race")
    await set_aside(rig, {"race_id": "x"}, endpoint="races", race=None)
    assert await try_again(rig) == [Fate.BAD, Fate.BAD, Fate.BAD, Fate.UNFIT, Fate.UNFIT]
    reasons = await still_open(rig)
    assert len(reasons) == 5
    assert reasons.count("old reason") == 2
    assert await rig.written() == written


async def test_a_race_that_a_pass_holds_is_left_alone(rig: Rig, monkeypatch: Any) -> None:
    await rig.sync()
    monkeypatch.setattr("startlist.sync.retry.LOCK_WAIT_SECONDS", 0)
    await set_aside(rig, {"registration_id": 5, "user": {}})
    key = rig.database.lock_key("race", 1, RACE)
    await rig.conn.execute("select pg_advisory_lock(%s)", [key])
    assert await try_again(rig) == [Fate.HELD]
    await rig.conn.execute("select pg_advisory_unlock(%s)", [key])
    assert await still_open(rig) == ["old reason"]


async def test_nothing_of_an_event_before_its_first_full_pass_is_news(rig: Rig) -> None:
    await rig.sync()
    row = await sent(rig, (await rig.rows("select min(registration_id) as n from runsignup_participants"))[0]["n"])
    await rig.conn.execute("delete from runsignup_participants")
    await rig.conn.execute("update runsignup_events set first_full_at = null")
    await rig.conn.execute("update sync_cursors set event_ids = '{}', last_full_at = null")
    await set_aside(rig, row)
    assert await try_again(rig) == [Fate.STORED]
    assert await rig.changes() == []
