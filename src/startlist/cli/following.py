"""Printing an append-only log: what is in it, or new rows as they come until somebody ends it."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Annotated, Generic, NoReturn

import typer

from startlist.cli.app import run
from startlist.cli.output import MOST_LINES, cell, note, print_json, print_json_line, say, table, whole, zone_of
from startlist.config import Settings
from startlist.errors import ConfigurationError, DatabaseError
from startlist.store.changelog import Entry, Log, R
from startlist.store.database import Database
from startlist.store.reading import Filters, at_most, check_filters, reader

USUAL_LIMIT = 100

AfterId = Annotated[
    int | None,
    typer.Option("--after-id", metavar="N", parser=whole(0), help="The first ones after this id, for scripts."),
]
Many = Annotated[
    int | None,
    typer.Option(
        "--limit",
        parser=whole(most=MOST_LINES),
        metavar="N",
        help=f"At most so many lines; {USUAL_LIMIT} if not given.",
    ),
]
Follow = Annotated[bool, typer.Option("--follow", help="Print new ones as they come, until Ctrl-C.")]


class Printer(Generic[R]):
    """How a log is shown: its headings, one line's cells, and whether as JSON."""

    def __init__(
        self,
        log: Log[R],
        headings: Sequence[str],
        cells: Callable[[Entry[R]], Sequence[object]],
        *,
        settings: Settings,
        json: bool,
    ) -> None:
        self._log = log
        self._headings = headings
        self._cells = cells
        self._settings = settings
        self._zone = zone_of(settings.timezone)
        self._json = json

    def list(self, filters: Filters, after_id: int | None, limit: int | None) -> None:
        """Print the newest rows, the newest last, or with `after_id` the first ones after it."""
        many = limit or USUAL_LIMIT

        async def work() -> tuple[list[Entry[R]], str | None]:
            log = self._log
            async with reader(await Database.open(self._settings)) as conn:
                because = await check_filters(conn, filters)
                head = await log.head(conn)
                after = await log.before(conn, filters.since) if filters.since else 0
                if after_id is not None:
                    found = await log.after(conn, filters, max(after, after_id), head, limit=many + 1)
                    return found, because
                # One more than is shown, at the end that is left out.
                return (await log.newest(conn, filters, after, head, limit=many + 1))[::-1], because

        found, because = run(work())
        shown, more = at_most(found, many)
        if after_id is None:
            shown = shown[::-1]
            if more:
                note(f"Only the newest {many} are shown; --limit N shows more.")
        elif more:
            note(f"Only the first {many} are shown; --after-id {shown[-1].row.id} goes on.")
        if self._json:
            print_json([entry.row for entry in shown])
        elif shown:
            table(self._headings, [self._cells(entry) for entry in shown], zone=self._zone)
        else:
            note(f"Nothing: {because}." if because else "Nothing.")

    def follow(self, filters: Filters, after_id: int | None, limit: int | None) -> None:
        """Print rows as they come, after those that `after_id`, `since` or `limit` ask for; ends when stdout does."""
        if after_id is not None and limit is not None:
            raise ConfigurationError("--follow with --after-id prints all that comes after it: leave out --limit")

        async def work() -> None:
            log, database = self._log, await Database.open(self._settings)
            async with reader(database) as conn:
                because = await check_filters(conn, filters)
                head = await log.head(conn)
                after = await log.before(conn, filters.since) if filters.since else 0
                found = await log.newest(conn, filters, after, head, limit=limit) if limit else []
            if because:
                note(f"Nothing yet: {because}.")
            self._print(found)
            begin = after if filters.since and not limit else head
            if after_id is not None:
                begin = max(after, after_id)
            note(f"Following after id {begin}; Ctrl-C ends.")
            async with aclosing(log.follow(database, filters, begin, on_lost=_lost, on_back=_back)) as entries:
                async for batch in entries:
                    self._print(batch)
                    if _nobody_reads():
                        raise BrokenPipeError

        try:
            run(work())
        except BrokenPipeError:
            _end_quietly()

    def _print(self, entries: Sequence[Entry[R]]) -> None:
        for entry in entries:
            if self._json:
                print_json_line(entry.row)
            else:
                say("  ".join(text for value in self._cells(entry) if (text := cell(value, zone=self._zone))))
                sys.stdout.flush()


def _lost(error: DatabaseError) -> None:
    note(f"{error}; waiting for the database.")


def _back() -> None:
    note("The database is back; nothing was left out.")


def _nobody_reads() -> bool:
    """Whether the reader of our output has closed it: there may be nothing to print for hours that would tell."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file behind it, or a system without poll
        return False


def _end_quietly() -> NoReturn:
    """End as is usual below `| head`: what is still buffered goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(0)
