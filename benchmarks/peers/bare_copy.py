"""The physical limit: one COPY of rows that lie ready in a file into a table that lies ready and has no index.

    python -m benchmarks.peers.bare_copy DATABASE-URL TABLE FILE

The file is what `COPY ... TO STDOUT (FORMAT binary)` gave of the table that Startlist had filled, so PostgreSQL stores
the same columns and values, once. It is not a sync: no HTTP, no JSON is read, nothing is compared, checked or indexed,
it is a single transaction, and a second run would store everything twice.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psycopg
from psycopg import sql

BLOCK = 1 << 18


def main(database: str, table: str, file: Path) -> None:
    """Send the file to PostgreSQL and print how many rows it held."""
    statement = sql.SQL("copy {} from stdin (format binary)").format(sql.Identifier(*table.split(".")))
    with psycopg.connect(database) as conn, conn.cursor() as cursor, file.open("rb") as data:
        with cursor.copy(statement) as copy:
            while block := data.read(BLOCK):
                copy.write(block)
        print(json.dumps({"rows": cursor.rowcount}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
