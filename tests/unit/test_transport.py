"""One call: what is sent, what comes of an answer, how often it is tried; with a server that says what it is told."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from startlist.errors import (
    BadAnswer,
    BudgetSpent,
    CallerRefused,
    ConfigurationError,
    CredentialRefused,
    EventsGone,
    NetworkError,
    PermissionDenied,
    RaceGone,
    RequestRefused,
    RunSignupError,
    ServerError,
    StartlistError,
    Throttled,
)
from startlist.runsignup import Attempt, CallerRegistration, Credential, ProcessGate, Retries, http_client
from startlist.runsignup.answers import Body, WrongShapeError
from startlist.runsignup.transport import Answer, Transport

SECRET, TOKEN, TOKEN_SECRET = "s3cret-of-the-key", "77.t0ken", "s3cret-of-the-caller"
AT_ONCE = Retries(wait_initial=0, wait_max=0, wait_jitter=0)
OK = json.dumps([{"event": {"event_id": 1}}]).encode()


def reply(body: bytes = OK, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def error(code: Any, status: str = "200 OK", **headers: str) -> bytes:
    body = {"error": {"error_code": code, "error_msg": f"Something about {SECRET}"}}
    return reply(json.dumps(body).encode(), status, **headers)


@dataclass
class Asked:
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Server:
    """Gives one reply after the other, the last one for ever; an empty one cuts the connection."""

    replies: list[bytes]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *lines = head.strip().split("\r\n")
        parts = urlsplit(request.split(" ")[1])
        headers = dict(line.lower().split(": ", 1) for line in lines)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.asked.append(Asked(parts.path, query, headers))
        writer.write(self.replies[min(len(self.asked), len(self.replies)) - 1])
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(*replies: bytes) -> AsyncIterator[Server]:
    server = Server(list(replies))
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/rest"
    async with listener:
        yield server


@dataclass
class Recorder:
    """A gate that remembers what it was told."""

    attempts: list[Attempt] = field(default_factory=list)
    asked: list[tuple[str, int | None]] = field(default_factory=list)
    open: int = 0
    most: int = 0

    @asynccontextmanager
    async def attempt(self, endpoint: str, race_id: int | None) -> AsyncIterator[Attempt]:
        made = Attempt()
        self.attempts.append(made)
        self.asked.append((endpoint, race_id))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield made
        finally:
            self.open -= 1


def length(body: Body) -> tuple[int, int]:
    if not bytes(body).startswith(b"["):
        raise WrongShapeError("not whole JSON")
    return len(body), 7


async def call(
    server: Server,
    *,
    kind: str = "legacy",
    secret: str = SECRET,
    registration: CallerRegistration | None = None,
    gate: Recorder | None = None,
    retries: Retries = AT_ONCE,
    parameters: dict[str, str] | None = None,
    read: Callable[[Body], tuple[int, int]] = length,
    **options: Any,
) -> Answer[int]:
    async with http_client() as http:
        transport = Transport(
            Credential("the-key", secret, kind),
            url=server.url,
            http=http,
            registration=registration,
            gate=gate or Recorder(),
            retries=retries,
            **options,
        )
        return await transport.call("participants", "/race/5/participants", parameters or {}, read, race_id=5)


async def failure(*replies: bytes, **options: Any) -> tuple[RunSignupError, Server]:
    async with serving(*replies) as server:
        with pytest.raises(RunSignupError) as raised:
            await call(server, **options)
    return raised.value, server


# What is sent


@pytest.mark.parametrize("secret", ["geh\u00e9im", "geh\neim", "geh\0eim"])
async def test_a_secret_that_no_header_can_hold_is_a_refused_credential(secret: str) -> None:
    raised, server = await failure(reply(), kind="v2", secret=secret)
    assert isinstance(raised, CredentialRefused)
    assert "eim" not in str(raised)
    assert server.asked == []


async def test_a_legacy_key_goes_into_the_query() -> None:
    async with serving(reply()) as server:
        answer = await call(server, parameters={"sort": "registration_id ASC", "event_id": "1,2"})
    (asked,) = server.asked
    assert asked.path == "/rest/race/5/participants"
    assert asked.query == {
        "format": "json",
        "api_key": "the-key",
        "api_secret": SECRET,
        "sort": "registration_id ASC",
        "event_id": "1,2",
    }
    assert "x-rsu-api-secret" not in asked.headers
    assert asked.headers["accept-encoding"] == "gzip"
    assert (answer.value, answer.nbytes) == (len(OK), len(OK))


async def test_a_v2_secret_goes_into_a_header() -> None:
    async with serving(reply()) as server:
        await call(server, kind="v2")
    assert server.asked[0].query == {"format": "json", "rsu_api_key": "the-key"}
    assert server.asked[0].headers["x-rsu-api-secret"] == SECRET


async def test_trap_33_json_is_always_asked_for() -> None:
    async with serving(reply()) as server:
        await call(server, kind="v2", parameters={"event_id": "1"})
    assert server.asked[0].query["format"] == "json"


async def test_a_caller_registration_goes_beside_the_credential() -> None:
    async with serving(reply()) as server:
        await call(server, registration=CallerRegistration(TOKEN, TOKEN_SECRET))
    assert server.asked[0].query["rsu_api_reg"] == TOKEN
    assert server.asked[0].query["api_key"] == "the-key"
    assert server.asked[0].headers["x-rsu-api-reg-secret"] == TOKEN_SECRET


def test_trap_39_half_a_caller_registration_is_refused() -> None:
    for half in ((TOKEN, ""), ("", TOKEN_SECRET)):
        with pytest.raises(ConfigurationError):
            CallerRegistration(*half)


async def test_cookies_of_one_credential_are_not_sent_for_the_next() -> None:
    async with serving(reply(Set_Cookie="session=1; Path=/")) as server, http_client() as http:
        for key in ("a", "b"):
            transport = Transport(
                Credential(key, SECRET),
                url=server.url,
                http=http,
                registration=None,
                gate=Recorder(),
                retries=AT_ONCE,
            )
            await transport.call("races", "/races", {}, length)
    assert [asked.query["api_key"] for asked in server.asked] == ["a", "b"]
    assert not any("cookie" in asked.headers for asked in server.asked)


async def test_no_proxy_stands_between_us_and_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with serving(reply()) as server:
        assert (await call(server)).value == len(OK)


@pytest.mark.parametrize("url", ["http://api.runsignup.com/rest", "ftp://127.0.0.1", "http://127.0.0.1.evil.example/"])
async def test_secrets_are_not_sent_in_the_clear(url: str) -> None:
    with pytest.raises(ConfigurationError):
        await call(Server([], url))


# What comes of an answer


@pytest.mark.parametrize(
    ("code", "kind", "attempts"),
    [
        *[(code, RequestRefused, 1) for code in (1, 2, 3, 8, 9, 10, 11, 12, 13, 15, 101, 102, 103, 151, 203, 999)],
        (4, ServerError, 3),
        (5, ServerError, 3),
        (6, CredentialRefused, 1),
        (7, PermissionDenied, 1),
        (14, Throttled, 1),
        (17, CallerRefused, 1),
        (201, RaceGone, 1),
        (301, EventsGone, 1),
    ],
)
async def test_trap_04_and_40_every_code_has_its_error_and_its_number_of_calls(
    code: int, kind: type[RunSignupError], attempts: int
) -> None:
    gate = Recorder()
    raised, server = await failure(error(code), gate=gate)
    assert type(raised) is kind
    assert raised.code == code
    assert str(code) in str(raised)
    assert len(server.asked) == len(gate.attempts) == attempts
    assert {made.error_code for made in gate.attempts} == {code}
    assert {made.http_status for made in gate.attempts} == {200}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(17, "400 Bad Request"), CallerRefused),
        (error("6"), CredentialRefused),
        (error(14, "429 Too Many Requests"), Throttled),
        (error(7, "403 Forbidden"), PermissionDenied),
        (error(3, "500 Oops"), ServerError),
        (error(None), RequestRefused),
        (reply(b'{"error":"Permission Denied"}'), PermissionDenied),
        (reply(b'{"error":"Event not found."}'), EventsGone),
        (reply(b'{"error":"invalid_client","error_description":"x"}', "401 Unauthorized"), CredentialRefused),
        (reply(b'{"error":"invalid_request"}', "400 Bad Request"), RequestRefused),
        (reply(b'{"error":"what?"}'), RequestRefused),
        (reply(b'[{"error":{"error_code":7}}]'), BadAnswer),  # not an object: the reader of the page sees to it
        (reply(b"<html>nginx</html>", "404 Not Found"), RequestRefused),
        (reply(b"", "401 Unauthorized"), CredentialRefused),
        (reply(b"", "403 Forbidden"), RequestRefused),
        (reply(b"<html>Down</html>", "503 Service Unavailable"), ServerError),
        (reply(b"", "502 Bad Gateway"), ServerError),
        (reply(b"", "429 Too Many Requests"), Throttled),
        (reply(b"", "204 No Content"), BadAnswer),
        (reply(b"<html>Maintenance</html>", Content_Type="text/html"), BadAnswer),
        (reply(b""), BadAnswer),
        (reply(b"[1,2", Content_Encoding="gzip"), BadAnswer),
        (b"", NetworkError),
        (b"SSH-2.0\r\n", NetworkError),
        (reply()[:-5], NetworkError),
    ],
)
async def test_every_other_answer_has_its_error(answer: bytes, kind: type[RunSignupError]) -> None:
    read = length
    if answer.endswith(b'[{"error":{"error_code":7}}]'):

        def read(body: Body) -> tuple[int, int]:
            raise WrongShapeError("no element")

    raised, server = await failure(answer, read=read)
    assert type(raised) is kind
    assert len(server.asked) == (3 if kind in (BadAnswer, NetworkError, ServerError) else 1)


async def test_redirects_are_not_followed_and_said_so() -> None:
    raised, server = await failure(reply(b"", "302 Found", Location="/elsewhere"))
    assert type(raised) is RequestRefused
    assert "redirect (HTTP 302)" in str(raised)
    assert len(server.asked) == 1


async def test_a_bad_answer_says_what_came_and_quotes_nothing() -> None:
    html = b"  <html>Dear Margie, we are down</html>"
    raised, _ = await failure(reply(html, Content_Type="text/html; charset=utf-8"))
    came = "HTTP 200, text/html, 39 bytes, by its first sign markup"
    assert str(raised) == f"RunSignup's answer cannot be used: not whole JSON ({came})"


async def test_a_fault_that_passes_is_not_noticed() -> None:
    gate = Recorder()
    async with serving(b"", error(5), reply()) as server:
        answer = await call(server, gate=gate)
    assert answer.value == len(OK)
    assert [made.error_code for made in gate.attempts] == [None, 5, None]
    assert [made.rows for made in gate.attempts] == [None, None, 7]
    assert gate.most == 1


async def test_gzip_is_taken() -> None:
    gate = Recorder()
    async with serving(reply(gzip.compress(OK), Content_Encoding="gzip")) as server:
        answer = await call(server, gate=gate)
    assert (answer.value, gate.attempts[0].bytes) == (len(OK), len(OK))


async def test_an_answer_without_end_is_cut_off() -> None:
    bomb = gzip.compress(b"[" + b"1," * 500_000)
    raised, _ = await failure(reply(bomb, Content_Encoding="gzip"), max_bytes=100_000)
    assert type(raised) is BadAnswer
    assert str(raised) == "the answer is longer than 100,000 bytes"


async def test_an_answer_that_never_ends_in_time_is_cut_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n["
    release = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await release.wait()
        writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as listener:
        server = Server([], f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        with pytest.raises(NetworkError, match=r"within 0\.05 seconds"):
            await call(server, max_seconds=0.05, retries=Retries(attempts=1))
        release.set()


async def test_nobody_there() -> None:
    with pytest.raises(NetworkError, match="no answer from RunSignup"):
        await call(Server([], "http://127.0.0.1:9"))


# Patience


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "90"}, 90),
        ({"Retry_After": "Sun, 22 Nov 2026 10:01:00 GMT", "Date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 60),
        ({"Retry_After": "Sun, 22 Nov 2026 09:00:00 GMT", "Date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 0),
        ({"Retry_After": "soon"}, None),
        ({}, None),
    ],
)
async def test_throttling_says_how_long(headers: dict[str, str], seconds: float | None) -> None:
    gate = Recorder()
    raised, server = await failure(error(14, **headers), gate=gate, retries=Retries(patience=-1))
    assert isinstance(raised, Throttled)
    assert raised.retry_after == seconds
    assert [made.retry_after for made in gate.attempts] == [seconds]
    assert len(server.asked) == 1


async def test_trap_40_short_throttling_is_waited_out_and_long_is_the_callers() -> None:
    async with serving(error(14, Retry_After="0"), reply(b"", "429 Slow", Retry_After="0"), reply()) as server:
        assert (await call(server)).value == len(OK)
    raised, server = await failure(error(14, Retry_After="6"))
    assert isinstance(raised, Throttled)
    assert len(server.asked) == 1


def test_how_long_is_waited() -> None:
    retries = Retries()
    assert retries.wait_after(NetworkError("x")) is True
    assert retries.wait_after(Throttled("x", retry_after=4.0)) == 4.0
    assert retries.wait_after(Throttled("x", retry_after=6.0)) is False
    assert retries.wait_after(Throttled("x")) is False
    assert retries.wait_after(PermissionDenied("x")) is False
    assert retries.wait_after(ValueError("x")) is False


# RunSignup's clock


@pytest.mark.parametrize(
    ("date", "asked_at"),
    [
        ("Sun, 22 Nov 2026 10:00:00 GMT", 1795341600 - 3),  # 2.5 seconds, rounded down
        ("Sun, 22 Nov 2026 05:00:00 -0500", 1795341600 - 3),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
async def test_when_the_question_was_put_by_runsignups_clock(date: str | None, asked_at: int | None) -> None:
    ticks = iter((100.0, 102.5))
    gate = Recorder()
    sent = datetime(2020, 1, 1, tzinfo=UTC)
    async with serving(reply() if date is None else reply(Date=date)) as server:
        answer = await call(server, gate=gate, clock=lambda: next(ticks), now=lambda: sent)
    assert answer.asked_at == asked_at
    assert (gate.attempts[0].seconds, gate.attempts[0].started) == (2.5, sent)
    assert gate.asked == [("participants", 5)]


# Secrets


def test_trap_38_credentials_do_not_show() -> None:
    shown = repr((Credential("the-key", SECRET, "v2"), CallerRegistration(TOKEN, TOKEN_SECRET)))
    assert not any(word in shown for word in ("the-key", SECRET, TOKEN, TOKEN_SECRET))
    with pytest.raises(ConfigurationError):
        Credential("k", "s", "oauth")


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense", error(6), error(999), reply(b"<html>"), reply()[:-4], reply(b"x", "500 X"), reply(b"", "302 X")],
)
@pytest.mark.parametrize("kind", ["legacy", "v2"])
async def test_trap_38_no_secret_in_errors_or_logs_at_any_level(
    answer: bytes, kind: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("", "httpx2", "httpcore2", "httpcore2.http11", "httpcore2.connection"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        raised, _ = await failure(answer, kind=kind, registration=CallerRegistration(TOKEN, TOKEN_SECRET))
    finally:
        logging.getLogger().setLevel(logging.WARNING)
    output = capsys.readouterr()
    said = "".join(traceback.format_exception(raised)) + caplog.text + output.out + output.err
    seen: BaseException | None = raised
    while seen is not None:
        assert isinstance(seen, StartlistError)  # an error of the HTTP library holds the request
        said += repr(vars(seen))
        seen = seen.__cause__ or seen.__context__
    assert not any(word in said for word in (SECRET, TOKEN, TOKEN_SECRET, "api_key", "127.0.0.1"))


async def test_trap_38_the_levels_of_the_http_loggers_are_only_raised() -> None:
    logging.getLogger("httpx2").setLevel(logging.ERROR)
    async with serving(reply()) as server:
        await call(server)
    assert logging.getLogger("httpx2").level == logging.ERROR
    assert logging.getLogger("httpcore2.http11").level == logging.WARNING


async def test_trap_41_two_attempts_of_the_process_at_once() -> None:
    gate, begun, finish = ProcessGate(), asyncio.Semaphore(0), asyncio.Event()
    under_way: list[int] = []

    async def attempt(number: int) -> None:
        async with gate.attempt("races", None):
            under_way.append(number)
            begun.release()
            await finish.wait()

    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(attempt(number))
        await begun.acquire()
        await begun.acquire()
        await asyncio.sleep(0)
        assert under_way == [0, 1]
        finish.set()
    assert under_way == [0, 1, 2, 3, 4]


def test_one_gate_serves_one_loop_after_the_other() -> None:
    gate = ProcessGate(1)

    async def busy() -> int:
        async def attempt() -> None:
            async with gate.attempt("races", None):
                await asyncio.sleep(0)

        await asyncio.gather(attempt(), attempt())
        return 2

    assert [asyncio.run(busy()), asyncio.run(busy())] == [2, 2]


async def test_a_gate_that_refuses_is_not_asked_again() -> None:
    class Spent(Recorder):
        @asynccontextmanager
        async def attempt(self, endpoint: str, race_id: int | None) -> AsyncIterator[Attempt]:
            self.asked.append((endpoint, race_id))
            raise BudgetSpent("spent", until=datetime(2026, 11, 22, tzinfo=UTC), seconds=60)
            yield Attempt()

    gate = Spent()
    raised, server = await failure(reply(), gate=gate)
    assert isinstance(raised, BudgetSpent)
    assert (len(gate.asked), len(server.asked)) == (1, 0)


async def test_errors_of_the_caller_pass_through_the_gate() -> None:
    gate = Recorder()

    def read(body: Body) -> tuple[int, int]:
        raise ZeroDivisionError

    async with serving(reply()) as server:
        with pytest.raises(ZeroDivisionError):
            await call(server, gate=gate, read=read)
    assert gate.open == 0
    assert len(server.asked) == 1


async def test_a_client_that_is_closed_is_not_retried() -> None:
    http: httpx2.AsyncClient = http_client()
    await http.aclose()
    transport = Transport(
        Credential("k", "s"),
        url="http://127.0.0.1:9",
        http=http,
        registration=None,
        gate=Recorder(),
        retries=AT_ONCE,
    )
    with pytest.raises(RuntimeError):
        await transport.call("races", "/races", {}, length)
