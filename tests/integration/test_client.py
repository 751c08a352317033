"""The client against the sandbox, over real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from startlist.errors import (
    BadAnswer,
    CallerRefused,
    ConfigurationError,
    CredentialRefused,
    EventsGone,
    NetworkError,
    PermissionDenied,
    RaceGone,
    RequestRefused,
    RunSignupError,
    ServerError,
    Throttled,
)
from startlist.runsignup import (
    CallerRegistration,
    Credential,
    ParticipantsPage,
    Position,
    Race,
    RawRegistration,
    Removal,
    RemovedPage,
    Retries,
    RunSignup,
)
from startlist.sandbox import Control, Sandbox, running
from tests.unit.test_records import check_nothing_lost

NOW = 1_764_000_000.0
RACE, FIRST, SECOND = 100_001, 700_001, 700_002
BOTH = (FIRST, SECOND)
AT_ONCE = Retries(wait_initial=0, wait_max=0, wait_jitter=0)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running(now=NOW, frozen=True) as started:
        yield started


@pytest.fixture
def control(sandbox: Sandbox) -> Control:
    return sandbox.control


def connect(sandbox: Sandbox, key: dict[str, Any] | None = None, **options: Any) -> RunSignup:
    key = key or sandbox.control.partners()[0]
    credential = Credential(key["key"], key["secret"], key["type"])
    return RunSignup(credential, url=sandbox.url, retries=AT_ONCE, **options)


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[RunSignup]:
    async with connect(sandbox) as opened:
        yield opened


async def pages(client: RunSignup, events: Any = BOTH, **options: Any) -> list[ParticipantsPage]:
    return [page async for page in client.participants(RACE, events, **options)]


async def rows(client: RunSignup, events: Any = BOTH, **options: Any) -> list[RawRegistration]:
    return [row for page in await pages(client, events, **options) for row in page.rows]


async def ids(client: RunSignup, events: Any = BOTH, **options: Any) -> set[int]:
    return {row.registration_id for row in await rows(client, events, **options)}


async def removed(client: RunSignup, events: Any = BOTH, **options: Any) -> list[Removal]:
    return [row async for page in client.removed_participants(RACE, events, **options) for row in page.rows]


async def races(client: RunSignup, start: date = date(2025, 11, 1)) -> list[Race]:
    return [race async for page in client.races(start_date=start) for race in page.races]


def truth(control: Control) -> dict[int, dict[str, Any]]:
    events = control.truth(RACE)["events"]
    return {row["registration_id"]: row for event in events.values() for row in event["active"]}


# All is read, nothing is lost


async def test_every_registration_arrives_with_everything_that_was_sent(client: RunSignup, control: Control) -> None:
    control.register(SECOND, 30)
    control.edit(60_000_002, age="x", dob="13/45/1990", new_field={"a": [1e5, None]}, nickname="Zo")
    control.edit(60_000_003, first_name=" Run+Walk 100% & More", bib_num="007", gender=None, user_id=None)
    expected = truth(control)
    got = {row.registration_id: row.decode() for row in await rows(client)}
    assert got.keys() == expected.keys()
    for registration_id, registration in got.items():
        sent = expected[registration_id]  # with every flag on, some of which we do not set
        for part, name in (
            (sent, "registration_notes"),
            (sent, "est_finish_time"),
            (sent["user"], "profile_image_url"),
        ):
            part.pop(name)
        check_nothing_lost(registration, sent)
        assert registration.field_errors == (["dob", "age"] if registration_id == 60_000_002 else [])


async def test_trap_13_races_come_with_events_in_their_zone(client: RunSignup, control: Control) -> None:
    denver = control.add_race("Mile High", timezone="America/Denver")
    event = control.add_event(denver, "10K", start_time="6/14/2026 07:00", registration_opens="12/1/2025 00:00")
    (race,) = [race for race in await races(client) if race.race_id == denver]
    assert (race.name, race.timezone, race.zone_known, race.bad) == ("Mile High", "America/Denver", True, ())
    (got,) = race.events
    assert (got.event_id, got.start_time) == (event, datetime(2026, 6, 14, 13, 0, tzinfo=UTC))
    assert (got.race_day, got.distance_meters) == (date(2026, 6, 14), Decimal(10000))
    assert got.registration_opens == datetime(2025, 12, 1, 5, 0, tzinfo=UTC)
    record = await client.race(denver)
    assert (record.name, record.zone, record.events) == (race.name, race.zone, race.events)


async def test_trap_34_past_races_are_listed_from_the_day_asked_for(client: RunSignup, control: Control) -> None:
    past = control.add_race("Last Week")
    control.add_event(past, "5K", start_time="11/20/2025 09:00")
    assert past in {race.race_id for race in await races(client, date(2025, 11, 16))}
    assert past not in {race.race_id for race in await races(client, date(2025, 11, 23))}
    assert {call["params"]["events"] for call in control.log()} == {"T"}


async def test_trap_35_a_race_may_be_asked_for_its_future_events_only(client: RunSignup, control: Control) -> None:
    old = control.add_event(RACE, "5K 2013", start_time="12/1/2013 09:00")
    assert old in {event.event_id for event in (await client.race(RACE)).events}
    future = await client.race(RACE, future_events_only=True)
    assert {event.event_id for event in future.events} == set(BOTH)


async def test_an_unknown_zone_is_eastern_and_said_so(client: RunSignup, control: Control) -> None:
    control.edit_race(RACE, timezone="Mars/Olympus")
    race = await client.race(RACE)
    assert (race.timezone, race.zone_known, race.events[0].timezone) == ("Mars/Olympus", False, "America/New_York")


async def test_more_races_than_a_page_holds(client: RunSignup, control: Control) -> None:
    for number in range(999):
        control.add_event(control.add_race(f"Race {number}"), "5K", in_days=5)
    listed = await races(client)
    assert len(listed) == len({race.race_id for race in listed}) == 1000
    assert control.counts()["by_endpoint"] == {"races": 2}  # the second is empty


# What is always asked for, and what never


async def test_trap_25_and_32_the_flags_that_are_sent(client: RunSignup, control: Control) -> None:
    control.edit(60_000_001, gender="X", is_anonymous="T")
    got = {row.registration_id: row.decode() for row in await rows(client)}
    await removed(client)
    assert got[60_000_001].gender == "X"
    assert b'"is_anonymous":"T"' in got[60_000_001].additional_data
    for call in control.log():
        sent = call["params"]
        assert sent["format"] == "json"
        assert sent["sort"] == "registration_id ASC"
        assert sent["supports_nb"] == "T"
        assert not {name for name in sent if "template" in name or "lottery" in name or "transferred" in name}
    sent = control.log()[0]["params"]
    assert sent["results_per_page"] == "2500"
    assert {name for name, value in sent.items() if name.startswith("include_") and value == "T"} == {
        "include_questions",
        "include_registration_addons",
        "include_corrals",
        "include_user_anonymous_flag",
    }
    assert control.log()[1]["params"]["results_per_page"] == "1000"


async def test_trap_05_and_07_changes_are_asked_for_in_epoch_seconds_inclusive(
    client: RunSignup, control: Control
) -> None:
    control.clock(advance=60)
    control.edit(60_000_001, first_name="Bo")
    assert await ids(client, modified_after=int(NOW) + 60) == {60_000_001}
    assert await ids(client, modified_after=int(NOW) + 61) == set()
    control.refund(60_000_002)
    assert [row.registration_id for row in await removed(client, modified_after=int(NOW) + 60)] == [60_000_002]
    assert await removed(client, modified_after=int(NOW) + 61) == []


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Denver"])
async def test_trap_06_the_zone_of_this_machine_does_not_matter(
    client: RunSignup, control: Control, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        control.clock(advance=5)
        control.edit(60_000_001, first_name="Bo")
        (page,) = await pages(client, modified_after=int(NOW) + 5)
        (row,) = page.rows
        assert row.decode().last_modified == datetime.fromtimestamp(NOW + 5, UTC)
        assert page.candidate is not None
        assert NOW <= page.candidate <= NOW + 5
    finally:
        monkeypatch.undo()
        time.tzset()


# RunSignup's clock


@pytest.mark.parametrize("skew", [-90, 90])
async def test_trap_08_the_candidate_is_runsignups_clock_before_the_question(
    client: RunSignup, control: Control, skew: int
) -> None:
    control.fault("clock_skew", seconds=skew)
    (page,) = await pages(client)
    assert page.candidate is not None
    assert NOW + skew - 10 <= page.candidate <= NOW + skew


@pytest.mark.parametrize("kind", ["no_date", "bad_date"])
async def test_without_a_clock_the_latest_change_stands_in(client: RunSignup, control: Control, kind: str) -> None:
    control.clock(advance=30)
    control.edit(60_000_001, first_name="Bo")
    control.clock(advance=30)
    control.refund(60_000_002)
    control.fault(kind, times=None)
    assert [page.candidate for page in await pages(client)] == [int(NOW) + 30]
    assert [page.candidate async for page in client.removed_participants(RACE, BOTH)] == [int(NOW) + 60]
    assert [page.candidate for page in await pages(client, modified_after=int(NOW) + 90)] == [None]


# Removals


async def test_trap_11_12_and_23_removals_come_with_reason_successor_and_instant(
    client: RunSignup, control: Control
) -> None:
    control.clock(advance=100)
    control.refund(60_000_001)
    new_id = control.transfer(60_000_002, SECOND)
    at = datetime.fromtimestamp(NOW + 100, UTC)
    assert [
        (row.event_id, row.registration_id, row.removed_reason, row.new_registration_id, row.modified_at)
        for row in await removed(client)
    ] == [
        (FIRST, 60_000_001, "removed", None, at),
        (FIRST, 60_000_002, "transferred", new_id, at),
    ]
    assert new_id in await ids(client, [SECOND])


async def test_trap_24_a_registration_cleared_before_it_was_seen(client: RunSignup, control: Control) -> None:
    (new_id,) = control.register(FIRST)
    control.clear(new_id)
    assert new_id not in await ids(client)
    assert [(row.registration_id, row.removed_reason) for row in await removed(client)] == [(new_id, "cleared")]


# Paging


async def test_one_call_serves_all_events_of_a_small_race(client: RunSignup, control: Control) -> None:
    control.register(SECOND, 7)
    (page,) = await pages(client)
    assert (page.event_id, page.after, page.up_to, page.next) == (None, 0, None, None)
    assert page.complete_range
    assert {row.event_id for row in page.rows} == set(BOTH)
    assert control.log()[0]["event_ids"] == list(BOTH)
    assert control.counts()["calls"] == 1


@pytest.mark.parametrize("paging", ["total", "per_event"])
async def test_trap_15_a_clamp_loses_no_row(client: RunSignup, control: Control, paging: str) -> None:
    control.settings(paging=paging)
    control.register(FIRST, 1100)
    control.register(SECOND, 700)
    control.fault("clamp", rows=500, times=None)
    read = await pages(client)
    assert {row.registration_id for page in read for row in page.rows} == truth(control).keys()
    first, *alone = read
    assert (first.event_id, first.complete_range) == (None, False)
    assert all(page.complete_range for page in alone)
    assert [(page.event_id, page.up_to is None) for page in alone] == [
        (FIRST, False),
        (FIRST, False),
        (FIRST, True),
        (SECOND, False),
        (SECOND, True),
    ]
    assert [page.after for page in alone[1:3]] == [page.up_to for page in alone[:2]]


@pytest.mark.parametrize("paging", ["total", "per_event"])
async def test_a_clamped_page_that_repeats_a_row_is_no_end(client: RunSignup, control: Control, paging: str) -> None:
    control.settings(paging=paging)
    control.register(FIRST, 1100)
    control.register(SECOND, 700)
    control.fault("clamp", rows=500, times=None)
    control.fault("duplicate_rows", times=None)  # so that 501 come, or one more in each event
    read = await pages(client)
    assert {row.registration_id for page in read for row in page.rows} == truth(control).keys()


async def test_trap_17_an_exact_multiple_costs_one_more_call(client: RunSignup, control: Control) -> None:
    control.register(FIRST, 488)
    read = await pages(client, [FIRST])
    assert [len(page.rows) for page in read] == [500, 0]
    assert control.counts()["calls"] == 2


async def test_trap_14_rows_that_shift_between_pages_are_not_missed(client: RunSignup, control: Control) -> None:
    control.register(FIRST, 1500)
    control.fault("clamp", rows=500, times=None)
    refunds = [{"name": "refund", "registration_id": 60_000_001 + number} for number in range(3)]
    control.fault("then", changes=refunds)
    assert await ids(client, [FIRST]) >= truth(control).keys()


async def test_trap_16_a_server_that_ignores_the_cursor_ends_the_feed(client: RunSignup, control: Control) -> None:
    control.register(FIRST, 1500)
    control.fault("clamp", rows=500, times=None)
    control.fault("ignore_cursor", times=None)
    with pytest.raises(BadAnswer, match="ignores the cursor"):
        await pages(client, [FIRST])
    assert control.counts()["calls"] == 2


async def test_trap_16_a_race_list_that_repeats_ends(client: RunSignup, control: Control) -> None:
    for number in range(499):
        control.add_race(f"Race {number}")
    same = {"races": [{"race": {"race_id": number + 1}} for number in range(500)]}
    control.fault("wrong_shape", value=same, times=None)
    with pytest.raises(BadAnswer, match="no new race"):
        await races(client)
    assert control.counts()["calls"] == 2


async def test_trap_16_a_second_page_that_fails_for_ever_ends_the_feed(client: RunSignup, control: Control) -> None:
    control.register(FIRST, 1500)
    control.fault("clamp", rows=500, times=None)
    control.fault("error", match={"page_after": True}, code=4, times=None)
    feed = client.participants(RACE, [FIRST])
    assert len((await anext(feed)).rows) == 500
    with pytest.raises(ServerError):
        await anext(feed)
    assert control.counts()["calls"] == 1 + 3


async def test_a_feed_goes_on_from_its_checkpoint(client: RunSignup, control: Control) -> None:
    control.register(FIRST, 1100)
    control.register(SECOND, 20)
    control.fault("clamp", rows=500, times=None)
    whole = await pages(client)
    for number, page in enumerate(whole[:-1]):
        assert page.next is not None
        start = Position.from_json(page.next.to_json())
        rest = await pages(client, start=start)
        assert [[row.registration_id for row in page.rows] for page in rest] == [
            [row.registration_id for row in page.rows] for page in whole[number + 1 :]
        ]


async def test_a_long_list_of_removals_is_paged(client: RunSignup, control: Control) -> None:
    for registration_id in control.register(FIRST, 1010):
        control.refund(registration_id)
    read: list[RemovedPage] = [page async for page in client.removed_participants(RACE, BOTH)]
    assert [(page.event_id, len(page.rows)) for page in read] == [(None, 1000), (FIRST, 1000), (FIRST, 10), (SECOND, 0)]


# Answers in other forms


@pytest.mark.parametrize("kind", ["object_envelope", "string_ids", "key_order", "duplicate_rows"])
async def test_other_forms_of_the_same_answer(client: RunSignup, control: Control, kind: str) -> None:
    control.assign_bib(60_000_001, 12)
    control.fault(kind)
    got = {row.registration_id: row.decode() for row in await rows(client, [FIRST])}
    assert got.keys() == truth(control).keys()
    assert got[60_000_001].bib_num == "12"
    assert not any(registration.field_errors for registration in got.values())


async def test_trap_43_bad_rows_are_set_aside(client: RunSignup, control: Control) -> None:
    what = ["not_object", "null", "no_registration_id", "zero_id", "negative_id", "no_user"]
    control.fault("bad_rows", what=what, mode="insert")
    (page,) = await pages(client, [FIRST])
    assert {row.registration_id for row in page.rows} == truth(control).keys()
    assert [bad.reason for bad in page.bad] == [
        "not an object",
        "not an object",
        *["registration_id is not a whole number of at least 1"] * 3,
        "user is not an object",
    ]
    assert {bad.endpoint for bad in page.bad} == {"participants"}
    assert page.bad[-1].event_id == FIRST
    assert page.bad[-1].registration_id in truth(control)


async def test_misfits_and_unstorable_characters_keep_the_runner(client: RunSignup, control: Control) -> None:
    control.fault("bad_rows", what=["misfit", "unstorable"], mode="insert")
    got = [row.decode() for row in await rows(client, [FIRST])]
    assert {registration.registration_id for registration in got} == truth(control).keys()
    assert len([registration for registration in got if registration.field_errors]) == 2


async def test_lost_rights_look_like_absent_keys(client: RunSignup, control: Control) -> None:
    control.fault("drop_keys", keys=["dob", "gender", "email", "phone", "bib_num"])
    assert {row.keys_absent() for row in await rows(client)} == {
        frozenset(("dob", "gender", "email", "phone", "bib_num"))
    }
    assert {row.keys_absent() for row in await rows(client)} == {frozenset()}


@pytest.mark.parametrize("kind", ["empty", "empty_array"])
async def test_an_empty_answer_is_a_page(client: RunSignup, control: Control, kind: str) -> None:
    control.fault(kind)
    (page,) = await pages(client)
    assert (page.rows, page.next, page.complete_range) == ([], None, True)


@pytest.mark.parametrize(
    ("kind", "parameters", "error"),
    [
        ("wrong_shape", {"value": {"x": 1}}, BadAnswer),
        ("wrong_shape", {"value": 42}, BadAnswer),
        ("wrong_shape", {"value": None}, BadAnswer),
        ("truncate", {}, BadAnswer),
        ("html", {}, BadAnswer),
        ("cut", {}, NetworkError),
        ("reset", {}, NetworkError),
        ("http", {"status": 503, "body": "html"}, ServerError),
        ("http", {"status": 404, "body": "html"}, RequestRefused),
        ("http", {"status": 302, "location": "/rest/races"}, RequestRefused),
        ("http", {"status": 429, "retry_after": 60}, Throttled),
        ("error", {"code": 5}, ServerError),
        ("error", {"code": 14}, Throttled),
        ("error", {"code": 3}, RequestRefused),
    ],
)
async def test_answers_that_are_no_page(
    client: RunSignup, control: Control, kind: str, parameters: dict[str, Any], error: type[RunSignupError]
) -> None:
    control.fault(kind, times=None, **parameters)
    for ask in (pages(client), removed(client), races(client), client.race(RACE)):
        with pytest.raises(error):
            await ask
    attempts = 3 if error in (BadAnswer, NetworkError, ServerError) else 1
    assert control.counts()["calls"] == 4 * attempts


async def test_a_fault_that_passes_is_not_noticed(client: RunSignup, control: Control) -> None:
    control.fault("truncate", times=1)
    control.fault("html", times=1)
    assert await ids(client) == truth(control).keys()


# What a credential may


async def test_trap_37_a_wrong_legacy_key_looks_right_until_it_asks_for_participants(sandbox: Sandbox) -> None:
    key = {**sandbox.control.partners()[0], "secret": "wrong"}
    async with connect(sandbox, key) as client:
        assert await races(client) != []
        with pytest.raises(PermissionDenied):
            await pages(client)


async def test_a_v2_key(sandbox: Sandbox) -> None:
    key = sandbox.control.add_partner("Second Timing", "v2")
    sandbox.control.share(RACE, key["key"])
    async with connect(sandbox, key) as client:
        assert await ids(client) == truth(sandbox.control).keys()
    async with connect(sandbox, {**key, "secret": "wrong"}) as client:
        with pytest.raises(CredentialRefused):
            await pages(client)


async def test_races_and_events_that_are_gone_or_not_shared(client: RunSignup, sandbox: Sandbox) -> None:
    sandbox.control.remove_event(SECOND)
    with pytest.raises(EventsGone):
        await pages(client)
    sandbox.control.unshare(RACE, sandbox.control.partners()[0]["key"])
    with pytest.raises(PermissionDenied):
        await pages(client, [FIRST])
    sandbox.control.delete_race(RACE)
    with pytest.raises(RaceGone):
        await pages(client, [FIRST])


async def test_a_caller_registration(sandbox: Sandbox) -> None:
    sandbox.control.settings(registration_required=True)
    async with connect(sandbox, registration=CallerRegistration(*sandbox.control.registration())) as client:
        assert await ids(client) != set()
    for wrong in (None, CallerRegistration("1.unknown", "x")):
        async with connect(sandbox, registration=wrong) as client:
            with pytest.raises(CallerRefused):
                await pages(client)


async def test_trap_41_two_calls_at_once_whatever_the_number_of_clients(sandbox: Sandbox) -> None:
    sandbox.control.settings(latency_ms=10)
    async with connect(sandbox) as one, connect(sandbox) as other:
        await asyncio.gather(*(ask(client) for client in (one, other) for ask in [pages, removed] * 3))
    assert sandbox.control.counts()["max_concurrent"] == 2


# A bib


async def test_a_bib_is_found(client: RunSignup, control: Control) -> None:
    control.register(SECOND, 2)
    control.assign_bib(60_000_003, 4711)
    (found,) = await client.search_bib(RACE, BOTH, "4711")
    assert (found.registration_id, found.bib_num) == (60_000_003, "4711")
    assert await client.search_bib(RACE, BOTH, "99999") == []
    assert {call["params"]["search_bib"] for call in control.log()} == {"4711", "99999"}
    with pytest.raises(ConfigurationError):
        await client.search_bib(RACE, BOTH, "A12")


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.race(999),
        lambda client: client.search_bib(999, [1], "5"),
        lambda client: pages(client, [999]),
    ],
)
async def test_what_does_not_exist(client: RunSignup, ask: Callable[[RunSignup], Any]) -> None:
    with pytest.raises((RaceGone, EventsGone)):
        await ask(client)
