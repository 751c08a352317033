"""What reading a race's past is asked to do, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from startlist.errors import StartlistError
from startlist.runsignup import Race
from startlist.store.history import Figures
from startlist.sync.backfill.plan import Options


@dataclass(frozen=True, slots=True)
class PastJob:
    """A race whose past is to be read with one credential, and why. `listed`: as the race list showed it, if it did.

    `record` is the race's own record if it was read before and could not be kept yet.
    """

    timing_partner_id: int
    credential_id: int
    race_id: int
    listed: Race | None
    options: Options
    reason: str
    record: Race | None = None
    throttled: int = 0  # how often it was put off by RunSignup's throttling


@dataclass(slots=True)
class PastOutcome:
    """How far a race's past came. `state` is that of `backfill_progress`, or `held`: somebody else is at it.

    `until` is set when it waits for its budget or its hours; `figures` are those of this leg alone; `elsewhere` says
    that another backfill has finished it meanwhile, `resumed` that an earlier run had begun it, `answered` that
    RunSignup stumbles over some of its events only.
    """

    state: str
    reason: str | None
    figures: Figures = field(default_factory=Figures)
    seconds: float = 0.0
    wait: float = 0.0
    until: datetime | None = None
    record: Race | None = None  # the race's own record, which nobody may keep before the credential is proved
    error: StartlistError | None = None
    elsewhere: bool = False
    resumed: bool = False
    answered: bool = False
