"""`startlist key rotate` as a user calls it."""

from __future__ import annotations

from pathlib import Path

from cryptography.fernet import Fernet

from startlist.store.database import Database
from tests.support import Cli


def test_rotate_with_the_key_file(cli: Cli, database: Database, home: Path) -> None:
    assert cli("partner", "add", "Acme", "--api-key", "k", env={"STARTLIST_API_SECRET": "hush-hush"}).code == 0
    before = (home / "secret.key").read_text()
    done = cli("key", "rotate")
    assert done.code == 0
    assert "1 API secrets are sealed with the key" in done.stdout
    assert "old key is dropped" in done.stderr
    after = (home / "secret.key").read_text()
    assert after != before
    assert before.strip() not in after
    assert cli("key", "rotate", "--json").json["secrets"] == 1
    for text in (before.strip(), after.strip(), "hush-hush"):
        assert text not in done.stdout + done.stderr


def test_rotate_with_keys_in_the_environment(cli: Cli, database: Database, home: Path) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    with_old, with_both = {"STARTLIST_SECRET_KEY": old}, {"STARTLIST_SECRET_KEY": f"{new},{old}"}
    assert cli("partner", "add", "Acme", "--api-key", "k", env=with_old | {"STARTLIST_API_SECRET": "x"}).code == 0
    nothing = cli("key", "rotate", env=with_old)
    assert nothing.code == 2
    assert "put a new key in front" in nothing.stderr
    done = cli("key", "rotate", env=with_both)
    assert done.code == 0
    assert "may be dropped from STARTLIST_SECRET_KEY" in done.stdout
    assert cli("partner", "rotate", 1, env=with_old | {"STARTLIST_API_SECRET": "y"}).code == 2
    assert cli("partner", "rotate", 1, env={"STARTLIST_SECRET_KEY": new, "STARTLIST_API_SECRET": "y"}).code == 0
    assert not (home / "secret.key").exists()
    assert new not in done.stdout + done.stderr + nothing.stdout + nothing.stderr
