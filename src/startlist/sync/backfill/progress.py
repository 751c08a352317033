"""What a backfill tells while it goes on; the default tells nobody."""

from __future__ import annotations

from startlist.sync.backfill.job import PastOutcome
from startlist.sync.progress import Progress


class BackfillProgress(Progress):
    """Override what is of interest; every method is called from the run's own event loop."""

    def past_planned(self, timing_partner_id: int, company_name: str, races: int, finished: int, per_hour: int) -> None:
        """A partner's races are known, some of them finished; its keys may make so many calls an hour for this."""

    def past_ended(self, timing_partner_id: int, race_id: int, outcome: PastOutcome) -> None:
        """This run is done with a race's past."""
