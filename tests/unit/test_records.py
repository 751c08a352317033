"""From rows as sent to records: nothing is lost, misfits are named, whatever jsonb refuses is repaired."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from startlist import runsignup
from startlist.runsignup import KEPT_WHEN_ABSENT, RawRegistration, Registration, fingerprint
from startlist.runsignup.answers import (
    ReportedError,
    WrongShapeError,
    latest_change,
    raise_reported,
    read_one_race,
    read_races,
    read_removal,
    read_rows,
)
from startlist.runsignup.registrations import RegistrationDecoder

EVENT = 661702
USER: dict[str, Any] = {
    "user_id": 123123123,
    "first_name": "Margie",
    "middle_name": None,
    "last_name": "O'Neil & Sons",
    "email": "margie@example.com",
    "address": {"street": None, "city": "Moorestown", "state": "NJ", "zipcode": "08057", "country_code": "US"},
    "dob": "1986-01-06",
    "gender": "X",
    "phone": "856-850-1510",
    "profile_image_url": None,
    "is_anonymous": "F",
}
ROW: dict[str, Any] = {
    "user": USER,
    "registration_id": 2645624,
    "event_id": EVENT,
    "rsu_transaction_id": 263659,
    "transaction_id": "ay_852631042119552C_0",
    "bib_num": 3,
    "chip_num": None,
    "age": 35,
    "registration_date": "9/7/2021 15:15",
    "team_id": 12,
    "team_name": "Slow & Steady",
    "team_bib_num": "7",
    "last_modified": 1631042122,
    "imported": "F",
    "race_fee": "$1,055.00",
    "extra_fees": "-$5.00",
    "amount_paid": None,
    "giveaway": "M",
    "question_responses": [
        {"question_id": "1", "question_text": "First?", "response": "No"},
        {"question_id": 4, "question_text": "Pick any", "responses": ["A", "B"]},
    ],
}


def decode(sent: dict[str, Any] | bytes, event_id: int = EVENT) -> Registration:
    raw = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    return RawRegistration(event_id, 2645624, raw).decode()


def changed(**fields: Any) -> dict[str, Any]:
    """The row with other values, those of `user` given as `user_...`; `...` takes a key out."""
    row = {**ROW, "user": dict(USER)}
    for name, value in fields.items():
        part = row["user"] if name in USER else row
        if value is ...:
            part.pop(name)
        else:
            part[name] = value
    return row


def test_the_package_exports_what_it_says() -> None:
    public = {
        name for name, value in vars(runsignup).items() if not (name.startswith("_") or isinstance(value, ModuleType))
    }
    assert public == set(runsignup.__all__)


def test_an_ordinary_row_fills_the_columns() -> None:
    got = decode(ROW)
    assert (got.registration_id, got.event_id, got.user_id) == (2645624, EVENT, 123123123)
    assert (got.first_name, got.middle_name, got.last_name) == ("Margie", None, "O'Neil & Sons")
    assert (got.email, got.phone, got.gender, got.dob) == (
        "margie@example.com",
        "856-850-1510",
        "X",
        date(1986, 1, 6),
    )
    assert (got.age, got.bib_num, got.chip_num) == (35, "3", None)
    assert got.registration_date == datetime(2021, 9, 7, 19, 15, tzinfo=UTC)
    assert got.last_modified == datetime(2021, 9, 7, 19, 15, 22, tzinfo=UTC)
    assert json.loads(got.team_info) == {"team_id": 12, "team_name": "Slow & Steady", "team_bib_num": "7"}
    assert got.field_errors == []
    assert got.absent == ()
    assert json.loads(got.additional_data) == {
        "imported": "F",
        "giveaway": "M",
        "question_responses": ROW["question_responses"],
        "user": {"profile_image_url": None, "is_anonymous": "F"},
    }


def test_trap_26_the_address_keeps_zipcode_and_country_code() -> None:
    address = json.loads(decode(ROW).address or b"")
    assert (address["zipcode"], address["country_code"]) == ("08057", "US")


def test_trap_27_fees_become_numbers_in_payment_info() -> None:
    sent = changed(race_fee="$1,055.00", extra_fees="-$5.00", amount_paid=None, partner_fee="", processing_fee="free")
    got = decode(sent)
    assert json.loads(got.payment_info, parse_float=str) == {
        "race_fee": "1055.00",
        "extra_fees": "-5.00",
        "amount_paid": None,
        "partner_fee": "",
        "processing_fee": "free",
        "rsu_transaction_id": 263659,
        "transaction_id": "ay_852631042119552C_0",
    }
    assert got.field_errors == ["processing_fee"]


def test_trap_28_a_transaction_id_is_text_or_number_or_null() -> None:
    for value in ("ay_852631042119552C_0", 852631042119552, None, "1"):
        assert json.loads(decode(changed(transaction_id=value)).payment_info)["transaction_id"] == value


@pytest.mark.parametrize(("sent", "bib"), [(3, "3"), ("3", "3"), ("007", "007"), ("A12", "A12"), (None, None)])
def test_trap_29_bibs(sent: Any, bib: str | None) -> None:
    got = decode(changed(bib_num=sent))
    assert (got.bib_num, got.field_errors, got.absent) == (bib, [], ())


def test_trap_30_several_answers_stay_under_responses() -> None:
    answers = json.loads(decode(ROW).additional_data)["question_responses"]
    assert answers[1]["responses"] == ["A", "B"]


def test_trap_44_names_are_neither_url_decoded_nor_unescaped() -> None:
    names = {"first_name": " Run+Walk 100% & More", "last_name": '&amp; "x" \\ / é 😀 '}
    for escaped in (True, False):
        got = decode(json.dumps(changed(**names), ensure_ascii=escaped).replace("/", "\\/").encode())
        assert (got.first_name, got.last_name) == tuple(names.values())


def test_an_absent_key_is_not_null() -> None:
    lacking = changed(dob=..., gender=..., email=..., phone=..., bib_num=...)
    null = changed(dob=None, gender=None, email=None, phone=None, bib_num=None)
    assert decode(lacking).absent == KEPT_WHEN_ABSENT
    assert decode(null).absent == ()
    assert decode(changed(phone=..., new_key=1)).absent == ("phone",)
    for row, absent in ((lacking, set(KEPT_WHEN_ABSENT)), (null, set()), (changed(gender=...), {"gender"})):
        raw = json.dumps(row).encode()
        assert RawRegistration(EVENT, 1, raw).keys_absent() == absent
        nested = raw[:-1] + b',"deep":' + b"[" * 3000 + b"]" * 3000 + b"}"
        assert RawRegistration(EVENT, 1, nested).keys_absent() == absent


MISFITS: list[tuple[str, Any]] = [
    ("user_id", "abc"),
    ("user_id", 2**63),
    ("first_name", 5),
    ("last_name", ["x"]),
    ("email", {"a": 1}),
    ("gender", False),
    ("dob", "13/45/1990"),
    ("dob", "1990-02-30"),
    ("address", "12 Main St"),
    ("address", []),
    ("age", "x"),
    ("age", 2**31),
    ("bib_num", 7.0),
    ("bib_num", ""),
    ("chip_num", [1]),
    ("registration_date", "yesterday"),
    ("last_modified", 1_631_042_122_000),
    ("last_modified", "2021-09-23 09:54:37"),
    ("event_id", "none"),
]


@pytest.mark.parametrize(("name", "value"), MISFITS)
def test_a_misfit_is_kept_as_sent_and_the_runner_stays(name: str, value: Any) -> None:
    got = decode(changed(**{name: value}))
    assert got.field_errors == [name]
    kept = json.loads(got.additional_data)
    assert (kept["user"] if name in USER else kept)[name] == value
    assert getattr(got, name) == (EVENT if name == "event_id" else None)
    assert got.registration_id == 2645624
    assert got.absent == ()


def test_a_rows_own_event_wins_over_its_elements() -> None:
    assert decode(ROW, event_id=EVENT).event_id == EVENT
    assert decode(changed(event_id=...), event_id=11111).event_id == 11111
    assert decode(changed(event_id=None), event_id=11111).event_id == 11111


def test_the_hash_is_of_the_bytes_as_sent() -> None:
    raw = json.dumps(ROW).encode()
    assert decode(raw).content_hash == fingerprint(raw) == RawRegistration(EVENT, 1, raw).decode().content_hash
    assert len(fingerprint(raw)) == 16
    assert fingerprint(raw)[0] == 1
    assert fingerprint(raw.replace(b"/", b"\\/")) != fingerprint(raw)


# What jsonb and text refuse

NUL_AND_HALF = rb'"a\u0000b\ud800c\udc00\\u0000\ud83d\ude00"'
REPAIRED = "ab\ufffdc\ufffd\\u0000😀"


def spoiled(name: str, value: bytes) -> bytes:
    return json.dumps(changed(**{name: "SPOILED"})).encode().replace(b'"SPOILED"', value)


def test_characters_that_the_database_refuses_are_replaced_and_noted() -> None:
    got = decode(spoiled("first_name", NUL_AND_HALF))
    assert (got.first_name, got.last_name, got.field_errors) == (REPAIRED, "O'Neil & Sons", ["first_name"])
    assert got.content_hash == fingerprint(spoiled("first_name", NUL_AND_HALF))
    kept = decode(spoiled("giveaway", b'[{"k":' + NUL_AND_HALF + b"}]"))
    assert json.loads(kept.additional_data)["giveaway"] == [{"k": REPAIRED}]
    assert kept.field_errors == ["giveaway"]
    assert decode(spoiled("is_anonymous", NUL_AND_HALF)).field_errors == ["user.is_anonymous"]


def test_bytes_that_are_not_utf8_are_replaced_and_noted() -> None:
    got = decode(spoiled("last_name", b'"Caf\xe9 \xed\xa0\x80"'))
    assert got.last_name == "Caf\ufffd \ufffd\ufffd\ufffd"
    assert (got.first_name, got.field_errors) == ("Margie", ["last_name"])


def test_a_key_that_the_database_refuses_is_repaired_and_noted() -> None:
    got = decode(json.dumps(ROW).encode()[:-1] + rb',"odd\u0000key":1}')
    assert json.loads(got.additional_data)["oddkey"] == 1
    assert got.field_errors == ["oddkey"]


@pytest.mark.parametrize(
    "value",
    [b"1e400000", b"-1E-400000", b"[1," + b"9" * 2001 + b"]", b"[" * 150 + b"]" * 150, b"[" * 5000 + b"]" * 5000],
)
@pytest.mark.parametrize(
    "name", ["giveaway", "first_name", "age", "bib_num", "dob", "address", "team_name", "race_fee"]
)
def test_what_jsonb_cannot_hold_is_kept_as_text(name: str, value: bytes) -> None:
    got = decode(spoiled(name, value))
    where = got.team_info if name == "team_name" else got.payment_info if name == "race_fee" else got.additional_data
    kept = json.loads(where)
    assert (kept["user"] if name in USER else kept)[name] == value.decode()
    assert got.field_errors == [name]
    assert name in ("giveaway", "team_name", "race_fee") or getattr(got, name) is None


def test_numbers_with_accents_around_them_are_no_exponents() -> None:
    got = decode(changed(giveaway="\u00e1", question_responses=[1e5, "5e5", "\u00e0\u00e1e5"]))
    assert json.loads(got.additional_data)["question_responses"] == [1e5, "5e5", "\u00e0\u00e1e5"]
    assert got.field_errors == []


# Nothing is lost

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('ab\u00e9"\\/ _', max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
near_misses = st.sampled_from(
    [
        "",
        "T",
        "5",
        "007",
        "$5.00",
        "-$1,055.00",
        "x",
        "9/7/2021 15:15",
        "1986-01-06",
        0,
        -1,
        7,
        7.0,
        2**31,
        2**63,
        2**80,
    ]
)
names = st.sampled_from(
    sorted({*ROW, "new_key", "team_new", "processing_fee", "user_id"} - {"user", "registration_id"})
)
user_names = st.sampled_from(sorted({*USER, "nickname", "race_fee", "event_id"}))
any_value = json_values | near_misses
rows = st.builds(
    lambda top, user, gone, odd: {
        **{k: v for k, v in {**ROW, **top, **odd}.items() if k not in gone},
        "user": {**{k: v for k, v in USER.items() if k not in gone}, **user},
        "registration_id": 2645624,
    },
    st.dictionaries(names, any_value, max_size=5),
    st.dictionaries(user_names, any_value, max_size=4),
    st.sets(names | user_names, max_size=3),
    st.dictionaries(st.text('abc \u00e9"\\/_.', min_size=1, max_size=6), json_values, max_size=2),
)

EASTERN = ZoneInfo("America/New_York")


def same(column: Any, sent: Any) -> bool:
    """Whether a column's value says what was sent."""
    match column:
        case None:
            return sent is None
        case bytes():
            return bool(json.loads(column) == sent)
        case datetime():
            local = column.astimezone(EASTERN)
            american = f"{local.month}/{local.day}/{local.year} {local.hour:02d}:{local.minute:02d}"
            return sent in (american, int(column.timestamp()), str(int(column.timestamp())))
        case date():
            return bool(column.isoformat() == sent)
        case _:
            return str(column) == str(sent) and not isinstance(sent, float | bool)


