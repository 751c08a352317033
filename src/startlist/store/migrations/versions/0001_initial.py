"""The tables of the main job."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0001"
down_revision = None


def upgrade() -> None:
    execute(__file__)
