"""Whatever a network does to requests and replies, each task is there once and answered once."""

from __future__ import annotations

import json
import math
import random
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from task_server.client.client import Client
from task_server.client.requests import read_answer
from tests.e2e.faulty_proxy import NOTHING, Asked, Fault, FaultyProxy, faulty_proxy
from tests.e2e.processes import Place, place, until
from tests.e2e.stranger_client import PlainClient
from tests.e2e.stranger_worker import PlainWorker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

LEASE_SECONDS = 2.0
PLAIN_LEASE_SECONDS = 2.0
CUTS = 40


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    options = ["--lease-seconds", str(LEASE_SECONDS)]
    options += ["--plain-lease-seconds", str(PLAIN_LEASE_SECONDS)]
    with place(tmp_path_factory, *options) as here:
        here.serve()
        yield here


@pytest.fixture
def proxy(here: Place) -> Iterator[FaultyProxy]:
    with faulty_proxy(here.url) as proxy:
        yield proxy


@pytest.fixture
def direct(here: Place) -> Iterator[Client]:
    """A client beside the proxy."""
    with here.client() as client:
        yield client


@pytest.fixture
def client(here: Place, proxy: FaultyProxy) -> Iterator[Client]:
    """The same user behind the proxy."""
    with Client(proxy.url, here.token("user", "somebody")) as client:
        yield client


def tasks_of(client: PlainClient) -> list[dict[str, Any]]:
    return list(client.ask("GET", "/v1/tasks?limit=1000")["tasks"])


def run(path: str, answer: str, seconds: float) -> str:
    """Leaves a line for each time that it runs."""
    with Path(path).open("a") as file:
        file.write(f"{answer}\n")
    time.sleep(seconds)
    return answer


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# ---- a partition


@pytest.mark.parametrize("restarts", [False, True], ids=["as it is", "and starts anew"])
@pytest.mark.parametrize("size", [1, 200_000], ids=["small", "large"])
def test_an_answer_found_during_a_partition_is_delivered_after_it(
    here: Place, proxy: FaultyProxy, direct: Client, size: int, restarts: bool
) -> None:
    worker = here.worker(url=proxy.url)
    runs = here.sign("runs")
    future = direct.submit(run, str(runs), "x" * size, 1.0)
    until(lambda: lines(runs))

    proxy.partition()
    until(lambda: future.status().state == "queued", 20, "the lease runs out, and the pause after")
    time.sleep(2 * LEASE_SECONDS)
    if restarts:
        worker.kill()
        worker = here.worker(url=proxy.url, waits=False)
        time.sleep(1.0)
    assert future.status().state == "queued"
    proxy.heal()

    assert future.result(timeout=20) == "x" * size
    # While a large answer is being uploaded, its task may be dealt to the same worker once more.
    assert len(lines(runs)) <= (1 if size == 1 else 2)
    assert worker.is_alive()


def test_an_answer_that_comes_after_a_partition_too_late_changes_nothing(
    here: Place, proxy: FaultyProxy, direct: Client
) -> None:
    worker = here.worker("cut off", url=proxy.url)
    runs = here.sign("runs")
    future = direct.submit(lambda path: (run(path, "x", 1.0), time.monotonic())[1], str(runs))
    until(lambda: lines(runs))

    proxy.partition()
    here.worker("another")
    answer = future.result(timeout=20)
    proxy.heal()
    assert direct.call("math:sqrt", 9) == 3.0
    until(lambda: not spooled(here.folder / "cut off"), 20, "the late answer is decided")

    assert direct.future(future.id).result(timeout=1) == answer
    assert (future.status().attempt, lines(runs)) == (2, ["x", "x"]) and worker.is_alive()


def spooled(worker: Path) -> bool:
    reports = worker / "spool" / "reports.ndjson"
    return reports.exists() and reports.stat().st_size > 0


# ---- what arrives twice


