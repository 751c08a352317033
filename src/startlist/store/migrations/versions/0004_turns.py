"""Which races wait in line for a call, and whose bibs are edited without a word."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    execute(__file__)
