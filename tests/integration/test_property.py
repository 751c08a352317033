"""Random lives of two races, synced again and again, well and badly: the database always ends with the truth.

What the sync cannot know yet is told apart: a change that leaves `last_modified` alone (and a vanished registration, a
restoration in the very second of the removal) shows with the next full pass, a change in mid-pass with the next pass.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, ClassVar

import psycopg
import pytest
import stamina
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from startlist.runsignup import client, paging
from startlist.sandbox import World, running
from startlist.sandbox.population import Population, Wanted
from startlist.store.database import Database
from startlist.sync.context import Context
from startlist.sync.job import Outcome
from startlist.sync.plan import Options
from startlist.sync.progress import Progress
from startlist.sync.run import run
from startlist.sync.summary import Summary
from tests import truth
from tests.support import MakeSettings

Row = dict[str, Any]
Key = tuple[int, int]

DAY = 86_400
PICK = st.integers(0, 999)
LATER = st.sampled_from((0, 0, 1, 7, 90))
NOT_CONTENT = (
    "race_id",
    "last_modified",
    "removal",
    "removal_modified_at",
    "first_seen_at",
    "changed_at",
    "content_hash",
)

# Met by one retry or two, or no more than odd.
HARMLESS: tuple[Row, ...] = (
    {"kind": "key_order", "times": None},
    {"kind": "duplicate_rows", "rows": 2, "times": None},
    {"kind": "clamp", "rows": 2, "times": None},
    {"kind": "no_date", "times": None},
    {"kind": "bad_date"},
    {"kind": "reset"},
    {"kind": "cut", "times": 2},
    {"kind": "truncate", "times": 2},
    {"kind": "html"},
    {"kind": "http", "status": 503},
    {"kind": "error", "code": 5, "times": 2},
    {"kind": "http", "status": 429, "retry_after": 2},
    {"kind": "http", "status": 200, "retry_after": 40, "body": '{"error":{"error_code":14,"error_msg":"Throttled."}}'},
    {"kind": "error", "code": 14},
)
# A pass fails, or falls back.
HARMFUL: tuple[Row, ...] = (
    {"kind": "reset", "times": None},
    {"kind": "truncate", "times": None},
    {"kind": "truncate", "times": 3},
    {"kind": "html", "times": 4},
    {"kind": "http", "status": 502, "times": None},
    {"kind": "error", "code": 4, "times": None},
    {"kind": "error", "code": 3, "times": None},
    {"kind": "error", "code": 9},
    {"kind": "error", "code": 14, "times": None},
    {"kind": "wrong_shape", "value": {"event": 5}, "times": None},
)
# A pass is deceived, and cannot know.
DECEIVING: tuple[Row, ...] = (
    {"kind": "empty"},
    {"kind": "empty_array", "times": None},
    {"kind": "empty", "times": None},
)
# Rows come spoiled: they are set aside, or come without what is known of them; nobody is missing for that.
SPOILING: tuple[Row, ...] = (
    {"kind": "bad_rows", "what": ["no_user"]},
    {"kind": "bad_rows", "what": ["not_object"], "index": 1},
    {"kind": "bad_rows", "what": ["negative_id", "null"], "mode": "insert"},
    {"kind": "bad_rows", "what": ["misfit"], "index": 2},
    {"kind": "bad_rows", "what": ["unstorable"]},
    {"kind": "drop_keys", "keys": ["dob", "phone", "bib_num"]},
)
MATCHES: tuple[Row, ...] = (
    {},
    {"endpoint": "participants"},
    {"endpoint": "participants", "page_after": True},
    {"endpoint": "removed_participants"},
    {"endpoint": "race"},
)


class Bench:
    """One database for all examples, and a loop to run syncs in."""

    def __init__(self, database: Database, make_settings: MakeSettings, conn: truth.Connection) -> None:
        self.database, self.make_settings, self.conn = database, make_settings, conn
        self.runner = asyncio.Runner()

    def empty(self) -> None:
        """Forget what an earlier example stored."""
        self.conn.execute("delete from timing_partners")
        self.conn.execute("truncate sync_runs restart identity cascade")

    async def sleep(self, seconds: float) -> None:
        """Wait without waiting: what the database counts by its clock grows older instead."""
        self.conn.execute(
            "update partner_provider_credentials set paused_until = paused_until - %s * interval '1 s'", [seconds]
        )


class Life(RuleBasedStateMachine):
    """`silent`, `loud`: when (by `moment`) a registration last changed with and without a new `last_modified`."""

    bench: ClassVar[Bench]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.moment = 0
        self.silent: dict[int, int] = {}
        self.loud: dict[int, int] = {}
        self.vanished: set[int] = set()
        self.begun: dict[int, int] = {}  # per race, when the pass that is not ended yet began
        self.bibs = 0
        self.state: dict[Key, Row] = {}
        self.bib_state: dict[Key, tuple[str | None, str | None]] = {}
        self.known_events: set[int] = set()
        self.last_change = self.last_bib = 0

    @initialize(
        page=st.sampled_from((3, 4, 2500)), removed_page=st.sampled_from((2, 1000)), size=st.integers(1, 9),
        wide=st.booleans(),
    )  # fmt: skip
    def begin(self, page: int, removed_page: int, size: int, wide: bool) -> None:
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(client, "PARTICIPANTS_PER_PAGE", page)
        patch.setattr(client, "REMOVED_PER_PAGE", removed_page)
        patch.setattr(paging, "ROUND", 2)  # the smallest page that a clamp may leave
        world = World(seed=3, now=float(int(time.time())), frozen=True)
        world.settings.paging = "per_event" if wide else "total"
        key = world.add_key("Peak Timing")
        start = datetime.fromtimestamp(world.clock.now() + 10 * DAY, UTC).replace(hour=8, minute=0, tzinfo=None)
        self.races = [world.add_race("First", [key]), world.add_race("Second", [key], "America/Denver")]
        events = [world.add_event(self.races[0], "5K", start)]
        events.append(world.add_event(self.races[0], "10K", start, days_id=events[0].days_id))
        events.append(world.add_event(self.races[1], "Mile", start))
        Population(world).fill([Wanted(event, size - at, world.clock.now()) for at, event in enumerate(events)])
        sandbox = self.stack.enter_context(running(world))
        self.control = sandbox.control
        self.settings = self.bench.make_settings(api_url=sandbox.url, calls_per_hour=10**6, log_level="error")
        self.bench.empty()
        self.bench.conn.execute("insert into timing_partners (timing_partner_id, company_name) values (1, 'Peak')")
        self.bench.conn.execute(
            "insert into partner_provider_credentials (timing_partner_id, principal, secret) values (1, %s, %s)",
            [key.key, key.secret],
        )

    # -- life ------------------------------------------------------------------------------------------------------

    def rows(self, kind: str) -> list[tuple[int, int]]:
        """All (event, registration) that RunSignup lists as active or removed, in listed events."""
        return [
            (event_id, row["registration_id"])
            for race in self.races
            for event_id, rows in self.control.truth(race.race_id)["events"].items()
            for row in rows[kind]
        ]

    def events(self) -> list[int]:
        return [event_id for race in self.races for event_id in self.control.truth(race.race_id)["events"]]

    def touched(self, registration_id: int, *, silent: bool = False) -> None:
        self.moment += 1
        (self.silent if silent else self.loud)[registration_id] = self.moment

    def passes(self, seconds: float) -> None:
        self.control.clock(advance=seconds)

    def one(self, kind: str, pick: int) -> tuple[int, int] | None:
        found = self.rows(kind)
        return found[pick % len(found)] if found else None

    @rule(pick=PICK, count=st.integers(1, 4), bib=st.booleans(), later=LATER)
    def register(self, pick: int, count: int, bib: bool, later: int) -> None:
        events = self.events()
        if events:
            fields = {"bib_num": self.next_bib(), "chip_num": "C1"} if bib else {}
            for registration_id in self.control.register(events[pick % len(events)], count, **fields):
                self.touched(registration_id)
        self.passes(later)

    def next_bib(self) -> int:
        self.bibs += 1
        return self.bibs

    @rule(
        pick=PICK,
        fields=st.sampled_from(
            (
                {"last_name": "O'Neil & Söhne"},
                {"middle_name": None, "phone": None},
                {"zipcode": "08033", "gender": "X"},
                {"question_responses": []},
                {"color": {"of": "shirt", "deep": [1, None]}},
                {"color": None},
                {"amount_paid": "$1,024.50", "team_name": "4 Js"},
                {"team_name": None, "giveaway": None},
            )
        ),
        silent=st.booleans(),
        later=LATER,
    )
    def edit(self, pick: int, fields: Row, silent: bool, later: int) -> None:
        if found := self.one("active", pick):
            self.control.edit(found[1], silent=silent, **fields)
            self.touched(found[1], silent=silent)
        self.passes(later)

    @rule(pick=PICK, what=st.sampled_from(("bib", "text", "chip", "clear")), silent=st.booleans(), later=LATER)
    def bib(self, pick: int, what: str, silent: bool, later: int) -> None:
        if found := self.one("active", pick):
            number = self.next_bib()
            if what == "clear":
                self.control.clear_bib(found[1], chip=number % 2 == 0, silent=silent)
            elif what == "chip":
                self.control.edit(found[1], silent=silent, chip_num=f"C{number}")
            else:
                self.control.assign_bib(found[1], number if what == "bib" else f"B{number}", silent=silent)
            self.touched(found[1], silent=silent)
        self.passes(later)

    @rule(pick=PICK, how=st.sampled_from(("refund", "clear", "defer")), later=LATER)
    def remove(self, pick: int, how: str, later: int) -> None:
        if found := self.one("active", pick):
            self.control.change(how, registration_id=found[1])
            self.touched(found[1])
        self.passes(later)

    @rule(pick=PICK, to=PICK, bibs=st.booleans(), later=LATER)
    def transfer(self, pick: int, to: int, bibs: bool, later: int) -> None:
        if found := self.one("active", pick):
            events = self.events()
            self.touched(self.control.transfer(found[1], events[to % len(events)], transfer_bibs=bibs))
            self.touched(found[1])
        self.passes(later)

    @rule(pick=PICK, keep=st.booleans(), silent=st.booleans(), later=LATER)
    def restore(self, pick: int, keep: bool, silent: bool, later: int) -> None:
        active = {registration_id for _, registration_id in self.rows("active")}
        found = [key for key in self.rows("removed") if key[1] not in active | self.vanished]
        if found:
            registration_id = found[pick % len(found)][1]
            tie = self.removed_at(registration_id) == int(self.control.clock())
            self.control.restore(registration_id, keep_in_removed=keep, silent=silent)
            self.touched(registration_id, silent=silent or tie)
        self.passes(later)

    def removed_at(self, registration_id: int) -> int:
        return max(
            int(row["last_modified_ts"])
            for race in self.races
            for rows in self.control.truth(race.race_id)["events"].values()
            for row in rows["removed"]
            if row["registration_id"] == registration_id
        )

    @rule(pick=PICK, later=LATER)
    def edit_removed(self, pick: int, later: int) -> None:
        if found := self.one("removed", pick):
            self.control.edit_removed(found[1], first_name=f"Ann {self.next_bib()}")
            self.touched(found[1])
        self.passes(later)

    @rule(pick=PICK, all_of_event=st.booleans())
    def vanish(self, pick: int, all_of_event: bool) -> None:
        if found := self.one("active", pick):
            gone = (
                self.control.vanish(event_id=found[0])
                if all_of_event
                else self.control.vanish(registration_id=found[1])
            )
            for registration_id in gone:
                self.vanished.add(registration_id)
                self.touched(registration_id, silent=True)

    @precondition(lambda self: self.vanished)
    @rule(pick=PICK)
    def unvanish(self, pick: int) -> None:
        registration_id = sorted(self.vanished)[pick % len(self.vanished)]
        self.control.unvanish(registration_id=registration_id)
        self.vanished.discard(registration_id)
        self.touched(registration_id, silent=True)

    @rule(what=st.sampled_from(("add", "remove", "restore")), pick=PICK, in_days=st.sampled_from((10, 40)))
    def event(self, what: str, pick: int, in_days: int) -> None:
        self.passes(61)  # a race's last_modified tells minutes only
        events = self.events()
        if what == "add":
            race = self.races[pick % len(self.races)]
            event_id = self.control.add_event(race.race_id, "New", in_days=in_days)
            for registration_id in self.control.register(event_id, pick % 4):
                self.touched(registration_id)
        elif what == "remove" and events:
            self.control.remove_event(events[pick % len(events)])
        elif what == "restore":
            self.control.restore_event([event for race in self.races for event in race.events][pick % 3])
        self.passes(61)

    @rule(seconds=st.sampled_from((61, 901, 3700)))
    def time_passes(self, seconds: int) -> None:
        self.passes(seconds)

    # -- syncs -----------------------------------------------------------------------------------------------------

    @rule(full=st.booleans())
    def sync(self, full: bool) -> None:
        done = self.run(force_full=full)
        assert all(outcome.status in ("completed", "partial") for outcome in done.outcomes), done.failed_syncs()

    @rule(fault=st.sampled_from(HARMLESS), match=st.sampled_from(MATCHES), skip=st.integers(0, 2), full=st.booleans())
    def sync_in_spite(self, fault: Row, match: Row, skip: int, full: bool) -> None:
        self.control.fault(match=match, skip=skip, **fault)
        done = self.run(force_full=full)
        assert all(outcome.status in ("completed", "partial") for outcome in done.outcomes), done.failed_syncs()

    @rule(fault=st.sampled_from(HARMFUL), match=st.sampled_from(MATCHES), skip=st.integers(0, 4), full=st.booleans())
    def sync_in_vain(self, fault: Row, match: Row, skip: int, full: bool) -> None:
        self.control.fault(match=match, skip=skip, **fault)
        self.run(force_full=full)

    @rule(
        fault=st.sampled_from(DECEIVING),
        match=st.sampled_from(MATCHES[1:4]),
        skip=st.integers(0, 2),
        full=st.booleans(),
    )
    def sync_deceived(self, fault: Row, match: Row, skip: int, full: bool) -> None:
        self.control.fault(match=match, skip=skip, **fault)
        self.run(force_full=full, deceived=True)

    @rule(fault=st.sampled_from(SPOILING), skip=st.integers(0, 2), times=st.sampled_from((1, None)), full=st.booleans())
    def sync_spoiled(self, fault: Row, skip: int, times: int | None, full: bool) -> None:
        self.control.fault(match={"endpoint": "participants"}, skip=skip, times=times, **fault)
        self.run(force_full=full, spoiled=True)

    @rule(first=st.booleans())
    def sync_and_accept(self, first: bool) -> None:
        done = self.run(race_id=self.races[0 if first else 1].race_id, accept_missing=True)
        assert done.status == "completed", done.failed_syncs()

    @rule(
        pick=PICK, skip=st.integers(0, 4), full=st.booleans(), when=st.sampled_from(("before", "then")), later=LATER,
        what=st.sampled_from(("edit", "refund", "register", "transfer", "restore", "vanish")),
    )  # fmt: skip
    def sync_while_rows_shift(self, pick: int, skip: int, full: bool, when: str, what: str, later: int) -> None:
        """A change right before or after some call: rows move between pages, or between the lists."""
        active, events = self.rows("active"), self.events()
        removed = [key for key in self.rows("removed") if key[1] not in {k for _, k in active} | self.vanished]
        found = removed if what == "restore" else active
        if not events or not found:
            return
        registration_id = found[pick % len(found)][1]
        change: Row = {"name": what, "registration_id": registration_id}
        if what == "register":
            change = {"name": what, "event_id": events[pick % len(events)]}
        elif what == "transfer":
            change |= {"to_event_id": events[-1]}
        elif what == "edit":
            change |= {"bib_num": self.next_bib()}
        self.control.fault(when, skip=skip, changes=[change, {"name": "clock", "advance": later}])
        self.run(force_full=full, shifting=(registration_id, what))

    def run(
        self,
        *,
        deceived: bool = False,
        spoiled: bool = False,
        shifting: tuple[int, str] | None = None,
        **options: Any,
    ) -> Summary:
        """One sync, its faults cleared after it, and all that must hold then."""
        began, known = self.moment, {key for kind in ("active", "removed") for key in self.rows(kind)}
        before, suspicious = self.snapshot(), self.suspicious_races()
        done = self.bench.runner.run(self._sync(Options(**options)))
        hit = any(fault["used"] for fault in self.control.faults())
        self.control.clear_faults()
        if shifting and hit:
            fresh = {key for kind in ("active", "removed") for key in self.rows(kind)} - known
            for registration_id in {shifting[0], *(key[1] for key in fresh)}:
                self.touched(registration_id, silent=shifting[1] in ("vanish", "restore"))
            if shifting[1] == "vanish":
                self.vanished.add(shifting[0])
        assert done.error is None
        for race in done.partners[0].races:
            whole = not (hit and (deceived or spoiled or shifting)) and race.race_id not in self.begun
            if whole and race.outcome.kind == "full" and race.outcome.status != "failed":
                suspected = race.race_id in suspicious and not options.get("accept_missing")
                unread = hit and any("own record could not be read" in note for note in race.outcome.notes)
                assert race.outcome.status == ("partial" if suspected or unread else "completed"), race.outcome.notes
                assert suspected or not self.quarantined(race.race_id)
            if race.outcome.status != "failed":
                assert race.outcome.event_ids == self.control.truth(race.race_id)["events"].keys()
            self.judge(race.race_id, race.outcome, began, unknown=hit and (deceived or spoiled))
        self.check_nothing_false(before, deceived=deceived and hit)
        uncertain = self.silent.keys() | self.loud.keys()
        assert truth.differences(self.bench.conn, self.control, unsettled=uncertain) == []
        self.check_replay()
        assert not self.bench.conn.execute("select from sync_history where status = 'running'").fetchall()
        return done

    def suspicious_races(self) -> set[int]:
        """The races where a full pass would now lack too many registrations to be believed."""
        found = set()
        query = """
            select registration_id from runsignup_participants
            where event_id = %s and removed_at is null and missing_since is null
        """
        for race in self.races:
            for event_id, rows in self.control.truth(race.race_id)["events"].items():
                stored = {row[0] for row in self.bench.conn.execute(query, [event_id])}
                absent = stored - {row["registration_id"] for row in rows["active"]}
                lost = absent - {row["registration_id"] for row in rows["removed"]}
                active = len(stored)
                if lost and (lost == stored - (absent - lost) or (len(lost) > 5 and len(lost) > active * 0.05)):
                    found.add(race.race_id)
        return found

    def quarantined(self, race_id: int) -> bool:
        query = "select from runsignup_quarantine where race_id = %s and resolved_at is null"
        return bool(self.bench.conn.execute(query, [race_id]).fetchall())

    async def _sync(self, options: Options) -> Summary:
        progress = Progress()
        async with Context(
            self.bench.database, self.settings, progress=progress, now=self.now, sleep=self.bench.sleep
        ) as context:
            return await run(context, options)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.control.clock(), UTC)

    def judge(self, race_id: int, outcome: Outcome, began: int, *, unknown: bool) -> None:
        """Take note of what this pass has settled."""
        begun = self.begun.get(race_id, began)
        if outcome.status == "failed":
            self.begun[race_id] = begun  # the next pass may go on from here
            return
        self.begun.pop(race_id, None)
        own = self.ids_of(race_id)
        self.loud = {key: at for key, at in self.loud.items() if key not in own or at > begun}
        if outcome.kind != "incremental" and outcome.status == "completed":
            self.silent = {key: at for key, at in self.silent.items() if key not in own or at > begun}
        if unknown:
            self.moment += 1
            self.silent.update(dict.fromkeys(own, self.moment))

    def ids_of(self, race_id: int) -> set[int]:
        """All registrations that the race ever had."""
        query = "select registration_id from runsignup_participants where race_id = %s"
        known = {row[0] for row in self.bench.conn.execute(query, [race_id])}
        for rows in self.control.truth(race_id)["events"].values():
            known.update(row["registration_id"] for kind in ("active", "removed") for row in rows[kind])
        return known

    # -- what must hold --------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[Key, Row]:
        """Every stored row as JSON."""
        query = "select event_id, registration_id, to_jsonb(p) from runsignup_participants p"
        return {(row[0], row[1]): row[2] for row in self.bench.conn.execute(query)}

    def check_nothing_false(self, before: dict[Key, Row], *, deceived: bool) -> None:
        """Whatever happened, no row is lost, and none was changed into what RunSignup does not say."""
        after = self.snapshot()
        assert before.keys() <= after.keys()
        if deceived:
            return
        sent = {event: rows for race in self.races for event, rows in truth.truth(self.control, race.race_id).items()}
        for (event_id, registration_id), row in after.items():
            if row == before.get((event_id, registration_id)) or registration_id in self.silent or event_id not in sent:
                continue
            if row["removed_at"] is not None:
                assert registration_id in sent[event_id].removed or registration_id in self.loud
            if row["missing_since"] is not None:
                assert registration_id in self.vanished or registration_id in self.loud

    def check_replay(self) -> None:
        """The logs, read from the events' first full passes on, lead to what is stored."""
        conn, stored = self.bench.conn, self.snapshot()
        query = "select change_id, event_id, registration_id, before, after, change_type from runsignup_changes"
        for number, event_id, registration_id, old, new, kind in conn.execute(
            query + " where change_id > %s order by 1", [self.last_change]
        ):
            self.last_change = number
            row = self.state.get((event_id, registration_id), {})
            assert (kind == "added") <= (not row), "added, but it was there"
            self.state[event_id, registration_id] = patched(row, old or {}, new or {})
        query = "select bib_change_id, event_id, registration_id, kind, old_bib, new_bib, new_chip, old_chip"
        for number, event_id, registration_id, kind, old_bib, new_bib, new_chip, _ in conn.execute(
            query + " from runsignup_bib_changes where bib_change_id > %s order by 1", [self.last_bib]
        ):
            self.last_bib = number
            if event_id in self.known_events:
                known = self.bib_state.get((event_id, registration_id), (None, None))
                assert known[0] == old_bib
                assert kind == bib_kind(old_bib, new_bib)
            self.bib_state[event_id, registration_id] = (new_bib, new_chip)
        full = {row[0] for row in conn.execute("select event_id from runsignup_events where first_full_at is not null")}
        for key, row in stored.items():
            if key[0] in full - self.known_events:
                self.state[key] = content(row)
                self.bib_state[key] = (row["bib_num"], row["chip_num"])
        self.known_events |= full
        for key, row in stored.items():
            if key[0] in full:
                assert without_nulls(self.state[key]) == content(row)
                assert self.bib_state.get(key, (None, None))[0] == row["bib_num"]

    def teardown(self) -> None:
        with self.stack:
            if hasattr(self, "control"):
                self.passes(3700)
                self.run(force_full=True)


