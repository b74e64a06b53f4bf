"""Trying the sandbox out: a runner in it does what a function should not be able to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from task_server.worker import process_tree
from task_server.worker.calls import Call, Outcome
from task_server.worker.exits import in_thread
from task_server.worker.launch import RunnerSpec
from task_server.worker.runners import Runner
from task_server.worker.sandbox.layers import Layers
from task_server.worker.sandbox.limits import RunnerLimits
from task_server.worker.sandbox.sandbox import Sandbox

INSIDE = Path(__file__).with_name("inside.py")
MODULE = "task_server_probes"
PROBE_SECONDS = 20.0
MEMORY_BYTES = 192 << 20
PROCESSES = 24
_SIGNALS_STAY = 6
"""The version of landlock that keeps signals and abstract sockets inside."""


def _always(layers: Layers) -> bool:
    return True


def _files(layers: Layers) -> bool:
    return bool(layers.landlock or layers.namespace)


def _files_or_uid(layers: Layers) -> bool:
    return _files(layers) or layers.uid


def _signals(layers: Layers) -> bool:
    return layers.landlock >= _SIGNALS_STAY or layers.namespace or layers.uid


def _local(layers: Layers) -> bool:
    return layers.namespace or layers.seccomp


def _abstract(layers: Layers) -> bool:
    return layers.landlock >= _SIGNALS_STAY or (layers.seccomp and not layers.namespace)


def _calls(layers: Layers) -> bool:
    return layers.seccomp


def _privileges(layers: Layers) -> bool:
    return layers != Layers(cgroup=layers.cgroup)


def _processes(layers: Layers) -> bool:
    # Among the processes of one user the kernel counts everybody's: that comes near, no more.
    return layers.cgroup or layers.uid


def _only_by_policy(layers: Layers) -> bool:
    return False


HELD_BY: dict[str, Callable[[Layers], bool]] = {
    "read the worker's token": _files_or_uid,
    "list the worker's data": _files_or_uid,
    "write into an environment": _files_or_uid,
    "read another task's folder": _files_or_uid,
    "write outside": _files,
    "read the worker's variables": _files_or_uid,
    "signal the worker": _signals,
    "read the machine's users": _files_or_uid,
    "call the machine's services": _local,
    "call hidden services": _abstract,
    "connect": _only_by_policy,
    "become root": _privileges,
    "gain privileges": _privileges,
    "trace processes": _calls,
    "read the kernel's keys": _calls,
    "make namespaces": _calls,
    "hide flags of clone": _calls,
    "write a file past its limit": _always,
    "leave a core dump": _always,
    "fork past the limit": _processes,
    "take memory past the limit": _always,
    "outlive its runner": _always,
}
"""What each layer has to hold; with none of them on, a probe may find the door open."""


class Examined(Struct, frozen=True):
    """What came of the probes: "denied" or what else, by what was tried."""

    layers: Layers
    network: str
    probes: dict[str, str]

    @property
    def not_held(self) -> list[str]:
        """What should have been denied with these layers, and was not."""
        expected = {name for name, by in HELD_BY.items() if by(self.layers)}
        is_closed = self.network in ("index-only", "internet")
        is_closed |= self.network == "none" and self.layers.level > 0
        expected |= {"connect"} if is_closed else set()
        failing = [name for name in HELD_BY if name in expected and not self._is_denied(name)]
        works = self.probes.get("works", "nothing came back")
        return failing if works == "yes" else [f"ordinary work: {works}", *failing]

    def _is_denied(self, name: str) -> bool:
        return self.probes.get(name) == "denied"


async def examine(
    make: Callable[[Path], Sandbox], *, interpreter: Path, child: Path, directory: Path
) -> Examined:
    """Run every probe in a sandbox; `make` gets the empty folder for its trees.

    `directory` is the worker's: what runners share and what they are is below it. Raises OSError
    when no runner can be started.
    """
    here = directory / f"probe-{secrets.token_hex(4)}"
    (here / "shared").mkdir(parents=True)
    (here / "root").mkdir()
    here.chmod(0o711)
    try:
        shutil.copyfile(INSIDE, here / "shared" / f"{MODULE}.py")
        sandbox = make(here / "root")
        spec = RunnerSpec(interpreter, here / "runner", here / "shared", child=child)
        return await _examine(sandbox, spec, here)
    finally:
        shutil.rmtree(here, ignore_errors=True)


async def _examine(sandbox: Sandbox, spec: RunnerSpec, here: Path) -> Examined:
    limits = msgspec.structs.replace(sandbox.policy.limits, processes=PROCESSES)
    with _targets(here) as facts:
        found, mark = await _in_runner(sandbox, spec, limits, "probe", facts)
        probes = _told(found)
        if not await in_thread(_was_written, Path(facts["outside"])):
            probes["write outside"] = "denied"  # at most into a folder that is the runner's own
    left = list(process_tree.marked(mark))
    probes["outlive its runner"] = "allowed" if left else "denied"
    probes["take memory past the limit"] = await _take_memory(sandbox, spec)
    return Examined(sandbox.layers, sandbox.policy.limits.network, probes)


async def _take_memory(sandbox: Sandbox, spec: RunnerSpec) -> str:
    limits = msgspec.structs.replace(sandbox.policy.limits, memory_bytes=MEMORY_BYTES)
    outcome, _ = await _in_runner(sandbox, spec, limits, "take_memory", 3 * MEMORY_BYTES)
    if outcome.error is None:
        return "allowed"
    is_held = outcome.error.kind == "out_of_memory" or outcome.error.type == "MemoryError"
    return "denied" if is_held else outcome.error.message


def _told(outcome: Outcome) -> dict[str, str]:
    if outcome.outcome != "succeeded":
        message = outcome.error.message if outcome.error is not None else ""
        raise OSError(message + outcome.log.decode(errors="replace")[-500:])
    return msgspec.json.decode(outcome.answer, type=dict[str, str])


async def _in_runner(
    sandbox: Sandbox, spec: RunnerSpec, limits: RunnerLimits, function: str, argument: object
) -> tuple[Outcome, str]:
    """Run one function of `inside` in a runner of its own; gives its mark too."""
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def take(runner: Runner, outcomes: list[Outcome]) -> None:
        if not done.done():
            done.set_result(outcomes[0])

    runner = Runner.start(spec, on_outcomes=take, confinement=sandbox.confine(spec, limits=limits))
    call = Call(
        lease="probe",
        function=f"{MODULE}:{function}",
        payload=json.dumps([[argument], {}]).encode(),
        timeout_seconds=PROBE_SECONDS,
    )
    runner.send([call])
    try:
        outcome = await done
        if outcome.outcome == "released":
            raise OSError(f"no runner starts: {runner.ended_by}")
        await runner.close()
    finally:
        runner.kill()
        await runner.wait_closed()
        shutil.rmtree(spec.directory, ignore_errors=True)
    return outcome, f"{spec.directory}/:"


def _was_written(path: Path) -> bool:
    was_there = path.exists()
    path.unlink(missing_ok=True)
    return was_there


@contextlib.contextmanager
def _targets(here: Path) -> Iterator[dict[str, Any]]:
    """What probes try to get at, all of it there for the agent."""
    secret, other = here / "secret", here / "other"
    environment = here / "environment"
    name = secrets.token_hex(8)
    secret.write_text("secret")
    secret.chmod(0o600)
    environment.mkdir()
    other.mkdir(mode=0o700)
    (other / "file").write_text("another's")
    with contextlib.ExitStack() as stack:
        abstract = f"\0task-server-{name}"
        service = f"{tempfile.gettempdir()}/task-server-{name}"
        port = stack.enter_context(_listening(socket.AF_INET, ("127.0.0.1", 0))).getsockname()[1]
        stack.enter_context(_listening(socket.AF_UNIX, service))
        stack.enter_context(_listening(socket.AF_UNIX, abstract))
        yield {
            "secret": str(secret),
            "data": str(here),
            "environment": str(environment),
            "other": str(other / "file"),
            "outside": f"{tempfile.gettempdir()}/task-server-probe-{name}",
            "agent": os.getpid(),
            "service": service,
            "abstract": abstract,
            "port": port,
            "processes": PROCESSES,
        }


@contextlib.contextmanager
def _listening(family: int, address: Any) -> Iterator[socket.socket]:
    has_name = family == socket.AF_UNIX and address[0] != "\0"
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        if has_name:
            Path(address).chmod(0o666)  # so that no other user is kept out by its mode
        try:
            yield listener
        finally:
            if has_name:
                Path(address).unlink(missing_ok=True)