def check_nothing_lost(got: Registration, sent: dict[str, Any]) -> None:
    rest, team, payment = json.loads(got.additional_data), json.loads(got.team_info), json.loads(got.payment_info)
    about_user = rest.pop("user", {})
    for part, left in ((sent, rest), (sent["user"], about_user)):
        for name, value in part.items():
            if name == "user" and part is sent:
                continue
            if name in left:
                assert left.pop(name) == value
            elif part is sent and name in team:
                assert team.pop(name) == value
            elif part is sent and name in payment:
                kept = payment.pop(name)
                assert kept == value or Decimal(str(kept)) == Decimal(value.replace("$", "").replace(",", ""))
            elif name == "event_id" and value is None:
                pass
            else:
                assert same(getattr(got, name), value), name
    assert [rest, about_user, team, payment] == [{}, {}, {}, {}], "something that was never sent"


@given(rows, st.booleans())
def test_nothing_is_lost(sent: dict[str, Any], escaped: bool) -> None:
    got = decode(json.dumps(sent, ensure_ascii=escaped).encode())
    check_nothing_lost(got, sent)
    known = {"user", *ROW, *USER, "processing_fee"}
    assert set(got.field_errors) <= known
    for name in got.field_errors:
        assert name in json.loads(got.payment_info) or getattr(got, name) in (None, EVENT)


