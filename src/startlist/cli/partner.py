"""`startlist partner`: add, list, check, rotate and remove timing partners with their API keys."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from startlist.cli.app import begin, run
from startlist.cli.output import Json, note, print_json, table, whole, zone_of
from startlist.config import Settings
from startlist.errors import ConfigurationError

if TYPE_CHECKING:
    from startlist.store.partners import Added, CredentialState, Rotated
    from startlist.sync.check import Checked

T = TypeVar("T")

app = typer.Typer()


class CredentialType(StrEnum):
    LEGACY = "legacy"
    V2 = "v2"


PartnerId = Annotated[int, typer.Argument(metavar="ID", parser=whole(), help="The timing partner's id.")]
SecretFile = Annotated[
    Path | None, typer.Option("--api-secret-file", metavar="FILE", help="A file that holds the API secret.")
]


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The timing company's name.")],
    api_key: Annotated[str, typer.Option("--api-key", metavar="K", help="RunSignup's API key.")],
    api_secret_file: SecretFile = None,
    credential_type: Annotated[
        CredentialType, typer.Option("--credential-type", help="Which kind of API key it is.")
    ] = CredentialType.LEGACY,
    partner_id: Annotated[
        int | None,
        typer.Option(
            "--id", metavar="N", parser=whole(), help="The id of a new partner, or one who gets one more key."
        ),
    ] = None,
    email: Annotated[str | None, typer.Option("--email", metavar="E", help="Whom to write to.")] = None,
    calls_per_hour: Annotated[
        int | None,
        typer.Option("--calls-per-hour", metavar="N", parser=whole(most=1_000_000), help="This key's own budget."),
    ] = None,
    json: Json = False,
) -> None:
    """Add a timing partner, or one more API key with --id; prints the id.

    The secret comes from --api-secret-file, STARTLIST_API_SECRET or a prompt, never from the command line.

    Examples:
        startlist partner add "Peak Timing" --api-key KEY
        startlist partner add "Peak Timing" --api-key KEY --api-secret-file FILE
        startlist partner add "Peak Timing" --api-key KEY2 --id 1    one more key
        startlist partner add "Peak Timing" --api-key KEY --credential-type v2
    """
    settings = begin()
    name, api_key = _word("NAME", name), _word("--api-key", api_key)
    email = None if email is None else _word("--email", email)
    secret = _secret(settings, api_secret_file)

    async def work() -> Added:
        from startlist.store import partners
        from startlist.store.database import Database
        from startlist.store.sealing import open_key_ring

        database = await Database.open(settings)
        async with await database.connect() as conn:
            return await partners.add(
                conn,
                await open_key_ring(conn, settings),
                name=name,
                principal=api_key,
                secret=secret,
                credential_type=credential_type.value,
                timing_partner_id=partner_id,
                email=email,
                calls_per_hour=calls_per_hour,
            )

    added = run(work())
    if json:
        print_json(added)
        return
    what = f"timing partner {name} with" if added.new_partner else f"to timing partner {name}"
    note(f"Added {what} API key {api_key}. Try it: startlist partner check {added.timing_partner_id}")
    typer.echo(added.timing_partner_id)


@app.command("list")
def list_(json: Json = False) -> None:
    """List timing partners with their API keys and what is known of them; never a secret.

    Examples:
        startlist partner list
    """
    settings = begin()

    async def work() -> list[CredentialState]:
        from startlist.store import partners
        from startlist.store.database import Database

        database = await Database.open(settings)
        async with await database.connect() as conn:
            return await partners.states(conn, settings)

    found = run(work())
    if json:
        print_json(found)
        return
    if not found:
        note("No timing partner yet: startlist partner add NAME --api-key K")
        return
    rows = [
        [
            one.timing_partner_id,
            one.company_name,
            one.principal,
            one.credential_type,
            _state(one),
            one.verified_at,
            one.calls_last_hour if one.credential_id else None,
            one.calls_per_hour,
            one.contact_email,
        ]
        for one in found
    ]
    headings = ("id", "partner", "API key", "type", "state", "verified", "calls last hour", "of", "e-mail")
    table(headings, rows, zone=zone_of(settings.timezone))


def _state(one: CredentialState) -> str:
    if one.credential_id is None:
        return "no API key"
    if one.stopped_at is not None:
        return f"stopped: {one.stopped_reason}"
    if one.paused_until is not None:
        return f"paused by RunSignup until {one.paused_until.astimezone():%H:%M:%S}"
    return "verified" if one.verified_at is not None else "not verified yet"


@app.command()
def check(
    partner_id: Annotated[
        int | None, typer.Argument(metavar="ID", parser=whole(), help="The timing partner's id; none: all of them.")
    ] = None,
    json: Json = False,
) -> None:
    """Ask RunSignup whether it accepts the API keys: two calls for each, up to four for one that is refused.

    An accepted one is no longer stopped. Where RunSignup could not be asked, "accepted" is empty (JSON: null).

    Exit status: 0 all are accepted, 1 one is not.

    Examples:
        startlist partner check       all API keys
        startlist partner check 1     those of timing partner 1
    """
    settings = begin()

    async def work() -> list[Checked]:
        from startlist.store.database import Database
        from startlist.sync import check as checking
        from startlist.sync.context import Context
        from startlist.sync.progress import Progress

        database = await Database.open(settings)
        async with Context(database, settings, progress=Progress()) as context:
            return await checking.check(context, partner_id)

    found = run(work())
    if json:
        print_json(found)
    else:
        headings = ("id", "partner", "API key", "accepted", "result")
        rows = [(one.timing_partner_id, one.company_name, one.principal, one.accepted, one.result) for one in found]
        table(headings, rows)
    if not all(one.accepted for one in found):
        raise typer.Exit(1)


@app.command()
def rotate(
    partner_id: PartnerId,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", metavar="K", help="The partner's new API key, or which of its several is meant."),
    ] = None,
    api_secret_file: SecretFile = None,
    json: Json = False,
) -> None:
    """Give an API key a new secret; a stop ends, and the key counts as unverified until it is used.

    The secret comes from --api-secret-file, STARTLIST_API_SECRET or a prompt, never from the command line.

    Examples:
        startlist partner rotate 1                     asks for the new secret
        startlist partner rotate 1 --api-key NEWKEY    another key, its secret
    """
    settings = begin()
    named = None if api_key is None else _word("--api-key", api_key)
    secret = _secret(settings, api_secret_file)

    async def work() -> Rotated:
        from startlist.store import partners
        from startlist.store.database import Database
        from startlist.store.sealing import open_key_ring

        database = await Database.open(settings)
        async with await database.connect() as conn:
            ring = await open_key_ring(conn, settings)
            return await partners.rotate(conn, ring, timing_partner_id=partner_id, principal=named, secret=secret)

    done = run(work())
    if json:
        print_json(done)
        return
    replaced = "" if done.principal == done.old_principal else f", in place of {done.old_principal},"
    typer.echo(f"Timing partner {partner_id}: API key {done.principal}{replaced} has a new secret.")
    note(f"Try it: startlist partner check {partner_id}")


@app.command()
def remove(
    partner_id: PartnerId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete a timing partner with its API keys and all that is stored of its races; asks first.

    Examples:
        startlist partner remove 3           says what would go, and asks
        startlist partner remove 3 --yes     for a script
    """
    settings = begin()

    async def count() -> dict[str, int]:
        from startlist.store import partners
        from startlist.store.database import Database

        database = await Database.open(settings)
        async with await database.connect() as conn:
            return await partners.stored_rows(conn, partner_id)

    async def work() -> None:
        from startlist.store import partners
        from startlist.store.database import Database

        await partners.remove(await Database.open(settings), partner_id)

    rows = run(count())
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigurationError(
                f"removing timing partner {partner_id} deletes {sum(rows.values())} rows for good: confirm with --yes"
            )
        note(f"This deletes timing partner {partner_id} for good:")
        for name, many in rows.items():
            note(f"  {many:>9,} rows of {name}")
        if not _answer(lambda: typer.confirm("Delete them?", err=True)):
            note("Nothing was deleted.")
            raise typer.Exit(1)
    run(work())
    if json:
        print_json({"timing_partner_id": partner_id, "deleted": rows})
        return
    typer.echo(f"Timing partner {partner_id} is removed, and with it:")
    table(("rows", "of"), [(many, name) for name, many in rows.items()])


