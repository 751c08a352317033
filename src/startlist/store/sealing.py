"""The key ring: API secrets are stored sealed (Fernet), and the database names the one key that seals.

A ring may hold several keys. It seals with the key whose fingerprint stands in `secret_keys`, whatever its place in the
ring, so that all processes of one database always seal with the same key; only a rotation moves it. Whoever seals
holds that row, which keeps sealing and rotation apart.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from startlist.config import Settings
from startlist.errors import ConfigurationError
from startlist.store.database import Connection, translated

SEALED = "fernet:"
VARIABLE = "STARTLIST_SECRET_KEY"


class KeyRing:
    """Fernet keys, newest first, of which one is in use. Its text never shows a key."""

    def __init__(self, keys: Sequence[str], *, path: Path | None) -> None:
        """Take keys as text; `path` is the key file, None where the keys came from the environment."""
        self.path = path
        self._keys = _distinct(keys, self.origin)
        self._in_use = 0

    @property
    def origin(self) -> str:
        """Where the keys come from, as the user knows it."""
        return VARIABLE if self.path is None else str(self.path)

    @property
    def fingerprint(self) -> str:
        """Name the key in use without revealing it."""
        return fingerprint_of(self._keys[self._in_use])

    @property
    def fingerprints(self) -> list[str]:
        """Name all keys, newest first."""
        return [fingerprint_of(key) for key in self._keys]

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self)} from {self.origin}, {self.fingerprint} in use>"

    def use(self, fingerprint: str) -> None:
        """Seal with the key of this fingerprint; a key file that was rotated meanwhile is read again.

        Raises `ConfigurationError` when the ring does not hold that key.
        """
        if fingerprint not in self.fingerprints:
            self.reread()
        try:
            self._in_use = self.fingerprints.index(fingerprint)
        except ValueError:
            raise self.foreign() from None

    def reread(self) -> None:
        """Read the key file again, where there is one; its first key is in use then."""
        if self.path is not None:
            self._keys, self._in_use = _distinct(_read(self.path), self.origin), 0

    def foreign(self) -> ConfigurationError:
        """Say that another key sealed the database's secrets."""
        return ConfigurationError(
            f"the API secrets in this database were sealed with another key than {self.origin} holds: put the right"
            f" one there, or name it with {VARIABLE} (several are separated by commas, newest first)"
        )

    def seal(self, secret: str) -> str:
        """Return the secret in the form in which it is stored; it begins with `fernet:`."""
        return SEALED + Fernet(self._keys[self._in_use]).encrypt(secret.encode()).decode()

    def open(self, sealed: str) -> str:
        """Return the secret behind a stored form. Raises `ConfigurationError` when the key in use does not open it."""
        try:
            return Fernet(self._keys[self._in_use]).decrypt(sealed.removeprefix(SEALED).encode()).decode()
        except (InvalidToken, UnicodeError):
            raise ConfigurationError(
                f"a sealed secret cannot be opened with the key of {self.origin}; it is damaged,"
                " or another key sealed it"
            ) from None

    def opens(self, sealed: str) -> bool:
        """Whether the key in use opens this stored form."""
        with suppress(ConfigurationError):
            self.open(sealed)
            return True
        return False

    def add(self, key: str) -> None:
        """Put a new key in front; the one in use stays in use."""
        self._keys = (key, *self._keys)
        self._in_use += 1

    def keep_only_used(self) -> None:
        """Forget every key but the one in use."""
        self._keys, self._in_use = (self._keys[self._in_use],), 0

    def write(self) -> None:
        """Replace the key file at once and for good: a crash leaves the old file or the new one."""
        if self.path is None:
            return
        draft = self.path.with_name(self.path.name + ".new")
        try:
            draft.unlink(missing_ok=True)
            _write(draft, "\n".join(self._keys))
            draft.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise ConfigurationError(f"cannot write the key file {self.path}: {error.strerror}") from None


