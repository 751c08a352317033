"""Calls a sandbox the plain way, with nothing but the standard library, and shows the answer as it came."""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from startlist.sandbox import Sandbox

NOW = 1_795_341_600.0  # 2026-11-22 10:00 UTC, 05:00 Eastern


@dataclass
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        """The JSON in it."""
        return json.loads(self.body)

    @property
    def code(self) -> int | None:
        """The error code of the envelope, None where there is none."""
        data = self.data
        return data["error"]["error_code"] if isinstance(data, dict) and "error" in data else None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows beside `event`, where active registrations are."""
        return [row for element in self.data for row in element.get("participants", [])]

    @property
    def ids(self) -> list[int]:
        """The registration ids of `rows`."""
        return [row["registration_id"] for row in self.rows]

    @property
    def removed(self) -> list[dict[str, Any]]:
        """All rows inside `event`, where removed registrations are."""
        return [row for element in self.data for row in element["event"]["participants"]]


class Caller:
    """Calls with the credentials of a key."""

    def __init__(self, sandbox: Sandbox, key: dict[str, Any] | None = None, **headers: str) -> None:
        self.sandbox = sandbox
        self.control = sandbox.control
        self.key = sandbox.control.partners()[0] if key is None else key
        self.headers = headers
        self.race_id: int = (self.key["race_ids"] or [0])[0]

    def get(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        secret: str | None = None,
        base: str = "rest",
        **q: Any,
    ) -> Reply:
        """Call `/<base>/<path>` as JSON; parameters that are None are left out."""
        sent = dict(self.headers) | (headers or {})
        query: dict[str, Any] = {"format": "json"}
        if self.key.get("type") == "legacy":
            query |= {"api_key": self.key["key"], "api_secret": secret or self.key["secret"]}
        elif self.key.get("type") == "v2":
            query["rsu_api_key"] = self.key["key"]
            sent["X-RSU-API-SECRET"] = secret or self.key["secret"]
        query = {name: value for name, value in (query | q).items() if value is not None}
        connection = http.client.HTTPConnection(urlsplit(self.sandbox.url).netloc, timeout=10)
        try:
            connection.request(method, f"/{base}/{path}?{urlencode(query)}", headers=sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def participants(self, *event_ids: int, **query: Any) -> Reply:
        """Call participants in the order of ids unless told otherwise."""
        query = {"sort": "registration_id ASC", **query}
        return self.get(f"race/{self.race_id}/participants", event_id=",".join(map(str, event_ids)), **query)

    def removed(self, *event_ids: int, **query: Any) -> Reply:
        """Call removed-participants."""
        return self.get(f"race/{self.race_id}/removed-participants", event_id=",".join(map(str, event_ids)), **query)


ANONYMOUS: dict[str, Any] = {"type": "none", "race_ids": []}
