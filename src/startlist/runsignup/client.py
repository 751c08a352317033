"""RunSignup's feeds as typed pages: races, a race, participants, removed participants, a bib."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import date
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import httpx2

from startlist.errors import BadAnswer, ConfigurationError
from startlist.runsignup.answers import (
    Body,
    Rows,
    WrongShapeError,
    latest_change,
    read_one_race,
    read_races,
    read_removal,
    read_rows,
)
from startlist.runsignup.paging import ROUND, NoProgressError, Position, following
from startlist.runsignup.records import BadRecord, Race, Registration, Removal
from startlist.runsignup.registrations import RawRegistration
from startlist.runsignup.transport import (
    CallerRegistration,
    Credential,
    Gate,
    ProcessGate,
    Retries,
    Transport,
    http_client,
)

R = TypeVar("R", RawRegistration, Removal)

DEFAULT_URL: Final = "https://api.runsignup.com/rest"
PARTICIPANTS_PER_PAGE: Final = 2500
REMOVED_PER_PAGE: Final = 1000
RACES_PER_PAGE: Final = 1000

_OPTIONAL_PARTS: Final = {
    "supports_nb": "T",  # without it the gender of a non-binary runner comes as null
    "include_questions": "T",
    "include_registration_addons": "T",
    "include_corrals": "T",
    "include_user_anonymous_flag": "T",
}
_process_gate = ProcessGate()


@dataclass(frozen=True, slots=True)
class RacesPage:
    """One answer of the race list: races not seen on an earlier page, and records that cannot be stored."""

    races: list[Race]
    bad: list[BadRecord]


@dataclass(frozen=True, slots=True)
class FeedPage(Generic[R]):
    """One answer of a race's feed.

    `event_id` is the event asked alone, None when all were asked at once. The page covers the ids after `after` up to
    `up_to`, without end when that is None; with `complete_range`, an id in that range that is not on the page is not in
    RunSignup's list. `next` is where to go on, and the checkpoint; None when the feed is complete. `candidate` is
    RunSignup's clock in epoch seconds before it made this answer, a watermark if it was the first one.
    """

    event_id: int | None
    after: int
    up_to: int | None
    rows: list[R]
    bad: list[BadRecord]
    next: Position | None
    complete_range: bool
    candidate: int | None
    nbytes: int


ParticipantsPage = FeedPage[RawRegistration]
RemovedPage = FeedPage[Removal]


class RunSignup:
    """A client of RunSignup's API for one credential.

    `gate` grants each attempt; by default two of the process at once. `http` may be shared by several clients, see
    `http_client`; one that is made here is closed here: use `async with`, or `aclose`.
    All methods raise the errors of `RunSignupError`'s tree.
    """

    def __init__(
        self,
        credential: Credential,
        *,
        url: str = DEFAULT_URL,
        registration: CallerRegistration | None = None,
        gate: Gate = _process_gate,
        http: httpx2.AsyncClient | None = None,
        retries: Retries = Retries(),  # noqa: B008 (it is frozen)
    ) -> None:
        self._own_http: httpx2.AsyncClient | None = None
        if http is None:
            http = self._own_http = http_client()
        self._transport = Transport(
            credential,
            url=url,
            http=http,
            registration=registration,
            gate=gate,
            retries=retries,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that this client opened for itself."""
        if self._own_http is not None:
            await self._own_http.aclose()

    async def races(self, *, start_date: date) -> AsyncIterator[RacesPage]:
        """All races that the credential lists from a day on, with their most current events, page by page.

        A legacy key that is wrong lists every public race: the list proves nothing about the credential.
        """
        seen: set[int] = set()
        page = 0
        while True:
            page += 1
            answer = await self._transport.call(
                "races",
                "/races",
                {
                    "events": "T",
                    "start_date": start_date.isoformat(),
                    "page": str(page),
                    "results_per_page": str(RACES_PER_PAGE),
                },
                _read_races,
            )
            races, bad = answer.value
            rows = len(races) + len(bad)
            new = {race.race_id: race for race in races if race.race_id not in seen}
            last = rows < RACES_PER_PAGE and (rows == 0 or rows % ROUND != 0)
            if rows and not new and not last:
                raise BadAnswer("the race list goes on with a page that has no new race in it")
            seen.update(new)
            yield RacesPage(list(new.values()), bad)
            if last:
                return

    async def race(self, race_id: int, *, future_events_only: bool = False) -> Race:
        """A race with its events of all years, or those still to come."""
        answer = await self._transport.call(
            "race",
            f"/race/{race_id:d}",
            {"future_events_only": "T"} if future_events_only else {},
            lambda body: (_this_race(body, race_id), 1),
            race_id=race_id,
        )
        return answer.value

    def participants(
        self,
        race_id: int,
        event_ids: Iterable[int],
        *,
        modified_after: int | None = None,
        start: Position | None = None,
    ) -> AsyncIterator[ParticipantsPage]:
        """The registrations of events, by registration id.

        With `modified_after` only those changed since that epoch second, inclusive. `start` goes on from the `next`
        of an earlier page. Raises `BadAnswer` when paging makes no progress.
        """
        return self._feed(
            race_id,
            start or Position.first(event_ids),
            _parameters(modified_after, PARTICIPANTS_PER_PAGE, _OPTIONAL_PARTS),
            "participants",
            PARTICIPANTS_PER_PAGE,
            RawRegistration,
        )

    def removed_participants(
        self,
        race_id: int,
        event_ids: Iterable[int],
        *,
        modified_after: int | None = None,
        start: Position | None = None,
    ) -> AsyncIterator[RemovedPage]:
        """The registrations that left these events, as for `participants`."""
        return self._feed(
            race_id,
            start or Position.first(event_ids),
            _parameters(modified_after, REMOVED_PER_PAGE, {"supports_nb": "T"}),
            "removed-participants",
            REMOVED_PER_PAGE,
            read_removal,
        )

    async def search_bib(self, race_id: int, event_ids: Iterable[int], bib: str) -> list[Registration]:
        """What RunSignup finds for a bib in these events.

        It searches for numbers only: others raise `ConfigurationError`.
        """
        if not (bib.isascii() and bib.isdigit()):
            raise ConfigurationError("RunSignup searches only for bibs that are a number")
        position = Position.first(event_ids)
        answer = await self._transport.call(
            "search-bib",
            f"/race/{race_id:d}/participants",
            {
                **_parameters(None, PARTICIPANTS_PER_PAGE, _OPTIONAL_PARTS),
                "event_id": _listed(position.asked()),
                "search_bib": bib,
            },
            _rows_reader("search-bib", RawRegistration),
            race_id=race_id,
        )
        return [row.decode() for row in answer.value.rows]

    async def _feed(
        self,
        race_id: int,
        position: Position,
        parameters: dict[str, str],
        endpoint: str,
        per_page: int,
        make: Callable[..., R],
    ) -> AsyncIterator[FeedPage[R]]:
        read = _rows_reader(endpoint, make)
        upcoming: Position | None = position
        while upcoming is not None:
            page = await self._page(race_id, upcoming, parameters, endpoint, per_page, read)
            upcoming = page.next
            yield page
            del page  # its body is megabytes: not to be held while the next is on its way

    async def _page(
        self,
        race_id: int,
        position: Position,
        parameters: dict[str, str],
        endpoint: str,
        per_page: int,
        read: Callable[[Body], tuple[Rows[R], int]],
    ) -> FeedPage[R]:
        cursor = {"after_registration_id": str(position.after)} if position.after else {}
        answer = await self._transport.call(
            endpoint,
            f"/race/{race_id:d}/{endpoint}",
            {**parameters, "event_id": _listed(position.asked()), **cursor},
            read,
            race_id=race_id,
        )
        found = answer.value
        try:
            upcoming = following(position, found.tally, per_page)
        except NoProgressError:
            raise BadAnswer("RunSignup ignores the cursor: no row of its answer lies behind it") from None
        last = found.tally.is_last(per_page)
        candidate = answer.asked_at
        if candidate is None:
            candidate = latest_change(row.raw for row in found.rows)
        return FeedPage(
            event_id=position.event_id,
            after=position.after,
            up_to=None if last else found.tally.largest_id,
            rows=found.rows,
            bad=found.bad,
            next=upcoming,
            complete_range=not found.strays and (position.event_id is not None or last),
            candidate=candidate,
            nbytes=answer.nbytes,
        )


def _parameters(modified_after: int | None, per_page: int, parts: dict[str, str]) -> dict[str, str]:
    parameters = {"sort": "registration_id ASC", "results_per_page": str(per_page), **parts}
    if modified_after is not None:
        parameters["modified_after_timestamp"] = str(max(0, int(modified_after)))
    return parameters


def _listed(event_ids: tuple[int, ...]) -> str:
    return ",".join(str(int(event_id)) for event_id in event_ids)


def _rows_reader(endpoint: str, make: Callable[..., R]) -> Callable[[Body], tuple[Rows[R], int]]:
    def read(body: Body) -> tuple[Rows[R], int]:
        rows = read_rows(body, endpoint, make)
        return rows, rows.tally.rows

    return read


def _read_races(body: Body) -> tuple[tuple[list[Race], list[BadRecord]], int]:
    races, bad = read_races(body, "races")
    return (races, bad), len(races) + len(bad)


def _this_race(body: Body, race_id: int) -> Race:
    race = read_one_race(body, "race")
    if race.race_id != race_id:
        raise WrongShapeError("another race than the one asked for")
    return race
