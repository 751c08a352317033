"""Instants, runners and changes in words, as a timer says them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LONGEST_VALUE = 60  # characters of a value in a sentence

_NAMES = {"bib_num": "bib", "chip_num": "chip", "dob": "date of birth"}
_GROUPS = ("additional_data", "payment_info", "team_info")  # columns that a timer never sees as such
_REMOVAL = ("removed_at", "removal")  # said by the kind of the change


def start(instant: datetime | None, zone: str | None) -> str:
    """A start in the race's own zone, with its day of the week; nothing for None."""
    return "" if instant is None else local(instant, zone).strftime("%a %Y-%m-%d %H:%M %Z")


def local(instant: datetime, zone: str | None) -> datetime:
    """The instant in a race's zone; in RunSignup's own, Eastern, where that is not known."""
    try:
        return instant.astimezone(ZoneInfo(zone or "America/New_York"))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return instant.astimezone(ZoneInfo("America/New_York"))


def span(length: timedelta) -> str:
    """A length of time in its largest units: 40 s, 12 min, 3 h 5 min, 4 days."""
    seconds = max(0, int(length.total_seconds()))
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    days = seconds // 86400
    return f"{days} day{'s' if days > 1 else ''}"


def length(seconds: float) -> str:
    """A length of time that was measured or estimated: 4.2 s, 12 min, 3 h 5 min."""
    return f"{seconds:.1f} s" if seconds < 60 else span(timedelta(seconds=seconds))


def named(name: str | None, number: int) -> str:
    """A race's or event's name without the blanks around it, or its number where no name is known."""
    return " ".join((name or "").split()) or str(number)


def short(key: str | None) -> str | None:
    """Enough of an API key to tell it from others."""
    return key if key is None or len(key) <= 12 else f"{key[:8]}…"


def runner(first_name: str | None, last_name: str | None, registration_id: int) -> str:
    """A runner's name, or the registration's number where no name is known."""
    return " ".join(f"{first_name or ''} {last_name or ''}".split()) or f"registration {registration_id}"


def change(kind: str, before: Mapping[str, object] | None, after: Mapping[str, object] | None) -> str:
    """What a change of a registration did: `bib 12 → 15, city Denver → Boulder`."""
    old, new = before or {}, after or {}
    match kind:
        case "added":
            bib = new.get("bib_num")
            return "added" if bib is None else f"added with bib {_value(bib)}"
        case "removed":
            return "removed" + removal(new.get("removed_reason"), new.get("new_registration_id"))
        case "restored":
            return "restored, was removed" + removal(old.get("removed_reason"), old.get("new_registration_id"))
        case "missing":
            return "missing: RunSignup no longer lists it, nor says that it was removed"
        case "found":
            return "found again, was missing"
        case _:
            return ", ".join(_differences(old, new)) or kind


def removal(reason: object, successor: object) -> str:
    """The end of a sentence that says that a registration was removed: why, and what took its place."""
    why = f": {reason}" if reason and reason != "removed" else ""
    return why if successor is None else f"{why}, now registration {successor}"


def bibs(kind: str, old_bib: str | None, new_bib: str | None, old_chip: str | None, new_chip: str | None) -> str:
    """What a bib change did: `bib 12 → 15, chip B7 assigned`."""
    said = [] if kind == "chip" else [_differing("bib", old_bib, new_bib)]
    if old_chip != new_chip:
        said.append(_differing("chip", old_chip, new_chip))
    return ", ".join(said)


def _differences(old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[str]:
    for key in dict.fromkeys([*new, *old]):
        was, now = old.get(key), new.get(key)
        if key in _REMOVAL:
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            for said in _differences(was, now):
                yield said if key in (*_GROUPS, "address", "user") else f"{_name(key)}: {said}"
        elif key in (*_GROUPS, "address") or isinstance(was, Mapping | list) or isinstance(now, Mapping | list):
            yield f"{_name(key)} changed"
        else:
            yield _differing(_name(key), was, now)


def _differing(name: str, old: object, new: object) -> str:
    if name in ("bib", "chip") and (old is None) != (new is None):
        return f"{name} {_value(new)} assigned" if old is None else f"{name} {_value(old)} cleared"
    return f"{name} {_value(old)} → {_value(new)}"


def _name(key: str) -> str:
    return _NAMES.get(key) or key.replace("_", " ")


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case _:
            text = str(value)
            return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def counted(number: int, noun: str) -> str:
    """A number of things: `1 race`, `1,200 races`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
