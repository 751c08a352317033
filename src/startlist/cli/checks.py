"""The checks of `startlist doctor`: each looks at one thing and says pass, warn or fail, and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path

from startlist.cli import freshness, words
from startlist.config import Settings
from startlist.store.database import Database
from startlist.store.partners import CredentialState
from startlist.store.queue import Queue
from startlist.store.status import RaceState, Status
from startlist.sync.probe import Probed

REGISTRATION_REQUIRED = date(2027, 1, 1)  # RunSignup then refuses callers that are not registered
CLOCK_WARN, CLOCK_FAIL = 10.0, 60.0  # seconds; 60 is what a pass asks again for safety
DISK_WARN, DISK_FAIL = 2_000_000_000, 300_000_000  # bytes that are free
NAMED = 5  # races in one line


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105  # a verdict
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `todo`: what to do, None where nothing is to be done."""

    check: str
    verdict: Verdict
    found: str
    todo: str | None = None


def unknown(check: str, why: str) -> Finding:
    """A check that cannot be made."""
    return Finding(check, Verdict.WARN, f"not checked: {why}")


def database(where: Database, version: str, megabytes: float, *, writable: bool) -> Finding:
    """A database that answers."""
    kind = "embedded" if where.embedded else "your own"
    if not writable:
        said = f"PostgreSQL {version} at {where.place} ({kind}) takes no writes: it is a standby, or set read-only"
        return Finding("database", Verdict.FAIL, said, "name the server that writes, or let this one write again")
    return Finding("database", Verdict.PASS, f"PostgreSQL {version} at {where.place} ({kind}), {megabytes:,.0f} MB")


def key_file(
    settings: Settings, path: Path, fingerprint: str | None, named: str | None, problem: str | None
) -> Finding:
    """The key that seals: `fingerprint` of the one here, `named` in the database, `problem` if it cannot be used."""
    if problem is not None:
        return Finding("key", Verdict.FAIL, problem, "API secrets cannot be opened until this is mended")
    if fingerprint is None and named is None:
        return Finding("key", Verdict.PASS, "none yet: it is made with the first API key")
    if fingerprint is None:
        return Finding(
            "key", Verdict.FAIL, f"the API secrets are sealed, and their key is not here ({path})",
            "bring back the key file from your copy, or put the key into STARTLIST_SECRET_KEY",
        )  # fmt: skip
    where = "STARTLIST_SECRET_KEY" if settings.secret_key is not None else f"{path}, which only its owner can read"
    return Finding("key", Verdict.PASS, f"{fingerprint} in {where}")


def registration(settings: Settings, today: date, probes: Iterable[Probed] = ()) -> Finding:
    """The caller registration, which RunSignup requires from 2027 on."""
    refused = next((one.result for one in probes if one.caller_refused), None)
    if refused is not None and settings.api_registration is not None:
        todo = "correct STARTLIST_API_REGISTRATION and STARTLIST_API_REGISTRATION_SECRET; no key is to blame"
        return Finding("caller registration", Verdict.FAIL, refused, todo)
    if settings.api_registration is not None:
        return Finding("caller registration", Verdict.PASS, "set")
    todo = (
        "register this program at RunSignup (Profile, API Keys), and set STARTLIST_API_REGISTRATION and"
        " STARTLIST_API_REGISTRATION_SECRET"
    )
    left = (REGISTRATION_REQUIRED - today).days
    if left <= 0 or refused is not None:
        said = f"missing; {refused or f'RunSignup requires it since {REGISTRATION_REQUIRED}'}"
        return Finding("caller registration", Verdict.FAIL, said, todo)
    said = f"missing; RunSignup requires it from {REGISTRATION_REQUIRED} on, in {words.counted(left, 'day')}"
    return Finding("caller registration", Verdict.WARN, said, todo)


def clock(probes: Iterable[Probed]) -> Finding:
    """This machine's clock against RunSignup's."""
    known = [one.clock_ahead for one in probes if one.clock_ahead is not None]
    if not known:
        return unknown("clock", "RunSignup gave no answer to compare with")
    off = min(known, key=abs)
    if abs(off) < CLOCK_WARN:
        return Finding("clock", Verdict.PASS, f"within {CLOCK_WARN:.0f} s of RunSignup's")
    said = f"{words.length(abs(off))} {'ahead of' if off > 0 else 'behind'} RunSignup's"
    verdict = Verdict.FAIL if abs(off) >= CLOCK_FAIL else Verdict.WARN
    return Finding("clock", verdict, said, "set the machine's clock by NTP: timedatectl set-ntp true")


