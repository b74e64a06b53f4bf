"""What tasks require: a real server and two workers, one of them with GPUs by name alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from task_server.client.client import Client
from task_server.errors import TaskFailed
from tests.e2e.processes import Place, place, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MIB = 1 << 20
VISIBLE = ("os:getenv", "CUDA_VISIBLE_DEVICES")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory) as here:
        here.serve()
        here.worker("plain", slots=1, environ={"TASK_SERVER_GPUS": "none"})
        graphic = {"TASK_SERVER_GPUS": "4,5", "TASK_SERVER_LABELS": "rack=b"}
        here.worker("graphic", slots=2, environ=graphic)
        yield here


@pytest.fixture
def client(shared: Place) -> Iterator[Client]:
    with shared.client() as client:
        until(lambda: client.call("math:sqrt", 4) == 2.0)
        yield client


def test_tasks_at_once_have_gpus_of_their_own_and_others_none(client: Client) -> None:
    one = client.options(requires={"gpu": 1})
    holding = one.submit("time:sleep", 30)
    until(lambda: holding.status().state == "running")
    other = one.call(*VISIBLE)

    assert other in ("4", "5")
    told = client.explain(holding.id)
    assert (told.state, told.worker) == ("running", "graphic")
    holding.cancel()
    assert client.options(requires={"gpu": 2}).call(*VISIBLE) in ("4,5", "5,4")
    assert client.call(*VISIBLE) == ""


def test_a_label_chooses_the_worker(client: Client) -> None:
    future = client.options(requires={"labels": {"rack": "b"}}).submit("math:sqrt", 16)

    assert future.result(timeout=30) == 4.0
    assert future.status().worker == "graphic"


def test_a_task_has_the_memory_that_it_requires_and_no_more(client: Client) -> None:
    small = client.options(requires={"memory": "128MiB"})

    with pytest.raises(TaskFailed, match="out_of_memory"):
        small.call("operator:mul", "x", 400 * MIB)
    large = client.options(requires={"memory": "1GiB"})
    assert large.call(lambda: len("x" * (400 * MIB))) == 400 * MIB


def test_what_no_worker_can_ever_meet_waits_and_says_so(client: Client, shared: Place) -> None:
    future = client.options(requires={"memory": "900TiB"}).submit("math:sqrt", 16)

    assert client.explain(future.id).summary == (
        "waiting: none of 2 workers can run it: 2 workers have not 900 TiB for tasks"
    )
    assert future.cancel()
