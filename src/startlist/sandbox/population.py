"""Makes registrations in a world, one by one or hundreds of thousands at once."""

from bisect import bisect_left
from dataclasses import dataclass
from datetime import date
from typing import Any

from .people import age_on, person, rest, twin
from .rows import Person, Registration, Removal, Rest
from .wire import EASTERN, day_in, instant
from .world import Event, World, registration_id_of

DAY = 86_400
_TEAMS: tuple[dict[str, Any], ...] = tuple(
    {
        "team_id": 500_001 + number,
        "team_name": name,
        "team_type_id": 1123,
        "team_type": "Corporate",
        "team_gender": gender,
        "team_bib_num": bib,
    }
    for number, (name, gender, bib) in enumerate(
        (
            ("Fast & Furious", "C", 1),
            ("Mother Runners", "F", None),
            ("The 4 Js", "M", 3),
            (" Last Place Club", "C", None),
        )
    )
)


@dataclass(slots=True)
class Wanted:
    """How many registrations an event gets, and until when (epoch seconds) people registered."""

    event: Event
    count: int
    until: float


class Population:
    """Makes registrations in a world; draws from the world's generator."""

    def __init__(self, world: World, *, row_bytes: int = 2000) -> None:
        self.world = world
        self.rng = world.random
        self.row_bytes = row_bytes
        self._rests: list[Rest] = []

    def register(self, event: Event, count: int) -> list[Registration]:
        """Register new people now."""
        now = self.world.clock.second()
        made: list[Registration] = []
        for _ in range(count):
            who = self._someone()
            registration = Registration(
                self.world.next_id("registration"),
                event.event_id,
                who,
                self._some_rest(),
                now,
                now,
                age=age_on(who.data["dob"], event.first_day()),
            )
            self.world.add(registration)
            made.append(registration)
        return made

    def _someone(self) -> Person:
        user_id = self.world.next_id("user") if self.rng.random() < 0.97 else None
        return person(self.rng, user_id, today=self._today())

    def _today(self) -> date:
        return day_in(self.world.clock.now(), EASTERN)

    def _some_rest(self) -> Rest:
        if not self._rests:
            self._rests = [rest(self.rng, row_bytes=self.row_bytes) for _ in range(64)]
        return self.rng.choice(self._rests)

    def fill(self, wanted: list[Wanted], *, people: int = 20_000, days: float = 200) -> None:
        """Register many at once: ids ascend with the time of registration over all events."""
        rng, world = self.rng, self.world
        total = sum(item.count for item in wanted)
        if not total:
            return
        pool = [self._someone() for _ in range(min(total, people))]
        for at in range(3, len(pool), 40):
            pool[at] = twin(rng, pool[at - 1])
        moments: list[tuple[float, int]] = []
        for at, item in enumerate(wanted):
            # Denser towards the end, as people register late.
            moments += [(item.until - days * DAY * rng.random() ** 2, at) for _ in range(item.count)]
        moments.sort()
        first_days = [item.event.first_day() for item in wanted]
        with_bibs = [self._bibs_out(item.event) for item in wanted]
        bibs = [100 * (at % 50) for at in range(len(wanted))]
        size = len(pool)
        for number, (moment, at) in enumerate(moments):
            event = wanted[at].event
            who = pool[number % size] if size == total else pool[rng.randrange(size)]
            registered = int(moment)
            bib: int | None = None
            if with_bibs[at] and rng.random() < 0.9:
                bibs[at] += 1
                bib = bibs[at]
            draw = rng.random()
            registration = Registration(
                world.next_id("registration"),
                event.event_id,
                who,
                self._some_rest(),
                registered,
                registered if draw < 0.8 else int(registered + (wanted[at].until - registered) * (draw - 0.8)),
                bib=bib,
                chip=f"C{bib:05d}" if bib is not None and draw < 0.3 else None,
                age=age_on(who.data["dob"], first_days[at]),
                team=_TEAMS[number % len(_TEAMS)] if draw > 0.93 else None,
            )
            world.registrations[registration.registration_id] = registration
            event.active.append(registration)
            event.latest_change = max(event.latest_change, registration.modified or 0)

    def _bibs_out(self, event: Event) -> bool:
        race = self.world.race(event.race_id)
        return event.start is not None and instant(event.start, race.zone) - self.world.clock.now() < 21 * DAY

    def remove_some(self, event: Event, share: float) -> None:
        """Take out a share of an event's registrations, for all the known reasons."""
        rng = self.rng
        race = self.world.race(event.race_id)
        others = [other for other in race.listed() if other.days_id == event.days_id and other is not event]
        for registration in [one for one in event.active if rng.random() < share and not one.implied_in]:
            del event.active[bisect_left(event.active, registration.registration_id, key=registration_id_of)]
            reason = rng.choices(("removed", "cleared", "deferred", "transferred"), (6, 2, 1, 2 if others else 0))[0]
            at = registration.registered + (600 if reason == "cleared" else rng.randint(3600, 3 * DAY))
            at = min(at, self.world.clock.second())
            new: Registration | None = None
            if reason == "transferred":
                target = rng.choice(others)
                new = Registration(
                    self.world.next_id("registration"),
                    target.event_id,
                    registration.person,
                    registration.rest,
                    at,
                    at,
                    age=registration.age,
                )
                self.world.add(new)
            event.removals[registration.registration_id] = Removal(
                registration, reason, at, new.registration_id if new else None
            )
