"""`races`, `find`, `status`, `history`, `changes` and `bibs` as a user calls them, on rows as a sync leaves them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from startlist.store.database import Database
from tests.stored import Stored
from tests.support import Cli


@pytest.fixture
def stored(database: Database, database_url: str) -> Iterator[Stored]:
    """A database with two timing partners, Acme (1) and Best (2), and nothing else."""
    filler = Stored(database_url)
    filler.partner("Acme", "acme-key", verified_at=filler.at("0"))
    filler.partner("Best", "best-key-of-more-than-twelve")
    yield filler
    filler.close()


def lines(text: str) -> list[str]:
    """What stands below the headings of the last table."""
    return text.split("──\n")[-1].rstrip().splitlines()


# -- races -------------------------------------------------------------------------------------------------------------


def test_races_come_with_the_next_start_first_in_its_own_zone(cli: Cli, stored: Stored) -> None:
    stored.race(1, 10, "  Later  Run", timezone="America/New_York")
    stored.event(1, 10, 101, "30 days", timezone="Pacific/Honolulu")
    stored.race(1, 11, "Sooner")
    stored.event(1, 11, 111, "-3 hours", "10K")
    stored.event(1, 11, 112, "2 hours")
    stored.event(1, 11, 113, "1 hour", gone_at=stored.at("-1 day"))
    stored.race(2, 12, "Over")
    stored.event(2, 12, 121, "-40 days")
    stored.race(2, 13, "No date yet")
    shown = cli("races")
    assert shown.code == 0
    for name, line in zip(("Sooner", "Later", "Over", "No date"), lines(shown.stdout), strict=True):
        assert name in line
    assert f"{stored.at('30 days').astimezone():%Y-%m}" in shown.stdout
    sooner, later, over, _ = lines(shown.stdout)
    assert " HST" in later
    assert "Later Run" in later
    assert " MST" in sooner or " MDT" in sooner
    assert "(over)" in over
    assert "best-key…" in over  # long keys are shortened
    found = cli("races", "--json").json
    assert [race["race_id"] for race in found] == [11, 10, 12, 13]
    assert found[0]["start_time"] == stored.at("2 hours").strftime("%Y-%m-%dT") + found[0]["start_time"][11:]
    assert (found[0]["timezone"], found[0]["over"], found[0]["events"]) == ("America/Denver", False, 3)


def test_races_count_those_on_the_start_list(cli: Cli, stored: Stored) -> None:
    stored.race(1, 10)
    stored.event(1, 10, 101, "1 day")
    stored.event(1, 10, 102, "1 day")
    stored.cursor(1, 10, [101, 102])
    stored.registration(1, 10, 101, 1, bib_num="1")
    stored.registration(1, 10, 101, 2, bib_num="2", missing_since=stored.at("0"))
    stored.registration(1, 10, 102, 3)
    stored.registration(1, 10, 102, 4, bib_num="4", removed_at=stored.at("0"))
    (race,) = cli("races", "--json").json
    assert (race["active"], race["with_bib"], race["missing"]) == (3, 2, 1)
    assert (race["company_name"], race["principal"]) == ("Acme", "acme-key")
    complete = datetime.fromisoformat(race["complete_as_of"])
    assert abs(stored.at("-10 minutes") - complete) < timedelta(seconds=30)
    (race,) = cli("races", "--event", 102, "--json").json
    assert (race["events"], race["active"]) == (1, 1)
    (race,) = cli("races", "--no-counts", "--json").json
    assert (race["active"], race["with_bib"], race["missing"]) == (None, None, None)


def test_races_of_two_partners_are_two_lines(cli: Cli, stored: Stored) -> None:
    for partner in (1, 2):
        stored.race(partner, 10)
        stored.event(partner, 10, 101, "1 day")
        stored.registration(partner, 10, 101, partner)
    assert [race["timing_partner_id"] for race in cli("races", "--race", 10, "--json").json] == [1, 2]
    assert [race["company_name"] for race in cli("races", "--timing-partner", 2, "--json").json] == ["Best"]
    limited = cli("races", "--limit", 1, "--json")
    assert len(limited.json) == 1
    assert "--limit" in limited.stderr


def test_filters_that_cannot_match_say_so(cli: Cli, stored: Stored) -> None:
    unknown = cli("races", "--timing-partner", 9)
    assert (unknown.code, unknown.stdout) == (2, "")
    assert "no timing partner 9" in unknown.stderr
    for command in (["find", "lee"], ["bibs"]):
        none = cli(*command, "--race", 77)
        assert (none.code, none.stdout) == (0, "")
        assert "no race 77 is stored" in none.stderr


def test_races_since_leaves_out_those_that_started_before(cli: Cli, stored: Stored) -> None:
    for race, start in ((10, "-3 days"), (11, "1 day"), (12, "-1 hour")):
        stored.race(1, race)
        stored.event(1, race, race * 10, start)
    assert [race["race_id"] for race in cli("races", "--since", "1d", "--json").json] == [11, 12]
    assert "not a date" in cli("races", "--since", "yesterdayish").stderr


# -- find --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(stored: Stored) -> Stored:
    """Today's race (10), last year's (20) and next month's (30), each with an Ann Lee."""
    for race, start in ((10, "0"), (20, "-365 days"), (30, "30 days")):
        stored.race(1, race, f"Race {race}")
        stored.event(1, race, race * 10, start)
        stored.registration(
            1, race, race * 10, race, first_name="Ann", last_name="Lee", bib_num="12", gender="F", age=44
        )
    return stored


