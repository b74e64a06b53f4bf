"""The stores that every test of the contract runs on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.postgres.world import PostgresWorld
from tests.store.sqlite.world import SqliteWorld, folder_in_memory
from tests.store.world import World

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=STORES)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A new database and its store; whatever a test did, the counts are right at its end."""
    with folder_in_memory() as folder:
        world = new_world(request, folder)
        await world.start()
        yield world
        await world.recount()
        await world.close()


def new_world(request: pytest.FixtureRequest, folder: Path) -> World:
    """A world on the store that the test is run for; `folder` is for its file."""
    if request.param == "postgres":
        return PostgresWorld(request.getfixturevalue("database"))
    return SqliteWorld(folder)
