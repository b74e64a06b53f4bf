"""What a server says about a database's settings before it works with it."""

from collections.abc import Iterator

import pytest

from task_server.errors import DatabaseUnusable
from task_server.store.postgres import checks
from task_server.store.postgres.connection import connect
from task_server.store.postgres.opening import open_store
from tests.postgres import Cluster, cluster

DURABLE = ("fsync=on", "shared_buffers=32MB")


@pytest.fixture(scope="module")
def durable() -> Iterator[Cluster]:
    with cluster(*DURABLE) as running:
        yield running


async def told(cluster: Cluster, database: str = "postgres") -> list[str]:
    connection = await connect(cluster.url(database))
    try:
        return await checks.warnings(connection)
    finally:
        await connection.close()


async def do(cluster: Cluster, sql: str) -> None:
    connection = await connect(cluster.url())
    await connection.execute(sql)
    await connection.close()


async def test_a_durable_database_needs_no_words(durable: Cluster) -> None:
    assert await told(durable) == []


@pytest.mark.parametrize("level", ["off", "local", "remote_write"])
async def test_a_commit_that_is_not_waited_for_is_told(durable: Cluster, level: str) -> None:
    await do(durable, f"ALTER ROLE postgres SET synchronous_commit = '{level}'")
    try:
        (warning,) = await told(durable)
    finally:
        await do(durable, "ALTER ROLE postgres RESET synchronous_commit")

    assert f"synchronous_commit is {level}" in warning


async def test_a_commit_applied_by_standbys_needs_no_words(durable: Cluster) -> None:
    await do(durable, "ALTER ROLE postgres SET synchronous_commit = 'remote_apply'")
    try:
        assert await told(durable) == []
    finally:
        await do(durable, "ALTER ROLE postgres RESET synchronous_commit")


async def test_a_database_that_does_not_sync_is_told() -> None:
    with cluster("fsync=off", "full_page_writes=off", "shared_buffers=32MB") as careless:
        fsync, pages = await told(careless)

    assert fsync.startswith("fsync is off") and pages.startswith("full_page_writes is off")


async def test_a_standby_that_nobody_waits_for_is_told(durable: Cluster) -> None:
    with durable.standby():
        (warning,) = await told(durable)
        assert "synchronous_standby_names is empty" in warning

        await do(durable, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        await do(durable, "SELECT pg_reload_conf()")
        try:
            while await told(durable):
                pass
        finally:
            await do(durable, "ALTER SYSTEM RESET synchronous_standby_names")
            await do(durable, "SELECT pg_reload_conf()")


async def test_a_standby_is_refused(durable: Cluster) -> None:
    with durable.read_only_copy() as standby, pytest.raises(DatabaseUnusable, match="a standby"):
        await told(standby)


async def test_a_database_of_others_is_refused(durable: Cluster) -> None:
    await do(durable, "CREATE ROLE stranger LOGIN")
    url = durable.url().replace("postgres@", "stranger@")

    with pytest.raises(DatabaseUnusable, match="permission denied"):
        await open_store(url, lease_seconds=60, on_broken=None, on_time=None)


async def test_a_database_of_another_encoding_is_refused(durable: Cluster) -> None:
    await do(
        durable,
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
    )

    with pytest.raises(DatabaseUnusable, match="encoding is LATIN1"):
        await told(durable, "latin")


async def test_an_old_postgresql_is_refused(
    durable: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "OLDEST", 99)

    with pytest.raises(DatabaseUnusable, match="PostgreSQL 18 is too old; 99 or newer"):
        await told(durable)
