from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET, Raw, UnsetType

from task_server.protocol.workers import Assignment, Limits
from task_server.worker import process_tree, starting
from task_server.worker import slots as slots_module
from task_server.worker.attempts import Attempt, plain_call
from task_server.worker.calls import CallLimits, Outcome
from task_server.worker.devices import Devices
from task_server.worker.environments import Environment
from task_server.worker.slots import STUCK_SECONDS, Slots

WAIT_SECONDS = 20.0
HERE = Environment("here", Path(sys.executable), None)


def attempt(
    lease: str,
    function: str,
    *args: object,
    owner: str = "1",
    timeout: float = 0,
    isolation: str = "reuse",
    limits: Limits | UnsetType = UNSET,
) -> Attempt:
    assignment = Assignment(
        id=f"task of {lease}",
        lease=lease,
        owner=owner,
        function=function,
        environment="here",
        attempt=1,
        args=Raw(json.dumps(args).encode()),
        timeout_seconds=timeout,
        isolation=isolation,
        limits=limits,
    )
    return Attempt(assignment, call=plain_call(assignment, CallLimits()))


def sleeping(lease: str, seconds: float, owner: str = "1") -> Attempt:
    return attempt(lease, "time:sleep", seconds, owner=owner)


def pid(lease: str, owner: str = "1") -> Attempt:
    return attempt(lease, "os:getpid", owner=owner)


