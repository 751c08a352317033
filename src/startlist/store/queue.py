"""The queue as those see it who ask whether it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from startlist.store.database import Connection
from startlist.store.processes import has_queue

# A worker says every few seconds that it lives.
QUEUE: LiteralString = """
select (select count(*) from procrastinate_jobs as j
        where j.status = 'doing'
          and not exists (select from procrastinate_workers as w
                          where w.id = j.worker_id and w.last_heartbeat > now() - make_interval(secs => %(silent)s))),
       (select count(*) from procrastinate_jobs as j
        where j.status = 'todo' and coalesce(j.scheduled_at, '-infinity') < now() - make_interval(secs => %(late)s)
          and (select max(e.at) from procrastinate_events as e where e.job_id = j.id)
              < now() - make_interval(secs => %(late)s))
"""


@dataclass(frozen=True, slots=True)
class Queue:
    """Jobs that nobody alive is doing any more, and jobs that wait though they were due long ago."""

    abandoned: int
    waiting: int


async def queue(conn: Connection, *, silent_seconds: float = 60, late_seconds: float = 900) -> Queue | None:
    """What does not move in the queue; None where there is no queue yet."""
    if not await has_queue(conn):
        return None
    row = await (await conn.execute(QUEUE, {"silent": silent_seconds, "late": late_seconds})).fetchone()
    return Queue(*row) if row else None
