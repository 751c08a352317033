"""The cases that everybody is measured in: first load, unchanged reload, 1 % changed.

Startlist runs as `startlist sync`; the peers are in `peers/`. All read the same sandbox into the same PostgreSQL. A
peer reads everything again in every case but where its name says otherwise.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg import sql

from benchmarks.machine import BENCH_PYTHON
from benchmarks.results import (
    CHANGED,
    CHANGED_ONLY,
    COPY,
    DLT,
    DLT_ROWS,
    FIRST,
    QUIET,
    ROW,
    ROW_COMPARE,
    STARTLIST,
    UNCHANGED,
    UPSERT,
    UPSERT_COMPARE,
    Result,
)
from benchmarks.stand import Figures, Sandbox, Stand

SCHEMA = "bench"
# Of the sandbox's clock, between changes and the pass that reads them: the pass after that one reads the last minute
# before it once more, and is to find only its own changes.
PAUSE_SECONDS = 120
REGISTRATIONS = sql.Identifier(SCHEMA, "runsignup_participants")
BARE = sql.Identifier("peer_copy", "participants")


@dataclass(frozen=True)
class Peer:
    """A peer: its program, and the names of its ways, each with the options that make it."""

    module: str
    schema: str
    name: str
    compare: str | None = None
    python: str = sys.executable
    options: Sequence[str] = field(default_factory=list)
    keeps_state: bool = False

    @property
    def table(self) -> sql.Identifier:
        """Where it puts the registrations."""
        return sql.Identifier(self.schema, "participants")


PEERS = {
    "row": Peer("row_at_a_time", "peer_row", ROW, ROW_COMPARE),
    "upsert": Peer("upsert", "peer_upsert", UPSERT, UPSERT_COMPARE),
    "dlt": Peer("dlt_pipeline", "peer_dlt", DLT, python=str(BENCH_PYTHON), keeps_state=True),
    "dlt-rows": Peer(
        "dlt_pipeline", "peer_dlt", DLT_ROWS, python=str(BENCH_PYTHON), options=["--rows"], keeps_state=True
    ),
}


def syncs(ground: Stand, world: Sandbox, registrations: int, run: int) -> Iterator[Result]:
    """Startlist in every case; the bare COPY of what it stored right after its first load."""
    ground.prepare(SCHEMA, (world.key, world.secret))
    figures = ground.sync(SCHEMA, world)
    expect("rows stored", _count(ground, REGISTRATIONS), registrations)
    yield _synced(FIRST, run, figures)
    yield _bare_copy(ground, world, registrations, run)

    written = _written(ground), _versions(ground)
    figures = ground.sync(SCHEMA, world, "--force-full-sync")
    expect("rows written and their versions", (_written(ground), _versions(ground)), written)
    yield _synced(UNCHANGED, run, figures)

    changed = change(ground, world, REGISTRATIONS, registrations // 100, seed=run)
    world.ask("clock", advance=PAUSE_SECONDS)
    figures = ground.sync(SCHEMA, world, "--force-full-sync")
    expect("rows updated", total(figures, "rows_updated"), changed)
    yield _synced(CHANGED, run, figures)

    changed = change(ground, world, REGISTRATIONS, registrations // 100, seed=run + 100)
    world.ask("clock", advance=PAUSE_SECONDS)
    figures = ground.sync(SCHEMA, world)
    expect("rows updated", total(figures, "rows_updated"), changed)
    yield _synced(CHANGED_ONLY, run, figures)

    yield _synced(QUIET, run, ground.sync(SCHEMA, world))
    ground.drop(SCHEMA)


def peer_cases(ground: Stand, world: Sandbox, peer: Peer, registrations: int, run: int) -> Iterator[Result]:
    """A peer in every case, and again where it only compares `last_modified`, if it can."""
    with tempfile.TemporaryDirectory(prefix="startlist-bench-") as folder:
        command = [peer.python, "-m", f"benchmarks.peers.{peer.module}", ground.url, world.url, world.key, world.secret]
        command += [folder] if peer.keeps_state else []
        command += peer.options

        def measured(name: str, case: str, *options: str) -> Result:
            figures = ground.measure([*command, *options], world)
            expect("rows stored", _count(ground, peer.table), registrations)
            ground.vacuum(peer.table)
            return Result(name, case, run, figures.output["rows"], figures)

        yield measured(peer.name, FIRST)
        yield measured(peer.name, UNCHANGED)
        _change_for(ground, world, peer, registrations, seed=run + 200)
        yield measured(peer.name, CHANGED)
        if peer.compare:
            yield measured(peer.compare, UNCHANGED, "--compare")
            _change_for(ground, world, peer, registrations, seed=run + 300)
            yield measured(peer.compare, CHANGED, "--compare")
        if peer.keeps_state:
            since = int(world.ask("clock", advance=PAUSE_SECONDS)["now"])
            _change_for(ground, world, peer, registrations, seed=run + 400)
            yield measured(peer.name, CHANGED_ONLY, "--since", str(since))
    ground.drop(peer.schema, f"{peer.schema}_staging")


def change(ground: Stand, world: Sandbox, table: sql.Composable, count: int, *, seed: int) -> int:
    """Have so many of the stored registrations changed: half get a bib, half another phone."""
    with ground.connect() as conn:
        query = sql.SQL("select registration_id from {} order by hashint8extended(registration_id, %s) limit %s")
        chosen = conn.execute(query.format(table), [seed, count]).fetchall()
    for number, (registration_id,) in enumerate(chosen):
        if number % 2:
            world.ask("assign_bib", registration_id=registration_id, bib=str(seed * 100_000 + number))
        else:
            world.ask("edit", registration_id=registration_id, phone=f"555-{seed:03}-{number:04}")
    return count


def total(figures: Figures, column: str) -> int:
    """A figure of `startlist sync`, over all partners."""
    return sum(partner[column] for partner in figures.output["partners"])


def expect(what: str, found: object, expected: object) -> None:
    """End the run where something was not done that was measured."""
    if found != expected:
        raise SystemExit(f"{what}: {found} where {expected} was expected")


def _bare_copy(ground: Stand, world: Sandbox, registrations: int, run: int) -> Result:
    with tempfile.NamedTemporaryFile(prefix="startlist-bench-") as file:
        with ground.connect() as conn:
            statement = sql.SQL("copy {} to stdout (format binary)").format(REGISTRATIONS)
            with conn.cursor() as cursor, cursor.copy(statement) as copy:
                for block in copy:
                    file.write(block)
            file.flush()
            conn.execute("create schema peer_copy")
            like = "create table {} (like {} including defaults including compression including storage)"
            conn.execute(sql.SQL(like).format(BARE, REGISTRATIONS))
            for name, value in conn.execute(_OPTIONS, [SCHEMA]).fetchall():
                option = sql.SQL("alter table {} set ({} = {})")
                conn.execute(option.format(BARE, sql.Identifier(name), sql.Literal(value)))
        command = [sys.executable, "-m", "benchmarks.peers.bare_copy", ground.url, "peer_copy.participants", file.name]
        figures = ground.measure(command, world)
    expect("rows copied", figures.output["rows"], registrations)
    ground.drop("peer_copy")
    return Result(COPY, FIRST, run, registrations, figures)


def _change_for(ground: Stand, world: Sandbox, peer: Peer, registrations: int, *, seed: int) -> None:
    change(ground, world, peer.table, registrations // 100, seed=seed)


def _synced(case: str, run: int, figures: Figures) -> Result:
    return Result(STARTLIST, case, run, total(figures, "rows_received"), figures)


def _count(ground: Stand, table: sql.Composable) -> int:
    return int(ground.one(sql.SQL("select count(*) from {}").format(table)))


_OPTIONS: LiteralString = (
    "select option_name, option_value from pg_class, pg_options_to_table(reloptions)"
    " where relnamespace = %s::regnamespace and relname = 'runsignup_participants'"
)
_WRITTEN: LiteralString = (
    "select array[n_tup_ins, n_tup_upd, n_tup_del, n_tup_hot_upd] from pg_stat_user_tables"
    " where schemaname = %s and relname = 'runsignup_participants'"
)


def _written(ground: Stand) -> list[int]:
    """How many rows of participants were ever inserted, updated, deleted, by PostgreSQL's own statistics."""
    found: list[int] = ground.one(_WRITTEN, [SCHEMA])
    return found


def _versions(ground: Stand) -> int:
    """A digest of which version of each row lies where; any write, even of the same values, changes it."""
    query = sql.SQL("select sum(hashtextextended(ctid::text || ' ' || xmin::text, 0)) from {}")
    return int(ground.one(query.format(REGISTRATIONS)))
