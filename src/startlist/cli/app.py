"""The frame of the command line: which commands there are, how one runs, and how errors become exit statuses."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from importlib import import_module
from inspect import getdoc
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from startlist.errors import CallerRefused, ConfigurationError, StartlistError

if TYPE_CHECKING:
    from startlist.config import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """One command, or a group of them; its module is imported when it is called."""

    name: str
    summary: str
    panel: str
    module: str
    attribute: str  # a function, or a typer.Typer with several

    def add_to(self, app: typer.Typer, *, load: bool) -> None:
        if not load:
            app.command(self.name, help=self.summary, rich_help_panel=self.panel)(_unloaded)
            return
        found: Callable[..., Any] | typer.Typer = getattr(import_module(self.module), self.attribute)
        if isinstance(found, typer.Typer):
            for one in found.registered_commands:
                one.help = _told(one.callback)
            alone = found.registered_callback  # of a group that does something by itself
            app.add_typer(
                found,
                name=self.name,
                help=_told(alone.callback) if alone else self.summary,
                rich_help_panel=self.panel,
                no_args_is_help=alone is None,
            )
        else:
            app.command(self.name, help=_told(found), rich_help_panel=self.panel)(found)


SET_UP, SYNC, READ, TRUST = "Set up", "Sync", "Read", "Trust"
DATABASE, TRY = "The database", "Try it"

COMMANDS = (
    Command("init", "Create or upgrade the schema; says where the database is.", SET_UP, "startlist.cli.init", "init"),
    Command("partner", "Timing partners and their API keys.", SET_UP, "startlist.cli.partner", "app"),
    Command("key", "The key that seals API secrets.", SET_UP, "startlist.cli.key", "app"),
    Command(
        "import-legacy",
        "Take over the rows of the scripts that this replaces.",
        SET_UP,
        "startlist.cli.import_legacy",
        "import_legacy",
    ),
    Command("demo", "The whole thing on a local RunSignup, from nothing.", TRY, "startlist.cli.demo", "demo"),
    Command("sandbox", "Run a local RunSignup with made-up timing partners.", TRY, "startlist.cli.sandbox", "sandbox"),
    Command("sync", "Sync all timing partners' races, now.", SYNC, "startlist.cli.sync", "sync"),
    Command("serve", "Keep all races fresh: scheduler and worker.", SYNC, "startlist.cli.serve", "serve"),
    Command("worker", "One more worker beside a scheduler.", SYNC, "startlist.cli.serve", "worker"),
    Command("backfill", "Read what is over: the races' past, once.", SYNC, "startlist.cli.backfill", "backfill"),
    Command("plan", "The calls that the hours to come will need.", SYNC, "startlist.cli.plan", "plan"),
    Command("races", "What is stored: races, registrations, as of when.", READ, "startlist.cli.races", "races"),
    Command("find", "Find registrations by bib or name.", READ, "startlist.cli.races", "find"),
    Command("status", "What is wrong, and since when each race is complete.", READ, "startlist.cli.status", "status"),
    Command("preflight", "Before the race: is the start list sound?", READ, "startlist.cli.preflight", "preflight"),
    Command("history", "The passes: what ran, how it ended, what it found.", READ, "startlist.cli.changes", "history"),
    Command("changes", "What changed in registrations.", READ, "startlist.cli.changes", "changes"),
    Command("bibs", "Bibs assigned, changed, cleared; a bib in RunSignup.", READ, "startlist.cli.bibs", "app"),
    Command("doctor", "Is everything in order here? What to do if not.", TRUST, "startlist.cli.doctor", "doctor"),
    Command("verify", "Is what is stored what RunSignup has? Mend it if not.", TRUST, "startlist.cli.verify", "verify"),
    Command("compare", "Full beside incremental: cost, and the same data?", TRUST, "startlist.cli.compare", "compare"),
    Command("quarantine", "Records that could not be stored.", TRUST, "startlist.cli.quarantine", "app"),
    Command("purge", "Delete the people of events that are over.", DATABASE, "startlist.cli.purge", "purge"),
    Command("db", "The database: its URL, start, stop, psql, backup, restore.", DATABASE, "startlist.cli.db", "app"),
)


def build(wanted: str | None = None, *, everything: bool = False) -> typer.Typer:
    """The command line with one command ready to be called and the others named, or with everything ready."""
    app = typer.Typer(name="startlist", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback(help="Keeps a race-timing company's own PostgreSQL in step with RunSignup.")(_options)
    for command in COMMANDS:
        command.add_to(app, load=everything or command.name == wanted)
    return app


def _told(command: Callable[..., Any] | None) -> str:
    """A docstring as help: its prose, to be wrapped at the terminal's width, and its examples as they are."""
    text = (getdoc(command) or "").replace("[", "\\[")  # rich takes brackets for markup
    prose, _, examples = text.partition("\n\nExamples:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in prose.split("\n\n")]
    return "\n\n".join([*paragraphs, *(["Examples:\n" + examples] if examples else [])])


def main() -> NoReturn:
    """Run the command that `sys.argv` names; ends the process with the exit status of the contract."""
    _open_streams()
    gc.set_threshold(10_000)  # imports and pages leave no cycles behind; looking for them is a tenth of a start
    from startlist.cli import faults

    sys.excepthook = faults.hook
    signal.signal(signal.SIGTERM, _terminated)
    wanted = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    command = typer.main.get_command(build(wanted))
    try:
        command(prog_name="startlist")
    except faults.expected() as error:
        sys.exit(_report(error))
    sys.exit(0)


def begin() -> Settings:
    """The settings of this command, with logging set up by them. Raises `ConfigurationError`."""
    from startlist import config
    from startlist.cli import logs

    settings = config.load()
    logs.configure(settings)
    for problem in config.unknown():
        print(f"startlist: {problem}", file=sys.stderr)  # noqa: T201  # whatever the level of the log
    return settings


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine. SIGINT and SIGTERM cancel it, it cleans up, and the exit status is 130 or 143.

    A second signal ends the process at once.
    """
    from startlist.cli import faults

    received: list[int] = []

    async def cancellable() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()

        def stop(number: int) -> None:
            if received or task is None:
                os._exit(128 + number)
            received.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        loop.set_exception_handler(faults.in_loop)
        return await coroutine

    try:
        with asyncio.Runner() as runner:
            result = runner.run(cancellable())
    except (asyncio.CancelledError, StartlistError, ExceptionGroup):
        # What fails while it is being cancelled is no news.
        if not received:
            raise
    finally:
        signal.signal(signal.SIGTERM, _terminated)
    if received:
        raise typer.Exit(128 + received[0])
    return result


def _open_streams() -> None:
    """Put the null device where a scheduler closed stdin, stdout or stderr, before a file or socket takes its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _report(error: BaseException) -> int:
    """Say what is wrong, each thing once and on one line, and return the exit status."""
    from startlist.cli import faults

    errors = list(faults.leaves(error))
    for said, single in {faults.text(single): single for single in errors}.items():
        print(f"startlist: {said}", file=sys.stderr)  # noqa: T201  # where a user looks for it
        if logging.getLogger("startlist").isEnabledFor(logging.DEBUG):
            print(faults.traceback_of(single), file=sys.stderr)  # noqa: T201
    return 2 if any(isinstance(single, ConfigurationError | CallerRefused) for single in errors) else 1


def _version(wanted: bool) -> None:
    if wanted:
        import startlist

        typer.echo(f"startlist {startlist.__version__}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _unloaded() -> NoReturn:
    raise AssertionError("a command is loaded before it is called")


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(143)
