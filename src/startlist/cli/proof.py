"""The demo's proof: every registration in the store, field by field, against what the sandbox would send."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from startlist.sandbox import Control
from startlist.store.database import Database, translated
from startlist.store.demo import StoredRows, owners, stored_rows
from startlist.store.reading import prepare

EASTERN = ZoneInfo("America/New_York")  # RunSignup's own zone, that of `registration_date`
SHOWN = 10  # differences that are told one by one

_PERSON = ("user_id", "first_name", "middle_name", "last_name", "email", "phone", "gender", "address")
_TEAM = ("team_id", "team_name", "team_type_id", "team_type", "team_gender", "team_bib_num")
_MONEY = (
    "race_fee", "offline_payment_amount", "processing_fee", "processing_fee_paid_by_user",
    "processing_fee_paid_by_race", "partner_fee", "affiliate_profit", "extra_fees", "amount_paid",
    "usatf_discount_amount_in_cents",
)  # fmt: skip
_TRANSACTION = ("rsu_transaction_id", "transaction_id")
_COLUMNS = ("registration_id", "event_id", "bib_num", "chip_num", "age", "registration_date", "last_modified")
# The truth has every flag on; these flags a sync does not ask for.
_NOT_ASKED = ("registration_notes", "est_finish_time")
_NOT_IN_REST = {"user", *_TEAM, *_MONEY, *_TRANSACTION, *_COLUMNS, *_NOT_ASKED}
_NOT_IN_USER = {*_PERSON, "dob", "profile_image_url"}


@dataclass
class Proof:
    """What was compared; a difference names race, event, registration and field, never a value."""

    races: int = 0
    events: int = 0
    active: int = 0
    removed: int = 0
    values: int = 0
    different: int = 0
    differences: list[str] = field(default_factory=list)

    def differs(self, where: str) -> None:
        """Count a difference, and keep the first few."""
        self.different += 1
        if len(self.differences) < SHOWN:
            self.differences.append(where)


async def prove(database: Database, control: Control) -> Proof:
    """Compare all events still to come, and all others that were read, with the sandbox's truth."""
    proof = Proof()
    coming = control.summary()["future"]
    with translated():
        async with await database.connect(name="startlist demo") as conn:
            prepare(conn)
            partners = await owners(conn)
            for race_id in sorted(set(partners) | {race_id for race_id, events in coming.items() if events}):
                if race_id not in partners:
                    proof.differs(f"race {race_id}: not stored")
                    continue
                stored = await stored_rows(conn, partners[race_id], race_id)
                _compare_race(proof, race_id, control.truth(race_id)["events"], stored, set(coming.get(race_id, ())))
    return proof


def _compare_race(proof: Proof, race_id: int, truth: Mapping[int, Any], stored: StoredRows, coming: set[int]) -> None:
    proof.races += 1
    for event_id in sorted(coming - stored.covered):
        proof.differs(f"race {race_id}, event {event_id}: never read in full")
    left = dict(stored.registrations)
    for event_id in sorted(stored.covered):
        where = f"race {race_id}, event {event_id}"
        rows = truth.get(event_id, {"active": [], "removed": []})
        proof.events += 1
        proof.active += len(rows["active"])
        proof.removed += len(rows["removed"])
        for kind, expected in (("active", _active), ("removed", _removed)):
            for sent in rows[kind]:
                number = sent["registration_id"]
                row = left.pop((event_id, number), None)
                if row is None:
                    proof.differs(f"{where}, registration {number}: not stored")
                    continue
                wanted = expected(sent)
                proof.values += len(sent) + len(sent["user"])
                if any(row[name] != value for name, value in wanted.items()):
                    for name in (name for name, value in wanted.items() if row[name] != value):
                        proof.differs(f"{where}, registration {number}: {name}")
    for event_id, number in left:
        proof.differs(
            f"race {race_id}, event {event_id}, registration {number}: stored, and RunSignup does not have it"
        )


def _active(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a registration as sent: what is in none of them is in `additional_data` under its own name."""
    rest = {name: value for name, value in sent.items() if name not in _NOT_IN_REST}
    user = sent["user"]
    if more := {name: value for name, value in user.items() if name not in _NOT_IN_USER}:
        rest["user"] = more
    month, day, year, hour, minute = map(int, re.split("[/ :]", sent["registration_date"]))
    bib, chip, born = sent["bib_num"], sent["chip_num"], user["dob"]
    return {
        **{name: user[name] for name in _PERSON},
        "dob": date.fromisoformat(born) if born else None,
        "age": sent["age"],
        "bib_num": None if bib is None else str(bib),
        "chip_num": None if chip is None else str(chip),
        "registration_date": datetime(year, month, day, hour, minute, tzinfo=EASTERN).astimezone(UTC),
        "last_modified": datetime.fromtimestamp(sent["last_modified"], UTC),
        "team_info": {name: sent[name] for name in _TEAM if name in sent} or None,
        "payment_info": {name: _amount(sent[name]) for name in _MONEY} | {name: sent[name] for name in _TRANSACTION},
        "additional_data": rest,
        "field_errors": [],
        "removed_at": None,
        "missing_since": None,
    }


def _removed(sent: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "removal": sent,
        "removed_at": datetime.fromtimestamp(sent["last_modified_ts"], UTC),
        "removed_reason": sent["removed_reason"],
        "new_registration_id": sent.get("new_registration_id"),
    }


def _amount(text: str | None) -> Decimal | None:
    """`-$1,055.00` as a number."""
    return None if text is None else Decimal(text.replace("$", "").replace(",", ""))
