"""Tests of what SQLite alone has."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.sqlite.world import SqliteWorld


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SqliteWorld]:
    """A new file and its store; whatever a test did, the counts are right at its end."""
    folder = tmp_path / "database"
    folder.mkdir()
    world = SqliteWorld(folder)
    await world.start()
    yield world
    await world.recount()
    await world.close()
