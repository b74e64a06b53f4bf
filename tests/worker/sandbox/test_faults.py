"""Functions that mean harm, in the best sandbox of this machine and in the least."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from task_server.worker import process_tree
from task_server.worker.calls import Outcome
from task_server.worker.runners import Runner
from task_server.worker.sandbox.cgroups import Group
from task_server.worker.sandbox.limits import RunnerLimits
from tests.worker.running import Bench, best_sandbox, by_value, call, named

by_value(__name__)

pytestmark = pytest.mark.e2e

MEMORY = 256 << 20
SOON_SECONDS = 10.0
"""By far more than it takes, since other tests may need the machine too."""


@pytest.fixture(params=[4, 0], ids=["best", "least"])
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    shared = tmp_path / "shared"
    sandbox = await best_sandbox(tmp_path, shared=shared, highest=request.param)
    made = Bench(tmp_path, sandbox)
    yield made
    await made.close()
    assert list(process_tree.marked(str(tmp_path))) == []
    assert list(tmp_path.glob("runner-*")) == [], "folders go with their runners"


def limits(bench: Bench, **values: int) -> RunnerLimits:
    assert bench.sandbox is not None
    return msgspec.structs.replace(bench.sandbox.policy.limits, **values)


def level(bench: Bench) -> int:
    assert bench.sandbox is not None
    return bench.sandbox.layers.level


# --- too much -----------------------------------------------------------------------------------


def take_memory(size_bytes: int) -> int:
    held = bytearray(size_bytes)
    for at in range(0, size_bytes, 4096):
        held[at] = 1
    time.sleep(1)
    return len(held)


async def test_a_function_that_takes_too_much_memory_fails_and_tells_its_peak(
    bench: Bench,
) -> None:
    greedy = bench.start(limits=limits(bench, memory_bytes=MEMORY))
    other = bench.start()
    await bench.one(call(os.getpid), runner=other)

    # In its address space there is room: what it really takes is counted.
    outcome = await bench.one(call(take_memory, MEMORY * 3 // 2), runner=greedy)

    assert outcome.error is not None and outcome.error.kind == "out_of_memory"
    assert outcome.outcome == "failed" and outcome.usage is not None
    assert MEMORY * 0.8 < outcome.usage.peak_bytes < MEMORY * 2
    assert other.is_open and (await bench.one(call(len, "abc"), runner=other)).answer == b"3"


async def test_a_call_does_not_have_the_peak_of_one_before_it(bench: Bench) -> None:
    runner = bench.start()

    much, little = await bench.run(runner, [call(bytearray, 200 << 20), call(len, "abc")])

    assert much.usage and little.usage
    assert little.usage.peak_bytes < much.usage.peak_bytes - (100 << 20)


async def test_memory_that_a_function_did_not_get_is_a_failure_of_the_same_kind(
    bench: Bench,
) -> None:
    runner = bench.start(limits=limits(bench, memory_bytes=MEMORY))

    outcome = await bench.one(named("bytes", 1 << 46), runner=runner)

    assert outcome.error is not None and outcome.error.kind == "out_of_memory"
    assert runner.is_open


def fork_until_stopped(limit: int) -> int:
    """How many processes there may be; they are left behind."""
    for count in range(limit):
        try:
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
                os._exit(0)
        except BlockingIOError:
            return count
    return limit


def start_threads(limit: int) -> int:
    for count in range(limit):
        try:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        except RuntimeError:
            return count
    return limit


async def test_a_thousand_processes_or_threads_are_too_many_and_none_is_left(bench: Bench) -> None:
    if os.geteuid() != 0 and level(bench) < 4:
        pytest.skip("the kernel counts this user's other processes too")
    runner = bench.start(limits=limits(bench, processes=64))

    forked = await bench.one(call(fork_until_stopped, 1000), runner=runner)
    await bench.one(call(os.getpid), runner=runner)  # it starts when all else is gone
    left = process_tree.descendants(runner.confinement.runner(runner.pid))
    threads = await bench.one(call(start_threads, 1000), runner=runner)

    assert 32 < msgspec.json.decode(forked.answer, type=int) <= 64 and left == []
    assert 32 < msgspec.json.decode(threads.answer, type=int) <= 64


def fill(path: str, size_bytes: int) -> int:
    written = 0
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:  # noqa: PTH123
        while written < size_bytes:
            written += file.write(bytes(1 << 20))
    return written


async def test_a_file_grows_no_larger_than_allowed(bench: Bench) -> None:
    runner = bench.start(limits=limits(bench, file_bytes=8 << 20))

    outcome = await bench.one(call(fill, "large", 32 << 20), runner=runner)

    assert outcome.answer == str(8 << 20).encode()
    assert (await bench.one(call(os.listdir, "."), runner=runner)).answer == b"[]"


def bomb(kind: str) -> None:
    with contextlib.suppress(BaseException):
        if kind == "memory":
            take_memory(4 * MEMORY)
        while kind == "disk":
            fill(f"file-{time.monotonic_ns()}", 8 << 20)
            time.sleep(0.05)
        while kind == "fork":
            with contextlib.suppress(OSError):
                os.fork()
            time.sleep(0.01)
    time.sleep(600)


async def test_bombs_of_all_kinds_at_once_leave_others_alone(bench: Bench) -> None:
    few = limits(bench, memory_bytes=MEMORY, processes=64, file_bytes=8 << 20)
    runners = [bench.start(limits=few) for _ in range(3)]
    other = bench.start()
    await bench.one(call(os.getpid, lease="warm"), runner=other)
    for runner, kind in zip(runners, ("memory", "fork", "disk"), strict=True):
        runner.send([call(bomb, kind, lease=kind, timeout_seconds=3)])

    took = []
    for turn in range(10):
        begun = time.monotonic()
        await one_of(bench, other, f"probe {turn}")
        took.append(time.monotonic() - begun)
        await asyncio.sleep(0.2)

    await bench.until(lambda: len(ended(bench)) == 3)
    assert max(took) < SOON_SECONDS / 2
    kinds = {outcome.error.kind for outcome in ended(bench) if outcome.error is not None}
    assert kinds <= {"timeout", "out_of_memory", "lost"}
    assert other.is_open


async def one_of(bench: Bench, runner: Runner, lease: str) -> None:
    runner.send([call(len, "abc", lease=lease)])
    await bench.until(lambda: any(each.lease == lease for each in bench.outcomes))


def ended(bench: Bench) -> list[Outcome]:
    return [each for each in bench.outcomes if each.lease in ("memory", "fork", "disk")]


# --- what is not theirs -------------------------------------------------------------------------


def spoil(paths: list[str]) -> list[str]:
    """What could be written, removed or renamed of these."""
    acts: dict[str, Callable[[Path], object]] = {
        "written": lambda path: path.write_text("spoilt"),
        "removed": lambda path: path.unlink(),
        "renamed": lambda path: path.rename(f"{path}.gone"),
    }
    done = []
    for path in map(Path, paths):
        for name, act in acts.items():
            try:
                act(path)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
                    raise
            else:
                done.append(f"{path} {name}")
    return done


async def test_environment_and_others_folders_stay_as_they_are(
    bench: Bench, tmp_path: Path
) -> None:
    if level(bench) == 0 and os.geteuid() != 0:
        pytest.skip("at level 0 a function has what its user has")
    packages = tmp_path / "environment" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "module.py").write_text("value = 1\n")
    other = bench.start()
    await bench.one(call(os.getpid), runner=other)
    theirs = bench.folder / "runner-0" / "note"
    theirs.write_text("theirs")
    runner = bench.start(site_packages=packages)

    outcome = await bench.one(
        call(spoil, [str(packages / "module.py"), str(theirs)]), runner=runner
    )

    assert outcome.answer == b"[]", outcome.error
    assert (packages / "module.py").read_text() == "value = 1\n"
    assert theirs.read_text() == "theirs"


async def test_a_runner_that_cannot_enter_its_group_takes_no_calls(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bench.sandbox is None or not bench.sandbox.layers.cgroup:
        pytest.skip("no control groups here")
    monkeypatch.setattr(Group, "entrances", ["/nowhere/tasks"])

    runner = bench.start()
    outcome = await bench.one(named("len", "abc"), runner=runner)

    assert outcome.outcome == "released"
    assert "/nowhere/tasks" in runner.ended_by and not runner.is_ready


# --- the way a runner ends ----------------------------------------------------------------------


def agent_that_dies(folder: Path) -> str:
    return f"""