def sometimes(seed: int, *faults: Fault, share: float = 0.5) -> Callable[[Asked], Fault]:
    """One of these faults for that share of the requests."""
    chance = random.Random(seed)
    return lambda asked: chance.choice(faults) if chance.random() < share else NOTHING


TWICE = (
    Fault(copied_before=True),
    Fault(copied_after=0.0),
    Fault(copied_after=0.05),
    Fault(copied_after=LEASE_SECONDS + 1),
)


def test_a_task_that_is_submitted_twice_by_the_network_is_there_once(
    here: Place, proxy: FaultyProxy, client: Client
) -> None:
    here.worker()
    runs = here.sign("runs")
    proxy.decide = sometimes(1, *TWICE, share=1.0)

    futures = [client.submit(run, str(runs), str(n), 0.0) for n in range(20)]
    batch = client.map("math:factorial", range(50))

    assert [each.result(timeout=20) for each in futures] == [str(n) for n in range(20)]
    assert list(batch) == [math.factorial(n) for n in range(50)]
    until(lambda: not proxy.copies, what="the late copies arrive")
    assert len(tasks_of(PlainClient(here.url, here.token("user", "somebody")))) == 70
    assert sorted(lines(runs)) == sorted(str(n) for n in range(20))
    assert proxy.faults >= 21


def test_a_key_makes_a_plain_submit_that_arrives_twice_one_task(
    here: Place, proxy: FaultyProxy
) -> None:
    stranger = PlainClient(proxy.url, here.token("user"))
    proxy.decide = sometimes(2, *TWICE, share=1.0)

    found = {keyed_submit(stranger, f"key {n}") for n in range(20)}

    until(lambda: not proxy.copies, what="the late copies arrive")
    assert len(found) == 20
    assert {each["id"] for each in tasks_of(PlainClient(here.url, stranger.token))} == found


