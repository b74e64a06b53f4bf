"""Real processes: `task-server up` with a directory and a profile of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct, convert

from task_server.client.client import Client
from task_server.client.profile import Profile, read_profile
from tests.e2e.kills import KILLED, Killed, summary
from tests.e2e.processes import clean_environ

COMMAND = (sys.executable, "-m", "task_server.cli")
READY = "task-server ready on "
START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Running(Struct, frozen=True):
    """A server with a worker, and how to reach it."""

    process: int
    url: str
    data: Path
    profile: Path
    environ: dict[str, str]

    @property
    def token(self) -> str | None:
        profile = read_profile(self.profile)
        assert profile == Profile(self.url, profile.token if profile else None)
        return profile.token

    def client(self) -> Client:
        return Client(self.url, self.token)

    def command(
        self, *arguments: str, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `task-server` with arguments, as this server's user."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.environ,
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server and one worker for all tests that do not break them."""
    data = tmp_path_factory.mktemp("data")
    # Runners may work under other uids, to which folders of this user's are closed.
    for folder in (data, *data.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    profile = tmp_path_factory.mktemp("profile") / "profile.json"
    environ = clean_environ() | {"TASK_SERVER_PROFILE": str(profile)}
    with (data / "up.log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "up", "--port", "0", "--slots", "2", "--data", str(data / "state")],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(READY), (data / "up.log").read_text()
    yield Running(process.pid, line.removeprefix(READY).strip(), data / "state", profile, environ)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=STOP_SECONDS)
    assert rest == "" and process.returncode == 0, (data / "up.log").read_text()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what came of the servers that were killed under load."""
    rounds = [
        convert(killed, Killed)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, killed in report.user_properties
        if name == KILLED
    ]
    if rounds:
        terminalreporter.section("killed servers")
        for line in summary(rounds):
            terminalreporter.write_line(line)


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with running.client() as client:
        yield client
