from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import pytest

from task_server.environments.lock import Lock, Pin, empty_lock
from task_server.worker.blob_files import BlobFiles
from task_server.worker.disk import Disk
from task_server.worker.environments import Environment, Environments
from task_server.worker.eviction import Usage
from task_server.worker.interpreters import pythons
from task_server.worker.room import Room
from tests.environments.small_index import SmallIndex, small_index

PYTHON = "3.11"
MIB = 1 << 20
WAIT_SECONDS = 20.0
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        big = {f"shared_{n}.py": f"text = {'x' * MIB!r}\nnumber = {n}\n" for n in range(8)}
        index.add("shared", "1.0", big)
        for name in NAMES:
            index.add(name, "1.0", {f"{name}.py": f"text = {name * (MIB // 4)!r}\n"})
        yield index


def lock_of(index: SmallIndex, *names: str) -> Lock:
    pins = [
        Pin(name, "1.0", None, (f"sha256:{index.sha256(f'{name}-1.0-py3-none-any.whl')}",))
        for name in sorted(names)
    ]
    return Lock(PYTHON, tuple(pins))


class Bench:
    def __init__(self, index: SmallIndex, folder: Path) -> None:
        self.folder = folder / "environments"
        self.index = index
        self.environments = Environments(
            self.folder,
            environ=index.environ(folder / "cache"),
            pythons={PYTHON: pythons()[PYTHON]},
        )

    async def build(self, *names: str, used_at: float = 0.0) -> Environment:
        """An environment that was last used then, with its byte code."""
        lock = lock_of(self.index, *names)

        async def fetch(digest: str) -> str:
            return lock.text

        environment = await self.environments.ready(lock.digest, fetch)
        await self.environments.compiled()
        os.utime(self.folder / lock.digest / "used", (used_at, used_at))
        return environment

    async def remove(self, limit: int, *, keep: Collection[str] = ()) -> list[str]:
        found = await self.environments.make_room(limit, let_go=lambda each: each not in keep)
        return found.digests

    def size_bytes(self) -> int:
        """What is on disk, each file once, byte code included."""
        found = [os.lstat(path) for path in self.folder.rglob("*")]
        return sum({each.st_ino: each.st_blocks * 512 for each in found}.values())


@pytest.fixture
async def bench(index: SmallIndex, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(index, tmp_path)
    await bench.environments.open()
    yield bench
    await bench.environments.close()


async def test_a_further_environment_of_shared_packages_takes_little(bench: Bench) -> None:
    await bench.build("shared", "one")
    before = bench.size_bytes()
    assert before > 16 * MIB  # sources and byte code

    await bench.build("shared", "two")

    assert bench.size_bytes() - before < 5 * MIB


async def test_those_used_longest_ago_go_until_the_rest_fits(bench: Bench) -> None:
    two = await bench.build("two", used_at=200)
    one = await bench.build("one", used_at=100)
    three = await bench.build("three", used_at=300)
    three.note_use()

    assert await bench.remove(1 << 40) == []
    assert await bench.remove(5 * MIB) == [one.digest]

    assert not (bench.folder / one.digest).exists()
    assert bench.size_bytes() < 6 * MIB
    states = bench.environments.states()
    assert (states[one.digest], states[two.digest]) == ("removed", "ready")


async def test_one_that_is_needed_stays(bench: Bench) -> None:
    one = await bench.build("one", used_at=100)
    two = await bench.build("two", used_at=200)

    assert await bench.remove(0, keep={one.digest}) == [two.digest]
    assert one.interpreter.exists()


async def test_what_was_removed_is_built_again_when_it_is_needed(bench: Bench) -> None:
    one = await bench.build("one")
    await bench.remove(0)

    again = await bench.build("one")

    assert again == one
    assert again.interpreter.exists()
    assert bench.environments.states()[one.digest] == "ready"


async def test_byte_code_goes_with_the_last_environment_that_has_it(bench: Bench) -> None:
    await bench.build("shared", "one", used_at=100)
    await bench.build("shared", "two", used_at=200)

    await bench.remove(18 * MIB)
    kept = {path.name.split("-")[0] for path in (bench.folder / "bytecode").iterdir()}
    await bench.remove(0)

    assert kept == {"shared", "two"}
    assert list((bench.folder / "bytecode").iterdir()) == []


async def test_an_eviction_cut_short_is_finished_at_the_next_start(
    bench: Bench, index: SmallIndex, tmp_path: Path
) -> None:
    one = await bench.build("one")
    (bench.folder / one.digest).rename(bench.folder / f"{one.digest}.1.evicted")

    await Bench(index, tmp_path).environments.open()

    assert list(bench.folder.glob("*.evicted")) == []


async def test_the_limit_is_kept_after_each_build(bench: Bench, tmp_path: Path) -> None:
    room = Room(
        bench.environments,
        BlobFiles(tmp_path / "blobs", set),
        tmp_path,
        Disk(tmp_path),
        limit_bytes=4 * MIB,
        let_go=lambda _: True,
    )
    keeping = asyncio.ensure_future(room.keep())
    first = await bench.build("one", used_at=100)
    await bench.build("two", used_at=200)
    await bench.build("three", used_at=300)

    async with asyncio.timeout(WAIT_SECONDS):
        while (bench.folder / first.digest).exists():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)

    keeping.cancel()
    assert await room.collect() != "removed 0 environments, 0.0 MiB"
    assert bench.environments.states()[empty_lock(PYTHON).digest] == "ready"


async def test_a_full_disk_is_cleared_of_what_is_unused(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path)
    monkeypatch.setattr(disk, "has_room", lambda: False)
    one = await bench.build("one")
    blobs = BlobFiles(tmp_path / "blobs", set)
    blob = blobs.path("sha256:1")
    blob.write_bytes(b"x")
    os.utime(blob, (0, 0))
    room = Room(
        bench.environments,
        blobs,
        tmp_path,
        disk,
        limit_bytes=None,
        let_go=lambda _: True,
        look_seconds=0.05,
    )
    keeping = asyncio.ensure_future(room.keep())

    async with asyncio.timeout(WAIT_SECONDS):
        while (bench.folder / one.digest).exists():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)

    assert not blob.exists()
    keeping.cancel()


def test_shared_files_count_once_and_go_with_the_last_that_has_them() -> None:
    shared = {(1, 1): 100}
    environments = {"a": {**shared, (1, 2): 10}, "b": {**shared, (1, 3): 20}}
    usage = Usage(environments, {"a": 1.0, "b": 2.0})
    assert usage.total == 130

    assert usage.evict(125, lambda digest: True) == ["a"]
    assert usage.total == 120
    assert usage.evict(0, lambda digest: digest == "b") == ["b"]
    assert usage.total == 0