def fingerprint_of(key: str) -> str:
    """Name a key without revealing it."""
    return hashlib.sha256(b"startlist key " + key.encode()).hexdigest()[:16]


async def open_key_ring(conn: Connection, settings: Settings) -> KeyRing:
    """Read the key of this process, or make the key file on first use, and hold it against the database.

    Raises `ConfigurationError` when the key is unusable or not the one that sealed the database's secrets, and when
    there is none although secrets are sealed.
    """
    ring = read_key_ring(settings)
    if ring is None:
        path = key_file(settings)
        with translated():
            sealed = await _sealed(conn)
        ring = read_key_ring(settings) if sealed else None  # another process may just have made it, and sealed with it
        if sealed and ring is None:
            raise ConfigurationError(
                f"the API secrets in this database are sealed, and their key is not here: bring back the key file"
                f" {path}, or put the key into {VARIABLE}"
            )
    if ring is None:
        make_key_file(path)
        ring = KeyRing(_read(path), path=path)
    with translated():
        row = await (await conn.execute("select fingerprint from secret_keys")).fetchone()
        if row is not None and row[0] in ring.fingerprints:
            ring.use(str(row[0]))
        else:
            await _introduce(conn, ring)
    return ring


async def missing_key(conn: Connection, settings: Settings) -> str | None:
    """The fingerprint of the key that the database's secrets need, where it is not here; nothing is made or changed."""
    with translated():
        row = await (await conn.execute("select fingerprint from secret_keys")).fetchone()
        if row is None or not await _sealed(conn):
            return None
    ring = read_key_ring(settings)
    return None if ring is not None and row[0] in ring.fingerprints else str(row[0])


async def hold_key(conn: Connection, ring: KeyRing) -> None:
    """Within a transaction: make sure that the ring seals with the database's key, until the transaction ends."""
    row = await (await conn.execute("select fingerprint from secret_keys for share")).fetchone()
    if row is None:
        raise ConfigurationError(_NAMELESS)
    ring.use(str(row[0]))


@dataclass(frozen=True)
class Rotation:
    """What `rotate` did: how many secrets were sealed anew, and where the key is."""

    secrets: int
    origin: str
    fingerprint: str


async def rotate(conn: Connection, settings: Settings, *, report: Callable[[str], None]) -> Rotation:
    """Seal all secrets with a new key; after a crash at any moment everything still opens and a second run finishes.

    With a key file: the new key is written before the old, then all secrets are sealed anew in one transaction, then
    the old key is dropped. With `STARTLIST_SECRET_KEY` the secrets move to its first key. `report` hears of each step.
    """
    await open_key_ring(conn, settings)
    with translated():
        async with conn.transaction():
            named = await _hold_exclusively(conn)
            ring = _require(settings)  # read again: another rotation may just have ended
            ring.use(named)
            if ring.fingerprints[0] == named:
                if ring.path is None:
                    raise ConfigurationError(
                        f"all secrets are sealed with the first key of {VARIABLE} already: put a new key in front,"
                        f" separated by a comma, and run this again (a new one: {_RECIPE})"
                    )
                ring.add(Fernet.generate_key().decode())
                ring.write()
                report("the new key is in the key file, before the old one")
            count = await _seal_anew(conn, ring)
        report("all secrets are sealed with the new key")
        if ring.path is not None:
            async with conn.transaction():
                ring = _require(settings)
                ring.use(await _hold_exclusively(conn))
                ring.keep_only_used()
                ring.write()
            report("the old key is dropped")
    return Rotation(count, ring.origin, ring.fingerprint)


_RECIPE = "openssl rand -base64 32 | tr '+/' '-_'"
_BRING_BACK = "bring back your copy of it, or remove it if no API secret was ever sealed with it"
_NAMELESS = "the database no longer names the key of its secrets (table secret_keys is empty); start again"


