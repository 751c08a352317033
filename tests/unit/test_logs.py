"""Logging: where it goes, in which form, and what never gets in."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from startlist.cli import logs
from startlist.config import LogFormat, LogLevel
from startlist.errors import ConfigurationError
from tests.support import MakeSettings

pytestmark = pytest.mark.usefixtures("logging_as_before")


def test_the_console_shows_events_with_fields(make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(make_settings())
    structlog.get_logger("startlist.sync").info("pass.completed", race_id=7, rows=2500)
    structlog.get_logger("startlist.sync").debug("too.much")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "pass.completed" in printed.err
    assert "race_id=7" in printed.err
    assert "too.much" not in printed.err
    assert "\x1b" not in printed.err


def test_json_is_one_object_a_line(make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(make_settings(log_format=LogFormat.JSON))
    structlog.get_logger("startlist.sync").warning("pass.put_off", race_id=7, reason="línea\nnueva")
    logging.getLogger("elsewhere").warning("a library's %s", "line")
    ours, foreign = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["level"], ours["race_id"]) == ("pass.put_off", "warning", 7)
    assert ours["timestamp"].endswith("Z")
    assert (foreign["event"], foreign["logger"]) == ("a library's line", "elsewhere")


def test_a_file_takes_the_place_of_stderr(
    make_settings: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "startlist.log"
    logs.configure(make_settings(log_file=file))
    structlog.get_logger().info("run.started")
    assert "run.started" in file.read_text()
    assert capsys.readouterr().err == ""


def test_the_file_rotates(make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1000)
    logs.configure(make_settings(log_file=tmp_path / "startlist.log"))
    for number in range(100):
        structlog.get_logger().info("run.started", number=number, note="x" * 80)
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == logs.FILES == 5
    assert all(file.stat().st_size <= 1000 for file in kept)
    assert "number=99" in (tmp_path / "startlist.log").read_text()


def test_an_impossible_file_is_a_configuration_error(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="STARTLIST_LOG_FILE"):
        logs.configure(make_settings(log_file=tmp_path / "absent" / "x.log"))


@pytest.mark.parametrize("level", list(LogLevel))
def test_libraries_that_log_urls_and_headers_stay_quiet_at_every_level(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str], level: LogLevel
) -> None:
    logs.configure(make_settings(log_level=level))
    logging.getLogger("httpx2").info("HTTP Request: GET https://x/rest?api_secret=geheim")
    logging.getLogger("httpcore2.http11").debug("send_request_headers X-RSU-API-SECRET geheim")
    assert "geheim" not in capsys.readouterr().err


def test_a_full_disk_is_told_once_and_ends_nothing(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    logs.configure(make_settings(log_file="/dev/full"))
    for number in range(3):
        structlog.get_logger().info("run.started", number=number)
    with suppress(OSError):
        logging.getLogger().handlers[-1].close()
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "startlist: STARTLIST_LOG_FILE: /dev/full can be written no longer: No space left on device;" + (
        " lines are lost"
    )


def test_what_a_library_logs_of_an_exception_tells_no_values(
    make_settings: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(make_settings())
    try:
        raise ValueError("an" + "na@example.org")  # its source line is shown
    except ValueError:
        logging.getLogger("psycopg").warning("error ignored", exc_info=True)
    said = capsys.readouterr().err
    assert "error ignored" in said
    assert "ValueError" in said
    assert "anna" not in said
