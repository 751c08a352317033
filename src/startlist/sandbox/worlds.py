"""Ready-made worlds: a small one for tests, the demo's, and large ones for measurements."""

import random
from datetime import datetime, time, timedelta
from typing import Any

from .people import ADDON_LIST, PLACES, QUESTION_LIST
from .population import DAY, Population, Wanted
from .wire import day_in, instant
from .world import Key, KeyKind, Race, World

_COMPANIES = (
    "Peak Timing",
    "Blue Ridge Race Services",
    "Chip & Go",
    "Lakeside Timing Co.",
    "Desert Sun Timing",
    "Three Rivers Races",
    "Aloha Finish Line",
    "Prairie Clock Works",
    "Summit Split Timing",
    "Harbor Race Management",
    "Copper State Chips",
    "Old Mill Timing",
    "Northwoods Results",
)
_THEMES = (
    "Turkey Trot",
    "Half Marathon & 10K",
    " Jingle Bell Run + Walk",
    "100% Uphill Challenge",
    "Women's Five",
    "Río Grande Relay",
    "Firefighters' 5K",
    '"Build a Bridge" Run ',
    "Frostbite 10 Miler",
    "Trail Festival",
    "Sunrise Run/Walk",
)
# Name, distance as RunSignup shows it, hour, minute, share of the field.
_DISTANCES: tuple[tuple[str, str, int, int, float], ...] = (
    ("5K", "5K", 8, 0, 1.0),
    ("10K", "10K", 7, 30, 0.8),
    ("Half Marathon", "13.1 Miles", 7, 0, 0.9),
    ("1 Mile Fun Run", "1 Mile", 9, 30, 0.5),
    ("Kids' Dash", "400 Meters", 10, 0, 0.4),
)


def small(world: World, *, kind: KeyKind = "legacy", registrations: int = 12) -> Race:
    """One partner with one race of two events ten days off; registrations in the first."""
    key = world.add_key("Peak Timing", kind)
    race = world.add_race("Sandbox 5K & 10K", [key], address=_address(PLACES[0]))
    start = datetime.fromtimestamp(world.clock.now() + 10 * DAY, race.zone).replace(
        hour=8, minute=0, second=0, microsecond=0, tzinfo=None
    )
    first = world.add_event(race, "5K", start)
    world.add_event(race, "10K", start + timedelta(minutes=30), days_id=first.days_id)
    Population(world).fill([Wanted(first, registrations, world.clock.now())])
    return race


def _address(place: tuple[str, str, str, str]) -> dict[str, Any]:
    city, state, zipcode, _ = place
    return {"street": "1 Finish Line", "street2": None, "city": city, "state": state, "zipcode": zipcode} | {
        "country_code": "US"
    }


def bulk(
    world: World,
    *,
    registrations: int,
    races: int = 20,
    events_per_race: int = 1,
    partners: int = 1,
    row_bytes: int = 2000,
    removed_share: float = 0.0,
    years: int = 1,
) -> None:
    """So many registrations spread evenly over events 30 to 90 days off, and those of the `years` before this one."""
    population = Population(world, row_bytes=row_bytes)
    keys = [world.add_key(name) for name in _names(partners)]
    wanted: list[Wanted] = []
    now = world.clock.now()
    for number in range(races):
        place = PLACES[number % len(PLACES)]
        race = world.add_race(
            f"{place[0]} Run {number + 1}", [keys[number % partners]], place[3], address=_address(place)
        )
        for year in range(years):
            start = _at(world, race, 30 + number % 60 - 364 * year, 7, 0)
            days_id: int | None = None
            for event_number in range(events_per_race):
                name = _DISTANCES[event_number % len(_DISTANCES)]
                event = world.add_event(race, name[0], start + timedelta(minutes=15 * event_number), days_id=days_id)
                days_id = event.days_id
                wanted.append(Wanted(event, 0, min(now, instant(start, race.zone))))
    each, more = divmod(registrations, len(wanted))
    for at, one in enumerate(wanted):
        one.count = each + (at < more)
    population.fill(wanted)
    events = [one.event for one in wanted]
    if removed_share:
        for event in events:
            population.remove_some(event, removed_share)
    # Written ahead, so that a measurement meets a server that is warm.
    for event in events:
        for registration in event.active:
            registration.written()


def _names(count: int) -> list[str]:
    return [_COMPANIES[n] if n < len(_COMPANIES) else f"Timing Company {n + 1}" for n in range(count)]


def _at(world: World, race: Race, days: float, hour: int, minute: int) -> datetime:
    day = datetime.fromtimestamp(world.clock.now() + days * DAY, race.zone).date()
    return datetime.combine(day, time(hour, minute))


