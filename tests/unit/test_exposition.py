"""What monitoring is told: the text that Prometheus reads, and what counts as a problem."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from startlist.store.metrics import Metrics
from startlist.store.partners import CredentialState
from startlist.web.exposition import exposition

NOW = datetime(2027, 11, 25, 12, tzinfo=UTC)
PRINCIPAL = "the-api-key"


def metrics(**values: Any) -> Metrics:
    given: dict[str, Any] = {"at": NOW, "leads": True, "workers": 2}
    return Metrics(**(given | values))


def a_pass(sync_type: str, status: str, code: int | None, passes: int) -> dict[str, Any]:
    rows = dict.fromkeys(("received", "inserted", "updated", "unchanged", "removed", "missing", "quarantined"), passes)
    return {"sync_type": sync_type, "status": status, "error_code": code, "passes": passes, "bib_changes": 1} | rows


def a_class(rank: str, stale: int) -> dict[str, Any]:
    return {"rank": rank, "races": 9, "due": 3, "stale": stale, "failing": 1, "lag_seconds": 12.5, "stretch": 1.0}


def a_key(credential_id: int, *, stopped: bool) -> CredentialState:
    return CredentialState(
        7, 'Acme "Timing"', "timer@example.com", credential_id, PRINCIPAL, "legacy", 1000, 40, None,
        NOW if stopped else None, None, None, None, 2,
    )  # fmt: skip


def samples(found: Metrics | None) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and the values of its labels in the order of their names."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(exposition(found).decode())
        for sample in family.samples
    }


def test_without_a_database_there_is_only_that_it_is_down() -> None:
    assert samples(None) == {("startlist_up",): 0}


def test_passes_that_differ_in_a_label_not_told_are_one_sample() -> None:
    passes = [a_pass("full", "failed", 7, 2), a_pass("full", "failed", None, 3), a_pass("full", "completed", None, 5)]
    passes.append(a_pass("incremental", "failed", 7, 1))
    told = samples(metrics(passes=passes))
    assert told["startlist_passes_last_hour", "failed", "full"] == 5
    assert told["startlist_passes_last_hour", "completed", "full"] == 5
    assert (told["startlist_errors_last_hour", "7"], told["startlist_errors_last_hour", "none"]) == (3, 3)
    assert told["startlist_rows_last_hour", "received"] == 11
    assert told["startlist_bib_changes_last_hour",] == 4


def test_keys_are_told_by_number_never_by_what_is_secret_or_a_name() -> None:
    found = metrics(credentials=[a_key(3, stopped=True), a_key(4, stopped=False)])
    text = exposition(found).decode()
    assert not [word for word in (PRINCIPAL, "Acme", "example.com") if word in text]
    told = samples(found)
    assert (told["startlist_key_stopped", "3", "7"], told["startlist_key_stopped", "4", "7"]) == (1, 0)
    assert told["startlist_calls_last_hour", "4", "7"] == 40
    assert told["startlist_list_failures", "4", "7"] == 2


def test_problems_are_a_missing_scheduler_stale_races_and_stopped_keys() -> None:
    well = metrics(classes=[a_class("race_day", 0)], credentials=[a_key(3, stopped=False)])
    assert well.problems == []
    ill = metrics(
        leads=False, classes=[a_class("race_day", 2), a_class("routine", 0)], credentials=[a_key(3, stopped=True)]
    )
    assert ill.problems == [
        "no scheduler leads: startlist serve",
        "stale races of class race_day: 2; startlist status --check names them",
        "stopped API keys: 1; startlist status says what to do",
    ]
