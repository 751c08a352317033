"""`/healthz` and `/metrics` beside `serve`: what a monitoring system sees when all is well, and when it is not."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from startlist.store.database import Database
from tests.acceptance.test_serve import Stage, stage, stopped
from tests.conftest import Server
from tests.scene import until
from tests.support import Cli


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def at(database: Database, cli: Cli) -> Iterator[Stage]:
    with stage(database, cli, registrations=20) as made:
        yield made


def get(port: int, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metrics(port: int) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels."""
    status, text = get(port, "/metrics")
    assert status == 200
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def health(port: int) -> tuple[int, list[str]]:
    status, text = get(port, "/healthz")
    return status, json.loads(text)["problems"]


def test_what_a_monitoring_system_sees(at: Stage) -> None:
    port = free_port()
    process = at.start(STARTLIST_MONITORING=f"127.0.0.1:{port}")
    at.fresh()
    until(lambda: health(port) == (200, []))
    found = metrics(port)
    assert found["startlist_up",] == found["startlist_scheduler_leads",] == found["startlist_workers",] == 1
    assert found["startlist_races", "race_day"] == len(at.races)
    assert found["startlist_races_stale", "race_day"] == 0
    assert found["startlist_passes_last_hour", "completed", "full"] >= len(at.races)
    stored = at.value("select count(*) from runsignup_participants where removed_at is null")
    assert found["startlist_rows_last_hour", "inserted"] == stored
    assert found["startlist_rows_last_hour", "received"] >= stored
    assert 0 < found["startlist_calls_last_hour", "1", "1"] <= at.value("select count(*) from api_calls")
    assert found["startlist_calls_limit", "1", "1"] == 100_000
    assert all(found["startlist_race_age_seconds", str(race), "1"] < 60 for race in at.races)
    assert (found["startlist_quarantine",], found["startlist_key_stopped", "1", "1"]) == (0, 0)
    assert get(port, "/")[0] == 404

    second = at.start(STARTLIST_MONITORING=f"127.0.0.1:{port}")  # its address is taken: it works all the same
    until(lambda: "monitoring.unavailable" in at.log(second))
    until(lambda: metrics(port)["startlist_workers",] == 2)
    assert stopped(second) < 10

    at.control.revoke_key(at.control.partners()[0]["key"])
    until(lambda: metrics(port).get(("startlist_errors_last_hour", "7"), 0) >= 1)
    at.execute("update partner_provider_credentials set stopped_at = now()")  # as three refused races would
    until(lambda: health(port) == (503, ["stopped API keys: 1; startlist status says what to do"]))
    at.execute("update sync_cursors set stale_at = now() - interval '1 minute'")
    until(lambda: any(said.startswith(f"stale races of class race_day: {len(at.races)};") for said in health(port)[1]))
    assert stopped(process) < 10


def test_a_database_that_is_away_is_said_and_comes_back(at: Stage, server: Server) -> None:
    port = free_port()
    process = at.start(STARTLIST_MONITORING=f"127.0.0.1:{port}")
    until(lambda: "monitoring.ready" in at.log(process))
    until(lambda: health(port)[0] == 200)
    name = at.value("select current_database()")
    server.admin.execute(f'alter database "{name}" allow_connections false'.encode())
    until(lambda: health(port)[0] == 503)
    assert metrics(port) == {("startlist_up",): 0}
    assert "Traceback" not in at.log(process)
    server.admin.execute(f'alter database "{name}" allow_connections true'.encode())
    until(lambda: health(port)[0] == 200)
    assert stopped(process) < 10


@pytest.mark.parametrize("address", ["9464", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:x"])
def test_an_address_that_is_none_is_refused(cli: Cli, database_url: str, address: str) -> None:
    done = cli("serve", env={"STARTLIST_MONITORING": address})
    assert done.code == 2
    assert "STARTLIST_MONITORING: must be an address and a port" in done.stderr