def comparable(got: Registration) -> dict[str, Any]:
    fields = msgspec.structs.asdict(got)
    for name in ("address", "team_info", "payment_info", "additional_data"):
        fields[name] = fields[name] and json.loads(fields[name], parse_float=str)
    return fields


@given(rows, st.booleans())
def test_both_ways_of_reading_a_row_agree(sent: dict[str, Any], escaped: bool) -> None:
    decoder, raw = RegistrationDecoder(), json.dumps(sent, ensure_ascii=escaped).encode()
    thorough = decoder.thorough(raw, EVENT, b"")
    quick = decoder.quick(raw, EVENT, b"")  # with the names that the other way has just taught it
    assert quick is None or comparable(quick) == comparable(thorough)


def test_names_never_seen_before_are_read_quickly_from_the_second_row_on() -> None:
    decoder, raw = RegistrationDecoder(), json.dumps(changed(corral_id=5, team_x=1, nickname="Zo")).encode()
    assert decoder.quick(raw, EVENT, b"") is None
    first = decoder.decode(raw, EVENT, b"")
    second = decoder.quick(raw, EVENT, b"")
    assert second is not None
    assert comparable(second) == comparable(first)
    assert json.loads(second.team_info)["team_x"] == 1


# Pages

OUTER = {"event": {"event_id": EVENT, "participants": []}, "participants": [ROW]}