def test_find_shows_the_race_of_today_first(cli: Cli, desk: Stored) -> None:
    shown = cli("find", "12")
    assert [line.split("Race ")[1][:2] for line in lines(shown.stdout)] == ["10", "30", "20"]
    assert lines(shown.stdout)[0].split()[:6] == ["12", "Ann", "Lee", "F", "44", "active"]
    assert [one["race_id"] for one in cli("find", "12", "--since", "1d", "--json").json] == [10, 30]
    assert [one["race_id"] for one in cli("find", "12", "--limit", 1, "--json").json] == [10]


def test_find_says_where_a_runner_has_gone(cli: Cli, desk: Stored) -> None:
    desk.event(1, 10, 101, "0", "10K")
    desk.registration(1, 10, 101, 51, first_name="Mia", last_name="Moved", bib_num="51")
    desk.registration(
        1, 10, 100, 50, first_name="Mia", last_name="Moved", bib_num="50", removed_at=desk.at("0"),
        removed_reason="transferred", new_registration_id=51,
    )  # fmt: skip
    desk.registration(1, 10, 100, 60, first_name="Lost", last_name="Moved", missing_since=desk.at("-1 hour"))
    shown = lines(cli("find", "moved").stdout)
    assert "missing since" in shown[0]
    assert "active" in shown[1]
    assert "removed: transferred, now registration 51 in 10K bib 51" in shown[2]
    last = cli("find", "moved", "--json").json[2]
    assert (last["new_registration_id"], last["new_event_name"], last["new_bib_num"]) == (51, "10K", "51")


def test_find_knows_those_who_were_only_ever_seen_as_removed(cli: Cli, desk: Stored) -> None:
    removal = {"user": {"first_name": "Gone", "last_name": "Soon", "gender": "F"}}
    desk.registration(1, 10, 100, 70, removed_at=desk.at("0"), removed_reason="cleared", removal=removal)
    (line,) = lines(cli("find", "soon", "gone").stdout)
    assert "Gone Soon" in line
    assert "removed: cleared" in line


def test_a_name_cannot_steer_the_terminal(cli: Cli, desk: Stored) -> None:
    desk.registration(1, 10, 100, 80, first_name="\x1b[2JEvil\r\n", last_name="Eve\x07\x9b1m", bib_num="8\x1b0")
    desk.changed(1, 10, 100, 80, "updated", before={"email": "a\x1b[1m"}, after={"email": "b\x07"})
    desk.bib(1, 10, 100, 80, "assigned", new_bib="8\x1b0")
    for command in (["find", "evil"], ["changes"], ["bibs"]):
        shown = cli(*command)
        assert "Evil" in shown.stdout
        assert not [c for c in shown.stdout if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)]
    assert cli("find", "evil", "--json").json[0]["bib_num"] == "8\x1b0"