async def _seal_anew(conn: Connection, ring: KeyRing) -> int:
    query = "select credential_id, secret from partner_provider_credentials order by credential_id for update"
    rows = await (await conn.execute(query)).fetchall()
    readable = [(number, _readable(ring, str(secret))) for number, secret in rows]
    ring.use(ring.fingerprints[0])
    for number, secret in readable:
        await conn.execute(
            "update partner_provider_credentials set secret = %s where credential_id = %s", [ring.seal(secret), number]
        )
    await conn.execute("update secret_keys set fingerprint = %s, created_at = now()", [ring.fingerprint])
    return len(rows)


def _readable(ring: KeyRing, stored: str) -> str:
    return ring.open(stored) if stored.startswith(SEALED) else stored


async def _introduce(conn: Connection, ring: KeyRing) -> None:
    """Name the ring's newest key in the database, which is right only if it opens all that is sealed there."""
    async with conn.transaction():
        query = "insert into secret_keys (fingerprint) values (%s) on conflict do nothing"
        was_empty = (await conn.execute(query, [ring.fingerprint])).rowcount == 1
        named = await _hold_exclusively(conn)
        ring.reread()  # a rotation may have ended while we waited
        if was_empty or named not in ring.fingerprints:
            if not all(ring.opens(secret) for secret in await _sealed(conn)):
                raise ring.foreign()
            named = ring.fingerprint
            await conn.execute("update secret_keys set fingerprint = %s, created_at = now()", [named])
        ring.use(named)


async def _hold_exclusively(conn: Connection) -> str:
    row = await (await conn.execute("select fingerprint from secret_keys for update")).fetchone()
    if row is None:
        raise ConfigurationError(_NAMELESS)
    return str(row[0])


async def _sealed(conn: Connection) -> list[str]:
    query = "select secret from partner_provider_credentials where starts_with(secret, %s)"
    return [str(secret) for (secret,) in await (await conn.execute(query, [SEALED])).fetchall()]


def key_file(settings: Settings) -> Path:
    """Where the key lives without `STARTLIST_SECRET_KEY`."""
    return settings.home / "secret.key"


def read_key_ring(settings: Settings) -> KeyRing | None:
    """The keys of the environment or of the key file; None when there are none yet."""
    if settings.secret_key is not None:
        return KeyRing(re.split(r"[,\s]+", settings.secret_key.get_secret_value().strip()), path=None)
    path = key_file(settings)
    try:
        return KeyRing(_read(path), path=path)
    except FileNotFoundError:
        return None


def _require(settings: Settings) -> KeyRing:
    ring = read_key_ring(settings)
    if ring is None:
        raise ConfigurationError(f"the key file {key_file(settings)} is gone; bring it back")
    return ring


def make_key_file(path: Path) -> None:
    """Make a key file that only this user can read; of two processes one wins, and both then read the same key."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(draft, Fernet.generate_key().decode())
        try:
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigurationError(f"cannot make the key file {path}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> list[str]:
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii") if stat.S_ISREG(mode) else ""
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"cannot read the key file {path} (in STARTLIST_HOME): {error.strerror}") from None
    except UnicodeError:
        text = ""
    else:
        if stat.S_ISREG(mode) and mode & 0o077:
            raise ConfigurationError(f"other users can read the key file {path}: run chmod 600 on it")
    keys = text.split()
    if not keys:
        raise ConfigurationError(f"the key file {path} does not hold a Fernet key: {_BRING_BACK}")
    return keys


def _distinct(keys: Sequence[str], origin: str) -> tuple[str, ...]:
    for key in keys:
        try:
            Fernet(key)
        except ValueError:
            advice = f"32 bytes in URL-safe base64; a new one: {_RECIPE}" if origin == VARIABLE else _BRING_BACK
            raise ConfigurationError(f"{origin} does not hold a Fernet key: {advice}") from None
    return tuple(dict.fromkeys(keys))
