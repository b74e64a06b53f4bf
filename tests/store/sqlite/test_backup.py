"""Backups: whole, made beside a working server; and what becomes of tasks when one is restored."""

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from task_server.errors import DatabaseUnusable, SessionOver
from task_server.store.blobs import name_of
from task_server.store.blobs.directory import DirectoryBlobs
from task_server.store.sqlite.backup import Saved, backup
from task_server.store.sqlite.check import check
from task_server.store.sqlite.connection import open_writer
from task_server.store.sqlite.migrate import SCRIPTS, version_of
from task_server.store.sqlite.store import SqliteStore
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import (
    SPEC,
    batch,
    crashed,
    drain,
    failed,
    held,
    new_task,
    released,
    spec,
    succeeded,
)

ONCE = spec(at_most_once=True)


def save(world: SqliteWorld, name: str = "backup.db", *, copies_blobs: bool = False) -> Path:
    """Back up the database of a store."""
    target = world.folder.parent / "kept" / name
    backup(world.store.path, target, blobs=world.folder / "blobs", copies_blobs=copies_blobs)
    return target


async def restore(world: SqliteWorld, saved: Path) -> None:
    """Go on with a backup, in the place of the database."""
    folder = world.folder.parent / "restored"
    folder.mkdir()
    shutil.copy(saved, folder / "tasks.db")
    world._dead.append(world.store)
    world.folder = folder
    await world.start()


# ---- the copy


async def test_a_backup_is_a_whole_database_of_the_owner_alone(world: SqliteWorld) -> None:
    await world.store.write(
        lambda rows: rows.execute(
            "INSERT INTO environments VALUES (?, '3.11', '', 0)", SPEC.environment
        )
    )
    worker = await world.worker()
    await world.submit(count=5, batch=batch())
    dealt = await worker.take(3)
    await worker.report(succeeded(dealt[0], b'"' + b"x" * 5000 + b'"'))

    saved = save(world)

    assert check(saved) == []
    assert saved.stat().st_mode & 0o077 == 0
    assert [each.name for each in saved.parent.iterdir()] == [saved.name]


async def test_what_is_saved_is_told(world: SqliteWorld) -> None:
    await world.submit(count=5)
    target = world.folder.parent / "b.db"

    saved = backup(world.store.path, target, blobs=None, copies_blobs=False)

    assert saved == Saved(target.stat().st_size, 5, 0, 0, 0)


async def test_a_backup_is_one_state_of_a_database_that_is_written_meanwhile(
    world: SqliteWorld,
) -> None:
    """Each batch is submitted in one transaction: a copy has all of it or nothing."""
    is_over = asyncio.Event()
    worker = await world.worker(slots=1000)

    async def work() -> None:
        while not is_over.is_set():
            await world.submit(count=20, batch=batch())
            await worker.report(*map(succeeded, await worker.take(20)))

    working = asyncio.create_task(work())
    try:
        for number in range(5):
            await asyncio.sleep(0.05)
            saved = await asyncio.to_thread(save, world, f"{number}.db")
            found = [each for each in check(saved) if "names another" not in each.what]
            assert found == []
            counts = _rows(saved, "SELECT count(*) FROM tasks GROUP BY batch")
            assert set(counts) == {(20,)}
    finally:
        is_over.set()
        await working


def _rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


async def test_a_file_that_exists_is_not_written_over(world: SqliteWorld) -> None:
    saved = save(world)
    content = saved.read_bytes()

    with pytest.raises(DatabaseUnusable, match=r"backup\.db exists already"):
        save(world)

    assert saved.read_bytes() == content


async def test_a_file_that_comes_meanwhile_is_not_written_over(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = world.folder.parent / "kept" / "backup.db"

    def sync(path: Path) -> None:
        target.write_text("another's")

    monkeypatch.setattr("task_server.store.sqlite.backup._sync", sync)

    with pytest.raises(DatabaseUnusable, match="exists already"):
        save(world)

    assert target.read_text() == "another's"
    assert [each.name for each in target.parent.iterdir()] == ["backup.db"]


async def test_a_backup_that_cannot_be_written_says_why_and_leaves_nothing(
    world: SqliteWorld,
) -> None:
    (world.folder.parent / "kept").write_text("a file")

    with pytest.raises(DatabaseUnusable, match=r"cannot write .*backup\.db"):
        save(world)


async def test_a_half_made_backup_is_made_anew(world: SqliteWorld) -> None:
    await world.submit()
    kept = world.folder.parent / "kept"
    kept.mkdir()
    (kept / "backup.db.partial").write_bytes(b"left by a backup that was killed")

    saved = save(world)

    assert _rows(saved, "SELECT count(*) FROM tasks") == [(1,)]
    assert list(kept.iterdir()) == [saved]


async def test_there_must_be_a_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="there is no database"):
        backup(tmp_path / "none.db", tmp_path / "copy.db", blobs=None, copies_blobs=False)

    assert list(tmp_path.iterdir()) == []