def keyed_submit(client: PlainClient, key: str) -> str:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {client.token}"}
    body = json.dumps({"function": "math:sqrt", "args": [16]}).encode()
    request = urllib.request.Request(
        f"{client.url}/user/submit_task", body, headers | {"Idempotency-Key": key}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return str(json.loads(reply.read())["id"])


def test_a_worker_whose_exchanges_arrive_twice_runs_each_task_once(
    here: Place, proxy: FaultyProxy, direct: Client
) -> None:
    runs = here.sign("runs")
    proxy.decide = sometimes(3, *TWICE)
    worker = here.worker(url=proxy.url)

    once = direct.options(at_most_once=True)
    futures = [once.submit(run, str(runs), str(n), 0.02) for n in range(60)]

    assert [each.result(timeout=30) for each in futures] == [str(n) for n in range(60)]
    until(lambda: proxy.faults > 20)
    assert sorted(lines(runs)) == sorted(str(n) for n in range(60))
    assert worker.is_alive()


def test_a_plain_worker_that_is_given_two_tasks_for_one_request_holds_up_the_other_for_a_term(
    here: Place, proxy: FaultyProxy
) -> None:
    client = PlainClient(here.url, here.token("user"))
    worker = PlainWorker(proxy.url, here.token("worker"))
    tasks = [client.submit("math:factorial", n) for n in range(12)]
    proxy.decide = sometimes(4, Fault(copied_before=True), Fault(copied_after=0.0), share=0.3)

    begun = time.monotonic()
    while not all(client.ask("GET", f"/user/request_answer/{each}")["sucsess"] for each in tasks):
        worker.work_once()
        assert time.monotonic() - begun < 40

    assert [client.answer(each) for each in tasks] == [math.factorial(n) for n in range(12)]
    assert proxy.faults


# ---- what is cut


def cuts(size: int) -> Iterator[Fault]:
    """The end of a reply of that size after each of CUTS lengths, by turns a farewell and a reset.

    Positions in status line, headers and body; 0 is a reply that is lost as a whole.
    """
    for number in range(CUTS):
        yield Fault(cut_after=number * size // CUTS, by_reset=bool(number % 2))


def test_a_submit_whose_reply_is_cut_anywhere_makes_one_task(
    here: Place, proxy: FaultyProxy, client: Client
) -> None:
    client.submit("math:sqrt", 4)
    futures = []

    for number, fault in enumerate(cuts(proxy.reply_bytes)):
        proxy.once("/v1/tasks", fault, method="POST")
        futures.append(client.submit("math:factorial", number))

    assert proxy.faults == CUTS
    assert len(tasks_of(PlainClient(here.url, here.token("user", "somebody")))) == CUTS + 1
    here.worker()
    assert [each.result(timeout=20) for each in futures] == [math.factorial(n) for n in range(CUTS)]


def test_an_answer_that_is_cut_anywhere_is_never_taken_for_a_whole_one(
    here: Place, proxy: FaultyProxy, client: Client
) -> None:
    here.worker()
    large = "a word, " * 12_000
    inline = client.submit("math:factorial", 300)
    blob = client.submit("operator:add", large, "and the end")
    assert blob.result(timeout=20) == large + "and the end"
    ways: list[tuple[str, Callable[[], object], object]] = [
        ("/v1/tasks", lambda: client.future(inline.id).result(timeout=20), math.factorial(300)),
        ("/v1/blobs", lambda: client.future(blob.id).result(timeout=20), large + "and the end"),
        (
            "/answer",
            lambda: int(client.session.send(read_answer(inline.id)).body),
            math.factorial(300),
        ),
    ]

    for path, ask, expected in ways:
        assert ask() == expected
        for fault in cuts(proxy.reply_bytes):
            proxy.once(path, fault)
            assert ask() == expected, (path, fault)
    assert proxy.faults == CUTS * len(ways)


def test_a_batch_whose_answers_are_cut_anywhere_is_read_whole(
    here: Place, proxy: FaultyProxy, client: Client
) -> None:
    here.worker()
    batch = client.map("math:factorial", range(100))
    expected = [math.factorial(n) for n in range(100)]
    assert list(batch) == expected

    for fault in cuts(proxy.reply_bytes):
        proxy.once("/answers", fault)
        assert list(client.batch(batch.id)) == expected, fault
    assert proxy.faults == CUTS


def test_a_worker_whose_exchanges_are_cut_anywhere_runs_each_task_once(
    here: Place, proxy: FaultyProxy, direct: Client
) -> None:
    runs = here.sign("runs")
    worker = here.worker(url=proxy.url)
    once = direct.options(at_most_once=True)
    futures = []

    for number, fault in enumerate(cuts(1200)):
        proxy.once("/exchange", fault)
        futures.append(once.submit(run, str(runs), str(number), 0.0))
        until(lambda: proxy.decide(Asked("", "", b"")) is NOTHING, 10)

    assert [each.result(timeout=30) for each in futures] == [str(n) for n in range(CUTS)]
    assert sorted(lines(runs)) == sorted(str(n) for n in range(CUTS))
    assert worker.is_alive()


def test_requests_that_are_lost_delayed_or_half_closed_are_made_good(
    here: Place, proxy: FaultyProxy, client: Client
) -> None:
    worker = here.worker(url=proxy.url)
    assert client.call("math:sqrt", 9) == 3.0
    proxy.decide = sometimes(
        5,
        Fault(loses_request=True),
        Fault(half_closes=True),
        Fault(delay_seconds=0.3),
        Fault(cut_after=0, by_reset=True),
        share=0.3,
    )

    futures = [client.submit("math:factorial", n) for n in range(60)]

    assert [each.result(timeout=30) for each in futures] == [math.factorial(n) for n in range(60)]
    assert len(tasks_of(PlainClient(here.url, here.token("user", "somebody")))) == 61
    assert proxy.faults > 10 and worker.is_alive()
