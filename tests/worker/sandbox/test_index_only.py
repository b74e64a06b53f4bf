"""The package indexes and nothing else: what a function, and what uv, reach of real sockets."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from task_server.settings import WorkerSettings
from task_server.worker import process_tree
from task_server.worker.calls import Outcome
from task_server.worker.indexes import Indexes
from task_server.worker.sandbox.choice import choose, wishes_of
from task_server.worker.sandbox.relay import Relay
from tests.environments.small_index import SmallIndex, small_index
from tests.folders import let_others_enter
from tests.worker.running import INTERPRETER, Bench, by_value, call
from tests.worker.sandbox.test_probes import MACHINE

by_value(__name__)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not MACHINE.namespaces, reason="no namespaces here"),
]


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        index.files["greet.txt"] = b"hello"
        yield index


def settings(network: str = "index-only", highest: int = 4) -> WorkerSettings:
    values = {"server": "http://127.0.0.1", "network": network, "max_sandbox": highest}
    return msgspec.convert(values, WorkerSettings)


@pytest.fixture
async def bench(index: SmallIndex, tmp_path: Path) -> AsyncIterator[Bench]:
    let_others_enter(tmp_path)
    port = int(index.url.rpartition(":")[2])
    chosen = await choose(
        wishes_of(settings(), tmp_path),
        interpreter=INTERPRETER,
        directory=tmp_path,
        relay=Relay(Indexes("/nowhere/uv", {}, more=[("127.0.0.1", port)]), {}),
    )
    assert chosen.examined.probes["connect"] == "denied"
    made = Bench(tmp_path, chosen.sandbox)
    yield made
    await made.close()
    assert list(process_tree.marked(str(tmp_path))) == []


async def answered(bench: Bench, *of: object) -> object:
    outcome: Outcome = await bench.one(call(*of), runner=bench.start())  # type: ignore[arg-type]
    assert outcome.error is None, outcome.error
    return msgspec.json.decode(outcome.answer)


def fetched(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as page:
            return str(page.read().decode())
    except OSError as error:
        return str(error)


def connected(*addresses: tuple[str, int]) -> list[str]:
    came = []
    for host, port in addresses:
        try:
            socket.create_connection((host, port), timeout=5).close()
            came.append("connected")
        except OSError as error:
            came.append(type(error).__name__)
    return came


def named(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, 443))
    except OSError as error:
        return type(error).__name__


def open_files() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


async def test_a_function_reaches_the_index(bench: Bench, index: SmallIndex) -> None:
    assert await answered(bench, fetched, f"{index.url}/files/greet.txt") == "hello"


async def test_it_reaches_nothing_else_by_that_way(bench: Bench, index: SmallIndex) -> None:
    with small_index() as other:
        answer = await answered(bench, fetched, f"{other.url}/files/greet.txt")

        assert "403" in str(answer) and other.requests == 0


async def test_around_it_there_is_no_way_to_the_index_or_to_anywhere(
    bench: Bench, index: SmallIndex
) -> None:
    port = int(index.url.rpartition(":")[2])

    came = await answered(bench, connected, ("127.0.0.1", port), ("8.8.8.8", 53), ("::1", port))

    assert came == ["ConnectionRefusedError", "OSError", "ConnectionRefusedError"] or (
        came == ["ConnectionRefusedError", "OSError", "OSError"]
    )
    assert await answered(bench, named, "files.example") == "gaierror"


async def test_the_way_ends_with_the_runner(bench: Bench, index: SmallIndex) -> None:
    before = open_files()
    runner = bench.start()
    await bench.one(call(fetched, f"{index.url}/files/greet.txt"), runner=runner)

    await runner.close()
    for _ in range(1000):
        if open_files() <= before:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"left open: {open_files() - before}")


async def test_a_runner_that_could_not_be_held_to_it_is_not_started(tmp_path: Path) -> None:
    let_others_enter(tmp_path)
    chosen = await choose(
        wishes_of(settings("full"), tmp_path), interpreter=INTERPRETER, directory=tmp_path
    )
    limits = msgspec.structs.replace(chosen.sandbox.policy.limits, network="index-only")

    with pytest.raises(OSError, match="no way to the package indexes"):
        Bench(tmp_path, chosen.sandbox).start(limits=limits)
