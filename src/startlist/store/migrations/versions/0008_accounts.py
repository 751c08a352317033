"""What each credential was shown to be good for, and when."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    execute(__file__)
