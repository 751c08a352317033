"""Rows as a sync leaves them, written with plain SQL: for tests of what reads them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb


class Stored:
    """A connection to a test's database that fills its tables; times are intervals from now, such as `2 hours`."""

    def __init__(self, url: str) -> None:
        self.conn = psycopg.connect(url, autocommit=True, options="-c search_path=startlist -c timezone=UTC")

    def close(self) -> None:
        self.conn.close()

    def value(self, query: str, *values: Any) -> Any:
        row = self.conn.execute(query.encode(), values).fetchone()
        assert row is not None
        return row[0]

    def insert(self, table: str, **columns: Any) -> Any:
        """Insert a row and return its first column."""
        names, marks = ", ".join(columns), ", ".join("%s" for _ in columns)
        values = [Jsonb(value) if isinstance(value, dict) else value for value in columns.values()]
        row = self.conn.execute(f"insert into {table} ({names}) values ({marks}) returning *".encode(), values)
        return row.fetchone()[0]  # type: ignore[index]

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns."""
        query = (
            "select column_name from information_schema.columns where table_schema = 'startlist' and table_name = %s"
        )
        return {name for (name,) in self.conn.execute(query, [table])}

    def partner(self, name: str, key: str | None = None, **columns: Any) -> int:
        """A timing partner, with an API key if one is given; its id."""
        partner: int = self.insert("timing_partners", company_name=name)
        if key is not None:
            self.insert("partner_provider_credentials", timing_partner_id=partner, principal=key, secret="s", **columns)
        return partner

    def at(self, interval: str) -> datetime:
        """That far from now: `2 hours`, `-1 day`."""
        instant: datetime = self.value("select now() + %s::interval", interval)
        return instant

    def race(self, partner: int, race_id: int, name: str = "Turkey Trot", **columns: Any) -> None:
        credential = self.conn.execute(
            "select min(credential_id) from partner_provider_credentials where timing_partner_id = %s", [partner]
        ).fetchone()
        given = {"timezone": "America/Denver", "credential_id": credential and credential[0]} | columns
        self.insert("runsignup_races", timing_partner_id=partner, race_id=race_id, name=name, **given)

    def event(
        self, partner: int, race_id: int, event_id: int, start: str | None, name: str = "5K", **columns: Any
    ) -> None:
        """An event that starts that far from now, in Denver."""
        given: dict[str, Any] = {"timezone": "America/Denver"} | columns
        if start is not None:
            given["start_time"] = self.at(start)
            given["race_day"] = self.value(
                "select (%s::timestamptz at time zone %s)::date", given["start_time"], given["timezone"]
            )
        key = {"timing_partner_id": partner, "race_id": race_id, "event_id": event_id}
        self.insert("runsignup_events", **key, name=name, **given)

    def registration(self, partner: int, race_id: int, event_id: int, registration_id: int, **columns: Any) -> None:
        key = {"timing_partner_id": partner, "race_id": race_id, "event_id": event_id}
        self.insert("runsignup_participants", **key, registration_id=registration_id, **columns)

    def cursor(
        self, partner: int, race_id: int, events: list[int], complete: str = "-10 minutes", **columns: Any
    ) -> None:
        """Both watermarks that far from now, and these events covered."""
        mark = int(self.at(complete).timestamp())
        marks = {"participants_watermark": mark, "removed_watermark": mark + 5}
        given = {"event_ids": events, "last_full_at": self.at(complete)} | marks | columns
        self.insert("sync_cursors", timing_partner_id=partner, race_id=race_id, **given)

    def ended(self, partner: int, race_id: int, status: str, ago: str = "-5 minutes", **columns: Any) -> int:
        """A pass of the history; `running` has no end."""
        end = {} if status == "running" else {"finished_at": self.at(ago)}
        given: dict[str, Any] = {"sync_type": "full", "started_at": self.at(ago)} | end | columns
        number: int = self.insert("sync_history", timing_partner_id=partner, race_id=race_id, status=status, **given)
        return number

    def changed(
        self, partner: int, race_id: int, event_id: int, registration_id: int, kind: str, **columns: Any
    ) -> int:
        key = {"timing_partner_id": partner, "race_id": race_id, "event_id": event_id}
        number: int = self.insert(
            "runsignup_changes", **key, registration_id=registration_id, change_type=kind, **columns
        )
        return number

    def bib(self, partner: int, race_id: int, event_id: int, registration_id: int, kind: str, **columns: Any) -> int:
        """A row of the bib log, notified as a sync does."""
        key = {"timing_partner_id": partner, "race_id": race_id, "event_id": event_id}
        with self.conn.transaction():
            number: int = self.insert(
                "runsignup_bib_changes", **key, registration_id=registration_id, kind=kind, **columns
            )
            payload = {"timing_partner_id": partner, "race_id": race_id, "last_id": number}
            self.conn.execute("select pg_notify('startlist_bibs', %s)", [json.dumps(payload)])
        return number
