"""Tests of what PostgreSQL alone has."""

from collections.abc import AsyncIterator

import pytest

from tests.store.postgres.pair import Pair
from tests.store.postgres.world import PostgresWorld


@pytest.fixture
async def world(database: str) -> AsyncIterator[PostgresWorld]:
    """A database and its store; whatever a test did, the counts are right at its end."""
    world = PostgresWorld(database)
    await world.start()
    try:
        yield world
        await world.recount()
    finally:
        await world.close()


@pytest.fixture
async def pair(database: str) -> AsyncIterator[Pair]:
    """Two servers; whatever a test did, the counts are right at its end."""
    pair = Pair(database)
    await pair.start()
    yield pair
    await pair.close()


@pytest.fixture
def told(pair: Pair) -> Pair:
    """Two servers that learn of each other's doings by what they are told, and in no other way."""
    for world in (pair.one, pair.two):
        assert world.store._looking is not None
        world.store._looking.cancel()
    return pair
