"""The figures in the format that Prometheus reads. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from startlist.store.metrics import Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ROWS = ("received", "inserted", "updated", "unchanged", "removed", "missing", "quarantined")
_CLASS = (
    ("races", "startlist_races", "Races that are planned."),
    ("due", "startlist_races_due", "Races whose turn has come."),
    ("stale", "startlist_races_stale", "Races that were not read when they should have been."),
    ("failing", "startlist_races_failing", "Races whose last pass failed."),
    ("lag_seconds", "startlist_lag_seconds", "For how long the race that is due longest has been due."),
    ("stretch", "startlist_stretch", "By how much periods are lengthened, as there are too few calls; 1: not at all."),
)


class _Once(Collector):
    def __init__(self, families: Iterable[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


def exposition(found: Metrics | None) -> bytes:
    """The figures as text; without any, that the database cannot be reached."""
    registry = CollectorRegistry(auto_describe=False)
    families = [_family("startlist_up", "Whether the database can be reached and read.", [((), found is not None)])]
    if found is not None:
        families += _families(found)
    registry.register(_Once(families))
    return generate_latest(registry)


def _families(m: Metrics) -> Iterator[GaugeMetricFamily]:
    yield _family("startlist_scheduler_leads", "Whether a scheduler leads.", [((), m.leads)])
    yield _family("startlist_workers", "Processes that read races.", [((), m.workers)])
    yield _family(
        "startlist_passes_last_hour", "Passes that ended within the last hour.",
        _summed(((p["sync_type"], p["status"]), p["passes"]) for p in m.passes), "sync_type", "status",
    )  # fmt: skip
    yield _family(
        "startlist_rows_last_hour", "Registrations that these passes met, by what became of them.",
        [((what,), sum(p[what] for p in m.passes)) for what in _ROWS], "what",
    )  # fmt: skip
    yield _family(
        "startlist_bib_changes_last_hour", "Bib and chip changes that these passes found.",
        [((), sum(p["bib_changes"] for p in m.passes))],
    )  # fmt: skip
    yield _family(
        "startlist_errors_last_hour", "Passes that failed within the last hour, by RunSignup's error code.",
        _summed((("none" if p["error_code"] is None else str(p["error_code"]),), p["passes"])
                for p in m.passes if p["status"] == "failed"), "code",
    )  # fmt: skip
    for column, name, told in _CLASS:
        yield _family(name, told, [((one["rank"],), one[column]) for one in m.classes], "class")
    yield _family(
        "startlist_race_age_seconds", "Since when a race of race day is complete.",
        [((str(r["timing_partner_id"]), str(r["race_id"])), r["age_seconds"]) for r in m.race_day],
        "timing_partner_id", "race_id",
    )  # fmt: skip
    for name, told, value in (
        ("startlist_calls_last_hour", "Calls made within the last hour.", lambda one: one.calls_last_hour),
        ("startlist_calls_limit", "Calls that may be made in an hour.", lambda one: one.calls_per_hour),
        ("startlist_key_stopped", "Whether RunSignup refuses the key.", lambda one: one.stopped_at is not None),
        ("startlist_key_paused", "Whether RunSignup asked for patience.", lambda one: one.paused_until is not None),
        (
            "startlist_list_failures",
            "Times in a row that no race list could be taken.",
            lambda one: one.list_failures,
        ),
    ):
        yield _family(
            name, told, [((str(one.timing_partner_id), str(one.credential_id)), value(one)) for one in m.credentials],
            "timing_partner_id", "credential_id",
        )  # fmt: skip
    yield _family("startlist_quarantine", "Records that could not be stored.", [((), m.quarantined)])
    yield _family("startlist_suspicions", "Races of which too much is absent, to be decided.", [((), m.suspicions)])
    yield _family("startlist_backfill_races_left", "Races whose past is still to be read.", [((), m.backfill_left)])


def _family(name: str, told: str, samples: Iterable[tuple[tuple[str, ...], Any]], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, told, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value or 0))
    return family


def _summed(samples: Iterable[tuple[tuple[str, ...], int]]) -> list[tuple[tuple[str, ...], int]]:
    """One sample for each set of labels."""
    total: dict[tuple[str, ...], int] = {}
    for labels, value in samples:
        total[labels] = total.get(labels, 0) + value
    return sorted(total.items())
