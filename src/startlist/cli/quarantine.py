"""`startlist quarantine`: records that could not be stored, and another try at them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.output import (
    Event,
    Json,
    Limit,
    Race,
    Since,
    TimingPartner,
    cell,
    note,
    print_json,
    say,
    table,
    whole,
    zone_of,
)
from startlist.errors import ConfigurationError
from startlist.store import quarantine
from startlist.store.database import Database
from startlist.store.quarantine import SetAside
from startlist.store.reading import Filters, at_most, check_filters, reader

if TYPE_CHECKING:
    from startlist.sync.retry import Retried

app = typer.Typer()

QuarantineId = Annotated[int, typer.Argument(metavar="ID", parser=whole(), help="The record's number.")]


@app.callback()
def _group() -> None:
    """Records that could not be stored: list, show, try again."""


@app.command("list")
def list_(
    timing_partner: TimingPartner = None,
    race: Race = None,
    event: Event = None,
    since: Since = None,
    limit: Limit = 100,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are resolved.")] = False,
    json: Json = False,
) -> None:
    """List records that RunSignup sent and that could not be stored, those seen last first; --since is when they were.

    Examples:
        startlist quarantine list
        startlist quarantine list --race 12345 --all
    """
    settings = begin()
    filters = Filters(timing_partner, race, event, since)

    async def work() -> tuple[list[SetAside], str | None]:
        async with reader(await Database.open(settings)) as conn:
            because = await check_filters(conn, filters)
            return await quarantine.records(conn, filters, resolved=everything, limit=limit + 1), because

    found, because = run(work())
    shown, more = at_most(found, limit)
    if more:
        note(f"Only the last {limit} are shown; --limit N shows more.")
    if json:
        print_json([_object(one) for one in shown])
        return
    if not shown:
        note(f"Nothing is in quarantine: {because}." if because else "Nothing is in quarantine.")
        return
    headings = ["id", "seen", "times", "partner", "race", "event", "registration", "from", "why"]
    headings += ["resolved"] if everything else []
    lines = [
        [
            one.quarantine_id,
            one.last_seen_at,
            one.seen_count,
            one.company_name,
            None if one.race_id is None else f"{one.race_id} {words.named(one.race_name, one.race_id)}",
            None if one.event_id is None else words.named(one.event_name, one.event_id),
            one.registration_id,
            one.endpoint,
            one.reason,
            *([one.resolved_at] if everything else []),
        ]
        for one in shown
    ]
    table(headings, lines, zone=zone_of(settings.timezone))


def _object(one: SetAside) -> dict[str, Any]:
    columns = {name: getattr(one, name) for name in SetAside.__slots__}
    if one.raw is None:
        del columns["raw"]
    return columns


@app.command()
def show(quarantine_id: QuarantineId, json: Json = False) -> None:
    """Show one record as RunSignup sent it, why it could not be stored, where it came from and when.

    Examples:
        startlist quarantine show 17
        startlist quarantine show 17 --json
    """
    settings = begin()

    async def work() -> SetAside:
        async with reader(await Database.open(settings)) as conn:
            found = await quarantine.records(conn, Filters(), ids=[quarantine_id], resolved=True, raw=True)
        return found[0] if found else _unknown([quarantine_id])

    one = run(work())
    if json:
        print_json(_object(one))
        return
    zone = zone_of(settings.timezone)
    state = "open" if one.resolved_at is None else f"resolved {cell(one.resolved_at, zone=zone)}"
    lines = [
        ("state", state),
        ("why", one.reason),
        ("partner", f"{one.timing_partner_id} {one.company_name}"),
        ("race", None if one.race_id is None else f"{one.race_id} {words.named(one.race_name, one.race_id)}"),
        ("event", None if one.event_id is None else f"{one.event_id} {words.named(one.event_name, one.event_id)}"),
        ("registration", one.registration_id),
        ("from", one.endpoint),
        ("pass", one.sync_history_id),
        ("first seen", one.first_seen_at),
        ("last seen", f"{cell(one.last_seen_at, zone=zone)}, {one.seen_count} times"),
    ]
    for name, value in lines:
        if value is not None:
            say(f"{name + ':':14}{cell(value, zone=zone)}")
    say("\nAs RunSignup sent it:")
    say(cell(one.raw))


def _unknown(ids: list[int]) -> SetAside:
    which = f"no record {ids[0]}" if len(ids) == 1 else "none of the records " + ", ".join(map(str, ids))
    raise ConfigurationError(f"there is {which} in quarantine: startlist quarantine list --all shows what there is")


@app.command()
def retry(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", parser=whole(), help="Only these; none: by the filters.")
    ] = None,
    timing_partner: TimingPartner = None,
    race: Race = None,
    event: Event = None,
    since: Since = None,
    limit: Limit = 10_000,
    json: Json = False,
) -> None:
    """Try to store records once more, from what was kept of them, with the program of today; asks RunSignup nothing.

    What fits now is merged as in a sync, its changes are recorded, and the record is resolved. What does not fit stays
    with the reason. A later version that is stored is never overwritten: then the record is resolved without a change.

    Exit status: 0 nothing is left of those tried; 1 some are; 2 wrong usage; 3 all their races are held by other runs.

    Examples:
        startlist quarantine retry                   all, after an upgrade
        startlist quarantine retry 17 18
        startlist quarantine retry --race 12345
    """
    settings = begin()
    filters = Filters(timing_partner, race, event, since)

    async def work() -> tuple[list[Retried], bool]:
        from startlist.sync.retry import retry as try_again

        database = await Database.open(settings)
        async with reader(database) as conn:
            await check_filters(conn, filters)
            found = await quarantine.records(
                conn, filters, ids=ids or None, resolved=bool(ids), raw=True, limit=limit + 1
            )
        if ids and not found:
            _unknown(ids)
        wanted, more = at_most(found, limit)
        return await try_again(database, wanted), more

    done, more = run(work())
    if more:
        note(f"Only the last {limit} were tried; --limit N tries more.")
    if json:
        print_json(done)
    elif not done:
        note("Nothing is in quarantine that could be tried.")
    else:
        _print(done)
    left = [one for one in done if one.stays]
    raise typer.Exit(0 if not left else 3 if all(one.fate == "held" for one in done) else 1)


def _print(done: list[Retried]) -> None:
    table(
        ["id", "race", "event", "registration", "now", "why"],
        [[one.quarantine_id, one.race_id, one.event_id, one.registration_id, one.fate, one.reason] for one in done],
    )
    counts = Counter(one.fate for one in done)
    say(", ".join(f"{words.counted(count, 'record')} {fate}" for fate, count in counts.items()))
