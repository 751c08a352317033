"""Take over the replaced system's rows, in one transaction: what is stored already stays as it is.

An imported registration has no hash, since nothing of it was read from RunSignup, and its event no full pass: the next
sync reads all of them in full and puts right what is stale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString, TextIO

import psycopg
from psycopg import sql

from startlist.config import Settings
from startlist.errors import StartlistError
from startlist.store.database import Connection, Database, translated
from startlist.store.legacy import reading, statements
from startlist.store.legacy.reading import COLUMNS, Source
from startlist.store.sealing import SEALED, KeyRing, hold_key, open_key_ring

RUNSIGNUP = 2  # our provider_id
_STAGES = {
    "runsignup_races": "legacy_races",
    "runsignup_events": "legacy_events",
    "runsignup_participants": "legacy_participants",
}
# Passes wait: what one of them knows to be stored must not change before it has written. Readers wait as well.
_ALONE = """
set local lock_timeout = '30s';
lock table runsignup_races, runsignup_events, runsignup_participants in access exclusive mode;
"""


@dataclass
class Taken:
    """What became of a table's rows: `inserted`, and by reason those that were not."""

    read: int = 0
    inserted: int = 0
    left: Counter[str] = field(default_factory=Counter)


@dataclass
class Imported:
    """What an import did, or would do; `warnings` are whole sentences."""

    place: str
    from_schema: str
    timezone: str
    dry_run: bool
    tables: dict[str, Taken] = field(default_factory=dict)
    renumbered: list[tuple[str, int]] = field(default_factory=list)  # the old partner id, ours
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return any(taken.inserted for taken in self.tables.values())


