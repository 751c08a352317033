"""The schema's revisions: numbered, additive first, in plain SQL beside the file that Alembic reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from alembic import op


def execute(revision_file: str) -> None:
    """Run the SQL file that stands beside a revision, under its name, in the upgrade's transaction."""
    raw: Any = op.get_bind().connection.driver_connection
    connection: psycopg.Connection[Any] = raw
    connection.execute(Path(revision_file).with_suffix(".sql").read_bytes())
