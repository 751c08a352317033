"""The error tree, by what to do next.

    StartlistError
    ├── ConfigurationError        fix a setting, then start again              exit 2
    │   └── SchemaError           run `startlist init`, or upgrade the program
    ├── DatabaseError             the database failed or was lost              exit 1
    └── RunSignupError            RunSignup answered, or did not
        ├── Retry                 may be cured by asking again
        │   ├── NetworkError          no answer, or half of one
        │   ├── ServerError           HTTP 5xx, codes 4 and 5
        │   ├── Throttled             HTTP 429, code 14: the credential pauses
        │   └── BadAnswer             a body that is not a whole JSON page
        ├── BudgetSpent           wait until the time it carries
        ├── RequestRefused        codes 3, 9 and unknown ones: the question was wrong
        ├── EventsGone            code 301: read the race again, leave those events
        ├── RaceUnavailable       skip this race
        │   ├── PermissionDenied      code 7
        │   └── RaceGone              code 201
        ├── CredentialRefused     code 6: stop this credential
        │   └── CredentialRemoved     somebody deleted it meanwhile
        └── CallerRefused         code 17: stop everything                     exit 2

Messages never carry a secret, a URL with one, a row or a body.
"""

from __future__ import annotations

from datetime import datetime


class StartlistError(Exception):
    """The root of everything this program raises on purpose; its text is meant for the user."""


class ConfigurationError(StartlistError):
    """A setting, an option or a file is wrong; nothing was done. The text names it and says what to do."""


class SchemaError(ConfigurationError):
    """The database's schema is missing, foreign, too old or too new for this program."""


class DatabaseError(StartlistError):
    """The database failed or was lost. Carries only SQLSTATE, primary message and constraint, never a row."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class RunSignupError(StartlistError):
    """RunSignup answered with an error, wrongly, or not at all; `code` is RunSignup's error code if it sent one."""

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Retry(RunSignupError):
    """May be cured by asking again."""


class NetworkError(Retry):
    """No answer arrived, or only a part of one."""


class ServerError(Retry):
    """RunSignup failed on its side (HTTP 5xx, codes 4 and 5)."""


class Throttled(Retry):
    """RunSignup asks for patience (HTTP 429, code 14); `retry_after` in seconds if it said how long."""

    def __init__(self, message: str, *, code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class BadAnswer(Retry):
    """The body is not a whole JSON page of the expected form; the text says what came."""


class BudgetSpent(RunSignupError):
    """The credential's calls of the hour are used up, or it is paused; go on in `seconds`, at `until` (with zone).

    `seconds` is what to wait: clocks need not agree.
    """

    def __init__(self, message: str, *, until: datetime, seconds: float) -> None:
        super().__init__(message)
        self.until = until
        self.seconds = seconds


class RequestRefused(RunSignupError):
    """RunSignup did not accept the question (codes 3, 9 and all that have no other class)."""


class EventsGone(RunSignupError):
    """An event of the call no longer exists (code 301)."""


class RaceUnavailable(RunSignupError):
    """This race cannot be read; the others can."""


class PermissionDenied(RaceUnavailable):
    """This credential may not read this race (code 7)."""


class RaceGone(RaceUnavailable):
    """The race no longer exists (code 201)."""


class CredentialRefused(RunSignupError):
    """RunSignup does not accept this credential (code 6)."""


class CredentialRemoved(CredentialRefused):
    """The credential, or its timing partner, was deleted while it was in use."""


class CallerRefused(RunSignupError):
    """RunSignup does not accept the caller registration (code 17): no call can succeed."""