def content(row: Row) -> Row:
    """What the change log tells of a row."""
    kept = without_nulls({name: value for name, value in row.items() if name not in NOT_CONTENT})
    assert isinstance(kept, dict)
    return {
        name: value for name, value in kept.items() if name not in ("timing_partner_id", "event_id", "registration_id")
    }


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def patched(row: Row, before: Row, after: Row) -> Row:
    """A row after a change: what only `before` has is gone, what `after` has is so now."""
    result = {name: value for name, value in row.items() if name not in before or name in after}
    for name, value in after.items():
        old, inner = row.get(name), before.get(name)
        if isinstance(old, dict) and isinstance(inner, dict) and isinstance(value, dict):
            value = patched(old, inner, value)
        result[name] = value
    return result


def bib_kind(old: str | None, new: str | None) -> str:
    if old == new:
        return "chip"
    return "assigned" if old is None else "cleared" if new is None else "changed"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a busy machine is no fault
def test_random_lives(database: Database, make_settings: MakeSettings) -> None:
    with psycopg.connect(autocommit=True, **database.parameters("test")) as conn, stamina.set_testing(True, attempts=3):
        Life.bench = Bench(database, make_settings, conn)
        with Life.bench.runner:
            run_state_machine_as_test(
                Life,
                settings=settings(
                    max_examples=int(os.environ.get("PROPERTY_LIVES", "8")),
                    stateful_step_count=25,
                    derandomize=True,
                    database=None,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