def test_find_of_nothing_is_no_error(cli: Cli, desk: Stored) -> None:
    none = cli("find", "nobody")
    assert (none.code, none.stdout) == (0, "")
    assert "Nothing found for nobody" in none.stderr
    assert cli("find", "nobody", "--json").json == []
    assert cli("find").code == 2


# -- status ------------------------------------------------------------------------------------------------------------


def current(stored: Stored, race: int = 10, *, start: str = "2 hours", partner: int = 1) -> None:
    """A race with one event that is read to the end."""
    stored.race(partner, race, f"Race {race}")
    stored.event(partner, race, race * 10, start)
    stored.cursor(partner, race, [race * 10])
    stored.ended(partner, race, "completed")


def problems(cli: Cli, *arguments: object) -> dict[int, list[str]]:
    """What `status --json` says is wrong with each race."""
    return {race["race_id"]: race["problems"] for race in cli("status", *arguments, "--json").json["races"]}


def test_status_tells_since_when_each_race_is_complete(cli: Cli, stored: Stored) -> None:
    current(stored)
    current(stored, 20, start="-2 hours")
    current(stored, 30, start="-20 days")  # over for good: not shown
    shown = cli("status")
    assert shown.code == 0
    assert "Nothing needs a look." in shown.stdout
    zone = stored.at("-10 minutes").astimezone().tzinfo
    assert zone is not None
    first, second = lines(shown.stdout)
    assert "Race 10" in first
    assert "Race 20" in second
    assert " 10 min " in first
    assert "MST" in first or "MDT" in first
    document = cli("status", "--json").json
    (race, _) = document["races"]
    assert 600 <= race["seconds_behind"] < 660
    assert race["participants_watermark"] == int(datetime.fromisoformat(race["complete_as_of"]).timestamp())
    assert (race["running"], race["last_status"], race["problems"]) == (None, "completed", [])
    key = document["credentials"][0]
    assert (key["principal"], key["calls_left"], key["calls_per_hour"]) == ("acme-key", 1000, 1000)
    assert [race["race_id"] for race in cli("status", "--race", 30, "--json").json["races"]] == [30]


def test_status_puts_what_is_wrong_first(cli: Cli, stored: Stored) -> None:
    current(stored, 10)
    current(stored, 20, start="20 days")
    stored.ended(1, 20, "failed", "-3 minutes", error_code=7, error_message="permission denied")
    shown = cli("status").stdout
    assert shown.index("Needs a look") < shown.index("Race 20") < shown.index("API keys") < shown.index("Race 10")
    assert "its last pass 3 min ago failed: permission denied (code 7)" in shown
    assert [race["race_id"] for race in cli("status", "--json").json["races"]] == [20, 10]
    # A race that another run held says nothing about it; a pass that succeeded since ends the trouble.
    stored.ended(1, 20, "skipped", "-2 minutes")
    assert "failed" in problems(cli)[20][0]
    stored.ended(1, 20, "completed", "-1 minute")
    assert problems(cli) == {10: [], 20: []}


def test_status_names_what_was_never_read(cli: Cli, stored: Stored) -> None:
    stored.race(1, 10, "New")
    stored.event(1, 10, 101, None)  # an event without a readable start counts
    stored.ended(1, 99, "failed", error_message="permission denied")  # its first pass failed: it is not stored
    current(stored, 20)
    stored.event(1, 20, 201, "1 day", "Kids' Mile")
    stored.event(1, 20, 202, "1 day", "Left", gone_at=stored.at("-1 day"))
    stored.event(1, 20, 203, "-9 days", "Over")
    found = problems(cli)
    assert found[10] == ["it was never read to the end"]
    assert found[99] == ["it was never read to the end", "its last pass 5 min ago failed: permission denied"]
    assert found[20] == ["not read yet: Kids' Mile (201)"]
    assert "99 (not stored, Acme)" in cli("status").stdout