async def test_blobs_are_copied_beside_it_once(world: SqliteWorld) -> None:
    blobs = DirectoryBlobs(world.folder / "blobs", maximum_bytes=1000)
    uploaded = await blobs.put_bytes(b"uploaded")
    await world.store.keep_blob(uploaded, 1, size=8, now=0.0)
    needed = await blobs.put_bytes(b"arguments")
    for name in (needed, name_of(b"gone")):
        payload = b'"call":{"encoding":"pickle","blob":"%s"}' % name.encode()
        await world.submit(new_task(payload=payload))
    await blobs.put_bytes(b"of nobody")
    kept = world.folder.parent / "kept"

    told = [
        backup(world.store.path, kept / name, blobs=world.folder / "blobs", copies_blobs=copies)
        for name, copies in (("a.db", False), ("b.db", True), ("c.db", True))
    ]

    assert [(each.blobs, each.blobs_copied, each.blobs_missing) for each in told] == [
        (2, 0, 1),
        (2, 2, 1),
        (2, 0, 1),
    ]
    copied = DirectoryBlobs(kept / "blobs", maximum_bytes=1000)
    assert [await copied.read(name) for name in (uploaded, needed)] == [b"uploaded", b"arguments"]
    assert await copied.size(name_of(b"of nobody")) is None


# ---- restoring


async def test_what_was_acknowledged_before_the_backup_is_there(world: SqliteWorld) -> None:
    worker = await world.worker()
    accepted = await world.submit(count=4)
    dealt = await worker.take(2)
    await worker.report(succeeded(dealt[0], b"7"))

    await restore(world, save(world))

    assert (await world.task(dealt[0].id)).outcome == b"7"
    again = await drain(await world.worker())
    assert sorted([dealt[0].id, *again]) == sorted(accepted.ids)


async def test_every_lease_of_a_restored_copy_has_ended(world: SqliteWorld) -> None:
    worker = await world.worker()
    await world.submit()
    dealt = await worker.take_one()

    await restore(world, save(world))

    task = await world.task(dealt.id)
    assert (task.state.word, task.attempt) == ("queued", 1)
    with pytest.raises(SessionOver):
        await worker.exchange()
    (row,) = _rows(world.store.path, "SELECT crashes, unstarted FROM task_extras")
    assert row == (0, 1), "the task is not to blame"


async def test_a_worker_that_went_on_across_the_restore_may_still_answer(
    world: SqliteWorld,
) -> None:
    worker = await world.worker()
    await world.submit()
    dealt = await worker.take_one()
    await restore(world, save(world))

    with pytest.raises(SessionOver):
        await worker.exchange(succeeded(dealt, b"7"))

    task = await world.task(dealt.id)
    assert (task.state.word, task.outcome) == ("succeeded", b"7")


async def test_a_failure_from_before_the_restore_changes_nothing(world: SqliteWorld) -> None:
    worker = await world.worker()
    await world.submit()
    dealt = await worker.take_one()
    await restore(world, save(world))
    await worker.join()

    assert await worker.report(failed(dealt), crashed(dealt), released(dealt)) == [409] * 3

    assert await world.state(dealt.id) == "queued"


async def test_a_plain_worker_that_went_on_may_still_answer(world: SqliteWorld) -> None:
    await world.submit()
    dealt = await world.plain_lease()
    assert dealt is not None

    await restore(world, save(world))

    assert await world.state(dealt.id) == "queued"
    assert (await world.plain_answer(dealt.id, b"7")).status == 200
    assert (await world.task(dealt.id)).outcome == b"7"


