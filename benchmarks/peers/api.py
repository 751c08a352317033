"""All registrations of all races, page by page, for the peers that bring no HTTP client of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec

from benchmarks.peers.registrations import PER_PAGE, columns, page


def pages(api: str, key: str, secret: str) -> Iterator[list[dict[str, Any]]]:
    """The rows of each page, JSON columns as JSON text. They are decoded with msgspec, which takes a tenth of the time
    that Python's own `json` takes."""
    parameters = {"format": "json", "api_key": key, "api_secret": secret, "supports_nb": "T"}
    with httpx2.Client(base_url=api, params=parameters, timeout=60) as http:
        answer = http.get("/races", params={"events": "T", "results_per_page": "1000"})
        for listed in msgspec.json.decode(answer.content)["races"]:
            race = listed["race"]
            for event in race["events"]:
                yield from _event(http, race["race_id"], event["event_id"])


def _event(http: httpx2.Client, race_id: int, event_id: int) -> Iterator[list[dict[str, Any]]]:
    after = 0
    while True:
        answer = http.get(f"/race/{race_id}/participants", params=page(event_id, after))
        sent = [row for part in msgspec.json.decode(answer.content) for row in part.get("participants", [])]
        yield [_as_text(columns(row, race_id)) for row in sent]
        if len(sent) < PER_PAGE:
            return
        after = sent[-1]["registration_id"]


def _as_text(row: dict[str, Any]) -> dict[str, Any]:
    row["address"] = msgspec.json.encode(row["address"]).decode()
    row["additional_data"] = msgspec.json.encode(row["additional_data"]).decode()
    return row