def test_status_tells_a_running_pass_from_one_that_was_left(cli: Cli, stored: Stored, database: Database) -> None:
    for race in (10, 20):
        current(stored, race)
        stored.ended(1, race, "running", "-4 minutes", rows_received=2500, api_calls=3)
    stored.conn.execute("select pg_advisory_lock(%s)", [database.lock_key("race", 1, 10)])
    states = {race["race_id"]: race for race in cli("status", "--json").json["races"]}
    assert (states[10]["running"], states[10]["problems"]) == (True, [])
    assert states[10]["running_pid"] == stored.conn.info.backend_pid
    assert states[20]["running"] is False
    assert "left by a process that is gone" in states[20]["problems"][0]
    shown = cli("status").stdout
    assert "full pass for 4 min: 2500 rows, 3 calls" in shown
    assert "left 4 min ago" in shown


def test_status_shows_a_suspicion_and_how_to_accept_it(cli: Cli, stored: Stored) -> None:
    current(stored)
    times = {"since": "2026-01-01T00:00:00+00:00", "last_at": "2026-01-01T00:00:00+00:00"}
    suspicion = {**times, "tries": 2, "events": {"100": [150, 300]}}
    stored.conn.execute("update sync_cursors set suspicion = %s", [json.dumps(suspicion)])
    (said,) = problems(cli)[10]
    assert "event 100: 150 of 300" in said
    assert "startlist sync --timing-partner 1 --race 10 --accept-missing" in said


def test_status_shows_an_unfinished_pass(cli: Cli, stored: Stored) -> None:
    current(stored)
    checkpoint = {"kind": "full", "feed": "removed", "begun": "2026-01-01T00:00:00Z", "absent": [[100, 1]] * 50}
    stored.conn.execute("update sync_cursors set checkpoint = %s", [json.dumps(checkpoint)])
    (race,) = cli("status", "--json").json["races"]
    assert race["checkpoint"] == {"kind": "full", "feed": "removed", "begun": "2026-01-01T00:00:00Z"}
    assert race["problems"] == ["an unfinished full pass waits for the next sync to go on"]


def test_status_names_whose_newer_version_is_bad(cli: Cli, stored: Stored) -> None:
    current(stored, 30, start="-30 days")  # shown although it is over: something waits
    stored.registration(1, 30, 300, 5, first_name="Ann", last_name="Lee", bib_num="12")
    for number, registration in enumerate((5, 6, None)):
        stored.insert(
            "runsignup_quarantine", timing_partner_id=1, race_id=30, registration_id=registration, raw="{}",
            endpoint="participants", reason="no user", raw_hash=bytes([number]),
        )  # fmt: skip
    stored.insert(
        "runsignup_quarantine", timing_partner_id=2, endpoint="races", reason="no id", raw="{}", raw_hash=b"x"
    )
    (said,) = problems(cli)[30]
    assert said.startswith("3 records are in quarantine")
    assert said.endswith("an older version is stored of Ann Lee (bib 12, registration 5)")
    document = cli("status", "--json").json
    assert document["problems"] == ["timing partner 2: 1 records of the race list are in quarantine"]
    assert document["races"][0]["bad_registrations"][0]["last_name"] == "Lee"
    stored.conn.execute("update runsignup_quarantine set resolved_at = now()")
    assert problems(cli) == {}


def test_status_shows_keys_that_do_not_work(cli: Cli, stored: Stored) -> None:
    for key, change in (
        (1, "stopped_at = now(), stopped_reason = 'code 6'"),
        (2, "paused_until = now() + interval '5 minutes'"),
    ):
        stored.conn.execute(
            f"update partner_provider_credentials set {change} where credential_id = %s".encode(), [key]
        )
    stored.partner("Spent", "spent-key", calls_per_hour=2)
    stored.partner("Keyless")
    for _ in range(2):
        stored.insert("api_calls", credential_id=3, endpoint="races")
    shown = cli("status")
    assert shown.code == 0
    for said in (
        "(Acme): API key acme-key is stopped since",
        "code 6; give it the right secret: startlist partner rotate 1",
        "RunSignup asked API key best-key-of-more-than-twelve for patience until",
        "API key spent-key has used its 2 calls of this hour",
        "(Keyless) has no API key",
    ):
        assert said in shown.stdout
    only = cli("status", "--timing-partner", 3, "--json").json
    assert [key["calls_left"] for key in only["credentials"]] == [0]
    assert cli("status", "--timing-partner", 9).code == 2


