"""Real answers of RunSignup, served verbatim over HTTP and read by the client."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from startlist.errors import CallerRefused, CredentialRefused, PermissionDenied
from startlist.runsignup import Credential, Retries, RunSignup
from tests.unit.test_records import check_nothing_lost
from tests.unit.test_transport import Server, reply, serving

_SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
pytestmark = [
    pytest.mark.samples,
    pytest.mark.skipif(not _SAMPLES.is_dir(), reason="the recorded answers are not beside the project"),
]


def sample(name: str) -> bytes:
    return next(_SAMPLES.glob(name + "*")).read_bytes()


def connect(server: Server) -> RunSignup:
    return RunSignup(Credential("k", "s"), url=server.url, retries=Retries(attempts=1))


async def test_an_answer_over_several_events_whose_row_has_no_user() -> None:
    async with serving(reply(sample("participants.multi-event"))) as server, connect(server) as client:
        (page,) = [page async for page in client.participants(1, [1, 2])]
    assert page.rows == []
    assert [(bad.reason, bad.event_id, bad.registration_id) for bad in page.bad] == [("user is not an object", 1, 1)]
    assert page.next is None


async def test_an_answer_with_every_field_seen_anywhere() -> None:
    body = sample("participants.composed-NOT-VERBATIM")
    async with serving(reply(body)) as server, connect(server) as client:
        (page,) = [page async for page in client.participants(1, [661702, 661703])]
    (row,) = page.rows
    got = row.decode()
    check_nothing_lost(got, json.loads(body)[0]["participants"][0])
    assert (got.bib_num, got.gender, got.field_errors, got.absent) == ("3", "X", [], ())
    assert got.registration_date == datetime(2021, 9, 7, 19, 15, tzinfo=UTC)


async def test_removed_participants_as_an_object_and_as_the_array_it_really_is() -> None:
    body = sample("removed-participants")
    for sent in (body, b"[" + body + b"]"):
        async with serving(reply(sent)) as server, connect(server) as client:
            (page,) = [page async for page in client.removed_participants(1, [12890])]
        (got,) = page.rows
        assert (got.event_id, got.registration_id, got.removed_reason) == (12890, 2645629, "removed")
        assert (got.new_registration_id, got.modified_at) == (None, datetime(2021, 9, 23, 13, 54, 37, tzinfo=UTC))
        assert json.loads(got.raw) == json.loads(body)["event"]["participants"][0]


async def test_a_race() -> None:
    async with serving(reply(sample("race.cmagnuson"))) as server, connect(server) as client:
        race = await client.race(1)
    assert (race.race_id, race.name, race.zone.key, race.field_errors, race.bad) == (
        1,
        "Sample Race",
        "America/Chicago",
        [],
        (),
    )
    (event,) = race.events
    assert (event.event_id, event.start_time) == (1, datetime(2019, 3, 20, 14, 0, tzinfo=UTC))
    assert (event.require_dob, event.volunteer, event.field_errors) == (True, False, [])


async def test_a_race_list() -> None:
    body = sample("races.first5")
    sent: list[dict[str, Any]] = [entry["race"] for entry in json.loads(body)["races"]]
    async with serving(reply(body)) as server, connect(server) as client:
        (page,) = [page async for page in client.races(start_date=date(2018, 12, 1))]
    assert [race.name for race in page.races] == [race["name"] for race in sent]
    assert [race.field_errors for race in page.races] == [[]] * 5
    for race, whole in zip(page.races, sent, strict=True):
        kept = json.loads(race.additional_data)
        assert kept == {name: whole[name] for name in kept}
        assert all(hasattr(race, name) for name in whole.keys() - kept.keys())


async def test_errors() -> None:
    expected = {7: PermissionDenied, 6: CredentialRefused, 17: CallerRefused}
    for entry in json.loads(sample("errors.live-probes")):
        body = json.dumps(entry["body"]).encode()
        async with serving(reply(body, f"{entry['http_status']} X")) as server, connect(server) as client:
            with pytest.raises(expected[entry["body"]["error"]["error_code"]]):
                await client.race(1)
