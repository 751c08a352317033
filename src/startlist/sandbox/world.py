"""The truth behind the sandbox: timing partners, keys, races, events, registrations, removals."""

import random
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from operator import attrgetter
from typing import Any, Literal
from zoneinfo import ZoneInfo

from .clock import Clock
from .rows import Registration, Removal
from .wire import day_in, flag, padded_date, read_short_time, short_eastern, short_time, zone_of

KeyKind = Literal["legacy", "v2"]
registration_id_of = attrgetter("registration_id")


class UnknownIdError(LookupError):
    """Something was asked of a race, event, registration or key that the world does not have."""


@dataclass(slots=True)
class Key:
    """An API key, its secret and the races it reaches."""

    name: str
    kind: KeyKind
    key: str
    secret: str
    partner: str
    race_ids: set[int] = field(default_factory=set)
    revoked: bool = False


@dataclass(slots=True)
class Event:
    """A distance of a race on one of its event days; `fields` is what the API shows, `start` and `end` are local."""

    event_id: int
    race_id: int
    fields: dict[str, Any]
    start: datetime | None = None
    end: datetime | None = None
    removed: bool = False
    active: list[Registration] = field(default_factory=list)
    removals: dict[int, Removal] = field(default_factory=dict)
    vanished: dict[int, Registration] = field(default_factory=dict)
    # The latest `last_modified` ever put in here: most incremental queries need to look no further.
    latest_change: int = 0

    def __post_init__(self) -> None:
        self.read_times()

    @property
    def days_id(self) -> int:
        """The `race_event_days_id`."""
        return int(self.fields["race_event_days_id"])

    def read_times(self) -> None:
        """Take start and end from the fields; what cannot be read is None."""
        self.start = read_short_time(self.fields.get("start_time"))
        self.end = read_short_time(self.fields.get("end_time"))

    def first_day(self) -> date | None:
        """The calendar day of the start in the race's zone."""
        return self.start.date() if self.start else None

    def last_day(self) -> date | None:
        """The calendar day of the end (or start, if later or alone) in the race's zone."""
        times = [time for time in (self.start, self.end) if time]
        return max(times).date() if times else None

    def find(self, registration_id: int) -> int:
        """Return the position of a registration; raise UnknownIdError."""
        at = bisect_left(self.active, registration_id, key=registration_id_of)
        if at == len(self.active) or self.active[at].registration_id != registration_id:
            raise UnknownIdError(f"registration {registration_id} is not active in event {self.event_id}")
        return at

    def insert(self, registration: Registration) -> None:
        """Add a registration in the order of ids."""
        if not self.active or self.active[-1].registration_id < registration.registration_id:
            self.active.append(registration)
        else:
            insort(self.active, registration, key=registration_id_of)
        self.latest_change = max(self.latest_change, registration.modified or 0)


@dataclass(slots=True)
class Race:
    """A race with the events of all its years; `fields` overrides what the record says."""

    race_id: int
    name: str
    timezone: str
    created: float
    modified: float
    fields: dict[str, Any]
    events: dict[int, Event] = field(default_factory=dict)
    deleted: bool = False

    @property
    def zone(self) -> ZoneInfo:
        """The race's zone, Eastern where its name is unknown."""
        return zone_of(self.fields.get("timezone", self.timezone))

    @property
    def public(self) -> bool:
        """Whether a caller without a key may see it."""
        return "T" not in (self.fields.get("is_draft_race"), self.fields.get("is_private_race"))

    def listed(self) -> list[Event]:
        """Return the events that were not taken out."""
        return [event for event in self.events.values() if not event.removed]

    def periods(self) -> dict[int, tuple[date, date]]:
        """Return first and last day of each group of event days, earliest first."""
        found: dict[int, tuple[date, date]] = {}
        for event in self.listed():
            first, last = event.first_day(), event.last_day()
            if first and last:
                known = found.get(event.days_id, (first, last))
                found[event.days_id] = (min(known[0], first), max(known[1], last))
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def current_days_id(self, now: float) -> int | None:
        """Return the group of event days that is on or comes next, else the latest one."""
        today = day_in(now, self.zone)
        periods = self.periods()
        coming = [days_id for days_id, (_, last) in periods.items() if last >= today]
        return coming[0] if coming else (list(periods)[-1] if periods else None)

    def record(self, now: float) -> dict[str, Any]:
        """Return the race as the API shows it, without events."""
        today = day_in(now, self.zone)
        periods = list(self.periods().values())
        coming = [period for period in periods if period[1] >= today]
        past = [period for period in periods if period[1] < today]
        return {
            "race_id": self.race_id,
            "name": self.name,
            "last_date": padded_date(past[-1][0]) if past else None,
            "last_end_date": padded_date(past[-1][1]) if past else None,
            "next_date": padded_date(coming[0][0]) if coming else None,
            "next_end_date": padded_date(coming[0][1]) if coming else None,
            "is_draft_race": "F",
            "is_private_race": "F",
            "is_registration_open": flag(bool(coming)),
            "created": short_eastern(self.created),
            "last_modified": short_eastern(self.modified),
            "description": None,
            "url": f"https://runsignup.example/Race/{self.race_id}",
            "external_race_url": None,
            "external_results_url": None,
            "fb_page_id": None,
            "fb_event_id": None,
            "address": {"street": None, "street2": None, "city": None, "state": None, "zipcode": None}
            | {"country_code": "US"},
            "timezone": self.timezone,
            "logo_url": None,
            "real_time_notifications_enabled": "F",
            **{key: value for key, value in self.fields.items() if not key.startswith("_")},
        }


