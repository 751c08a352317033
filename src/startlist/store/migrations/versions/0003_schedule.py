"""When each race is due, and each race list."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    execute(__file__)
