"""What tests of all parts share: a folder, and a PostgreSQL if one of them asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import time_outs
from tests.folders import RunFolder
from tests.postgres import Cluster, Databases, cluster

VERSION = int(os.environ.get("TASK_SERVER_POSTGRES", "18"))
"""Which PostgreSQL; the wheel has 16, too."""
QUICK = ("fsync=off", "autovacuum=off", "shared_buffers=64MB", "max_connections=200")


OWN_FOLDER = pytest.StashKey[RunFolder]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Bound clean-ups in time, and have temporary folders below one of this run's own.

    Those of all runs of a user lie below one that pytest closes to others at the start of each run,
    also to the runners of tests that are going on: they would find nothing to import.
    """
    if config.option.basetemp is None:
        config.stash[OWN_FOLDER] = own = RunFolder()
        config.option.basetemp = str(own.path / "all")  # pytest makes it anew
    config.pluginmanager.register(time_outs)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    if (own := config.stash.get(OWN_FOLDER, None)) is not None:
        own.remove()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs PostgreSQL."""
    for item in items:
        needs = getattr(item, "fixturenames", ())
        if "postgres" in needs or item.path.parent.name == "postgres":
            item.add_marker("postgres")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL for all tests that do not break it."""
    with cluster(*QUICK, version=VERSION) as running:
        yield running


@pytest.fixture(scope="session")
def databases(postgres: Cluster) -> Databases:
    """Makes databases in it."""
    return Databases(postgres)


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """The URL of a new database with tables."""
    name = databases.make()
    yield databases.cluster.url(name)
    databases.drop(name)


@pytest.fixture
def empty_database(databases: Databases) -> Iterator[str]:
    """The URL of a new database without tables."""
    name = databases.make(has_tables=False)
    yield databases.cluster.url(name)
    databases.drop(name)
