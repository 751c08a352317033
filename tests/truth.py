"""What the database should hold: the sandbox's truth, mapped by a second reading of the public contract.

Nothing of the client or of the store is used here: whoever misreads a field is found out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from startlist.sandbox.control import Control

Row = dict[str, Any]
Connection = psycopg.Connection[tuple[Any, ...]]

_EASTERN = ZoneInfo("America/New_York")
_NOT_ASKED_FOR = {"registration_notes", "est_finish_time"}
_NOT_ASKED_FOR_OF_USER = {"profile_image_url"}
_FEES = (
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
_TRANSACTIONS = ("rsu_transaction_id", "transaction_id")
_USER_COLUMNS = ("user_id", "first_name", "middle_name", "last_name", "email", "phone", "gender", "dob", "address")
_OWN_COLUMNS = ("registration_id", "event_id", "age", "bib_num", "chip_num", "registration_date", "last_modified")


@dataclass(slots=True)
class EventTruth:
    """An event's registrations by id: their columns if active, the removed record as sent if not."""

    active: dict[int, Row] = field(default_factory=dict)
    removed: dict[int, Row] = field(default_factory=dict)


def columns(row: Mapping[str, Any]) -> Row:
    """The columns of `runsignup_participants` that an active registration as sent has to fill."""
    user = row["user"]
    registered = datetime.strptime(row["registration_date"], "%m/%d/%Y %H:%M").replace(tzinfo=_EASTERN)
    bib = row["bib_num"]
    rest = {
        name: value
        for name, value in row.items()
        if name not in (*_OWN_COLUMNS, *_FEES, *_TRANSACTIONS, *_NOT_ASKED_FOR, "user") and not name.startswith("team_")
    }
    more = {name: user[name] for name in user if name not in (*_USER_COLUMNS, *_NOT_ASKED_FOR_OF_USER)}
    return {
        **{name: user[name] for name in _USER_COLUMNS},
        "dob": None if user["dob"] is None else date.fromisoformat(user["dob"]),
        "age": row["age"],
        "bib_num": None if bib is None else str(bib),
        "chip_num": row["chip_num"],
        "registration_date": registered.astimezone(UTC),
        "last_modified": None if row["last_modified"] is None else datetime.fromtimestamp(row["last_modified"], UTC),
        "team_info": {name: value for name, value in row.items() if name.startswith("team_")},
        "payment_info": {name: _amount(row[name]) for name in _FEES if name in row}
        | {name: row[name] for name in _TRANSACTIONS if name in row},
        "additional_data": rest | ({"user": more} if more else {}),
        "field_errors": [],
    }


def _amount(sent: Any) -> Any:
    found = re.fullmatch(r"(-?)\$([0-9,]+\.[0-9]{2})", sent) if isinstance(sent, str) else None
    return Decimal(found[1] + found[2].replace(",", "")) if found else sent


def truth(control: Control, race_id: int) -> dict[int, EventTruth]:
    """What RunSignup has of a race, by event. Who is in both lists is where the later time says; a tie is removed."""
    found: dict[int, EventTruth] = {}
    for event_id, rows in control.truth(race_id)["events"].items():
        event = found[event_id] = EventTruth(removed={row["registration_id"]: row for row in rows["removed"]})
        for row in rows["active"]:
            removal = event.removed.get(row["registration_id"])
            if removal is None or (row["last_modified"] or 0) > removal["last_modified_ts"]:
                event.removed.pop(row["registration_id"], None)
                event.active[row["registration_id"]] = columns(row)
    return found


def stored(conn: Connection, timing_partner_id: int, event_ids: Iterable[int]) -> dict[int, dict[int, Row]]:
    """The stored registrations, by event and id."""
    found: dict[int, dict[int, Row]] = {event_id: {} for event_id in event_ids}
    with conn.cursor(row_factory=dict_row) as cursor:
        set_json_loads(lambda text: json.loads(text, parse_float=Decimal), cursor)
        cursor.execute(
            "select * from runsignup_participants where timing_partner_id = %s and event_id = any(%s)",
            [timing_partner_id, list(found)],
        )
        for row in cursor:
            found[row["event_id"]][row["registration_id"]] = row
    return found


def differences(
    conn: Connection,
    control: Control,
    *,
    unsettled: Collection[int] = (),
    unfinished: bool = False,
    covered_by: str = "sync_cursors",
) -> list[str]:
    """Where the database differs from the truth, over all events that the stored watermarks cover.

    Or those that a backfill has read, by its table `backfill_progress`.

    Registrations in `unsettled` are passed over: those of which RunSignup does not tell before the next full pass.
    Events that RunSignup no longer lists are not compared. `unfinished`: in mid-pass, so all events of each race are
    looked at, and nothing is wrong with what is not stored yet.
    """
    found: list[str] = []
    covered = conn.execute(f"select timing_partner_id, race_id, event_ids from {covered_by}".encode()).fetchall()
    for timing_partner_id, race_id, event_ids in covered:
        sent = truth(control, race_id)
        events = sent.keys() if unfinished else sent.keys() & set(event_ids)
        for event_id, rows in stored(conn, timing_partner_id, events).items():
            known = (
                rows.keys()
                if unfinished
                else rows.keys() | sent[event_id].active.keys() | sent[event_id].removed.keys()
            )
            for registration_id in sorted(known - set(unsettled)):
                where = f"race {race_id}, event {event_id}, registration {registration_id}"
                wrong = _differing(rows.get(registration_id), sent[event_id], registration_id)
                found += [f"{where}: {what}" for what in wrong]
    return found


def _differing(row: Row | None, event: EventTruth, registration_id: int) -> list[str]:
    active, removal = event.active.get(registration_id), event.removed.get(registration_id)
    if row is None:
        return ["not stored"]
    if active is not None:
        wrong = [f"{name} is {row[name]!r}, not {value!r}" for name, value in active.items() if row[name] != value]
        wrong += [
            f"active, but {name} is {row[name]!r}"
            for name in ("removed_at", "removed_reason", "new_registration_id", "removal", "missing_since")
            if row[name] is not None
        ]
        return wrong
    if removal is not None:
        return _differing_removal(row, removal)
    if row["missing_since"] is None and row["removed_at"] is None:
        return ["on the start list unmarked, though RunSignup lists it nowhere"]
    return []


def _differing_removal(row: Row, removal: Row) -> list[str]:
    wrong = []
    if row["removed_at"] is None or row["removed_at"].timestamp() > removal["last_modified_ts"]:
        wrong.append(f"removed, but removed_at is {row['removed_at']!r}")
    if row["missing_since"] is not None:
        wrong.append("removed, but marked as missing")
    wrong += [
        f"{name} is {row[name]!r}, not {removal[name]!r}"
        for name in ("removed_reason", "new_registration_id")
        if row[name] != removal[name]
    ]
    # The removed record does not touch the columns, so it is compared as it was kept: whole.
    if row["removal"] != removal:
        wrong.append("the removed record is not kept as sent")
    return wrong


def rows_of(conn: Connection, table: str) -> list[Row]:
    """All rows of a table, in the order of its first column."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.SQL("select * from {} order by 1").format(sql.Identifier(table))).fetchall()
