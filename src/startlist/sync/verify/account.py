"""The acceptance of an account: each credential shows that full passes, incremental ones and bibs can be relied on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from startlist.errors import CallerRefused, ConfigurationError, RunSignupError
from startlist.store import acceptance, cursors, history
from startlist.store.acceptance import KnownBib, PassOfRace
from startlist.store.partners import Credential
from startlist.store.registrations import Key
from startlist.sync.context import Context
from startlist.sync.credential import CredentialInUse, list_all, open_credentials
from startlist.sync.lookup import Verdict, lookup
from startlist.sync.plan import Options, wanted_events
from startlist.sync.summary import DONE, FAILED, PartnerSummary
from startlist.sync.verify.run import PATIENCE, sync_within

PASS, FAIL, NOT_SHOWN = "pass", "fail", "not_shown"
WINDOWS = {"24 hours": timedelta(hours=24), "7 days": timedelta(days=7), "30 days": timedelta(days=30)}
TRIES = 3  # races asked for a proof: so many refusals stop a credential


@dataclass(frozen=True, slots=True)
class Check:
    """One of a credential's checks. `found` says in a sentence what was seen, `figures` the same in numbers."""

    check: str
    result: str
    found: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Account:
    """A credential's checks, in the order in which they were made, and the id of their certificate."""

    timing_partner_id: int
    company_name: str
    credential_id: int
    principal: str
    started_at: datetime
    checks: list[Check] = field(default_factory=list)
    account_verification_id: int | None = None

    @property
    def result(self) -> str:
        """`fail` where a check failed, `not_shown` where none failed and there was nothing to show one with."""
        results = {one.result for one in self.checks}
        return next((result for result in (FAIL, NOT_SHOWN) if result in results), PASS)


@dataclass(slots=True)
class Acceptance:
    """The accounts of all credentials."""

    accounts: list[Account] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """As the contract has it. What there was nothing to show with is no failure."""
        return FAILED if any(account.result == FAIL for account in self.accounts) else DONE


async def accept(context: Context, options: Options) -> Acceptance:
    """Check each credential of the partners that the options select; with a race, by that race alone.

    Reads the future events in full and stores them, as a forced full sync does. Raises `ConfigurationError` when there
    is no credential or nobody has the race, `CallerRefused` when no call can succeed.
    """
    async with context.admin() as conn:
        context.run_id = run_id = await history.open_run(conn, "verify", "verify")
    status, done = "failed", Acceptance()
    try:
        for own in await open_credentials(context, options.timing_partner_id):
            partner = _Partner(context, options, own)
            await list_all(partner.works)
            if options.timing_partner_id is not None or partner.may_have(options.race_id):
                done.accounts += await partner.accept()
        if not done.accounts:
            raise ConfigurationError(
                f"race {options.race_id} is in no partner's list of races; if it is long over, say whose it is:"
                " --timing-partner ID"
            )
        status = "completed" if done.exit_status == DONE else "partial"
        return done
    finally:
        context.run_id = run_id
        await context.close_run(status, None)


