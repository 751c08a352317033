"""An hour of life: registrations, bibs, edits, refunds and a transfer, spread over the events still to come."""

import random
from typing import TYPE_CHECKING, Any

from .rows import Registration
from .world import Event

if TYPE_CHECKING:
    from .changes import Changes

# How often each thing happens in an hour.
_HAPPENINGS = (
    ("registered", 60),
    ("bib_assigned", 45),
    ("bib_changed", 5),
    ("bib_cleared", 2),
    ("edited", 15),
    ("refunded", 6),
    ("cleared", 2),
    ("deferred", 1),
    ("transferred", 1),
)


def hour_of_life(changes: "Changes", *, seed: int, seconds: float, scale: float) -> dict[str, Any]:
    """Make things happen in a seeded order while the clock goes on; returns counts, and the ids by kind."""
    world = changes.world
    rng = random.Random(seed)  # noqa: S311 - an hour is to be repeatable
    events = [
        event
        for race in world.races.values()
        if not race.deleted
        for event in world.future_events(race)
        if event.active and not event.fields["sub_event_ids"]
    ]
    kinds = [kind for kind, often in _HAPPENINGS for _ in range(max(1, round(often * scale)))] if events else []
    rng.shuffle(kinds)
    happened: dict[str, list[int]] = {kind: [] for kind, _ in _HAPPENINGS}
    touched: set[int] = set()
    start = world.clock.now()
    for number, kind in enumerate(kinds, 1):
        world.clock.set(start + seconds * number / len(kinds))
        changed = _happen(changes, rng, kind, events, touched)
        if changed is not None:
            happened[kind].append(changed)
            touched.add(changed)
    return {
        "counts": {kind: len(ids) for kind, ids in happened.items()},
        "registration_ids": happened,
        "now": world.clock.now(),
    }


def _happen(changes: "Changes", rng: random.Random, kind: str, events: list[Event], touched: set[int]) -> int | None:
    if kind == "registered":
        ids = changes.register(rng.choice(events).event_id)["registration_ids"]
        return int(ids[0])
    picked = _pick(
        rng, events, touched, with_bib={"bib_assigned": False, "bib_changed": True, "bib_cleared": True}.get(kind)
    )
    if picked is None:
        return None
    event, registration = picked
    number = registration.registration_id
    if kind in ("bib_assigned", "bib_changed"):
        changes.assign_bib(number, _free_bib(event))
    elif kind == "bib_cleared":
        changes.clear_bib(number)
    elif kind == "edited":
        changes.edit(number, phone=f"555-{rng.randrange(200, 999)}-{rng.randrange(10_000):04d}")
    elif kind == "refunded":
        changes.refund(number)
    elif kind == "cleared":
        changes.clear(number)
    elif kind == "deferred":
        changes.defer(number)
    else:
        others = [other for other in events if other.race_id == event.race_id and other is not event]
        if not others:
            return _happen(changes, rng, kind, [one for one in events if _has_sibling(one, events)], touched)
        changes.transfer(number, rng.choice(others).event_id)
    return number


def _has_sibling(event: Event, events: list[Event]) -> bool:
    return any(other.race_id == event.race_id and other is not event for other in events)


def _pick(
    rng: random.Random, events: list[Event], touched: set[int], *, with_bib: bool | None
) -> tuple[Event, Registration] | None:
    """Return a registration that nothing has happened to yet; None when none was found."""
    for _ in range(200 if events else 0):
        event = rng.choice(events)
        if not event.active:
            continue
        registration = rng.choice(event.active)
        if registration.registration_id in touched or registration.event_id != event.event_id:
            continue
        if with_bib is None or (registration.bib is not None) == with_bib:
            return event, registration
    return None


def _free_bib(event: Event) -> int:
    return max((row.bib for row in event.active if isinstance(row.bib, int)), default=0) + 1
