"""What was proved complete, when, and by which calls."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    execute(__file__)