def read(body: Any) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_rows(raw, "participants", RawRegistration)


def ids(body: Any) -> list[tuple[int, int]]:
    return [(row.event_id, row.registration_id) for row in read(body).rows]


def test_trap_01_rows_of_the_outer_list_are_read() -> None:
    assert ids([OUTER]) == [(EVENT, 2645624)]


def test_trap_02_an_event_without_the_key_has_no_rows() -> None:
    for body in ([{"event": {"event_id": EVENT, "participants": []}}], [{"event": {"event_id": EVENT}}], []):
        page = read(body)
        assert (page.rows, page.bad, page.tally.rows, page.strays) == ([], [], 0, False)


def test_trap_03_rows_of_every_element_are_read() -> None:
    second = {"event": {"event_id": 5}, "participants": [changed(event_id=5, registration_id=9)]}
    assert ids([{"event": {"event_id": 4}}, second, OUTER]) == [(5, 9), (EVENT, 2645624)]


def test_trap_11_rows_of_the_inner_list_are_read_and_of_both_together() -> None:
    inner = changed(event_id=..., registration_id=8)
    assert ids([{"event": {"event_id": 77, "participants": [inner]}}]) == [(77, 8)]
    assert ids([{"event": {"event_id": 77, "participants": [inner]}, "participants": [ROW]}]) == [
        (77, 8),
        (EVENT, 2645624),
    ]


