"""What is missing on this machine, and how to get it."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from msgspec import Struct

from task_server.cli.exits import OK, TASK_FAILED
from task_server.cli.output import Format, Output, as_row, show_rows
from task_server.cli.servers import part, settings_from, with_options
from task_server.client import requests
from task_server.client.http import HttpTransport
from task_server.client.profile import find_server
from task_server.errors import TaskServerError, Unauthorized
from task_server.machine import state_directory
from task_server.options import settings_of
from task_server.settings import WorkerSettings

FREE_BYTES = 1 << 30
"""A disk with less is nearly full."""
_OF_A_WORKER = (
    *("slots", "max_sandbox", "memory_bytes", "cpus", "processes", "file_bytes", "network"),
    *("readable", "writable", "runner_uids", "i_know_root_runners"),
)

_NETWORK = "what tasks reach is for --network of the worker to say"
_INSTALLERS_NETWORK = "a worker that is root gives uv a network of its own"
_FENCE = "uv can be kept from the worker's token on Linux 5.19 or newer with landlock"

State = Literal["ok", "open", "missing", "broken"]


class Finding(Struct, frozen=True):
    """One thing that was looked at; `hint` says what to do."""

    what: str
    state: State
    found: str = ""
    hint: str = ""


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    settings = settings_of(WorkerSettings)
    command = with_options(doctor, [settings[name] for name in _OF_A_WORKER])
    worker = typer.Option("--worker", help="Try out the sandbox of a worker too.")
    own = [
        inspect.Parameter("worker", _BY_NAME, default=False, annotation=Annotated[bool, worker]),
        inspect.Parameter("output", _BY_NAME, default=Format.TABLE, annotation=Output),
    ]
    signature = inspect.signature(command)
    parameters = [*own, *signature.parameters.values()]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    app.command()(command)


_BY_NAME = inspect.Parameter.KEYWORD_ONLY


def doctor(worker: bool, output: Format, **values: Any) -> None:
    """Say what is missing here, and how to get it; the exit status is 1 if something is broken."""
    findings = [*_parts(), *_uv(), _disk(), _server()]
    if worker:
        settings = settings_from(WorkerSettings, {**values, "server": "http://127.0.0.1"})
        findings += _sandbox(settings)
    show_rows([as_row(each) for each in findings], ("what", "state", "found", "hint"), output)
    is_broken = any(each.state == "broken" for each in findings)
    raise typer.Exit(TASK_FAILED if is_broken else OK)


def _parts() -> Iterator[Finding]:
    for name, module in (
        ("server", "httptools"),
        ("worker", "packaging"),
        ("PostgreSQL", "asyncpg"),
    ):
        hint = f"pip install 'task-server[{name.replace('PostgreSQL', 'postgres').lower()}]'"
        if find_spec(module) is None:
            yield Finding(f"part: {name}", "missing", hint=hint)
        else:
            yield Finding(f"part: {name}", "ok")


def _uv() -> Iterator[Finding]:
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        yield Finding("uv", "broken", hint="workers build environments with it: pip install uv")
        return
    ran = subprocess.run([uv, "--version"], capture_output=True, text=True, check=False)
    yield Finding("uv", "ok" if ran.returncode == 0 else "broken", ran.stdout.strip())


def _disk() -> Finding:
    data = Path(os.environ.get("TASK_SERVER_DATA") or state_directory()).expanduser()
    there = next(folder for folder in (data, *data.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / (1 << 30):.1f} GiB free for {data}"
    if free < FREE_BYTES:
        return Finding("disk", "broken", found, "make room, or name another folder with --data")
    return Finding("disk", "ok", found)


def _server() -> Finding:
    try:
        profile = find_server()
        requests.accepted(
            HttpTransport(profile.url, profile.token).request(requests.list_workers(), timeout=10)
        )
    except Unauthorized as error:
        return Finding("server", "broken", str(error), "give TASK_SERVER_TOKEN")
    except TaskServerError as error:
        return Finding("server", "missing", str(error))
    return Finding("server", "ok", profile.url)


def _sandbox(settings: WorkerSettings) -> Iterator[Finding]:
    found = part("task_server.worker.interpreters").pythons()
    if not found:
        yield Finding("Python", "broken", hint="functions need one: install python3.11")
        return
    yield Finding("Python", "ok", ", ".join(f"{minor}: {path}" for minor, path in found.items()))
    try:
        chosen = _chosen(settings, next(iter(found.values())))
    except TaskServerError as error:
        yield Finding("sandbox", "broken", str(error))
        return
    layers = chosen.examined.layers
    yield Finding("sandbox", "ok", f"level {layers.level} ({layers.name})")
    yield from _probes(chosen.examined.probes)
    if part("task_server.worker.sandbox.fence").is_possible():
        yield Finding("installer", "ok", "uv writes its own alone, and reads nothing secret")
    else:
        yield Finding("installer", "missing", hint=_FENCE)
    if why := part("task_server.worker.sandbox.own_network").missing():
        yield Finding("installer's network", "missing", why, _INSTALLERS_NETWORK)
    else:
        yield Finding("installer's network", "ok", "uv reaches package indexes alone")
    for hint in part("task_server.worker.sandbox.choice").hints(chosen):
        layer, _, text = hint.partition(": ")
        yield Finding(f"layer: {layer}", "missing", hint=text)


def _chosen(settings: WorkerSettings, interpreter: Path) -> Any:
    """The sandbox that a worker with these settings uses. Raises TaskServerError."""
    choice = part("task_server.worker.sandbox.choice")
    mask = os.umask(0o022)  # as a worker does
    try:
        with tempfile.TemporaryDirectory(prefix="task-server-doctor-") as name:
            folder = Path(name)
            folder.chmod(0o711)
            wishes = choice.wishes_of(settings, folder)
            relay = part("task_server.worker.sandbox.relay").relay_of(settings, os.environ)
            return asyncio.run(
                choice.choose(wishes, interpreter=interpreter, directory=folder, relay=relay)
            )
    finally:
        os.umask(mask)


def _probes(probes: Mapping[str, str]) -> Iterator[Finding]:
    for probe, came in probes.items():
        if probe == "works":
            yield Finding("a task works", "ok", came)
        else:
            state: State = "ok" if came == "denied" else "open"
            hint = _NETWORK if probe == "connect" and state == "open" else ""
            yield Finding(f"a task tries to {probe}", state, came, hint)
