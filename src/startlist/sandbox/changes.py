"""What can happen in the world: each change is a method, callable as `POST /_sandbox/<name>` with its arguments."""

import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Any

from .life import hour_of_life
from .population import Population
from .rows import ADDRESS_KEYS, ODD_KEYS, PERSON_KEYS, Person, Registration, Removal, Rest
from .wire import read_short_time
from .world import Key, KeyKind, World

Result = dict[str, Any]


class BadChangeError(ValueError):
    """A change was asked for that does not exist, or with arguments that do not fit."""


class Changes:
    """The changes of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.population = Population(world)
        self.names: dict[str, Callable[..., Result]] = {
            name: method
            for name, method in inspect.getmembers(self, inspect.ismethod)
            if not name.startswith("_") and name not in ("apply", "check")
        }

    def apply(self, name: str, arguments: Result) -> Result:
        """Carry out a change by name; raise BadChangeError or UnknownIdError."""
        return self.check(name, arguments)(**arguments)

    def check(self, name: str, arguments: Result) -> Callable[..., Result]:
        """Return the change of a name if the arguments fit it; raise BadChangeError."""
        method = self.names.get(name)
        if method is None:
            raise BadChangeError(f"no change is called {name}")
        try:
            inspect.signature(method).bind(**arguments)
        except TypeError as error:
            raise BadChangeError(f"{name}: {error}") from None
        return method

    # Keys and races

    def add_partner(
        self, name: str, kind: KeyKind = "legacy", key: str | None = None, secret: str | None = None
    ) -> Result:
        """Make a key (with given key and secret, if any); the partner may have others."""
        made = self.world.add_key(name, kind)
        if key is not None:
            self.world.keys[key] = self.world.keys.pop(made.key)
            made.key = key
        made.secret = secret or made.secret
        return shown_key(made)

    def set_key(self, key: str, secret: str | None = None) -> Result:
        """Give a key a new secret (made up unless given); a revoked one works again."""
        found = self.world.key(key)
        found.secret, found.revoked = secret or self.world.secret(), False
        return shown_key(found)

    def revoke_key(self, key: str) -> Result:
        """Make a key invalid."""
        found = self.world.key(key)
        found.revoked = True
        return shown_key(found)

    def share(self, race_id: int, key: str) -> Result:
        """Let a key reach a race."""
        self.world.key(key).race_ids.add(self.world.race(race_id).race_id)
        return {"race_id": race_id}

    def unshare(self, race_id: int, key: str) -> Result:
        """Take a race from a key: not listed any more, participants answer code 7."""
        self.world.key(key).race_ids.discard(self.world.race(race_id).race_id)
        return {"race_id": race_id}

    def add_race(
        self, name: str, keys: list[str] | None = None, timezone: str = "America/New_York", **fields: Any
    ) -> Result:
        """Make a race reached by these keys (default: the first)."""
        reach = [self.world.key(key) for key in keys] if keys is not None else list(self.world.keys.values())[:1]
        return {"race_id": self.world.add_race(name, reach, timezone, **fields).race_id}

    def edit_race(self, race_id: int, silent: bool = False, **fields: Any) -> Result:
        """Change what the record shows; its `last_modified` moves unless silent."""
        race = self.world.race(race_id)
        race.name = str(fields.get("name", race.name))
        race.timezone = str(fields.get("timezone", race.timezone))
        race.fields.update(fields)
        if not silent:
            race.modified = self.world.clock.now()
        return {"race_id": race_id}

    def delete_race(self, race_id: int) -> Result:
        """Delete a race: not listed, code 201."""
        self.world.race(race_id).deleted = True
        return {"race_id": race_id}

    def undelete_race(self, race_id: int) -> Result:
        """Bring a deleted race back."""
        self.world.race(race_id).deleted = False
        return {"race_id": race_id}

    def add_event(
        self,
        race_id: int,
        name: str = "5K",
        start_time: str | None = None,
        in_days: float = 30,
        end_time: str | None = None,
        race_event_days_id: int | None = None,
        **fields: Any,
    ) -> Result:
        """Make an event; start and end "M/D/YYYY HH:MM" in the race's zone, else the start is so many days off."""
        race = self.world.race(race_id)
        now = datetime.fromtimestamp(self.world.clock.now() + in_days * 86400, race.zone)
        start = read_short_time(start_time) or now.replace(hour=8, minute=0, tzinfo=None)
        days = [event.days_id for event in race.events.values() if event.start and event.start.date() == start.date()]
        event = self.world.add_event(
            race,
            name,
            start,
            end=read_short_time(end_time),
            days_id=race_event_days_id if race_event_days_id is not None else (days[0] if days else None),
            **fields,
        )
        if start_time is not None:
            event.fields["start_time"] = start_time
            event.read_times()
        race.modified = self.world.clock.now()
        return {"event_id": event.event_id, "race_event_days_id": event.days_id}

    def edit_event(self, event_id: int, silent: bool = False, **fields: Any) -> Result:
        """Change what an event shows, unreadable times too; the race's `last_modified` moves unless silent."""
        event = self.world.event(event_id)
        event.fields.update(fields)
        event.read_times()
        if not silent:
            self.world.race(event.race_id).modified = self.world.clock.now()
        return {"event_id": event_id}

    def remove_event(self, event_id: int, silent: bool = False) -> Result:
        """Take an event out: not listed, code 301."""
        return self._set_removed(event_id, True, silent)

    def restore_event(self, event_id: int, silent: bool = False) -> Result:
        """List an event again that was taken out."""
        return self._set_removed(event_id, False, silent)

    def _set_removed(self, event_id: int, removed: bool, silent: bool) -> Result:
        event = self.world.event(event_id)
        event.removed = removed
        if not silent:
            self.world.race(event.race_id).modified = self.world.clock.now()
        return {"event_id": event_id}

    # Registrations

    def register(self, event_id: int, count: int = 1, **fields: Any) -> Result:
        """Register so many people now, each with these fields."""
        event = self.world.event(event_id)
        made = self.population.register(event, count)
        for registration in made:
            if fields:
                self._set(registration, fields)
                self._settle(registration, fields)
        return {"registration_ids": [registration.registration_id for registration in made]}

    def edit(self, registration_id: int, silent: bool = False, **fields: Any) -> Result:
        """Change fields of a registration, under their names on the wire (those of `user` and `address` too)."""
        registration = self.world.registration(registration_id)
        self._set(registration, fields)
        self.world.touch(registration, silent=silent)
        self._settle(registration, fields)
        return {"registration_id": registration_id, "last_modified": registration.modified}

    def _settle(self, registration: Registration, fields: Result) -> None:
        registration.touch(None)
        if "last_modified" in fields:
            registration.modified = fields["last_modified"]
            for event in self.world.places(registration):
                event.latest_change = max(event.latest_change, registration.modified or 0)

    def _set(self, registration: Registration, fields: Result) -> None:
        person: Result | None = None
        rest: Result | None = None
        for name, value in fields.items():
            if name in PERSON_KEYS or name in ADDRESS_KEYS or name == "user":
                person = person or dict(registration.person.data)
                if name == "user":
                    person.update(value)
                elif name in ADDRESS_KEYS:
                    person["address"] = {**(person.get("address") or {}), name: value}
                else:
                    person[name] = value
            elif name == "bib_num":
                registration.bib = value
            elif name == "chip_num":
                registration.chip = value
            elif name == "last_modified":
                continue
            elif name in ODD_KEYS:
                registration.odd = {**(registration.odd or {}), name: value}
            else:
                rest = {**(rest or registration.rest.data), name: value}
        if person is not None:
            registration.person = Person(person)
        if rest is not None:
            registration.rest = Rest(rest)

    def assign_bib(
        self, registration_id: int, bib: int | str | None, chip: str | None = None, silent: bool = False
    ) -> Result:
        """Give a bib, and a chip if one is named."""
        chosen: Result = {"bib_num": bib} if chip is None else {"bib_num": bib, "chip_num": chip}
        return self.edit(registration_id, silent, **chosen)

    def clear_bib(self, registration_id: int, chip: bool = True, silent: bool = False) -> Result:
        """Take the bib away, and the chip with it."""
        chosen: Result = {"bib_num": None, "chip_num": None} if chip else {"bib_num": None}
        return self.edit(registration_id, silent, **chosen)

    def imply(self, registration_id: int, event_id: int) -> Result:
        """Let another event list a registration too, under the same id, as a super event does."""
        registration = self.world.registration(registration_id)
        registration.implied_in = (*registration.implied_in, self.world.event(event_id).event_id)
        self.world.event(event_id).insert(registration)
        return {"registration_id": registration_id}

    def refund(self, registration_id: int) -> Result:
        """Remove with reason `removed`."""
        return self._remove(registration_id, "removed")

    def clear(self, registration_id: int) -> Result:
        """Remove with reason `cleared`: undone within 15 minutes."""
        return self._remove(registration_id, "cleared")

    def defer(self, registration_id: int) -> Result:
        """Remove with reason `deferred`."""
        return self._remove(registration_id, "deferred")

    def remove(self, registration_id: int, reason: str, new_registration_id: int | None = None) -> Result:
        """Remove with any reason."""
        return self._remove(registration_id, reason, new_registration_id)

    def _remove(self, registration_id: int, reason: str, new_registration_id: int | None = None) -> Result:
        registration = self.world.registration(registration_id)
        self.world.take_out(registration)
        now = self.world.clock.second()
        for event in self.world.places(registration):
            event.removals[registration_id] = Removal(registration, reason, now, new_registration_id)
        return {"registration_id": registration_id, "last_modified_ts": now}

    def transfer(
        self, registration_id: int, to_event_id: int, transfer_bibs: bool = False, preserve_teams: bool = False
    ) -> Result:
        """Move to another event: the old id is removed (`transferred`), a new id is made there."""
        world = self.world
        old = world.registration(registration_id)
        target = world.event(to_event_id)
        old_event = world.event(old.event_id)
        old_event.find(registration_id)
        now = world.clock.second()
        new = Registration(
            world.next_id("registration"),
            target.event_id,
            old.person,
            old.rest,
            now,
            now,
            bib=old.bib if transfer_bibs else None,
            chip=old.chip if transfer_bibs else None,
            age=old.age,
            team=old.team if preserve_teams else None,
        )
        self._remove(registration_id, "transferred", new.registration_id)
        world.add(new)
        return {"registration_id": registration_id, "new_registration_id": new.registration_id}

    def restore(self, registration_id: int, keep_in_removed: bool = False, silent: bool = False) -> Result:
        """Make a removed registration active again, under its id."""
        registration = self.world.registration(registration_id)
        for event in self.world.places(registration):
            if registration_id not in event.removals:
                raise BadChangeError(f"registration {registration_id} is not removed")
            if not keep_in_removed:
                del event.removals[registration_id]
        self.world.put_back(registration)
        self.world.touch(registration, silent=silent)
        return {"registration_id": registration_id, "last_modified": registration.modified}

    def edit_removed(self, registration_id: int, **fields: Any) -> Result:
        """Edit a removed registration: its `last_modified_ts` moves; of the fields only the person's count."""
        registration = self.world.registration(registration_id)
        now = self.world.clock.second()
        for event in self.world.places(registration):
            removal = event.removals.get(registration_id)
            if removal is None:
                raise BadChangeError(f"registration {registration_id} is not removed")
            removal.modified = now
            removal.person = Person({**removal.person.data, **fields})
        return {"registration_id": registration_id, "last_modified_ts": now}

    def vanish(self, registration_id: int | None = None, event_id: int | None = None) -> Result:
        """Take a registration, or all of an event, off the active list without a trace."""
        gone: list[Registration]
        if registration_id is not None:
            gone = [self.world.registration(registration_id)]
        elif event_id is not None:
            gone = list(self.world.event(event_id).active)
        else:
            raise BadChangeError("vanish: neither registration_id nor event_id")
        for registration in gone:
            self.world.take_out(registration)
            self.world.event(registration.event_id).vanished[registration.registration_id] = registration
        return {"registration_ids": [registration.registration_id for registration in gone]}

    def unvanish(self, registration_id: int | None = None, event_id: int | None = None) -> Result:
        """Bring back what vanished, as it was."""
        if registration_id is not None:
            events = [self.world.event(self.world.registration(registration_id).event_id)]
        elif event_id is not None:
            events = [self.world.event(event_id)]
        else:
            raise BadChangeError("unvanish: neither registration_id nor event_id")
        back: list[int] = []
        for event in events:
            for gone in list(event.vanished):
                if registration_id in (None, gone):
                    self.world.put_back(event.vanished.pop(gone))
                    back.append(gone)
        return {"registration_ids": back}

    # Time, and a stretch of it

    def clock(self, advance: float | None = None, epoch: float | None = None, freeze: bool | None = None) -> Result:
        """Move the clock (seconds), set it (epoch seconds), stop it or let it run; tells the time in any case."""
        clock = self.world.clock
        if freeze is not None:
            clock.freeze(freeze)
        if epoch is not None:
            clock.set(epoch)
        if advance is not None:
            clock.advance(advance)
        return {"now": clock.now(), "frozen": clock.frozen}

    def hour_of_life(self, seed: int = 1, seconds: float = 3600, scale: float = 1.0) -> Result:
        """Let life happen over the future events while the clock goes on by so many seconds; tells what happened."""
        return hour_of_life(self, seed=seed, seconds=seconds, scale=scale)


def shown_key(key: Key) -> Result:
    """Return a key with its made-up secret, and what it reaches."""
    return {
        "partner": key.partner,
        "name": key.name,
        "type": key.kind,
        "key": key.key,
        "secret": key.secret,
        "revoked": key.revoked,
        "race_ids": sorted(key.race_ids),
    }
