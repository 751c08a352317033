"""`startlist demo`: the whole thing on a local RunSignup, from nothing.

Thirteen timing partners, a full sync, an hour of life, an incremental sync, and the proof that all of it is right.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from startlist import config
from startlist.cli import background, logs, output, words
from startlist.cli.app import run
from startlist.cli.background import Background
from startlist.cli.happenings import Found, Hour, told
from startlist.cli.live import LiveProgress
from startlist.cli.output import Json
from startlist.cli.proof import Proof, prove
from startlist.cli.sync import print_summary
from startlist.config import LogLevel, Settings
from startlist.errors import ConfigurationError
from startlist.sandbox import Control
from startlist.store import demo as rows
from startlist.store import local, partners
from startlist.store.changelog import BIBS, CHANGES, BibChange, Change, Entry
from startlist.store.database import Database
from startlist.store.reading import Filters, reader
from startlist.store.sealing import open_key_ring
from startlist.sync.context import Context
from startlist.sync.plan import Options
from startlist.sync.progress import Progress
from startlist.sync.run import run as run_sync
from startlist.sync.summary import Summary

ALL = 1_000_000  # more changes than an hour has
BIBS_SHOWN = 8


def demo(
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed makes another world.")] = 1,
    stop: Annotated[
        bool, typer.Option("--stop", help="End what a demo left running: the local RunSignup and the database.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the whole thing on a local RunSignup, from nothing: full sync, an hour of life, incremental sync, proof.

    It has a home and a database of its own, and begins anew each time. With STARTLIST_HOME or STARTLIST_DATABASE_URL
    it uses those, unless they hold other timing partners than the demo's. It leaves the database and the local
    RunSignup running, so that you can go on; --stop ends them.

    Exit status: 0 all that the local RunSignup has is in the database, and only its changes were found; 1 not so.

    Examples:
        startlist demo
        startlist demo --stop    afterwards
    """
    settings = _own(config.load())
    logs.configure(settings)
    if stop:
        _stop(settings, json=json)
        return
    story = _Story(silent=json)
    story.say("Startlist keeps a timing company's own PostgreSQL in step with RunSignup. This is a rehearsal:")
    story.say("RunSignup is played by this machine, and all names in it are made up.")
    story.heading("1. A database, a RunSignup and its timing partners")
    database = run(Database.locate(settings))  # also makes the home, so that the server's user may enter it
    with background.alone(settings.home):
        background.stop(settings.home)
        if not run(rows.begin(database)):
            raise ConfigurationError(_refusal(settings))
        runsignup = background.start(settings.home, seed=seed, concurrent_calls=settings.concurrent_calls)
        try:
            result = _Demo(settings.model_copy(update={"api_url": runsignup.url}), database, runsignup, story).play()
        except BaseException:
            background.stop(settings.home)
            raise
    if json:
        output.print_json(result)
    if not result["equal"]:
        raise typer.Exit(1)


def _own(settings: Settings) -> Settings:
    """The settings of the demo: its own home, no caller registration, a whole budget, and only warnings in the log."""
    given = settings.model_fields_set
    update: dict[str, Any] = {"api_registration": None, "api_registration_secret": None, "calls_per_hour": 1000}
    if "home" not in given:
        update["home"] = settings.home.with_name("startlist-demo")
    if "log_level" not in given:
        update["log_level"] = LogLevel.WARNING
    own = settings.model_copy(update=update)
    return own.model_copy(update={"home": own.home.expanduser().absolute()})


def _refusal(settings: Settings) -> str:
    if settings.database_url is None:
        return (
            f"STARTLIST_HOME: the database in {settings.home} is not a demo's: unset STARTLIST_HOME, and the demo has"
            " a home of its own; or name an empty folder"
        )
    return (
        f"STARTLIST_DATABASE_URL: the schema {settings.database_schema} there is not a demo's: name a new one with"
        " STARTLIST_DATABASE_SCHEMA=startlist_demo, or unset STARTLIST_DATABASE_URL, and the demo has a database of its"
        " own"
    )


def _stop(settings: Settings, *, json: bool) -> None:
    sandbox = background.stop(settings.home)
    database = settings.database_url is None and background.was_here(settings.home) and local.stop(settings.home)
    if json:
        output.print_json({"home": str(settings.home), "sandbox_stopped": sandbox, "database_stopped": database})
        return
    output.say(f"The local RunSignup {'is stopped' if sandbox else 'did not run'}.")
    if settings.database_url is None:
        output.say(f"The database in {settings.home} {'is stopped' if database else 'did not run'}.")


