"""Runs a sandbox: over real HTTP on 127.0.0.1, in a thread of this process."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .app import App
from .control import Control
from .world import World
from .worlds import small


class _Protocol(HttpToolsProtocol):
    """Lets the application cut its connection, and never writes an access log: URLs hold secrets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["startlist.transport"] = self.transport  # type: ignore[typeddict-unknown-key]


class _Server(uvicorn.Server):
    """Ends at once when told to, where uvicorn looks ten times a second."""

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self.ready = threading.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ready.set()
        await self._app.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            # Calls under way may finish; who still holds one after that is cut off.
            await asyncio.wait(list(self.server_state.tasks), timeout=0.3)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=0.3)

    def stop(self) -> None:
        """End the server from another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._app.stopping.set)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running sandbox: `url` is the base address for a client, `control` changes the world and tells the truth."""

    url: str
    control: Control
    port: int


def _listen(port: int) -> socket.socket:
    # With the protocol named, asyncio switches Nagle's algorithm off; else each answer would wait 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def running(
    world: World | None = None,
    *,
    seed: int = 0,
    now: float | None = None,
    frozen: bool = False,
    registrations: int = 12,
    port: int = 0,
    **settings: Any,
) -> Iterator[Sandbox]:
    """Run a sandbox in a thread of this process until the block ends.

    Without a world: one partner ("Peak Timing", legacy key), one race of two events ten days off, `registrations` in
    the first. `now` is epoch seconds; `settings` are fields of `Settings` (latency_ms, max_concurrent, ...). While it
    runs, change the world through `control` only.
    """
    if world is None:
        world = World(seed=seed, now=now, frozen=frozen)
        small(world, registrations=registrations)
    for name, value in settings.items():
        if not hasattr(world.settings, name):
            raise TypeError(f"no such setting: {name}")
        setattr(world.settings, name, value)
    app = App(world)
    listener = _listen(port)
    actual = int(listener.getsockname()[1])
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        # As nginx does: long enough that no client of a test meets the end of an idle connection.
        timeout_keep_alive=75,
    )
    server = _Server(config, app)
    thread = threading.Thread(target=server.run, args=([listener],), name=f"sandbox-{actual}", daemon=True)
    thread.start()
    try:
        if not server.ready.wait(10):
            raise RuntimeError("the sandbox did not start within 10 s")
        yield Sandbox(f"http://127.0.0.1:{actual}/rest", Control(f"http://127.0.0.1:{actual}"), actual)
    finally:
        server.stop()
        thread.join(5)
        listener.close()