import asyncio, os
from pathlib import Path
from tests.worker.running import Bench, best_sandbox, named

async def main():
    folder = Path({str(folder)!r})
    bench = Bench(folder, await best_sandbox(folder, shared=folder / "shared"))
    runner = bench.start()
    runner.send([named("time.sleep", 60, lease="a")])
    await bench.started(runner, "a")
    print(runner.pid, runner.confinement.runner(runner.pid), flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_a_runner_in_the_sandbox_ends_with_its_agent(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]

    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", agent_that_dies(tmp_path)),
        env={**os.environ, "PYTHONPATH": f"{root}/src:{root}"},
        stdout=subprocess.PIPE,
    )
    told, _ = await agent.communicate()

    assert agent.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in told.split()]
    async with asyncio.timeout(SOON_SECONDS):
        while any(map(process_tree.is_alive, pids)):  # noqa: ASYNC110 the kernel tells nobody
            await asyncio.sleep(0.02)


async def test_the_process_that_runs_functions_is_killed(bench: Bench) -> None:
    runner = bench.start()
    runner.send([named("time.sleep", 60, lease="a"), named("time.sleep", 60, lease="b")])
    await bench.started(runner, "a")

    os.kill(runner.confinement.runner(runner.pid), signal.SIGKILL)

    await bench.until(lambda: len(bench.outcomes) == 2)
    first, second = bench.outcomes
    assert first.error is not None and "signal 9" in first.error.message
    assert (first.outcome, second.outcome) == ("crashed", "released")
