"""Logging: events with fields, on stderr or in a rotating file, for people or for machines."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog

from startlist.cli import faults
from startlist.config import LogFormat, LogLevel, Settings
from startlist.errors import ConfigurationError

if TYPE_CHECKING:
    from startlist.sync.progress import Progress

FILE_BYTES = 10_000_000
FILES = 5

# httpx2 logs whole URLs, httpcore2 headers: both carry secrets. The others say nothing a timer needs.
_QUIET = ("httpx2", "httpcore2", "httpx", "httpcore", "alembic", "psycopg", "procrastinate", "uvicorn.access",
          "asyncio")  # fmt: skip


class _File(logging.handlers.RotatingFileHandler):
    """A log file. When it can be written no longer, that is said once, and the command goes on without it."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name that logging calls
        error = sys.exc_info()[1]
        if not self._told and error is not None:
            self._told = True
            said = f"STARTLIST_LOG_FILE: {self.baseFilename} can be written no longer: {faults.text(error)}"
            print(f"startlist: {said}; lines are lost", file=sys.stderr)  # noqa: T201  # there is no log to tell it


def configure(settings: Settings) -> None:
    """Send everything that is logged where the settings say. Raises `ConfigurationError` for an impossible file."""
    handler: logging.Handler
    if settings.log_file is None:
        handler = logging.StreamHandler(sys.stderr)
        colors = sys.stderr.isatty()
    else:
        try:
            handler = _File(settings.log_file, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"STARTLIST_LOG_FILE: {settings.log_file} cannot be written: {error.strerror}; name a file in a folder"
                " that is there"
            ) from None
        colors = False
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_exception),
    ]
    renderer: Any = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, sort_keys=False)
    if settings.log_format is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_from_elsewhere, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def beside_progress(settings: Settings) -> None:
    """While progress moves on the terminal, let only warnings through to it; a log file still gets everything."""
    if settings.log_file is None and settings.log_level is LogLevel.INFO:
        logging.getLogger("startlist").setLevel(logging.WARNING)


def shown_progress(settings: Settings, *, live: bool) -> AbstractContextManager[Progress]:
    """What a run tells its progress to: a line that moves where it is shown `live`, else nobody."""
    if not live:
        from startlist.sync.progress import Progress

        return nullcontext(Progress())
    from startlist.cli.live import LiveProgress
    from startlist.cli.output import zone_of

    beside_progress(settings)
    return LiveProgress(zone_of(settings.timezone))


def _exception(exc_info: Any) -> str:
    return faults.traceback_of(exc_info[1])


def _from_elsewhere(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name the library that a line comes from."""
    event["logger"] = event["_record"].name
    return event
