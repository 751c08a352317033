"""The replaced system's names, for reports that are pointed at them."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    execute(__file__)
