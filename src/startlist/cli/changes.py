"""`startlist history` and `startlist changes`: what ran, and what it found different."""

from __future__ import annotations

from datetime import timedelta

from startlist.cli import words
from startlist.cli.app import begin, run
from startlist.cli.following import AfterId, Follow, Many, Printer
from startlist.cli.output import Event, Json, Limit, Race, Since, TimingPartner, note, print_json, table, zone_of
from startlist.store.changelog import CHANGES, Change, Entry
from startlist.store.database import Database
from startlist.store.reading import Filters, StoredPass, at_most, check_filters, reader, stored_passes


def history(
    timing_partner: TimingPartner = None,
    race: Race = None,
    event: Event = None,
    since: Since = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List the passes, the newest first: which race, what kind, how it ended, what it found; --since is their begin.

    Examples:
        startlist history
        startlist history --race 12345 --since 1d
    """
    settings = begin()
    filters = Filters(timing_partner, race, event, since)

    async def work() -> tuple[list[StoredPass], str | None]:
        async with reader(await Database.open(settings)) as conn:
            because = await check_filters(conn, filters)
            return await stored_passes(conn, filters, limit=limit + 1), because

    found, because = run(work())
    shown, more = at_most(found, limit)
    if more:
        note(f"Only the newest {limit} are shown; --limit N shows more.")
    if json:
        print_json(shown)
        return
    if not shown:
        note(f"No pass: {because}." if because else "No pass.")
        return
    headings = ["began", "took", "race", "pass", "status", "calls", "found", "why"]
    table(headings, [_line(one) for one in shown], zone=zone_of(settings.timezone))


def _line(one: StoredPass) -> list[object]:
    why = one.error_message or one.reason
    return [
        one.started_at,
        _seconds(one.finished_at - one.started_at) if one.finished_at else None,
        f"{one.race_id} {words.named(one.race_name, one.race_id)}" if one.race_name else one.race_id,
        one.sync_type.replace("_", " "),
        one.status,
        one.api_calls,
        _found(one),
        f"{why} (code {one.error_code})" if one.error_code is not None else why,
    ]


def _found(one: StoredPass) -> str:
    """What a pass found, without what it did not."""
    counts = {
        "received": one.rows_received,
        "added": one.rows_inserted,
        "updated": one.rows_updated,
        "removed": one.rows_removed,
        "missing": one.rows_missing,
        "bib changes": one.bib_changes,
        "silent edits": one.silent_edits,
        "quarantined": one.quarantined,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():.1f} s" if length < timedelta(seconds=90) else words.span(length)


def changes(
    timing_partner: TimingPartner = None,
    race: Race = None,
    event: Event = None,
    since: Since = None,
    after_id: AfterId = None,
    limit: Many = None,
    follow: Follow = False,
    json: Json = False,
) -> None:
    """List what changed in registrations, the newest last; --follow prints new changes as they come.

    Ids become visible in their order: a script that keeps the last one and asks with --after-id misses nothing.

    Examples:
        startlist changes --race 12345 --since 2h
        startlist changes --follow                   as they come
        startlist changes --after-id 4711 --json     for a script
    """
    settings = begin()
    filters = Filters(timing_partner, race, event, since)
    headings = ["id", "found", "race", "event", "registration", "runner", "change"]
    printer = Printer(CHANGES, headings, _change, settings=settings, json=json)
    (printer.follow if follow else printer.list)(filters, after_id, limit)


def _change(entry: Entry[Change]) -> list[object]:
    row = entry.row
    return [
        row.change_id,
        row.detected_at,
        words.named(entry.race_name, row.race_id),
        words.named(entry.event_name, row.event_id),
        row.registration_id,
        words.runner(entry.first_name, entry.last_name, row.registration_id),
        words.change(row.change_type, row.before, row.after),
    ]
