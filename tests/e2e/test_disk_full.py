"""The server's disk is full: no new tasks, but what runs ends; with room again all goes on."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from task_server.store.blobs import name_of
from tests.e2e.processes import Place, place, until
from tests.e2e.stranger_client import PlainClient, Refused
from tests.small_disk import MIB, SmallDisk, small_disk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SIZE = 128
BALLAST = 16 * MIB
ANSWER = 50_000
"""Bytes of each answer: they lie in the database."""


class FullPlace(Place):
    """A server whose data lies on a small disk; its worker's does not."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, "--lease-seconds", "5", *options)
        self.gate = self.shared / "gate"
        """Tasks of `held` end once it is there."""

    def user(self) -> PlainClient:
        return PlainClient(self.url, self.token("user", "somebody"))

    def held(self, client: PlainClient, count: int) -> list[str]:
        """Tasks that end when the gate opens, with an answer each."""
        code = (
            f"(__import__('time').sleep(0.05) for _ in iter(lambda: __import__('os').path.exists"
            f"({str(self.gate)!r}), True))"
        )
        text = f"[*{code}] and {'x' * 10!r} * {ANSWER // 10} or {'x' * 10!r} * {ANSWER // 10}"
        tasks = [{"function": "eval", "args": [text]} for _ in range(count)]
        return list(client.ask("POST", "/v1/tasks", tasks)["ids"])

    def check(self) -> None:
        assert self.server is not None and self.server.is_alive()
        assert "Traceback" not in self.server.output(), self.server.output()


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullPlace]:
    with place(tmp_path_factory) as made:
        here = FullPlace(made.folder, "--ballast-bytes", str(BALLAST))
        try:
            yield here
        finally:
            here.end()


@pytest.fixture
def disk(here: FullPlace) -> Iterator[SmallDisk]:
    with small_disk(here.data, mebibytes=SIZE) as disk:
        yield disk


def ready(here: Place) -> dict[str, Any]:
    with urllib.request.urlopen(here.url + "/readyz", timeout=10) as reply:
        return dict(json.loads(reply.read()))


def refusal(client: PlainClient, path: str = "/v1/tasks", method: str = "POST") -> Refused:
    """Why a new task is refused."""
    with pytest.raises(Refused) as caught:
        client.ask(method, path, {"function": "math:sqrt", "args": [4]})
    return caught.value