def test_status_of_an_empty_database_says_how_to_begin(cli: Cli, database: Database) -> None:
    shown = cli("status")
    assert shown.code == 0
    assert "startlist partner add" in shown.stdout


# -- history -----------------------------------------------------------------------------------------------------------


def test_history_is_newest_first_with_every_column(cli: Cli, stored: Stored) -> None:
    stored.race(1, 10, "Turkey Trot")
    stored.ended(1, 10, "completed", "-3 days", event_ids=[101, 102], rows_received=99, rows_inserted=99, api_calls=2)
    stored.ended(2, 20, "failed", "-1 hour", sync_type="full_fallback", error_code=7, error_message="permission denied")
    stored.ended(1, 10, "running", "-10 seconds", sync_type="incremental", reason="changes since 06:50")
    shown = lines(cli("history").stdout)
    assert ["running" in shown[0], "failed" in shown[1], "completed" in shown[2]] == [True] * 3
    assert "changes since 06:50" in shown[0]
    assert "full fallback" in shown[1]
    assert "permission denied (code 7)" in shown[1]
    assert "10 Turkey Trot" in shown[2]
    assert "99 received, 99 added" in shown[2]
    found = cli("history", "--json").json
    assert stored.columns("sync_history") <= set(found[0])
    assert (found[2]["event_ids"], found[2]["api_calls"], found[0]["finished_at"]) == ([101, 102], 2, None)


# -- changes and bibs --------------------------------------------------------------------------------------------------


def test_changes_say_in_words_what_differs(cli: Cli, stored: Stored) -> None:
    stored.race(1, 10, "Turkey Trot")
    stored.event(1, 10, 100, "1 day", "5K")
    stored.registration(1, 10, 100, 5, first_name="Ann", last_name="Lee")
    said: list[tuple[str, dict[str, Any], str]] = [
        ("added", {"after": {"first_name": "Ann", "bib_num": "12", "email": "a@b.example"}}, "added with bib 12"),
        ("updated", {"before": {"bib_num": "12"}, "after": {"bib_num": "15"}}, "bib 12 → 15"),
        ("updated", {"before": {"bib_num": None}, "after": {"bib_num": "15"}}, "bib 15 assigned"),
        ("updated", {"before": {"bib_num": "15", "chip_num": "A1"}, "after": {"bib_num": None, "chip_num": "B2"}},
         "bib 15 cleared, chip A1 → B2"),
        ("updated", {"before": {"address": {"city": "Denver"}}, "after": {"address": {"city": "Boulder"}}},
         "city Denver → Boulder"),
        ("updated", {"before": {"payment_info": {"amount_paid": 55.5}}, "after": {"payment_info": {"amount_paid": 0}}},
         "amount paid 55.5 → 0"),
        ("updated", {"before": {"additional_data": {"giveaway": "M", "question_responses": [1]}},
                     "after": {"additional_data": {"giveaway": "L", "question_responses": [2]}}},
         "giveaway M → L, question responses changed"),
        ("updated", {"before": {"last_name": "Lea"}, "after": {"last_name": "Lee"}}, "last name Lea → Lee"),
        ("removed", {"after": {"removed_at": "2026-01-01", "removed_reason": "transferred", "new_registration_id": 6}},
         "removed: transferred, now registration 6"),
        ("removed", {"after": {"removed_at": "2026-01-01", "removed_reason": "removed"}}, "removed"),
        ("restored", {"before": {"removed_at": "2026-01-01", "removed_reason": "deferred"}},
         "restored, was removed: deferred"),
        ("missing", {"before": {"missing_since": None}, "after": {"missing_since": "2026-01-01"}}, "missing: RunS"),
        ("found", {"before": {"missing_since": "2026-01-01"}, "after": {"missing_since": None}}, "found again"),
    ]  # fmt: skip
    for kind, columns, _ in said:
        stored.changed(1, 10, 100, 5, kind, **columns)
    shown = lines(cli("changes").stdout)
    assert len(shown) == len(said)
    for number, (line, (_, _, words)) in enumerate(zip(shown, said, strict=True), 1):
        assert line.split()[0] == str(number)
        for part in ("Turkey Trot", "5K", "Ann Lee", words):
            assert part in line