async def import_legacy(
    database: Database,
    settings: Settings,
    *,
    url: str | None = None,
    schema: str = "public",
    dry_run: bool = False,
    rejected: TextIO | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Imported:
    """Bring over what is not stored yet; all of it or nothing. `url`: where from, else our own database.

    `rejected`: takes the registrations that are not taken, one JSON object a line. `report` hears of each step.
    Raises `ConfigurationError` when the source cannot be read.
    """
    async with (
        reading.opened(database.conninfo if url is None else url, schema) as source,
        await database.connect(name="startlist import-legacy") as conn,
    ):
        ring = None if dry_run else await open_key_ring(conn, settings)
        with translated():
            async with conn.transaction(force_rollback=dry_run):
                return await _Import(conn, source, ring, report).run(rejected)


class _Import:
    def __init__(self, conn: Connection, source: Source, ring: KeyRing | None, report: Callable[[str], None]) -> None:
        self.conn = conn
        self.source = source
        self.ring = ring  # none: nothing is to be sealed, since nothing will be kept
        self.report = report
        self.partners: dict[str, int] = {}
        self.keys: list[dict[str, Any]] = []
        self.providers: set[str] = set()
        self.held: dict[str, int] = {}  # by API key, which of our partners has it
        self.done = Imported(source.place, source.schema, source.timezone, dry_run=ring is None)

    async def run(self, rejected: TextIO | None) -> Imported:
        if self.ring is not None:
            await hold_key(self.conn, self.ring)
        await self._read_keys()
        await self._take_partners()
        await self._take_credentials()
        await self._stage()
        self.report("comparing with what is stored")
        if self.ring is not None:
            await self._wait_for_passes()
        await self._take_rows()
        if rejected is not None:
            async with self.conn.cursor(name="rejected") as cursor:
                await cursor.execute(statements.REJECTED)
                async for (line,) in cursor:
                    rejected.write(line + "\n")
        return self.done

    async def _wait_for_passes(self) -> None:
        try:
            await self.conn.execute(_ALONE)
        except psycopg.errors.LockNotAvailable:
            raise StartlistError(
                "a sync is writing and did not come to an end within 30 seconds: wait for it or end it, then import"
                " again; nothing was imported"
            ) from None

    # -- partners and keys -----------------------------------------------------------------------------------------

    async def _take_partners(self) -> None:
        """An old partner is ours that has its id and name, its key, or its name; else new, with its id if free."""
        taken = self.done.tables["timing_partners"] = Taken()
        query = "select timing_partner_id, company_name from timing_partners order by 1"
        ours = {int(number): _folded(name) for number, name in await (await self.conn.execute(query)).fetchall()}
        free = dict(ours)  # those that no old partner is yet
        rows = [row for row in await self.source.rows("timing_partners") if row["timing_partner_id"] is not None]
        rows.sort(key=lambda row: int(row["timing_partner_id"]))
        taken.read = len(rows)
        names = {row["timing_partner_id"]: _name(row) for row in rows}
        for alike in (_by_id_and_name, self._by_key(), _by_name):  # not by its key first: two may have had one
            for old, name in names.items():
                if old not in self.partners and (number := alike(old, _folded(name), free)) is not None:
                    self.partners[old] = number
                    taken.left["stored"] += 1
                    del free[number]
        for row in rows:
            old = row["timing_partner_id"]
            if old not in self.partners:
                self.partners[old] = await self._add_partner(None if int(old) in ours else int(old), row)
                ours[self.partners[old]] = _folded(names[old])
                taken.inserted += 1
        self.done.renumbered = [(old, self.partners[old]) for old in names if self.partners[old] != int(old)]

    def _by_key(self) -> Callable[[str, str, dict[int, str]], int | None]:
        """Whoever has an old partner's API key is that partner, whatever it is called by now."""
        holders: dict[str, list[int]] = {}
        for row in self.keys:
            number = self.held.get((row["principal"] or "").strip())
            if row["provider_id"] in self.providers and number is not None:
                holders.setdefault(row["timing_partner_id"], []).append(number)
        return lambda old, _name, free: next((number for number in holders.get(old, []) if number in free), None)

    async def _add_partner(self, number: int | None, row: dict[str, Any]) -> int:
        values = {"id": number, "name": _name(row), "email": row["contact_email"], "at": _instant(row["created_at"])}
        insert: LiteralString = """
            insert into timing_partners (company_name, contact_email, created_at)
            values (%(name)s, %(email)s, coalesce(%(at)s, now())) returning timing_partner_id
        """
        if number is not None:
            insert = """
                insert into timing_partners (timing_partner_id, company_name, contact_email, created_at)
                values (%(id)s, %(name)s, %(email)s, coalesce(%(at)s, now())) returning timing_partner_id
            """
        made = await (await self.conn.execute(insert, values)).fetchone()
        return int(made[0]) if made else 0

    async def _take_credentials(self) -> None:
        taken = self.done.tables["partner_provider_credentials"] = Taken()
        held = dict(self.held)
        for row in self.keys:
            taken.read += 1
            key, secret = (row["principal"] or "").strip(), (row["secret"] or "").strip()
            partner = self.partners.get(row["timing_partner_id"])
            if row["provider_id"] not in self.providers:
                taken.left["other_provider"] += 1
            elif not key or not secret or secret.startswith(SEALED):
                taken.left["no_key_or_secret"] += 1
            elif partner is None:
                taken.left["unknown_partner"] += 1
            elif key in held:
                taken.left["stored" if held[key] == partner else "key_of_another_partner"] += 1
            else:
                held[key] = partner
                taken.inserted += 1
                await self._add_credential(partner, key, secret, row)

    async def _add_credential(self, partner: int, key: str, secret: str, row: dict[str, Any]) -> None:
        if self.ring is None:
            return
        insert = """
            insert into partner_provider_credentials (timing_partner_id, principal, secret, credential_type, created_at)
            values (%s, %s, %s, %s, coalesce(%s, now()))
        """
        kind = "v2" if (row["credential_type"] or "").strip().lower() == "v2" else "legacy"
        values = [partner, key, self.ring.seal(secret), kind, _instant(row["created_at"])]
        await self.conn.execute(insert, values)

    async def _read_keys(self) -> None:
        keys = await self.source.rows("partner_provider_credentials")
        self.keys = sorted(keys, key=lambda row: int(row["timing_partner_id"] or 0))  # of two with one key the first
        self.providers = await self._runsignup()
        query = "select principal, timing_partner_id from partner_provider_credentials where provider_id = %s"
        self.held = dict(await (await self.conn.execute(query, [RUNSIGNUP])).fetchall())

    async def _runsignup(self) -> set[str]:
        """The ids that RunSignup has among the old providers: 2 unless one of that name says otherwise."""
        named = {
            str(row["provider_id"])
            for row in await self.source.rows("providers")
            if _folded(row["name"]).replace(" ", "") == "runsignup"
        }
        return named or {str(RUNSIGNUP)}

    # -- races, events, registrations ------------------------------------------------------------------------------

    async def _stage(self) -> None:
        await self.conn.execute(statements.FUNCTIONS)
        await self.conn.execute(
            "create temp table legacy_partners (legacy_id text, timing_partner_id bigint) on commit drop"
        )
        async with self.conn.cursor() as cursor:
            await cursor.executemany("insert into legacy_partners values (%s, %s)", list(self.partners.items()))
        for table, stage in _STAGES.items():
            self.report(f"reading {self.source.schema}.{table}")
            columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))
            texts = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in COLUMNS[table])
            make = sql.SQL("create temp table {} (line bigint generated always as identity, {}) on commit drop")
            await self.conn.execute(make.format(sql.Identifier(stage), texts))
            into = sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(stage), columns)
            async with self.conn.cursor() as cursor:
                async with cursor.copy(into) as copy:
                    await self.source.copy(table, copy)
                self.done.tables[table] = Taken(read=cursor.rowcount)

    async def _take_rows(self) -> None:
        races, events, rows = (self.done.tables[table] for table in _STAGES)
        races.left["duplicate"], events.left["duplicate"] = races.read, events.read
        await self.conn.execute(statements.PREPARE)
        races.left["duplicate"] -= await self._count("select count(*) from legacy_races")
        events.left["duplicate"] -= await self._count("select count(*) from legacy_events")
        await self.conn.execute(statements.OWNERS)
        self.report(f"judging {rows.read:,} registrations")
        await self.conn.execute(statements.JUDGE)
        races.inserted = (await self.conn.execute(statements.RACES)).rowcount
        races.left["stored"] = await self._count(statements.PLACED_RACES) - races.inserted
        events.inserted = (await self.conn.execute(statements.EVENTS)).rowcount
        events.left["stored"] = await self._count(statements.PLACED_EVENTS) - events.inserted
        nameless = (await self.conn.execute(statements.NAMELESS_EVENTS)).rowcount
        events.inserted += nameless
        races.left["no_partner"] = await self._count(statements.UNPLACED_RACES)
        events.left["no_race"] = await self._count(statements.UNPLACED_EVENTS)
        for reason, count in await (await self.conn.execute(statements.REASONS)).fetchall():
            if reason == "inserted":
                rows.inserted = count
            else:
                rows.left[reason] = count
        if rows.inserted and self.ring is not None:
            self.report(f"storing {rows.inserted:,} registrations")
            rows.inserted = (await self.conn.execute(statements.PARTICIPANTS)).rowcount
        self._warn(nameless, await self._count(statements.UNKNOWN_ZONES))

    def _warn(self, nameless: int, unknown_zones: int) -> None:
        if not self.done.changed:
            return
        if nameless:
            self.done.warnings.append(
                f"{nameless} events have registrations but no row of their own; they have a number only, until a sync"
                " reads them"
            )
        if unknown_zones:
            self.done.warnings.append(
                f"{unknown_zones} races have no known time zone; the starts of their events are read as US Eastern,"
                " until a sync reads them"
            )

    async def _count(self, query: LiteralString) -> int:
        row = await (await self.conn.execute(query)).fetchone()
        return int(row[0]) if row else 0


def _by_id_and_name(old: str, name: str, free: dict[int, str]) -> int | None:
    return int(old) if free.get(int(old)) == name else None


def _by_name(_old: str, name: str, free: dict[int, str]) -> int | None:
    return next((number for number, one in free.items() if one == name), None)


def _name(row: dict[str, Any]) -> str:
    return (row["company_name"] or "").strip() or f"timing partner {row['timing_partner_id']}"


def _folded(name: str | None) -> str:
    return " ".join((name or "").split()).casefold()


def _instant(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
