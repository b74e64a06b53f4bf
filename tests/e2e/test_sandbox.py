"""What holds a function: asked for, told, and tried, through a server and its worker."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import json
import locale
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from task_server.client.client import Client
from task_server.client.requests import list_workers
from tests.e2e.processes import Place, place

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory) as here:
        here.serve()
        here.worker("worker", slots=1)
        yield here


@pytest.fixture
def client(shared: Place) -> Iterator[Client]:
    with shared.client() as client:
        yield client


def levels(client: Client) -> dict[str, int]:
    """The level of the sandbox of each worker, by name."""
    workers = json.loads(client.session.send(list_workers()).body)["workers"]
    return {worker["name"]: worker["sandbox"] for worker in workers}


# ---- asked for, and told


def test_a_task_tells_what_held_it(client: Client) -> None:
    future = client.submit("math:sqrt", 16)

    assert future.result(timeout=30) == 4.0
    assert future.status().sandbox == levels(client)["worker"]


def test_a_task_waits_for_a_worker_that_holds_as_firmly_as_it_asks(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with place(tmp_path_factory) as here:
        here.serve()
        here.worker("loose", environ={"TASK_SERVER_MAX_SANDBOX": "0"})
        with here.client() as client:
            asks = client.options(require_sandbox=1).submit("math:sqrt", 16)
            assert client.call("math:sqrt", 9) == 3.0
            assert (asks.status().state, levels(client)) == ("queued", {"loose": 0})

            here.worker("firm")
            if levels(client)["firm"] < 1:
                pytest.skip("neither landlock nor namespaces nor another user here")

            assert asks.result(timeout=30) == 4.0
            assert asks.status().sandbox == levels(client)["firm"]


# ---- what a function leaves behind


def spoil() -> int:
    """Change whatever others rely on; gives the process that it did this to."""
    json.dumps = lambda *_, **__: "spoilt"
    os.getpgrp = lambda: -1
    socket.socket = None  # type: ignore[assignment, misc]
    sys.modules["math"] = None  # type: ignore[assignment]
    builtins.sorted = lambda *_, **__: ["spoilt"]  # type: ignore[assignment]
    gc.freeze()
    gc.disable()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    atexit.register(os.abort)
    os.environ["SPOILT"] = "1"
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
    os.chdir("/")
    return os.getpid()


def signs() -> dict[str, Any]:
    """What is there of `spoil`."""
    modules = [
        name
        for name, is_spoilt in (
            ("json", json.dumps([]) == "spoilt"),
            ("os", os.getpgrp() == -1),
            ("socket", socket.socket is None),
            ("math", sys.modules.get("math", ...) is None),
            ("builtins", sorted("") == ["spoilt"]),
            ("gc", not gc.isenabled() or gc.get_freeze_count() > 0),
        )
        if is_spoilt
    ]
    rest = {
        "signal": signal.getsignal(signal.SIGTERM) == signal.SIG_IGN,
        "environ": "SPOILT" in os.environ,
        "folder": os.getcwd() == "/",  # noqa: PTH109
    }
    return {"modules": modules, "rest": [name for name, is_so in rest.items() if is_so]}


NOTHING: dict[str, list[str]] = {"modules": [], "rest": []}


def test_another_owner_sees_nothing_of_what_a_function_changed(
    shared: Place, client: Client
) -> None:
    client.call(spoil)

    with Client(shared.url, shared.token("user", "somebody else")) as other:
        assert other.call(signs) == NOTHING


def test_a_task_with_a_process_of_its_own_sees_and_leaves_nothing(client: Client) -> None:
    fresh = client.options(isolation="fresh")

    client.call(spoil)
    assert fresh.call(signs) == NOTHING
    before = client.call(os.getpid)
    fresh.call(spoil)

    assert fresh.call(signs) == NOTHING
    assert client.call(os.getpid) == before


def test_between_two_tasks_of_one_owner_the_process_is_put_back(
    shared: Place,
) -> None:
    with Client(shared.url, shared.token("user", "a third")) as client:
        first = client.call(spoil)
        second = client.call(lambda: [os.getpid(), signs()])

    assert second[0] == first and second[1]["rest"] == []


# ---- what a function looks for


def find_token(token: str, data: str) -> list[str]:
    """Where a function finds the token of its worker."""
    found = []
    environs = [str(path) for path in Path("/proc").glob("[0-9]*/environ")]
    files = [str(Path(folder, name)) for folder, _, names in os.walk(data) for name in names]
    for path in [*environs, *files]:
        with contextlib.suppress(OSError):
            if token.encode() in Path(path).read_bytes():
                found.append(path)
    return found + [name for name, value in os.environ.items() if token in value]


def test_a_function_does_not_find_the_token_of_its_worker(shared: Place, client: Client) -> None:
    if levels(client)["worker"] < 1:
        pytest.skip("at level 0 a function reads what its user may")
    token = shared.token_of("worker")
    worker = find_token(token, str(shared.folder / "worker"))
    assert worker, "it is there to be found"

    assert client.call(find_token, token, str(shared.folder / "worker")) == []


def test_a_worker_that_is_root_runs_functions_as_somebody_else(client: Client) -> None:
    if os.getuid() != 0:
        pytest.skip("this worker is not root")

    assert client.call(os.getuid) != 0
