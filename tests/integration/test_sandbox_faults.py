"""Faults on demand: each is what a caller really sees on the wire."""

import http.client
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from startlist.sandbox import ControlError, Sandbox, running
from tests.integration.sandbox_caller import NOW, Caller

FIRST, SECOND = 700_001, 700_002


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running(now=NOW, frozen=True) as started:
        yield started


@pytest.fixture
def caller(sandbox: Sandbox) -> Caller:
    return Caller(sandbox)


def test_faults_meet_the_calls_they_match_so_often_and_no_more(caller: Caller) -> None:
    caller.control.fault("error", match={"endpoint": "participants"}, skip=1, times=2, code=5)
    assert caller.get("races").code is None
    assert [caller.participants(FIRST).code for _ in range(4)] == [None, 5, 5, None]
    (fault,) = caller.control.faults()
    assert (fault["seen"], fault["used"]) == (4, 2)
    assert [call["faults"] for call in caller.control.log()] == [[], [], ["error"], ["error"], []]


@pytest.mark.parametrize(
    "match",
    [
        {"race_id": 100_001},
        {"event_id": SECOND},
        {"key": "Peak Timing"},
        {"page_after": True},
        {"incremental": True},
    ],
)
def test_faults_match_by_what_is_asked(caller: Caller, match: dict[str, Any]) -> None:
    caller.control.fault("error", match=match, times=None)
    query = {"after_registration_id": 60_000_001, "modified_after_timestamp": 0}
    assert caller.participants(SECOND, **query).code == 4
    caller.control.clear_faults()
    assert caller.participants(SECOND, **query).code is None
    caller.control.fault("error", match={name: False if value is True else 1 for name, value in match.items()})
    assert caller.participants(SECOND, **query).code is None


def test_a_fault_that_does_not_exist_is_refused(caller: Caller) -> None:
    with pytest.raises(ControlError, match="known: bad_date"):
        caller.control.fault("earthquake")
    with pytest.raises(ControlError, match="matches by"):
        caller.control.fault("reset", match={"color": "red"})
    with pytest.raises(ControlError, match="bad_rows knows"):
        caller.control.fault("bad_rows", what=["purple"])
    with pytest.raises(ControlError, match="no change is called teleport"):
        caller.control.fault("then", changes=[{"name": "teleport"}])


def test_http_statuses_with_html_json_and_retry_after(caller: Caller) -> None:
    caller.control.fault("http", status=503, retry_after=7)
    reply = caller.get("races")
    assert (reply.status, reply.headers["retry-after"]) == (503, "7")
    assert reply.body.startswith(b"<html>")
    caller.control.fault("http", status=500, body="json")
    assert caller.get("races").code == 4
    caller.control.fault("http", status=302, location="http://example.com/")
    assert caller.get("races").headers["location"] == "http://example.com/"
    caller.control.fault("html")
    reply = caller.get("races")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html")


def test_a_reset_is_a_reset(caller: Caller) -> None:
    caller.control.fault("reset")
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        caller.get("races")
    assert caller.get("races").code is None


def test_an_answer_cut_within_the_body(caller: Caller) -> None:
    caller.control.fault("cut", bytes=100)
    with pytest.raises(http.client.IncompleteRead) as caught:
        caller.get("races")
    assert len(caught.value.partial) == 100


def test_a_truncated_answer_is_valid_http(caller: Caller) -> None:
    caller.control.fault("truncate")
    reply = caller.participants(FIRST)
    assert int(reply.headers["content-length"]) == len(reply.body)
    with pytest.raises(ValueError, match=r"Unterminated|Expecting|delimiter"):
        _ = reply.data


def test_a_hanging_call_ends_with_the_sandbox() -> None:
    ended: list[BaseException] = []
    with running(now=NOW, frozen=True) as sandbox:
        caller = Caller(sandbox)
        sandbox.control.fault("timeout")

        def hang() -> None:
            try:
                caller.get("races")
            except OSError as error:
                ended.append(error)
            except http.client.HTTPException as error:
                ended.append(error)

        thread = threading.Thread(target=hang)
        thread.start()
        while not sandbox.control.log():
            time.sleep(0.01)
        started = time.monotonic()
    thread.join(5)
    assert len(ended) == 1
    assert time.monotonic() - started < 1


def test_a_hanging_call_ends_after_its_time(caller: Caller) -> None:
    caller.control.fault("timeout", seconds=0.05)
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        caller.get("races")


def test_delay_and_latency(caller: Caller) -> None:
    caller.control.fault("delay", ms=40)
    caller.control.settings(latency_ms=20, latency_jitter_ms=5)
    started = time.monotonic()
    caller.get("races")
    assert time.monotonic() - started >= 0.06


@pytest.mark.parametrize("value", [{"x": 1}, 42, "text", None, []])
def test_wrong_shapes(caller: Caller, value: object) -> None:
    caller.control.fault("wrong_shape", value=value)
    assert caller.participants(FIRST).data == value


def test_an_object_in_place_of_the_array(caller: Caller) -> None:
    caller.control.fault("object_envelope")
    data = caller.participants(FIRST).data
    assert data["event"]["event_id"] == FIRST
    assert len(data["participants"]) == 12


