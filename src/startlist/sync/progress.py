"""What a run tells while it goes on; the default tells nobody."""

from __future__ import annotations

from datetime import datetime

from startlist.sync.job import Outcome


class Progress:
    """Override what is of interest; every method is called from the run's own event loop."""

    def partner_planned(self, timing_partner_id: int, company_name: str, races: int) -> None:
        """A partner's races are known; `races` of them will be read."""

    def page_stored(self, timing_partner_id: int, race_id: int, rows: int) -> None:
        """A page of so many participants rows has been committed, or compared."""

    def race_ended(self, timing_partner_id: int, race_id: int, outcome: Outcome) -> None:
        """A race's pass ended for good."""

    def race_verified(self, timing_partner_id: int, race_id: int) -> None:
        """A race was compared with RunSignup, and mended if that was asked for."""

    def call_made(self, timing_partner_id: int, credential_id: int, calls_left: int) -> None:
        """A call was sent; so many are left to its credential in this hour."""

    def waiting(self, timing_partner_id: int, credential_id: int, until: datetime, why: str) -> None:
        """A credential's work waits until that time; the rest goes on."""