@dataclass(slots=True)
class Settings:
    """What stands for every call; faults are for single ones."""

    latency_ms: float = 0.0
    latency_jitter_ms: float = 0.0
    max_concurrent: int | None = 2
    calls_per_hour: int | None = None
    registration_required: bool = False
    # How results_per_page counts over several events: nothing is known of it.
    paging: Literal["total", "per_event"] = "total"
    # What "still to come" means: by the race's calendar day, or by the very start.
    future_events: Literal["day", "start"] = "day"
    gzip_up_to: int = 262_144


class World:
    """All that the sandbox knows. Deterministic by seed and time."""

    def __init__(self, *, seed: int = 0, now: float | None = None, frozen: bool = False) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a world is to be repeatable
        self.clock = Clock(now, frozen=frozen)
        self.settings = Settings()
        self.keys: dict[str, Key] = {}
        self.races: dict[int, Race] = {}
        self.events: dict[int, Event] = {}
        self.registrations: dict[int, Registration] = {}
        # The caller registration (`rsu_api_reg`) that this service knows.
        self.caller_registration = "1001.sandbox-caller"
        self.caller_secret = "sandbox-caller-secret"  # noqa: S105 - made up, and printed on request
        self._last: dict[str, int] = {
            "race": 100_000,
            "days": 300_000,
            "event": 700_000,
            "registration": 60_000_000,
            "user": 20_000_000,
            "team": 500_000,
        }

    def next_id(self, kind: str) -> int:
        """Return a new id, ascending."""
        self._last[kind] += 1
        return self._last[kind]

    def secret(self) -> str:
        """Return 40 made-up hexadecimal digits."""
        return f"{self.random.getrandbits(160):040x}"

    def key(self, name: str) -> Key:
        """Return a key by its name or itself; raise UnknownIdError."""
        for key in self.keys.values():
            if name in (key.name, key.key):
                return key
        raise UnknownIdError(f"no key {name}")

    def race(self, race_id: int) -> Race:
        """Return a race, deleted ones too; raise UnknownIdError."""
        try:
            return self.races[race_id]
        except KeyError:
            raise UnknownIdError(f"no race {race_id}") from None

    def event(self, event_id: int) -> Event:
        """Return an event, removed ones too; raise UnknownIdError."""
        try:
            return self.events[event_id]
        except KeyError:
            raise UnknownIdError(f"no event {event_id}") from None

    def registration(self, registration_id: int) -> Registration:
        """Return a registration in whatever state; raise UnknownIdError."""
        try:
            return self.registrations[registration_id]
        except KeyError:
            raise UnknownIdError(f"no registration {registration_id}") from None

    def add_key(self, partner: str, kind: KeyKind = "legacy", name: str | None = None) -> Key:
        """Make a key for a partner; several are allowed."""
        taken = sum(key.partner == partner for key in self.keys.values())
        key = Key(
            name=name or (partner if not taken else f"{partner} #{taken + 1}"),
            kind=kind,
            key=f"{self.random.getrandbits(128):032x}",
            secret=self.secret(),
            partner=partner,
        )
        self.keys[key.key] = key
        return key

    def add_race(self, name: str, keys: Iterable[Key], timezone: str = "America/New_York", **fields: Any) -> Race:
        """Make a race that these keys reach."""
        now = self.clock.now()
        race = Race(self.next_id("race"), name, timezone, now, now, fields)
        self.races[race.race_id] = race
        for key in keys:
            key.race_ids.add(race.race_id)
        return race

    def add_event(
        self,
        race: Race,
        name: str,
        start: datetime,
        *,
        end: datetime | None = None,
        days_id: int | None = None,
        **fields: Any,
    ) -> Event:
        """Make an event of a race; start and end are local times of the race's zone."""
        event_id = self.next_id("event")
        shown: dict[str, Any] = {
            "event_id": event_id,
            "race_event_days_id": self.next_id("days") if days_id is None else days_id,
            "name": name,
            "details": None,
            "start_time": short_time(start),
            "end_time": short_time(end) if end else None,
            "age_calc_base_date": None,
            "registration_opens": short_eastern(race.created),
            "event_type": "running_race",
            "distance": name,
            "volunteer": "F",
            "require_dob": "T",
            "require_phone": "F",
            "registration_periods": [],
            "sub_event_ids": [],
            "giveaway": None,
            **fields,
        }
        event = Event(event_id, race.race_id, shown)
        race.events[event_id] = self.events[event_id] = event
        return event

    def add(self, registration: Registration) -> None:
        """Enter a registration into the event it names."""
        self.registrations[registration.registration_id] = registration
        self.event(registration.event_id).insert(registration)

    def places(self, registration: Registration) -> list[Event]:
        """Return the events that list a registration: its own, and those where it is implied."""
        return [self.event(event_id) for event_id in (registration.event_id, *registration.implied_in)]

    def take_out(self, registration: Registration) -> None:
        """Take an active registration off all lists; raise UnknownIdError if it is not active."""
        for event in self.places(registration):
            del event.active[event.find(registration.registration_id)]

    def put_back(self, registration: Registration) -> None:
        """Put a registration on all its lists again."""
        for event in self.places(registration):
            event.insert(registration)

    def touch(self, registration: Registration, *, silent: bool = False) -> None:
        """Note that a registration changed; its `last_modified` becomes the clock's second unless silent."""
        registration.touch(None if silent else self.clock.second())
        for event in self.places(registration):
            event.latest_change = max(event.latest_change, registration.modified or 0)

    def future_events(self, race: Race) -> list[Event]:
        """Return the events still to come; one without a readable start counts as such."""
        now = self.clock.now()
        if self.settings.future_events == "start":
            here = datetime.fromtimestamp(now, race.zone).replace(tzinfo=None)
            return [event for event in race.listed() if event.start is None or event.start >= here]
        today = day_in(now, race.zone)
        return [event for event in race.listed() if (event.last_day() or today) >= today]
