"""`verify --account`: what a sound account shows, and each way in which one can fail to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from startlist.errors import ConfigurationError
from startlist.store.cursors import lock_race
from startlist.sync.plan import Options
from startlist.sync.progress import Progress
from startlist.sync.verify.account import WINDOWS as WINDOWS_ASKED
from startlist.sync.verify.account import Account, accept
from tests.syncing import PERSON, RACE, Rig

WINDOWS = ["changed in 24 hours", "changed in 7 days", "changed in 30 days"]
CHECKS = ["authentication", "full pass", *WINDOWS, "bib search"]


async def accepted(rig: Rig, *, progress: Progress | None = None, **options: Any) -> tuple[list[Account], int]:
    rig.control.reset_log()
    async with rig.context(progress=progress) as context:
        done = await accept(context, Options(**options))
    await rig.check()
    return done.accounts, done.exit_status


def results(account: Account) -> dict[str, str]:
    return {one.check: one.result for one in account.checks}


def found(account: Account, check: str) -> str:
    return next(one.found for one in account.checks if one.check == check)


async def test_a_sound_account_passes_every_check_and_leaves_its_certificate(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 1207)
    (account,), status = await accepted(rig)
    assert (results(account), status) == (dict.fromkeys(CHECKS, "pass"), 0)
    assert found(account, "full pass") == "1 races, 2 events, 12 registrations, 2 pages, 4 calls"
    assert found(account, "bib search") == f"bib 1207 of race {RACE} is registration {PERSON}, here and there"
    row = await rig.one("select * from account_verifications")
    assert (row["account_verification_id"], row["result"]) == (account.account_verification_id, "pass")
    assert [one["check"] for one in row["checks"]] == CHECKS
    asked = [call for call in rig.control.log() if "modified_after_timestamp" in call["params"]]
    assert len(asked) == 4, "once for the key, and once for each window"
    runs = await rig.rows("select command, trigger, status from sync_runs order by run_id")
    assert [(r["command"], r["trigger"], r["status"]) for r in runs] == [
        ("verify", "verify", "completed"), ("sync", "verify", "completed"),
    ]  # fmt: skip
    await rig.assert_truth()


async def test_a_filter_that_answers_nothing_where_the_store_knows_of_changes_fails(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 1207)
    rig.control.fault("empty", match={"endpoint": "participants", "incremental": True}, times=None)
    (account,), status = await accepted(rig)
    assert status == 1
    assert {check for check, result in results(account).items() if result == "fail"} == set(WINDOWS)
    assert f"race {RACE}" in found(account, WINDOWS[0])
    assert "were not answered" in found(account, WINDOWS[0])
    figures = next(one.figures for one in account.checks if one.check == WINDOWS[0])
    assert (figures["answered"], figures["wrong_race_ids"]) == (0, [RACE])
    assert figures["stored"] == figures["unanswered"] > 0


async def test_zero_proves_nothing_where_nothing_changed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WINDOWS_ASKED, "24 hours", timedelta(seconds=-5))
    (account,), status = await accepted(rig)
    assert (results(account)[WINDOWS[0]], results(account)[WINDOWS[2]], status) == ("not_shown", "pass", 0)


async def test_a_filter_that_answers_what_did_not_change_fails(rig: Rig) -> None:
    await rig.sync()
    await rig.conn.execute(
        "create function keep() returns trigger language plpgsql as $$ begin"
        " new.last_modified = now() - interval '90 days'; return new; end $$;"
        "create trigger keep before insert or update on runsignup_participants for each row execute function keep();"
        "update runsignup_participants set content_hash = content_hash"
    )
    (account,), status = await accepted(rig)
    assert (results(account)[WINDOWS[0]], status) == ("fail", 1)
    assert "that the store does not have as changed then" in found(account, WINDOWS[0])


class Meanwhile(Progress):
    """Does something between the full pass and what is asked after it."""

    def __init__(self, change: object) -> None:
        self.change = change
        self.planned = 0

    def partner_planned(self, timing_partner_id: int, company_name: str, races: int) -> None:
        self.planned += 1
        if self.planned == 2:
            assert callable(self.change)
            self.change()


async def test_what_is_changed_or_removed_while_it_is_read_is_no_fault(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 1207)

    def changed() -> None:
        rig.control.refund(PERSON)
        rig.control.edit(PERSON + 1, last_name="Later")

    (account,), status = await accepted(rig, progress=Meanwhile(changed))
    assert {results(account)[window] for window in WINDOWS} == {"pass"}
    assert (results(account)["bib search"], status) == ("not_shown", 0), "the one bib was refunded"


async def test_a_bib_that_runsignup_does_not_find_fails(rig: Rig) -> None:
    rig.control.assign_bib(PERSON, 1207)
    rig.control.fault("empty", match={"endpoint": "participants", "incremental": False}, skip=1, times=None)
    (account,), status = await accepted(rig)
    assert ({c for c, r in results(account).items() if r != "pass"}, status) == ({"bib search"}, 1)
    assert "does not find bib 1207" in found(account, "bib search")


async def test_a_wrong_key_fails_alone_and_stores_nothing(rig: Rig) -> None:
    other = rig.control.add_partner("Other Timing", "legacy")["key"]
    race = rig.control.add_race("Theirs", keys=[other])
    rig.control.register(rig.control.add_event(race, in_days=3), 2)
    await rig.adopt()
    rig.control.set_key(other, "another secret")
    accounts, status = await accepted(rig)
    assert status == 1
    assert [results(account)["authentication"] for account in accounts] == ["pass", "fail"]
    assert list(results(accounts[1])) == ["authentication"]
    assert accounts[1].account_verification_id is not None
    assert (await rig.one("select count(*) as n from runsignup_races where timing_partner_id = 2"))["n"] == 0


async def test_a_key_without_a_race_shows_nothing(rig: Rig) -> None:
    rig.control.add_partner("Other Timing", "legacy")
    await rig.adopt()
    accounts, status = await accepted(rig, timing_partner_id=2)
    assert (results(accounts[0]), status) == ({"authentication": "fail"}, 1)
    assert "a race list alone proves nothing" in found(accounts[0], "authentication")


async def test_a_second_key_of_a_partner_is_proved_though_the_first_reads_their_races(rig: Rig) -> None:
    rig.control.share(RACE, rig.control.add_partner("Peak Timing", "v2")["key"])
    await rig.adopt()
    accounts, status = await accepted(rig)
    assert [results(account)["authentication"] for account in accounts] == ["pass", "pass"]
    assert (results(accounts[1])["full pass"], status) == ("not_shown", 0)
    assert "1 that it lists are read with another key" in found(accounts[1], "full pass")


@pytest.mark.parametrize("broken", ["filter", "search"])
async def test_each_key_answers_for_itself_though_another_reads_its_races(broken: str, rig: Rig) -> None:
    second = rig.control.add_partner("Peak Timing", "v2")
    rig.control.share(RACE, second["key"])
    await rig.adopt()
    rig.control.assign_bib(PERSON, 1207)
    accounts, status = await accepted(rig)
    assert (results(accounts[1]), status) == (dict.fromkeys(CHECKS, "pass") | {"full pass": "not_shown"}, 0)
    at = {"endpoint": "participants", "key": second["name"], "incremental": broken == "filter"}
    if broken == "filter":
        rig.control.fault("empty", match=at, times=None)
    else:
        rig.control.fault("error", code=7, match=at, times=None)
    accounts, status = await accepted(rig)
    assert (results(accounts[0]), status) == (dict.fromkeys(CHECKS, "pass"), 1)
    wrong = WINDOWS if broken == "filter" else ["bib search"]
    assert [name for name, result in results(accounts[1]).items() if result == "fail"] == wrong


async def test_a_race_that_is_held_or_cannot_be_read_is_not_a_full_pass(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("startlist.sync.race.LOCK_WAIT_SECONDS", 0.05)
    async with await rig.database.connect(name="holder") as holder:
        assert await lock_race(rig.database, holder, 1, RACE)
        (held,), status = await accepted(rig)
    assert (results(held)["full pass"], status) == ("fail", 1)
    assert f"not complete: race {RACE}" in found(held, "full pass")
    rig.control.fault("http", status=500, match={"endpoint": "removed_participants"}, times=None)
    (failed,), status = await accepted(rig, race_id=RACE)
    assert (results(failed)["full pass"], status) == ("fail", 1)
    rig.control.clear_faults()
    (sound,), status = await accepted(rig, race_id=RACE)
    assert (results(sound)["full pass"], status) == ("pass", 0)


async def test_a_race_is_a_matter_of_those_who_list_it_alone(rig: Rig) -> None:
    other = rig.control.add_partner("Other Timing", "legacy")["key"]
    race = rig.control.add_race("Theirs", keys=[other])
    rig.control.register(rig.control.add_event(race, in_days=3), 2)
    await rig.adopt()
    accounts, status = await accepted(rig, race_id=race)
    assert ([account.timing_partner_id for account in accounts], status) == ([2], 0)
    assert {call["race_id"] for call in rig.control.log()} == {None, race}
    with pytest.raises(ConfigurationError, match="--timing-partner"):
        await accepted(rig, race_id=999)


async def test_a_race_list_that_cannot_be_read_for_the_full_pass_is_no_full_pass(rig: Rig) -> None:
    rig.control.fault("http", status=500, match={"endpoint": "races"}, skip=1, times=None)
    (account,), status = await accepted(rig)
    assert (results(account)["authentication"], results(account)["full pass"], status) == ("pass", "fail", 1)
    assert "the race list could not be read" in found(account, "full pass")
