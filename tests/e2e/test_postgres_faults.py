"""A PostgreSQL in trouble: what was acknowledged is kept, and everything comes back by itself."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.e2e.load import load_on
from tests.e2e.processes import Process, descriptors, resident_bytes, until
from tests.e2e.tcp_proxy import TcpProxy, tcp_proxy
from tests.e2e.watched import WatchedPlace, watched_place
from tests.e2e.wire import Connection, Reply
from tests.postgres import Databases, cluster
from tests.store.postgres.recount import recount_tables

pytestmark = [pytest.mark.e2e, pytest.mark.postgres, pytest.mark.timeout(180)]

LEASE_SECONDS = 5
OUTAGE_SECONDS = float(os.environ.get("TASK_SERVER_OUTAGE_SECONDS", "20"))
REFUSAL_SECONDS = 10.0
"""The longest that a request may wait for its 503: it tries for five, on a busy machine."""


@pytest.fixture(scope="module")
def breakable() -> Iterator[Databases]:
    """Databases in a PostgreSQL as durable as in production."""
    with cluster("shared_buffers=64MB", "checkpoint_timeout=30s") as running:
        yield Databases(running)


@pytest.fixture
def place(breakable: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedPlace]:
    database = breakable.cluster.url(breakable.make())
    with watched_place(tmp_path_factory, *OPTIONS, database=database) as here:
        yield here


OPTIONS = ("--lease-seconds", str(LEASE_SECONDS))


def recount(here: WatchedPlace) -> None:
    """The counters are right when all servers have stopped."""
    asyncio.run(recount_tables(here.database))


def check_log(server: Process) -> None:
    """It knew what went wrong each time."""
    assert "Traceback" not in server.output(), server.output()[-5000:]


# ---- a restart in the middle of everything


def test_a_crash_of_the_database_under_load_loses_nothing(
    place: WatchedPlace, breakable: Databases
) -> None:
    server = place.serve()
    workers = [place.worker("one"), place.worker("another", slots=1)]

    with load_on(place) as load:
        for number in range(3):
            before = load.acknowledged
            until(lambda before=before: load.acknowledged > before + 50, 60)  # type: ignore[misc]
            breakable.cluster.crash()
            time.sleep((0, 1, 6)[number])
            breakable.cluster.start()
        begun = time.monotonic()
        outcome = load.finish()
    sys.stdout.write(f"{outcome} {time.monotonic() - begun:.1f} s\n")

    assert outcome.faults == []
    assert outcome.acknowledged > 150
    assert all(each.is_alive() for each in (server, *workers))
    check_log(server)
    assert server.stop() == 0
    recount(place)


def test_backends_that_are_killed_are_replaced(place: WatchedPlace, breakable: Databases) -> None:
    server = place.serve()
    place.worker("one")
    name = place.database.rpartition("/")[2]
    chance = random.Random(1)

    with load_on(place) as load:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            breakable.cluster.do(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{name}' AND random() < 0.5"
            )
            time.sleep(chance.uniform(0.05, 0.5))
        outcome = load.finish()
    sys.stdout.write(f"{outcome}\n")

    assert outcome.faults == []
    assert server.is_alive()
    check_log(server)
    assert server.stop() == 0
    recount(place)


# ---- out of reach


class Asking:
    """Somebody who asks the same again and again; how long each reply took."""

    def __init__(self, place: WatchedPlace, ask: Callable[[Connection], Reply]) -> None:
        self.replies: list[tuple[int, float]] = []
        """Status and seconds."""
        self.error: BaseException | None = None
        self._ask = ask
        self._connection = place.connection(place.token("user", "asking"))
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._is_over.is_set():
                begun = time.monotonic()
                reply = self._ask(self._connection)
                self.replies.append((reply.status, time.monotonic() - begun))
                time.sleep(0.01)
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(60)
        if self.error is not None:
            raise self.error


def submit(connection: Connection) -> Reply:
    body = json.dumps({"function": "math:sqrt", "args": [16]}).encode()
    return connection.ask("POST", "/v1/tasks", body)


def listed(connection: Connection) -> Reply:
    return connection.ask("GET", "/v1/tasks?limit=1")


def alive(connection: Connection) -> Reply:
    return connection.ask("GET", "/livez")


@pytest.fixture
def network(breakable: Databases) -> Iterator[TcpProxy]:
    """The way to the database."""
    with tcp_proxy(("127.0.0.1", breakable.cluster.port)) as proxy:
        yield proxy


def test_a_database_out_of_reach_is_told_quickly_and_comes_back(
    breakable: Databases, network: TcpProxy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    database = breakable.cluster.url(breakable.make(), port=network.port)
    with watched_place(tmp_path_factory, *OPTIONS, database=database) as here:
        server = here.serve()
        worker = here.worker(slots=2)
        user = here.connection(here.token("user"))
        body = {"function": "time:sleep", "args": [OUTAGE_SECONDS / 2]}
        task = str(user.ask("POST", "/v1/tasks", json.dumps(body).encode()).told["id"])
        until(lambda: user.ask("GET", f"/v1/tasks/{task}").told["state"] == "running")
        asking = [Asking(here, each) for each in [submit] * 20 + [listed] * 20 + [alive]]
        until(lambda: all(len(each.replies) > 3 for each in asking))
        before = (resident_bytes(server), descriptors(server), threads(server))

        network.partition()
        time.sleep(OUTAGE_SECONDS)
        during = (resident_bytes(server), descriptors(server), threads(server))
        is_alive = worker.is_alive()
        network.heal()
        healed = time.monotonic()
        until(lambda: submit(user).status == 202, 20, "tasks are taken again")
        sys.stdout.write(f"tasks are taken {time.monotonic() - healed:.1f} s after\n")
        view = user.ask("GET", f"/v1/tasks/{task}?wait=30").told
        sys.stdout.write(f"the answer was there {time.monotonic() - healed:.1f} s after\n")
        for each in asking:
            each.stop()

        assert view["state"] == "succeeded" and view["attempt"] == 1, view
        assert is_alive and worker.is_alive()
        check_replies(asking)
        sys.stdout.write(f"bytes, descriptors, threads: {before}, in the outage {during}\n")
        assert during[0] < before[0] + (100 << 20)
        assert during[1] < before[1] + 60 and during[2] <= before[2] + 8
        check_log(server)
        assert server.stop() == 0
        recount(here)


def threads(process: Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def check_replies(asking: list[Asking]) -> None:
    """Refused quickly, and never with anything but 503."""
    *users, watcher = asking
    statuses = {status for each in users for status, _ in each.replies}
    assert statuses <= {200, 202, 503} and 503 in statuses, statuses
    slowest = max(seconds for each in users for _, seconds in each.replies)
    refused = [seconds for each in users for status, seconds in each.replies if status == 503]
    sys.stdout.write(
        f"{len(refused)} refused, in {sum(refused) / len(refused):.2f} s, at most {slowest:.1f} s\n"
    )
    assert slowest < REFUSAL_SECONDS
    assert max(seconds for _, seconds in watcher.replies) < 2.0


# ---- transactions in each other's way

_TROUBLE = """
CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF random() < 0.002 THEN RAISE EXCEPTION 'planted' USING ERRCODE = '40001'; END IF;
  IF random() < 0.002 THEN RAISE EXCEPTION 'planted' USING ERRCODE = '40P01'; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER trouble BEFORE INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION trouble();
