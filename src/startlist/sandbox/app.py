"""The sandbox's HTTP side: callers, throttling, faults, and the methods of the API."""

import asyncio
import gzip
import json
import random
import socket
import struct
from collections import defaultdict, deque
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Literal

from starlette.types import Receive, Scope, Send

from . import answers
from .changes import BadChangeError, Changes
from .faults import BadFaultError, Fault, Faults, bend_answer, bend_query
from .log import Call, Log
from .markup import to_xml
from .operator import Operator
from .query import ApiError, Query
from .wire import text
from .world import Key, UnknownIdError, World

_MAINTENANCE = b"<html><head><title>Down for maintenance</title></head><body><h1>We'll be right back</h1></body></html>"
_NOT_FOUND = b"<html><head><title>404 Not Found</title></head><body><center>nginx</center></body></html>"
_JSON, _XML, _HTML = "application/json; charset=utf-8", "text/xml; charset=utf-8", "text/html"


@dataclass(slots=True)
class Response:
    """What goes back, and where it is cut off, if it is."""

    body: bytes
    content_type: str = _JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    error_code: int | None = None
    end: Literal["whole", "cut", "reset"] = "whole"
    keep: int = 0  # bytes before the cut


class App:
    """The ASGI application of one sandbox."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.changes = Changes(world)
        self.faults = Faults()
        self.log = Log()
        self.operator = Operator(world, self.changes, self.faults, self.log)
        # Set when the server stops: ends calls that hang.
        self.stopping = asyncio.Event()
        # When each key made its calls of the last hour (refused ones do not count).
        self._made: defaultdict[str | None, deque[float]] = defaultdict(deque)
        self._jitter = random.Random(1)  # noqa: S311 - repeatable delays

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        steps = scope["path"].split("/")[1:]
        if steps[0] == "_sandbox":
            await self._operate(scope, receive, send, "/".join(steps[1:]))
        elif steps[0].lower() == "rest":
            await self._rest(scope, receive, send, steps[1:])
        else:
            await _send(send, 404, _HTML, _NOT_FOUND, {"server": "nginx"})

    async def _operate(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        query = Query.read(scope["query_string"])
        try:
            status, result = 200, self.operator.do(scope["method"], name, query, json.loads(body) if body else {})
        except UnknownIdError as error:
            status, result = 404, json.dumps({"error": str(error)}).encode()
        except (BadChangeError, BadFaultError, ValueError, TypeError) as error:
            status, result = 400, json.dumps({"error": str(error)}).encode()
        await _send(send, status, "application/json", result, {})

    async def _rest(self, scope: Scope, receive: Receive, send: Send, steps: list[str]) -> None:
        query = Query.read(scope["query_string"])
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        call = self.log.begin(self.world.clock.now(), _endpoint(steps))
        call.params = query.shown()
        if len(steps) > 1 and steps[0] == "race" and steps[1].isascii() and steps[1].isdigit():
            call.race_id = int(steps[1])
        words = query.values.get("event_id", "").split(",")
        call.event_ids = [int(word) for word in words if word.isascii() and word.isdigit()]
        try:
            await self._answer(scope, receive, send, call, steps, query, headers)
        finally:
            self.log.end()

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        call: Call,
        steps: list[str],
        query: Query,
        headers: dict[str, str],
    ) -> None:
        settings = self.world.settings
        faults: list[Fault] = []
        try:
            self._admit(call, query, headers)
            key = self._caller(call, query, headers)
            faults = self.faults.of(call, query)
            call.faults = [fault.kind for fault in faults]
            for fault in faults:
                if fault.kind == "before":
                    self._carry_out(fault)
            await self._wait(faults, settings.latency_ms, settings.latency_jitter_ms)
            response = await self._faulty(faults, receive)
            if response is None:
                if scope["method"] != "GET":
                    raise ApiError(2)
                bend_query(faults, query)
                made = self._method(key, steps, query)
                if query.values.get("format", "xml") not in ("json", "xml"):
                    raise ApiError(10)
                response = Response(bend_answer(faults, made.body), rows=made.rows)
        except ApiError as error:
            response = Response(text(error.envelope()).encode(), status=error.status, error_code=error.code)
        if query.values.get("format") != "json" and response.content_type == _JSON:
            response.body, response.content_type = to_xml(json.loads(response.body)), _XML
        self._spoil(faults, response)
        for fault in faults:
            if fault.kind == "then":
                self._carry_out(fault)
        self._finish(faults, response, headers)
        call.http_status = response.status if response.end != "reset" else None
        call.error_code, call.rows, call.bytes = response.error_code, response.rows, len(response.body)
        await self._deliver(scope, receive, send, response)

    def _admit(self, call: Call, query: Query, headers: dict[str, str]) -> None:
        """Check the caller registration, and how many calls are under way and were made."""
        world, settings = self.world, self.world.settings
        token, secret = query.values.get("rsu_api_reg"), headers.get("x-rsu-api-reg-secret")
        if token is None and secret is None:
            if settings.registration_required:
                raise ApiError(17)
        elif (token, secret) != (world.caller_registration, world.caller_secret):
            raise ApiError(17)
        if settings.max_concurrent is not None and call.concurrent > settings.max_concurrent:
            raise ApiError(14)

    def _caller(self, call: Call, query: Query, headers: dict[str, str]) -> Key | None:
        """Return the key of a call; None for anonymous ones, which a wrong legacy key makes of them too."""
        values = query.values
        key: Key | None = None
        if "authorization" in headers or {"sp_api_key", "tmp_key"} & values.keys():
            raise ApiError(6)
        if "rsu_api_key" in values:
            key = self.world.keys.get(values["rsu_api_key"])
            call.key = key.name if key else None
            if key is None or key.revoked or key.kind != "v2" or headers.get("x-rsu-api-secret") != key.secret:
                raise ApiError(6)
        elif "api_key" in values:
            key = self.world.keys.get(values["api_key"])
            if key is None or key.revoked or key.kind != "legacy" or values.get("api_secret") != key.secret:
                key = None
            else:
                call.key = key.name
        limit = self.world.settings.calls_per_hour
        if limit is not None:
            made = self._made[call.key]
            while made and made[0] <= call.at - 3600:
                made.popleft()
            if len(made) >= limit:
                raise ApiError(14)
            made.append(call.at)
        return key

    def _method(self, key: Key | None, steps: list[str], query: Query) -> answers.Answer:
        match steps:
            case ["races"]:
                return answers.races(self.world, key, query)
            case ["race", race_id]:
                return answers.race_record(self.world, key, race_id, query)
            case ["race", race_id, "participants"]:
                return answers.participants(self.world, key, race_id, query)
            case ["race", race_id, "removed-participants"]:
                return answers.removed_participants(self.world, key, race_id, query)
            case _:
                raise ApiError(1)

    async def _wait(self, faults: list[Fault], latency_ms: float, jitter_ms: float) -> None:
        wait = latency_ms + (self._jitter.uniform(0, jitter_ms) if jitter_ms else 0.0)
        wait += sum(float(fault.params.get("ms", 1000)) for fault in faults if fault.kind == "delay")
        if wait:
            await asyncio.sleep(wait / 1000)

    async def _faulty(self, faults: list[Fault], receive: Receive) -> Response | None:
        """Return the answer of a fault that leaves no room for another."""
        for fault in faults:
            params = fault.params
            if fault.kind == "error":
                raise ApiError(int(params.get("code", 4)), params.get("message"))
            if fault.kind == "reset":
                return Response(b"", end="reset")
            if fault.kind == "timeout":
                await self._hang(float(params.get("seconds", 3600)), receive)
                return Response(b"", end="reset")
            if fault.kind == "html":
                return Response(_MAINTENANCE, _HTML)
            if fault.kind == "http":
                return _http_fault(params)
        return None

    async def _hang(self, seconds: float, receive: Receive) -> None:
        """Wait until the time is over, the caller has gone, or the sandbox stops."""

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        waits = [asyncio.ensure_future(gone()), asyncio.ensure_future(self.stopping.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _spoil(self, faults: list[Fault], response: Response) -> None:
        for fault in faults:
            if fault.kind in ("truncate", "cut"):
                keep = int(fault.params.get("bytes", len(response.body) // 2))
                if fault.kind == "truncate":
                    response.body = response.body[:keep]
                else:
                    response.end = "cut"
                    response.keep = keep

    def _finish(self, faults: list[Fault], response: Response, headers: dict[str, str]) -> None:
        """Add the Date header, and compress where asked for and worth it."""
        response.headers.setdefault("server", "nginx")
        now = self.world.clock.now() + sum(
            float(fault.params.get("seconds", 90)) for fault in faults if fault.kind == "clock_skew"
        )
        kinds = {fault.kind for fault in faults}
        if "bad_date" in kinds:
            response.headers["date"] = "half past nine"
        elif "no_date" not in kinds:
            response.headers["date"] = formatdate(int(now), usegmt=True)
        small = 256 <= len(response.body) <= self.world.settings.gzip_up_to
        if small and "gzip" in headers.get("accept-encoding", "") and response.end == "whole":
            response.body = gzip.compress(response.body, 1)
            response.headers["content-encoding"] = "gzip"

    def _carry_out(self, fault: Fault) -> None:
        for change in fault.params.get("changes", ()):
            arguments = dict(change)
            self.changes.apply(arguments.pop("name"), arguments)

    async def _deliver(self, scope: Scope, receive: Receive, send: Send, response: Response) -> None:
        if response.end == "whole":
            await _send(send, response.status, response.content_type, response.body, response.headers)
            return
        transport: asyncio.Transport = scope["startlist.transport"]
        if response.end == "cut":
            await _start(send, response.status, response.content_type, len(response.body), response.headers)
            await send({"type": "http.response.body", "body": response.body[: response.keep], "more_body": True})
            transport.close()
        elif not transport.is_closing():  # else the caller has hung up already
            connection: socket.socket = transport.get_extra_info("socket")
            # No lingering: the caller sees "connection reset", not an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


def _endpoint(steps: list[str]) -> str:
    match steps:
        case ["races"]:
            return "races"
        case ["race", _]:
            return "race"
        case ["race", _, "participants"]:
            return "participants"
        case ["race", _, "removed-participants"]:
            return "removed_participants"
        case _:
            return "unknown"


def _http_fault(params: dict[str, Any]) -> Response:
    body = params.get("body", "html")
    made = Response(_MAINTENANCE, _HTML, int(params.get("status", 503)))
    if body == "json":
        made = Response(b'{"error":{"error_code":4,"error_msg":"Unknown error."}}', _JSON, made.status)
    elif body != "html":
        made.body = str(body).encode()
    if "retry_after" in params:
        made.headers["retry-after"] = str(params["retry_after"])
    if "location" in params:
        made.headers["location"] = str(params["location"])
    return made


async def _start(send: Send, status: int, content_type: str, length: int, headers: dict[str, str]) -> None:
    shown = {"content-type": content_type, "content-length": str(length), **headers}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in shown.items()],
        }
    )


async def _send(send: Send, status: int, content_type: str, body: bytes, headers: dict[str, str]) -> None:
    await _start(send, status, content_type, len(body), headers)
    await send({"type": "http.response.body", "body": body})
