"""Where the backfill of each race's past stands."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    execute(__file__)