def retry_after(here: Place, client: PlainClient) -> str:
    headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}
    body = b'{"function": "math:sqrt", "args": [4]}'
    request = urllib.request.Request(here.url + "/v1/tasks", body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as error:
        assert error.code == 507
        return str(error.headers["Retry-After"])


def states(client: PlainClient, tasks: list[str]) -> set[str]:
    return {client.ask("GET", f"/v1/tasks/{task}")["state"] for task in tasks}


def answers(client: PlainClient, tasks: list[str]) -> set[int]:
    return {len(str(client.answer(task, wait=60))) for task in tasks}


def test_below_the_watermark_nothing_new_is_taken_and_what_runs_ends(
    here: FullPlace, disk: SmallDisk
) -> None:
    here.serve()
    here.worker()
    client = here.user()
    tasks = here.held(client, 6)
    until(lambda: "running" in states(client, tasks))
    assert ready(here)["intake"] is True

    disk.fill(leaving=8 * MIB)
    until(lambda: not ready(here)["intake"])

    assert ready(here)["ready"] is True and ready(here)["disk"]["is_short"] is True
    for path in ("/v1/tasks", "/user/submit_task"):
        refused = refusal(client, path)
        assert refused.status == 507 and "disk" in str(refused.reply)
    assert int(retry_after(here, client)) >= 1
    here.gate.touch()
    assert answers(client, tasks) == {ANSWER}
    disk.clear()
    until(lambda: ready(here)["intake"])
    assert client.call("math:sqrt", 9) == 3.0
    here.check()


def test_on_a_full_disk_answers_get_through_out_of_the_ballast(
    here: FullPlace, disk: SmallDisk
) -> None:
    here.serve()
    here.worker()
    client = here.user()
    tasks = here.held(client, 40)
    until(lambda: "running" in states(client, tasks))

    disk.fill()
    here.gate.touch()

    assert answers(client, tasks) == {ANSWER}
    assert not (here.data / "ballast").exists()
    assert refusal(client).status == 507
    assert states(client, tasks) == {"succeeded"}
    disk.clear()
    until(lambda: ready(here)["intake"])
    assert (here.data / "ballast").stat().st_size == BALLAST
    assert client.call("math:sqrt", 9) == 3.0
    here.check()


@pytest.fixture
def bare(here: FullPlace) -> FullPlace:
    """Without ballast and watermark: the database itself meets the full disk."""
    here._options = (*here._options, "--ballast-bytes", "0", "--free-disk-share", "0")
    return here


def test_a_submit_that_finds_the_disk_full_is_refused_and_the_rest_waits_for_room(
    bare: FullPlace, disk: SmallDisk
) -> None:
    bare.serve()
    worker = bare.worker()
    client = bare.user()
    tasks = bare.held(client, 40)
    until(lambda: "running" in states(client, tasks))

    disk.fill()
    statuses = set()
    for _ in range(50):  # some may find room in pages that the log has already
        large = {"function": "len", "args": ["x" * 60_000]}
        try:
            client.ask("POST", "/v1/tasks", large)
        except Refused as refused:
            statuses.add(refused.status)
    assert statuses == {507}
    bare.gate.touch()
    until(lambda: bare.server is not None and "disk full" in bare.server.output())
    assert states(client, tasks) <= {"running", "queued", "succeeded"}

    disk.clear()
    assert answers(client, tasks) == {ANSWER}
    until(lambda: ready(bare)["intake"])
    assert client.call("math:sqrt", 9) == 3.0
    assert worker.is_alive()
    bare.check()


def test_large_payloads_lie_on_the_same_disk(here: FullPlace, disk: SmallDisk) -> None:
    here.serve()
    worker = here.worker()
    client = here.user()
    (task,) = here.held(client, 1)
    until(lambda: "running" in states(client, [task]))
    large = client.submit("operator:mul", "x" * 10, 2_000_000)  # 20 MB, more than the ballast
    behind = {"function": "len", "args": ["x" * 100_000]}

    disk.fill(leaving=4 * MIB)
    until(lambda: not ready(here)["intake"])
    here.gate.touch()

    assert len(str(client.answer(task))) == ANSWER
    assert put_blob(here, client, b"y" * MIB) == 507
    with pytest.raises(Refused, match="507"):
        client.ask("POST", "/v1/tasks", behind)
    assert client.ask("GET", f"/v1/tasks/{large}")["state"] == "running"
    disk.clear()
    assert len(str(client.answer(large, wait=60))) == 20_000_000
    until(lambda: ready(here)["intake"])
    assert put_blob(here, client, b"y" * MIB) == 201
    assert client.call("len", "x" * 100_000) == 100_000
    assert worker.is_alive()
    assert list((here.data / "blobs").glob("*.partial")) == []


def put_blob(here: Place, client: PlainClient, data: bytes) -> int:
    # Kept alive: who asks for a close may lose the reply that comes before all was sent.
    connection = http.client.HTTPConnection(here.url.removeprefix("http://"), timeout=10)
    headers = {"Authorization": f"Bearer {client.token}"}
    try:
        connection.request("PUT", f"/v1/blobs/{name_of(data)}", data, headers)
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def test_a_server_starts_on_a_full_disk(here: FullPlace, disk: SmallDisk) -> None:
    server = here.serve()
    client = here.user()
    tasks = here.held(client, 10)
    server.kill()
    disk.fill()

    here.serve()

    assert refusal(client).status == 507
    assert states(client, tasks) == {"queued"}
    here.gate.touch()
    here.worker()
    assert answers(client, tasks) == {ANSWER}
    disk.clear()
    until(lambda: ready(here)["intake"])
    here.check()
