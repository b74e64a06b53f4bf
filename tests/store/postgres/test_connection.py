"""Connections to PostgreSQL: what is told when there is none, and what a lost one means."""

import asyncio
import socket
from collections.abc import Iterator

import asyncpg
import pytest

from task_server.errors import DatabaseUnusable, Unavailable
from task_server.store.postgres import connection as module
from task_server.store.postgres.connection import (
    Connection,
    PgRows,
    Readers,
    Unconfirmed,
    connect,
    first_connection,
    is_conflict,
    is_lost,
    numbered,
    retrying,
    shown,
)
from task_server.store.records.sql import Rows
from tests.postgres import Cluster, cluster

SECRET = "hush-hush"


async def do(url: str, sql: str) -> None:
    connection = await connect(url)
    await connection.execute(sql)
    await connection.close()


# ---- values


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", "SELECT 1"),
        ("a = ? AND b = ?", "a = $1 AND b = $2"),
        ("a = '?' AND b = ?", "a = '?' AND b = $1"),
        ("a = 'it''s ?' AND b = ?", "a = 'it''s ?' AND b = $1"),
        ('"?" = ? -- ?\n AND ?', '"?" = $1 -- ?\n AND $2'),
    ],
)
def test_marks_become_numbers_but_not_in_quotes(sql: str, expected: str) -> None:
    assert numbered(sql) == expected


async def test_rows_are_tuples_and_changes_are_counted(database: str) -> None:
    connection = await connect(database)
    rows = PgRows(connection)
    insert = "INSERT INTO owners (name) VALUES (?), (?) ON CONFLICT DO NOTHING"

    assert await rows.execute(insert, "a", "b") == 2
    assert await rows.execute(insert, "a", "c") == 1
    assert await rows.execute("UPDATE owners SET weight = ? WHERE name = ?", 2, "nobody") == 0
    assert await rows.execute("CREATE TABLE another ()") == 0
    found = await rows.fetch("SELECT name, weight FROM owners ORDER BY name")
    assert found == [("a", 1.0), ("b", 1.0), ("c", 1.0)] and type(found[0]) is tuple
    await connection.close()


async def test_readers_do_not_write(database: str) -> None:
    readers = await Readers.open(database, patience=lambda: 0.2)

    async def write(rows: Rows) -> None:
        await rows.execute("INSERT INTO owners (name) VALUES ('x')")

    with pytest.raises((asyncpg.ReadOnlySQLTransactionError, Unavailable)):
        await readers.read(write)
    await readers.close()


# ---- addresses


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"postgresql://me:{SECRET}@db.example:5432/tasks", "me@db.example:5432/tasks"),
        (f"postgres://me:{SECRET}@db/tasks?sslmode=require", "me@db/tasks"),
        (f"postgresql:///tasks?host=/run/pg&user=me&password={SECRET}", "/run/pg/tasks"),
        ("postgresql:///tasks", "localhost/tasks"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, expected: str) -> None:
    assert shown(url) == expected


async def refusal(url: str) -> str:
    """Why a database cannot be used."""
    with pytest.raises(DatabaseUnusable) as refused:
        await first_connection(url)
    told = str(refused.value)
    assert SECRET not in told and "\n" not in told
    return told


async def test_a_wrong_password_is_told(postgres: Cluster) -> None:
    await do(
        postgres.url(),
        "DROP ROLE IF EXISTS locked_out; CREATE ROLE locked_out LOGIN PASSWORD 'right'",
    )

    told = await refusal(f"postgresql://locked_out:{SECRET}@127.0.0.1:{postgres.port}/postgres")

    assert 'password authentication failed for user "locked_out"' in told
    assert "check user and password" in told


async def test_an_unknown_user_and_an_unknown_database_are_told(postgres: Cluster) -> None:
    url = postgres.url("missing")

    assert 'database "missing" does not exist; make it first: createdb' in await refusal(url)
    told = await refusal(f"postgresql://stranger:{SECRET}@127.0.0.1:{postgres.port}/postgres")
    assert 'role "stranger" does not exist' in told


async def test_an_unreachable_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert f"me@127.0.0.1:{port}/tasks: " in await refusal(
        f"postgresql://me:{SECRET}@127.0.0.1:{port}/tasks"
    )
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    unknown = await refusal(f"postgresql://me:{SECRET}@no-such-host.invalid/tasks")
    assert "does PostgreSQL run there?" in unknown
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        told = await refusal(f"postgresql://me:{SECRET}@127.0.0.1:{port}/tasks")
    assert "no reply within 0.2 s" in told


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}/x@host/tasks",
        f"postgresql://me:{SECRET}#x@host/tasks",
        f"postgresql://me:{SECRET}?x@host/tasks",
        f"postgresql://me:{SECRET}@host:{SECRET}/tasks",
        f"postgresql://[me:{SECRET}@host/tasks",
        f"postgresql://me:{SECRET}@host/tasks?sslmode={SECRET}",
    ],
)
async def test_an_url_that_cannot_be_read_is_told_without_showing_it(url: str) -> None:
    assert "postgresql://USER:PASSWORD@HOST:PORT/NAME" in await refusal(url)


