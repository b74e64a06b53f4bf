"""Settings of `serve` and `worker` from plain options, as Typer would read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from task_server.cli.long_running import plain_settings, run_plain
from task_server.settings import ServerSettings, WorkerSettings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TASK_SERVER_URL", "TASK_SERVER_TOKEN", "TASK_SERVER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_texts_become_what_the_settings_are() -> None:
    said = ["--port", "0", "--data", "here", "--lease-seconds", "2.5", "--auth", "none"]

    settings = plain_settings(ServerSettings, said)

    assert settings == ServerSettings(port=0, data=Path("here"), lease_seconds=2.5, auth="none")


def test_variables_count_where_there_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASK_SERVER_URL", "http://localhost:1")
    monkeypatch.setenv("TASK_SERVER_TOKEN", "tsw_of_the_variable")
    monkeypatch.setenv("TASK_SERVER_SLOTS", "")

    settings = plain_settings(WorkerSettings, ["--token", "tsw_of_the_option"])

    assert settings is not None
    assert (settings.server, settings.token) == ("http://localhost:1", "tsw_of_the_option")
    assert settings.slots == WorkerSettings(server="", token="").slots


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--port"],
        ["--port", "many"],
        ["--port", "1", "--port", "2"],
        ["--port=1"],
        ["--no-such-option", "1"],
        ["--data", "--port"],
        ["stray"],
        ["--auth", "sometimes"],
        ["--auth", "none", "--host", "192.0.2.1"],
    ],
)
def test_help_and_mistakes_are_left_to_typer(arguments: list[str]) -> None:
    assert run_plain(["serve", *arguments]) is None


def test_a_worker_without_a_server_is_left_to_typer() -> None:
    assert run_plain(["worker", "--slots", "1"]) is None


@pytest.mark.parametrize("arguments", [[], ["version"], ["up"], ["--help"]])
def test_other_commands_are_left_to_typer(arguments: list[str]) -> None:
    assert run_plain(arguments) is None


def test_what_runs_for_long_knows_nothing_of_typer() -> None:
    code = (
        "import sys, task_server.cli.long_running, task_server.server.run, task_server.worker.run;"
        "print(sorted({'typer', 'rich', 'pydantic'} & set(sys.modules)))"
    )

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[]"