def test_changes_as_json_are_the_rows(cli: Cli, stored: Stored) -> None:
    stored.conn.execute(
        """insert into runsignup_changes
               (timing_partner_id, race_id, event_id, registration_id, change_type, before, after)
           values (1, 10, 100, 5, 'updated', '{"payment_info": {"race_fee": 55.00}}',
                   '{"payment_info": {"race_fee": 1234567890123456789012.10}}')"""
    )
    shown = cli("changes", "--json")
    (row,) = shown.json
    assert set(row) == stored.columns("runsignup_changes")
    assert '"race_fee": 55.00' in shown.stdout  # amounts are as stored
    assert '"race_fee": 1234567890123456789012.10' in shown.stdout


def test_a_log_can_be_read_on_from_an_id(cli: Cli, stored: Stored) -> None:
    for number in range(6):
        stored.changed(1, 10, 100, number, "added")
    newest = cli("changes", "--limit", 2, "--json")
    assert [row["change_id"] for row in newest.json] == [5, 6]
    assert "--limit N shows more" in newest.stderr
    part = cli("changes", "--after-id", 2, "--limit", 2, "--json")
    assert [row["change_id"] for row in part.json] == [3, 4]
    assert "--after-id 4 goes on" in part.stderr


def test_bibs_say_what_happened_to_each(cli: Cli, stored: Stored) -> None:
    stored.race(1, 10, "Turkey Trot")
    stored.event(1, 10, 100, "1 day", "5K")
    stored.registration(1, 10, 100, 5, first_name="Ann", last_name="Lee")
    stored.bib(1, 10, 100, 5, "assigned", new_bib="12", new_chip="A1")
    stored.bib(1, 10, 100, 5, "changed", old_bib="12", new_bib="15", old_chip="A1", new_chip="A1")
    stored.bib(1, 10, 100, 5, "chip", old_bib="15", new_bib="15", old_chip="A1", new_chip="B7")
    stored.bib(1, 10, 100, 6, "cleared", old_bib="15", old_chip="B7")
    shown = lines(cli("bibs").stdout)
    for line, words in zip(
        shown,
        ("bib 12 assigned, chip A1 assigned", "bib 12 → 15", "chip A1 → B7", "bib 15 cleared, chip B7 cleared"),
        strict=True,
    ):
        assert line.rstrip().endswith(words)
    assert "Ann Lee" in shown[0]
    assert "registration 6" in shown[3]
    assert cli("bibs", "--json").json[1]["old_bib"] == "12"


def test_options_of_a_followed_log_that_contradict_each_other(cli: Cli, stored: Stored) -> None:
    refused = cli("bibs", "--follow", "--after-id", 1, "--limit", 5)
    assert refused.code == 2
    assert "leave out --limit" in refused.stderr


def test_reading_writes_nothing_to_the_log(cli: Cli, desk: Stored) -> None:
    shown = cli("find", "lee", env={"STARTLIST_LOG_LEVEL": "debug"})
    assert "Lee" in shown.stdout
    assert "lee" not in shown.stderr.lower()


def test_the_examples_of_the_documentation_run(cli: Cli, stored: Stored) -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    section = text.split("## Reading what is stored")[1].split("\n## ")[0]
    examples = [line.split()[1:] for line in section.splitlines() if line.startswith("    startlist ")]
    assert {example[0] for example in examples} == {"races", "find", "status", "history", "changes", "bibs"}
    for example in examples:
        if "--follow" not in example and "lookup" not in example:
            shown = cli(*(word.strip('"') for word in example))
            assert shown.code == 0, (example, shown.stderr)
