from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from task_server.cli import up as up_module
from task_server.client.http import HttpTransport
from task_server.client.profile import read_profile
from task_server.client.requests import Request
from task_server.errors import ServerUnreachable
from task_server.settings import ServerSettings

pytestmark = pytest.mark.e2e

READY = "task-server ready on "
SOURCES = Path(__file__).parents[2] / "src"
STAND_INS = Path(__file__).parent / "stand_ins"


class Up(Struct):
    process: subprocess.Popen[str]
    data: Path
    profile: Path

    def ready(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().removeprefix(READY).strip()

    def stop(self, number: int = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=10)
        return rest

    def server(self) -> int:
        return int((self.data / "server.pid").read_text())

    def events(self) -> list[str]:
        return (self.data / "events").read_text().splitlines()


Start = Callable[..., Up]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Up] = []
    profile = tmp_path / "profile.json"
    environ = {name: value for name, value in os.environ.items() if "TASK_SERVER" not in name}
    environ |= {"PYTHONPATH": f"{STAND_INS}:{SOURCES}", "TASK_SERVER_PROFILE": str(profile)}

    def start(*options: str) -> Up:
        data = tmp_path / "data"
        command = [sys.executable, "-m", "task_server.cli", "up", "--data", str(data)]
        process = subprocess.Popen(
            [*command, "--port", "0", "--slots", "3", *options],
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(Up(process, data, profile))
        return started[-1]

    yield start
    for up in started:
        up.process.kill()
        up.process.communicate()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_there(url: str) -> bool:
    try:
        return HttpTransport(url).request(Request("GET", "/"), timeout=5).status == 200
    except ServerUnreachable:
        return False


def test_up_says_one_line_and_leaves_a_profile(start: Start) -> None:
    up = start()

    url = up.ready()

    profile = read_profile(up.profile)
    assert profile is not None and profile.url == url
    assert profile.token is not None and profile.token.startswith("admin-token")
    assert read_profile(up.data / "profile.json") == profile
    assert up.stop() == "" and up.process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_worker_drains_before_the_server_stops(start: Start, number: int) -> None:
    up = start()
    up.ready()

    up.stop(number)

    first, *rest = up.events()
    assert first.startswith("worker started with 3 slots and worker-token")
    assert rest == ["worker drained", "server stopped"]


def test_a_server_that_dies_is_started_again_where_it_was(start: Start) -> None:
    up = start()
    url = up.ready()
    first = up.server()

    os.kill(first, signal.SIGKILL)

    until(lambda: up.server() != first)
    until(lambda: is_there(url))
    assert up.process.poll() is None


def test_a_server_that_somebody_stops_ends_all(start: Start) -> None:
    up = start()
    up.ready()

    os.kill(up.server(), signal.SIGTERM)

    assert up.process.wait(timeout=10) == 0
    assert up.events()[1:] == ["server stopped", "worker drained"]


def test_the_owner_of_earlier_tasks_stays_the_owner(start: Start) -> None:
    tokens = []
    for options in ((), ("--auth", "none"), ()):
        up = start(*options)
        up.ready()
        profile = read_profile(up.profile)
        tokens.append(profile.token if profile else None)
        up.stop()

    assert len(set(tokens)) == 1


def test_a_server_that_cannot_start_ends_up(start: Start) -> None:
    up = start("--host", "203.0.113.1")

    assert up.ready() == ""
    assert up.process.wait(timeout=10) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a parent's death is not told")
def test_nothing_outlives_up(start: Start) -> None:
    up = start()
    up.ready()

    up.process.kill()

    until(lambda: set(up.events()[1:]) == {"worker drained", "server stopped"})


def test_a_private_index_is_on_no_command_line_and_known_to_both(tmp_path: Path) -> None:
    settings = ServerSettings(
        data=tmp_path,
        private_index="https://me:secret-word@index.example/wheels/",
        private_packages="acme-*",
    )

    assert "secret-word" not in " ".join(up_module._serve_command(settings))
    assert up_module._private(settings) == {
        "TASK_SERVER_PRIVATE_INDEX": settings.private_index,
        "TASK_SERVER_PRIVATE_PACKAGES": "acme-*",
    }
    assert up_module._private(ServerSettings(data=tmp_path)) == {}