async def test_a_database_that_starts_is_waited_for() -> None:
    with cluster("fsync=off", "shared_buffers=32MB") as slow:
        slow.stop()
        slow.launch()
        starting = asyncio.to_thread(slow.wait)

        async def tried() -> Connection:
            while True:
                try:
                    return await first_connection(slow.url())
                except DatabaseUnusable as error:  # before it listens
                    assert "does PostgreSQL run there?" in str(error)
                    await asyncio.sleep(0)

        _, connection = await asyncio.gather(starting, tried())
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


# ---- what is lost, and what is tried again


async def test_a_lost_connection_is_known_as_such(database: str) -> None:
    connection, other = await connect(database), await connect(database)
    sleeping = asyncio.ensure_future(connection.execute("SELECT pg_sleep(20)"))
    await asyncio.sleep(0)
    await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())

    for work in (sleeping, connection.execute("SELECT 1")):
        with pytest.raises(Exception) as lost:
            await work
        assert is_lost(lost.value) and not is_conflict(lost.value)
    connection.terminate()
    await other.close()


async def test_conflicts_are_known_as_such(database: str) -> None:
    one, other = await connect(database), await connect(database)
    await one.execute("INSERT INTO owners (name) VALUES ('a'), ('b')")
    update = "UPDATE owners SET weight = 2 WHERE name = $1"
    for connection, name in ((one, "a"), (other, "b")):
        await connection.execute("BEGIN")
        await connection.execute(update, name)

    outcomes = await asyncio.gather(
        one.execute(update, "b"), other.execute(update, "a"), return_exceptions=True
    )

    errors = [each for each in outcomes if isinstance(each, Exception)]
    assert len(errors) == 1 and is_conflict(errors[0]) and not is_lost(errors[0])
    for connection in (one, other):
        await connection.execute("ROLLBACK")
        await connection.close()


async def test_other_errors_are_neither(database: str) -> None:
    connection = await connect(database)

    with pytest.raises(asyncpg.DivisionByZeroError) as raised:
        await connection.execute("SELECT 1 / 0")

    assert not is_lost(raised.value) and not is_conflict(raised.value)
    await connection.close()


async def test_work_is_tried_again_until_it_is_done() -> None:
    errors = iter([ConnectionResetError(), asyncpg.SerializationError(), None])

    async def work() -> str:
        if error := next(errors):
            raise error
        return "done"

    assert await retrying(work) == "done"


async def test_but_not_for_ever() -> None:
    async def refuse() -> None:
        raise ConnectionRefusedError

    async def hang() -> None:
        await asyncio.Event().wait()

    for work in (refuse, hang):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await retrying(work, seconds=0.2)


async def test_readers_come_back_after_a_crash() -> None:
    with cluster("shared_buffers=32MB") as breaking:
        patience = 5.0
        readers = await Readers.open(breaking.url(), patience=lambda: patience)

        async def one(rows: Rows) -> list[tuple[int]]:
            return await rows.fetch("SELECT 1")

        await asyncio.gather(*[readers.read(one) for _ in range(20)])
        breaking.crash()
        patience = 0.2
        with pytest.raises(Unavailable):
            await readers.read(one)
        patience = 10.0
        reading = [asyncio.ensure_future(readers.read(one)) for _ in range(20)]
        breaking.launch()
        await asyncio.to_thread(breaking.wait)

        assert await asyncio.gather(*reading) == [[(1,)]] * 20
        await readers.close()


# ---- what COMMIT means


@pytest.fixture(scope="module")
def waiting_for_a_standby() -> Iterator[Cluster]:
    with cluster("shared_buffers=32MB", "synchronous_standby_names=nobody") as lonely:
        yield lonely


async def test_a_commit_that_no_standby_confirms_is_not_taken_for_one(
    waiting_for_a_standby: Cluster,
) -> None:
    connection = await lonely_writer(waiting_for_a_standby)
    committing = asyncio.ensure_future(connection.commit())

    waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    while not waiting_for_a_standby.do(waiting):  # noqa: ASYNC110  # of another process
        await asyncio.sleep(0.01)

    with pytest.raises(Unconfirmed, match="synchronous replication"):
        await committing
    # As PostgreSQL sees it, it is done: whoever repeats it must expect to find it.
    assert await connection.fetchval("SELECT count(*) FROM kept") == 1
    await connection.close()


async def test_a_commit_does_not_wait_for_ever(
    waiting_for_a_standby: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.2)
    connection = await lonely_writer(waiting_for_a_standby)

    with pytest.raises(TimeoutError):
        await connection.commit()

    connection.terminate()


async def lonely_writer(cluster: Cluster) -> Connection:
    """A connection about to commit what needs a standby."""
    connection = await connect(cluster.url())
    await connection.execute("SET synchronous_commit = local")
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (a int)")
    await connection.execute("RESET synchronous_commit")
    await connection.execute("BEGIN")
    await connection.execute("INSERT INTO kept VALUES (1)")
    return connection
