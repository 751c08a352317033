"""What commands print: tables for people, JSON for programs, and the filters that the reading commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 1000  # columns of an output that is no terminal: a program's lines are not wrapped

MOST = 2**63 - 1  # the largest id that PostgreSQL can hold
MOST_LINES = 1_000_000_000

_JSON = msgspec.json.Encoder(decimal_format="number")
_SPANS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

# Names come from the network: nothing in them may steer the terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def console(*, stderr: bool = False) -> Console:
    """A console for results (stdout) or for notes and progress (stderr)."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """One line of a result, on stdout, as it is."""
    typer.echo(text)


def note(text: str) -> None:
    """A sentence for the user, on stderr, so that it is never part of a result."""
    console(stderr=True).print(_CONTROL.sub("\ufffd", text), soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, zone: tzinfo | None = None) -> None:
    """Print rows below headings on stdout. Numbers to the right, instants in `zone` (the machine's if none)."""
    found = [tuple(row) for row in rows]
    printed = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, name in enumerate(columns):
        values = [row[index] for row in found if row[index] is not None]
        numeric = bool(values) and all(isinstance(value, int | float | Decimal) for value in values)
        numeric = numeric and not any(isinstance(value, bool) for value in values)
        printed.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in found:
        printed.add_row(*(Text(cell(value, zone=zone)) for value in row))
    console().print(printed)


def fits(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bool:
    """Whether a table of these rows fits the terminal without folding a value; an output that is none is wide."""
    widths = [max(map(len, values)) for values in zip(columns, *([*map(cell, row)] for row in rows), strict=True)]
    return sum(widths) + 3 * (len(widths) - 1) <= console().width


def cell(value: object, *, zone: tzinfo | None = None) -> str:
    """One value as people read it; nothing for None."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
        case list() | tuple():
            return ", ".join(cell(item, zone=zone) for item in value)
        case _:
            return _CONTROL.sub("\ufffd", str(value))


def print_json(value: object) -> None:
    """Print one JSON document on stdout; instants in ISO 8601, decimals as numbers."""
    _write(json_document(value))


def json_document(value: object) -> str:
    """A JSON document as `print_json` prints it."""
    return msgspec.json.format(_JSON.encode(value), indent=2).decode()


def print_json_line(value: object) -> None:
    """Print one JSON document on one line and send it off at once, for output that is followed."""
    _write(_JSON.encode(value).decode())


def _write(document: str) -> None:
    sys.stdout.write(document + "\n")
    sys.stdout.flush()


def zone_of(name: str | None) -> tzinfo | None:
    """The zone that instants are shown in: `STARTLIST_TIMEZONE`, or none for the machine's."""
    return ZoneInfo(name) if name else None


def whole(least: int = 1, most: int = MOST) -> Callable[[str | int], int]:
    """A reader of an option's whole number between two bounds, which says in plain words what does not fit."""

    def read(given: str | int) -> int:
        text = str(given).strip()
        if not re.fullmatch(r"[+-]?[0-9]{1,30}", text):
            raise typer.BadParameter(f"{text!r} is not a whole number")
        if not least <= int(text) <= most:
            raise typer.BadParameter(f"{text} is too large" if int(text) > most else f"it must be {least} or more")
        return int(text)

    return read


def parse_since(text: str) -> datetime:
    """An instant from a date, a date and time, or a span back from now (`90m`, `2h`, `3d`, `1w`).

    Without an offset it is read in `STARTLIST_TIMEZONE`, or in the machine's zone.
    """
    try:
        return _instant(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a date (2027-05-01), a date and time (2027-05-01T06:55) or a span (90m, 2h, 3d, 1w)"
        ) from None


def _instant(text: str) -> datetime:
    span = re.fullmatch(r"([0-9]{1,5})([mhdw])", text)
    if span:
        return datetime.now(UTC) - timedelta(**{_SPANS[span[2]]: int(span[1])})
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is not None:
        return instant.astimezone(UTC)
    from startlist import config

    zone = zone_of(config.load().timezone)
    return (instant.replace(tzinfo=zone) if zone else instant).astimezone(UTC)


TimingPartner = Annotated[
    int | None, typer.Option("--timing-partner", metavar="ID", parser=whole(), help="Only this partner.")
]
Race = Annotated[int | None, typer.Option("--race", metavar="RACE_ID", parser=whole(), help="Only this race.")]
Event = Annotated[int | None, typer.Option("--event", metavar="EVENT_ID", parser=whole(), help="Only this event.")]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=parse_since, metavar="WHEN", help="Since a date, a time, or a span such as 2h."),
]
Limit = Annotated[
    int, typer.Option("--limit", parser=whole(most=MOST_LINES), metavar="N", help="At most so many lines.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
