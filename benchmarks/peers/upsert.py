"""A plain upsert: `executemany` of an `insert ... on conflict do update`, which psycopg pipelines, a page at a time.

    python -m benchmarks.peers.upsert DATABASE-URL API-URL KEY SECRET [--compare]

With `--compare` rows whose `last_modified` is as stored are not written (and silent edits are missed); PostgreSQL
still locks each of them.
"""

from __future__ import annotations

import json
import sys

import psycopg

from benchmarks.peers.api import pages
from benchmarks.peers.registrations import COLUMNS, KEY, table

SCHEMA = "peer_upsert"
UPSERT = (
    f"insert into {SCHEMA}.participants as t values ({', '.join(f'%({name})s' for name in COLUMNS)})"
    f" on conflict ({', '.join(KEY)}) do update"
    f" set {', '.join(f'{name} = excluded.{name}' for name in COLUMNS if name not in KEY)}"
)
COMPARE = " where t.last_modified is distinct from excluded.last_modified"


def main(database: str, api: str, key: str, secret: str, *, compare: bool) -> None:
    """Load all races and print what was done."""
    counts = {"rows": 0, "written": 0}
    statement = UPSERT + COMPARE if compare else UPSERT
    with psycopg.connect(database) as conn:
        conn.execute(table(SCHEMA))
        for rows in pages(api, key, secret):
            if rows:
                with conn.cursor() as cursor:
                    cursor.executemany(statement, rows)
                    counts["written"] += cursor.rowcount
                conn.commit()
            counts["rows"] += len(rows)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:5], compare="--compare" in sys.argv)
