"""A sandbox, a database and the sync between them, with the sandbox's truth to compare with.

Every sync is checked on the way: its calls are those of the sandbox's log, its figures add up, no pass stays open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Self

import stamina
from psycopg.rows import dict_row

from startlist.config import Settings
from startlist.sandbox import World, running
from startlist.sandbox.server import Sandbox
from startlist.store import partners
from startlist.store.database import Connection, Database
from startlist.store.sealing import open_key_ring
from startlist.sync.backfill.plan import Options as PastOptions
from startlist.sync.backfill.progress import BackfillProgress
from startlist.sync.backfill.run import run as run_backfill
from startlist.sync.backfill.summary import BackfillSummary
from startlist.sync.context import Context
from startlist.sync.gate import utc_now
from startlist.sync.plan import Options
from startlist.sync.progress import Progress
from startlist.sync.run import PlannedPass, dry_run, run
from startlist.sync.summary import Summary
from tests.support import MakeSettings

Row = dict[str, Any]

RACE, FIRST, SECOND = 100_001, 700_001, 700_002  # the sandbox's small world: twelve in the first event
PERSON = 60_000_001  # the first of the twelve; the others follow, and nobody has a bib

_MONEY = (
    "race_fee",
    "offline_payment_amount",
    "processing_fee",
    "processing_fee_paid_by_user",
    "processing_fee_paid_by_race",
    "partner_fee",
    "affiliate_profit",
    "extra_fees",
    "amount_paid",
    "usatf_discount_amount_in_cents",
)
_PLAIN = ("age", "chip_num")
_OF_USER = ("user_id", "first_name", "middle_name", "last_name", "email", "phone", "gender", "address")
_NOT_ASKED = ("registration_notes", "est_finish_time")
_ADDED_UP = "rows_inserted + rows_updated + rows_unchanged + quarantined"


async def nobody_waits(seconds: float) -> None:
    """The sleep of a run that has nothing to wait for."""
    raise AssertionError(f"the run waits for {seconds} seconds")


@dataclass
class Rig:
    """`partners`: the ids of the timing partners by name. `calls`: the sandbox's log of the last sync."""

    sandbox: Sandbox
    database: Database
    settings: Settings
    conn: Connection
    partners: dict[str, int] = field(default_factory=dict)
    calls: list[Row] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: Database, make_settings: MakeSettings, world: World | None = None, **more: Any
    ) -> AsyncIterator[Self]:
        """A running sandbox whose keys are known to the database; retries without their pauses."""
        with running(world) as sandbox, stamina.set_testing(True, attempts=3):
            async with await database.connect(name="test") as conn:
                rig = cls(sandbox, database, make_settings(api_url=sandbox.url, **more), conn)
                await rig.adopt()
                if world is None:
                    for number in range(12):
                        rig.control.clear_bib(PERSON + number, silent=True)
                yield rig
                await rig.check()

    @property
    def control(self) -> Any:
        """Changes and faults of the sandbox."""
        return self.sandbox.control

    # -- keys ------------------------------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Make the sandbox's keys known, those that are known already left out."""
        ring = await open_key_ring(self.conn, self.settings)
        known = {row["principal"] for row in await self.rows("select principal from partner_provider_credentials")}
        for key in self.control.partners():
            if key["key"] not in known:
                added = await partners.add(
                    self.conn, ring, name=key["partner"], principal=key["key"], secret=key["secret"],
                    credential_type=key["type"], timing_partner_id=self.partners.get(key["partner"]),
                )  # fmt: skip
                self.partners[key["partner"]] = added.timing_partner_id

    async def rotate(self, secret: str, *, partner: int = 1, key: str | None = None) -> None:
        """What `partner rotate` does."""
        ring = await open_key_ring(self.conn, self.settings)
        await partners.rotate(self.conn, ring, timing_partner_id=partner, principal=key, secret=secret)

    async def credential(self, credential_id: int = 1) -> Row:
        """A credential's row, with all but the secret."""
        return await self.one(
            "select verified_at, stopped_at, stopped_reason, paused_until from partner_provider_credentials"
            " where credential_id = %s",
            credential_id,
        )

    # -- the sync --------------------------------------------------------------------------------------------------

    async def sync(
        self,
        *,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = nobody_waits,
        progress: Progress | None = None,
        only_first_partner: bool = False,
        **options: Any,
    ) -> Summary:
        """One run, as `startlist sync` makes it, checked against the sandbox's log."""
        self.control.reset_log()
        async with self.context(now=now, sleep=sleep, progress=progress) as context:
            done = await run(context, Options(**options), only_first_partner=only_first_partner)
        self.calls = self.control.log()
        assert done.to_json()["api_calls"] == len(self.calls)
        await self.check()
        return done

    async def backfill(
        self,
        *,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = nobody_waits,
        progress: BackfillProgress | None = None,
        **options: Any,
    ) -> BackfillSummary:
        """One backfill, as `startlist backfill` makes it, checked against the sandbox's log."""
        self.control.reset_log()
        told = progress or BackfillProgress()
        done = await run_backfill(
            lambda: self.context(now=now, sleep=sleep, progress=told), PastOptions(**options), told
        )
        self.calls = self.control.log()
        assert done.to_json()["api_calls"] == len(self.calls)
        await self.check()
        return done

    async def plan(self, **options: Any) -> tuple[list[PlannedPass], list[str]]:
        """What `sync --dry-run` prints."""
        self.control.reset_log()
        async with self.context() as context:
            found = await dry_run(context, Options(**options))
        self.calls = self.control.log()
        return found

    def context(
        self,
        *,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = nobody_waits,
        progress: Progress | None = None,
    ) -> Context:
        """Of a run."""
        return Context(self.database, self.settings, progress=progress or Progress(), now=now, sleep=sleep)

    async def check(self) -> None:
        """What holds after any sync."""
        wrong = await self.rows(
            f"select * from sync_history where status = 'running' or rows_received <> {_ADDED_UP} or api_calls < 0"
        )
        assert wrong == []
        assert self.control.counts()["max_concurrent"] <= 2

    # -- what was asked --------------------------------------------------------------------------------------------

    def endpoints(self) -> dict[str, int]:
        """How often the last sync asked what."""
        return dict(Counter(call["endpoint"] for call in self.calls))

    def asked(self, endpoint: str) -> list[Row]:
        """The last sync's calls of one endpoint."""
        return [call for call in self.calls if call["endpoint"] == endpoint]

    def bound(self, endpoint: str = "participants") -> int | None:
        """From which change on the last sync asked first; None for everything."""
        value = self.asked(endpoint)[0]["params"].get("modified_after_timestamp")
        return None if value is None else int(value)

    # -- time ------------------------------------------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        """A sleep that takes no time: the database's calls and pauses grow older instead."""
        self.slept.append(seconds)
        await self.pass_time(seconds)

    async def pass_time(self, seconds: float) -> None:
        """Let everything that the database has dated be so many seconds older."""
        for table, columns in {
            "api_calls": ["reserved_at"],
            "partner_provider_credentials": ["paused_until", "stopped_at", "verified_at"],
            "sync_history": ["started_at", "finished_at"],
            "sync_cursors": ["last_full_at", "last_incremental_at"],
            "runsignup_races": ["record_read_at"],
        }.items():
            changes = ", ".join(f"{column} = {column} - make_interval(secs => %(seconds)s)" for column in columns)
            await self.conn.execute(f"update {table} set {changes}".encode(), {"seconds": seconds})

    # -- what is stored --------------------------------------------------------------------------------------------

    async def rows(self, query: str, *values: Any) -> list[Row]:
        async with self.conn.cursor(row_factory=dict_row) as cursor:
            return await (await cursor.execute(query.encode(), values)).fetchall()

    async def one(self, query: str, *values: Any) -> Row:
        (row,) = await self.rows(query, *values)
        return row

    async def count(self, table: str) -> int:
        return int((await self.one(f"select count(*) as n from {table}"))["n"])

    async def registration(self, registration_id: int, event_id: int | None = None) -> Row:
        return await self.one(
            "select * from runsignup_participants where registration_id = %s and event_id = coalesce(%s, event_id)",
            registration_id, event_id,
        )  # fmt: skip

    async def passes(self, race_id: int | None = None) -> list[tuple[str, str, str | None]]:
        """Each pass so far: kind, status and reason."""
        found = await self.rows(
            "select sync_type, status, reason from sync_history where race_id = coalesce(%s, race_id)"
            " order by sync_history_id",
            race_id,
        )
        return [(row["sync_type"], row["status"], row["reason"]) for row in found]

    async def last_pass(self, race_id: int = RACE) -> Row:
        found = await self.rows("select * from sync_history where race_id = %s order by sync_history_id", race_id)
        return found[-1]

    async def past(self, race_id: int = RACE, partner: int = 1) -> Row:
        """How far a race's past is read."""
        return await self.one(
            "select * from backfill_progress where race_id = %s and timing_partner_id = %s", race_id, partner
        )

    async def cursor(self, race_id: int = RACE) -> Row:
        return await self.one("select * from sync_cursors where race_id = %s", race_id)

    async def changes(self, after: int = 0) -> list[tuple[str, int]]:
        """Type and registration of each change after an id, in order."""
        found = await self.rows("select * from runsignup_changes where change_id > %s order by change_id", after)
        return [(row["change_type"], row["registration_id"]) for row in found]

    async def bibs(self) -> list[tuple[str, int, str | None, str | None]]:
        """Kind, registration, old and new bib of each bib change, in order."""
        found = await self.rows("select * from runsignup_bib_changes order by bib_change_id")
        return [(row["kind"], row["registration_id"], row["old_bib"], row["new_bib"]) for row in found]

    async def written(self) -> list[Row]:
        """Which version of each registration's row is stored where; the same again when nothing was written."""
        return await self.rows(
            "select event_id, registration_id, xmin::text, ctid::text from runsignup_participants order by 1, 2"
        )

    async def assert_truth(
        self,
        race_id: int = RACE,
        *,
        events: Iterable[int] | None = None,
        beside: Collection[int] = (),
        missing: Collection[int] = (),
        partner: int = 1,
    ) -> None:
        """The stored race is what the sandbox has: every row, every column, nothing lost, nothing beside it.

        `events`: those that were read, by default all; rows of events `beside` them are not looked at.
        """
        truth = self.control.truth(race_id)["events"]
        active: dict[tuple[int, int], Row] = {}
        removed: dict[tuple[int, int], Row] = {}
        for event_id in truth if events is None else events:
            active |= {(row["event_id"], row["registration_id"]): expected(row) for row in truth[event_id]["active"]}
            removed |= {
                (event_id, row["registration_id"]): {
                    "removed_reason": row["removed_reason"],
                    "new_registration_id": row["new_registration_id"],
                    "removal": row,
                }
                for row in truth[event_id]["removed"]
            }
        found = await self.rows(
            "select * from runsignup_participants where timing_partner_id = %s and race_id = %s"
            " and not event_id = any(%s::bigint[])",
            partner, race_id, list(beside),
        )  # fmt: skip
        assert {row["registration_id"] for row in found if row["missing_since"]} == set(missing)
        shown = {
            (row["event_id"], row["registration_id"]): {name: row[name] for name in _COLUMNS}
            for row in found
            if row["removed_at"] is None and row["missing_since"] is None
        }
        assert shown == active
        assert {
            (row["event_id"], row["registration_id"]): {name: row[name] for name in _REMOVED_COLUMNS}
            for row in found
            if row["removed_at"] is not None
        } == removed


