"""What ran and what it did: runs, and one row per pass."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

from startlist.store.database import Connection


@dataclass(slots=True)
class Figures:
    """The counts of one pass, named as the columns of `sync_history`."""

    api_calls: int = 0
    rows_received: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_unchanged: int = 0
    rows_removed: int = 0
    rows_missing: int = 0
    bib_changes: int = 0
    silent_edits: int = 0
    silent_bibs: int = 0
    quarantined: int = 0

    def add(self, other: Figures) -> None:
        """Add the other's counts to these."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


PURGE_CALLS = "delete from api_calls where reserved_at < now() - interval '35 days'"

PURGE_PASSES = """
delete from sync_history
where finished_at < now() - interval '90 days'
  and rows_inserted + rows_updated + rows_removed + rows_missing + bib_changes + quarantined = 0
"""

BEGIN = """
insert into sync_history (run_id, timing_partner_id, credential_id, race_id, event_ids, sync_type, status, reason)
values (%s, %s, %s, %s, %s, %s, 'running', %s)
returning sync_history_id
"""

# Only who holds the race, for a sync or for a backfill, may call this: whoever held it before is gone.
CLOSE_INTERRUPTED = """
update sync_history
set status = 'failed', finished_at = now(), error_message = 'interrupted'
where timing_partner_id = %s and race_id = %s and status = 'running' and (sync_type = 'backfill') = %s
"""

FIGURES = """
update sync_history
set api_calls = %(api_calls)s, rows_received = %(rows_received)s, rows_inserted = %(rows_inserted)s,
    rows_updated = %(rows_updated)s, rows_unchanged = %(rows_unchanged)s, rows_removed = %(rows_removed)s,
    rows_missing = %(rows_missing)s, bib_changes = %(bib_changes)s, silent_edits = %(silent_edits)s,
    silent_bibs = %(silent_bibs)s, quarantined = %(quarantined)s
where sync_history_id = %(id)s
"""

END = """
update sync_history
set status = %(status)s, sync_type = %(type)s, reason = %(reason)s, event_ids = %(events)s, finished_at = now(),
    error_code = %(code)s, error_message = %(message)s
where sync_history_id = %(id)s
"""

SKIPPED = """
insert into sync_history
    (run_id, timing_partner_id, credential_id, race_id, event_ids, sync_type, status, reason, finished_at)
values (%s, %s, %s, %s, %s, 'incremental', 'skipped', %s, now())
"""


LAST_ASKED = """
select race_id, event_ids
from sync_history
cross join lateral (select status in ('completed', 'partial') and reason is distinct from 'waiting' as answered) as a
where credential_id = %(credential)s and event_ids <> '{}' and (a.answered or not %(answered)s)
order by a.answered desc, sync_history_id desc
limit 1
"""


async def last_asked(conn: Connection, credential_id: int, *, answered: bool) -> tuple[int, list[int]] | None:
    """A race and events for a call that needs the credential's rights: of its last pass that was answered.

    Without `answered` of any pass, where none was.
    """
    values = {"credential": credential_id, "answered": answered}
    row = await (await conn.execute(LAST_ASKED, values)).fetchone()
    return None if row is None else (row[0], row[1])


async def open_run(conn: Connection, command: str, trigger: str = "manual") -> int:
    """Begin a run and return its id."""
    row = await (
        await conn.execute(
            "insert into sync_runs (command, trigger) values (%s, %s) returning run_id", [command, trigger]
        )
    ).fetchone()
    assert row is not None  # noqa: S101 - an insert with returning gives its row
    return int(row[0])


async def close_run(conn: Connection, run_id: int | None, status: str, error_message: str | None = None) -> None:
    """End a run with its status: completed, partial, failed, skipped or interrupted."""
    await conn.execute(
        "update sync_runs set status = %s, finished_at = now(), error_message = %s where run_id = %s",
        [status, error_message, run_id],
    )


async def close_interrupted(conn: Connection, timing_partner_id: int, race_id: int, *, backfill: bool = False) -> int:
    """Close what an earlier holder of the race left running, and return how many rows that were.

    A sync and a backfill of one race take turns, so that neither closes the other's.
    """
    return (await conn.execute(CLOSE_INTERRUPTED, [timing_partner_id, race_id, backfill])).rowcount


async def open_pass(
    conn: Connection,
    *,
    run_id: int | None,
    timing_partner_id: int,
    credential_id: int,
    race_id: int,
    event_ids: Collection[int],
    sync_type: str,
    reason: str,
) -> int:
    """Begin a pass's row and return its id."""
    values = [run_id, timing_partner_id, credential_id, race_id, sorted(event_ids), sync_type, reason]
    row = await (await conn.execute(BEGIN, values)).fetchone()
    assert row is not None  # noqa: S101 - an insert with returning gives its row
    return int(row[0])


async def save_figures(conn: Connection, sync_history_id: int, figures: Figures) -> None:
    """Keep the counts so far, in the transaction of the page that made them."""
    await conn.execute(FIGURES, {**asdict(figures), "id": sync_history_id})


async def note_fallback(conn: Connection, sync_history_id: int) -> None:
    """Note that a pass has become a full one, which holds also if it is interrupted."""
    query = "update sync_history set sync_type = 'full_fallback' where sync_history_id = %s"
    await conn.execute(query, [sync_history_id])


async def close_pass(
    conn: Connection,
    sync_history_id: int,
    *,
    status: str,
    sync_type: str,
    reason: str,
    event_ids: Collection[int],
    error_code: int | None = None,
    error_message: str | None = None,
) -> None:
    """End a pass's row."""
    values = {"id": sync_history_id, "status": status, "type": sync_type, "reason": reason}
    await conn.execute(END, {**values, "events": sorted(event_ids), "code": error_code, "message": error_message})


async def record_skipped(
    conn: Connection,
    *,
    run_id: int | None,
    timing_partner_id: int,
    credential_id: int,
    race_id: int,
    event_ids: Collection[int],
    reason: str,
) -> None:
    """Note that a race was not read because another run holds it."""
    await conn.execute(SKIPPED, [run_id, timing_partner_id, credential_id, race_id, sorted(event_ids), reason])


async def purge(conn: Connection) -> int:
    """Drop what nobody asks for any more, and say how much: calls after 35 days, passes without a change after 90."""
    dropped = 0
    for statement in (PURGE_CALLS, PURGE_PASSES):
        dropped += (await conn.execute(statement)).rowcount
    return dropped
