"""What records hold is what PostgreSQL takes: text columns as text, JSON columns as jsonb."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from startlist.runsignup import RawRegistration
from startlist.runsignup.answers import read_removal
from startlist.runsignup.jsontext import MAX_DEPTH
from tests.conftest import Server
from tests.unit.test_records import ROW, json_values

ODD_VALUES = [
    rb'"a\u0000b"',
    rb'"\ud800"',
    rb'"\udc00\ud800x"',
    rb'"\\u0000\\ud800"',
    b'"\xff\xed\xa0\x80\xc3\xa9"',
    b"1e400000",
    b"-1.5E-400000",
    b"1e2000",
    b"-1e-2000",
    b"9" * 1999 + b".5e2000",
    b"9" * 1999 + b"." + b"9" * 1999 + b"e-2000",
    b"9" * 2001,
    b"9" * 200_000,
    b"[" * (MAX_DEPTH - 5) + b"]" * (MAX_DEPTH - 5),
    b'{"a":' * 3000 + b"1" + b"}" * 3000,
    rb'{"\u0000k":{"\ud800":"\udfff"}}',
    b"-0",
    b"[1,1]",
    b'{"a":1,"a":2}',
]


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: value[:20].decode("latin-1"))
async def test_odd_values_can_be_stored_wherever_they_come(database_url: str, value: bytes) -> None:
    template = json.dumps({**ROW, "unknown": 1, "user": {**ROW["user"], "unknown": 1}}).encode()
    removal_raw = template.replace(b'"imported": "F"', b'"imported": ' + value)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        for old in (
            b'"unknown": 1',
            b'"imported": "F"',
            b'"first_name": "Margie"',
            b'"street": null',
            b'"team_id": 12',
            b'"race_fee": "$1,055.00"',
            b'"transaction_id": "ay_852631042119552C_0"',
            b'"bib_num": 3',
            b'"age": 35',
            b'"email": "margie@example.com"',
        ):
            key = old.partition(b":")[0]
            got = RawRegistration(1, 2645624, template.replace(old, key + b": " + value)).decode()
            cursor = await connection.execute(
                "select %s::jsonb, %s::jsonb, %s::jsonb, %s::jsonb, %s::text, %s::text, %s::text, %s::text[]",
                [
                    *((got.address or b"null").decode(), got.team_info.decode(), got.payment_info.decode()),
                    *(got.additional_data.decode(), got.first_name, got.bib_num, got.email, got.field_errors),
                ],
            )
            stored = await cursor.fetchone()
            assert stored is not None
            assert isinstance(stored[3], dict)
        cursor = await connection.execute("select %s::jsonb", [read_removal(1, 2645624, removal_raw).raw.decode()])
        removal = await cursor.fetchone()
        assert removal is not None
        assert removal[0]["registration_id"] == 2645624


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values)
def test_any_json_comes_back_as_it_was_sent(server: Server, value: Any) -> None:
    got = RawRegistration(1, 2645624, json.dumps({**ROW, "unknown": value}).encode()).decode()
    kept = server.admin.execute(
        "select (%s::jsonb)->'unknown' = %s::jsonb", [got.additional_data.decode(), json.dumps(value)]
    ).fetchone()
    assert kept == (True,)
