"""`/healthz` and `/metrics`: served beside the scheduler, answered from the database."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from startlist.config import Settings
from startlist.errors import StartlistError
from startlist.store.database import Database
from startlist.store.metrics import Metrics, read_metrics
from startlist.web.exposition import CONTENT_TYPE, exposition

log = structlog.get_logger()

FRESH = 2.0  # seconds for which an answer is given again
PATIENCE = 5.0  # seconds for the database to answer
LAST_WORDS = 2  # seconds for answers that are under way when the process ends


class Monitoring:
    """Asks the database at most once at a time, and not more often than every two seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._one = asyncio.Lock()
        self._last: tuple[float, Metrics | None, str] | None = None

    def app(self) -> Starlette:
        """The two pages."""
        return Starlette(routes=[Route("/healthz", self._healthz), Route("/metrics", self._metrics)])

    async def _healthz(self, _request: Request) -> Response:
        found, why = await self._read()
        problems = [why] if found is None else found.problems
        document = {"status": "failing" if problems else "ok", "problems": problems}
        return JSONResponse(document, status_code=503 if problems else 200)

    async def _metrics(self, _request: Request) -> Response:
        found, _ = await self._read()
        return Response(exposition(found), media_type=CONTENT_TYPE)

    async def _read(self) -> tuple[Metrics | None, str]:
        """The figures, or None and why there are none."""
        async with self._one:
            if self._last is None or time.monotonic() - self._last[0] >= FRESH:
                found, why = None, ""
                try:
                    async with asyncio.timeout(PATIENCE):
                        found = await self._ask()
                except (StartlistError, psycopg.Error, OSError) as error:
                    why = str(error) if isinstance(error, StartlistError) else "the database does not answer"
                except TimeoutError:
                    why = f"the database did not answer within {PATIENCE:.0f} seconds"
                self._last = time.monotonic(), found, why
            return self._last[1:]

    async def _ask(self) -> Metrics:
        database = await Database.configured(self._settings)
        async with await database.connect(name="startlist monitoring") as conn:
            return await read_metrics(database, conn, self._settings)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the command's."""
        yield


@contextlib.asynccontextmanager
async def monitored(settings: Settings) -> AsyncIterator[None]:
    """Serve both pages while the block lasts; where the address is taken, say so and do without."""
    address = settings.monitoring_address
    if address is None:
        yield
        return
    try:
        listener = socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    except OSError as error:
        log.warning(
            "monitoring.unavailable", address=settings.monitoring, message=error.strerror,
            advice="STARTLIST_MONITORING names another address, or off",
        )  # fmt: skip
        yield
        return
    config = uvicorn.Config(
        Monitoring(settings).app(), ws="none", lifespan="off", log_config=None, log_level="warning",
        access_log=False, server_header=False, timeout_graceful_shutdown=LAST_WORDS, limit_concurrency=32,
    )  # fmt: skip
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    log.info("monitoring.ready", address=settings.monitoring)
    try:
        yield
    finally:
        server.should_exit = True
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(serving, LAST_WORDS + 1)
        listener.close()
