"""The sandbox against what is documented and recorded of RunSignup, over real HTTP."""

import gzip
from collections.abc import Iterator
from typing import Any

import pytest

from startlist.sandbox import Sandbox, World, bulk, running
from tests.integration.sandbox_caller import ANONYMOUS, NOW, Caller

FIRST, SECOND = 700_001, 700_002


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running(now=NOW, frozen=True) as started:
        yield started


@pytest.fixture
def caller(sandbox: Sandbox) -> Caller:
    return Caller(sandbox)


# Transport


@pytest.mark.parametrize("base", ["rest", "Rest", "REST"])
def test_the_base_address_is_known_in_any_case(caller: Caller, base: str) -> None:
    reply = caller.get("races", base=base)
    assert reply.code is None
    assert reply.headers["content-type"] == "application/json; charset=utf-8"


def test_answers_are_xml_unless_json_is_asked_for(caller: Caller) -> None:
    reply = caller.get("races", format=None)
    assert reply.headers["content-type"].startswith("text/xml")
    assert reply.body.startswith(b'<?xml version="1.0"')
    assert b"<race_id>100001</race_id>" in reply.body
    assert b"<error_code>301</error_code>" in caller.participants(5, format="xml").body


def test_slashes_are_escaped_and_the_server_is_nginx(caller: Caller) -> None:
    reply = caller.get("races")
    assert b"America\\/New_York" in reply.body
    assert reply.headers["server"] == "nginx"


def test_the_date_header_tells_the_sandboxs_clock(caller: Caller) -> None:
    assert caller.get("races").headers["date"] == "Sun, 22 Nov 2026 10:00:00 GMT"
    caller.control.clock(advance=90)
    assert caller.get("races").headers["date"] == "Sun, 22 Nov 2026 10:01:30 GMT"


