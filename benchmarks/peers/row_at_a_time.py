"""Row at a time: for each registration a SELECT by its key, then an INSERT or an UPDATE.

    python -m benchmarks.peers.row_at_a_time DATABASE-URL API-URL KEY SECRET [--compare]

How the script collections do it that Startlist replaces. It is spared what they do besides (a commit per row, a SELECT
without an index): it commits once a page, its table has the primary key it needs, psycopg prepares its statements,
pages are as large, and it reads no removals. With `--compare` rows whose `last_modified` is as stored are not updated
(and silent edits are missed).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import psycopg

from benchmarks.peers.api import pages
from benchmarks.peers.registrations import COLUMNS, KEY, table

SCHEMA = "peer_row"
BY_KEY = " and ".join(f"{name} = %({name})s" for name in KEY)
FIND = f"select last_modified from {SCHEMA}.participants where {BY_KEY}"
INSERT = f"insert into {SCHEMA}.participants values ({', '.join(f'%({name})s' for name in COLUMNS)})"
UPDATE = (
    f"update {SCHEMA}.participants set {', '.join(f'{name} = %({name})s' for name in COLUMNS if name not in KEY)}"
    f" where {BY_KEY}"
)


def main(database: str, api: str, key: str, secret: str, *, compare: bool) -> None:
    """Load all races row by row and print what was done."""
    counts = {"rows": 0, "inserted": 0, "updated": 0}
    with psycopg.connect(database) as conn:
        conn.execute(table(SCHEMA))
        for rows in pages(api, key, secret):
            for row in rows:
                store(conn, row, counts, compare=compare)
            conn.commit()
    print(json.dumps(counts))


def store(conn: psycopg.Connection[Any], row: dict[str, Any], counts: dict[str, int], *, compare: bool) -> None:
    """Look whether the row is there, then insert or update it."""
    counts["rows"] += 1
    found = conn.execute(FIND, row).fetchone()
    if found is None:
        conn.execute(INSERT, row)
        counts["inserted"] += 1
    elif not compare or found[0] != row["last_modified"]:
        conn.execute(UPDATE, row)
        counts["updated"] += 1


if __name__ == "__main__":
    main(*sys.argv[1:5], compare="--compare" in sys.argv)
