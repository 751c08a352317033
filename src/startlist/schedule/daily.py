"""The daily times: when race lists are read, and when every race is read whatever its cadence. Pure.

A zone that is None is the machine's own.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo

BASE = time(2, 0)  # every race is read
DISCOVERY = (time(6, 0), time(18, 0))  # race lists are looked at for new races
LISTINGS = (BASE, *DISCOVERY)


def latest(now: datetime, times: tuple[time, ...], zone: tzinfo | None) -> datetime:
    """The last of these times of day that has come, as an instant."""
    today = now.astimezone(zone).date()
    return max(
        at for days in (-1, 0) for each in times if (at := _instant(today + timedelta(days=days), each, zone)) <= now
    )


def upcoming(now: datetime, times: tuple[time, ...], zone: tzinfo | None) -> datetime:
    """The next of these times of day, as an instant."""
    today = now.astimezone(zone).date()
    return min(
        at for days in (0, 1, 2) for each in times if (at := _instant(today + timedelta(days=days), each, zone)) > now
    )


def _instant(day: date, at: time, zone: tzinfo | None) -> datetime:
    """A local time as an instant: one that a clock change skips comes as much later, a repeated one is the first."""
    return datetime.combine(day, at, zone).astimezone(UTC)
