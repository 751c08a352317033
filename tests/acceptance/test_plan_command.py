"""`startlist plan`: whether the hours to come fit, and what is said where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.stored import Stored
from tests.support import Cli, Result


@pytest.fixture
def stored(database_url: str) -> Iterator[Stored]:
    """A partner with a race in five hours, which is read every minute from the next hour on."""
    filler = Stored(database_url)
    partner = filler.partner("Acme", "acme-key", verified_at="now()")
    filler.race(partner, 10)
    filler.event(partner, 10, 100, "5 hours")
    yield filler
    filler.close()


def morning() -> str:
    """A time zone in which it is past eight: race lists and all races are not read again for nine hours."""
    return f"Etc/GMT{(datetime.now(UTC).hour - 8 + 12) % 24 - 12:+d}"


def plan(cli: Cli, *args: Any) -> Result:
    return cli("plan", *args, env={"STARTLIST_TIMEZONE": morning()})


def test_hours_that_fit(cli: Cli, stored: Stored) -> None:
    shown = cli("plan", env={"STARTLIST_TIMEZONE": "America/Denver"})
    assert shown.code == 0
    assert "2 lanes at 200 ms a call (supposed)" in shown.stdout
    assert "All of it fits." in shown.stdout
    found = plan(cli, "--days", "1", "--json").json
    assert (len(found["hours"]), found["problems"], found["seconds_known"]) == (24, [], False)
    (key,) = found["credentials"]
    assert (key["races"], key["calls_per_hour"]) == (1, 1000)
    # 60 passes, the record four times.
    hour = key["hours"][2]
    assert hour["calls_needed"] == {"race_day": 124}
    assert (hour["shortest_period_seconds"], hour["stretch"], hour["fits"]) == (60, 1, True)
    assert hour["calls_for_backfill"] == 576


def test_hours_that_do_not_fit_are_named(cli: Cli, stored: Stored) -> None:
    stored.conn.execute("update partner_provider_credentials set calls_per_hour = 60")
    shown = plan(cli)
    assert shown.code == 1
    (problem,) = plan(cli, "--days", "1", "--json").json["problems"]
    assert problem in shown.stdout
    assert "timing partner 1 (Acme), API key acme-key, " in problem
    assert "up to 124 calls an hour of 60; races to be read every 60 s will be read every 2 min" in problem
    stored.conn.execute("update partner_provider_credentials set calls_per_hour = 100")
    assert "races to be read every 60 s will be read every 81 s" in plan(cli).stdout
    stored.insert("api_calls", credential_id=1, endpoint="participants", ms=72_000)
    problems = plan(cli, "--json").json["problems"]
    assert "all API keys together" in problems[0]
    assert "of which 2 lanes at 72,000 ms a call can make 100; races to be read every 60 s" in problems[0]


def test_calls_that_wait_for_later_hours_are_named(cli: Cli, stored: Stored) -> None:
    for number in range(60):
        stored.race(1, 1_000 + number)
        stored.event(1, 1_000 + number, 10_000 + number, "40 days")
    stored.conn.execute("update partner_provider_credentials set calls_per_hour = 20")
    stored.conn.execute("update runsignup_races set gone_at = now() where race_id = 10")
    shown = cli("plan")
    assert shown.code == 1
    assert "calls an hour of 20; up to " in shown.stdout
    assert "calls for races that are not near wait longer than an hour" in shown.stdout


def test_races_that_no_key_reads_are_named(cli: Cli, stored: Stored) -> None:
    stored.conn.execute("update partner_provider_credentials set stopped_at = now(), stopped_reason = 'code 6'")
    shown = cli("plan")
    assert shown.code == 1
    assert "Acme) has no API key that RunSignup accepts, so that its races are not read at all" in shown.stdout


def test_what_a_backfill_must_leave_is_said(cli: Cli, stored: Stored) -> None:
    stored.conn.execute("update partner_provider_credentials set calls_per_hour = 200")
    stored.insert("backfill_progress", timing_partner_id=1, race_id=9)
    assert "it must leave up to 124 calls to the races to come" in plan(cli).stdout


def test_before_there_is_anything(cli: Cli, database_url: str) -> None:
    shown = cli("plan")
    assert (shown.code, "All of it fits." in shown.stdout) == (0, True)
    assert "startlist partner add" in shown.stderr
    assert cli("plan", "--days", "0").code == 2
