"""`startlist doctor`: whether everything here is in order, one line for each thing, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

import typer

from startlist.cli import checks, faults
from startlist.cli.app import begin, run
from startlist.cli.checks import Finding, Verdict
from startlist.cli.output import Json, cell, print_json, say
from startlist.config import Settings
from startlist.errors import ConfigurationError, DatabaseError, StartlistError
from startlist.store import partners, sealing
from startlist.store.database import SCHEMA_REVISION, Connection, Database, check_revision, translated
from startlist.store.queue import Queue, queue
from startlist.store.reading import Filters
from startlist.store.status import Status, read_status
from startlist.sync.context import Context
from startlist.sync.probe import Probed, probe
from startlist.sync.progress import Progress


@dataclass
class _Known:
    """What could be found out, for the checks to judge."""

    database: Database | None = None
    status: Status | None = None
    queue: Queue | None = None
    probes: list[Probed] = field(default_factory=list)


def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Ask RunSignup nothing.")] = False,
    json: Json = False,
) -> None:
    """Check database, schema, key, API keys, clocks, disk, jobs, and what waits for a decision; says what to do.

    RunSignup is asked once for each API key, about a race that it read before; --offline leaves that out. A check that
    cannot be made says so, and the others go on.

    Exit status: 0 nothing fails (there may be warnings); 1 something fails; 2 the settings cannot be read.

    Examples:
        startlist doctor
        startlist doctor --offline
        startlist doctor --json        for monitoring
    """
    settings = begin()
    findings = run(examine(settings, offline=offline))
    if json:
        print_json(findings)
    else:
        _print(findings)
    raise typer.Exit(1 if any(one.verdict is Verdict.FAIL for one in findings) else 0)


def _print(findings: Sequence[Finding]) -> None:
    width = max(len(one.check) for one in findings)
    for one in findings:
        word = "FAIL" if one.verdict is Verdict.FAIL else str(one.verdict)
        say(f"{word}  {one.check:{width}}  {cell(one.found)}")
        if one.todo is not None:
            say(f"      {'':{width}}  {cell(one.todo)}")


async def examine(settings: Settings, *, offline: bool) -> list[Finding]:
    """All checks, in the order in which they are told; `offline`: RunSignup is not asked."""
    known = _Known()
    findings = [*await _database(settings, known)]
    usable = known.database is not None and all(one.verdict is Verdict.PASS for one in findings)
    findings.append(await _key(settings, known.database if usable else None))
    today, disk = datetime.now(UTC).date(), checks.disk(settings.home, settings.database_url is None)
    if not usable or known.database is None:
        why = "the database cannot be used"
        rest = ("clock", "API key", "stale races", "jobs", "quarantine", "suspicions")
        return [*findings, checks.registration(settings, today), disk, *(checks.unknown(name, why) for name in rest)]
    known.status = status = await read_status(known.database, settings, Filters())
    async with await known.database.connect(name="startlist reading") as conn:
        known.queue = await queue(conn)
    silent = offline or findings[-1].verdict is Verdict.FAIL  # without its key no question can be asked
    asked = await _runsignup(settings, known.database, status, known, offline=silent)
    return [
        *findings,
        checks.registration(settings, today, known.probes),
        disk,
        *asked,
        checks.stale(status),
        checks.jobs(known.database, status, known.queue),
        checks.quarantine(status),
        checks.suspicions(status),
    ]


async def _database(settings: Settings, known: _Known) -> list[Finding]:
    """The database and its schema."""
    try:
        found = await Database.locate(settings)
        async with await found.connect(name="startlist reading") as conn:
            known.database = found
            with translated():
                size = await (await conn.execute("select pg_database_size(current_database())")).fetchone()
                writable = await (await conn.execute("show transaction_read_only")).fetchone() == ("off",)
                revision = await found.revision(conn)
            version = conn.info.parameter_status("server_version") or "of unknown version"
    except (ConfigurationError, DatabaseError) as error:
        todo = "startlist db url says which database is meant"
        failed = Finding("database", Verdict.FAIL, faults.text(error), todo)
        return [failed, checks.unknown("schema", "the database cannot be reached")]
    answers = checks.database(found, version, (size[0] if size else 0) / 1e6, writable=writable)
    try:
        check_revision(revision, found.schema)
    except StartlistError as error:
        return [answers, Finding("schema", Verdict.FAIL, str(error), "startlist init")]
    return [answers, Finding("schema", Verdict.PASS, f"{found.schema} at revision {SCHEMA_REVISION}")]


async def _key(settings: Settings, database: Database | None) -> Finding:
    """The key that seals, looked at without making or changing one."""
    named = problem = fingerprint = None
    if database is not None:
        async with await database.connect(name="startlist reading") as conn:
            named = await _fingerprint(conn)
    try:
        ring = sealing.read_key_ring(settings)
        if ring is not None:
            if named is not None:
                ring.use(named)
            fingerprint = ring.fingerprint
    except ConfigurationError as error:
        problem = str(error)
    return checks.key_file(settings, sealing.key_file(settings), fingerprint, named, problem)


async def _fingerprint(conn: Connection) -> str | None:
    with translated():
        row = await (await conn.execute("select fingerprint from secret_keys")).fetchone()
    return str(row[0]) if row else None


async def _runsignup(
    settings: Settings, database: Database, status: Status, known: _Known, *, offline: bool
) -> list[Finding]:
    """The clock and the API keys, by one call for each of them."""
    if not status.credentials:
        none = Finding("API key", Verdict.WARN, "there is none", "startlist partner add NAME --api-key K")
        return [checks.unknown("clock", "there is no API key to ask RunSignup with"), none]
    if offline:
        findings = [checks.unknown("clock", "RunSignup was not asked")]
        return findings + [checks.credential(one, None) for one in status.credentials]
    trouble = None
    try:
        async with Context(database, settings, progress=Progress()) as context:
            async with context.admin() as conn:
                ring = await sealing.open_key_ring(conn, settings)
                found = await partners.credentials(conn, ring, settings)
            known.probes = await probe(context, found)
    except* DatabaseError as errors:
        trouble = faults.text(next(faults.leaves(errors)))
    if trouble is not None:
        findings = [checks.unknown("clock", f"RunSignup could not be asked: {trouble}")]
        return findings + [checks.credential(one, None) for one in status.credentials]
    by_key = {one.credential_id: one for one in known.probes}
    return [checks.clock(known.probes)] + [
        checks.credential(one, by_key.get(one.credential_id or 0)) for one in status.credentials
    ]
