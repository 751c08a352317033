"""A typed client of RunSignup's API; usable on its own."""

from startlist.runsignup.client import (
    DEFAULT_URL,
    FeedPage,
    ParticipantsPage,
    RacesPage,
    RemovedPage,
    RunSignup,
)
from startlist.runsignup.paging import Position
from startlist.runsignup.records import (
    KEPT_WHEN_ABSENT,
    MAPPING_VERSION,
    BadRecord,
    Event,
    Race,
    Registration,
    Removal,
    fingerprint,
)
from startlist.runsignup.registrations import RawRegistration
from startlist.runsignup.transport import (
    Attempt,
    CallerRegistration,
    Credential,
    Gate,
    ProcessGate,
    Retries,
    http_client,
    quiet_http_loggers,
)

__all__ = [
    "DEFAULT_URL",
    "KEPT_WHEN_ABSENT",
    "MAPPING_VERSION",
    "Attempt",
    "BadRecord",
    "CallerRegistration",
    "Credential",
    "Event",
    "FeedPage",
    "Gate",
    "ParticipantsPage",
    "Position",
    "ProcessGate",
    "Race",
    "RacesPage",
    "RawRegistration",
    "Registration",
    "Removal",
    "RemovedPage",
    "Retries",
    "RunSignup",
    "fingerprint",
    "http_client",
    "quiet_http_loggers",
]