def test_an_object_in_place_of_the_array_and_ids_as_digits() -> None:
    assert ids(OUTER) == [(EVENT, 2645624)]
    texts = {"event": {"event_id": "77"}, "participants": [changed(event_id=..., registration_id="2645624")]}
    assert ids([texts]) == [(77, 2645624)]
    assert ids([{"participants": [ROW]}]) == [(EVENT, 2645624)]
    assert ids([{"event": None, "participants": [ROW]}]) == [(EVENT, 2645624)]
    assert ids([{"event": {"event_id": 1}, "participants": None}]) == []


def test_trap_32_ids_below_one_are_no_runners() -> None:
    page = read([{"event": {"event_id": 1}, "participants": [changed(registration_id=-1), changed(registration_id=0)]}])
    assert page.rows == []
    assert [bad.reason for bad in page.bad] == ["registration_id is not a whole number of at least 1"] * 2
    assert page.tally.largest_id is None


def test_trap_43_bad_rows_are_set_aside_and_the_page_is_kept() -> None:
    without_user = {name: value for name, value in changed(registration_id=5).items() if name != "user"}
    rows = [ROW, without_user, None, 42, changed(event_id="x", registration_id=6)]
    page = read([{"event": {}, "participants": rows}])
    assert [row.registration_id for row in page.rows] == [2645624]
    assert [(bad.reason, bad.event_id, bad.registration_id) for bad in page.bad] == [
        ("user is not an object", EVENT, 5),
        ("not an object", None, None),
        ("not an object", None, None),
        ("no event_id in the record nor around it", None, 6),
    ]
    assert json.loads(page.bad[0].raw) == without_user
    assert page.tally.rows == 5
    assert page.tally.largest_id == 2645624
    assert 2 in page.tally.by_event  # of the event that two rows name
    assert 5 in page.tally.by_event  # of the element


def test_bad_records_are_storable_as_text() -> None:
    page = read(b'[{"event":{"event_id":1},"participants":["\xff\\ud800"]}]')
    assert page.bad[0].raw == '"\ufffd\\ud800"'


def test_half_pairs_and_deep_nesting_spoil_one_row_and_not_the_page() -> None:
    odd = spoiled("giveaway", NUL_AND_HALF).replace(b"2645624", b"7")
    deep = spoiled("giveaway", b"[" * 4000 + b'"]"' + b"]" * 4000).replace(b"2645624", b"8")
    body = b'[{"event":{"event_id":1},"participants":[ ' + b" , ".join((json.dumps(ROW).encode(), odd, deep)) + b"]}]"
    page = read(body)
    assert [row.registration_id for row in page.rows] == [2645624, 7, 8]
    assert [bytes(row.raw) for row in page.rows[1:]] == [odd, deep]
    assert [row.decode().field_errors for row in page.rows] == [[], ["giveaway"], ["giveaway"]]


def test_entries_that_are_no_element_are_set_aside_and_make_the_page_uncertain() -> None:
    page = read([OUTER, 42, ROW])
    assert [row.registration_id for row in page.rows] == [2645624]
    assert [(bad.reason, bad.registration_id) for bad in page.bad] == [
        ("an entry that is not an event with its participants", None),
        ("an entry that is not an event with its participants", 2645624),
    ]
    assert page.strays
    assert page.tally.rows == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"<html>Down</html>",
        b"null",
        b"42",
        b'"text"',
        b"{}",
        b'{"x":1}',
        b"[42]",
        b'[{"x":1}]',
        b'[{"event":{"event_id":1},"participants":{}}]',
        b'[{"event":{"event_id":1,"participants":"x"}}]',
        b'[{"event":{"event_id":1},"participants":[{"registration_id":1}',
        b'[{"event":{"event_id":1}}] trailing',
        b'[{"event":{"event_id":1},}]',
        b'[{"event":{"event_id":1},"a":"\\ud800"',
        b"[" * 3000 + b"]" * 2999,
        b'[{"event":{"event_id":1},"participants":[01]}]',
        b'[{"event":{"event_id":1},"participants":["\n"]}]',
        b'[{"event":{"event_id":1},"participants":[NaN]}]',
    ],
)
def test_what_cannot_be_a_page(body: bytes) -> None:
    with pytest.raises(WrongShapeError):
        read(body)