async def test_an_answer_to_a_lease_that_the_copy_does_not_know_goes_to_no_task(
    world: SqliteWorld,
) -> None:
    """After the backup tasks come and are leased; after the restore others have their numbers."""
    worker = await world.worker()
    await world.submit()
    saved = save(world)
    early = await worker.take_one()
    await world.submit(count=3)
    late = await worker.take(3)
    await restore(world, saved)
    others = (await world.submit(count=3)).ids
    await worker.join()
    now = await worker.take(4)
    assert [each.number for each in now] == [each.number for each in [early, *late]]

    told = await worker.report(*[succeeded(each, b"666") for each in [early, *late]])

    assert told == [409] * 4
    assert {await world.state(task) for task in (early.id, *others)} == {"running"}
    assert await worker.report(*[succeeded(each, b"1") for each in now]) == [200] * 4
    assert {(await world.task(task)).outcome for task in others} == {b"1"}


async def test_a_lease_list_from_before_the_restore_is_stopped(world: SqliteWorld) -> None:
    worker = await world.worker()
    await world.submit()
    dealt = await worker.take_one()
    await restore(world, save(world))
    await worker.join()

    result = await worker.exchange(held=[held(dealt)])

    assert [why for _, why in result.stop] == ["gone"]


async def test_what_may_start_only_once_and_may_have_run_fails(world: SqliteWorld) -> None:
    worker = await world.worker()
    waiting = (await world.submit(kind=ONCE, batch=batch())).ids[0]
    running = (await world.submit(kind=spec(at_most_once=True, priority=9))).ids[0]
    assert (await worker.take_one()).id == running
    later = new_task(run_after=world.clock.now + 1000)
    await world.submit(later, kind=ONCE)
    ended = (await world.submit(kind=spec(at_most_once=True, priority=5))).ids[0]
    await worker.report(succeeded(await worker.take_one()))

    await restore(world, save(world))

    states = [await world.state(each) for each in (waiting, running, later.id, ended)]
    assert states == ["failed", "failed", "delayed", "succeeded"]
    error = (await world.task(waiting)).outcome or b""
    assert await world.error_kind(waiting) == "lost" and b"restored from a backup" in error
    assert await world.store.retry(None, [waiting]) == [200]


async def test_readers_of_ends_miss_none_after_a_restore(world: SqliteWorld) -> None:
    accepted = await world.submit(count=6, batch=batch())
    worker = await world.worker()
    saved = save(world)
    await worker.report(*map(succeeded, await worker.take(5)))
    number = (await world.batch(accepted.batch)).batch
    read = await world.store.answers_as_ended(number, {}, 100)
    place = {read[-1].server: read[-1].n}

    await restore(world, saved)
    await drain(await world.worker())

    assert len(await world.store.answers_as_ended(number, place, 100)) == 6


async def test_a_restored_copy_begins_anew_once(world: SqliteWorld) -> None:
    await restore(world, save(world))
    worker = await world.worker()
    await world.submit(kind=ONCE)
    dealt = await worker.take_one()

    await world.restart()

    assert await world.state(dealt.id) == "running"
    assert await worker.report(succeeded(dealt)) == [200]


async def test_a_start_on_a_restored_copy_that_is_killed_is_repeated(world: SqliteWorld) -> None:
    worker = await world.worker()
    await world.submit()
    dealt = await worker.take_one()
    saved = save(world)
    folder = world.folder.parent / "killed"
    folder.mkdir()
    shutil.copy(saved, folder / "tasks.db")
    started = SqliteStore(folder / "tasks.db", clock=world.clock)
    world._dead.append(started)
    await world.store.close()
    world.folder = folder
    world.store = started

    await world.kill()

    assert await world.state(dealt.id) == "queued"


async def test_a_backup_beside_the_log_of_what_it_replaces_is_refused(world: SqliteWorld) -> None:
    await world.submit()
    saved = save(world)
    folder = world.folder.parent / "place"
    shutil.copytree(world.folder, folder)  # as a killed server leaves it, with its log
    shutil.copy(saved, folder / "tasks.db")

    with pytest.raises(DatabaseUnusable, match=r"tasks\.db-wal"):
        SqliteStore(folder / "tasks.db", clock=world.clock)

    for name in ("tasks.db-wal", "tasks.db-shm"):
        (folder / name).unlink()
    store = SqliteStore(folder / "tasks.db", clock=world.clock)
    await store.close()


def test_a_database_is_copied_before_it_is_upgraded(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    first = SCRIPTS / "0001_first.sql"
    (scripts / "0001_first.sql").write_text(first.read_text())
    open_writer(tmp_path / "old.db", scripts=scripts).close()

    backup(tmp_path / "old.db", tmp_path / "copy.db", blobs=tmp_path / "blobs", copies_blobs=True)

    connection = sqlite3.connect(tmp_path / "copy.db")
    assert version_of(connection) == 1
    connection.close()
