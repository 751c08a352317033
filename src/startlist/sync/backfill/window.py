"""The hours of the day in which a backfill makes calls: `22:00-05:00`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from startlist.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Window:
    """From one time of day to another, over midnight where the first is the later; `zone` None is the machine's."""

    begin: time
    end: time
    zone: tzinfo | None

    @classmethod
    def parse(cls, text: str, zone: tzinfo | None) -> Window:
        """A window written as `22:00-05:00`. Raises `ConfigurationError` for anything else."""
        found = re.fullmatch(r"\s*(\d{1,2}:\d{2})\s*[-\N{EN DASH}]\s*(\d{1,2}:\d{2})\s*", text)
        try:
            begin, end = (time.fromisoformat(part.zfill(5)) for part in found.groups()) if found else (None, None)
        except ValueError:
            begin = end = None
        if begin is None or end is None:
            raise ConfigurationError("--between: write two times of the day, as 22:00-05:00")
        if begin == end:
            raise ConfigurationError("--between: both times are the same; leave it out to work around the clock")
        return cls(begin, end, zone)

    def __str__(self) -> str:
        return f"{self.begin:%H:%M} and {self.end:%H:%M}"

    def closed_until(self, now: datetime) -> datetime | None:
        """When the window opens next, in UTC; None while it is open. Right over both changes of the clocks."""
        here = now.astimezone(self.zone)
        if self._holds(here.time()):
            return None
        day, opens = here.date(), self._instant(here.date())
        while opens <= now or not self._holds(opens.astimezone(self.zone).time()):  # it was open, or the clocks skip it
            day += timedelta(days=1)
            opens = self._instant(day)
        return opens

    @property
    def share_of_day(self) -> float:
        """The part of a day that the window is open."""
        seconds = (self._seconds(self.end) - self._seconds(self.begin)) % 86_400
        return seconds / 86_400

    def _holds(self, clock: time) -> bool:
        if self.begin < self.end:
            return self.begin <= clock < self.end
        return clock >= self.begin or clock < self.end

    def _instant(self, day: date) -> datetime:
        local = datetime.combine(day, self.begin)
        aware = local.astimezone() if self.zone is None else local.replace(tzinfo=self.zone)
        return aware.astimezone(UTC)

    @staticmethod
    def _seconds(clock: time) -> int:
        return clock.hour * 3600 + clock.minute * 60
