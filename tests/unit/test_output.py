"""What commands print."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
import typer

from startlist.cli import output

WHEN = datetime(2027, 5, 1, 10, 55, 30, tzinfo=UTC)


def test_json_has_iso_instants_and_decimals_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json([{"bib_num": "007", "start_time": WHEN, "fee": Decimal("1055.10"), "gone_at": None}])
    printed = capsys.readouterr().out
    assert json.loads(printed) == [
        {"bib_num": "007", "start_time": "2027-05-01T10:55:30Z", "fee": 1055.10, "gone_at": None}
    ]
    assert '"fee": 1055.10' in printed


def test_followed_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json_line({"bib_change_id": 1, "name": "two\nlines"})
    output.print_json_line({"bib_change_id": 2, "name": None})
    assert [json.loads(line)["bib_change_id"] for line in capsys.readouterr().out.splitlines()] == [1, 2]


def test_a_table_shows_every_value_in_full_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    long = "The Very Long Name of a Very Long Race " * 5
    output.table(
        ["race", "rows", "start", "open", "gone"],
        [(long.strip(), 12345, WHEN, True, None), ("[bold]5K[/bold]", 7, None, False, None)],
        zone=ZoneInfo("America/New_York"),
    )
    printed = capsys.readouterr().out
    assert long.strip() in printed
    assert "[bold]5K[/bold]" in printed
    assert "2027-05-01 06:55:30" in printed
    lines = printed.splitlines()
    assert lines[-2].index("12345") + 4 == lines[-1].index("7", lines[-1].index("[/bold]"))  # right-aligned


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["name"], [("\x1b]0;title\x07Anna\x9b2J\r\n",)])
    output.note("Anna \x1b[31m")
    output.say("plain")
    printed = capsys.readouterr()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed.out + printed.err)
    assert "Anna" in printed.out
    assert "Anna" in printed.err


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90m", timedelta(minutes=90)), ("2h", timedelta(hours=2)), ("3d", timedelta(days=3)), ("1w", timedelta(weeks=1))],
)
def test_since_takes_a_span(text: str, ago: timedelta) -> None:
    before = datetime.now(UTC)
    assert before - ago <= output.parse_since(text) <= datetime.now(UTC) - ago


def test_since_without_an_offset_is_in_the_configured_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARTLIST_TIMEZONE", "America/Denver")
    assert output.parse_since("2027-05-01") == datetime(2027, 5, 1, 6, tzinfo=UTC)
    assert output.parse_since("2027-05-01T10:55:30Z") == WHEN


@pytest.mark.parametrize("text", ["yesterday", "2h30", "", "2027-13-01", "-1d"])
def test_since_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="2027-05-01"):
        output.parse_since(text)
