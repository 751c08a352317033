"""`startlist key`: the key that seals API secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from startlist.cli.app import begin, run
from startlist.cli.output import Json, note, print_json

if TYPE_CHECKING:
    from startlist.store.sealing import Rotation

app = typer.Typer()


@app.callback()
def _group() -> None:
    """The key that seals API secrets."""


@app.command()
def rotate(json: Json = False) -> None:
    """Seal all API secrets with a new key.

    The key file gets a new key. With STARTLIST_SECRET_KEY, put the new key in front, then run this.

    Examples:
        startlist key rotate
        STARTLIST_SECRET_KEY=NEW,OLD startlist key rotate    then OLD may go
    """
    settings = begin()

    async def work() -> Rotation:
        from startlist.store.database import Database
        from startlist.store.sealing import rotate as rotate_key

        database = await Database.open(settings)
        async with await database.connect() as conn:
            return await rotate_key(conn, settings, report=note)

    done = run(work())
    if json:
        print_json(done)
        return
    typer.echo(f"{done.secrets} API secrets are sealed with the key {done.fingerprint} of {done.origin}.")
    if settings.secret_key is not None:
        typer.echo("The other keys may be dropped from STARTLIST_SECRET_KEY once every process has the new one.")
