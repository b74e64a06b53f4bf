"""What each level of the sandbox costs: at the start of a runner, and for each call in a warm one.

    python -m bench.sandbox [--starts 40] [--calls 20000]

The levels take turns, so that other work on the machine meets them all alike. A start is counted
from the request for a runner to the answer of its first call.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from msgspec import Struct

from task_server.settings import WorkerSettings
from task_server.worker.calls import Call, CallLimits, Outcome
from task_server.worker.interpreters import pythons
from task_server.worker.launch import RunnerSpec, compiled_child
from task_server.worker.runners import Runner
from task_server.worker.sandbox.choice import SandboxTooWeak, choose, wishes_of
from task_server.worker.sandbox.sandbox import Sandbox

CALLS_AT_ONCE = 200
LIMITS = CallLimits(answer_bytes=1 << 20, log_bytes=1 << 20)


class Course:
    """Starts runners in one sandbox and waits for their answers."""

    def __init__(self, sandbox: Sandbox, folder: Path, interpreter: Path, child: Path) -> None:
        self._sandbox = sandbox
        self._folder = folder
        self._interpreter = interpreter
        self._child = child
        self._left = 0
        self._done = asyncio.Event()

    def start(self) -> Runner:
        """A new runner."""
        directory = Path(tempfile.mkdtemp(prefix="runner-", dir=self._folder))
        spec = RunnerSpec(
            interpreter=self._interpreter, directory=directory, site_packages=None,
            cloudpickle=None, child=self._child,
        )  # fmt: skip
        confinement = self._sandbox.confine(spec)
        return Runner.start(spec, on_outcomes=self._count, confinement=confinement)

    def _count(self, runner: Runner, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.outcome != "succeeded":
                raise RuntimeError(f"a call failed: {outcome.error}")
        self._left -= len(outcomes)
        if self._left <= 0:
            self._done.set()

    async def seconds_of(self, runner: Runner, calls: int) -> float:
        """How long that many calls take."""
        begun = time.perf_counter()
        self._left = calls
        self._done.clear()
        runner.send([_call(str(number)) for number in range(calls)])
        await asyncio.wait_for(self._done.wait(), 60)
        return time.perf_counter() - begun

    async def start_seconds(self) -> tuple[float, float]:
        """From the request for a runner to its first answer; then the processor time of it all.

        That is the agent's and the runner's, until all of it is gone.
        """
        begun, before = time.perf_counter(), _spent_seconds()
        runner = self.start()
        await self.seconds_of(runner, 1)
        took = time.perf_counter() - begun
        await runner.close()  # so that each process waits for those below, and their time counts
        return took, _spent_seconds() - before


def _spent_seconds() -> float:
    """Processor time of this process and of all below it that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _call(lease: str) -> Call:
    return Call(
        lease=lease, function="len", module=None, package=None, payload=b'[["abc"],{}]',
        result_encoding="json", timeout_seconds=60, limits=LIMITS,
    )  # fmt: skip


class Cost(Struct, frozen=True):
    """Of one level; medians in seconds."""

    name: str
    start: float
    spent: float
    """Of processor time, on a start and its end."""
    call: float
    """Of the runner's processor time, which other work on the machine does not add to."""
    turn: float
    """From sending many calls at once to the last answer, by the number of calls."""


def processor_seconds(runner: Runner) -> float:
    """What the process that runs functions has used."""
    pid = runner.confinement.runner(runner.pid)
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def courses(folder: Path) -> dict[str, Course]:
    """One for each level that this machine holds, the lowest first."""
    interpreter = next(iter(pythons().values()))
    child = compiled_child(interpreter, folder)
    found: dict[str, Course] = {}
    for highest in range(5):
        place = folder / f"level-{highest}"
        place.mkdir()
        settings = WorkerSettings(server="http://127.0.0.1", max_sandbox=highest)
        chosen = await choose(wishes_of(settings, place), interpreter=interpreter, directory=place)
        layers = chosen.examined.layers
        name = f"{layers.level} {layers.name}" if highest else "0 process, own user"
        found.setdefault(name, Course(chosen.sandbox, place, interpreter, child))
    return found


async def measure(starts: int, calls: int) -> list[Cost]:
    """The medians of each level."""
    with tempfile.TemporaryDirectory(prefix="task-server-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        by_level = await courses(folder)
        starts_of: dict[str, list[tuple[float, float]]] = {level: [] for level in by_level}
        for _ in range(starts):
            for level, course in by_level.items():
                starts_of[level].append(await course.start_seconds())
        warm = await _warm(by_level, max(calls // CALLS_AT_ONCE, 1))
        return [_cost(level, starts_of[level], warm[level]) for level in by_level]


def _cost(name: str, starts: Sequence[tuple[float, float]], warm: tuple[float, float]) -> Cost:
    start, spent = (median(each) for each in zip(*starts, strict=True))
    return Cost(name, start, spent, *warm)


async def _warm(by_level: dict[str, Course], rounds: int) -> dict[str, tuple[float, float]]:
    """Processor time and time of a call in a runner that is warm, by level."""
    runners = {level: course.start() for level, course in by_level.items()}
    calls: dict[str, list[float]] = {level: [] for level in by_level}
    turns: dict[str, list[float]] = {level: [] for level in by_level}
    for level, course in by_level.items():
        await course.seconds_of(runners[level], CALLS_AT_ONCE)
    for _ in range(rounds):
        for level, course in by_level.items():
            before = processor_seconds(runners[level])
            turns[level].append(await course.seconds_of(runners[level], CALLS_AT_ONCE))
            calls[level].append(processor_seconds(runners[level]) - before)
    for runner in runners.values():
        runner.kill()
        await runner.wait_closed()
    return {
        level: (median(calls[level]) / CALLS_AT_ONCE, median(turns[level]) / CALLS_AT_ONCE)
        for level in by_level
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sandbox")
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--calls", type=int, default=20_000)
    options = parser.parse_args(arguments)
    try:
        costs = asyncio.run(measure(options.starts, options.calls))
    except SandboxTooWeak as error:
        print(error, file=sys.stderr)
        return 1
    least = costs[0]
    width = max(len(cost.name) for cost in costs)
    for cost in costs:
        more = (cost.start - least.start) * 1000
        spent = (cost.spent - least.spent) * 1000
        print(
            f"{cost.name:{width}}  start {cost.start * 1000:6.1f} ms ({more:+.1f})"
            f"  processor time of it {cost.spent * 1000:6.1f} ms ({spent:+.1f})"
            f"  processor time of a call {cost.call * 1e6:6.1f} us (x {cost.call / least.call:.3f})"
            f"  turn {cost.turn * 1e6:6.1f} us"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
