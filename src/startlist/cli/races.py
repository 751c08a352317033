"""`startlist races` and `startlist find`: what is stored."""

from __future__ import annotations

from typing import Annotated

import typer

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.output import Event, Json, Limit, Race, Since, TimingPartner, note, print_json, table, zone_of
from startlist.store.database import Database
from startlist.store.reading import Filters, StoredRace, at_most, check_filters, reader, stored_races
from startlist.store.search import Found
from startlist.store.search import find as find_registrations


def races(
    timing_partner: TimingPartner = None,
    race: Race = None,
    event: Event = None,
    since: Since = None,
    limit: Limit = 100,
    counts: Annotated[bool, typer.Option("--counts/--no-counts", help="Count registrations, or not.")] = True,
    json: Json = False,
) -> None:
    """List the stored races, the next start first, with what is stored of them and as of when that is complete.

    Those over come last; --since leaves out races that started before. Registrations are counted for the races shown
    only, which takes some seconds for hundreds of thousands: --no-counts.

    Examples:
        startlist races                        all, the next start first
        startlist races --since 2027-05-01     leaves out what started before
        startlist races --race 12345 --json
    """
    settings = begin()
    filters = Filters(timing_partner, race, event, since)

    async def work() -> tuple[list[StoredRace], str | None]:
        async with reader(await Database.open(settings)) as conn:
            because = await check_filters(conn, filters)
            return await stored_races(conn, filters, limit=limit + 1, counts=counts), because

    found, because = run(work())
    shown, more = at_most(found, limit)
    if more:
        note(f"Only the first {limit} races are shown; --limit N shows more.")
    if json:
        print_json(shown)
        return
    if not shown:
        note(f"No race is stored: {because}." if because else "No race is stored.")
        return
    headings = ["partner", "race", "name", "start", "events", "active", "with bib", "missing", "API key"]
    lines = [
        [
            one.company_name,
            one.race_id,
            words.named(one.name, one.race_id),
            words.start(one.start_time, one.timezone) + (" (over)" if one.over else ""),
            one.events,
            one.active,
            one.with_bib,
            one.missing,
            words.short(one.principal),
            _complete(one),
        ]
        for one in shown
    ]
    table([*headings, "complete as of"], lines, zone=zone_of(settings.timezone))


def _complete(one: StoredRace) -> object:
    if one.gone_at is not None:
        return "gone from RunSignup"
    return one.complete_as_of or "never"


def find(
    term: Annotated[list[str], typer.Argument(metavar="NAME-OR-BIB", help="A bib, or words of a name in any case.")],
    timing_partner: TimingPartner = None,
    race: Race = None,
    event: Event = None,
    since: Since = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """Find registrations by bib, or by words of a name in any case; those of today's race come first.

    Removed ones are shown too, with the reason and the registration that took their place; --since leaves out events
    that started before. The exit status is 0 also when nothing was found.

    Examples:
        startlist find 117                    who has bib 117
        startlist find anna garcia            words of a name
        startlist find 117 --race 12345
    """
    settings = begin()
    filters = Filters(timing_partner, race, event, since)
    wanted = " ".join(term)

    async def work() -> tuple[list[Found], str | None]:
        async with reader(await Database.open(settings)) as conn:
            because = await check_filters(conn, filters)
            return await find_registrations(conn, wanted, filters, limit=limit + 1), because

    found, because = run(work())
    shown, more = at_most(found, limit)
    if more:
        note(f"Only the first {limit} are shown; more of the name, --race or --limit helps.")
    if not shown:
        note(f"Nothing found for {wanted}" + (f": {because}." if because else "."))
    if json:
        print_json(shown)
    elif shown:
        headings = ["bib", "name", "gender", "age", "state", "event", "race", "start", "registration"]
        table(headings, [_line(one) for one in shown])


def _line(one: Found) -> list[object]:
    return [
        one.bib_num,
        words.runner(f"{one.first_name or ''} {one.middle_name or ''}", one.last_name, one.registration_id),
        one.gender,
        one.age,
        state(one),
        words.named(one.event_name, one.event_id),
        words.named(one.race_name, one.race_id),
        words.start(one.start_time, one.timezone),
        one.registration_id,
    ]


def state(one: Found) -> str:
    """Whether a registration is on the start list, and if not, why."""
    if one.removed_at is not None:
        said = "removed" + words.removal(one.removed_reason, one.new_registration_id)
        where = [f"in {one.new_event_name}"] if one.new_event_name else []
        where += [f"bib {one.new_bib_num}"] if one.new_bib_num else []
        return " ".join([said, *where])
    if one.missing_since is not None:
        return f"missing since {words.local(one.missing_since, one.timezone):%Y-%m-%d %H:%M %Z}"
    return "active"
