"""`startlist verify`: whether what is stored is what RunSignup has, and mending what is not."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.output import Json, Race, TimingPartner, note, print_json, say, table, zone_of

if TYPE_CHECKING:
    from startlist.sync.context import Context
    from startlist.sync.plan import Options
    from startlist.sync.verify.account import Acceptance
    from startlist.sync.verify.run import Verified

T = TypeVar("T")


def verify(
    timing_partner: TimingPartner = None,
    race: Race = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what differs, and look again.")] = False,
    account: Annotated[
        bool, typer.Option("--account", help="Show what each API key is good for: full passes, changes, bibs.")
    ] = False,
    json: Json = False,
) -> None:
    """Read RunSignup afresh and compare every registration and every field with what is stored.

    What RunSignup changed since the last sync differs like all else, since it is not stored yet; it is said how much
    that is. A race or an event that RunSignup lists and that was never stored, or is held as gone, is told too. Each
    run leaves a certificate for each race in sync_verifications.

    With --account it asks instead, for each API key, whether the account can be relied on: a call that needs the key's
    rights, a full pass of the future events (which is stored), what RunSignup answers to "changed in 24 hours, 7 days,
    30 days" beside what is stored, and the search for a bib that is known. About six calls for each race and four for
    each key. It leaves a certificate for each key in account_verifications.

    Exit status: 0 complete; 1 something differs or could not be read, or a check of an account failed; 2 wrong
    settings, or nothing to verify; 3 another run held every race that was to be mended.

    Examples:
        startlist verify                          all races that are kept fresh
        startlist verify --race 12345             before the gun
        startlist verify --race 12345 --repair    mend it
        startlist verify --account                before a first race
    """
    if account and repair:
        raise typer.BadParameter("--account mends nothing: leave one of the two out", param_hint="--repair")
    settings = begin()

    async def work(verification: Callable[[Context, Options], Awaitable[T]]) -> T:
        from startlist.cli.logs import shown_progress
        from startlist.store.database import Database
        from startlist.sync.context import Context
        from startlist.sync.plan import Options

        database, options = await Database.open(settings), Options(timing_partner, race)
        with shown_progress(settings, live=sys.stderr.isatty() and not json) as progress:
            async with Context(database, settings, progress=progress) as context:
                return await verification(context, options)

    if account:
        from startlist.sync.verify.account import accept

        accepted = run(work(accept))
        if json:
            print_json([dataclasses.asdict(one) | {"result": one.result} for one in accepted.accounts])
        else:
            _say_accounts(accepted)
        raise typer.Exit(accepted.exit_status)

    from startlist.sync.verify.run import verify

    found = run(work(partial(verify, repair=repair)))
    if json:
        print_json([dataclasses.asdict(one) for one in found.races])
    else:
        for one in found.races:
            _say(one, settings.timezone)
        if any(one.differences for one in found.races) and not repair:
            note("startlist verify --race RACE_ID --repair mends what differs.")
    for one in found.races:
        if one.repair_error is not None:
            ended = "nothing was mended" if one.repair == "held" else "not all was mended"
            note(f"startlist: race {one.race_id}: {ended}: {one.repair_error}")
    for error in found.errors:
        note(f"startlist: {error}")
    raise typer.Exit(found.exit_status)


def _say_accounts(accepted: Acceptance) -> None:
    lines = [
        [account.timing_partner_id, account.principal, one.check, one.result.replace("_", " "), one.found]
        for account in accepted.accounts
        for one in account.checks
    ]
    table(["partner", "API key", "check", "result", "found"], lines)
    for result, what in (("pass", "shown good"), ("not_shown", "not shown in full"), ("fail", "failed")):
        many = sum(account.result == result for account in accepted.accounts)
        if many:
            say(f"{words.counted(many, 'API key')}: {what}.")


def _say(one: Verified, timezone: str | None) -> None:
    race = f"Race {one.race_id} ({words.named(one.name, one.race_id)})"
    if one.error is not None:
        say(f"{race}: could not be verified: {one.error}")
        return
    as_of = "" if one.as_of is None else f", as of {words.local(one.as_of, one.timezone):%H:%M:%S %Z}"
    if not one.differences:
        mended = "mended, and now " if one.repair == "done" else ""
        say(
            f"{race}: {mended}complete: {one.active:,} active, {one.removed:,} removed,"
            f" {words.counted(one.values_compared, 'value')} compared{as_of}."
        )
        return
    say(f"{race}: {words.counted(len(one.differences), 'difference')}{as_of}.")
    lines = [
        [d.event_id, d.registration_id, " ".join(filter(None, (d.first_name, d.last_name))), d.field, d.ours, d.theirs]
        for d in one.differences
    ]
    table(["event", "registration", "runner", "field", "ours", "theirs"], lines, zone=zone_of(timezone))
    if one.newer:
        newer = words.counted(one.newer, "record")
        say(f"{newer} of these RunSignup changed since the last pass: startlist sync --race {one.race_id} brings them.")
