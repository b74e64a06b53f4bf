"""Servers on one PostgreSQL: what is given to one, the others know; and each can die."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import QUICK
from tests.e2e.load import load_on
from tests.e2e.processes import COMMAND, clean_environ, until
from tests.e2e.stranger_client import PlainClient
from tests.e2e.tcp_proxy import Address, TcpProxy, tcp_proxy
from tests.e2e.watched import WatchedPlace, ends, watched_place
from tests.e2e.wire import Connection
from tests.environments.small_index import small_index
from tests.postgres import Cluster, Databases

pytestmark = [pytest.mark.e2e, pytest.mark.postgres, pytest.mark.timeout(120)]

LEASE_SECONDS = 3


@pytest.fixture
def here(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedPlace]:
    options = ("--lease-seconds", str(LEASE_SECONDS))
    with watched_place(tmp_path_factory, *options, database=database) as here:
        yield here


def address(url: str) -> Address:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port


def submitted(client: PlainClient, count: int, **fields: object) -> list[str]:
    """Tasks submitted as one list."""
    return list(client.ask("POST", "/v1/tasks", [fields] * count)["ids"])


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@contextmanager
def balanced(here: WatchedPlace, *urls: str) -> Iterator[TcpProxy]:
    """Clients and workers of this place reach all these servers at one address from now on."""
    with tcp_proxy(*map(address, urls)) as proxy:
        here.url = f"http://127.0.0.1:{proxy.port}"
        yield proxy


# ---- one server


def test_tasks_go_through_it(here: WatchedPlace) -> None:
    here.serve()
    here.worker()

    with here.client() as client:
        assert client.submit("math:sqrt", 16).result(30) == 4.0
        assert list(client.map("math:sqrt", [n * n for n in range(500)])) == list(range(500))
        large = client.submit("operator:mul", "large ", 50_000)
        assert large.result(30) == "large " * 50_000


def test_it_is_ready_and_says_what_is_not_durable(here: WatchedPlace) -> None:
    server = here.serve()

    told = here.connection().ask("GET", "/readyz")

    assert told.status == 200
    assert json.loads(told.body)["database"]["kind"] == "postgres"
    assert ("fsync is off" in server.output()) == ("fsync=off" in QUICK)


def test_a_revoked_token_is_refused_at_once(here: WatchedPlace) -> None:
    here.serve()
    connection = here.connection(here.token("user"))
    assert connection.ask("GET", "/v1/tasks").status == 200
    listed = run([*COMMAND, "token", "ls", "--database", here.database, "-o", "json"])
    (token,) = json.loads(listed.stdout)

    revoked = run([*COMMAND, "token", "revoke", token["id"], "--database", here.database])

    assert revoked.returncode == 0, revoked.stderr
    until(lambda: connection.ask("GET", "/v1/tasks").status == 401, 5)


def test_a_server_that_lost_its_number_stops(here: WatchedPlace, databases: Databases) -> None:
    server = here.serve()

    databases.cluster.do(
        "UPDATE servers SET name = 'another'", database=here.database.rpartition("/")[2]
    )

    assert ends(server, 15) == 1
    assert "another server has taken number 1" in server.output()
    assert "Traceback" not in server.output()


# ---- two servers


def test_a_batch_is_followed_at_another_server(here: WatchedPlace) -> None:
    here.serve()
    _, other = here.serve_also("other")
    token = here.token("user")
    client = PlainClient(here.url, token)
    batch = client.ask("POST", "/v1/tasks", [{"function": "math:sqrt", "args": [4]}] * 5)["batch"]
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{other}/v1/batches/{batch}/events", headers=headers)

    with urllib.request.urlopen(request, timeout=60) as stream:
        told = []
        for line in stream:
            if line.startswith(b"data: "):
                told.append(json.loads(line[6:]))
                if len(told) == 1:
                    here.worker()

    assert told[0]["counts"]["queued"] == 5 and told[0]["progress"] == 0.0
    assert told[-1]["counts"]["succeeded"] == 5 and told[-1]["progress"] == 1.0


@pytest.mark.parametrize("place", ["there", "elsewhere"])
def test_what_ends_at_one_server_is_told_at_the_other_at_once(
    here: WatchedPlace, place: str
) -> None:
    here.serve()
    _, other = here.serve_also("other")
    here.worker(url=here.url if place == "elsewhere" else other)
    token = here.token("user")
    client = PlainClient(here.url, token)
    waiting = Connection(other, token)
    lags, starts = [], []

    for _ in range(40):
        (task,) = submitted(client, 1, function="time:sleep", args=[0.04])
        view = waiting.ask("GET", f"/v1/tasks/{task}?wait=30").told
        lags.append(time.time() - moment(str(view["ended_at"])))
        starts.append(moment(str(view["started_at"])) - moment(str(view["submitted_at"])))
        assert view["state"] == "succeeded", view
    waiting.close()

    for what, seconds in (("told after its end", lags), ("started after its submit", starts)):
        ordered = sorted(1000 * each for each in seconds)
        sys.stdout.write(
            f"{what}: median {statistics.median(ordered):.1f} ms,"
            f" 90 % {ordered[int(0.9 * len(ordered))]:.1f} ms, most {ordered[-1]:.1f} ms\n"
        )
    assert statistics.median(lags) < 0.05


def test_a_batch_is_streamed_by_one_server_while_workers_of_the_other_work(
    here: WatchedPlace,
) -> None:
    here.serve()
    _, other = here.serve_also("other")
    here.worker(url=other)
    client = PlainClient(here.url, here.token("user"))
    tasks = submitted(client, 100, function="time:sleep", args=[0.02])
    batch = client.ask("GET", f"/v1/tasks/{tasks[0]}")["batch"]
    path = f"/v1/batches/{batch}/answers?order=finished&wait=60"
    request = urllib.request.Request(
        here.url + path, headers={"Authorization": f"Bearer {client.token}"}
    )

    with urllib.request.urlopen(request, timeout=60) as stream:
        came = [(json.loads(line)["id"], time.monotonic()) for line in stream]

    assert sorted(task for task, _ in came) == sorted(tasks)
    # They come as they end, not all at the end.
    assert came[-1][1] - came[0][1] > 0.3


def test_a_batch_filled_at_one_server_is_waited_for_at_the_other(here: WatchedPlace) -> None:
    here.serve()
    _, other = here.serve_also("other")
    here.worker()
    token = here.token("user")
    one, two = PlainClient(here.url, token), PlainClient(other, token)
    batch = one.ask("POST", "/v1/batches", {})["id"]
    request = urllib.request.Request(
        f"{other}/v1/batches/{batch}/answers?wait=60", headers={"Authorization": f"Bearer {token}"}
    )

    lines: list[bytes] = []
    with urllib.request.urlopen(request, timeout=60) as stream:
        reading = threading.Thread(target=lambda: lines.extend(stream))
        reading.start()
        for number in range(5):
            item = {"function": "math:sqrt", "args": [number * number]}
            (one, two)[number % 2].ask("POST", f"/v1/tasks?batch={batch}", [item])
            until(lambda number=number: len(lines) == number + 1)  # type: ignore[misc]
        one.ask("POST", f"/v1/batches/{batch}/close")
        reading.join(10)
        assert not reading.is_alive(), "the stream does not end with its batch"

    assert [json.loads(line)["answer"] for line in lines] == [0, 1, 2, 3, 4]


def test_servers_that_start_at_once_on_an_empty_database_share_it(
    empty_database: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with watched_place(tmp_path_factory, database=empty_database) as here:
        started: list[str] = []
        starting = [
            threading.Thread(target=lambda n=n: started.append(here.serve_also(f"server {n}")[1]))
            for n in range(3)
        ]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join(60)
        here.url = started[0]
        here.worker(url=started[1])

        assert len(started) == 3
        assert PlainClient(started[2], here.token("user")).call("math.sqrt", 16) == 4.0


# ---- servers that die


def test_killed_servers_lose_nothing_and_the_others_go_on(here: WatchedPlace) -> None:
    first = here.serve()
    urls = [here.url]
    servers = [first]
    for name in ("second", "third"):
        server, url = here.serve_also(name)
        servers.append(server)
        urls.append(url)
    with balanced(here, *urls):
        workers = [here.worker("one"), here.worker("another", slots=1)]
        with load_on(here) as load:
            until(lambda: load.acknowledged > 100)
            for number, name in ((0, "again"), (1, "once more")):
                servers[number].kill()
                before = load.acknowledged
                until(lambda before=before: load.acknowledged > before + 100)  # type: ignore[misc]
                here.serve_also(name, port=address(urls[number])[1])
            servers[2].kill()
            before = load.acknowledged
            until(lambda: load.acknowledged > before + 100)
            outcome = load.finish()
    sys.stdout.write(f"{outcome}\n")

    assert outcome.faults == []
    assert all(worker.is_alive() for worker in workers)


def test_what_the_leader_did_another_does_after_its_death(here: WatchedPlace) -> None:
    with small_index() as index:
        index.add("late", "1.0", {"late.py": "def name(): return 'late'\n"})
        environ = {
            name: index.environ(here.folder / f"cache of {name}")
            for name in ("one", "other", "worker")
        }
        leader = here.serve(environ["one"])
        _, other = here.serve_also("other", environ=environ["other"])
        lost = here.worker("lost", url=other)
        client = PlainClient(other, here.token("user"))
        (task,) = submitted(client, 1, function="time:sleep", args=[1.5])
        until(lambda: client.ask("GET", f"/v1/tasks/{task}")["state"] == "running")

        leader.kill()
        lost.kill()
        begun = time.monotonic()
        here.worker(url=other, environ=environ["worker"])
        (locked,) = submitted(client, 1, function="name", package="late")
        times = {}
        for name, each in (("locked and run", locked), ("expired and run again", task)):
            view = client.ask("GET", f"/v1/tasks/{each}?wait=40")
            times[name] = time.monotonic() - begun
            assert view["state"] == "succeeded", view

    sys.stdout.write(f"after the death of the leader: {times}\n")
    assert client.ask("GET", f"/v1/tasks/{task}")["attempt"] == 2
    assert max(times.values()) < 25


# ---- what cannot be used


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=clean_environ(), capture_output=True, text=True, timeout=60, check=False
    )


SECRET = "hush-hush"


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("postgresql://locked_out:{secret}@127.0.0.1:{port}/postgres", "check user and password"),
        ("postgresql://postgres:{secret}@127.0.0.1:{port}/missing", "make it first: createdb"),
        ("postgresql://postgres:{secret}@127.0.0.1:1/postgres", "does PostgreSQL run there?"),
        ("postgres://postgres:{secret}#@127.0.0.1:{port}/postgres", "cannot be read"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_in_one_line(
    postgres: Cluster, tmp_path: Path, form: str, told: str
) -> None:
    postgres.do(
        "DROP ROLE IF EXISTS locked_out", "CREATE ROLE locked_out LOGIN PASSWORD 'something'"
    )
    url = form.format(secret=SECRET, port=postgres.port)
    commands = {
        "serve": [*COMMAND, "serve", "--data", str(tmp_path), "--port", "0", "--database", url],
        "token": [*COMMAND, "token", "create", "--kind", "user", "--database", url],
    }

    for command in commands.values():
        done = run(command)

        assert done.returncode not in (0, -6, -11), done
        (line,) = done.stderr.splitlines()
        assert told in line and SECRET not in line
        assert done.stdout == ""


@pytest.mark.parametrize("command", ["serve", "token"])
def test_without_its_driver_it_says_what_to_install(tmp_path: Path, command: str) -> None:
    program = "import sys; sys.modules['asyncpg'] = None; from task_server.cli import main; main()"
    arguments = {
        "serve": ["serve", "--data", str(tmp_path), "--port", "0"],
        "token": ["token", "ls"],
    }[command]

    done = run([sys.executable, "-c", program, *arguments, "--database", "postgresql:///x"])

    assert done.returncode not in (0, -6, -11)
    (line,) = done.stderr.splitlines()
    assert "pip install 'task-server[postgres]'" in line