class _Partner:
    """A timing partner's credentials, checked together: one full pass serves them all."""

    def __init__(self, context: Context, options: Options, own: list[Credential]) -> None:
        self.context = context
        self.options = Options(own[0].timing_partner_id, options.race_id, force_full=True, record_every=timedelta())
        self.partner = own[0].timing_partner_id
        first, told = options.list_from(context.now()), PartnerSummary(self.partner, own[0].company_name)
        self.works = [CredentialInUse(context, one, told, list_from=first, patience=PATIENCE) for one in own]

    def may_have(self, race_id: int | None) -> bool:
        """Whether a race is listed for it, as far as its lists could be read."""
        return race_id is None or any(race_id in work.listed or work.refusal for work in self.works)

    async def accept(self) -> list[Account]:
        """Every check of every credential, and their certificates; their race lists have been read."""
        began = self.context.now()
        accounts = [
            Account(self.partner, one.company_name, one.credential_id, one.principal, began)
            for one in (work.credential for work in self.works)
        ]
        for work, account in zip(self.works, accounts, strict=True):
            account.checks.append(await self._authentication(work))
        runs, errors = list[int](), list[str]()
        if any(account.result == PASS for account in accounts):
            runs, errors = await self._read_in_full()
        for work, account in zip(self.works, accounts, strict=True):
            if account.result == PASS:
                account.checks += await _Credential(self.context, work).checks(runs, errors)
            async with self.context.admin() as conn:
                account.account_verification_id = await acceptance.certify(
                    conn, self.context.run_id, work.key, began, account.result, [asdict(one) for one in account.checks]
                )
        return accounts

    async def _authentication(self, work: CredentialInUse) -> Check:
        """A race list proves nothing: with a key that RunSignup does not know it is the public one."""
        now, refused = self.context.now(), list[int]()
        for race_id, race in sorted(work.listed.items()):
            events = wanted_events(None, [race], self.options, now).event_ids
            if not events or self.options.race_id not in (None, race_id):
                continue
            accepted = await work.ask(race_id, events)
            if accepted:
                return Check(
                    "authentication", PASS, f"registrations of race {race_id} can be read", {"race_id": race_id}
                )
            if accepted is False:
                refused.append(race_id)
            if work.refusal or len(refused) == TRIES:
                break
        if work.refusal or refused:
            why = (
                work.refusal
                or f"it may not read {_races(refused)}: the key or its secret is wrong, or not this timer's"
            )
            return Check("authentication", FAIL, why, {"refused_race_ids": refused})
        if await work.prove():
            return Check("authentication", PASS, "registrations of a race that it read before can be read")
        why = work.refusal or "no race could be asked for its registrations, and a race list alone proves nothing"
        return Check("authentication", FAIL, why)

    async def _read_in_full(self) -> tuple[list[int], list[str]]:
        """Read the future events of all races; returns the runs, and what kept keys from being used.

        A race that another run held is read again alone.
        """
        done = await sync_within(self.context, self.options)
        runs = [done.run_id]
        errors = [error for partner in done.partners for error in partner.errors]
        for race in (race for partner in done.partners for race in partner.races):
            if race.outcome.status == "skipped" and done.error is None:
                done = await sync_within(self.context, replace(self.options, race_id=race.race_id))
                runs.append(done.run_id)
        if done.error is not None:
            raise done.error
        return runs, errors


