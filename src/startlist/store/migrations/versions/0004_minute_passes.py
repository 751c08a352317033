"""Whose minute passes are read in full, and since when."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    execute(__file__)