def test_gzip_is_used_only_when_asked_for(caller: Caller) -> None:
    plain = caller.participants(FIRST)
    packed = caller.participants(FIRST, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body


def test_an_unknown_path_is_a_page_of_the_web_server_and_an_unknown_method_an_error(caller: Caller) -> None:
    assert caller.get("here", base="nothing").status == 404
    assert caller.get("v2/participants/none.json").code == 1
    assert caller.get("races", method="POST").code == 2
    assert b"<error_code>10</error_code>" in caller.get("races", format="csv").body


def test_unknown_parameters_are_ignored(caller: Caller) -> None:
    assert caller.participants(FIRST, last_modified="2020-01-01", include_individual_info="T").ids


# Credentials


def test_a_wrong_legacy_key_looks_like_nobody(caller: Caller) -> None:
    caller.control.add_partner("Another")
    caller.control.add_race("Somebody else's race", keys=["Another"])
    assert [item["race"]["race_id"] for item in caller.get("races").data["races"]] == [100_001]
    for wrong in (caller.get("races", secret="wrong"), caller.get("races", api_key="1234", api_secret="x")):
        assert len(wrong.data["races"]) == 2
    assert caller.get("race/100001", secret="wrong").data["race"]["race_id"] == 100_001
    assert caller.participants(FIRST, secret="wrong").data == {
        "error": {"error_code": 7, "error_msg": "Permission Denied"}
    }


def test_a_revoked_legacy_key_looks_like_nobody_until_it_gets_a_new_secret(caller: Caller) -> None:
    caller.control.revoke_key("Peak Timing")
    assert caller.participants(FIRST).code == 7
    secret = caller.control.set_key("Peak Timing")["secret"]
    assert caller.participants(FIRST, secret=secret).ids


def test_a_v2_key_has_its_secret_in_a_header_and_is_refused_when_wrong(caller: Caller) -> None:
    key = caller.control.add_partner("Modern", "v2")
    caller.control.share(100_001, "Modern")
    modern = Caller(caller.sandbox, {**key, "race_ids": [100_001]})
    assert modern.participants(FIRST).ids
    assert modern.participants(FIRST, secret="wrong").code == 6
    assert modern.get("races", rsu_api_key="none").code == 6
    caller.control.revoke_key("Modern")
    assert modern.get("races").code == 6


def test_a_v2_key_in_the_legacy_parameters_counts_as_nobodys(caller: Caller) -> None:
    key = caller.control.add_partner("Modern", "v2")
    wrong = Caller(caller.sandbox, {**key, "type": "legacy", "race_ids": [100_001]})
    assert len(wrong.get("races").data["races"]) == 1
    assert wrong.participants(FIRST).code == 7


def test_nobody_sees_public_races_only(caller: Caller) -> None:
    nobody = Caller(caller.sandbox, ANONYMOUS)
    hidden = caller.control.add_race("Draft", is_draft_race="T")
    private = caller.control.add_race("Private", is_private_race="T")
    assert [item["race"]["race_id"] for item in nobody.get("races").data["races"]] == [100_001]
    assert nobody.get(f"race/{hidden}").code == 7
    assert nobody.get(f"race/{private}").code == 7
    assert nobody.get("race/100001/participants", event_id=FIRST).code == 7
    assert nobody.get("races", headers={"Authorization": "Bearer none"}).code == 6


def test_a_race_that_is_not_shared_is_not_listed_and_denied(caller: Caller) -> None:
    caller.control.unshare(100_001, "Peak Timing")
    assert caller.get("races").data == {"races": []}
    assert caller.participants(FIRST).code == 7
    assert caller.removed(FIRST).code == 7
    assert caller.get("race/100001").code is None


def test_caller_registration_is_both_right_or_refused_with_http_400(caller: Caller) -> None:
    token, secret = caller.control.registration()
    header = {"X-RSU-API-REG-SECRET": secret}
    assert caller.get("races", rsu_api_reg=token, headers=header).status == 200
    for wrong in (
        caller.get("races", rsu_api_reg=token),
        caller.get("races", headers=header),
        caller.get("races", rsu_api_reg="1.none", headers=header),
    ):
        assert wrong.status == 400
        assert wrong.data == {"error": {"error_code": 17, "error_msg": "Invalid API caller credentials."}}
    caller.control.settings(registration_required=True)
    assert caller.get("races").code == 17


# Races


def test_races_are_wrapped_and_without_events_unless_asked(caller: Caller) -> None:
    (item,) = caller.get("races").data["races"]
    assert "events" not in item["race"]
    (item,) = caller.get("races", events="T").data["races"]
    assert [event["event_id"] for event in item["race"]["events"]] == [FIRST, SECOND]


def test_race_dates_are_padded_and_event_times_are_not(caller: Caller) -> None:
    race_id = caller.control.add_race("Early", timezone="America/Denver")
    caller.control.add_event(race_id, "5K", start_time="1/3/2027 07:05")
    race = caller.get(f"race/{race_id}", include_event_days="T").data["race"]
    assert race["next_date"] == "01/03/2027"
    assert race["last_date"] is None
    assert race["events"][0]["start_time"] == "1/3/2027 07:05"
    assert race["events"][0]["end_time"] is None
    assert race["created"] == "11/22/2026 05:00"  # Eastern, whatever the race's zone
    assert race["race_event_days"][0]["start_date"] == "1/3/2027 00:00"


def test_past_races_are_hidden_unless_start_date_says_otherwise(caller: Caller) -> None:
    race_id = caller.control.add_race("Over")
    caller.control.add_event(race_id, "5K", start_time="11/15/2026 08:00")

    def listed(**query: Any) -> bool:
        return race_id in [item["race"]["race_id"] for item in caller.get("races", **query).data["races"]]

    assert not listed()
    assert not listed(start_date="today")
    assert listed(start_date="2026-11-15")
    assert not listed(start_date="2026-11-16")
    assert listed(start_date=str(int(NOW - 8 * 86400)))
    assert not listed(start_date="2026-11-01", end_date="2026-11-14")
    assert caller.get("races", start_date="soon").code == 9


def test_todays_race_in_hawaii_is_hidden_once_it_is_tomorrow_in_new_york(caller: Caller) -> None:
    race_id = caller.control.add_race("Aloha", timezone="Pacific/Honolulu")
    caller.control.add_event(race_id, "5K", start_time="11/21/2026 22:00")
    assert race_id not in [item["race"]["race_id"] for item in caller.get("races").data["races"]]


def test_a_race_of_many_years_is_listed_with_its_current_events_only(caller: Caller) -> None:
    past = caller.control.add_event(100_001, "5K", start_time="12/1/2025 08:00")
    later = caller.control.add_event(100_001, "5K", start_time="5/1/2027 08:00")
    (item,) = caller.get("races", events="T").data["races"]
    assert [event["event_id"] for event in item["race"]["events"]] == [FIRST, SECOND]

    def events(**query: Any) -> list[int]:
        return [event["event_id"] for event in caller.get("race/100001", **query).data["race"]["events"]]

    assert events() == [FIRST, SECOND, past, later]
    assert events(future_events_only="T") == [FIRST, SECOND, later]
    assert events(most_recent_events_only="T") == [later]
    assert events(race_event_days_id=300_001) == [FIRST, SECOND]


def test_races_page_and_sort_and_are_clamped_in_silence() -> None:
    world = World(now=NOW, frozen=True)
    bulk(world, registrations=0, races=1003)
    with running(world) as sandbox:
        caller = Caller(sandbox)
        assert len(caller.get("races").data["races"]) == 50
        assert len(caller.get("races", results_per_page=5000).data["races"]) == 1000
        rest = caller.get("races", results_per_page=1000, page=2).data["races"]
        assert len(rest) == 3
        assert caller.get("races", results_per_page=1000, page=3).data == {"races": []}
        names = [item["race"]["name"] for item in caller.get("races", sort="name DESC").data["races"]]
        assert names == sorted(names, key=str.casefold, reverse=True)
        assert caller.get("races", page=0).code == 3
        assert caller.get("races", sort="color").code == 3


def test_modified_since_takes_days_and_timestamps(caller: Caller) -> None:
    caller.control.clock(advance=2 * 86400)
    race_id = caller.control.add_race("New")
    for value in (str(int(NOW + 1)), "2026-11-23"):
        found = caller.get("races", modified_since=value).data["races"]
        assert [item["race"]["race_id"] for item in found] == [race_id]
    assert len(caller.get("races", modified_since="2026-11-22").data["races"]) == 2


def test_the_race_record_has_what_is_asked_for(caller: Caller) -> None:
    caller.control.edit_event(FIRST, participant_cap=300)
    plain = caller.get("race/100001").data["race"]
    assert plain["can_use_registration_api"] == "F"
    assert "participant_cap" not in plain["events"][0]
    full = caller.get("race/100001", include_participant_caps="T", include_questions="T", include_addons="T").data
    assert full["race"]["events"][0]["participant_cap"] == 300
    assert full["race"]["questions"] == []
    assert full["race"]["registration_addons"] == []


def test_unknown_and_deleted_races(caller: Caller) -> None:
    assert caller.get("race/5").code == 201
    assert caller.get("race/five").code == 15
    caller.control.delete_race(100_001)
    assert caller.get("race/100001").code == 201
    assert caller.participants(FIRST).code == 201
    assert caller.get("races").data == {"races": []}


# Participants


def test_participants_are_an_array_with_rows_beside_the_event(caller: Caller) -> None:
    first, second = caller.participants(FIRST, SECOND).data
    assert first["event"] == {"event_id": FIRST, "participants": []}
    assert len(first["participants"]) == 12
    assert second == {"event": {"event_id": SECOND, "participants": []}}


def test_a_row_looks_as_the_documented_one(caller: Caller) -> None:
    caller.control.clock(epoch=1631042122)
    (registration_id,) = caller.control.register(FIRST, first_name="Margie", gender="X", bib_num=None)
    row = caller.participants(FIRST).rows[-1]
    assert row["registration_id"] == registration_id
    assert row["registration_date"] == "9/7/2021 15:15"
    assert row["last_modified"] == 1631042122
    assert row["user"]["address"].keys() == {"street", "city", "state", "zipcode", "country_code"}
    assert row["transaction_id"].startswith("ay_")
    assert row["race_fee"].startswith("$")
    assert row["event_id"] == FIRST
    assert row["bib_num"] is None


def test_optional_parts_come_only_when_asked_for(caller: Caller) -> None:
    caller.control.edit(60_000_001, gender="X")
    plain = caller.participants(FIRST).rows[0]
    assert plain["user"]["gender"] is None
    for absent in ("question_responses", "participant_addons", "corral_id"):
        assert absent not in plain
    assert not {"is_anonymous", "profile_image_url"} & plain["user"].keys()
    full = caller.participants(
        FIRST,
        supports_nb="T",
        include_questions="T",
        include_registration_addons="T",
        include_corrals="T",
        include_user_anonymous_flag="T",
        include_profile_image_url="T",
    ).rows[0]
    assert full["user"]["gender"] == "X"
    assert full["user"]["is_anonymous"] in ("T", "F")
    assert {"response", "question_id", "question_text"} == full["question_responses"][0].keys()
    assert isinstance(full["question_responses"][3]["responses"], list)
    assert isinstance(full["participant_addons"], list)
    assert isinstance(full["corral_id"], int)


def test_event_ids_are_required_and_all_must_be_the_races(caller: Caller) -> None:
    other = caller.control.add_event(caller.control.add_race("Other"), "5K")
    assert caller.get("race/100001/participants").code == 3
    assert caller.participants(FIRST, 99).data == {"error": {"error_code": 301, "error_msg": "Event not found."}}
    assert caller.participants(FIRST, other).code == 301
    assert caller.get("race/100001/participants", event_id="5K").code == 15
    caller.control.remove_event(SECOND)
    assert caller.participants(FIRST, SECOND).code == 301
    assert caller.removed(SECOND).code == 301


def test_pages_by_cursor_and_by_number(caller: Caller) -> None:
    everyone = caller.participants(FIRST).ids
    assert everyone == sorted(everyone)
    assert caller.participants(FIRST, results_per_page=5, after_registration_id=everyone[4]).ids == everyone[5:10]
    assert caller.participants(FIRST, results_per_page=5, page=3).ids == everyone[10:]
    assert caller.participants(FIRST, before_registration_id=everyone[3]).ids == everyone[:3]
    past = caller.participants(FIRST, after_registration_id=everyone[-1]).data
    assert past == [{"event": {"event_id": FIRST, "participants": []}}]
    assert caller.participants(FIRST, sort="registration_id DESC", results_per_page=2).ids == everyone[:-3:-1]
    assert caller.participants(FIRST, sort="last_modified ASC").code == 3


def test_participants_are_clamped_at_2500_in_silence() -> None:
    world = World(now=NOW, frozen=True)
    bulk(world, registrations=2600, races=1)
    with running(world) as sandbox:
        caller = Caller(sandbox)
        first = caller.participants(FIRST, results_per_page=5000)
        assert len(first.rows) == 2500
        assert len(caller.participants(FIRST, after_registration_id=first.ids[-1]).rows) == 50
        assert len(caller.participants(FIRST, results_per_page=5000, page=2).rows) == 100


def test_results_per_page_counts_over_all_events_or_per_event(caller: Caller) -> None:
    caller.control.register(SECOND, 3)
    both = caller.participants(FIRST, SECOND).ids
    some = caller.participants(FIRST, SECOND, results_per_page=13)
    assert sorted(some.ids) == sorted(both)[:13]
    rest = caller.participants(FIRST, SECOND, results_per_page=13, after_registration_id=max(some.ids))
    assert sorted(some.ids + rest.ids) == sorted(both)
    caller.control.settings(paging="per_event")
    assert len(caller.participants(FIRST, SECOND, results_per_page=2).rows) == 4


def test_modified_after_is_inclusive_and_in_epoch_seconds(caller: Caller) -> None:
    caller.control.clock(advance=60)
    caller.control.edit(60_000_003, phone="555-000-0000")
    changed = int(NOW) + 60
    assert caller.participants(FIRST, modified_after_timestamp=changed).ids == [60_000_003]
    assert caller.participants(FIRST, modified_after_timestamp=changed + 1).rows == []
    assert caller.participants(FIRST, modified_after_timestamp=0, results_per_page=4).ids[-1] == 60_000_004


@pytest.mark.parametrize("value", ["2020-01-01 00:00:00", "2020-01-01", "1.5", "-5", "yesterday", "1795341600000"])
def test_anything_but_epoch_seconds_finds_nothing_in_silence(caller: Caller, value: str) -> None:
    reply = caller.participants(FIRST, modified_after_timestamp=value)
    assert reply.status == 200
    assert reply.data == [{"event": {"event_id": FIRST, "participants": []}}]
    assert caller.removed(FIRST, modified_after_timestamp=value).removed == []


def test_registered_after_and_before(caller: Caller) -> None:
    caller.control.clock(advance=10)
    new = caller.control.register(FIRST)
    assert caller.participants(FIRST, registered_after_timestamp=int(NOW) + 10).ids == new
    assert len(caller.participants(FIRST, registered_before_timestamp=int(NOW)).ids) == 12


def test_search_by_bib(caller: Caller) -> None:
    caller.control.assign_bib(60_000_005, 412, chip="AB12")
    caller.control.assign_bib(60_000_006, "413")
    (row,) = caller.participants(FIRST, SECOND, search_bib=412).rows
    assert (row["registration_id"], row["bib_num"], row["chip_num"]) == (60_000_005, 412, "AB12")
    assert caller.participants(FIRST, search_bib=413).ids == [60_000_006]
    assert caller.participants(FIRST, search_bib=9999).rows == []
    assert caller.participants(FIRST, search_bib="x").code == 3


def test_template_and_transferred_people_come_only_when_asked_for(caller: Caller) -> None:
    new = caller.control.transfer(60_000_001, SECOND)
    assert caller.participants(FIRST, include_template_participant="T").ids[:2] == [-1, 60_000_002]
    assert 60_000_001 in caller.participants(FIRST, include_transferred_participants="T").ids
    assert 60_000_001 not in caller.participants(FIRST).ids
    assert caller.participants(SECOND, include_template_participant="T").ids == [-1, new]


def test_super_event_entries_are_listed_in_both_events_under_one_id(caller: Caller) -> None:
    caller.control.imply(60_000_002, SECOND)
    (row,) = caller.participants(SECOND).rows
    assert (row["registration_id"], row["event_id"]) == (60_000_002, SECOND)
    assert caller.participants(SECOND, exclude_registrations_via_super_event="T").rows == []
    caller.control.assign_bib(60_000_002, 9)
    assert caller.participants(SECOND).rows[0]["bib_num"] == 9
    caller.control.refund(60_000_002)
    assert caller.participants(SECOND).rows == []
    assert [row["registration_id"] for row in caller.removed(FIRST, SECOND).removed] == [60_000_002] * 2


# Removed participants


def test_removed_rows_are_inside_the_event_with_other_dates(caller: Caller) -> None:
    caller.control.clock(epoch=1632405277)
    caller.control.refund(60_000_001)
    first, second = caller.removed(FIRST, SECOND).data
    assert first.keys() == second.keys() == {"event"}
    assert second["event"] == {"event_id": SECOND, "participants": []}
    (row,) = first["event"]["participants"]
    assert "event_id" not in row
    assert row["last_modified"] == "2021-09-23 09:54:37"
    assert row["last_modified_ts"] == 1632405277
    assert row["registration_date"][4] == "-"
    assert (row["removed_reason"], row["new_registration_id"]) == ("removed", None)
    assert "profile_image_url" in row["user"]


def test_removed_rows_by_watermark_cursor_and_page(caller: Caller) -> None:
    for number, registration_id in enumerate((60_000_004, 60_000_002, 60_000_003)):
        caller.control.clock(epoch=NOW + number)
        caller.control.refund(registration_id)

    def ids(**query: Any) -> list[int]:
        return [row["registration_id"] for row in caller.removed(FIRST, **query).removed]

    assert ids() == [60_000_004, 60_000_002, 60_000_003]
    assert ids(sort="registration_id ASC") == [60_000_002, 60_000_003, 60_000_004]
    assert ids(modified_after_timestamp=int(NOW) + 1) == [60_000_002, 60_000_003]
    assert ids(sort="registration_id ASC", after_registration_id=60_000_002) == [60_000_003, 60_000_004]
    assert ids(results_per_page=2, page=2) == [60_000_003]


def test_removed_participants_are_clamped_at_1000_and_may_be_condensed() -> None:
    world = World(now=NOW, frozen=True)
    bulk(world, registrations=1100, races=1, removed_share=1.0)
    with running(world) as sandbox:
        caller = Caller(sandbox)
        rows = caller.removed(FIRST, results_per_page=2500, condensed_format="T").removed
        assert len(rows) == 1000
        assert rows[0].keys() == {"registration_id", "removed_reason", "new_registration_id"}
        assert len(caller.removed(FIRST).removed) == 50


# Limits


def test_calls_over_the_hourly_limit_are_throttled_with_code_14(caller: Caller) -> None:
    caller.control.settings(calls_per_hour=2)
    replies = [caller.get("races") for _ in range(4)]
    assert [reply.code for reply in replies] == [None, None, 14, 14]
    assert replies[-1].status == 200
    caller.control.clock(advance=3601)
    assert caller.get("races").code is None
