"""One call to RunSignup: credentials, caller registration, the gate, retries, and what an answer means.

A call is up to three attempts; each passes the gate anew, and nothing sleeps inside it. Neither errors nor logs carry
an address with a query, a header or a body.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import mmap
import re
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx2
import stamina

from startlist.errors import (
    BadAnswer,
    ConfigurationError,
    CredentialRefused,
    NetworkError,
    Retry,
    RunSignupError,
    Throttled,
)
from startlist.runsignup.answers import Body, ReportedError, WrongShapeError, raise_reported
from startlist.runsignup.faults import error_of_report, error_of_status

T = TypeVar("T")

_HTTP_LOGGERS: Final = (
    "httpx2",
    "httpcore2",
    *(f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")),
)


_SENDABLE: Final = re.compile(r"[ -~]*")  # what a header may hold


@dataclass(frozen=True, slots=True)
class Credential:
    """An API key of RunSignup and its secret.

    `kind` is how they are sent: `legacy`, both in the query, or `v2`, the secret in a header.
    """

    key: str = field(repr=False)
    secret: str = field(repr=False)
    kind: str = "legacy"

    def __post_init__(self) -> None:
        if self.kind not in ("legacy", "v2"):
            raise ConfigurationError("a credential is of kind legacy or v2")

    def parameters(self) -> dict[str, str]:
        """What goes into the query."""
        if self.kind == "legacy":
            return {"api_key": self.key, "api_secret": self.secret}
        return {"rsu_api_key": self.key}

    def headers(self) -> dict[str, str]:
        """What goes into the headers."""
        return {"X-RSU-API-SECRET": self.secret} if self.kind == "v2" else {}


@dataclass(frozen=True, slots=True)
class CallerRegistration:
    """The registration of the calling program, `<id>.<token>`, and its secret; RunSignup wants both or neither."""

    registration: str = field(repr=False)
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.registration or not self.secret:
            raise ConfigurationError("a caller registration has two parts, its id with token and its secret")


@dataclass(slots=True)
class Attempt:
    """What became of one attempt; the transport fills it in before the gate closes. Times in seconds."""

    started: datetime | None = None
    seconds: float | None = None
    http_status: int | None = None
    error_code: int | None = None
    rows: int | None = None
    bytes: int | None = None
    retry_after: float | None = None


class Gate(Protocol):
    """Who lets attempts through: lanes and budget live behind it."""

    def attempt(self, endpoint: str, race_id: int | None) -> AbstractAsyncContextManager[Attempt]:
        """Wait for leave to make one attempt, and learn on leaving what became of it. May raise `BudgetSpent`."""


class ProcessGate:
    """Lets a number of attempts of this process through at once, whatever client or credential makes them."""

    def __init__(self, at_once: int = 2) -> None:
        self._at_once = at_once
        # A semaphore belongs to one event loop; a process may run several, one after the other.
        self._lanes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    @asynccontextmanager
    async def attempt(self, endpoint: str, race_id: int | None) -> AsyncIterator[Attempt]:
        lanes = self._lanes.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._at_once))
        async with lanes:
            yield Attempt()


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is tried and how long is waited between, in seconds.

    A `Retry-After` up to `patience` is waited for; throttling that lasts longer, or that does not say how long, is the
    caller's to wait out.
    """

    attempts: int = 3
    wait_initial: float = 0.5
    wait_max: float = 2.0
    wait_jitter: float = 0.5
    patience: float = 5.0

    def wait_after(self, error: Exception) -> bool | float:
        """Whether to try again, or after how many seconds."""
        if not isinstance(error, Retry):
            return False
        if isinstance(error, Throttled):
            asked = error.retry_after
            return asked if asked is not None and asked <= self.patience else False
        return True


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a call brought. `asked_at`: RunSignup's clock when the question was put, epoch seconds, rounded down."""

    value: T
    asked_at: int | None
    nbytes: int


def http_client(*, timeout: float = 60.0, connections: int = 8) -> httpx2.AsyncClient:
    """An HTTP client for one `RunSignup` or several: no redirects, no cookies, no proxy on the way to this machine.

    `timeout` in seconds is for each read; connecting has 10. Cookies would mix the calls of several credentials.
    """
    return httpx2.AsyncClient(
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=httpx2.Timeout(timeout, connect=10.0),
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        mounts=dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]")),  # None: as it is, without a proxy
    )


