"""Versions of the tables: upgraded whole or not at all, by one program at a time."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

from task_server.errors import DatabaseUnusable
from task_server.store.rows import Upgrade
from task_server.store.sqlite.connection import hold_lock, open_writer, upgraded
from task_server.store.sqlite.migrate import newest_version, version_of
from task_server.store.sqlite.store import SqliteStore
from tests.store.sqlite.world import SqliteWorld

FIRST = resources.files("task_server.store.sqlite") / "migrations" / "0001_first.sql"
SECOND = "CREATE TABLE later (x);\nINSERT INTO later SELECT number FROM tasks;\n"
ENDLESS = """
CREATE TABLE later (x);
WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)
INSERT INTO later SELECT zeroblob(1000) FROM n;
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The migrations of some later version, of which there is only the first as yet."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "0001_first.sql").write_text(FIRST.read_text())
    return folder


def make(path: Path, scripts: Path) -> None:
    """A database of those scripts, with a row."""
    connection = open_writer(path, scripts=scripts)
    connection.execute("INSERT INTO meta VALUES ('kept', 'yes')")
    connection.close()


def look(path: Path) -> tuple[int, str, set[str]]:
    """Version, the row that was made before, and the tables."""
    connection = sqlite3.connect(path)
    try:
        (kept,) = connection.execute("SELECT value FROM meta WHERE name = 'kept'").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return version_of(connection), kept, tables
    finally:
        connection.close()


def test_an_older_database_is_upgraded(tmp_path: Path, scripts: Path) -> None:
    path = tmp_path / "t.db"
    make(path, scripts)
    (scripts / "0002_later.sql").write_text(SECOND)
    (scripts / "0010_more.sql").write_text("ALTER TABLE later ADD COLUMN y;")

    connection, upgrade = upgraded(path, scripts=scripts)
    connection.close()

    assert upgrade == Upgrade(1, 10)
    version, kept, tables = look(path)
    assert (version, kept) == (10, "yes") and "later" in tables


def test_an_upgraded_database_is_left_as_it_is(tmp_path: Path, scripts: Path) -> None:
    make(tmp_path / "t.db", scripts)

    connection, upgrade = upgraded(tmp_path / "t.db", scripts=scripts)
    connection.close()

    assert upgrade == Upgrade(1, 1)


def test_a_database_of_a_newer_version_is_refused_untouched(tmp_path: Path, scripts: Path) -> None:
    path = tmp_path / "t.db"
    (scripts / "0099_future.sql").write_text("CREATE TABLE future (x);")
    make(path, scripts)

    said = rf"t\.db .*newer version.* 99.* {newest_version()};"
    for holds_lock in (False, True):
        with pytest.raises(DatabaseUnusable, match=said):
            open_writer(path, holds_lock=holds_lock)

    assert look(path)[0] == 99


async def test_a_server_does_not_start_on_a_newer_version(world: SqliteWorld) -> None:
    await world.store.close()
    path = world.folder / "tasks.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9999")

    with pytest.raises(DatabaseUnusable, match="newer version"):
        SqliteStore(path, clock=world.clock)

    connection.execute(f"PRAGMA user_version = {newest_version()}")
    connection.close()
    await world.start()


def test_beside_an_older_server_nobody_upgrades_its_database(tmp_path: Path, scripts: Path) -> None:
    path = tmp_path / "t.db"
    make(path, scripts)
    (scripts / "0002_later.sql").write_text(SECOND)
    lock = hold_lock(path)

    with pytest.raises(DatabaseUnusable, match=r"version 1 .* needs 2.*restart the server"):
        open_writer(path, scripts=scripts)

    os.close(lock)
    assert look(path)[0] == 1


@pytest.mark.parametrize("script", ["CREATE TABLE tasks (x);", "INSERT INTO no_such_table;"])
def test_a_migration_that_fails_leaves_the_version_before(
    tmp_path: Path, scripts: Path, script: str
) -> None:
    path = tmp_path / "t.db"
    make(path, scripts)
    (scripts / "0002_later.sql").write_text(SECOND)
    (scripts / "0003_broken.sql").write_text(f"CREATE TABLE half (x);\n{script}")

    for _ in range(2):
        with pytest.raises(DatabaseUnusable, match=r"t\.db"):
            open_writer(path, scripts=scripts)

    version, kept, tables = look(path)
    assert (version, kept) == (2, "yes") and "half" not in tables


_UPGRADE = """
import sys
from pathlib import Path
from task_server.store.sqlite.connection import open_writer
open_writer(Path(sys.argv[1]), scripts=Path(sys.argv[2]))
"""


@pytest.mark.e2e
def test_a_migration_killed_half_way_leaves_the_old_version(tmp_path: Path, scripts: Path) -> None:
    path = tmp_path / "t.db"
    make(path, scripts)
    (scripts / "0002_endless.sql").write_text(ENDLESS)
    log = path.with_name("t.db-wal")
    upgrading = subprocess.Popen([sys.executable, "-c", _UPGRADE, str(path), str(scripts)])
    try:
        end = time.monotonic() + 20
        while not (log.exists() and log.stat().st_size > 2**20):
            assert upgrading.poll() is None and time.monotonic() < end
            time.sleep(0.01)
    finally:
        upgrading.kill()
        upgrading.wait()

    (scripts / "0002_endless.sql").unlink()
    open_writer(path, scripts=scripts).close()

    version, kept, tables = look(path)
    assert (version, kept) == (1, "yes") and "later" not in tables
    (scripts / "0002_later.sql").write_text(SECOND)
    assert upgraded(path, scripts=scripts)[1] == Upgrade(1, 2)


async def test_the_first_migration_killed_half_way_begins_anew(tmp_path: Path) -> None:
    half = FIRST.read_text().split("CREATE TABLE sessions")[0]
    (tmp_path / "a").mkdir()
    dying = sqlite3.connect(tmp_path / "a" / "t.db", isolation_level=None)
    dying.execute("PRAGMA journal_mode = WAL")
    dying.executescript(f"BEGIN IMMEDIATE;\n{half}")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    dying.close()

    store = SqliteStore(tmp_path / "b" / "t.db", clock=lambda: 0.0)

    assert await store.open_requests(0.0) == []
    await store.close()
