"""The stores that every test of the contract runs on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.world import World


@pytest.fixture(params=["sqlite"])
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A new database and its store; whatever a test did, the counts are right at its end."""
    folder = tmp_path / "database"
    folder.mkdir()
    world = World(folder)
    yield world
    await world.recount()
    await world.close()
