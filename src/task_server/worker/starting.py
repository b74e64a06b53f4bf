"""Starting runners: the folder that each gets, what they share, and what confines them."""

from __future__ import annotations

import itertools
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from task_server.protocol.workers import Limits
from task_server.worker.attempts import RunnerKey
from task_server.worker.calls import Outcome
from task_server.worker.devices import Devices, device_files, thread_variables
from task_server.worker.environments import Environment
from task_server.worker.launch import CHILD, RunnerSpec, compiled_child, share_cloudpickle
from task_server.worker.runners import Runner
from task_server.worker.sandbox.sandbox import Sandbox

log = logging.getLogger(__name__)


class Starter:
    """Starts a worker's runners, each in a folder of its own below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self._children: dict[Path, Path] = {}
        self._cloudpickle: Path | None = None
        self._sandbox: Sandbox | None = None
        self._devices = Devices()

    def use(self, sandbox: Sandbox | None, devices: Devices) -> None:
        """Confine every runner by it; `devices` says how their GPUs are named to them."""
        self._sandbox, self._devices = sandbox, devices

    def open(self) -> None:
        """Remove what an earlier start left, and prepare what runners share."""
        self.close()
        self._directory.mkdir(parents=True)
        self._directory.chmod(0o711)  # runners may be other users, and only get at their own
        shared = self._directory / "shared"
        shared.mkdir()
        self._cloudpickle = share_cloudpickle(shared)

    def told_apart(self, key: RunnerKey) -> RunnerKey:
        """What runners are told apart by: what any has is left out."""
        if key.limits is None or self._sandbox is None:
            return key
        return replace(key, limits=self._sandbox.told_apart(key.limits))

    def start(
        self,
        environment: Environment,
        *,
        limits: Limits | None = None,
        devices: tuple[str, ...] = (),
        on_outcomes: Callable[[Runner, list[Outcome]], None],
        on_exit: Callable[[Runner], None] | None = None,
    ) -> Runner:
        """A runner in that environment. Raises OSError."""
        environment.note_use()
        directory = self._directory / f"runner-{next(self._numbers)}"
        directory.mkdir()
        cpus = limits.cpu if limits is not None else None
        spec = RunnerSpec(
            interpreter=environment.interpreter,
            directory=directory,
            site_packages=environment.site_packages,
            cloudpickle=self._cloudpickle,
            environ=self._devices.variables(devices) | thread_variables(cpus),
            devices=device_files(devices),
            child=self._child(environment.interpreter),
        )
        confinement = None
        if self._sandbox is not None:
            confinement = self._sandbox.confine(spec, self._sandbox.limits_for(limits))
        return Runner.start(spec, on_outcomes=on_outcomes, on_exit=on_exit, confinement=confinement)

    def _child(self, interpreter: Path) -> Path:
        binary = interpreter.resolve()
        if binary not in self._children:
            try:
                child = compiled_child(interpreter, self._directory / "shared")
            except (OSError, subprocess.CalledProcessError) as error:
                log.warning("cannot compile for %s: %s", interpreter, error)
                child = CHILD
            self._children[binary] = child
        return self._children[binary]

    def close(self) -> None:
        """Remove all folders, once the runners are gone."""
        shutil.rmtree(self._directory, ignore_errors=True)
