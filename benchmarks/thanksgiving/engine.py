"""Virtual time: events in their order, and work that waits for time to pass or for a lane. Nothing ever sleeps."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from itertools import count

LANE = "lane"  # what a piece of work yields to wait for one; a number is a time to wait, in seconds

Work = Generator[float | str, None, None]


class Engine:
    """A clock and what is to happen. Seconds since the epoch."""

    def __init__(self, now: float, lanes: int) -> None:
        self.now = now
        self.free_lanes = lanes
        self._waiting: deque[Running] = deque()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Have something happen at an instant."""
        heapq.heappush(self._events, (when, next(self._numbers), call))

    def run(self, until: float) -> None:
        """Let everything happen that happens before an instant."""
        while self._events and self._events[0][0] < until:
            self.now, _, call = heapq.heappop(self._events)
            call()

    def start(self, work: Work, ended: Callable[[], None]) -> Running:
        """Begin a piece of work; `ended` is called when it is done, not when it is killed."""
        running = Running(self, work, ended)
        running.step()
        return running

    def wait_for_lane(self, running: Running) -> None:
        """Give a lane to who asks, or put it behind those who asked before."""
        if self.free_lanes:
            self.free_lanes -= 1
            running.has_lane = True
            self.at(self.now, running.step)
        else:
            self._waiting.append(running)

    def free_lane(self) -> None:
        """Hand a lane on."""
        while self._waiting:
            running = self._waiting.popleft()
            if running.alive:
                running.has_lane = True
                self.at(self.now, running.step)
                return
        self.free_lanes += 1


class Running:
    """A piece of work under way."""

    __slots__ = ("_ended", "_engine", "_work", "alive", "has_lane")

    def __init__(self, engine: Engine, work: Work, ended: Callable[[], None]) -> None:
        self._engine, self._work, self._ended = engine, work, ended
        self.alive, self.has_lane = True, False

    def step(self) -> None:
        """Go on to the next wait."""
        if not self.alive:
            return
        try:
            wanted = next(self._work)
        except StopIteration:
            self.alive = False
            self._ended()
            return
        if isinstance(wanted, str):
            self._engine.wait_for_lane(self)
        else:
            self._engine.at(self._engine.now + wanted, self.step)

    def give_lane_back(self) -> None:
        """The call is over."""
        self.has_lane = False
        self._engine.free_lane()

    def kill(self) -> None:
        """End it where it is; its lane is free, as a killed process loses its connections."""
        if self.alive:
            self.alive = False
            self._work.close()
            if self.has_lane:
                self.give_lane_back()
