"""`bibs lookup` end to end: a bib in the sandbox, synced or not, compared by the installed command."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from startlist.store.database import Database
from tests.support import Cli, MakeSettings, Result
from tests.syncing import FIRST, PERSON, RACE, SECOND, Rig


class Desk:
    """A synced sandbox in the background, and the command beside it."""

    def __init__(self, cli: Cli, database: Database, make_settings: MakeSettings) -> None:
        self._cli = cli
        self._runner = asyncio.Runner()
        self._open = Rig.open(database, make_settings)
        self.rig: Rig = self._runner.run(self._open.__aenter__())
        self.control = self.rig.control

    def close(self) -> None:
        self._runner.run(self._open.__aexit__(None, None, None))
        self._runner.close()

    def sync(self, **options: Any) -> None:
        self._runner.run(self.rig.sync(**options))

    def adopt(self) -> None:
        """Make the sandbox's new keys known."""
        self._runner.run(self.rig.adopt())

    def sql(self, query: str) -> list[dict[str, Any]]:
        return self._runner.run(self.rig.rows(query))

    def lookup(self, bib: object, *arguments: object, race: int = RACE) -> Result:
        env = {"STARTLIST_API_URL": self.rig.sandbox.url}
        return self._cli("bibs", "lookup", race, bib, *arguments, env=env)


@pytest.fixture
def desk(cli: Cli, database: Database, make_settings: MakeSettings) -> Iterator[Desk]:
    opened = Desk(cli, database, make_settings)
    opened.control.assign_bib(PERSON, 101)
    opened.sync()
    yield opened
    opened.close()


def test_the_same_here_and_there_costs_one_call_that_is_counted(desk: Desk) -> None:
    desk.control.reset_log()
    shown = desk.lookup(101)
    assert (shown.code, shown.stderr) == (0, "")
    assert f"registration {PERSON}, event {FIRST}): the same in RunSignup and here" in shown.stdout
    (call,) = desk.control.log()
    assert (call["params"]["search_bib"], call["event_ids"]) == ("101", [FIRST, SECOND])
    (counted,) = desk.sql("select * from api_calls where endpoint = 'search-bib'")
    assert (counted["race_id"], counted["http_status"], counted["run_id"]) == (RACE, 200, None)
    document = desk.lookup(101, "--json").json
    assert (document["verdict"], document["bib"], document["timing_partner_id"]) == ("same", "101", 1)
    assert document["registrations"][0]["stored_modified"] == document["registrations"][0]["runsignup_modified"]


def test_what_differs_is_shown_field_by_field(desk: Desk) -> None:
    desk.control.edit(PERSON, last_name="Changed", city="Elsewhere", race_fee="$1,055.00", silent=True)
    shown = desk.lookup(101)
    assert shown.code == 1
    assert "stored otherwise than RunSignup has it" in shown.stdout
    assert f"--race {RACE}" in shown.stderr
    fields = {
        one["name"]: one["runsignup"] for one in desk.lookup(101, "--json").json["registrations"][0]["differences"]
    }
    assert fields == {"last_name": "Changed", "address.city": "Elsewhere", "payment_info.race_fee": 1055.00}
    desk.sync(force_full=True)
    assert desk.lookup(101).code == 0


def test_a_bib_that_is_only_there(desk: Desk) -> None:
    (new,) = desk.control.register(SECOND, bib_num=202)
    shown = desk.lookup(202)
    assert shown.code == 1
    assert f"registration {new}, event {SECOND}): only in RunSignup: not stored" in shown.stdout
    desk.sync()
    assert desk.lookup(202).code == 0


def test_a_bib_that_is_only_here(desk: Desk) -> None:
    desk.control.clear_bib(PERSON)
    desk.control.assign_bib(PERSON + 1, 101)
    document = desk.lookup(101, "--json")
    assert document.code == 1
    assert document.json["verdict"] == "differs"
    assert {one["registration_id"]: one["verdict"] for one in document.json["registrations"]} == {
        PERSON: "only_here",
        PERSON + 1: "differs",
    }
    desk.control.refund(PERSON + 1)
    shown = desk.lookup(101)
    assert "only here: in RunSignup this registration does not have the bib" in shown.stdout


def test_one_who_is_back_in_runsignup_but_removed_here(desk: Desk) -> None:
    desk.control.refund(PERSON)
    desk.sync()
    desk.control.restore(PERSON, silent=True)
    (one,) = desk.lookup(101, "--json").json["registrations"]
    assert one["differences"][0] == {"name": "state", "stored": "removed (removed)", "runsignup": "active"}


def test_a_bib_that_nobody_has(desk: Desk) -> None:
    shown = desk.lookup(999)
    assert shown.code == 1
    assert "Nobody has bib 999" in shown.stdout
    assert desk.lookup(999, "--json").json["registrations"] == []


def test_a_race_of_two_partners_needs_a_choice(desk: Desk, cli: Cli) -> None:
    other = desk.control.add_partner("Best Timing")
    desk.control.share(RACE, other["key"])
    desk.adopt()
    desk.sync()
    unclear = desk.lookup(101)
    assert (unclear.code, unclear.stdout) == (2, "")
    for said in ("1 (Peak Timing)", "2 (Best Timing)", "--timing-partner"):
        assert said in unclear.stderr
    assert desk.lookup(101, "--timing-partner", 2).code == 0
    assert desk.control.log()[-1]["key"] == "Best Timing"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((101, "--timing-partner", 7), "timing partner 7"), (("A12",), "a number"), (("-1",), "")],
)
def test_questions_that_cannot_be_asked(desk: Desk, arguments: tuple[object, ...], says: str) -> None:
    refused = desk.lookup(*arguments)
    assert (refused.code, refused.stdout) == (2, "")
    assert says in refused.stderr


def test_a_race_that_is_not_stored(desk: Desk) -> None:
    refused = desk.lookup(1, race=5)
    assert refused.code == 2
    assert "race 5 is not stored" in refused.stderr


def test_keys_that_do_not_work(desk: Desk) -> None:
    desk.control.fault("error", code=7, times=1)
    denied = desk.lookup(101)
    assert denied.code == 1
    assert "permission denied" in denied.stderr
    desk.control.fault("error", code=6, times=1)
    assert desk.lookup(101).code == 1
    stopped = desk.lookup(101)
    assert stopped.code == 1
    assert "startlist partner rotate 1" in stopped.stderr
    assert desk.control.partners()[0]["secret"] not in denied.stderr + stopped.stderr


def test_a_spent_budget_says_until_when(desk: Desk) -> None:
    desk.sql("update partner_provider_credentials set calls_per_hour = 2 returning credential_id")
    spent = desk.lookup(101)
    assert spent.code == 1
    assert "has used its 2 calls an hour; free again" in spent.stderr
