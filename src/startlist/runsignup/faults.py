"""Which error of the tree stands for what RunSignup reports, by its error code or by the HTTP status."""

from __future__ import annotations

from typing import Final

from startlist.errors import (
    BadAnswer,
    CallerRefused,
    CredentialRefused,
    EventsGone,
    PermissionDenied,
    RaceGone,
    RequestRefused,
    RunSignupError,
    ServerError,
    Throttled,
)

_CODES: Final[dict[int, tuple[type[RunSignupError], str]]] = {
    1: (RequestRefused, "unknown method"),
    2: (RequestRefused, "wrong HTTP method"),
    3: (RequestRefused, "invalid parameters"),
    4: (ServerError, "unknown error"),
    5: (ServerError, "database error"),
    6: (CredentialRefused, "key authentication failed"),
    7: (PermissionDenied, "permission denied"),
    8: (RequestRefused, "not implemented"),
    9: (RequestRefused, "invalid date"),
    10: (RequestRefused, "format not supported"),
    11: (RequestRefused, "invalid submission"),
    12: (RequestRefused, "submission out of order"),
    13: (RequestRefused, "a user must be logged in: the wrong kind of credential"),
    14: (Throttled, "request throttled"),
    15: (RequestRefused, "invalid id"),
    17: (CallerRefused, "the caller registration is not accepted"),
    101: (RequestRefused, "user not found"),
    102: (RequestRefused, "wrong e-mail address or password"),
    103: (RequestRefused, "account locked"),
    151: (RequestRefused, "no temporary credentials"),
    201: (RaceGone, "race not found"),
    301: (EventsGone, "event not found"),
}
_TEXTS: Final = {
    "key authentication failed": 6,
    "permission denied": 7,
    "request throttled": 14,
    "invalid api caller credentials": 17,
    "race not found": 201,
    "event not found": 301,
}
_OAUTH: Final = frozenset(
    ("access_denied", "invalid_client", "invalid_grant", "invalid_request", "invalid_scope", "invalid_token")
)


def error_of_report(code: int | None, text: str | None, status: int, retry_after: float | None) -> RunSignupError:
    """The error that a body reports. Its text is believed only where it is one of the known ones, and never quoted."""
    folded = (text or "").strip().rstrip(".").casefold()
    if code is None:
        code = _TEXTS.get(folded)
    if status == 429 or code == 14:
        return Throttled(_said(code, "request throttled"), code=code, retry_after=retry_after)
    if code is None:
        if folded in _OAUTH:
            return (CredentialRefused if status == 401 else RequestRefused)(f"RunSignup reports {folded}")
        if status != 200:
            return error_of_status(status, retry_after)
        return RequestRefused("RunSignup reports an error without a code")
    kind, sense = _CODES.get(code, (RequestRefused, "an error that this program does not know"))
    if kind is RequestRefused and status >= 500:
        kind = ServerError
    return kind(_said(code, sense), code=code)


def error_of_status(status: int, retry_after: float | None) -> RunSignupError:
    """The error that an HTTP status other than 200 stands for when the body says nothing."""
    if status == 429:
        return Throttled("RunSignup asks for patience (HTTP 429)", retry_after=retry_after)
    if status >= 500:
        return ServerError(f"RunSignup failed on its side (HTTP {status})")
    if status == 401:
        return CredentialRefused("RunSignup does not accept the credential (HTTP 401)")
    if 300 <= status < 400:
        return RequestRefused(f"RunSignup answered with a redirect (HTTP {status}), which is never followed")
    if status == 404:
        return RequestRefused("there is no such address (HTTP 404): is RunSignup's base address right?")
    if 200 <= status < 300:
        return BadAnswer(f"HTTP {status} without a page")
    return RequestRefused(f"RunSignup did not accept the question (HTTP {status})")


def _said(code: int | None, sense: str) -> str:
    return f"RunSignup reports error {code}: {sense}" if code is not None else f"RunSignup reports: {sense}"
