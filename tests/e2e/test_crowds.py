"""Many clients, slow ones and those that all come at once cost the others little."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from task_server.client import requests
from task_server.client.client import Client
from task_server.store.blobs import name_of
from tests.e2e.crowd import Crowd, Waiter, descriptors_for, request
from tests.e2e.processes import Place, Process, descriptors, figures, place, resident_bytes
from tests.e2e.stranger_client import PlainClient, Refused
from tests.e2e.stranger_worker import PlainWorker
from tests.e2e.test_kill import submitted

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MIB = 1 << 20
HEADER_SECONDS = 10.0
"""In which the headers of a request have to arrive."""


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory, "--lease-seconds", "2") as here:
        here.choose_port()
        here.serve()
        yield here


@pytest.fixture
def server(here: Place) -> Process:
    assert here.server is not None
    return here.server


@pytest.fixture
async def crowd(here: Place) -> AsyncIterator[Crowd]:
    crowd = Crowd(here.url)
    yield crowd
    await crowd.leave()


async def until_true(happened: Callable[[], object], seconds: float, what: str) -> None:
    """As `until`, while the crowd lives on."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)


def cpu_seconds(process: Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def waiting_for(tasks: list[str], client: PlainClient) -> list[bytes]:
    return [request(f"/v1/tasks/{task}?wait=60", client.token or "") for task in tasks]


async def settles(process: Process) -> None:
    """Wait until a server has worked off what came."""
    before = -1.0
    while (now := cpu_seconds(process)) - before > 0.05:
        before = now
        await asyncio.sleep(0.5)


# ---- many who wait


async def test_of_ten_thousand_who_wait_exactly_the_one_wakes_whose_task_ends(
    here: Place, server: Process, crowd: Crowd
) -> None:
    with descriptors_for(10_000, server.pid) as count:
        client = PlainClient(here.url, here.token("user"))
        later = {"function": "time:sleep", "args": [60], "run_after": "2099-01-01T00:00:00Z"}
        tasks = [task for _ in range(10) for task in submitted(client, count // 10, **later)]
        tasks[-1] = client.submit("math:factorial", 5)

        begun = time.monotonic()
        await crowd.send(waiting_for(tasks, client))
        await settles(server)
        parked_seconds = time.monotonic() - begun
        assert parked_seconds < 50, "the first has waited to the end"
        assert crowd.answered() == [] and crowd.lost() == []
        used = resident_bytes(server)
        assert used < 500 * MIB

        worker = PlainWorker(here.url, here.token("worker"))
        assert await asyncio.to_thread(worker.work_once)
        await until_true(crowd.answered, 5, "one wakes")
        await settles(server)

        (woken,) = crowd.answered()
        assert woken is crowd.waiters[-1] and b'"answer":120' in woken.received
        assert crowd.lost() == []
        figures("%d waited, parked in %.1f s, %d MiB", len(tasks), parked_seconds, used // MIB)
        await crowd.leave()


# ---- all at once


async def test_two_thousand_who_come_back_at_once_are_all_served(
    here: Place, server: Process, crowd: Crowd
) -> None:
    with descriptors_for(2000, server.pid) as count:
        client = PlainClient(here.url, here.token("user"))
        tasks = submitted(client, count, function="math:factorial", args=[5])
        sent = waiting_for(tasks, client)
        await crowd.send(sent)
        await settles(server)

        server.kill()
        workers = [here.worker(name, waits=False) for name in ("one", "two")]
        await until_true(lambda: len(crowd.lost()) == count, 10, "all have noticed")
        for worker in workers:
            worker.waits_for("cannot join")
        crowd.waiters.clear()
        coming = asyncio.ensure_future(crowd.send(sent, until_there=True))
        await asyncio.to_thread(here.serve)
        begun = time.monotonic()
        await coming
        await until_true(lambda: len(crowd.answered()) == count, 30, "all are served")
        seconds = time.monotonic() - begun

        assert {each.status for each in crowd.waiters} == {200}
        assert all(b'"answer":120' in each.received for each in crowd.waiters)
        assert seconds < 10
        figures("%d clients and 2 workers served %.2f s after the start", count, seconds)
        await crowd.leave()


# ---- no more descriptors


async def test_a_server_without_descriptors_goes_on_and_recovers(
    here: Place, server: Process, crowd: Crowd
) -> None:
    with here.client() as client:
        here.worker()
        assert client.call("math:sqrt", 16) == 4.0  # its connection is open
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        few = descriptors(server) + 20
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (few, hard))
        await crowd.send([b""] * 200)
        await until_true(lambda: descriptors(server) >= few, 5, "there are no more")

        begun = cpu_seconds(server)
        await asyncio.sleep(1.0)
        assert cpu_seconds(server) - begun < 0.5, "it is busy with what it cannot accept"
        assert [client.call("math:factorial", n) for n in (5, 6)] == [120, 720]
        with pytest.raises(Refused) as caught:
            put_blob(client)
        assert (caught.value.status, server.is_alive()) == (503, True)

        await crowd.leave()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert client.call("builtins:len", b"y" * MIB) == MIB


def put_blob(client: Client) -> None:
    """Store something on the connection that the client has, once."""
    reply = client.session.transport.request(requests.put_blob(name_of(b"x"), b"x"), timeout=20)
    if reply.status >= 300:
        raise Refused(reply.status, {})


def test_a_server_takes_all_the_descriptors_that_it_may_have(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with place(tmp_path_factory) as here:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # which children begin with
        try:
            server = here.serve()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (hard, hard)


# ---- slow ones


async def calls(client: Client, seconds: float) -> list[float]:
    """How long calls take, one after the other for so long; in order of size."""
    taken = []
    end = time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        assert await asyncio.to_thread(client.call, "math:sqrt", 16) == 4.0
        taken.append(time.monotonic() - begun)
    return sorted(taken)


def share_of(taken: list[float], share: float) -> float:
    return 1000 * taken[int(len(taken) * share)]


async def drip(waiters: list[Waiter], data: bytes) -> None:
    """A byte from each, now and then."""
    for byte in data:
        for each in waiters:
            if each.transport is not None and not each.is_closed:
                each.transport.write(bytes([byte]))
        await asyncio.sleep(0.5)


async def test_two_hundred_slow_clients_are_dropped_in_time_and_hold_up_nobody(
    here: Place, server: Process, crowd: Crowd
) -> None:
    here.worker()
    client = here.client()
    alone = await calls(client, 2.0)
    token = here.token("user")
    head = b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\n"
    body = b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
    body += (
        b"Content-Type: application/json\r\nAuthorization: Bearer " + token.encode() + b"\r\n\r\n"
    )
    await crowd.send([b""] * 50 + [head] * 100 + [body] * 50)
    silent, in_headers, in_bodies = (
        crowd.waiters[a:b] for a, b in ((0, 50), (50, 150), (150, 200))
    )
    dripping = asyncio.ensure_future(drip(in_headers + in_bodies, b"x-a: " + b"y" * 1000))

    taken = await calls(client, HEADER_SECONDS + 2)

    dripping.cancel()
    assert {(each.is_closed, each.status) for each in silent} == {(True, 0)}
    assert {(each.is_closed, each.status) for each in in_headers} == {(True, 408)}
    assert {(each.is_closed, each.status) for each in in_bodies} == {(False, 0)}
    assert taken[-1] < 2.0
    for name, found in (("alone", alone), ("beside 200 slow clients", taken)):
        p50, p99 = share_of(found, 0.5), share_of(found, 0.99)
        figures("calls %s: p50 %.1f ms, p99 %.1f ms, %d calls", name, p50, p99, len(found))
    client.close()