def test_rows_sent_twice_other_key_order_and_ids_as_strings(caller: Caller) -> None:
    plain = caller.participants(FIRST)
    caller.control.fault("duplicate_rows", rows=2)
    assert caller.participants(FIRST).ids == plain.ids + plain.ids[:2]
    caller.control.fault("key_order")
    turned = caller.participants(FIRST)
    assert turned.data == plain.data
    assert turned.body != plain.body
    assert list(turned.rows[0]) == list(plain.rows[0])[::-1]
    caller.control.fault("string_ids")
    row = caller.participants(FIRST).rows[0]
    assert row["registration_id"] == "60000001"
    assert isinstance(row["user"]["user_id"], str)


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("not_object", lambda row: isinstance(row, str)),
        ("null", lambda row: row is None),
        ("no_registration_id", lambda row: "registration_id" not in row),
        ("zero_id", lambda row: row["registration_id"] == 0),
        ("negative_id", lambda row: row["registration_id"] == -1),
        ("no_user", lambda row: "user" not in row),
        ("no_event_id", lambda row: "event_id" not in row),
        ("misfit", lambda row: row["age"] == "x" and row["user"]["dob"] == "13/45/1990"),
        ("unstorable", lambda row: "\u0000" in row["user"]["first_name"] and "\ud800" in row["user"]["last_name"]),
    ],
)
def test_spoiled_rows(caller: Caller, what: str, seen: Any) -> None:
    caller.control.fault("bad_rows", what=[what], index=3)
    rows = caller.participants(FIRST).rows
    assert len(rows) == 12
    assert seen(rows[3])
    assert rows[4]["registration_id"] == 60_000_005


def test_spoiled_rows_with_given_values_and_inserted(caller: Caller) -> None:
    caller.control.fault("bad_rows", fields={"bib_num": [], "user": {"phone": 5}})
    row = caller.participants(FIRST).rows[0]
    assert (row["bib_num"], row["user"]["phone"]) == ([], 5)
    assert row["user"]["last_name"]
    caller.control.fault("bad_rows", rows=[1, {}], mode="insert")
    assert caller.participants(FIRST).rows[:2] == [1, {}]
    caller.control.refund(60_000_001)
    caller.control.fault("bad_rows", what=["no_user"])
    assert "user" not in caller.removed(FIRST).removed[0]


def test_keys_absent(caller: Caller) -> None:
    caller.control.fault("drop_keys", keys=["dob", "bib_num"])
    row = caller.participants(FIRST).rows[0]
    assert "bib_num" not in row
    assert "dob" not in row["user"]
    assert "email" in row["user"]


def test_clamped_pages_and_an_ignored_cursor(caller: Caller) -> None:
    caller.control.fault("clamp", rows=5)
    assert len(caller.participants(FIRST, results_per_page=2500).rows) == 5
    caller.control.fault("ignore_cursor")
    assert caller.participants(FIRST, after_registration_id=60_000_010).ids[0] == 60_000_001


def test_suddenly_nothing(caller: Caller) -> None:
    caller.control.refund(60_000_001)
    caller.control.fault("empty", times=3)
    assert caller.participants(FIRST).data == [{"event": {"event_id": FIRST, "participants": []}}]
    assert caller.removed(FIRST).removed == []
    assert caller.get("races").data == {"races": []}
    caller.control.fault("empty_array")
    assert caller.participants(FIRST).data == []


def test_changes_right_before_and_right_after_an_answer(caller: Caller) -> None:
    refund = [{"name": "refund", "registration_id": 60_000_001}]
    caller.control.fault("then", changes=refund)
    assert 60_000_001 in caller.participants(FIRST).ids
    assert 60_000_001 not in caller.participants(FIRST).ids
    caller.control.fault("before", changes=[{"name": "assign_bib", "registration_id": 60_000_002, "bib": 77}])
    assert caller.participants(FIRST).rows[0]["bib_num"] == 77


def test_the_date_header_missing_unreadable_or_off(caller: Caller) -> None:
    caller.control.fault("no_date")
    assert "date" not in caller.get("races").headers
    caller.control.fault("bad_date")
    assert caller.get("races").headers["date"] == "half past nine"
    caller.control.fault("clock_skew", seconds=-60)
    assert caller.get("races").headers["date"] == "Sun, 22 Nov 2026 09:59:00 GMT"


def test_more_than_two_calls_at_once_are_throttled_and_seen_in_the_log(caller: Caller) -> None:
    caller.control.settings(latency_ms=150)
    codes: list[int | None] = []
    threads = [threading.Thread(target=lambda: codes.append(caller.get("races").code)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(codes, key=str) == [14, None, None]
    counts = caller.control.counts()
    assert counts["max_concurrent"] == 3
    assert counts["by_error"] == {"14": 1}


def test_small_answers_on_one_connection_are_not_held_back(sandbox: Sandbox) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port)
    started = time.monotonic()
    for _ in range(20):
        connection.request("GET", "/rest/races?format=json")
        connection.getresponse().read()
    connection.close()
    assert time.monotonic() - started < 0.5


def test_many_sandboxes_in_one_process() -> None:
    with running(now=NOW) as one, running(now=NOW) as two:
        one.control.register(FIRST)
        assert len(Caller(one).participants(FIRST).rows) == 13
        assert len(Caller(two).participants(FIRST).rows) == 12
