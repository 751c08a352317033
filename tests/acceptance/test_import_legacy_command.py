"""`startlist import-legacy` as a user calls it."""

from __future__ import annotations

import stat

import pytest

from tests.legacy import Legacy
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
