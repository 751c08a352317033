"""Which races the schedule knows: it looks only at those that are new to it, however many are stored."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    execute(__file__)
