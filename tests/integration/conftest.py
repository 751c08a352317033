"""Fixtures of the tests that sync a sandbox."""

from collections.abc import AsyncIterator

import pytest

from startlist.store.database import Database
from tests.support import MakeSettings
from tests.syncing import Rig


@pytest.fixture
async def rig(database: Database, make_settings: MakeSettings) -> AsyncIterator[Rig]:
    """A fresh sandbox of one partner, one race and two events, and a fresh database that knows its key."""
    async with Rig.open(database, make_settings) as opened:
        yield opened
