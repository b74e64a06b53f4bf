from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from task_server.environments.lock import Lock, Pin, empty_lock
from task_server.protocol.workers import Order
from task_server.worker import environments as environments_module
from task_server.worker import process_tree
from task_server.worker.environments import Environments, FetchLock
from task_server.worker.imports import Imports
from task_server.worker.interpreters import pythons
from task_server.worker.orders import Orders
from task_server.worker.slots import Slots
from tests.environments.small_index import SmallIndex, small_index

PYTHON = f"3.{sys.version_info.minor}"
WAIT_SECONDS = 20.0
BROKEN = "print('so far')\nraise OSError('libfoo.so.1 is missing')\n"


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        index.add("greet", "1.0", {"greet.py": "import greet_more\n", "greet_more.py": ""})
        index.add("broken", "1.0", {"broken.py": BROKEN})
        index.add("crash", "1.0", {"crash.py": "import os; os._exit(7)\n"})
        index.add("two", "1.0", {"one.py": "", "other.py": ""})
        yield index


def lock_of(index: SmallIndex, *names: str) -> Lock:
    pins = [
        Pin(name, "1.0", None, (f"sha256:{index.sha256(f'{name}-1.0-py3-none-any.whl')}",))
        for name in sorted(names)
    ]
    return Lock(PYTHON, tuple(pins))