_REMOVED_COLUMNS = ("removed_reason", "new_registration_id", "removal")
_COLUMNS = (
    *_OF_USER, "dob", *_PLAIN, "bib_num", "last_modified", "team_info", "payment_info", "additional_data",
    "field_errors",
)  # fmt: skip


def expected(sent: Row) -> Row:
    """The columns of a registration, read from the wire in the plainest way."""
    user, rest = dict(sent["user"]), dict(sent)
    del rest["user"], rest["registration_id"], rest["event_id"], rest["registration_date"]
    columns: Row = {name: user.pop(name) for name in _OF_USER}
    born, bib, modified = user.pop("dob"), rest.pop("bib_num"), rest.pop("last_modified")
    columns["dob"] = None if born is None else date.fromisoformat(born)
    columns["bib_num"] = None if bib is None else str(bib)
    columns["last_modified"] = None if modified is None else datetime.fromtimestamp(modified, UTC)
    columns |= {name: rest.pop(name) for name in _PLAIN}
    columns["team_info"] = {name: rest.pop(name) for name in list(rest) if name.startswith("team_")}
    columns["payment_info"] = {name: dollars(rest.pop(name)) for name in _MONEY if name in rest}
    columns["payment_info"] |= {name: rest.pop(name) for name in ("rsu_transaction_id", "transaction_id")}
    user.pop("profile_image_url", None)
    for name in _NOT_ASKED:
        rest.pop(name, None)
    columns["additional_data"] = rest | ({"user": user} if user else {})
    columns["field_errors"] = []
    return columns


def dollars(sent: str) -> float:
    """A sum of money as sent."""
    return float(sent.replace("$", "").replace(",", ""))
