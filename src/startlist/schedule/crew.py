"""What all jobs of one worker share: the run's context, the rhythm, the key that opens secrets, how much is asked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import tzinfo

from startlist.errors import CallerRefused
from startlist.schedule.cadence import Rhythm
from startlist.schedule.decision import Wanted, stretch_of
from startlist.store import budget, partners, schedule
from startlist.store.database import Connection
from startlist.store.partners import Credential
from startlist.store.sealing import KeyRing
from startlist.sync.context import Context
from startlist.sync.progress import Progress

USUAL_SECONDS = 0.2  # of a call, where none was made yet
LOOK_AGAIN = 15.0  # seconds for which the demand of all races is taken as known


class Stopping(Progress):
    """Ends passes after the page they are at, once the worker is told to stop."""

    def __init__(self) -> None:
        self.stopping = False

    def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
        """The page is committed: a pass that is ended here has lost nothing."""
        task = asyncio.current_task()
        if self.stopping and task is not None:
            task.cancel()


class Crew:
    """Open while a worker's connections are. `jitter` gives numbers from 0 to 1, `elapsed` seconds that never jump."""

    def __init__(
        self,
        context: Context,
        ring: KeyRing,
        zone: tzinfo | None,
        *,
        jitter: Callable[[], float] = random.random,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self.context = context
        self.rhythm = Rhythm.of(context.settings)
        self.zone = zone
        self.jitter = jitter
        self.refused: CallerRefused | None = None
        self.broken = asyncio.Event()  # set once no call of anybody can succeed
        self.worker_id: int | None = None  # by which the queue knows this worker, once it has given it a job
        self.job_ids: set[int] = set()  # of the jobs in hand
        self._ring = ring
        self._elapsed = elapsed
        self._asked: tuple[float, Wanted, float] | None = None

    @contextmanager
    def at_work(self, job_id: int | None, worker_id: int | None) -> Iterator[None]:
        """A job is in hand; what the queue takes for being in hand beside these was lost on the way."""
        self.worker_id = worker_id
        assert job_id is not None  # noqa: S101  # it comes from the queue
        self.job_ids.add(job_id)
        try:
            yield
        finally:
            self.job_ids.discard(job_id)

    def give_up(self, error: CallerRefused) -> None:
        """No call of anybody can succeed: the worker ends."""
        self.refused = error
        self.broken.set()

    async def credentials(self, conn: Connection, timing_partner_id: int) -> list[Credential]:
        """A partner's credentials, opened."""
        return await partners.credentials(
            conn, self._ring, self.context.settings, timing_partner_id=timing_partner_id
        )  # fmt: skip

    async def stretch(self, conn: Connection, credential: Credential) -> float:
        """By how much the periods of this credential's races are lengthened, so that all calls find room."""
        now = self._elapsed()
        if self._asked is None or now - self._asked[0] >= LOOK_AGAIN:
            wanted = Wanted.of(await schedule.demand(conn))
            self._asked = (now, wanted, await budget.usual_seconds(conn) or USUAL_SECONDS)
        _, wanted, seconds = self._asked
        lane_calls = self.context.settings.concurrent_calls * 3600 / seconds
        return stretch_of(wanted, credential.credential_id, credential.calls_per_hour, lane_calls)