def demo(world: World, *, partners: int = 13, races_per_partner: float = 8.5, scale: float = 1.0) -> None:
    """Thirteen timing partners, about 1,300 events of which about 230 are still to come, with their registrations."""
    rng = world.random
    population = Population(world)
    wanted: list[Wanted] = []
    challenges: list[Race] = []
    keys: list[list[Key]] = []
    for number, name in enumerate(_names(partners)):
        owned = [world.add_key(name, "v2" if number % 5 == 4 else "legacy")]
        if number == 2:
            owned.append(world.add_key(name, "legacy"))
        keys.append(owned)
    # Companies differ in size: a few time three times as many races as the others.
    weights = [3 if number % 4 == 0 else 1 for number in range(partners)]
    total = max(partners, round(partners * races_per_partner))
    owners = list(range(partners)) + rng.choices(range(partners), weights, k=total - partners)
    for number, owner in enumerate(owners):
        own = keys[owner]
        reach = own if len(own) > 1 and not any(key.race_ids for key in own) else [rng.choice(own)]
        race = _demo_race(world, rng, number, reach)
        wanted += _demo_events(world, rng, race, number, scale)
        if number % 40 == 7:
            challenges.append(race)
    population.fill(wanted)
    for race in challenges:
        _challenge(world, race)
    for item in wanted:
        population.remove_some(item.event, 0.025)
    _late_entries(world)


def _demo_race(world: World, rng: random.Random, number: int, keys: list[Key]) -> Race:
    place = PLACES[number % len(PLACES)]
    now = world.clock.now()
    race = world.add_race(
        f"{'' if number % 9 else ' '}{place[0]} {_THEMES[number % len(_THEMES)]}",
        keys,
        place[3],
        address=_address(place),
        description=f"<p>Run through {place[0]}.&nbsp;All ages &amp; paces!</p>\r\n<p>&nbsp;</p>",
        _questions=QUESTION_LIST,
        _addons=ADDON_LIST,
    )
    race.created = now - rng.randint(400, 2500) * DAY
    race.modified = now - rng.randint(1, 200) * DAY
    return race


def _demo_events(world: World, rng: random.Random, race: Race, number: int, scale: float) -> list[Wanted]:
    now = world.clock.now()
    over = number % 12 == 11
    if number < 4 or number == 13:
        # Race day: something is always under way, whatever the date.
        ahead = 0
    elif over:
        ahead = -rng.randint(3, 90)
    else:
        ahead = round(2 + 240 * rng.random() ** 2)
    count = rng.choices((1, 2, 3, 4), (25, 40, 20, 15))[0]
    two_days = number % 10 == 5
    wanted: list[Wanted] = []
    for year in range(rng.randint(4, 7)):
        days_id: int | None = None
        for place, (name, distance, hour, minute, share) in enumerate(_DISTANCES[:count]):
            start = _at(world, race, ahead - 364 * year + (1 if two_days and place else 0), hour, minute)
            end = start + timedelta(hours=4) if number % 5 < 3 else None
            event = world.add_event(
                race,
                name,
                start,
                end=end,
                days_id=days_id,
                distance=distance,
                registration_periods=[
                    {
                        "registration_opens": event_time(start, -120),
                        "registration_closes": event_time(start, -1),
                        "race_fee": "$35.00",
                        "processing_fee": "$3.10",
                    }
                ],
                giveaway="T-Shirt" if place == 0 else None,
            )
            days_id = event.days_id
            if year == 0:
                field_size = 4200 if number == 20 else min(1500.0, rng.lognormvariate(4.55, 0.75))
                until = now if not over else min(now, instant(start, race.zone))
                wanted.append(Wanted(event, max(1, round(field_size * share * scale)), until))
            elif year == 1 and rng.random() < 0.3:
                wanted.append(Wanted(event, rng.randint(1, 5), instant(start, race.zone)))
    return wanted


def event_time(start: datetime, days: int) -> str:
    """Return 23:59 so many days from a start, as the API writes times."""
    when = start + timedelta(days=days)
    return f"{when.month}/{when.day}/{when.year} 23:59"


def _challenge(world: World, race: Race) -> None:
    """Make a super event of the race's coming days: who enters it is listed in the other events too."""
    current = race.current_days_id(world.clock.now())
    coming = [event for event in race.listed() if event.days_id == current]
    if len(coming) < 2 or coming[0].start is None:
        return
    challenge = world.add_event(
        race,
        "Challenge: do both",
        coming[0].start,
        days_id=coming[0].days_id,
        sub_event_ids=[event.event_id for event in coming],
    )
    for registration in Population(world).register(challenge, 8):
        registration.implied_in = tuple(event.event_id for event in coming)
        for event in coming:
            event.insert(registration)


def _late_entries(world: World) -> None:
    """Let some people have registered just now for what is near, so that every demo has entries of today."""
    population = Population(world)
    for race in world.races.values():
        today = day_in(world.clock.now(), race.zone)
        for event in race.listed():
            day = event.first_day()
            if day is not None and timedelta(0) <= day - today <= timedelta(days=3):
                population.register(event, 2)