def _word(what: str, text: str) -> str:
    if not text.strip():
        raise ConfigurationError(f"{what} is empty")
    if not text.strip().isprintable():
        raise ConfigurationError(f"{what} holds signs that cannot be shown, as line ends; type it anew")
    return text.strip()


def _secret(settings: Settings, file: Path | None) -> str:
    """The API secret, from wherever it may come. Raises `ConfigurationError`, which never quotes it."""
    if file is not None:
        try:
            secret, origin = file.read_text("utf-8"), str(file)
        except OSError as error:
            raise ConfigurationError(f"--api-secret-file: cannot read {file}: {error.strerror}") from None
        except UnicodeError:
            raise ConfigurationError(f"--api-secret-file: {file} is not a text file") from None
    elif settings.api_secret is not None:
        secret, origin = settings.api_secret.get_secret_value(), "STARTLIST_API_SECRET"
    elif sys.stdin.isatty():
        secret, origin = _answer(lambda: typer.prompt("API secret", hide_input=True, err=True)), "the prompt"
    else:
        raise ConfigurationError(
            "the API secret is missing: set STARTLIST_API_SECRET, name a file with --api-secret-file,"
            " or run this on a terminal, which asks for it"
        )
    secret = secret.strip()
    if not secret or not secret.isprintable() or not secret.isascii():
        raise ConfigurationError(f"{origin} must hold the API secret alone, as RunSignup shows it, on one line")
    return secret


def _answer(question: Callable[[], T]) -> T:
    """What the user answers; Ctrl-C ends the command with 130 as it does everywhere, Ctrl-D with 1."""
    try:
        return question()
    except typer.Abort as error:
        note("Nothing was changed.")
        raise typer.Exit(130 if isinstance(error.__context__, KeyboardInterrupt) else 1) from None