@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_a_page_or_wrongly_shaped(body: bytes) -> None:
    try:
        page = read(body)
    except (WrongShapeError, ReportedError):
        return
    assert page.tally.rows == len(page.rows) + len(page.bad)


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b'{"error":{"error_code":301,"error_msg":"Event not found."}}', 301, "Event not found."),
        (b' {"error":{"error_code":"7"}}', 7, None),
        (b'{"error":"invalid_client","error_description":"no"}', None, "invalid_client"),
        (b'{"error":{}}', None, None),
    ],
)
def test_an_error_is_found_in_every_form(body: bytes, code: int | None, text: str | None) -> None:
    with pytest.raises(ReportedError) as found:
        raise_reported(body)
    assert (found.value.code, found.value.text) == (code, text)
    with pytest.raises(ReportedError):
        read(b"[" + body + b"]")


def test_no_error_where_there_is_none() -> None:
    raise_reported(b'{"error":null,"races":[]}')
    raise_reported(b"[]")
    raise_reported(b'{"races":[{"error":1}]}')
    assert read_races(b'{"error":null,"races":[]}', "races") == ([], [])


# Removals

REMOVED: dict[str, Any] = {
    "user": USER,
    "registration_id": 2645629,
    "age": 51,
    "registration_date": "2021-09-07 15:20:36",
    "last_modified": "2021-09-23 09:54:37",
    "last_modified_ts": 1632405277,
    "removed_reason": "transferred",
    "new_registration_id": 2645700,
}


def test_a_removed_record_is_kept_whole() -> None:
    raw = json.dumps(REMOVED).encode()
    got = read_removal(EVENT, 2645629, raw)
    assert (got.removed_reason, got.new_registration_id, got.raw) == ("transferred", 2645700, raw)
    assert got.modified_at == datetime(2021, 9, 23, 13, 54, 37, tzinfo=UTC)


def test_trap_12_a_removal_without_an_epoch_has_its_eastern_time() -> None:
    for odd in (None, "x", -5):
        got = read_removal(1, 2, json.dumps({**REMOVED, "last_modified_ts": odd}).encode())
        assert got.modified_at == datetime(2021, 9, 23, 13, 54, 37, tzinfo=UTC)


def test_trap_24_a_removal_says_what_it_can() -> None:
    got = read_removal(1, 2, b'{"removed_reason":7,"new_registration_id":"x","user":{"first_name":"a\\u0000b"}}')
    assert (got.removed_reason, got.new_registration_id, got.modified_at) == (None, None, None)
    assert json.loads(got.raw) == {"removed_reason": 7, "new_registration_id": "x", "user": {"first_name": "ab"}}


def test_the_latest_change_stands_in_for_a_missing_clock() -> None:
    rows = [b'{"last_modified":5}', b'{"last_modified":"7"}', b'{"last_modified":"2021-09-23 09:54:37"}', b"3", b"{}"]
    assert latest_change(rows) == 7
    assert latest_change([*rows, b'{"last_modified":"x","last_modified_ts":9}']) == 9
    assert latest_change([b"{}"]) is None


# Races

RACE: dict[str, Any] = {
    "race_id": 1,
    "name": " Chilly & Cheeks ",
    "next_date": "04/06/2019",
    "last_date": None,
    "is_draft_race": "F",
    "is_registration_open": "T",
    "created": "2/5/2015 12:23",
    "last_modified": "4/14/2018 18:20",
    "description": "<p>A \u2603</p>",
    "url": "https://runsignup.com/Race/x",
    "address": {"street": None, "zipcode": "57108"},
    "timezone": "America/Denver",
    "events": [
        {
            "event_id": 11,
            "race_event_days_id": 12,
            "name": "5K",
            "details": None,
            "start_time": "6/14/2026 07:00",
            "end_time": None,
            "age_calc_base_date": "12/31/2026",
            "registration_opens": "12/10/2025 07:00",
            "event_type": "running_race",
            "distance": "5K",
            "volunteer": "F",
            "require_dob": "T",
            "registration_periods": [{"race_fee": "$11.00"}],
            "giveaway": None,
        }
    ],
}


