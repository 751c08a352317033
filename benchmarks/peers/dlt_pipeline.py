"""dlt: its `rest_api` source into its `postgres` destination with the write disposition `merge`.

    python -m benchmarks.peers.dlt_pipeline DATABASE-URL API-URL KEY SECRET FOLDER [--rows] [--since EPOCH]

Runs with the libraries of requirements-bench.txt. FOLDER keeps the pipeline's state between runs. It is tuned as dlt's
documentation advises, where that was faster here:

* each page becomes an Arrow table, so that rows pass by the normalizer, and goes to PostgreSQL as CSV with COPY
  ("Fast loading with Arrow tables and CSV"); with `--rows` pages stay Python objects, dlt's ordinary way, which are
  normalized in two processes and go as CSV too;
* strategy `upsert` with `skip_unchanged_rows`, so that a row which is as stored is not written again;
* every column declared, `max_table_nesting` 0: nested JSON stays `jsonb` and no child tables are made;
* orjson in place of the parser that requests chooses; no gzip between the stages; buffers of 20,000 items; telemetry
  off; two calls at once (`parallelized`) only where that paid, which it did not on two cores.

With `--since` it asks for what was modified from then on. dlt's own incremental cursor cannot be used for that: in a
resource that depends on another one (the pages of each event) it moves on with every event, and the rest of a first
load is filtered away (4,782 of 20,000 rows arrived).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before dlt is imported, which reads them then.
os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "20000",
    "LOAD__DELETE_COMPLETED_JOBS": "true",
}
if "--rows" in sys.argv:
    os.environ |= {"NORMALIZE__WORKERS": "2", "EXTRACT__DATA_WRITER__FILE_MAX_ITEMS": "20000"}

import dlt
import orjson
import psycopg2.extensions
import pyarrow
from dlt.sources.helpers.rest_client.paginators import BasePaginator, SinglePagePaginator
from dlt.sources.rest_api import rest_api_source

from benchmarks.peers.registrations import COLUMNS, JSON, KEY, PARTS, PER_PAGE, columns

SCHEMA = "peer_dlt"
TABLE = "participants"
_KINDS = {"bigint": "bigint", "text": "text", "jsonb": "json", "timestamptz": "timestamp"}
_ARROW = {
    "bigint": pyarrow.int64(),
    "text": pyarrow.string(),
    "jsonb": pyarrow.string(),
    "timestamptz": pyarrow.timestamp("us", "UTC"),
}
_ARROW_SCHEMA = pyarrow.schema([(name, _ARROW[kind]) for name, kind in COLUMNS.items()])
_HINTS = {
    "name": TABLE,
    "primary_key": list(KEY),
    "write_disposition": {"disposition": "merge", "strategy": "upsert", "skip_unchanged_rows": True},
    "columns": {name: {"data_type": _KINDS[kind]} for name, kind in COLUMNS.items()},
    "max_table_nesting": 0,
}
_seen: Counter[int] = Counter()  # rows of each race: dlt's own count of a run with several processes is not one of rows


class ByRegistration(BasePaginator):  # type: ignore[misc]  # untyped where dlt is not installed
    """Pages by the largest registration id so far."""

    def __init__(self) -> None:
        super().__init__()
        self._after = 0

    def update_state(self, response: Any, data: list[Any] | None = None) -> None:
        """Note where the next page begins, if there is one."""
        self._has_next_page = data is not None and len(data) == PER_PAGE
        if data and self._has_next_page:
            self._after = data[-1]["registration_id"]

    def update_request(self, request: Any) -> None:
        """Ask for the next page."""
        request.params["after_registration_id"] = self._after


def main(database: str, api: str, key: str, secret: str, folder: Path, *, as_rows: bool, since: int | None) -> None:
    """Run the pipeline once and print what it loaded."""
    pipeline = dlt.pipeline(
        "peer",
        pipelines_dir=str(folder),
        destination=dlt.destinations.postgres(_credentials(database)),
        dataset_name=SCHEMA,
    )
    source = registrations(api, key, secret, as_rows=as_rows, since=since)
    pipeline.run(source, loader_file_format="csv")
    print(json.dumps({"rows": _seen.total()}))


def registrations(api: str, key: str, secret: str, *, as_rows: bool, since: int | None) -> Any:
    """The source: the events of all races, and the registrations of each."""
    endpoint = {
        "path": "race/{resources.events.race_id}/participants",
        "params": {
            **dict.fromkeys(PARTS, "T"),
            "event_id": "{resources.events.event_id}",
            "results_per_page": PER_PAGE,
            "sort": "registration_id ASC",
            **({} if since is None else {"modified_after_timestamp": since}),
        },
        "data_selector": "[0].participants",
        "paginator": ByRegistration(),
        "response_actions": [_parse_with_orjson],
    }
    pages: dict[str, Any] = {"name": "pages", "endpoint": endpoint, "include_from_parent": ["race_id"]}
    if as_rows:
        pages |= _HINTS | {"processing_steps": [{"map": _columns}]}
    source = rest_api_source(
        {
            "client": {"base_url": api, "paginator": SinglePagePaginator()},
            "resource_defaults": {
                "endpoint": {"params": {"format": "json", "api_key": key, "api_secret": secret, "supports_nb": "T"}}
            },
            "resources": [
                {
                    "name": "events",
                    "selected": False,
                    "endpoint": {
                        "path": "races",
                        "params": {"events": "T", "results_per_page": 1000},
                        "data_selector": "races",
                    },
                    "processing_steps": [{"yield_map": _events}],
                },
                pages,
            ],
        }
    )
    if not as_rows:
        source.resources["pages"].selected = False
        source.resources[TABLE] = source.resources["pages"] | dlt.transformer(_as_arrow, **_HINTS)
    return source


def _events(listed: dict[str, Any]) -> Iterator[list[dict[str, int]]]:
    race = listed["race"]
    yield [{"race_id": race["race_id"], "event_id": event["event_id"]} for event in race["events"]]


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    race_id = row.pop("_events_race_id")
    _seen[race_id] += 1
    return columns(row, race_id)


def _as_arrow(page: list[dict[str, Any]]) -> Any:
    rows = [_columns(row) for row in page]
    for row in rows:
        for name in JSON:
            row[name] = orjson.dumps(row[name]).decode()
    return pyarrow.Table.from_pylist(rows, schema=_ARROW_SCHEMA)


def _parse_with_orjson(response: Any) -> None:
    response.json = lambda **_: orjson.loads(response.content)


def _credentials(database: str) -> str:
    """The address with the host and password that dlt insists on; the socket's folder wins over the host."""
    parts = psycopg2.extensions.parse_dsn(database)
    where = f"host={parts['host']}&port={parts.get('port', '5432')}"
    return f"postgresql://{parts['user']}:unused@localhost/{parts['dbname']}?{where}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("database", "api", "key", "secret"):
        parser.add_argument(name)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", action="store_true")
    parser.add_argument("--since", type=int)
    given = parser.parse_args()
    main(given.database, given.api, given.key, given.secret, given.folder, as_rows=given.rows, since=given.since)
