"""Of which events the registrations were purged: an import from an older system does not bring them back."""

from __future__ import annotations

from startlist.store.migrations import execute

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    execute(__file__)
