"""`doctor`: a sound installation passes every check but those that a test cannot have, and each fault is found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path

import pytest

from startlist.cli import checks
from startlist.cli.checks import Finding, Verdict
from startlist.cli.doctor import examine
from startlist.schedule.jobs import make_app, make_tables
from startlist.store.database import Database
from startlist.sync.probe import Probed
from tests.support import MakeSettings
from tests.syncing import Rig


def verdicts(findings: list[Finding]) -> dict[str, Verdict]:
    return {one.check: one.verdict for one in findings if one.verdict is not Verdict.PASS}


async def examined(rig: Rig, *, offline: bool = False) -> list[Finding]:
    return await examine(rig.settings, offline=offline)


NORMAL = {"caller registration": Verdict.WARN}  # a sandbox needs none

Plant = Callable[[Rig], Awaitable[object]]


async def refused(rig: Rig) -> None:
    rig.control.fault("error", times=None, code=6)


async def unreachable(rig: Rig) -> None:
    rig.control.fault("http", times=None, status=503)


async def open_key_file(rig: Rig) -> None:
    (rig.settings.home / "secret.key").chmod(0o644)


async def lost_key_file(rig: Rig) -> None:
    (rig.settings.home / "secret.key").unlink()


async def foreign_key_file(rig: Rig) -> None:
    (rig.settings.home / "secret.key").write_text("A" * 43 + "=")


async def foreign_program(rig: Rig) -> None:
    rig.control.fault("error", times=None, code=17)


async def a_server_that_takes_no_writes(rig: Rig) -> None:
    name = (await rig.one("select current_database() as name"))["name"]
    await rig.conn.execute(f'alter database "{name}" set default_transaction_read_only = on'.encode())


FAULTS: dict[str, tuple[Plant, dict[str, Verdict]]] = {
    "refused key": (refused, {"API key": Verdict.FAIL, "clock": Verdict.WARN}),
    "refused program": (
        foreign_program,
        {"caller registration": Verdict.FAIL, "API key": Verdict.WARN, "clock": Verdict.WARN},
    ),
    "read-only": (
        a_server_that_takes_no_writes,
        {
            "database": Verdict.FAIL,
            **dict.fromkeys(("clock", "API key", "stale races", "jobs", "quarantine", "suspicions"), Verdict.WARN),
        },
    ),
    "RunSignup is away": (unreachable, {"API key": Verdict.WARN, "clock": Verdict.WARN}),
    "key file for all": (open_key_file, {"key": Verdict.FAIL, "clock": Verdict.WARN}),
    "key file lost": (lost_key_file, {"key": Verdict.FAIL, "clock": Verdict.WARN}),
    "another key": (foreign_key_file, {"key": Verdict.FAIL, "clock": Verdict.WARN}),
}

# What plants a fault, what takes it away again, and which checks it is to be seen in.
STORED_FAULTS: tuple[tuple[str, str | None, dict[str, Verdict]], ...] = (
    (
        "update sync_cursors set participants_watermark = participants_watermark - 200000",
        "update sync_cursors set participants_watermark = participants_watermark + 200000",
        {"stale races": Verdict.FAIL},
    ),
    (
        "insert into timing_partners (company_name) values ('Best')",
        "delete from timing_partners where company_name = 'Best'",
        {"API key": Verdict.WARN},
    ),
    (
        "update partner_provider_credentials set stopped_at = now(), stopped_reason = 'refused'",
        "update partner_provider_credentials set stopped_at = null",
        {"API key": Verdict.FAIL},
    ),
    (
        "insert into sync_runs (command, trigger) values ('worker', 'schedule')",
        "delete from sync_runs where command = 'worker'",
        {"jobs": Verdict.WARN},
    ),
    (
        "insert into sync_history (timing_partner_id, race_id, sync_type, status, started_at)"
        " values (1, 100001, 'full', 'running', now() - interval '1 hour')",
        "delete from sync_history where status = 'running'",
        {"jobs": Verdict.WARN},
    ),
    (
        "insert into procrastinate_jobs (queue_name, task_name, status) values ('race', 'race', 'doing')",
        "delete from procrastinate_jobs",
        {"jobs": Verdict.WARN},
    ),
    (
        "with job as (insert into procrastinate_jobs (queue_name, task_name, status) values ('race', 'race', 'todo')"
        " returning id) select * from job; update procrastinate_events set at = now() - interval '20 minutes'",
        "delete from procrastinate_jobs",
        {"jobs": Verdict.WARN},
    ),
    (
        "insert into procrastinate_jobs (queue_name, task_name, status) values ('race', 'race', 'todo')",
        "delete from procrastinate_jobs",
        {},  # it was put there just now
    ),
    (
        "update sync_cursors set planned_at = now(), next_sync_at = now() + interval '1 hour'",
        "update sync_cursors set planned_at = null, next_sync_at = null",
        {"jobs": Verdict.WARN},
    ),
    (
        "insert into runsignup_quarantine (timing_partner_id, race_id, endpoint, reason, raw, raw_hash)"
        " values (1, 100001, 'participants', 'r', '{}', '1')",
        "delete from runsignup_quarantine",
        {"quarantine": Verdict.WARN},
    ),
    (
        "insert into runsignup_quarantine (timing_partner_id, endpoint, reason, raw, raw_hash)"
        " values (1, 'races', 'r', '{}', '1')",
        "delete from runsignup_quarantine",
        {"quarantine": Verdict.WARN},
    ),
    (
        """update sync_cursors set suspicion = '{"events": {"700001": [9, 12]}}'""",
        "update sync_cursors set suspicion = null",
        {"suspicions": Verdict.WARN},
    ),
    (
        "update startlist_version set version_num = '0001'",
        None,
        {
            "schema": Verdict.FAIL,
            **dict.fromkeys(("API key", "stale races", "jobs", "quarantine", "suspicions"), Verdict.WARN),
        },
    ),
)


async def test_a_sound_installation_passes_with_one_call_for_each_key(rig: Rig) -> None:
    await rig.sync()
    rig.control.reset_log()
    findings = await examined(rig)
    assert verdicts(findings) == NORMAL
    assert [call["endpoint"] for call in rig.control.log()] == ["participants"]
    assert sorted({one.check for one in findings}) == sorted(
        ["database", "schema", "key", "caller registration", "disk", "clock", "API key", "stale races", "jobs",
         "quarantine", "suspicions"]
    )  # fmt: skip
    rig.control.reset_log()
    offline = await examined(rig, offline=True)
    assert verdicts(offline) == NORMAL | {"clock": Verdict.WARN}
    assert rig.control.log() == []


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_found_and_only_that_one(rig: Rig, fault: str) -> None:
    plant, expected = FAULTS[fault]
    await rig.sync()
    await plant(rig)
    findings = await examined(rig)
    assert verdicts(findings) == NORMAL | expected
    unsaid = [one for one in findings if one.verdict is Verdict.FAIL and one.todo is None]
    assert unsaid == []


async def test_each_fault_that_is_stored_is_found_and_only_that_one(rig: Rig) -> None:
    await rig.sync()
    app = make_app(rig.database)
    async with app.open_async():
        await make_tables(rig.database, app)
    clean = NORMAL | {"clock": Verdict.WARN}
    assert verdicts(await examined(rig, offline=True)) == clean
    for plant, undo, expected in STORED_FAULTS:
        await rig.conn.execute(plant.encode())
        assert verdicts(await examined(rig, offline=True)) == clean | expected, plant
        if undo is not None:
            await rig.conn.execute(undo.encode())


async def test_without_its_database_the_other_checks_go_on(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(database_url="postgresql://nobody@127.0.0.1:1/none", home=tmp_path / "new")
    findings = await examine(settings, offline=False)
    assert verdicts(findings)["database"] is Verdict.FAIL
    passed = {one.check for one in findings if one.verdict is Verdict.PASS}
    assert passed == {"key", "disk"}
    assert not (tmp_path / "new").exists()


async def test_a_database_that_is_not_ours_fails_the_schema(
    empty_database_url: str, make_settings: MakeSettings
) -> None:
    findings = await examine(make_settings(database_url=empty_database_url), offline=True)
    assert [one.check for one in findings if one.verdict is Verdict.FAIL] == ["schema"]


async def test_a_new_installation_has_nothing_to_fail(database: Database, make_settings: MakeSettings) -> None:
    findings = await examine(make_settings(), offline=False)
    assert verdicts(findings) == NORMAL | {"clock": Verdict.WARN, "API key": Verdict.WARN}


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(0.4, "pass"), (-9.0, "pass"), (-20.0, "warn"), (30.0, "warn"), (61.0, "fail")]
)
def test_a_clock_is_judged_by_its_distance(ahead: float, verdict: str) -> None:
    assert checks.clock([Probed(1, True, "", None), Probed(2, True, "", ahead)]).verdict == verdict


@pytest.mark.parametrize(
    ("today", "verdict", "said"),
    [
        (date(2026, 12, 31), "warn", "in 1 day"),
        (date(2026, 11, 1), "warn", "in 61 days"),
        (date(2027, 1, 1), "fail", "since 2027-01-01"),
    ],
)
def test_the_caller_registration_is_due(make_settings: MakeSettings, today: date, verdict: str, said: str) -> None:
    found = checks.registration(make_settings(), today)
    assert found.verdict == verdict
    assert found.found.endswith(said)
    given = make_settings(api_registration="1.a", api_registration_secret="s")
    assert checks.registration(given, date(2028, 1, 1)).verdict == "pass"
