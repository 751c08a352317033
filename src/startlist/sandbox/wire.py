"""Values as RunSignup writes them: JSON text, dates in their several forms, money."""

import json
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

EASTERN = ZoneInfo("America/New_York")


def words(several: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(several.split())


def text(value: object) -> str:
    r"""Return JSON as the service writes it: no blanks, ASCII only, slashes as `\/`."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/")


def flag(value: bool) -> str:
    """Return a boolean as "T" or "F"."""
    return "T" if value else "F"


def money(cents: int) -> str:
    """Return an amount as "$1,055.00"."""
    return f"{'-' if cents < 0 else ''}${abs(cents) // 100:,}.{abs(cents) % 100:02d}"


def short_time(when: datetime) -> str:
    """Return "M/D/YYYY HH:MM", month and day not padded."""
    return f"{when.month}/{when.day}/{when.year} {when.hour:02d}:{when.minute:02d}"


def short_eastern(epoch: float) -> str:
    """Return an instant as "M/D/YYYY HH:MM" in Eastern time."""
    return short_time(datetime.fromtimestamp(epoch, EASTERN))


def long_eastern(epoch: float) -> str:
    """Return an instant as "YYYY-MM-DD HH:MM:SS" in Eastern time, as removed registrations carry it."""
    return datetime.fromtimestamp(epoch, EASTERN).strftime("%Y-%m-%d %H:%M:%S")


def padded_date(day: date) -> str:
    """Return a calendar day as "MM/DD/YYYY"."""
    return f"{day.month:02d}/{day.day:02d}/{day.year:04d}"


def read_short_time(value: object) -> datetime | None:
    """Read "M/D/YYYY HH:MM" (no zone); None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.strptime(value, "%m/%d/%Y %H:%M")  # noqa: DTZ007 - local to a zone that stands elsewhere
    except ValueError:
        return None


def zone_of(name: object) -> ZoneInfo:
    """Return the named zone, Eastern where there is no such zone."""
    try:
        return ZoneInfo(str(name))
    except (KeyError, ValueError, OSError):
        return EASTERN


def instant(local: datetime, zone: ZoneInfo) -> float:
    """Return epoch seconds of a local time."""
    return local.replace(tzinfo=zone).timestamp()


def day_in(epoch: float, zone: ZoneInfo) -> date:
    """Return the calendar day of an instant in a zone."""
    return datetime.fromtimestamp(epoch, zone).date()


def read_day(value: str, now: float) -> date | None:
    """Read a query value of type *date*: YYYY-mm-dd, epoch seconds, `today` or `tomorrow` (Eastern); None if misfit."""
    today = day_in(now, EASTERN)
    if value == "today":
        return today
    if value == "tomorrow":
        return today + timedelta(days=1)
    if value.isdigit():
        try:
            return day_in(int(value), EASTERN)
        except (OverflowError, ValueError, OSError):
            return None
    try:
        return date.fromisoformat(value) if len(value) == 10 else None
    except ValueError:
        return None
