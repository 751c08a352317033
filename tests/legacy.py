"""The database of the replaced system, as its own scripts made it, for tests to fill."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

Row = dict[str, Any]

_TABLES = """
create table {s}.timing_partners (
    timing_partner_id serial primary key, company_name varchar(255) not null, access_password varchar(255),
    created_at timestamp default now());
create table {s}.providers (
    provider_id serial primary key, name varchar(100) not null unique, rate_limit_per_hour integer default 1000);
create table {s}.partner_provider_credentials (
    partner_provider_credential_id serial primary key, provider_id integer, timing_partner_id integer,
    principal varchar(255), secret varchar(255), credential_type varchar(50), additional_config jsonb,
    created_at timestamp default now());
create table {s}.runsignup_races (
    race_id integer primary key, name text, last_date timestamp, next_date timestamp, is_draft_race boolean,
    is_private_race boolean, is_registration_open boolean, created timestamp, last_modified timestamp,
    description text, url varchar(255), address jsonb, timezone varchar(50), logo_url varchar(255),
    real_time_notifications_enabled boolean, fetched_date timestamp default now(), credentials_used varchar(255),
    timing_partner_id integer, created_at timestamp default now());
create table {s}.runsignup_events (
    event_id integer primary key, race_id integer, name text, details text, start_time timestamp, end_time timestamp,
    age_calc_base_date date, registration_opens timestamp, event_type varchar(50), distance numeric(10, 2),
    volunteer boolean, require_dob boolean, require_phone boolean, giveaway text,
    fetched_date timestamp default now(), credentials_used varchar(255), timing_partner_id integer,
    created_at timestamp default now());
create table {s}.runsignup_participants (
    id serial primary key, race_id integer, event_id integer, registration_id integer, user_id integer,
    first_name varchar(100), middle_name varchar(100), last_name varchar(100), email varchar(255), address jsonb,
    dob date, gender varchar(20), phone varchar(20), profile_image_url varchar(255), bib_num varchar(20),
    chip_num varchar(20), age integer, registration_date timestamp, team_info jsonb, payment_info jsonb,
    additional_data jsonb, fetched_date timestamp default now(), credentials_used varchar(255),
    timing_partner_id integer, created_at timestamp default now());
create table {s}.sync_history (
    sync_history_id serial primary key, timing_partner_id integer, event_id varchar(100),
    sync_time timestamp default now(), status varchar(20), num_of_synced_records integer, reason text);
"""


class Legacy:
    """The tables in a schema (their `public`), made on opening."""

    def __init__(self, url: str, schema: str = "public") -> None:
        self.schema = schema
        self.conn = psycopg.connect(url, autocommit=True)
        self.conn.execute(_TABLES.format(s=schema).encode())

    def close(self) -> None:
        self.conn.close()

    def run(self, query: str) -> None:
        """A statement; `{s}` is the schema."""
        self.conn.execute(query.format(s=self.schema).encode())

    def add(self, table: str, **columns: Any) -> None:
        values = [Jsonb(value) if isinstance(value, dict | list) else value for value in columns.values()]
        insert = sql.SQL("insert into {} ({}) values ({})").format(
            sql.Identifier(self.schema, table),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
        )
        self.conn.execute(insert, values)

    def partner(self, number: int, name: str, key: str | None = None, secret: str = "hush", provider: int = 2) -> None:
        self.add("timing_partners", timing_partner_id=number, company_name=name)
        if key is not None:
            self.add(
                "partner_provider_credentials", provider_id=provider, timing_partner_id=number, principal=key,
                secret=secret, credential_type="api_key",
            )  # fmt: skip

    def race(self, race_id: int, partner: int | None, events: list[int], **columns: Any) -> None:
        """A race in Denver with events that started on a summer's day."""
        given = {"name": "Old Run", "timezone": "America/Denver"} | columns
        self.add("runsignup_races", race_id=race_id, timing_partner_id=partner, **given)
        for event_id in events:
            self.add(
                "runsignup_events", event_id=event_id, race_id=race_id, name="5K", timing_partner_id=partner,
                start_time="2026-07-04 07:00", distance=5,
            )  # fmt: skip

    def registration(self, race_id: int | None, event_id: int | None, number: int | None, **columns: Any) -> None:
        given = {"timing_partner_id": 1, "fetched_date": "2026-05-01 12:00", "last_name": "Legacy"} | columns
        self.add("runsignup_participants", race_id=race_id, event_id=event_id, registration_id=number, **given)

    def checksum(self) -> list[Any]:
        """Changes with any value of any row."""
        query = "select count(*), md5(string_agg(t::text, '|' order by t::text)) from {} as t"
        tables = ("timing_partners", "providers", "partner_provider_credentials", "runsignup_races",
                  "runsignup_events", "runsignup_participants", "sync_history")  # fmt: skip
        return [
            self.conn.execute(sql.SQL(query).format(sql.Identifier(self.schema, table))).fetchone() for table in tables
        ]