class Bench:
    """Orders over real environments and runners, with a server of locks."""

    def __init__(self, index: SmallIndex, folder: Path) -> None:
        environ = index.environ(folder / "cache")
        self.environments = Environments(
            folder / "environments", environ=environ, pythons={PYTHON: pythons()[PYTHON]}
        )
        self.slots = Slots(1, folder / "runners", lambda ended: None, lambda attempts: None)
        self.imports = Imports(self.slots)
        self.locks: dict[str, str] = {}
        self.fetched: list[str] = []
        self.collected = 0
        self._news = asyncio.Event()
        self.orders = Orders(
            self.environments,
            self.imports,
            self.fetch_lock,
            on_news=self._news.set,
            collect=self.collect,
            pause_seconds=0.01,
            again_seconds=0.2,
        )
        self.heard: list[tuple[str, str]] = []
        self.log = ""

    async def fetch_lock(self, digest: str) -> str:
        self.fetched.append(digest)
        return self.locks[digest]

    async def collect(self) -> str:
        self.collected += 1
        return "removed 2"

    def order(self, lock: Lock, name: str, **fields: list[str]) -> Order:
        self.locks[lock.digest] = lock.text
        return Order(order=name, environment=lock.digest, **fields)

    async def until(self, happened: Callable[[], object]) -> None:
        """Hear, as the server would, until it is true."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                self._news.clear()
                states = list(self.orders.news.values())
                self.heard += [(each.order, each.state) for each in states]
                self.log = next((each.log for each in reversed(states)), self.log)
                self.orders.note_told(states)
                if happened():
                    return
                await self._news.wait()

    async def ended(self, name: str) -> str:
        """The last state of an order."""
        await self.until(lambda: {(name, "ready"), (name, "failed")} & set(self.heard))
        return dict(self.heard)[name]


@pytest.fixture
async def bench(index: SmallIndex, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(index, tmp_path)
    await bench.environments.open()
    bench.slots.open()
    yield bench
    await bench.orders.close()
    await bench.slots.close()
    await bench.environments.close()
    assert list(process_tree.marked(str(tmp_path))) == []


async def test_an_order_is_built_and_imported(bench: Bench, index: SmallIndex) -> None:
    lock = lock_of(index, "greet")

    bench.orders.take([bench.order(lock, "1.1", packages=["greet"])])

    assert await bench.ended("1.1") == "ready"
    assert bench.heard[0] == ("1.1", "building")
    assert bench.environments.states()[lock.digest] == "ready"
    assert bench.orders.wanted == {lock.digest}
    assert bench.log == ""


async def test_an_import_that_fails_tells_why_and_what_was_printed(
    bench: Bench, index: SmallIndex
) -> None:
    lock = lock_of(index, "broken", "greet")

    bench.orders.take([bench.order(lock, "1.1", packages=["greet", "broken"])])

    assert await bench.ended("1.1") == "failed"
    assert bench.log.startswith("broken cannot be imported: ")
    assert "libfoo.so.1 is missing" in bench.log
    assert "so far" in bench.log
    assert bench.environments.states()[lock.digest] == "ready"  # tasks may need something else


async def test_a_module_that_kills_its_runner_does_not_hide_the_others(
    bench: Bench, index: SmallIndex
) -> None:
    lock = lock_of(index, "crash", "greet")

    bench.orders.take([bench.order(lock, "1.1", modules=["crash", "greet", "no_such_module"])])

    assert await bench.ended("1.1") == "failed"
    assert "crash cannot be imported" in bench.log
    assert "no_such_module cannot be imported" in bench.log
    assert "greet cannot" not in bench.log


async def test_a_package_of_several_modules_is_ready_unless_one_is_named(
    bench: Bench, index: SmallIndex
) -> None:
    order = bench.order(lock_of(index, "two"), "1.1", packages=["two"])

    bench.orders.take([order])

    assert await bench.ended("1.1") == "ready"


async def test_an_import_that_hangs_comes_to_an_end(bench: Bench, index: SmallIndex) -> None:
    index.add("hang", "1.0", {"hang.py": "import time; time.sleep(60)\n"})
    lock = lock_of(index, "hang")
    environment = await bench.environments.ready(lock.digest, _gives(lock.text))

    problem = await Imports(bench.slots, seconds=0.3).problem(
        environment, modules=["hang"], packages=[]
    )

    assert problem.startswith("hang cannot be imported")


async def test_a_build_that_fails_tells_what_uv_said(bench: Bench, index: SmallIndex) -> None:
    lock = Lock(PYTHON, (Pin("absent", "1.0", None, (f"sha256:{'0' * 64}",)),))

    bench.orders.take([bench.order(lock, "1.1")])

    assert await bench.ended("1.1") == "failed"
    assert "absent" in bench.log
    assert bench.environments.states()[lock.digest] == "failed"


async def test_one_failure_does_not_hold_up_the_next_order(bench: Bench, index: SmallIndex) -> None:
    absent = Lock(PYTHON, (Pin("absent", "1.0", None, (f"sha256:{'0' * 64}",)),))

    bench.orders.take([bench.order(absent, "1.1"), bench.order(lock_of(index, "greet"), "2.1")])

    assert await bench.ended("2.1") == "ready"


async def test_an_order_is_carried_out_once_however_often_it_comes(
    bench: Bench, index: SmallIndex
) -> None:
    order = bench.order(lock_of(index, "greet"), "1.1")
    empty = bench.order(empty_lock(PYTHON), "2.1")
    bench.orders.take([order])
    await bench.ended("1.1")

    bench.orders.take([order, empty])
    await bench.ended("2.1")

    assert bench.heard.count(("1.1", "building")) == 1


async def test_a_build_nobody_waits_for_gives_way_until_a_task_needs_it(
    bench: Bench, index: SmallIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    niceness: list[int] = []
    monkeypatch.setattr(
        environments_module, "_set_priority", lambda process, nice: niceness.append(nice)
    )
    index.may_answer.clear()
    lock = lock_of(index, "greet")
    bench.orders.take([bench.order(lock, "1.1")])
    async with asyncio.timeout(WAIT_SECONDS):
        while not niceness:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)

    task = asyncio.ensure_future(bench.environments.ready(lock.digest, bench.fetch_lock))
    await asyncio.sleep(0)
    index.may_answer.set()
    await task

    assert niceness[0] == environments_module.LOW_PRIORITY
    assert 0 in niceness
    assert bench.fetched == [lock.digest]  # one build for both


async def test_the_process_of_a_build_ahead_is_nice(bench: Bench, index: SmallIndex) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "20", start_new_session=True)
    try:
        environments_module._set_priority(process.pid, environments_module.LOW_PRIORITY)

        assert os.getpriority(os.PRIO_PROCESS, process.pid) == environments_module.LOW_PRIORITY
    finally:
        process.kill()
        await process.wait()


async def test_an_order_without_an_environment_removes_what_is_unused(bench: Bench) -> None:
    bench.orders.take([Order(order="3.1")])

    assert await bench.ended("3.1") == "ready"
    assert bench.log == "removed 2"
    assert bench.collected == 1


def _gives(text: str) -> FetchLock:
    async def fetch(digest: str) -> str:
        return text

    return fetch


async def test_what_failed_for_want_of_the_index_is_tried_again(
    bench: Bench, index: SmallIndex
) -> None:
    index.status = 503
    bench.orders.take([bench.order(lock_of(index, "greet"), "1.1", packages=["greet"])])
    assert await bench.ended("1.1") == "failed"

    index.status = 200

    await bench.until(lambda: ("1.1", "ready") in bench.heard)
