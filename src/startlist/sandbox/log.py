"""The call log: what was asked of the sandbox, and how it answered. No keys, no secrets, no bodies."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Call:
    """One call; `at` is epoch seconds of the sandbox's clock, `concurrent` counts the calls under way, itself too."""

    n: int
    at: float
    endpoint: str
    concurrent: int
    race_id: int | None = None
    event_ids: list[int] = field(default_factory=list)
    key: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    http_status: int | None = None
    error_code: int | None = None
    rows: int = 0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)


class Log:
    """All calls since the start or the last reset."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.under_way = 0
        self._n = 0

    def begin(self, at: float, endpoint: str) -> Call:
        """Note the arrival of a call."""
        self.under_way += 1
        self._n += 1
        call = Call(self._n, at, endpoint, self.under_way)
        self.calls.append(call)
        return call

    def end(self) -> None:
        """Note that a call is over, answered or not."""
        self.under_way -= 1

    def reset(self) -> None:
        """Forget the calls; their numbers go on."""
        self.calls.clear()

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the calls, oldest first."""
        return [asdict(call) for call in self.calls]

    def counts(self) -> dict[str, Any]:
        """Return totals by endpoint, key and error, and the most calls ever under way at once."""
        calls = self.calls
        return {
            "calls": len(calls),
            "by_endpoint": dict(Counter(call.endpoint for call in calls)),
            "by_key": dict(Counter(call.key or "anonymous" for call in calls)),
            "by_error": dict(Counter(str(call.error_code) for call in calls if call.error_code is not None)),
            "by_status": dict(Counter(str(call.http_status) for call in calls)),
            "rows": sum(call.rows for call in calls),
            "bytes": sum(call.bytes for call in calls),
            "max_concurrent": max((call.concurrent for call in calls), default=0),
        }
