"""`startlist verify`: whether what is stored is what RunSignup has, and mending what is not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.output import Json, Race, TimingPartner, note, print_json, say, table, zone_of

if TYPE_CHECKING:
    from startlist.sync.verify.run import Verified


def verify(
    timing_partner: TimingPartner = None,
    race: Race = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what differs, and look again.")] = False,
    json: Json = False,
) -> None:
    """Read RunSignup afresh and compare every registration and every field with what is stored.

    What RunSignup changed since the last sync is no fault: it comes with the next one. Each run leaves a certificate
    for each race in sync_verifications.

    Exit status: 0 complete; 1 something differs or could not be read; 2 wrong settings, or nothing to verify.

    Examples:
        startlist verify                          all races that are kept fresh
        startlist verify --race 12345             before the gun
        startlist verify --race 12345 --repair    mend it
    """
    settings = begin()

    async def work() -> list[Verified]:
        from startlist.store.database import Database
        from startlist.sync.context import Context
        from startlist.sync.plan import Options
        from startlist.sync.progress import Progress
        from startlist.sync.verify.run import verify

        database = await Database.open(settings)
        async with Context(database, settings, progress=Progress()) as context:
            return await verify(context, Options(timing_partner, race), repair=repair)

    found = run(work())
    if json:
        print_json([dataclasses.asdict(one) for one in found])
    else:
        for one in found:
            _say(one, settings.timezone)
        if any(one.differences for one in found) and not repair:
            note("startlist verify --race RACE_ID --repair mends what differs.")
    raise typer.Exit(0 if all(one.result == "complete" for one in found) else 1)


def _say(one: Verified, timezone: str | None) -> None:
    race = f"Race {one.race_id} ({words.named(one.name, one.race_id)})"
    if one.error is not None:
        say(f"{race}: could not be verified: {one.error}")
        return
    as_of = "" if one.as_of is None else f", as of {words.local(one.as_of, one.timezone):%H:%M:%S %Z}"
    newer = f"; {words.counted(one.newer, 'registration')} newer in RunSignup, to come with the next sync"
    newer = newer if one.newer else ""
    if not one.differences:
        say(
            f"{race}: complete: {one.active:,} active, {one.removed:,} removed,"
            f" {words.counted(one.values_compared, 'value')} compared{as_of}{newer}."
        )
        return
    say(f"{race}: {words.counted(len(one.differences), 'difference')}{as_of}{newer}.")
    lines = [
        [d.event_id, d.registration_id, " ".join(filter(None, (d.first_name, d.last_name))), d.field, d.ours, d.theirs]
        for d in one.differences
    ]
    table(["event", "registration", "runner", "field", "ours", "theirs"], lines, zone=zone_of(timezone))
