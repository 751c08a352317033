"""The table that the peers fill, and how a registration becomes a row of it; needs nothing but Python itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

PER_PAGE = 2500
KEY = ("event_id", "registration_id")
JSON = ("address", "additional_data")
COLUMNS = {
    "event_id": "bigint",
    "registration_id": "bigint",
    "race_id": "bigint",
    "user_id": "bigint",
    "first_name": "text",
    "middle_name": "text",
    "last_name": "text",
    "email": "text",
    "phone": "text",
    "gender": "text",
    "dob": "text",
    "age": "bigint",
    "address": "jsonb",
    "bib_num": "text",
    "chip_num": "text",
    "registration_date": "text",
    "last_modified": "timestamptz",
    "additional_data": "jsonb",
}
PARTS = ("include_questions", "include_registration_addons", "include_corrals", "include_user_anonymous_flag")
_USER = ("user_id", "first_name", "middle_name", "last_name", "email", "phone", "gender", "dob")
_ROW = ("event_id", "registration_id", "age", "bib_num", "chip_num", "registration_date")
_NOT_REST = {*COLUMNS, "user"}


def table(schema: str) -> str:
    """The statement that makes the table, with the index that finding a registration needs."""
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    return (
        f"create schema if not exists {schema};"
        f" create table if not exists {schema}.participants ({columns}, primary key ({', '.join(KEY)}))"
    )


def page(event_id: int, after: int) -> dict[str, str | int]:
    """The parameters of the call for an event's next page."""
    return {
        **dict.fromkeys(PARTS, "T"),
        "event_id": event_id,
        "results_per_page": PER_PAGE,
        "sort": "registration_id ASC",
        "after_registration_id": after,
    }


def columns(row: dict[str, Any], race_id: int) -> dict[str, Any]:
    """The registration's columns; what has none goes to `additional_data`. JSON columns hold objects, not text."""
    user = row["user"]
    taken = {name: row.get(name) for name in _ROW} | {name: user.get(name) for name in _USER}
    taken["race_id"] = race_id
    taken["address"] = user.get("address")
    taken["last_modified"] = datetime.fromtimestamp(row["last_modified"], UTC)
    taken["additional_data"] = {name: value for name, value in row.items() if name not in _NOT_REST}
    return taken
