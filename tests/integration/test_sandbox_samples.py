"""The sandbox's answers beside real ones: the same keys, of the same kinds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from startlist.sandbox import running
from tests.integration.sandbox_caller import NOW, Caller

_SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
pytestmark = [
    pytest.mark.samples,
    pytest.mark.skipif(not _SAMPLES.is_dir(), reason="the recorded answers are not beside the project"),
]
FIRST = 700_001


@pytest.fixture
def caller() -> Iterator[Caller]:
    with running(now=NOW, frozen=True) as started:
        yield Caller(started)


def _sample(name: str) -> Any:
    return json.loads((_SAMPLES / name).read_text())


def _kinds(value: Any, path: str = "") -> dict[str, str]:
    """Return each path within a value and what kind of JSON stands there; null says nothing."""
    if isinstance(value, dict):
        found: dict[str, str] = {}
        for key, inner in value.items():
            found |= _kinds(inner, f"{path}/{key}")
        return found
    if isinstance(value, list):
        found = {path: "list"}
        for inner in value[:1]:
            found |= _kinds(inner, f"{path}[]")
        return found
    return {path: "null" if value is None else type(value).__name__}


def _differences(real: Any, ours: Any) -> dict[str, tuple[str, str]]:
    theirs, mine = _kinds(real), _kinds(ours)
    return {
        path: (kind, mine.get(path, "absent"))
        for path, kind in theirs.items()
        if mine.get(path, "absent") != kind and "null" not in (kind, mine.get(path))
    }


def test_the_race_record(caller: Caller) -> None:
    caller.control.edit_event(
        FIRST,
        registration_periods=[
            {"registration_opens": "12/20/2025 07:00", "registration_closes": "1/20/2027 01:59"}
            | {"race_fee": "$11.00", "processing_fee": "$2.00"}
        ],
    )
    assert _differences(_sample("race.cmagnuson-2019.json"), caller.get("race/100001").data) == {}


def test_the_race_list(caller: Caller) -> None:
    real = _sample("races.first5-of-50.live-2018.ether-races.json")
    assert _differences(real, caller.get("races").data) == {}


def test_active_registrations(caller: Caller) -> None:
    caller.control.edit(60_000_001, bib_num=3, gender="F")
    flags = dict.fromkeys(
        ("include_questions", "include_user_anonymous_flag", "include_profile_image_url", "supports_nb"), "T"
    )
    ours = caller.participants(FIRST, **flags).data[0]["participants"][0]
    real = _sample("participants.composed-NOT-VERBATIM.json")[0]["participants"][0]
    real.pop("participant_addons")
    assert _differences(real, ours) == {}
    assert _sample("participants.multi-event.cmagnuson-2019.json")[0].keys() == {"event"}


def test_removed_registrations(caller: Caller) -> None:
    caller.control.refund(60_000_001)
    (ours,) = caller.removed(FIRST).data
    real = _sample("removed-participants.doc-page.runsignup-docs.json")
    assert _differences(real, ours) == {}
    assert list(real["event"]["participants"][0]) == list(ours["event"]["participants"][0])


def test_errors(caller: Caller) -> None:
    bodies = [entry["body"] for entry in _sample("errors.live-probes-2026-10-09.runtracker.json")]
    caller.control.unshare(100_001, "Peak Timing")
    assert caller.participants(FIRST).data in bodies
    assert caller.get("races", headers={"Authorization": "Bearer x"}).data in bodies
    assert caller.get("races", rsu_api_reg="x").data in bodies
