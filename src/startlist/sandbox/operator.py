"""What the sandbox's operator may ask and do under `/_sandbox/`: changes, faults, settings, log, truth."""

import json
from dataclasses import asdict, fields
from typing import Any

from .answers import rows_as_sent
from .changes import BadChangeError, Changes, shown_key
from .faults import Faults
from .log import Log
from .query import Query
from .rows import EVERYTHING
from .wire import text
from .world import World


class Operator:
    """Answers `/_sandbox/<name>` with JSON."""

    def __init__(self, world: World, changes: Changes, faults: Faults, log: Log) -> None:
        self._world = world
        self._changes = changes
        self._faults = faults
        self._log = log

    def do(self, method: str, name: str, query: Query, arguments: dict[str, Any]) -> bytes:
        """Carry out one request; raises BadChangeError, BadFaultError, UnknownIdError."""
        if method == "GET" and name == "truth":
            return self.truth(int(query.values.get("race_id", "0")))
        return json.dumps(self._do(method, name, query, arguments)).encode()

    def _do(self, method: str, name: str, query: Query, arguments: dict[str, Any]) -> Any:
        match method, name:
            case "GET", "summary":
                return self.summary()
            case "GET", "partners":
                return {
                    "partners": [shown_key(key) for key in self._world.keys.values()],
                    "registration": {
                        "rsu_api_reg": self._world.caller_registration,
                        "secret": self._world.caller_secret,
                    },
                }
            case "GET", "log":
                return self._log.counts() if "counts" in query.values else self._log.as_dicts()
            case "DELETE", "log":
                self._log.reset()
                return {}
            case "GET", "faults":
                return self._faults.as_dicts()
            case "POST", "faults":
                for change in arguments.get("changes", ()):
                    self._changes.check(change.get("name", ""), {k: v for k, v in change.items() if k != "name"})
                return self._faults.add(arguments)
            case "DELETE", "faults":
                self._faults.clear()
                return {}
            case "GET", "settings":
                return asdict(self._world.settings)
            case "POST", "settings":
                return self.settings(arguments)
            case "POST", _:
                return self._changes.apply(name, arguments)
            case _:
                raise BadChangeError(f"{method} {name} is not known here")

    def settings(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Change standing settings; returns all."""
        known = {field.name for field in fields(self._world.settings)}
        if not arguments.keys() <= known:
            raise BadChangeError(f"settings are {', '.join(sorted(known))}")
        for name, value in arguments.items():
            setattr(self._world.settings, name, value)
        return asdict(self._world.settings)

    def summary(self) -> dict[str, Any]:
        """Return how much there is, and the ids of races and events still to come."""
        world = self._world
        races = [race for race in world.races.values() if not race.deleted]
        future = {race.race_id: world.future_events(race) for race in races}
        coming = [event for events in future.values() for event in events]
        return {
            "now": world.clock.now(),
            "partners": len({key.partner for key in world.keys.values()}),
            "keys": len(world.keys),
            "races": len(races),
            "events": sum(len(race.listed()) for race in races),
            "future_events": len(coming),
            "registrations": sum(len(event.active) for event in world.events.values()),
            "future_registrations": sum(len(event.active) for event in coming),
            "removals": sum(len(event.removals) for event in world.events.values()),
            "future": {
                race_id: {event.event_id: len(event.active) for event in events} for race_id, events in future.items()
            },
        }

    def truth(self, race_id: int) -> bytes:
        """Return a race with every row as it would be sent with every flag on."""
        race = self._world.race(race_id)
        record = race.record(self._world.clock.now())
        record["events"] = [event.fields for event in race.listed()]
        parts: list[bytes] = []
        for event in race.listed():
            removed = text([item.row(EVERYTHING) for item in event.removals.values()]).encode()
            active = rows_as_sent(event.active, event.event_id)
            parts.append(b'"%d":{"active":%s,"removed":%s}' % (event.event_id, active, removed))
        return b'{"race":%s,"events":{%s}}' % (text(record).encode(), b",".join(parts))
