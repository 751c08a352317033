"""`serve` and `worker` for real: how late the minute races are, how late bibs, what it costs.

Real processes, real HTTP, real waiting: 40 timing partners with 400 races, of which 150 are read every minute, against
a sandbox that takes 70 to 270 ms for each answer.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql

from benchmarks.stand import STARTLIST, Sandbox, Stand, cpu_of, cpu_of_tree, parent_of, sandbox

PARTNERS, RACES, NEAR, PER_RACE = 40, 400, 150, 100
LATENCY = {"latency_ms": 70.0, "latency_jitter_ms": 200.0}
WARM_UP = 100.0  # seconds: every race has had its first pass by then
IDLE_SECONDS = 60.0
OVERHEAD_JOBS = 200
PERIOD = 60.0
SCHEMA = "serving"


@dataclass
class Run:
    """So many processes for so long. Seconds; CPU in seconds, memory in megabytes, a list entry for each process."""

    processes: int
    minutes: float
    passes: int = 0
    late: list[float] = field(default_factory=list)  # of passes of minute races: begun so long after they were due
    between: list[float] = field(default_factory=list)  # from the end of one pass of a race to the end of the next
    bibs: list[float] = field(default_factory=list)  # from the assignment to the notification
    unseen: int = 0  # bibs that were not told until the end
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    postgres_cpu: float = 0.0
    stretch: float = 1.0
    calls: int = 0


@dataclass
class Serving:
    """What was measured."""

    runs: list[Run] = field(default_factory=list)
    idle: float | None = None  # share of a core that `serve` takes with nothing due
    idle_postgres: float | None = None
    overhead: float | None = None  # seconds of a job beside its pass


def measure(ground: Stand, minutes: float, processes: Sequence[int], found: Serving) -> Iterator[Run]:
    """Run it with so many processes each; each run as it ends."""
    with sandbox(RACES * PER_RACE, PER_RACE, partners=PARTNERS) as world:
        keys = [(key["key"], key["secret"]) for key in world.facts["partners"]]
        ground.prepare(SCHEMA, *keys)
        ground.sync(SCHEMA, world)
        near = _near(ground, world)
        ground.sync(SCHEMA, world)  # which reads the records of the races that were moved
        found.overhead = _overhead(ground, world)
        world.ask("settings", **LATENCY)
        for many in processes:
            run = _run(ground, world, near, many, minutes)
            found.runs.append(run)
            yield run
        found.idle, found.idle_postgres = _idle(ground, world)
        ground.drop(SCHEMA)


def _near(ground: Stand, world: Sandbox) -> set[int]:
    """Let the first races of all partners start in two hours and a half; the others stay weeks off."""
    query = sql.SQL("select race_id, event_id, timezone from {} order by race_id").format(
        sql.Identifier(SCHEMA, "runsignup_events")
    )
    at = datetime.now(UTC) + timedelta(minutes=150)
    with ground.connect() as conn:
        events = conn.execute(query).fetchall()[:NEAR]
    for _, event_id, zone in events:
        world.ask("edit_event", event_id=event_id, start_time=f"{at.astimezone(ZoneInfo(zone)):%m/%d/%Y %H:%M}")
    return {race_id for race_id, _, _ in events}


@contextmanager
def _processes(ground: Stand, world: Sandbox, many: int, **more: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One `serve`, and workers beside it; ended by SIGTERM."""
    environment = ground.environment(
        SCHEMA, STARTLIST_API_URL=world.url, STARTLIST_CALLS_PER_HOUR="1000", STARTLIST_MONITORING="off", **more
    )
    with tempfile.TemporaryFile() as log:
        started = [
            subprocess.Popen([*STARTLIST, command], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            for command in ["serve"] + ["worker"] * (many - 1)
        ]
        try:
            yield started
        finally:
            for process in started:
                process.terminate()
            for process in started:
                if process.wait(30):
                    log.seek(0)
                    raise SystemExit(f"{process.args!r} ended with {process.returncode}\n{log.read().decode()[-2000:]}")


def _run(ground: Stand, world: Sandbox, near: set[int], many: int, minutes: float) -> Run:
    run = Run(many, minutes)
    calls = sql.Identifier(SCHEMA, "api_calls")
    with ground.connect() as conn:  # the hours before are not what is measured
        conn.execute(sql.SQL("delete from {}").format(calls))
        postmaster = parent_of(conn.info.backend_pid)
    with _processes(ground, world, many) as processes:
        time.sleep(WARM_UP)
        begun, cpu = time.time(), [cpu_of(process.pid) for process in processes]
        postgres, arrived = cpu_of_tree(postmaster), world.calls()
        run.bibs, run.unseen = _assign_bibs(ground, world, near, minutes * 60)
        ended = time.time()
        run.cpu = [cpu_of(process.pid) - before for process, before in zip(processes, cpu, strict=True)]
        run.memory = [_peak(process.pid) for process in processes]
        run.postgres_cpu = (cpu_of_tree(postmaster) or 0.0) - (postgres or 0.0)
        run.calls = world.calls() - arrived
        run.stretch = ground.one(
            sql.SQL("select max(stretch) from {} where rank = 'race_day'").format(
                sql.Identifier(SCHEMA, "sync_cursors")
            )
        )
    _passes(ground, near, begun, ended, run)
    return run


def _passes(ground: Stand, near: set[int], begun: float, ended: float, run: Run) -> None:
    """How late each pass of a minute race began, by the scheduler's own cadence, and the time between two ends."""
    from startlist.schedule.cadence import Cadence, CountingEvent, Rhythm

    history, events = (sql.Identifier(SCHEMA, name) for name in ("sync_history", "runsignup_events"))
    query = sql.SQL(
        "select timing_partner_id, race_id, started_at, finished_at from {} where status = 'completed'"
        " and race_id = any(%s) and started_at >= to_timestamp(%s) - interval '2 minutes'"
        " and finished_at <= to_timestamp(%s) order by sync_history_id"
    ).format(history)
    starts = sql.SQL("select race_id, start_time, race_day from {} where race_id = any(%s)").format(events)
    with ground.connect() as conn:
        passes = conn.execute(query, [sorted(near), begun, ended]).fetchall()
        known = {
            race_id: CountingEvent(start, day, None) for race_id, start, day in conn.execute(starts, [sorted(near)])
        }
    last: dict[int, datetime] = {}
    since = datetime.fromtimestamp(begun, UTC)
    for partner, race_id, started, finished in passes:
        before = last.get(race_id)
        last[race_id] = finished
        if before is None or started < since:
            continue
        due = Cadence(partner, race_id, [known[race_id]], Rhythm()).next_due(before, run.stretch)
        assert due is not None
        run.passes += 1
        run.late.append(max((started - due.at).total_seconds(), 0.0))
        run.between.append((finished - before).total_seconds())


def _assign_bibs(ground: Stand, world: Sandbox, near: set[int], seconds: float) -> tuple[list[float], int]:
    """Assign a bib every second or so, at moments left to chance, and listen until each is told."""
    chance = random.Random(11)
    query = sql.SQL("select registration_id from {} where race_id = any(%s) and removed_at is null").format(
        sql.Identifier(SCHEMA, "runsignup_participants")
    )
    with ground.connect() as conn:
        people = [row[0] for row in conn.execute(query, [sorted(near)])]
    chance.shuffle(people)
    assigned: dict[int, float] = {}
    delays: dict[int, float] = {}
    done = threading.Event()

    def listen() -> None:
        told = sql.SQL("select registration_id from {} where bib_change_id <= %s and bib_change_id > %s").format(
            sql.Identifier(SCHEMA, "runsignup_bib_changes")
        )
        last = ground.one(sql.SQL("select coalesce(max(bib_change_id), 0) from {}").format(
            sql.Identifier(SCHEMA, "runsignup_bib_changes")
        ))  # fmt: skip
        with psycopg.connect(ground.url, autocommit=True) as listener, ground.connect() as conn:
            listener.execute("listen startlist_bibs")
            ready.set()
            while not done.is_set():
                for notice in listener.notifies(timeout=0.5, stop_after=1):
                    at, up_to = time.monotonic(), json.loads(notice.payload)["last_id"]
                    for (person,) in conn.execute(told, [up_to, last]):
                        if person in assigned:
                            delays.setdefault(person, at - assigned[person])
                    last = max(last, up_to)

    ready = threading.Event()
    thread = threading.Thread(target=listen)
    thread.start()
    ready.wait(30)
    end = time.monotonic() + seconds
    while time.monotonic() < end - PERIOD * 1.5:
        person = people.pop()
        assigned[person] = time.monotonic()
        world.ask("assign_bib", registration_id=person, bib=str(chance.randrange(1, 99_999)))
        time.sleep(chance.uniform(0.3, 1.7))
    time.sleep(max(end - time.monotonic(), 0))
    done.set()
    thread.join()
    return list(delays.values()), len(assigned) - len(delays)


def _idle(ground: Stand, world: Sandbox) -> tuple[float, float]:
    """The share of a core that `serve` and its PostgreSQL take while nothing is due."""
    cursors, credentials = (sql.Identifier(SCHEMA, name) for name in ("sync_cursors", "partner_provider_credentials"))
    with ground.connect() as conn:
        conn.execute(
            sql.SQL("update {} set next_sync_at = now() + interval '20 hours', planned_at = now()").format(cursors)
        )
        conn.execute(sql.SQL("update {} set next_list_at = now() + interval '20 hours'").format(credentials))
        postmaster = parent_of(conn.info.backend_pid)
    with _processes(ground, world, 1) as (process,):
        time.sleep(10)
        before = cpu_of(process.pid), cpu_of_tree(postmaster) or 0.0
        time.sleep(IDLE_SECONDS)
        after = cpu_of(process.pid), cpu_of_tree(postmaster) or 0.0
    own, postgres = ((b - a) / IDLE_SECONDS for a, b in zip(before, after, strict=True))
    return own, postgres


def _overhead(ground: Stand, world: Sandbox) -> float:
    """What a job takes beside its pass, one after the other, with a sandbox that answers at once."""
    cursors, history = (sql.Identifier(SCHEMA, name) for name in ("sync_cursors", "sync_history"))
    passes = sql.SQL(
        "select count(*), extract(epoch from max(finished_at) - min(started_at))::float8,"
        " sum(extract(epoch from finished_at - started_at))::float8 from {} where sync_history_id > %s"
        " and status = 'completed'"
    ).format(history)
    with ground.connect() as conn:
        far = sql.SQL("update {} set next_sync_at = now() + interval '20 hours', planned_at = now(), rank = 'routine',"
                      " period_seconds = 14400, stretch = 1").format(cursors)  # fmt: skip
        conn.execute(far)
        conn.execute(
            sql.SQL("update {} set next_list_at = now() + interval '20 hours'").format(
                sql.Identifier(SCHEMA, "partner_provider_credentials")
            )
        )
        last = conn.execute(sql.SQL("select max(sync_history_id) from {}").format(history)).fetchone()
        with _processes(ground, world, 1, STARTLIST_WORKER_PASSES="1") as (process,):
            time.sleep(5)
            conn.execute(
                sql.SQL(
                    "update {0} set next_sync_at = now()"
                    " where race_id in (select race_id from {0} order by race_id limit %s)"
                ).format(cursors),
                [OVERHEAD_JOBS],
            )
            while process.poll() is None:
                time.sleep(0.5)
                count, span, inside = conn.execute(passes, last).fetchone() or (0, 0.0, 0.0)
                if count >= OVERHEAD_JOBS:
                    return float((span - inside) / count)
    raise SystemExit("`serve` ended before its jobs were done")


def _peak(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
