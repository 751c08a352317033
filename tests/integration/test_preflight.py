"""The checks before a race: a sound start list passes all, and each fault is found by its own check."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from startlist.store.database import Database
from startlist.store.preflight import Checked, day_events, run_checks
from startlist.store.reading import reader
from tests.stored import Stored

RACE, TEN, FIVE = 10, 101, 102


@pytest.fixture
def stored(database: Database, database_url: str) -> Iterator[Stored]:
    """A race with two events tomorrow, three sound runners in each; the first runs both, with one bib."""
    filler = Stored(database_url)
    filler.race(filler.partner("Acme", "key"), RACE)
    filler.event(1, RACE, TEN, "1 day", "10K")
    filler.event(1, RACE, FIVE, "1 day", "5K")
    filler.cursor(1, RACE, [TEN, FIVE])
    for event in (TEN, FIVE):
        for number in range(1, 4):
            user = number if event == TEN or number == 1 else number + 50
            name = f"Runner{user}"
            bib = str(user)
            filler.registration(
                1, RACE, event, event * 10 + number, user_id=user, first_name=name, last_name="Sound", bib_num=bib,
                chip_num=f"C{bib}", gender="F", age=30, dob="1996-01-01",
            )  # fmt: skip
    yield filler
    filler.close()


async def checked(database: Database, *, limit: int | None = None) -> dict[str, Checked]:
    async with reader(database) as conn:
        events = [event.event_id for event in await day_events(conn, 1, RACE)]
        return {one.check: one for one in await run_checks(conn, 1, RACE, events, limit=limit)}


def change(columns: str, registration: int) -> Callable[[Stored], object]:
    return lambda stored: stored.conn.execute(
        f"update runsignup_participants set {columns} where registration_id = {registration}".encode()
    )


def moved(stored: Stored) -> None:
    stored.bib(1, RACE, TEN, 1012, "changed", old_bib="3", new_bib="2")


def bib_of_removed(stored: Stored) -> None:
    stored.registration(1, RACE, TEN, 1019, user_id=99, first_name="Gone", bib_num="3", removed_at=stored.at("-1 day"))


def transferred(stored: Stored) -> None:
    stored.registration(1, RACE, TEN, 1019, removed_at=stored.at("-1 day"), removed_reason="transferred",
                        new_registration_id=7777)  # fmt: skip


def quarantined(stored: Stored) -> None:
    stored.insert("runsignup_quarantine", timing_partner_id=1, race_id=RACE, event_id=TEN, endpoint="participants",
                  reason="user is not an object", raw="{}", raw_hash=b"1")  # fmt: skip


def again(columns: str) -> Callable[[Stored], object]:
    """The second runner of the 10K once more, differing in something."""

    def plant(stored: Stored) -> None:
        stored.registration(1, RACE, TEN, 1015, user_id=2, first_name="runner2 ", last_name="SOUND", bib_num="88",
                            chip_num="C88", gender="F", age=30, dob="1996-01-01")  # fmt: skip
        change(columns, 1015)(stored)

    return plant


FAULTS: dict[str, tuple[str, set[int | None], Callable[[Stored], object]]] = {
    "bib": ("duplicate_bibs", {1011, 1021, 1013}, change("bib_num = '1'", 1013)),
    "chip": ("duplicate_chips", {1012, 1022}, change("chip_num = 'C2'", 1022)),
    "moved by the log": ("moved_bibs", {1013}, moved),
    "moved from a removed one": ("moved_bibs", {1013}, bib_of_removed),
    "no bib": ("without_bib", {1023}, change("bib_num = null, chip_num = null", 1023)),
    "no gender": ("without_category", {1012}, change("gender = null", 1012)),
    "blank gender": ("without_category", {1012}, change("gender = ' '", 1012)),
    "no age": ("without_category", {1012}, change("age = null, dob = null", 1012)),
    "twice by user": ("twice", {1012, 1015}, again("dob = null")),
    "twice by birthday": ("twice", {1012, 1015}, again("user_id = 77")),
    "transfer": ("transfers", {1019}, transferred),
    "unreadable": ("unreadable", {None}, quarantined),
    "vanished": ("vanished", {1021}, change("missing_since = now()", 1021)),
    "misfit": ("misfits", {1021}, change("field_errors = '{dob}'", 1021)),
}  # fmt: skip


async def test_a_sound_start_list_passes(stored: Stored, database: Database) -> None:
    found = await checked(database)
    assert {name: one.count for name, one in found.items() if not one.passed} == {}
    assert len(found) == 10


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_found_by_its_own_check(stored: Stored, database: Database, fault: str) -> None:
    check, people, plant = FAULTS[fault]
    plant(stored)
    found = await checked(database)
    assert [name for name, one in found.items() if not one.passed] == [check]
    assert {person.registration_id for person in found[check].people} == people
    assert found[check].count == len(people)


async def test_what_is_right_is_no_fault(stored: Stored, database: Database) -> None:
    # The successor of a transfer, in another race, and who took over the bib with the place.
    stored.race(1, 11)
    stored.event(1, 11, 111, "30 days")
    stored.registration(1, 11, 111, 7777)
    transferred(stored)
    stored.registration(1, RACE, TEN, 1018, bib_num="3", removed_at=stored.at("-1 day"), new_registration_id=1013)
    # A family of one account, twins among them; the same name with another birthday; removed ones.
    change("user_id = 2", 1013)(stored)
    change("first_name = 'Runner2', user_id = 3, dob = '1990-02-02'", 1013)(stored)
    stored.registration(1, RACE, TEN, 1020, bib_num=None, removed_at=stored.at("-1 day"))
    # Other days and resolved records.
    stored.event(1, RACE, 103, "3 days")
    stored.registration(1, RACE, 103, 1031)
    quarantined(stored)
    stored.conn.execute("update runsignup_quarantine set resolved_at = now()")
    found = await checked(database)
    assert {name: one.count for name, one in found.items() if not one.passed} == {}


async def test_the_lines_are_limited_and_all_are_counted(stored: Stored, database: Database) -> None:
    stored.conn.execute("update runsignup_participants set bib_num = null")
    found = (await checked(database, limit=2))["without_bib"]
    assert (found.count, len(found.people)) == (6, 2)


async def test_the_race_day_is_the_next_or_else_the_last(stored: Stored, database: Database) -> None:
    stored.event(1, RACE, 103, "-2 days")
    stored.event(1, RACE, 104, None)  # nobody knows that it is not on this day
    stored.event(1, RACE, 105, "1 day", gone_at=stored.at("-1 day"))
    stored.race(1, 11)
    for event, start in ((111, "-40 days"), (112, "-2 days"), (113, "-2 days")):
        stored.event(1, 11, event, start)
    async with reader(database) as conn:
        assert [event.event_id for event in await day_events(conn, 1, RACE)] == [TEN, FIVE, 104]
        assert [event.event_id for event in await day_events(conn, 1, 11)] == [112, 113]
        assert [event.event_id for event in await day_events(conn, 1, 11, 111)] == [111]
        assert await day_events(conn, 1, RACE, 999) == []
