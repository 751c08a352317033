"""RunSignup's ways to write a value, and what each means: flags, money, ids, dates, times, zones, distances.

Pure functions. Each takes one decoded JSON value (never null) and returns what it means, or raises `MisfitError`, which
never quotes the value.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

EASTERN: Final = ZoneInfo("America/New_York")
"""The zone of every RunSignup time that has no zone of its own."""

INT4: Final = (-(2**31), 2**31 - 1)
INT8: Final = (-(2**63), 2**63 - 1)

LAST_SECOND: Final = 253_402_300_799  # 9999-12-31 23:59:59 UTC, the last that a datetime can hold
_MINUTES: Final = {f"{minute:02}": timedelta(minutes=minute) for minute in range(60)}
_INTEGER = re.compile(r"(?:0|-?[1-9][0-9]{0,18})\Z")
_MONEY = re.compile(r"(-?)(?:\$(-?))?((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,12})(?:\.[0-9]{1,2})?)\Z")
_AMERICAN = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})(?: ([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?\Z")
_ISO = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?: ([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?\Z")
_DISTANCE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,4})?) ?([a-z]+)\Z")

_METERS: Final = {
    **dict.fromkeys(("k", "km", "kilometer", "kilometers", "kilometre", "kilometres"), Decimal(1000)),
    **dict.fromkeys(("mi", "mile", "miles"), Decimal("1609.344")),
    **dict.fromkeys(("meter", "meters", "metre", "metres"), Decimal(1)),
    **dict.fromkeys(("yd", "yard", "yards"), Decimal("0.9144")),
}
_NAMED_DISTANCES: Final = {"marathon": Decimal("42195.00"), "half marathon": Decimal("21097.50")}


class MisfitError(ValueError):
    """A value is not in the form its field has; the value itself is in no message."""


def text(value: object) -> str:
    """A string as sent, blanks and all."""
    if not isinstance(value, str):
        raise MisfitError("not text")
    return value


def integer(value: object, bounds: tuple[int, int] = INT8) -> int:
    """A whole number within `bounds`, sent as a number or as its digits."""
    if isinstance(value, str) and _INTEGER.match(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not bounds[0] <= value <= bounds[1]:
        raise MisfitError("not a whole number in range")
    return value


def identifier(value: object) -> int:
    """An id: a whole number of at least 1, sent as a number or as its digits."""
    return integer(value, (1, INT8[1]))


def age(value: object) -> int:
    """An age in years, as sent; RunSignup does not say on which day."""
    return integer(value, INT4)


LONGEST_LABEL: Final = 100
"""Characters of a bib or a chip; an index holds bibs, and takes no endless ones."""


def label(value: object) -> str:
    """A bib or a chip as text: digits sent as a number or any short text but an empty one, without change."""
    if isinstance(value, str) and value:
        if len(value) > LONGEST_LABEL:
            raise MisfitError("longer than any bib or chip")
        return value
    return str(integer(value))


def flag(value: object) -> bool:
    """`"T"`, `"F"` and their plain forms; nothing else is a truth."""
    match value:
        case True | "T" | "true":
            return True
        case False | "F" | "false":
            return False
    raise MisfitError("neither T nor F")


def money(value: object) -> Decimal:
    """US dollars of `"$1,055.00"`, `"-$5.00"`; digits after the point are kept as sent."""
    found = _MONEY.match(value) if isinstance(value, str) else None
    if found is None or (found[1] and found[2]):
        raise MisfitError("not an amount of money")
    amount = Decimal(found[3].replace(",", ""))
    return -amount if found[1] or found[2] else amount


def epoch(value: object) -> datetime:
    """The UTC instant of epoch seconds."""
    return datetime.fromtimestamp(integer(value, (0, LAST_SECOND)), UTC)


def day(value: object) -> date:
    """A calendar day of `MM/DD/YYYY` or `YYYY-MM-DD`, with nothing but midnight behind it."""
    year, month, number, *time = _clock(value, time="00")
    if any(time):
        raise MisfitError("a time, not a day")
    try:
        return date(year, month, number)
    except ValueError:
        raise MisfitError("no such day") from None


def birthday(value: object) -> date:
    """A day of birth, `YYYY-MM-DD` and nothing else."""
    if not isinstance(value, str) or len(value) != 10 or value[4] != "-":
        raise MisfitError("not a day of birth")
    return day(value)


def local_time(value: object, zone: ZoneInfo) -> datetime:
    """The UTC instant of `M/D/YYYY HH:MM` or `YYYY-MM-DD HH:MM:SS` on a clock in `zone`.

    A time that the zone skips goes forward by the gap; one that it has twice is the first.
    """
    try:
        # fold=0, the default, is the offset before the change: forward over a gap, the first of two.
        return datetime(*_clock(value), tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise MisfitError("no such time") from None


@lru_cache(maxsize=10_000)  # a year has 8,760
def _eastern_hour(value: str) -> datetime:
    return local_time(value + ":00", EASTERN)


def eastern(value: object) -> datetime:
    """The UTC instant of a time on a US Eastern clock."""
    hour, _, minute = text(value).partition(":")
    if minute in _MINUTES:  # clocks are changed on the hour, so the minutes of one lie alike
        return _eastern_hour(hour) + _MINUTES[minute]
    return local_time(value, EASTERN)


def _clock(value: object, time: str | None = None) -> tuple[int, int, int, int, int, int]:
    """Year to second. `time` stands in for hour and minute where the value has none; else they must be there."""
    if isinstance(value, str):
        if found := _AMERICAN.match(value):
            month, number, year, hour, minute, second = found.groups()
        elif found := _ISO.match(value):
            year, month, number, hour, minute, second = found.groups()
        else:
            raise MisfitError("not a date or a time")
        if hour := hour or time:
            return int(year), int(month), int(number), int(hour), int(minute or "0"), int(second or "0")
    raise MisfitError("not a date or a time")


@lru_cache(maxsize=1024)
def zone(name: str | None) -> tuple[ZoneInfo, bool]:
    """The zone of an IANA name and True; Eastern and False when the name is missing or unknown."""
    if name:
        try:
            return ZoneInfo(name), True
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    return EASTERN, False


def meters(distance: str) -> Decimal | None:
    """Meters, to the centimeter, of a distance that can mean one thing only ("5K", "3.2 Miles"); None for others.

    A bare "M" is miles to some and meters to others, so it is none.
    """
    folded = " ".join(distance.casefold().split())
    if folded in _NAMED_DISTANCES:
        return _NAMED_DISTANCES[folded]
    found = _DISTANCE.match(folded)
    if found is None or found[2] not in _METERS:
        return None
    return (Decimal(found[1]) * _METERS[found[2]]).quantize(Decimal("0.01"))