def credential(one: CredentialState, probed: Probed | None) -> Finding:
    """One API key: as it is stored, and as RunSignup takes it, if it was asked."""
    who = f"timing partner {one.timing_partner_id} ({one.company_name})"
    partner = one.timing_partner_id
    if one.credential_id is None:
        todo = f"startlist partner add NAME --id {partner} --api-key K"
        return Finding("API key", Verdict.WARN, f"{who} has none", todo)
    name = f"{words.short(one.principal)} of {who}"
    if probed is not None and probed.accepted is False:
        todo = f"startlist partner check {partner}; if it is refused: startlist partner rotate {partner}"
        return Finding("API key", Verdict.FAIL, f"{name}: {probed.result}", todo)
    if one.stopped_at is not None and not (probed and probed.accepted):
        todo = f"give it the right secret: startlist partner rotate {partner}"
        return Finding("API key", Verdict.FAIL, f"{name} is stopped: {one.stopped_reason}", todo)
    if probed is not None and probed.caller_refused:
        return Finding("API key", Verdict.WARN, f"{name} was not checked: {probed.result}")
    if probed is not None and probed.accepted is None:
        return Finding("API key", Verdict.WARN, f"{name}: {probed.result}", f"startlist partner check {partner}")
    if one.unlisted:
        return Finding("API key", Verdict.WARN, f"{name}: its race list cannot be taken", "startlist sync says why")
    if probed is None and one.verified_at is None:
        return Finding("API key", Verdict.WARN, f"{name} was never verified", f"startlist partner check {partner}")
    said = "accepted" if probed is not None else "verified before, not asked now"
    return Finding("API key", Verdict.PASS, f"{name}: {said}")


def disk(home: Path, embedded: bool) -> Finding:
    """Room where the embedded database and the key live."""
    folder = next(path for path in (home, *home.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    what = f"{free / 1e9:,.1f} GB free for {home}"
    if not embedded:
        what += "; look at the database server's own disk there"
    if free < DISK_WARN:
        verdict = Verdict.FAIL if free < DISK_FAIL else Verdict.WARN
        return Finding("disk", verdict, what, "make room: a database without any stops, and so does every sync")
    return Finding("disk", Verdict.PASS, what)


def stale(status: Status) -> Finding:
    """Races that were not read when they should have been."""
    late = [race for race in status.races if freshness.is_stale(race, status.holders.at)]
    if not late:
        return Finding("stale races", Verdict.PASS, "none")
    return Finding("stale races", Verdict.FAIL, _named(late), "startlist status says why; startlist sync reads them")


def jobs(where: Database, status: Status, queue: Queue | None) -> Finding:
    """Whether somebody does what is due, and nobody died over it."""
    problems = list(_stuck(where, status, queue))
    if problems:
        todo = "startlist serve goes on with all of it; if it runs, restart it"
        return Finding("jobs", Verdict.WARN, "; ".join(problems), todo)
    serving = status.holders.leads(where)
    return Finding("jobs", Verdict.PASS, "none is stuck" + ("" if serving else "; no scheduler runs"))


def _stuck(where: Database, status: Status, queue: Queue | None) -> Iterator[str]:
    left = [race for race in status.races if status.holders.alive(where, race) is False]
    if left:
        yield f"passes left by processes that are gone: {_named(left)}"
    dead = [worker for worker in status.workers if not status.holders.works(where, worker)]
    if dead:
        yield f"workers ended without a word: {', '.join(f'{one.command} (run {one.run_id})' for one in dead)}"
    if queue is not None and queue.abandoned:
        yield f"{words.counted(queue.abandoned, 'job')} of workers that are gone"
    if queue is not None and queue.waiting:
        yield f"{words.counted(queue.waiting, 'job')} due for a quarter of an hour or more"
    planned = any(race.planned_at is not None and race.current for race in status.races)
    if planned and not status.holders.leads(where):
        yield "races are planned, and no scheduler runs"


def quarantine(status: Status) -> Finding:
    """Records that could not be stored."""
    count = sum(race.quarantined for race in status.races) + sum(status.unlisted_quarantine.values())
    if not count:
        return Finding("quarantine", Verdict.PASS, "empty")
    races = [race for race in status.races if race.quarantined]
    of = f" of {_named(races)}" if races else " of race lists"
    said = f"{words.counted(count, 'record')}{of} could not be stored"
    return Finding("quarantine", Verdict.WARN, said, "startlist quarantine list; after an upgrade: quarantine retry")


def suspicions(status: Status) -> Finding:
    """Registrations that vanished in suspicious number."""
    waiting = [race for race in status.races if race.suspicion is not None]
    if not waiting:
        return Finding("suspicions", Verdict.PASS, "none waits for a decision")
    said = f"registrations vanished from RunSignup's list of {_named(waiting)}, and nothing was marked"
    first = waiting[0]
    todo = (
        "look in RunSignup whether that is right; if so: startlist sync --timing-partner"
        f" {first.timing_partner_id} --race {first.race_id} --accept-missing"
    )
    return Finding("suspicions", Verdict.WARN, said, todo)


def _named(races: list[RaceState]) -> str:
    names = [f"{words.named(race.name, race.race_id)} ({race.race_id})" for race in races[:NAMED]]
    more = len(races) - NAMED
    return ", ".join(names + ([f"{more} more"] if more > 0 else []))