class Table:
    """Slots in a folder, and what comes of what runs on them."""

    def __init__(self, count: int, folder: Path) -> None:
        self.folder = folder
        self.slots = Slots(count, folder, self._on_outcomes, self._on_unfit)
        self.outcomes: dict[str, Outcome] = {}
        self.unfit: list[str] = []
        self._news = asyncio.Event()
        self.slots.open()

    def run(self, *attempts: Attempt, environment: Environment = HERE) -> None:
        self.slots.run([(each, environment) for each in attempts])

    def _on_outcomes(self, ended: list[tuple[Attempt, Outcome]]) -> None:
        for each, outcome in ended:
            assert each.lease not in self.outcomes, "two outcomes of one attempt"
            self.outcomes[each.lease] = outcome
        self._news.set()

    def _on_unfit(self, attempts: list[Attempt]) -> None:
        self.unfit += [each.lease for each in attempts]

    async def until(self, happened: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not happened():
                self._news.clear()
                try:
                    await asyncio.wait_for(self._news.wait(), 0.02)
                except TimeoutError:
                    continue

    async def ended(self, *leases: str) -> list[Any]:
        """The answers of these, once they are there."""
        await self.until(lambda: set(leases) <= self.outcomes.keys())
        return [json.loads(self.outcomes[lease].answer or b"null") for lease in leases]

    async def stuck(self, count: int) -> None:
        await self.until(lambda: self.slots.stuck() >= count)

    def processes(self) -> list[int]:
        return list(process_tree.marked(str(self.folder)))


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[Callable[[int], Table]]:
    made: list[Table] = []

    def make(count: int) -> Table:
        made.append(Table(count, tmp_path / f"table-{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        await each.slots.close()
        assert each.processes() == [] and not each.folder.exists()


async def test_calls_run_side_by_side_and_then_behind_each_other(
    table: Callable[[int], Table],
) -> None:
    made = table(2)
    made.run(*(pid(str(n)) for n in range(40)))

    pids = await made.ended(*map(str, range(40)))

    assert len(set(pids)) == 2 and pids.count(pids[0]) == 20


async def test_a_long_call_keeps_one_slot_and_the_others_go_on(
    table: Callable[[int], Table],
) -> None:
    made = table(2)
    made.run(sleeping("long", 60), *(pid(str(n)) for n in range(20)))

    await made.stuck(1)
    given_back = made.slots.free_up()

    await made.ended(*map(str, range(20)))
    assert given_back == [] and "long" not in made.outcomes


async def test_calls_behind_long_ones_are_given_back(table: Callable[[int], Table]) -> None:
    made = table(2)
    made.run(sleeping("a", 60), sleeping("b", 60), *(pid(str(n)) for n in range(10)))
    before = made.slots.free_up()

    await made.stuck(2)
    given_back = made.slots.free_up()

    assert before == []
    assert {each.lease for each in given_back} == set(map(str, range(10)))
    assert made.slots.free_up() == [] and made.outcomes == {}


async def test_a_call_is_stuck_after_a_moment_only(table: Callable[[int], Table]) -> None:
    made = table(1)
    made.run(pid("warm"))
    await made.ended("warm")
    begun = asyncio.get_running_loop().time()
    made.run(sleeping("long", 60))
    assert made.slots.stuck() == 0

    await made.stuck(1)

    assert asyncio.get_running_loop().time() - begun >= STUCK_SECONDS


async def test_nothing_is_put_behind_a_call_that_is_stuck(table: Callable[[int], Table]) -> None:
    made = table(1)
    made.run(sleeping("long", 1))
    await made.stuck(1)
    made.run(pid("waits"))

    assert made.slots.free_up() == []  # it waits for a slot, not for that runner
    await made.ended("long", "waits")


async def test_owners_never_share_a_process(table: Callable[[int], Table]) -> None:
    made = table(1)
    pids = []
    for number, owner in enumerate("121321"):
        made.run(pid(str(number), owner))
        pids += await made.ended(str(number))

    by_owner = {
        owner: {p for p, o in zip(pids, "121321", strict=True) if o == owner} for owner in "123"
    }
    assert [len(each) for each in by_owner.values()] == [1, 1, 1]  # and each comes back warm
    assert len(set(pids)) == 3


async def test_another_owners_call_waits_for_a_slot(table: Callable[[int], Table]) -> None:
    made = table(1)
    made.run(sleeping("first", 0.3), pid("second", owner="2"), pid("third", owner="3"))

    await made.ended("first", "second", "third")

    assert list(made.outcomes) == ["first", "second", "third"]


async def test_warm_processes_are_not_kept_without_end(table: Callable[[int], Table]) -> None:
    made = table(1)
    for owner in range(12):
        made.run(pid(str(owner), str(owner)))
        await made.ended(str(owner))

    await made.until(lambda: len(made.processes()) <= 1 + slots_module.SPARE_RUNNERS)


async def test_owners_that_take_turns_get_their_warm_processes_again(
    table: Callable[[int], Table],
) -> None:
    made = table(1)
    processes: dict[str, list[int]] = {}

    for number, owner in enumerate("1234516"):
        made.run(pid(str(number), owner))
        processes.setdefault(owner, []).extend(await made.ended(str(number)))

    first, again = processes["1"]
    assert first == again


async def test_what_behind_a_crash_has_not_started_runs_elsewhere(
    table: Callable[[int], Table],
) -> None:
    made = table(1)
    made.run(sleeping("crashes", 60), *(pid(str(n)) for n in range(10)))
    await made.stuck(1)
    (runner,) = made.processes()

    os.kill(runner, signal.SIGKILL)

    pids = await made.ended("crashes", *map(str, range(10)))
    assert made.outcomes["crashes"].outcome == "crashed"
    assert runner not in pids[1:]
    assert {made.outcomes[str(n)].outcome for n in range(10)} == {"succeeded"}


async def test_a_cancelled_call_ends_without_an_outcome(table: Callable[[int], Table]) -> None:
    made = table(1)
    made.run(sleeping("running", 60), pid("behind"), pid("waiting", owner="2"))
    await made.stuck(1)

    made.slots.cancel("waiting")
    made.slots.cancel("running")
    made.slots.cancel("nonsense")

    await made.ended("behind")
    assert list(made.outcomes) == ["behind"]


async def test_what_has_not_started_can_be_taken(table: Callable[[int], Table]) -> None:
    made = table(1)
    made.run(sleeping("running", 0.6), pid("a"), pid("b"), pid("other", owner="2"))
    await made.stuck(1)

    some = made.slots.take_unstarted(["a", "running", "nonsense"])
    rest = made.slots.take_unstarted()

    assert [each.lease for each in some] == ["a"]
    assert {each.lease for each in rest} == {"b", "other"}
    await made.ended("running")
    assert list(made.outcomes) == ["running"]


async def test_a_time_out_frees_the_slot(table: Callable[[int], Table]) -> None:
    made = table(1)
    made.run(attempt("long", "time:sleep", 60, timeout=0.2), pid("next"))

    await made.ended("long", "next")

    error = made.outcomes["long"].error
    assert error is not None and error.kind == "timeout"


async def test_what_no_process_can_be_started_for_is_handed_back(
    table: Callable[[int], Table],
) -> None:
    made = table(1)
    nowhere = Environment("nowhere", Path("/nonexistent/python"), None)
    made.run(pid("a"), pid("b"), environment=nowhere)
    made.run(pid("c"))

    await made.ended("c")

    assert made.unfit == ["a", "b"] and list(made.outcomes) == ["c"]


async def test_an_interpreter_that_cannot_compile_runs_the_source(
    table: Callable[[int], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(interpreter: Path, directory: Path) -> Path:
        raise subprocess.CalledProcessError(-9, [str(interpreter)])

    monkeypatch.setattr(starting, "compiled_child", killed)
    made = table(1)
    made.run(pid("a"))

    await made.ended("a")


async def test_the_call_that_runs_is_told(table: Callable[[int], Table]) -> None:
    made = table(1)
    running, behind = sleeping("running", 60), pid("behind")
    made.run(running, behind)
    await made.stuck(1)

    made.slots.note_running()

    assert (running.phase, behind.phase) == ("running", "leased")


async def test_a_task_that_wants_a_process_of_its_own_gets_one_and_nobody_after_it(
    table: Callable[[int], Table],
) -> None:
    made = table(1)
    made.run(pid("before"))
    [before] = await made.ended("before")

    made.run(*(attempt(name, "os:getpid", isolation="fresh") for name in ("a", "b")))
    fresh = await made.ended("a", "b")
    made.run(pid("after"))
    [after] = await made.ended("after")

    assert len({before, *fresh}) == 3 and after not in fresh
    await made.until(lambda: not any(map(process_tree.is_alive, fresh)))


async def test_tasks_with_other_limits_run_in_another_process(
    table: Callable[[int], Table],
) -> None:
    made = table(2)
    few = Limits(processes=20)

    made.run(pid("a"), attempt("b", "os:getpid", limits=few))
    one, other = await made.ended("a", "b")
    made.run(pid("c"), attempt("d", "os:getpid", limits=few))

    assert await made.ended("c", "d") == [one, other]


async def test_a_runner_that_never_starts_is_not_tried_for_ever(
    table: Callable[[int], Table], tmp_path: Path
) -> None:
    made = table(1)
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such library\nexit 127\n")
    broken.chmod(0o755)

    made.run(pid("a"), pid("b"), environment=Environment("broken", broken, None))

    await made.until(lambda: len(made.unfit) == 2)
    made.run(pid("c"))
    assert await made.ended("c")


# ---- processors and GPUs


def visible(lease: str, gpus: int = 0, owner: str = "1") -> Attempt:
    return attempt(
        lease,
        "os:getenv",
        "CUDA_VISIBLE_DEVICES",
        owner=owner,
        limits=Limits(gpus=gpus) if gpus else UNSET,
    )


def busy(lease: str, gpus: int) -> Attempt:
    return attempt(lease, "time:sleep", 30.0, limits=Limits(gpus=gpus))


async def test_tasks_that_run_side_by_side_have_gpus_of_their_own(
    table: Callable[[int], Table],
) -> None:
    here = table(4)
    here.slots.use(None, Devices(("4", "5", "GPU-x")))
    here.run(busy("a", gpus=1))
    await here.stuck(1)

    here.run(visible("b", gpus=2), visible("c"))

    assert await here.ended("b", "c") == ["5,GPU-x", ""]


async def test_a_warm_runner_keeps_its_gpus_for_the_next_task(
    table: Callable[[int], Table],
) -> None:
    here = table(2)
    here.slots.use(None, Devices(("0", "1")))
    one = Limits(gpus=1)
    here.run(attempt("a", "os:getpid", limits=one))
    (first,) = await here.ended("a")

    here.run(attempt("b", "os:getpid", limits=one), visible("c", gpus=1))
    (second, devices) = await here.ended("b", "c")

    assert second == first and devices in ("0", "1")


async def test_idle_runners_give_up_their_gpus_to_those_who_need_them(
    table: Callable[[int], Table],
) -> None:
    here = table(3)
    here.slots.use(None, Devices(("0", "1")))
    here.run(visible("a", gpus=1), visible("b", gpus=1, owner="2"))
    await here.ended("a", "b")

    here.run(visible("c", gpus=2, owner="3"))

    assert sorted((await here.ended("c"))[0].split(",")) == ["0", "1"]


async def test_a_task_waits_for_a_gpu_that_another_has(table: Callable[[int], Table]) -> None:
    here = table(3)
    here.slots.use(None, Devices(("0",)))
    here.run(busy("a", gpus=1))
    await here.stuck(1)

    here.run(visible("b", gpus=1, owner="2"), visible("c"))

    assert await here.ended("c") == [""]
    assert "b" not in here.outcomes
    here.slots.cancel("a")
    assert await here.ended("b") == ["0"]


async def test_more_gpus_than_there_are_go_back(table: Callable[[int], Table]) -> None:
    here = table(1)
    here.slots.use(None, Devices(("0",)))

    here.run(visible("a", gpus=2))

    assert here.unfit == ["a"]


async def test_a_worker_that_knows_of_no_gpus_hides_none(table: Callable[[int], Table]) -> None:
    here = table(1)

    here.run(visible("a"))

    assert await here.ended("a") == [None]


@pytest.mark.parametrize("cpu,threads", [(None, "1"), (0.5, "1"), (1.0, "1"), (3.7, "3")])
async def test_libraries_start_as_many_threads_as_a_task_has_cores(
    table: Callable[[int], Table], cpu: float | None, threads: str
) -> None:
    here = table(1)

    limits = UNSET if cpu is None else Limits(cpu=cpu)
    here.run(attempt("a", "os:getenv", "OMP_NUM_THREADS", limits=limits))

    assert await here.ended("a") == [threads]


async def test_idle_runners_make_room_for_a_task_that_requires_memory(
    table: Callable[[int], Table],
) -> None:
    here = table(3)
    here.run(pid("a"), pid("b", owner="2"), sleeping("c", 30.0))
    first, second = await here.ended("a", "b")
    await here.stuck(1)

    large = Limits(memory=1 << 30)
    here.run(attempt("d", "os:getpid", limits=large))
    (third,) = await here.ended("d")
    await here.until(lambda: {first, second}.isdisjoint(here.processes()))
    here.run(attempt("e", "os:getpid", limits=large))

    assert await here.ended("e") == [third], "it stays warm for its like"
    assert "c" not in here.outcomes and len(here.processes()) == 2
