"""RunSignup's recorded answers, served byte for byte over HTTP and synced; they lie beside the project, if at all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from startlist.sync.plan import Options
from startlist.sync.run import dry_run, run
from startlist.sync.summary import Summary
from tests.support import MakeSettings
from tests.syncing import Rig

_SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
pytestmark = [
    pytest.mark.samples,
    pytest.mark.skipif(not _SAMPLES.is_dir(), reason="the recorded answers are not beside the project"),
]


def sample(name: str) -> bytes:
    return (_SAMPLES / name).read_bytes()


class Recorded(ThreadingHTTPServer):
    """Serves `answers`: the last part of the path to HTTP status and body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        race = sample("race.cmagnuson-2019.json")
        self.answers: dict[str, tuple[int, bytes]] = {
            "races": (200, b'{"races":[' + race + b"]}"),  # the record of a race is just what the list holds of it
            "1": (200, race),
            "participants": (200, b"[]"),
            "removed-participants": (200, b"[]"),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/rest"


class _Handler(BaseHTTPRequestHandler):
    server: Recorded
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = urlsplit(self.path).path.rpartition("/")[2]
        status, body = self.server.answers.get(name, (404, b"<html>not found</html>"))
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing: paths hold secrets."""


@contextmanager
def serving() -> Iterator[Recorded]:
    with Recorded() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(5)


@pytest.fixture
async def recorded(rig: Rig, make_settings: MakeSettings) -> AsyncIterator[Recorded]:
    """The rig's timing partner, but RunSignup answers what was recorded."""
    with serving() as server:
        rig.settings = make_settings(api_url=server.url)
        yield server


async def sync(rig: Rig, **options: Any) -> Summary:
    """The recorded race is long over, so it is named."""
    async with rig.context() as context:
        return await run(context, Options(race_id=1, timing_partner_id=1, **options))


async def test_the_race_list_of_2018(rig: Rig, recorded: Recorded) -> None:
    body = sample("races.first5-of-50.live-2018.ether-races.json")
    recorded.answers["races"] = (200, body)
    async with rig.context() as context:
        planned, errors = await dry_run(context, Options())
    assert errors == []
    names = {race["race"]["race_id"]: race["race"]["name"] for race in json.loads(body)["races"]}
    assert {one.race_id: one.name for one in planned} == names


async def test_the_race_record_of_2019(rig: Rig, recorded: Recorded) -> None:
    done = await sync(rig)
    assert done.exit_status == 0
    race, event = await rig.one("select * from runsignup_races"), await rig.one("select * from runsignup_events")
    assert (race["name"], race["timezone"], race["next_date"].isoformat()) == (
        "Sample Race", "America/Chicago", "2019-03-20"
    )  # fmt: skip
    assert race["created"] == datetime(2011, 12, 19, 16, 47, tzinfo=UTC)
    assert race["additional_data"]["can_use_registration_api"] == "F"
    assert (event["start_time"], event["end_time"]) == (datetime(2019, 3, 20, 14, tzinfo=UTC), None)
    assert event["registration_opens"] == datetime(2018, 12, 10, 12, tzinfo=UTC)
    assert (event["distance"], float(event["distance_meters"])) == ("5K", 5000)
    sent = json.loads(sample("race.cmagnuson-2019.json"))["race"]["events"][0]
    assert event["additional_data"].items() <= sent.items()
    assert event["additional_data"]["registration_periods"] == sent["registration_periods"]


async def test_the_answer_over_two_events_of_2019(rig: Rig, recorded: Recorded) -> None:
    """Its one row has no `user` any more, and so is quarantined as it came."""
    body = sample("participants.multi-event.cmagnuson-2019.json")
    recorded.answers["participants"] = (200, body)
    done = await sync(rig)
    assert (done.status, done.exit_status) == ("partial", 1)
    (row,) = json.loads(body)[1]["participants"]
    kept = await rig.one("select * from runsignup_quarantine")
    assert json.loads(kept["raw"]) == row
    assert kept["raw"] in body.decode()
    assert (kept["race_id"], kept["event_id"], kept["registration_id"]) == (1, 1, 1)
    assert "user" in kept["reason"]


async def test_a_registration_with_every_field_ever_seen(rig: Rig, recorded: Recorded) -> None:
    body = sample("participants.composed-NOT-VERBATIM.json")
    recorded.answers["participants"] = (200, body)
    assert (await sync(rig)).exit_status == 0
    (sent,) = json.loads(body)[0]["participants"]
    stored = await rig.registration(2_645_624)
    assert (stored["event_id"], stored["race_id"], stored["user_id"]) == (661_702, 1, 123_123_123)
    for name in ("first_name", "middle_name", "last_name", "email", "phone", "gender", "address"):
        assert stored[name] == sent["user"][name]
    assert (stored["dob"].isoformat(), stored["bib_num"], stored["age"]) == ("1986-01-06", "3", 35)
    assert stored["last_modified"] == datetime(2021, 9, 7, 19, 15, 22, tzinfo=UTC)
    assert stored["registration_date"] == datetime(2021, 9, 7, 19, 15, tzinfo=UTC)
    assert (stored["payment_info"]["amount_paid"], stored["payment_info"]["transaction_id"]) == (
        57.75, "ay_852631042119552C_0"
    )  # fmt: skip
    assert stored["additional_data"]["question_responses"] == sent["question_responses"]
    assert stored["additional_data"]["participant_addons"] == sent["participant_addons"]
    assert stored["field_errors"] == []
    named = {*stored, *stored["payment_info"], *stored["team_info"], *stored["additional_data"]}
    assert {*sent, *sent["user"]} - named - {"user", "profile_image_url", "is_anonymous"} == set()
    assert stored["additional_data"]["user"] == {"profile_image_url": None, "is_anonymous": "F"}


async def test_the_removed_registration_of_the_documentation(rig: Rig, recorded: Recorded) -> None:
    body = sample("removed-participants.doc-page.runsignup-docs.json")
    recorded.answers["removed-participants"] = (200, body)
    assert (await sync(rig)).exit_status == 0
    (sent,) = json.loads(body)["event"]["participants"]
    stored = await rig.registration(2_645_629)
    assert (stored["event_id"], stored["removed_reason"], stored["removal"]) == (12_890, "removed", sent)
    assert stored["removed_at"] == datetime(2021, 9, 23, 13, 54, 37, tzinfo=UTC)
    assert await rig.count("start_list") == 0
    recorded.answers["removed-participants"] = (200, b"[" + body + b"]")  # as it really comes
    assert (await sync(rig, force_full=True)).partners[0].figures.rows_removed == 0


async def test_a_page_that_was_cut_off(rig: Rig, recorded: Recorded) -> None:
    recorded.answers["participants"] = (200, sample("participants.doc-page-partial.runsignup-docs.txt"))
    done = await sync(rig)
    assert (done.status, done.exit_status) == ("failed", 1)
    (failure,) = done.failed_syncs()
    assert "not whole JSON" in failure["error"]
    assert "margie" not in failure["error"].lower()
    assert await rig.count("runsignup_participants") == 0


@pytest.mark.parametrize(("code", "exit_status", "stopped"), [(7, 1, True), (6, 1, True), (17, 2, False)])
async def test_the_errors_of_the_probes(
    rig: Rig, recorded: Recorded, code: int, exit_status: int, stopped: bool
) -> None:
    probes = json.loads(sample("errors.live-probes-2026-10-09.runtracker.json"))
    (probe,) = [probe for probe in probes if probe["body"]["error"]["error_code"] == code]
    recorded.answers["participants"] = (probe["http_status"], json.dumps(probe["body"]).encode())
    done = await sync(rig)
    assert done.exit_status == exit_status
    assert ((await rig.credential())["stopped_at"] is not None) is stopped
    assert (await rig.last_pass(1))["error_code"] == code