@dataclass(frozen=True)
class _Story:
    """What is told on the terminal, in headings and short lines; nothing of it when a program listens."""

    silent: bool

    @property
    def live(self) -> bool:
        """Whether something may move on the screen."""
        return not self.silent and sys.stderr.isatty()

    def heading(self, text: str) -> None:
        if not self.silent:
            output.say("")
            output.console().print(Text(text, style="bold"))

    def say(self, text: str = "") -> None:
        if not self.silent:
            output.console().print(Text(text), soft_wrap=True)

    def table(self, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
        if not self.silent:
            output.table(columns, lines)

    def summary(self, done: Summary) -> None:
        if not self.silent:
            print_summary(done)


@dataclass
class _Demo:
    """One demo: `play` tells it from the first line to the last."""

    settings: Settings
    database: Database
    runsignup: Background
    story: _Story
    checks: dict[str, bool] = field(default_factory=dict)

    @property
    def control(self) -> Control:
        """What makes things happen in the local RunSignup, and knows the truth."""
        return Control(self.runsignup.url)

    def play(self) -> dict[str, Any]:
        """Tell the story; returns it as `--json` gives it."""
        self._introduce()
        full = self._sync("Full sync: every event to come, complete")
        self._check("the full sync is complete", full.status == "completed")
        hour = self._live()
        before = run(self._heads())
        incremental = self._sync("Incremental sync: only what changed since")
        self._check("the incremental sync is complete", incremental.status == "completed")
        found = run(self._found(before))
        self._show(hour, found)
        proof = self._prove()
        self._compare_costs(full, incremental)
        self._conclude()
        return {
            "home": str(self.settings.home),
            "embedded": self.database.embedded,
            "schema": self.database.schema,
            "api_url": self.runsignup.url,
            "sandbox_pid": self.runsignup.pid,
            "sandbox": self.runsignup.summary,
            "full": full.to_json(),
            "happened": hour.counts,
            "incremental": incremental.to_json(),
            "found": found.counts,
            "bib_changes": found.bib_counts,
            "proof": proof,
            "checks": self.checks,
            "equal": all(self.checks.values()),
        }

    def _check(self, what: str, holds: bool) -> None:
        self.checks[what] = holds
        if not holds:
            self.story.say(f"NOT SO: {what}")

    def _introduce(self) -> None:
        there = self.runsignup.summary
        version, added = run(self._add_partners())
        kind = f"embedded, in {self.settings.home}" if self.database.embedded else "from STARTLIST_DATABASE_URL"
        self.story.say(f"PostgreSQL    {version} at {self.database.place} ({kind})")
        self.story.say(
            f"RunSignup     at {self.runsignup.url}: {there['races']:,} races, {there['events']:,} events,"
            f" {there['future_events']:,} of them still to come"
        )
        self.story.say(
            f"Partners      {added} timing partners with {len(self.runsignup.keys)} API keys, secrets sealed"
        )

    async def _add_partners(self) -> tuple[str | None, int]:
        """Add the timing partners as `partner add` does; returns the server's version and how many they are."""
        known: dict[str, int] = {}
        async with await self.database.connect(name="startlist demo") as conn:
            ring = await open_key_ring(conn, self.settings)
            for key in self.runsignup.keys:
                name = key["partner"]
                added = await partners.add(  # a partner's second key goes to the same partner
                    conn,
                    ring,
                    name=name,
                    principal=key["key"],
                    secret=key["secret"],
                    credential_type=key["type"],
                    timing_partner_id=known.get(name),
                    email=f"timing{known.get(name, len(known) + 1)}@{rows.ADDRESSES}",
                )
                known[name] = added.timing_partner_id
            return conn.info.parameter_status("server_version"), len(known)

    def _sync(self, title: str) -> Summary:
        self.story.heading(f"{2 if not self.checks else 4}. {title}")
        done = run(self._synced())
        self.story.summary(done)
        for failure in done.failed_syncs():
            self.story.say(f"partner {failure['timing_partner_id']}, race {failure['race_id']}: {failure['error']}")
        if done.error is not None:
            raise done.error
        return done

    async def _synced(self) -> Summary:
        if not self.story.live:
            async with Context(self.database, self.settings, progress=Progress()) as context:
                return await run_sync(context, Options())
        with LiveProgress(output.zone_of(self.settings.timezone)) as progress:
            async with Context(self.database, self.settings, progress=progress) as context:
                return await run_sync(context, Options())

    def _live(self) -> Hour:
        """Let an hour pass in the local RunSignup, and say what happened in it."""
        self.story.heading("3. An hour of life in RunSignup")
        began = float(self.control.summary()["now"])
        hour = Hour.of(self.control.hour_of_life())
        zone = output.zone_of(self.settings.timezone)
        first, last = (datetime.fromtimestamp(moment).astimezone(zone) for moment in (began, hour.ended))
        self.story.say(f"From {first:%H:%M} to {last:%H:%M}:")
        for line in told(hour):
            self.story.say(f"  {line}")
        return hour

    async def _heads(self) -> tuple[int, int]:
        async with reader(self.database) as conn:
            return await CHANGES.head(conn), await BIBS.head(conn)

    async def _found(self, after: tuple[int, int]) -> Found:
        """What the logs got since."""
        async with reader(self.database) as conn:
            changes = await CHANGES.after(conn, Filters(), after[0], await CHANGES.head(conn), limit=ALL)
            bibs = await BIBS.after(conn, Filters(), after[1], await BIBS.head(conn), limit=ALL)
        return Found(changes, bibs)

    def _show(self, hour: Hour, found: Found) -> None:
        self.story.say()
        self.story.say("What happened, and what was found:")
        self.story.table(("in RunSignup", "happened", "found", "recorded as"), found.lines(hour))
        self._check("each thing that happened was found", found.has_all(hour))
        others = len(found.others(hour))
        self._check("nothing else was found", others == 0)
        if others == 0:
            self.story.say(f"Nothing else was found: {len(found.changes)} changes in all. One of each kind:")
        self.story.say()
        self.story.table(("race", "event", "runner", "change"), [_change(entry) for entry in found.examples(hour)])
        self.story.heading("5. Bibs, the moment they are known")
        self.story.table(("race", "event", "runner", "bib"), [_bib(entry) for entry in found.bibs[-BIBS_SHOWN:]])
        self.story.say(f"{len(found.bibs)} in this sync; {_command()} bibs shows all, with --follow as they come.")

    def _prove(self) -> Proof:
        self.story.heading("6. The proof")
        proof = run(prove(self.database, self.control))
        if proof.different == 0:
            self.story.say(
                f"{proof.active:,} active and {proof.removed:,} removed registrations of {proof.events} events were"
                f" compared with RunSignup's own, {proof.values:,} values: all equal, none missing, none too many."
            )
        for difference in proof.differences:
            self.story.say(difference)
        self._check("the database equals RunSignup", proof.different == 0)
        return proof

    def _compare_costs(self, full: Summary, incremental: Summary) -> None:
        costs = []
        for name, done in (("full", full), ("incremental", incremental)):
            figures = done.to_json()
            received = sum(partner["rows_received"] for partner in figures["partners"])
            costs.append(
                (name, figures["total_races"], received, figures["api_calls"], round(figures["duration_seconds"], 1))
            )
        self.story.say()
        self.story.table(("sync", "races", "registrations received", "calls", "seconds"), costs)

    def _conclude(self) -> None:
        command, address = _command(), self.runsignup.url.removesuffix("/rest")
        self.story.heading("What to try next")
        self.story.say("The database and the local RunSignup go on running. In this shell:")
        self.story.say()
        self.story.say(f"  export STARTLIST_HOME={shlex.quote(str(self.settings.home))}")
        self.story.say(f"  export STARTLIST_API_URL={self.runsignup.url}")
        if "STARTLIST_API_REGISTRATION" in os.environ:
            self.story.say("  unset STARTLIST_API_REGISTRATION STARTLIST_API_REGISTRATION_SECRET")
        self.story.say()
        for arguments, what in _NEXT:
            self.story.say(f"  {command} {arguments:<20} {what}")
        self.story.say()
        self.story.say("Another hour of life, which the next sync will find:")
        self.story.say()
        self.story.say(f"  curl -X POST {address}/_sandbox/hour_of_life")
        self.story.say(f"  {command} sync")
        self.story.say()
        self.story.say(f"{command} demo --stop ends the local RunSignup and the database.")


_NEXT = (
    ("status", "how fresh each race is"),
    ("races", "what is stored"),
    ("find 101", "who wears a bib, or where a name is entered"),
    ("changes --since 1h", "what changed"),
    ("bibs --follow", "bibs as they come, until Ctrl-C"),
    ("db psql", "your own questions in SQL; the view start_list is a good beginning"),
)


def _change(entry: Entry[Change]) -> list[object]:
    row = entry.row
    runner = words.runner(entry.first_name, entry.last_name, row.registration_id)
    return [entry.race_name, entry.event_name, runner, words.change(row.change_type, row.before, row.after)]


def _bib(entry: Entry[BibChange]) -> list[object]:
    row = entry.row
    runner = words.runner(entry.first_name, entry.last_name, row.registration_id)
    said = words.bibs(row.kind, row.old_bib, row.new_bib, row.old_chip, row.new_chip)
    return [entry.race_name, entry.event_name, runner, said]


def _command() -> str:
    """How the user called this program, so that what is printed can be typed."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m startlist"
    found = shutil.which("startlist")
    if found and Path(found).resolve() == called.resolve():
        return "startlist"
    return shlex.quote(sys.argv[0]) if called.name == "startlist" else "startlist"
