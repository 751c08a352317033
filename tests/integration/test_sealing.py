"""The key ring: made once, held against the database, rotated without a moment at which a secret is lost."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from startlist.config import Settings
from startlist.errors import ConfigurationError
from startlist.store import partners
from startlist.store.database import Connection, Database
from startlist.store.sealing import KeyRing, key_file, make_key_file, open_key_ring, rotate

SECRET = "s3cret-of-a-timer"


def settings_of(home: Path, *keys: str) -> Settings:
    secret_key = SecretStr(",".join(keys)) if keys else None
    return Settings(_env_file=None, home=home, secret_key=secret_key)  # type: ignore[call-arg]


async def insert_readable(conn: Connection, secret: str = SECRET, principal: str = "key-1") -> None:
    """As a user does who fills the tables with plain SQL."""
    await conn.execute(
        "with t as (insert into timing_partners (company_name) values ('Acme Timing') returning timing_partner_id)"
        " insert into partner_provider_credentials (timing_partner_id, provider_id, principal, secret)"
        " select timing_partner_id, 2, %s, %s from t",
        [principal, secret],
    )


async def stored(conn: Connection) -> list[str]:
    query = "select secret from partner_provider_credentials order by credential_id"
    return [row[0] for row in await (await conn.execute(query)).fetchall()]


async def secrets(conn: Connection, settings: Settings) -> list[str | None]:
    ring = await open_key_ring(conn, settings)
    return [credential.secret for credential in await partners.credentials(conn, ring, settings)]


async def test_the_key_file_is_made_on_first_use_and_only_for_its_owner(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        await insert_readable(conn)
        assert await secrets(conn, settings_of(tmp_path / "new" / "home")) == [SECRET]
    file = tmp_path / "new" / "home" / "secret.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


async def test_a_readable_secret_is_sealed_on_first_use(database: Database, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with await database.connect() as conn:
        await insert_readable(conn)
        await insert_readable(conn, "another", "key-2")
        first, second = await asyncio.gather(secrets(conn, settings), _in_own_connection(database, settings))
        assert first == second == [SECRET, "another"]
        sealed = await stored(conn)
        assert all(value.startswith("fernet:") and SECRET not in value for value in sealed)
        assert await secrets(conn, settings) == [SECRET, "another"]
        assert await stored(conn) == sealed


async def _in_own_connection(database: Database, settings: Settings) -> list[str | None]:
    async with await database.connect() as conn:
        return await secrets(conn, settings)


async def test_secrets_show_in_no_text(database: Database, tmp_path: Path) -> None:
    key = Fernet.generate_key().decode()
    settings = settings_of(tmp_path, key)
    async with await database.connect() as conn:
        await insert_readable(conn)
        ring = await open_key_ring(conn, settings)
        (credential,) = await partners.credentials(conn, ring, settings)
    shown = f"{credential!r} {credential} {ring!r} {ring} {ring.fingerprint}"
    assert SECRET not in shown
    assert key not in shown


async def test_another_key_is_refused_and_says_where_it_came_from(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        await insert_readable(conn)
        await secrets(conn, settings_of(tmp_path))
        foreign = settings_of(tmp_path, Fernet.generate_key().decode())
        with pytest.raises(ConfigurationError, match="sealed with another key than STARTLIST_SECRET_KEY"):
            await open_key_ring(conn, foreign)
        elsewhere = tmp_path / "elsewhere"
        make_key_file(elsewhere / "secret.key")
        with pytest.raises(ConfigurationError, match=r"another key than .*elsewhere/secret\.key"):
            await open_key_ring(conn, settings_of(elsewhere))
        assert await secrets(conn, settings_of(tmp_path)) == [SECRET]


async def test_no_key_is_made_while_sealed_secrets_exist(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        await insert_readable(conn)
        await secrets(conn, settings_of(tmp_path))
        with pytest.raises(ConfigurationError, match="their key is not here"):
            await open_key_ring(conn, settings_of(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


async def test_a_new_key_is_welcome_once_nothing_is_sealed_any_more(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        await insert_readable(conn)
        old = await open_key_ring(conn, settings_of(tmp_path))
        await secrets(conn, settings_of(tmp_path))
        await conn.execute("delete from timing_partners")
        await open_key_ring(conn, settings_of(tmp_path / "other"))
        await insert_readable(conn)
        with pytest.raises(ConfigurationError, match="another key"):  # a process that runs since before
            await partners.credentials(conn, old, settings_of(tmp_path))
        assert await secrets(conn, settings_of(tmp_path / "other")) == [SECRET]


async def test_a_ring_seals_with_the_key_that_the_database_names(database: Database, tmp_path: Path) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    async with await database.connect() as conn:
        await open_key_ring(conn, settings_of(tmp_path, old))
        await insert_readable(conn)
        assert await secrets(conn, settings_of(tmp_path, new, old)) == [SECRET]
        # Another machine that has not been given the new key yet still reads everything.
        assert await secrets(conn, settings_of(tmp_path, old)) == [SECRET]


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"not a key\n", 0o600, "does not hold a Fernet key"),
        (b"", 0o600, "does not hold a Fernet key"),
        (b"\xff\xfe\x00", 0o600, "does not hold a Fernet key"),
        pytest.param(Fernet.generate_key(), 0o644, "run chmod 600", id="readable by others"),
    ],
)
async def test_a_bad_key_file_is_named(
    database: Database, tmp_path: Path, content: bytes, mode: int, says: str
) -> None:
    file = tmp_path / "secret.key"
    file.write_bytes(content)
    file.chmod(mode)
    async with await database.connect() as conn:
        with pytest.raises(ConfigurationError, match=says) as caught:
            await open_key_ring(conn, settings_of(tmp_path))
    assert str(file) in str(caught.value)
    assert content.decode("latin-1").strip() not in str(caught.value) or not content.strip()
    assert file.read_bytes() == content


async def test_an_unreadable_key_file_is_named(database: Database, tmp_path: Path) -> None:
    (tmp_path / "secret.key").mkdir()
    async with await database.connect() as conn:
        with pytest.raises(ConfigurationError, match=r"secret\.key"):
            await open_key_ring(conn, settings_of(tmp_path))


async def test_a_bad_key_in_the_environment_is_named_but_not_shown(database: Database, tmp_path: Path) -> None:
    async with await database.connect() as conn:
        with pytest.raises(ConfigurationError, match="STARTLIST_SECRET_KEY") as caught:
            await open_key_ring(conn, settings_of(tmp_path, "tiny-and-wrong"))
    assert "tiny-and-wrong" not in str(caught.value)


def test_two_processes_that_make_the_key_file_at_once_agree(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from startlist.store.sealing import make_key_file as make\n"
    script += "sys.stdin.readline(); path = Path(sys.argv[1]); make(path); print(path.read_text(), end='')"
    file = tmp_path / "secret.key"
    makers = [
        subprocess.Popen([sys.executable, "-c", script, str(file)], stdin=-1, stdout=-1, text=True) for _ in range(3)
    ]
    said = {maker.communicate("go\n", timeout=20)[0] for maker in makers}
    assert said == {file.read_text()}
    assert list(tmp_path.iterdir()) == [file]


async def test_a_damaged_secret_costs_no_other_key(database: Database, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with await database.connect() as conn:
        await insert_readable(conn)
        await insert_readable(conn, "another", "key-2")
        await secrets(conn, settings)
        await conn.execute("update partner_provider_credentials set secret = 'fernet:gone' where principal = 'key-1'")
        assert await secrets(conn, settings) == [None, "another"]


async def test_rotation_replaces_the_key_file_and_all_seals(database: Database, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with await database.connect() as conn:
        await insert_readable(conn)
        running = await open_key_ring(conn, settings)  # of a process that goes on meanwhile
        await partners.credentials(conn, running, settings)
        key, sealed = key_file(settings).read_text(), await stored(conn)
        await insert_readable(conn, "another", "key-2")
        steps: list[str] = []
        done = await rotate(conn, settings, report=steps.append)
        assert done.secrets == 2
        assert len(steps) == 3
        assert key not in key_file(settings).read_text()
        assert len(key_file(settings).read_text().split()) == 1
        assert key_file(settings).stat().st_mode & 0o777 == 0o600
        assert not set(sealed) & set(await stored(conn))
        assert await secrets(conn, settings) == [SECRET, "another"]
        assert [one.secret for one in await partners.credentials(conn, running, settings)] == [SECRET, "another"]
        assert not KeyRing([key.strip()], path=None).opens((await stored(conn))[0])


async def test_rotation_of_keys_in_the_environment(database: Database, tmp_path: Path) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    async with await database.connect() as conn:
        await insert_readable(conn)
        assert await secrets(conn, settings_of(tmp_path, old)) == [SECRET]
        with pytest.raises(ConfigurationError, match="put a new key in front"):
            await rotate(conn, settings_of(tmp_path, old), report=logging.debug)
        await rotate(conn, settings_of(tmp_path, new, old), report=logging.debug)
        assert await secrets(conn, settings_of(tmp_path, new)) == [SECRET]
        with pytest.raises(ConfigurationError, match="another key"):
            await secrets(conn, settings_of(tmp_path, old))
    assert not key_file(settings_of(tmp_path)).exists()


ROTATE_AND_DIE = """
import asyncio, os, signal, sys
from pathlib import Path
from startlist.config import Settings
from startlist.store.database import Database
from startlist.store.sealing import rotate

