"""What a pass is asked to do, what it works with, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from startlist.errors import StartlistError
from startlist.runsignup import Race, RunSignup
from startlist.store.database import Database
from startlist.store.history import Figures
from startlist.sync.plan import Options


@dataclass(frozen=True, slots=True)
class Job:
    """A race to be read with one credential. `listed`: as the race list showed it, None when it did not.

    `resume`: this goes on after a wait, so even a forced pass takes up its checkpoint; `record` is the race's own
    record if it was read before the wait.
    """

    timing_partner_id: int
    credential_id: int
    race_id: int
    listed: Race | None
    options: Options
    resume: bool = False
    record: Race | None = None
    throttled: int = 0  # how often it was put off by RunSignup's throttling


@dataclass(frozen=True, slots=True)
class Means:
    """What a pass works with. `calls` tells how many attempts its client has sent so far."""

    database: Database
    run_id: int | None
    client: RunSignup
    calls: Callable[[], int]
    now: Callable[[], datetime]
    on_page: Callable[[int], None]  # participants rows of a page that has been committed
    room: asyncio.Semaphore  # for pages in memory, of all passes together
    proof: asyncio.Event  # set once a participants call of this credential succeeded in this run


@dataclass(slots=True)
class Outcome:
    """How a pass ended. `status` as in `sync_history`; `until` is set when it waits for its budget."""

    status: str
    kind: str
    reason: str
    event_ids: frozenset[int]
    figures: Figures
    participants: int = 0  # active registrations stored for its events, once it is complete
    seconds: float = 0.0
    wait: float = 0.0  # seconds until `until`, by the database's clock
    until: datetime | None = None
    record: Race | None = None  # the race's own record, to go on with after the wait
    error: StartlistError | None = None
    notes: list[str] = field(default_factory=list)
