"""A record taken apart: columns take what fits them, everything else stays under its own name, as sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

import msgspec

from startlist.runsignup.jsontext import Kept, key_text, members, plain, storable
from startlist.runsignup.values import MisfitError

T = TypeVar("T")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Fields:
    """The fields of one JSON object.

    `left` holds what no column has taken, fit for `jsonb`, by name; `errors` names what was repaired or did not fit.
    Names are noted with `path` before them, those in `columns` plainly.
    The value of the field `apart` is not looked at but put aside, as sent.
    """

    __slots__ = ("_columns", "_path", "_texts", "apart", "errors", "left", "sent")

    def __init__(
        self, raw: bytes, *, apart: str | None = None, path: str = "", columns: frozenset[str] = frozenset()
    ) -> None:
        self.left: dict[str, bytes] = {}
        self.apart = b""
        self.errors: list[str] = []
        self._texts: set[str] = set()
        self._columns, self._path = columns, path
        if plain(raw):
            self.left = {name: bytes(value) for name, value in _members.decode(raw).items()}
            self.apart = self.left.pop(apart, b"") if apart else b""
        else:
            for key, value in members(raw):
                name, renamed = key_text(key)
                if name == apart:
                    self.apart = value
                    continue
                self.keep(name, value)
                if renamed:
                    self.note(name)
        self.sent = frozenset(self.left)

    def keep(self, name: str, raw: bytes) -> None:
        """Put a value as sent among those that are left, repaired and noted where it must be."""
        self.left[name], kept = storable(raw)
        if kept is Kept.AS_TEXT:
            self._texts.add(name)
        if kept is not Kept.AS_SENT:
            self.note(name)

    def note(self, name: str) -> None:
        """Add a field to `errors`, once."""
        name = name if name in self._columns else self._path + name
        if name not in self.errors:
            self.errors.append(name)

    def take(self, name: str, convert: Callable[[object], T]) -> T | None:
        """The converted value of a field, taken out of `left`; None for null and for what is absent or does not fit.

        What does not fit stays in `left` and is noted.
        """
        if (raw := self.left.get(name)) is None:
            return None
        try:
            if name in self._texts:
                raise MisfitError("beyond what can be stored")
            value = msgspec.json.decode(raw)
            taken = None if value is None else convert(value)
        except (MisfitError, msgspec.MsgspecError):
            self.note(name)
            return None
        del self.left[name]
        return taken

    def take_object(self, name: str) -> bytes | None:
        """The JSON of a field that is an object, taken out of `left`; None as for `take`."""
        if (raw := self.left.get(name)) is None:
            return None
        if raw == b"null" or raw.startswith(b"{"):
            del self.left[name]
            return raw if raw != b"null" else None
        self.note(name)
        return None

    def peek(self, name: str, convert: Callable[[object], T]) -> T | None:
        """The converted value of a field, left where it is; None when it is absent, null or does not fit."""
        raw = self.left.get(name)
        if raw is None or name in self._texts:
            return None
        try:
            value = msgspec.json.decode(raw)
            return None if value is None else convert(value)
        except (MisfitError, msgspec.MsgspecError):
            return None

    def take_where(self, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """The fields whose name is wanted, as they are, taken out of `left`."""
        return {name: self.left.pop(name) for name in [name for name in self.left if wanted(name)]}


@lru_cache(maxsize=4096)
def prefix(name: str) -> bytes:
    """A comma, then the key of a member: what stands before its value in an object."""
    return b"," + msgspec.json.encode(name) + b":"


def json_object(fields: Mapping[str, bytes]) -> bytes:
    """A JSON object of values that are JSON already."""
    return b"{" + b"".join(part for name, value in fields.items() for part in (prefix(name), value))[1:] + b"}"
