"""Errors as text that may be shown and kept: no local variables, no values, no rows, no secrets.

The text of our own errors is written for users. That of any other may quote what it was about, so only its kind and
where it happened are told.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from startlist.errors import (
    BadAnswer,
    CallerRefused,
    DatabaseError,
    NetworkError,
    PermissionDenied,
    RaceGone,
    ServerError,
    StartlistError,
)

_ADVICE: tuple[tuple[type[StartlistError] | tuple[type[StartlistError], ...], str], ...] = (
    (
        CallerRefused,
        "STARTLIST_API_REGISTRATION and STARTLIST_API_REGISTRATION_SECRET must be what RunSignup gave you for this"
        " program (its website, Profile, API Keys)",
    ),
    (PermissionDenied, "the race's director has to give the timing company access to it in RunSignup"),
    (RaceGone, "RunSignup knows no race of that number (any more); what is stored of it is kept"),
    (NetworkError, "is this machine online? What is stored stays; run this again"),
    ((ServerError, BadAnswer), "the fault is RunSignup's; what is stored stays; run this again in a while"),
)

_LOST = ("08", "53", "57")  # SQLSTATE classes: connection, resources, an operator's intervention


def expected() -> tuple[type[BaseException], ...]:
    """What a command may fail with and a user can act on."""
    kinds: tuple[type[BaseException], ...] = (StartlistError, OSError, ExceptionGroup)
    if "psycopg" in sys.modules:
        import psycopg

        kinds += (psycopg.Error,)
    return kinds


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The single errors of a group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def text(error: BaseException) -> str:
    """One line that says what is wrong."""
    if isinstance(error, StartlistError):
        return " ".join(with_advice(error, str(error)).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    translated = _of_database(error)
    return text(translated) if translated else f"internal error: {_kind(error)}"


def with_advice(error: BaseException | None, said: str) -> str:
    """What was said of an error, and what to do next where that is known."""
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return f"{said}; {advice}"
    if isinstance(error, DatabaseError) and (error.sqlstate or "").startswith(_LOST):
        return f"{said}; what was stored before stays: run this again when the database answers"
    return said


def traceback_of(error: BaseException) -> str:
    """Where an error happened, and where those happened that caused it."""
    parts = []
    found: BaseException | None = error
    while found is not None:
        said = text(found)
        parts.append("".join(traceback.format_tb(found.__traceback__)) + f"{_kind(found)}: {said}")
        if isinstance(found, BaseExceptionGroup):
            parts.extend(traceback_of(single) for single in found.exceptions)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return "\ncaused by\n".join(parts)


def hook(_kind: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
    """For `sys.excepthook`: what nobody expected."""
    if isinstance(error, KeyboardInterrupt):  # before a command had begun
        return
    print(traceback_of(error), file=sys.stderr)  # noqa: T201  # the last words of a process
    print("startlist: this is a fault of the program; please report the lines above", file=sys.stderr)  # noqa: T201


def in_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For the event loop: an error that no task took."""
    import structlog

    structlog.get_logger("startlist").error("task.failed", what=context["message"], exc_info=context.get("exception"))


def _of_database(error: BaseException) -> StartlistError | None:
    if "psycopg" not in sys.modules:
        return None
    import psycopg

    from startlist.store.database import translated

    if isinstance(error, psycopg.Error):
        try:
            with translated():
                raise error
        except DatabaseError as ours:
            return ours
    return None


def _kind(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
