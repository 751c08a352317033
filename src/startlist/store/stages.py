"""How a pass's connection merges: how it plans, and the temporary tables that a merge goes through."""

from __future__ import annotations

from typing import LiteralString

from startlist.store.database import Connection

# Stages are never analysed: without this a large table would be scanned to be joined with a small page.
_PLANS = "set enable_hashjoin = off; set enable_mergejoin = off; set jit = off"


async def prepare(conn: Connection) -> None:
    """Make the connection plan as merges need it, once in its life."""
    await conn.execute(_PLANS)


async def make(conn: Connection, *stages: LiteralString) -> None:
    """Make temporary tables that are not there yet, where a merge needs them: each costs milliseconds."""
    await conn.execute(";".join(stages))
