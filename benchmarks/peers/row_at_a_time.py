"""What is compared against: the plain way, row by row, a program of its own.

    python -m benchmarks.baseline DATABASE-URL API-URL KEY SECRET [--compare]

For each registration a SELECT by its key, then an INSERT or an UPDATE: how the script collections do it that Startlist
replaces. It is spared what they do besides (a commit per row, a SELECT without an index): it commits once a page, its
table has the primary key it needs, psycopg prepares its statements, pages are as large, and it reads no removals.
With `--compare` rows whose `last_modified` is as stored are not updated (and silent edits are missed).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import psycopg

TABLE = """
create schema if not exists baseline;
create table if not exists baseline.participants (
    event_id bigint, registration_id bigint, race_id bigint, user_id bigint, first_name text, middle_name text,
    last_name text, email text, phone text, gender text, dob text, age integer, address jsonb, bib_num text,
    chip_num text, registration_date text, last_modified timestamptz, additional_data jsonb,
    primary key (event_id, registration_id)
)
"""
FIND = "select last_modified from baseline.participants where event_id = %s and registration_id = %s"
INSERT = """
insert into baseline.participants values
    (%(event_id)s, %(registration_id)s, %(race_id)s, %(user_id)s, %(first_name)s, %(middle_name)s, %(last_name)s,
     %(email)s, %(phone)s, %(gender)s, %(dob)s, %(age)s, %(address)s, %(bib_num)s, %(chip_num)s,
     %(registration_date)s, %(last_modified)s, %(additional_data)s)
"""
UPDATE = """
update baseline.participants set
    race_id = %(race_id)s, user_id = %(user_id)s, first_name = %(first_name)s, middle_name = %(middle_name)s,
    last_name = %(last_name)s, email = %(email)s, phone = %(phone)s, gender = %(gender)s, dob = %(dob)s,
    age = %(age)s, address = %(address)s, bib_num = %(bib_num)s, chip_num = %(chip_num)s,
    registration_date = %(registration_date)s, last_modified = %(last_modified)s,
    additional_data = %(additional_data)s
where event_id = %(event_id)s and registration_id = %(registration_id)s
"""
PER_PAGE = 2500
PARTS = ("include_questions", "include_registration_addons", "include_corrals", "include_user_anonymous_flag")
USER = ("user_id", "first_name", "middle_name", "last_name", "email", "phone", "gender", "dob")
ROW = ("registration_id", "age", "bib_num", "chip_num", "registration_date")


def main(database: str, api: str, key: str, secret: str, *, compare: bool) -> None:
    """Sync all races row by row and print what was done, as JSON."""
    counts = {"rows": 0, "inserted": 0, "updated": 0, "calls": 0}
    parameters = {"format": "json", "api_key": key, "api_secret": secret, "supports_nb": "T"}
    with httpx2.Client(base_url=api, params=parameters, timeout=60) as http, psycopg.connect(database) as conn:
        conn.execute(TABLE)
        races = http.get("/races", params={"events": "T", "results_per_page": "1000"}).json()["races"]
        counts["calls"] += 1
        for listed in races:
            race = listed["race"]
            for event in race["events"]:
                for rows in pages(http, race["race_id"], event["event_id"], counts):
                    for row in rows:
                        store(conn, columns(row, race["race_id"]), counts, compare=compare)
                    conn.commit()
    print(json.dumps(counts))


def pages(http: httpx2.Client, race_id: int, event_id: int, counts: dict[str, int]) -> Iterator[list[dict[str, Any]]]:
    """The rows of an event, page by page."""
    after = 0
    while True:
        parameters: dict[str, str | int] = {
            **dict.fromkeys(PARTS, "T"),
            "event_id": event_id,
            "results_per_page": PER_PAGE,
            "sort": "registration_id ASC",
            "after_registration_id": after,
        }
        answer = http.get(f"/race/{race_id}/participants", params=parameters)
        counts["calls"] += 1
        rows = [row for element in answer.json() for row in element.get("participants", [])]
        yield rows
        if len(rows) < PER_PAGE:
            return
        after = max(row["registration_id"] for row in rows)


def columns(row: dict[str, Any], race_id: int) -> dict[str, Any]:
    """The row's columns; what has none goes to `additional_data`."""
    user = row["user"]
    taken = {"event_id": row["event_id"], "race_id": race_id} | {name: row.get(name) for name in ROW}
    taken |= {name: user.get(name) for name in USER}
    taken["address"] = json.dumps(user.get("address"))
    taken["last_modified"] = datetime.fromtimestamp(row["last_modified"], UTC)
    rest = {name: value for name, value in row.items() if name not in taken and name != "user"}
    taken["additional_data"] = json.dumps(rest)
    return taken


def store(conn: psycopg.Connection[Any], row: dict[str, Any], counts: dict[str, int], *, compare: bool) -> None:
    """Look whether the row is there, then insert or update it."""
    counts["rows"] += 1
    found = conn.execute(FIND, [row["event_id"], row["registration_id"]]).fetchone()
    if found is None:
        conn.execute(INSERT, row)
        counts["inserted"] += 1
    elif not compare or found[0] != row["last_modified"]:
        conn.execute(UPDATE, row)
        counts["updated"] += 1


if __name__ == "__main__":
    main(*sys.argv[1:5], compare="--compare" in sys.argv)
