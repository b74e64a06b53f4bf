"""PostgreSQL beside the executable model of delivery: the same calls, the same outcome."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.postgres import Databases
from tests.store.postgres.world import PostgresWorld
from tests.store.test_model import RUNS, TIMEOUT_SECONDS, run
from tests.store.world import World


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_SECONDS)
def test_postgres_does_what_the_model_does(databases: Databases) -> None:
    @contextmanager
    def new_world() -> Iterator[World]:
        name = databases.make()
        try:
            yield PostgresWorld(databases.cluster.url(name))
        finally:
            databases.drop(name)

    run(new_world, max(RUNS // 6, 1))
