"""Real runners for tests: start one, run calls, look at the outcomes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from task_server.settings import WorkerSettings
from task_server.worker.calls import Call, CallLimits, Outcome
from task_server.worker.launch import CHILD, RunnerSpec, share_cloudpickle
from task_server.worker.runners import Runner
from task_server.worker.sandbox.choice import choose, wishes_of
from task_server.worker.sandbox.limits import RunnerLimits
from task_server.worker.sandbox.sandbox import Sandbox
from tests.folders import let_others_enter

WAIT_SECONDS = 20.0
INTERPRETER = Path(sys.executable).resolve()
"""That of the environment of the tests: other users may reach it where they cannot reach that."""


def by_value(module: str) -> ModuleType:
    """Let functions of this test module travel as pickles: runners cannot import it."""
    found = sys.modules[module]
    cloudpickle.register_pickle_by_value(found)
    return found


def call(function: Callable[..., object], *args: object, **options: Any) -> Call:
    """A call of a function of a test."""
    options.setdefault("lease", "lease")
    return Call(
        pickled=cloudpickle.dumps(function),
        encoding="pickle",
        payload=cloudpickle.dumps((args, {})),
        **options,
    )


def named(function: str, *args: object, **options: Any) -> Call:
    """A call of a function by name, with JSON arguments."""
    options.setdefault("lease", "lease")
    return Call(function=function, payload=json.dumps([args, {}]).encode(), **options)


def small(*, answer_bytes: int = 64 << 20, log_bytes: int = 1 << 20) -> CallLimits:
    """Limits of a call."""
    return CallLimits(answer_bytes=answer_bytes, log_bytes=log_bytes)


async def best_sandbox(folder: Path, *, shared: Path, highest: int = 4) -> Sandbox:
    """The best there is on this machine, with a folder where functions leave signs."""
    let_others_enter(folder)
    shared.mkdir(exist_ok=True)
    shared.chmod(0o777)
    settings = WorkerSettings(
        server="http://127.0.0.1", writable=str(shared), slots=2, max_sandbox=highest
    )
    chosen = await choose(wishes_of(settings, folder), interpreter=INTERPRETER, directory=folder)
    return chosen.sandbox


class Bench:
    """Starts runners in a folder, and keeps what they report."""

    def __init__(self, folder: Path, sandbox: Sandbox | None = None) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.runners: list[Runner] = []
        self.outcomes: list[Outcome] = []
        self.exited: list[Runner] = []
        self._news = asyncio.Event()

    def start(
        self,
        *,
        site_packages: Path | None = None,
        interpreter: str = "",
        child: Path = CHILD,
        limits: RunnerLimits | None = None,
    ) -> Runner:
        """A new runner, in the sandbox if the bench has one."""
        spec = RunnerSpec(
            interpreter=Path(interpreter or INTERPRETER),
            directory=self.folder / f"runner-{len(self.runners)}",
            site_packages=site_packages,
            cloudpickle=share_cloudpickle(self.folder / "cloudpickle"),
            child=child,
        )
        runner = Runner.start(
            spec,
            on_outcomes=self._on_outcomes,
            on_exit=self._on_exit,
            confinement=self.sandbox.confine(spec, limits) if self.sandbox is not None else None,
        )
        self.runners.append(runner)
        return runner

    def _on_outcomes(self, runner: Runner, outcomes: list[Outcome]) -> None:
        self.outcomes += outcomes
        self._news.set()

    def _on_exit(self, runner: Runner) -> None:
        self.exited.append(runner)
        self._news.set()

    async def until(self, happened: Callable[[], object]) -> None:
        """Wait until the reports so far make it true."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not happened():
                self._news.clear()
                await self._news.wait()

    async def run(self, runner: Runner, calls: Iterable[Call]) -> list[Outcome]:
        """Run calls and give their outcomes."""
        calls = list(calls)
        before = len(self.outcomes)
        runner.send(calls)
        await self.until(lambda: len(self.outcomes) >= before + len(calls))
        return self.outcomes[before:]

    async def one(self, wanted: Call, *, runner: Runner | None = None) -> Outcome:
        """Run one call; in a runner of its own unless one is given."""
        [outcome] = await self.run(runner or self.start(), [wanted])
        return outcome

    async def started(self, runner: Runner, lease: str) -> None:
        """Wait until that call runs."""
        async with asyncio.timeout(WAIT_SECONDS):
            while runner.started is None or runner.started.lease != lease:  # noqa: ASYNC110 is told to none
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        """End all that is left."""
        for runner in self.runners:
            runner.kill()
            await runner.wait_closed()