class Transport:
    """Makes calls with one credential. `url` is RunSignup's base address, https or on this machine.

    `max_bytes` bounds a body, `max_seconds` one attempt. `now` and `clock` are the wall clock and a monotonic one.
    """

    def __init__(
        self,
        credential: Credential,
        *,
        url: str,
        http: httpx2.AsyncClient,
        registration: CallerRegistration | None,
        gate: Gate,
        retries: Retries,
        max_bytes: int = 64 * 1024 * 1024,
        max_seconds: float = 180.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not url.startswith("https://") and not (url.startswith("http://") and _is_loopback(url)):
            raise ConfigurationError("RunSignup's address must begin with https:// (http:// only to this machine)")
        self._url = url.rstrip("/")
        self._http = http
        self._gate = gate
        self._retried = stamina.retry(
            on=retries.wait_after,
            attempts=retries.attempts,
            timeout=None,
            wait_initial=retries.wait_initial,
            wait_max=retries.wait_max,
            wait_jitter=retries.wait_jitter,
        )
        self._max_bytes, self._max_seconds = max_bytes, max_seconds
        self._now, self._clock = now, clock
        self._always = {"format": "json", **credential.parameters()}
        self._sendable = all(map(_SENDABLE.fullmatch, credential.headers().values()))
        self._headers = {"Accept": "application/json", "Accept-Encoding": "gzip", **credential.headers()}
        if registration is not None:
            self._always["rsu_api_reg"] = registration.registration
            self._headers["X-RSU-API-REG-SECRET"] = registration.secret
        quiet_http_loggers()

    async def call(
        self,
        endpoint: str,
        path: str,
        parameters: Mapping[str, str],
        read: Callable[[Body], tuple[T, int]],
        *,
        race_id: int | None = None,
    ) -> Answer[T]:
        """Ask, and `read` the body, which gives the value and its number of rows or raises `WrongShapeError`.

        Raises a `RunSignupError`: of the last attempt when all failed.
        """

        # These two arguments name in the log what is retried; it must not be given any with secrets in them.
        async def ask(endpoint: str, race_id: int | None) -> Answer[T]:
            async with self._gate.attempt(endpoint, race_id) as made:
                return await self._attempt(made, path, parameters, read)

        if not self._sendable:
            raise CredentialRefused("its secret has signs that no HTTP header can hold: it was not copied rightly")
        return await self._retried(ask)(endpoint, race_id)

    async def _attempt(
        self, made: Attempt, path: str, parameters: Mapping[str, str], read: Callable[[Body], tuple[T, int]]
    ) -> Answer[T]:
        made.started, begun = self._now(), self._clock()
        # A mapping of its own for each body: only what is written to it takes memory, and all of that goes back to the
        # system at once. Megabytes that grow beside others on the heap leave it in tatters.
        response, room = None, mmap.mmap(-1, self._max_bytes, flags=mmap.MAP_PRIVATE)
        # Errors are raised outside the except clauses: what httpx2 raises holds the request, and so its secrets.
        failure: RunSignupError | None = None
        try:
            async with (
                asyncio.timeout(self._max_seconds),
                self._http.stream(
                    "GET", self._url + path, params={**self._always, **parameters}, headers=self._headers
                ) as response,
            ):
                made.http_status = response.status_code
                async for chunk in response.aiter_bytes():
                    if room.tell() + len(chunk) > self._max_bytes:
                        failure = BadAnswer(f"the answer is longer than {self._max_bytes:,} bytes")
                        break
                    room.write(chunk)
        except httpx2.DecodingError:
            failure = BadAnswer(f"HTTP {made.http_status}: the answer's compression is broken")
        except httpx2.TransportError as error:
            what = "no answer from RunSignup" if made.http_status is None else "only a part of an answer arrived"
            failure = NetworkError(f"{what} ({type(error).__name__})")
        except TimeoutError:
            failure = NetworkError(f"no whole answer from RunSignup within {self._max_seconds:g} seconds")
        finally:
            made.seconds = self._clock() - begun
            made.bytes = room.tell()
        if failure is None and response is not None:
            made.retry_after = _retry_after(response, self._now())
            body = memoryview(room)[: made.bytes]
            failure, answer = self._understand(made, response, body, read)
            if answer is not None:
                return answer
        raise failure or NetworkError("no answer from RunSignup")

    def _understand(
        self, made: Attempt, response: httpx2.Response, body: memoryview, read: Callable[[Body], tuple[T, int]]
    ) -> tuple[RunSignupError | None, Answer[T] | None]:
        try:
            raise_reported(body)
            if response.status_code != 200:
                return error_of_status(response.status_code, made.retry_after), None
            value, made.rows = read(body)
        except ReportedError as report:
            failure = error_of_report(report.code, report.text, response.status_code, made.retry_after)
            made.error_code = failure.code
            return failure, None
        except WrongShapeError as error:
            return BadAnswer(f"RunSignup's answer cannot be used: {error} ({_what_came(response, body)})"), None
        date = _date(response.headers.get("Date"))
        seconds = made.seconds or 0.0
        asked_at = None if date is None else math.floor(date.timestamp() - seconds)
        return None, Answer(value, asked_at, len(body))


def quiet_http_loggers() -> None:
    """Keep the HTTP libraries from logging addresses and headers, which hold secrets, whatever was configured."""
    for name in _HTTP_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _date(value: str | None) -> datetime | None:
    """The instant of a Date header; None when it is missing or unreadable."""
    try:
        date = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _retry_after(response: httpx2.Response, now: datetime) -> float | None:
    """Seconds of a Retry-After header, sent as a number or as a date on the server's clock."""
    value: str = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    if (until := _date(value)) is None:
        return None
    return max(0.0, (until - (_date(response.headers.get("Date")) or now)).total_seconds())


def _what_came(response: httpx2.Response, body: memoryview) -> str:
    """An answer described without a word of its content."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    kind = kind if kind and len(kind) <= 60 and kind.isprintable() else "no content type"
    first = bytes(body[:64]).lstrip()[:1]
    looks = {b"": "empty", b"<": "markup", b"{": "an object", b"[": "an array"}.get(first, "something else")
    return f"HTTP {response.status_code}, {kind}, {len(body):,} bytes, by its first sign {looks}"
