"""The temporary tables that a pass's connection merges through."""

from __future__ import annotations

from startlist.store import changes, registrations, removals
from startlist.store.database import Connection

# Stages are never analysed: without this a large table would be scanned to be joined with a small page.
_PLANS = "set enable_hashjoin = off; set enable_mergejoin = off; set jit = off"


async def make_stages(conn: Connection) -> None:
    """Make the connection ready for merges, once in its life, in one round trip and one commit."""
    await conn.execute(";".join((_PLANS, changes.GATHERED, registrations.STAGE, removals.STAGE)))
