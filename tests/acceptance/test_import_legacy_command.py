"""`startlist import-legacy` as a user calls it."""

from __future__ import annotations

import stat
from contextlib import closing

import pytest

from startlist.store.database import Database
from tests.legacy import Legacy
from tests.scene import until
from tests.stored import Stored
from tests.support import Cli


@pytest.mark.usefixtures("database")
def test_import_says_what_it_took_and_what_not(cli: Cli, database_url: str) -> None:
    old = Legacy(database_url)
    try:
        old.partner(1, "Acme", "key-1", "sesame-1")
        old.race(10, 1, [100])
        old.registration(10, 100, 1)
        old.registration(10, 100, 1)
        old.registration(10, 100, None)
    finally:
        old.close()
    first = cli("import-legacy", "--from", database_url, "--rejected", "left.jsonl")
    assert first.code == 0, first.stderr
    assert "runsignup_participants: 1 without a registration id" in first.stdout
    assert "1 registration taken over. Next: startlist sync" in first.stdout
    assert "sesame-1" not in first.stdout + first.stderr
    kept = cli.cwd / "left.jsonl"
    assert len(kept.read_text().splitlines()) == 2
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    again = cli("import-legacy", "--json")
    assert (again.code, again.json["changed"]) == (0, False)
    assert again.json["tables"]["runsignup_participants"] == {
        "read": 3, "inserted": 0, "left": {"duplicate": 1, "no_registration_id": 1, "stored": 1},
    }  # fmt: skip
    refused = cli("import-legacy", "--rejected", "left.jsonl")
    assert (refused.code, refused.stdout) == (2, "")
    assert "is there already" in refused.stderr
    failed = cli("import-legacy", "--from-schema", "nowhere", "--rejected", "new.jsonl")
    assert failed.code == 2
    assert not (cli.cwd / "new.jsonl").exists()


def test_an_import_that_is_killed_leaves_nothing_and_the_next_one_takes_all(
    cli: Cli, database: Database, database_url: str
) -> None:
    """Killed after it has put in partners and keys, while it waits for a pass that writes."""
    with closing(Legacy(database_url)) as old, closing(Stored(database_url)) as stored:
        old.partner(1, "Acme", "key-1", "sesame-1")
        old.race(10, 1, [100])
        old.registration(10, 100, 1)
        before = old.checksum()
        with stored.conn.transaction():
            stored.conn.execute("lock table runsignup_participants in row exclusive mode")
            importing = cli.start("import-legacy")
            until(lambda: old.conn.execute("select from pg_locks where not granted").fetchone() is not None)
            importing.kill()
            importing.wait(10)
        until(lambda: old.conn.execute(_OTHERS).fetchone() is None)
        for table in ("timing_partners", "partner_provider_credentials", "runsignup_participants"):
            assert stored.value(f"select count(*) from {table}") == 0
        assert cli("import-legacy").code == 0
        assert stored.value("select count(*) from runsignup_participants") == 1
        assert old.checksum() == before


_OTHERS = "select from pg_stat_activity where application_name like 'startlist import-legacy%'"
