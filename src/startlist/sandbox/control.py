"""A client of a sandbox's `/_sandbox/...`: changes its world, makes faults, reads its log and the truth."""

import http.client
import json
from typing import Any
from urllib.parse import urlencode, urlsplit

Result = dict[str, Any]


class ControlError(Exception):
    """The sandbox did not do what was asked; the message says why."""


class Control:
    """Synchronous; safe to share between threads, since each request has its own connection."""

    def __init__(self, address: str, *, timeout: float = 60.0) -> None:
        self._host = urlsplit(address).netloc
        self._timeout = timeout

    def request(self, method: str, name: str, arguments: Result | None = None, **query: Any) -> Any:
        """Send one request; raise ControlError with the sandbox's words."""
        connection = http.client.HTTPConnection(self._host, timeout=self._timeout)
        try:
            body = None if arguments is None else json.dumps(arguments)
            connection.request(method, f"/_sandbox/{name}" + (f"?{urlencode(query)}" if query else ""), body)
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ControlError(answer["error"])
        return answer

    def change(self, name: str, /, **arguments: Any) -> Result:
        """Carry out any change by its name."""
        result: Result = self.request("POST", name, arguments)
        return result

    # What is

    def truth(self, race_id: int) -> Result:
        """Return a race, and per event (by its id as an int) the rows `active` and `removed` as sent."""
        found: Result = self.request("GET", "truth", race_id=race_id)
        found["events"] = {int(event_id): rows for event_id, rows in found["events"].items()}
        return found

    def summary(self) -> Result:
        """Return counts; `future` maps race id to event id to active registrations (ids as ints)."""
        found: Result = self.request("GET", "summary")
        found["future"] = {
            int(race_id): {int(event_id): count for event_id, count in events.items()}
            for race_id, events in found["future"].items()
        }
        return found

    def partners(self) -> list[Result]:
        """Return each key: partner, name, type, key, secret, revoked, race_ids."""
        found: list[Result] = self.request("GET", "partners")["partners"]
        return found

    def registration(self) -> tuple[str, str]:
        """Return the caller registration that the sandbox knows: `rsu_api_reg` and its secret."""
        found = self.request("GET", "partners")["registration"]
        return found["rsu_api_reg"], found["secret"]

    def log(self) -> list[Result]:
        """Return every call, oldest first."""
        found: list[Result] = self.request("GET", "log")
        return found

    def counts(self) -> Result:
        """Return totals: calls, by_endpoint, by_key, by_error, by_status, rows, bytes, max_concurrent."""
        found: Result = self.request("GET", "log", counts=1)
        return found

    def reset_log(self) -> None:
        """Forget the calls so far."""
        self.request("DELETE", "log")

    # What goes wrong

    def fault(
        self, kind: str, *, match: Result | None = None, skip: int = 0, times: int | None = 1, **params: Any
    ) -> Result:
        """Add a fault: after `skip` matching calls it meets the next `times` (None: all)."""
        described = {"kind": kind, "match": match or {}, "skip": skip, "times": times, **params}
        found: Result = self.request("POST", "faults", described)
        return found

    def faults(self) -> list[Result]:
        """Return the faults with `seen` and `used`."""
        found: list[Result] = self.request("GET", "faults")
        return found

    def clear_faults(self) -> None:
        """Remove all faults."""
        self.request("DELETE", "faults")

    def settings(self, **settings: Any) -> Result:
        """Change standing settings; returns all."""
        found: Result = self.request("POST", "settings", settings)
        return found

    # What happens

    def add_partner(
        self, name: str, kind: str = "legacy", *, key: str | None = None, secret: str | None = None
    ) -> Result:
        """Make a key; returns it as `partners` does."""
        return self.change("add_partner", name=name, kind=kind, key=key, secret=secret)

    def set_key(self, key: str, secret: str | None = None) -> Result:
        """Give a key (by name or itself) a new secret."""
        return self.change("set_key", key=key, secret=secret)

    def revoke_key(self, key: str) -> Result:
        """Make a key invalid."""
        return self.change("revoke_key", key=key)

    def share(self, race_id: int, key: str) -> None:
        """Let a key reach a race."""
        self.change("share", race_id=race_id, key=key)

    def unshare(self, race_id: int, key: str) -> None:
        """Take a race from a key: code 7."""
        self.change("unshare", race_id=race_id, key=key)

    def add_race(
        self, name: str, *, keys: list[str] | None = None, timezone: str = "America/New_York", **fields: Any
    ) -> int:
        """Make a race reached by these keys (default: the first); returns its id."""
        return int(self.change("add_race", name=name, keys=keys, timezone=timezone, **fields)["race_id"])

    def edit_race(self, race_id: int, *, silent: bool = False, **fields: Any) -> None:
        """Change what a race's record shows."""
        self.change("edit_race", race_id=race_id, silent=silent, **fields)

    def delete_race(self, race_id: int) -> None:
        """Delete a race: code 201."""
        self.change("delete_race", race_id=race_id)

    def undelete_race(self, race_id: int) -> None:
        """Bring a deleted race back."""
        self.change("undelete_race", race_id=race_id)

    def add_event(self, race_id: int, name: str = "5K", **arguments: Any) -> int:
        """Make an event (start_time, in_days, end_time, race_event_days_id, any field); returns its id."""
        return int(self.change("add_event", race_id=race_id, name=name, **arguments)["event_id"])

    def edit_event(self, event_id: int, *, silent: bool = False, **fields: Any) -> None:
        """Change what an event shows."""
        self.change("edit_event", event_id=event_id, silent=silent, **fields)

    def remove_event(self, event_id: int, *, silent: bool = False) -> None:
        """Take an event out: code 301."""
        self.change("remove_event", event_id=event_id, silent=silent)

    def restore_event(self, event_id: int, *, silent: bool = False) -> None:
        """List an event again."""
        self.change("restore_event", event_id=event_id, silent=silent)

    def register(self, event_id: int, count: int = 1, **fields: Any) -> list[int]:
        """Register people now; returns their ids."""
        found: list[int] = self.change("register", event_id=event_id, count=count, **fields)["registration_ids"]
        return found

    def edit(self, registration_id: int, *, silent: bool = False, **fields: Any) -> Result:
        """Change fields under their names on the wire; silent: `last_modified` stays."""
        return self.change("edit", registration_id=registration_id, silent=silent, **fields)

    def assign_bib(
        self, registration_id: int, bib: int | str | None, *, chip: str | None = None, silent: bool = False
    ) -> Result:
        """Give a bib, and a chip if one is named."""
        return self.change("assign_bib", registration_id=registration_id, bib=bib, chip=chip, silent=silent)

    def clear_bib(self, registration_id: int, *, chip: bool = True, silent: bool = False) -> Result:
        """Take bib and chip away."""
        return self.change("clear_bib", registration_id=registration_id, chip=chip, silent=silent)

    def imply(self, registration_id: int, event_id: int) -> None:
        """Let another event list a registration too, under the same id."""
        self.change("imply", registration_id=registration_id, event_id=event_id)

    def refund(self, registration_id: int) -> Result:
        """Remove, reason `removed`."""
        return self.change("refund", registration_id=registration_id)

    def clear(self, registration_id: int) -> Result:
        """Remove, reason `cleared`."""
        return self.change("clear", registration_id=registration_id)

    def defer(self, registration_id: int) -> Result:
        """Remove, reason `deferred`."""
        return self.change("defer", registration_id=registration_id)

    def remove(self, registration_id: int, reason: str, *, new_registration_id: int | None = None) -> Result:
        """Remove with any reason."""
        return self.change(
            "remove", registration_id=registration_id, reason=reason, new_registration_id=new_registration_id
        )

    def transfer(
        self, registration_id: int, to_event_id: int, *, transfer_bibs: bool = False, preserve_teams: bool = False
    ) -> int:
        """Move to another event; returns the new id."""
        result = self.change(
            "transfer",
            registration_id=registration_id,
            to_event_id=to_event_id,
            transfer_bibs=transfer_bibs,
            preserve_teams=preserve_teams,
        )
        return int(result["new_registration_id"])

    def restore(self, registration_id: int, *, keep_in_removed: bool = False, silent: bool = False) -> Result:
        """Make a removed registration active again."""
        return self.change("restore", registration_id=registration_id, keep_in_removed=keep_in_removed, silent=silent)

    def edit_removed(self, registration_id: int, **fields: Any) -> Result:
        """Move a removed registration's `last_modified_ts`; fields of its `user` may change too."""
        return self.change("edit_removed", registration_id=registration_id, **fields)

    def vanish(self, *, registration_id: int | None = None, event_id: int | None = None) -> list[int]:
        """Take a registration, or all of an event, away without a trace; returns the ids."""
        found = self.change("vanish", registration_id=registration_id, event_id=event_id)
        return list(found["registration_ids"])

    def unvanish(self, *, registration_id: int | None = None, event_id: int | None = None) -> list[int]:
        """Bring back what vanished; returns the ids."""
        found = self.change("unvanish", registration_id=registration_id, event_id=event_id)
        return list(found["registration_ids"])

    def clock(self, *, advance: float | None = None, epoch: float | None = None, freeze: bool | None = None) -> float:
        """Move, set or stop the sandbox's clock; returns its time in epoch seconds."""
        return float(self.change("clock", advance=advance, epoch=epoch, freeze=freeze)["now"])

    def hour_of_life(self, *, seed: int = 1, seconds: float = 3600, scale: float = 1.0) -> Result:
        """Let an hour of life happen; returns `counts` and `registration_ids` by kind, and `now`."""
        return self.change("hour_of_life", seed=seed, seconds=seconds, scale=scale)