CREATE TRIGGER trouble BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION trouble();
"""


def test_serialization_failures_and_deadlocks_are_never_seen(place: WatchedPlace) -> None:
    asyncio.run(do(place.database, _TROUBLE))
    server = place.serve()
    place.worker("one")
    adversary = Adversary(place.database)
    asking = [Asking(place, submit), Asking(place, listed)]

    with load_on(place) as load:
        adversary.start()
        time.sleep(6)
        adversary.stop()
        for each in asking:
            each.stop()
        outcome = load.finish()
    sys.stdout.write(f"{outcome}, {adversary.locks} locks, {adversary.deadlocks} deadlocks\n")

    assert outcome.faults == []
    assert adversary.locks > 20
    assert {status for each in asking for status, _ in each.replies} <= {200, 202}
    check_log(server)
    assert server.stop() == 0
    recount(place)


async def do(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


class Adversary:
    """Somebody who locks tasks in the wrong order, for a moment each time."""

    def __init__(self, url: str) -> None:
        self.locks = self.deadlocks = 0
        self._url = url
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(30)

    async def _run(self) -> None:
        connection = await asyncpg.connect(self._url, server_settings={"deadlock_timeout": "100ms"})
        while not self._is_over.is_set():
            try:
                async with connection.transaction():
                    await self._lock(connection)
            except asyncpg.DeadlockDetectedError:
                self.deadlocks += 1
        await connection.close()

    async def _lock(self, connection: asyncpg.Connection) -> None:
        numbers = await connection.fetch(
            "SELECT number FROM tasks WHERE state IN (0, 2) ORDER BY number DESC LIMIT 20"
        )
        for (number,) in numbers:
            await connection.execute("SELECT FROM tasks WHERE number = $1 FOR UPDATE", number)
            self.locks += 1
            await asyncio.sleep(0.01)
