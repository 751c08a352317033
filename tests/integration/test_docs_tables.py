"""docs/tables.md names every table and column that there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from startlist.store.database import Database

DOCUMENT = Path(__file__).parents[2] / "docs" / "tables.md"
COLUMNS = """
select table_name, array_agg(column_name::text)
from information_schema.columns where table_schema = %s group by table_name
"""


def documented() -> dict[str, list[str]]:
    """Table by table, the names in the first column of its section."""
    found: dict[str, list[str]] = {}
    for section in DOCUMENT.read_text("utf-8").split("\n### ")[1:]:
        name = re.match("`([a-z_]+)`", section)
        assert name, section.split("\n", 1)[0]
        cells = re.findall(r"^\| (`[^|]*) \|", section.split("\n## ", 1)[0], re.MULTILINE)
        found[name[1]] = [column for cell in cells for column in re.findall("`([a-z_]+)`", cell)]
    return found


async def test_every_table_and_column_is_documented(database: Database) -> None:
    async with await database.connect() as conn:
        there: dict[str, list[str]] = dict(await (await conn.execute(COLUMNS, [database.schema])).fetchall())
    told = documented()
    assert {name: sorted(columns) for name, columns in told.items()} == {
        name: sorted(columns) for name, columns in there.items()
    }