steps = int(sys.argv[4])

def report(step):
    global steps
    steps -= 1
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    database = Database(sys.argv[1], sys.argv[2])
    async with await database.connect() as conn:
        await rotate(conn, Settings(_env_file=None, home=Path(sys.argv[3])), report=report)

asyncio.run(main())
"""


@pytest.mark.parametrize("step", [1, 2, 3])
async def test_rotation_killed_after_any_step_loses_nothing(database: Database, tmp_path: Path, step: int) -> None:
    settings = settings_of(tmp_path)
    async with await database.connect() as conn:
        await insert_readable(conn)
        before = await open_key_ring(conn, settings)
        await partners.credentials(conn, before, settings)
        arguments = ["-c", ROTATE_AND_DIE, database.conninfo, database.schema, str(tmp_path), str(step)]
        child = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        assert await child.wait() == -signal.SIGKILL
        assert await secrets(conn, settings) == [SECRET]
        assert (await partners.credentials(conn, before, settings))[0].secret == SECRET
        await rotate(conn, settings, report=logging.debug)
        assert await secrets(conn, settings) == [SECRET]
        ring = await open_key_ring(conn, settings)
        assert len(ring) == 1
        assert ring.fingerprint not in before.fingerprints


async def test_rotations_at_once_leave_one_key_that_opens_everything(database: Database, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)

    async def turn() -> None:
        async with await database.connect() as own:
            await rotate(own, settings, report=logging.debug)

    async with await database.connect() as conn:
        await insert_readable(conn)
        await asyncio.gather(*(turn() for _ in range(4)))
        assert await secrets(conn, settings) == [SECRET]
        assert len(await open_key_ring(conn, settings)) == 1