class _Credential:
    """One credential's checks against what the full pass stored."""

    def __init__(self, context: Context, work: CredentialInUse) -> None:
        self.context = context
        self.work = work
        self.partner, self.credential_id = work.key

    async def checks(self, runs: Sequence[int], errors: Sequence[str]) -> list[Check]:
        """The full pass, the incremental filter and the bib search. `errors`: those of the runs, other keys' too."""
        mine = f"API key {self.work.credential.principal}:"
        own = [error for error in errors if error.startswith(mine) or not error.startswith("API key ")]
        async with self.context.admin() as conn:
            races = await acceptance.passes(conn, runs, self.credential_id)
            others = [race for race in await acceptance.passes(conn, runs, None) if race.race_id in self.work.listed]
            cost = await acceptance.cost(conn, runs, self.credential_id)
        read = _read(races)
        asked = read or _read(others)  # it takes over when the key that reads them is refused
        return [
            _full_pass(races, read, cost, own, shared=len(asked) - len(read)),
            *await self._filter(asked),
            await self._bib_search(asked),
        ]

    # -- the incremental filter --------------------------------------------------------------------------------------

    async def _filter(self, read: Sequence[PassOfRace]) -> list[Check]:
        """Ask for what changed in each window, race by race, beside what the store knows to have changed in it."""
        self.context.progress.partner_planned(self.partner, self.work.credential.company_name, len(read))
        now = self.context.now().replace(microsecond=0)  # the filter knows whole seconds only
        seen: dict[str, list[_Answer]] = {window: [] for window in WINDOWS}
        for race in read:
            for window, length in WINDOWS.items():
                seen[window].append(await self._twice(race, now - length))
            self.context.progress.race_verified(self.partner, race.race_id)
        return [_of_window(window, answers) for window, answers in seen.items()]

    async def _twice(self, race: PassOfRace, since: datetime) -> _Answer:
        """What does not agree is read once more, after a pass: it may have been changed meanwhile."""
        try:
            found = await self._ask(race, race.asked_at, since)
            if found.wrong:
                await sync_within(self.context, Options(self.partner, race.race_id))
                async with self.context.admin() as conn:
                    cursor = await cursors.load_cursor(conn, self.partner, race.race_id)
                found = await self._ask(race, cursor.participants_watermark, since)
        except CallerRefused:
            raise
        except RunSignupError as error:
            return _Answer(race.race_id, error=str(error))
        return found

    async def _ask(self, race: PassOfRace, asked_at: int | None, since: datetime) -> _Answer:
        on_call = partial(self.context.progress.call_made, self.partner, self.credential_id)
        gate = self.context.gate(self.work.credential, patience=PATIENCE, on_call=on_call)
        answered: dict[Key, datetime | None] = {}
        unreadable: set[Key] = set()
        client = self.context.client(self.work.credential, gate)
        pages = client.participants(race.race_id, race.event_ids, modified_after=int(since.timestamp()))
        async for page in pages:
            answered.update({(row.event_id, row.registration_id): row.decode().last_modified for row in page.rows})
            unreadable.update((b.event_id, b.registration_id) for b in page.bad if b.event_id and b.registration_id)
        async with self.context.admin() as conn:
            stored = await acceptance.changed_since(conn, self.partner, race.event_ids, since)
        newer = {key for key, changed in answered.items() if changed is None or _not_before(changed, asked_at)}
        return _Answer(
            race.race_id,
            answered=len(answered),
            stored=len(stored),
            newer=len(newer - stored.keys()),
            unanswered=sorted(stored.keys() - answered.keys() - unreadable),
            otherwise=sorted(key for key in answered.keys() - newer if stored.get(key) != answered[key]),
        )

    # -- the bib search ----------------------------------------------------------------------------------------------

    async def _bib_search(self, read: Sequence[PassOfRace]) -> Check:
        known = await self._known_bib(read)
        if known is None:
            return Check("bib search", NOT_SHOWN, "no registration of these events has a bib yet that is a number")
        try:
            if not await self._is_found(known):  # it may have been taken away meanwhile
                await sync_within(self.context, Options(self.partner, known.race_id))
                known = await self._known_bib(read) or known
                if not await self._is_found(known):
                    text = f"RunSignup does not find bib {known.bib_num} of race {known.race_id}"
                    return Check("bib search", FAIL, f"{text}, which the store has", asdict(known))
        except CallerRefused:
            raise
        except RunSignupError as error:
            return Check("bib search", FAIL, f"race {known.race_id}: {error}", asdict(known))
        text = f"bib {known.bib_num} of race {known.race_id} is registration {known.registration_id}, here and there"
        return Check("bib search", PASS, text, asdict(known))

    async def _known_bib(self, read: Sequence[PassOfRace]) -> KnownBib | None:
        async with self.context.admin() as conn:
            return await acceptance.known_bib(
                conn, self.partner, [number for race in read for number in race.event_ids]
            )

    async def _is_found(self, known: KnownBib) -> bool:
        found = await lookup(
            self.context, known.race_id, known.bib_num, self.partner, credential=self.work.credential, patience=PATIENCE
        )
        return any(
            (one.event_id, one.registration_id) == (known.event_id, known.registration_id)
            and one.verdict in (Verdict.SAME, Verdict.DIFFERS)
            for one in found.registrations
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the filter answered for one race. `newer`: changed since the pass, and so not stored yet.

    `unanswered`: stored as changed in the window, but not answered; `otherwise`: answered, but stored with another
    change, or as changed before the window.
    """

    race_id: int
    answered: int = 0
    stored: int = 0
    newer: int = 0
    unanswered: list[Key] = field(default_factory=list)
    otherwise: list[Key] = field(default_factory=list)
    error: str | None = None

    @property
    def wrong(self) -> bool:
        return bool(self.unanswered or self.otherwise)


def _read(races: Sequence[PassOfRace]) -> list[PassOfRace]:
    return [race for race in races if race.status in ("completed", "partial") and race.event_ids]


def _full_pass(
    races: Sequence[PassOfRace],
    read: Sequence[PassOfRace],
    cost: acceptance.Cost,
    errors: Sequence[str],
    *,
    shared: int,
) -> Check:
    figures: dict[str, Any] = {
        "races": len(read),
        "events": sum(len(race.event_ids) for race in read),
        "registrations": sum(race.registrations for race in read),
        "pages": cost.pages,
        "calls": cost.calls,
    }
    told = ", ".join(f"{number:,} {name}" for name, number in figures.items())
    bad = [race for race in races if race.status != "completed"]
    if bad:
        first = bad[0].error_message or "another run held it"
        figures |= {"not_complete": [race.race_id for race in bad]}
        return Check("full pass", FAIL, f"{told}; not complete: {_races([r.race_id for r in bad])} ({first})", figures)
    if errors:  # there may be races that nobody has heard of
        return Check("full pass", FAIL, f"{told}; {'; '.join(errors)}", figures)
    if not read:
        by_another = f"; {shared} that it lists are read with another key of the partner" if shared else ""
        return Check("full pass", NOT_SHOWN, f"no race with future events is read with it{by_another}", figures)
    return Check("full pass", PASS, told, figures)


def _of_window(window: str, answers: Sequence[_Answer]) -> Check:
    name = f"changed in {window}"
    figures: dict[str, Any] = {
        "answered": sum(one.answered for one in answers),
        "stored": sum(one.stored for one in answers),
        "newer": sum(one.newer for one in answers),
        "unanswered": sum(len(one.unanswered) for one in answers),
        "otherwise": sum(len(one.otherwise) for one in answers),
    }
    told = f"{figures['answered']:,} answered, the store knows {figures['stored']:,}"
    if figures["newer"]:
        told += f", and {figures['newer']:,} changed since it was read"
    problems = list(_problems(answers, figures))
    if problems:
        wrong = [one.race_id for one in answers if one.wrong or one.error]
        return Check(name, FAIL, f"{told}; {'; '.join(problems)}", figures | {"wrong_race_ids": wrong})
    if not figures["answered"]:
        return Check(name, NOT_SHOWN, f"{told}: nothing changed in that time that could show it", figures)
    return Check(name, PASS, told, figures)


def _problems(answers: Sequence[_Answer], figures: dict[str, Any]) -> Iterator[str]:
    for one in answers:
        if one.error is not None:
            yield f"race {one.race_id}: {one.error}"
    if figures["unanswered"]:
        races = _races([one.race_id for one in answers if one.unanswered])
        yield f"{figures['unanswered']:,} that changed were not answered ({races}): incremental passes lose changes"
    if figures["otherwise"]:
        races = _races([one.race_id for one in answers if one.otherwise])
        yield f"{figures['otherwise']:,} were answered that the store does not have as changed then ({races})"


def _not_before(changed: datetime, asked_at: int | None) -> bool:
    return asked_at is None or changed >= datetime.fromtimestamp(asked_at, UTC)


def _races(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - TRIES} more" if len(numbers) > TRIES else ""
    return f"race{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers[:TRIES]))}{more}"
