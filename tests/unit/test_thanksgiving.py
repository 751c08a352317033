"""The Thanksgiving in virtual time, a small one: what must hold on any morning, whatever is scarce."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.thanksgiving.rehearsal import Morning, Results, rehearsed
from benchmarks.thanksgiving.report import judged, section
from benchmarks.thanksgiving.world import morning


@pytest.fixture(scope="module", params=[(1_400.0, 1_000), (170.0, 200)], ids=["lanes are scarce", "calls are scarce"])
def rehearsal(request: pytest.FixtureRequest) -> Morning:
    """Three races for each of 20 keys; as many calls as they need in neither case."""
    latency, calls_per_hour = request.param
    small = morning(4, partners=20, races=60, registrations=20_000, calls_per_hour=calls_per_hour)
    return rehearsed(small, latency, seed=4)


def test_no_key_goes_above_its_hour_and_no_pass_runs_twice_at_once(rehearsal: Morning) -> None:
    assert 0 < rehearsal.most_calls <= rehearsal.calls_per_hour
    assert rehearsal.twice_at_once == 0
    assert rehearsal.killed > 0


def test_periods_stretch_evenly_and_no_race_starves(rehearsal: Morning) -> None:
    assert rehearsal.stretch[2] > 1.4
    assert rehearsal.gaps[1] < 2
    assert rehearsal.gaps[2] < 5
    assert rehearsal.never_read == 0


def test_changes_are_stored_within_two_planned_periods(rehearsal: Morning) -> None:
    assert set(rehearsal.classes) == {"race_day", "race_week"}
    for one in rehearsal.classes.values():
        assert one.changes > 1_000
        assert one.ratios[1] <= 2


def test_what_is_missed_is_said(rehearsal: Morning) -> None:
    broken = replace(rehearsal, most_calls=rehearsal.calls_per_hour + 1, twice_at_once=1, mean_stretched=1.2)
    missed = [line for line in judged(broken) if line.endswith("NOT reached")]
    assert len(missed) == 3
    assert f"at most {rehearsal.calls_per_hour + 1:,}" in missed[1]
    text = section(Results(3, 20, 60, 20_000, [broken]))
    assert text.startswith("## A Thanksgiving in virtual time\n")
    assert all(f"* {line}" in text for line in missed)
