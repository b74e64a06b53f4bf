"""The write-ahead log's file is long before it is needed, and means nothing beyond its end."""

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from task_server.store import group_commit
from task_server.store.sqlite import log_ahead
from task_server.store.sqlite.connection import log_of, open_reader, open_writer
from task_server.store.sqlite.log_ahead import LogAhead
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import new_task

MIB = 2**20
LONG_BYTES = 3 * MIB + 1000


@pytest.fixture(autouse=True)
def three_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_ahead, "AHEAD_BYTES", LONG_BYTES)


def grown(path: Path) -> sqlite3.Connection:
    connection = open_writer(path)
    ahead = LogAhead(connection, path)
    while ahead.grow():
        pass
    return connection


async def test_a_quiet_store_makes_it_and_no_longer(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "QUIET_SECONDS", 0.01)
    log = log_of(world.store.path)

    await world.submit(new_task())
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if log.stat().st_size >= LONG_BYTES:
            break
    await world.submit(*[new_task() for _ in range(10)])
    await asyncio.sleep(0.05)

    assert log.stat().st_size == LONG_BYTES


@pytest.mark.parametrize("rows", [0, 1, 500])
def test_what_a_crash_leaves_of_it_is_read(tmp_path: Path, rows: int) -> None:
    connection = grown(tmp_path / "a.db")
    connection.execute("CREATE TABLE more (x)")
    connection.executemany("INSERT INTO more VALUES (?)", [(b"x" * 3000,)] * rows)

    left = tmp_path / "left"
    left.mkdir()
    for name in ("a.db", "a.db-wal"):  # the index of the log is made anew
        shutil.copy(tmp_path / name, left / name)
    connection.close()
    again = open_reader(left / "a.db")

    assert again.execute("SELECT count(*) FROM more").fetchone() == (rows,)
    assert again.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.close()


def test_a_crash_before_the_first_commit_leaves_a_log_of_nothing(tmp_path: Path) -> None:
    open_writer(tmp_path / "a.db").close()
    log_of(tmp_path / "a.db").write_bytes(bytes(LONG_BYTES))

    connection = open_writer(tmp_path / "a.db")
    connection.execute("CREATE TABLE more (x)")

    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_it_grows_behind_what_others_write(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection, other = open_writer(path), open_writer(path)
    ahead = LogAhead(connection, path)
    connection.execute("CREATE TABLE more (x)")

    while True:
        other.execute("INSERT INTO more VALUES (?)", (os.urandom(400_000),))
        if not ahead.grow():
            break

    reader = open_reader(path)
    ((count, size),) = reader.execute("SELECT count(*), sum(length(x)) FROM more")
    assert count > 2 and size == 400_000 * count
    for each in (reader, connection, other):
        each.close()


def test_a_small_disk_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_ahead, "ROOM", 2**40)

    connection = grown(tmp_path / "a.db")

    assert log_of(tmp_path / "a.db").stat().st_size < MIB
    connection.close()
