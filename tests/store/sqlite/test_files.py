"""The database file: who has it, and what it is refused for."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from task_server.errors import DatabaseUnusable
from task_server.protocol.ids import new_ids
from task_server.store.sqlite.store import SqliteStore
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import new_task


async def test_a_second_store_on_the_file_is_refused(world: SqliteWorld) -> None:
    path = world.folder / "tasks.db"

    with pytest.raises(DatabaseUnusable, match=f"another server works on {path}"):
        SqliteStore(path, clock=world.clock)

    await world.submit()


async def test_after_a_close_the_file_is_free(world: SqliteWorld) -> None:
    await world.store.close()
    await world.store.close()

    await world.start()


async def test_a_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is no database" * 1000)

    for _ in range(2):
        with pytest.raises(DatabaseUnusable, match=r"x\.db"):
            SqliteStore(path, clock=lambda: 0.0)

    assert path.read_bytes() == b"this is no database" * 1000


PAGE = 4096
DAY = 86_400.0


def truncated(content: bytearray) -> None:
    del content[len(content) // 2 :]


def cut_off(content: bytearray) -> None:
    del content[-1000:]


def overwritten(content: bytearray) -> None:
    content[2 * PAGE :] = b"\xff" * len(content[2 * PAGE :])


def zeroed(content: bytearray) -> None:
    content[5 * PAGE : 50 * PAGE] = bytes(45 * PAGE)


def flipped_header(content: bytearray) -> None:
    content[0] ^= 1


def page_of_rows(content: bytearray) -> int:
    """One of the middle of `tasks`."""
    pages = (n for n in range(60, len(content) // PAGE) if content[n * PAGE] == 13)
    filled = [n for n in pages if any(content[n * PAGE + 3 : n * PAGE + 5])]  # how many rows
    return filled[len(filled) // 2]


def flipped_page(content: bytearray) -> None:
    page = page_of_rows(content)
    content[page * PAGE] ^= 4


def flipped_order(content: bytearray) -> None:
    page = page_of_rows(content)
    content[page * PAGE + 8] ^= 8  # where its first row lies


DAMAGES = [truncated, cut_off, overwritten, zeroed, flipped_header, flipped_page, flipped_order]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_database_is_refused_with_what_to_do(
    world: SqliteWorld, damage: Callable[[bytearray], None]
) -> None:
    await world.submit(*[new_task(each) for each in new_ids(3000)])
    await world.store.close()
    content = bytearray((world.folder / "tasks.db").read_bytes())
    await world.start()
    damage(content)
    damaged = world.folder.parent / "damaged.db"
    damaged.write_bytes(content)
    world.clock.advance(DAY)  # a start looks at all tasks that are not due yet, and at few others

    for _ in range(2):
        with pytest.raises(DatabaseUnusable) as caught:
            SqliteStore(damaged, clock=world.clock)

        told = str(caught.value)
        assert str(damaged) in told and "db check" in told and "backup" in told


async def test_rows_that_do_not_fit_together_are_refused(world: SqliteWorld) -> None:
    await world.submit()
    await world.store.close()
    path = world.folder / "tasks.db"
    keep = path.read_bytes()
    for sql in ("UPDATE kinds SET spec = x'ff'", "DELETE FROM kinds"):
        connection = sqlite3.connect(path)
        connection.execute(sql)
        connection.commit()
        connection.close()

        with pytest.raises(DatabaseUnusable, match="db check"):
            SqliteStore(path, clock=world.clock)

        path.write_bytes(keep)
    await world.start()


async def test_the_file_is_its_owners_alone(world: SqliteWorld) -> None:
    assert (world.folder / "tasks.db").stat().st_mode & 0o077 == 0


async def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    (tmp_path / "t.db").touch()
    store = SqliteStore(tmp_path / "t.db", clock=lambda: 0.0)

    ((vacuum,),) = await store.read(lambda rows: rows.fetch("PRAGMA auto_vacuum"))

    assert vacuum == 2, "incremental"
    await store.close()