def read_one(race: Any) -> Any:
    return read_one_race(json.dumps({"race": race}).encode(), "race")


def test_trap_13_event_times_are_the_races_and_all_others_eastern() -> None:
    race = read_one(RACE)
    (event,) = race.events
    assert event.start_time == datetime(2026, 6, 14, 13, 0, tzinfo=UTC)
    assert (event.timezone, event.race_day, event.end_time) == ("America/Denver", date(2026, 6, 14), None)
    assert event.registration_opens == datetime(2025, 12, 10, 12, 0, tzinfo=UTC)
    assert race.created == datetime(2015, 2, 5, 17, 23, tzinfo=UTC)
    assert (race.timezone, race.zone, race.zone_known) == ("America/Denver", ZoneInfo("America/Denver"), True)


def test_a_race_and_its_events_fill_their_columns_and_lose_nothing() -> None:
    race = read_one(RACE)
    assert (race.name, race.next_date, race.last_date) == (" Chilly & Cheeks ", date(2019, 4, 6), None)
    assert (race.is_draft_race, race.is_registration_open, race.is_private_race) == (False, True, None)
    assert json.loads(race.address or b"") == RACE["address"]
    assert json.loads(race.additional_data) == {"description": RACE["description"]}
    (event,) = race.events
    assert (event.event_id, event.race_id, event.race_event_days_id) == (11, 1, 12)
    assert (event.distance, event.distance_meters, event.age_calc_base_date) == (
        "5K",
        Decimal(5000),
        date(2026, 12, 31),
    )
    assert (event.volunteer, event.require_dob, event.require_phone) == (False, True, None)
    assert json.loads(event.additional_data) == {"details": None, "registration_periods": [{"race_fee": "$11.00"}]}
    assert (race.field_errors, event.field_errors, race.bad) == ([], [], ())


def test_misfits_of_races_and_events_are_kept_and_noted() -> None:
    event = {"event_id": "12", "start_time": "TBD", "volunteer": "maybe", "name": "a\u0000b"}
    race = read_one({**RACE, "next_date": "soon", "timezone": "Mars/Olympus", "events": [event, 5, {"event_id": 0}]})
    assert race.field_errors == ["next_date"]
    assert json.loads(race.additional_data)["next_date"] == "soon"
    assert (race.timezone, race.zone.key, race.zone_known) == ("Mars/Olympus", "America/New_York", False)
    (got,) = race.events
    assert (got.event_id, got.start_time, got.race_day, got.timezone) == (12, None, None, "America/New_York")
    assert (got.name, got.field_errors) == ("ab", ["name", "start_time", "volunteer"])
    assert [bad.reason for bad in race.bad] == [
        "an event that is not an object",
        "event_id is not a whole number of at least 1",
    ]
    assert json.loads(read_one({**RACE, "events": "none"}).additional_data)["events"] == "none"


def test_trap_34_races_come_wrapped() -> None:
    entries = [{"race": RACE}, {"race": {**RACE, "race_id": "2"}}, RACE, None, {"race": {"name": "x"}}, {"race": 5}]
    for body in ({"races": entries}, entries):
        races, bad = read_races(json.dumps(body).encode(), "races")
        assert [race.race_id for race in races] == [1, 2, 1]
        assert [record.reason for record in bad] == [
            "not an object",
            "race_id is not a whole number of at least 1",
            "not an object",
        ]


def test_a_race_list_with_a_half_pair_in_it_is_read() -> None:
    body = json.dumps({"races": [{"race": {**RACE, "description": "HALF"}}]}).encode().replace(b"HALF", rb"\udfff")
    (race,), bad = read_races(body, "races")
    assert json.loads(race.additional_data)["description"] == "\ufffd"
    assert (race.field_errors, bad) == (["description"], [])


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"races":{}}', b'{"races":[', b'{"race":{"race_id":1}}'])
def test_what_is_no_race_list(body: bytes) -> None:
    with pytest.raises(WrongShapeError):
        read_races(body, "races")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"race":null}', b'{"race":{"name":"x"}}', b"<x>"])
def test_what_is_no_race(body: bytes) -> None:
    with pytest.raises(WrongShapeError):
        read_one_race(body, "race")
