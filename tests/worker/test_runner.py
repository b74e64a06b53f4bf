"""The agent's handle of a runner, with real processes that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from task_server.worker import process_tree
from task_server.worker.calls import AnswerReader, Malformed, Outcome
from task_server.worker.runners import Runner
from tests.worker.running import Bench, best_sandbox, by_value, call, named, small

by_value(__name__)

KILLED_WITHIN_SECONDS = 1.0


@pytest.fixture(params=["bare", "sandboxed"])
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    shared = tmp_path / "shared"
    shared.mkdir()
    is_bare = request.param == "bare"
    sandbox = None if is_bare else await best_sandbox(tmp_path, shared=shared)
    made = Bench(tmp_path, sandbox)
    yield made
    await made.close()
    assert strays(tmp_path) == []


def seen_pid(runner: Runner) -> int:
    """What a function sees as its own process id."""
    status = Path(f"/proc/{runner.confinement.runner(runner.pid)}/status").read_text()
    return int(status.partition("NSpid:")[2].partition("\n")[0].split()[-1])


def strays(folder: Path) -> list[int]:
    """Processes that the runners of a test have left."""
    return list(process_tree.marked(str(folder)))


def open_files() -> set[str]:
    """Targets of this process's descriptors."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{link.name} {link.readlink()}")
        except OSError:
            continue
    return found


def log_size(runner: Runner) -> int:
    """Bytes in the file behind the runner's stdout; 0 when it is gone."""
    try:
        return Path(f"/proc/{runner.pid}/fd/1").stat().st_size
    except OSError:
        return 0


def kinds(outcomes: Iterable[Outcome]) -> list[tuple[str, str, str | None]]:
    return [(o.lease, o.outcome, o.error.kind if o.error else None) for o in outcomes]


def value(outcome: Outcome) -> Any:
    assert outcome.outcome == "succeeded", outcome
    return msgspec.json.decode(outcome.answer)


def pid() -> int:
    return os.getpid()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


# --- running ------------------------------------------------------------------------------------


async def test_calls_run_in_order_in_one_process(bench: Bench) -> None:
    runner = bench.start()

    outcomes = await bench.run(runner, [call(pid, lease=str(n)) for n in range(1000)])

    assert [outcome.lease for outcome in outcomes] == [str(n) for n in range(1000)]
    assert {value(outcome) for outcome in outcomes} == {seen_pid(runner)}
    assert runner.calls_done == 1000
    assert runner.pending == 0
    assert runner.started is None


async def test_a_runner_starts_without_modules_that_take_long_to_import(bench: Bench) -> None:
    slow = ["typing", "dataclasses", "pathlib", "inspect", "subprocess"]

    outcomes = await bench.run(
        bench.start(), [named("sys:modules.__contains__", name, lease=name) for name in slow]
    )

    assert {outcome.lease: value(outcome) for outcome in outcomes} == dict.fromkeys(slow, False)


async def test_arguments_larger_than_any_buffer_arrive(bench: Bench) -> None:
    calls = [call(len, bytes(5_000_000), lease=str(n)) for n in range(10)]

    outcomes = await bench.run(bench.start(), calls)

    assert {value(outcome) for outcome in outcomes} == {5_000_000}


async def test_the_call_that_runs_is_known(bench: Bench) -> None:
    runner = bench.start()
    began_at = asyncio.get_running_loop().time()

    runner.send([call(sleep, 5, lease="a"), call(sleep, 5, lease="b")])
    await bench.started(runner, "a")

    assert runner.started is not None
    assert began_at <= runner.started.since <= asyncio.get_running_loop().time()
    assert runner.pending == 2


async def test_an_interpreter_that_is_not_there_is_an_error_at_start(bench: Bench) -> None:
    before = open_files()

    with pytest.raises(OSError, match="no-python"):
        bench.start(interpreter="/no-python")

    assert open_files() == before


async def test_an_interpreter_that_fails_at_start_releases_its_calls(bench: Bench) -> None:
    runner = bench.start(interpreter="/bin/false")

    outcome = await bench.one(named("len", []), runner=runner)
    await runner.wait_closed()

    assert outcome.outcome == "released"
    assert not runner.is_ready
    assert runner.ended_by == "the runner exited with status 1"


# --- taking back --------------------------------------------------------------------------------


async def test_calls_that_have_not_started_can_be_taken_back(bench: Bench) -> None:
    runner = bench.start()
    runner.send([call(sleep, 0.3, lease="runs")])
    runner.send([call(pid, lease=str(n)) for n in range(500)])
    await bench.started(runner, "runs")

    last = runner.take_back(400)
    some = runner.take_back(["runs", "3", "5", "no such lease"])
    await bench.until(lambda: len(bench.outcomes) == 99)

    assert last == [str(n) for n in range(100, 500)]
    assert some == ["3", "5"]
    wanted = ["runs", *(str(n) for n in range(100) if n not in (3, 5))]
    assert [outcome.lease for outcome in bench.outcomes] == wanted
    assert {outcome.outcome for outcome in bench.outcomes} == {"succeeded"}


async def test_a_runner_goes_on_after_all_was_taken_back(bench: Bench) -> None:
    runner = bench.start()
    runner.send([call(sleep, 0.3, lease="runs")])
    await bench.started(runner, "runs")
    for n in range(20):
        runner.send([call(pid, lease=f"{n}-{m}") for m in range(100)])
        assert len(runner.take_back(100)) == 100

    await bench.run(runner, [call(pid, lease="after")])
    await bench.until(lambda: len(bench.outcomes) == 2)

    assert [outcome.lease for outcome in bench.outcomes] == ["runs", "after"]


async def test_taking_back_while_calls_run_loses_and_doubles_none(bench: Bench) -> None:
    runner = bench.start()
    leases = [str(n) for n in range(3000)]
    taken: list[str] = []

    for start in range(0, 3000, 100):
        runner.send([call(pid, lease=lease) for lease in leases[start : start + 100]])
        taken += runner.take_back(30)
        await asyncio.sleep(0.001)
    await bench.until(lambda: len(bench.outcomes) + len(taken) == 3000)

    assert sorted([*taken, *(outcome.lease for outcome in bench.outcomes)], key=int) == leases
    assert taken


async def test_a_cancelled_call_that_has_not_started_is_dropped(bench: Bench) -> None:
    runner = bench.start()
    runner.send([call(sleep, 0.2, lease="a"), call(pid, lease="b"), call(pid, lease="c")])
    await bench.started(runner, "a")

    runner.cancel("b")
    await bench.until(lambda: len(bench.outcomes) == 2)

    assert kinds(bench.outcomes) == [("a", "succeeded", None), ("c", "succeeded", None)]


async def test_a_cancelled_call_that_runs_ends_with_its_runner_and_no_outcome(
    bench: Bench,
) -> None:
    runner = bench.start()
    runner.send([call(sleep, 60, lease="a"), call(pid, lease="b"), call(pid, lease="c")])
    await bench.started(runner, "a")

    runner.cancel("a")
    await runner.wait_closed()

    assert kinds(bench.outcomes) == [("b", "released", None), ("c", "released", None)]
    assert bench.exited == [runner]


# --- time ---------------------------------------------------------------------------------------


def hold_the_gil(seconds: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.PyDLL(None).sleep(seconds)


@pytest.mark.parametrize("function", [sleep, hold_the_gil])
async def test_a_call_over_its_time_is_ended_on_time(bench: Bench, function: Any) -> None:
    runner = bench.start()
    await bench.run(runner, [call(pid, lease="warm")])
    began_at = time.monotonic()

    wanted = [
        call(
            function,
            60,
            lease="slow",
            timeout_seconds=0.5,
            timeout_why="3 times 0.1 s",
            limits=small(),
        ),
        call(pid, lease="next"),
    ]
    outcomes = await bench.run(runner, wanted)

    assert 0.5 <= time.monotonic() - began_at < 0.5 + KILLED_WITHIN_SECONDS
    assert kinds(outcomes) == [("slow", "failed", "timeout"), ("next", "released", None)]
    assert outcomes[0].error is not None
    assert outcomes[0].error.message == "timed out after 0.5 s, 3 times 0.1 s"
    assert outcomes[0].usage is not None
    assert 0.5 <= outcomes[0].usage.run_seconds < 1.5


async def test_an_import_over_its_time_is_ended_on_time(bench: Bench, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "hang.py").write_text("import time\ntime.sleep(60)\n")
    runner = bench.start(site_packages=packages)
    await bench.run(runner, [named("os.getpid", lease="warm")])
    began_at = time.monotonic()

    outcome = await bench.one(named("hang:f", timeout_seconds=0.5), runner=runner)

    assert 0.5 <= time.monotonic() - began_at < 0.5 + KILLED_WITHIN_SECONDS
    assert outcome.error is not None and outcome.error.kind == "timeout"


async def test_time_counts_from_when_a_call_really_starts(bench: Bench) -> None:
    runner = bench.start()
    calls = [call(sleep, 0.2, lease=str(n), timeout_seconds=0.9) for n in range(5)]

    outcomes = await bench.run(runner, calls)

    assert {outcome.outcome for outcome in outcomes} == {"succeeded"}


# --- ends ---------------------------------------------------------------------------------------


def end(how: str) -> None:
    sys.stdout.write("last words\n")
    if how == "exit 0":
        os._exit(0)
    if how == "exit 3":
        os._exit(3)
    if how == "abort":
        os.abort()
    if how == "segfault":
        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "close":
        os.closerange(0, 1000)


ENDS = [
    ("exit 0", "the runner exited with status 0 without an answer", 0),
    ("exit 3", "the runner exited with status 3", 3),
    ("abort", "the runner was killed by signal 6 (SIGABRT)", -6),
    ("segfault", "the runner was killed by signal 11 (SIGSEGV)", -11),
    ("kill", "the runner was killed by signal 9 (SIGKILL)", -9),
    ("close", "the runner exited with status 1", 1),
]


@pytest.mark.parametrize(("how", "message", "exit"), ENDS, ids=[case[0] for case in ENDS])
async def test_a_runner_that_ends_is_named_with_its_status(
    bench: Bench, how: str, message: str, exit: int
) -> None:
    runner = bench.start()
    await bench.run(runner, [call(pid, lease="warm")])
    began_at = time.monotonic()

    outcomes = await bench.run(runner, [call(end, how, lease="a"), call(pid, lease="b")])

    assert time.monotonic() - began_at < KILLED_WITHIN_SECONDS
    assert kinds(outcomes) == [("a", "crashed", "lost"), ("b", "released", None)]
    assert outcomes[0].error is not None
    assert (outcomes[0].error.message, outcomes[0].error.exit) == (message, exit)
    assert outcomes[0].log.startswith(b"last words\n")
    assert not runner.is_open


async def test_where_it_crashed_stands_in_the_log(bench: Bench) -> None:
    outcome = await bench.one(call(end, "segfault"))

    assert b"Segmentation fault" in outcome.log
    assert b"in end" in outcome.log


async def test_a_runner_killed_from_outside_fails_its_call_at_once(bench: Bench) -> None:
    runner = bench.start()
    runner.send([call(sleep, 60, lease="a")])
    await bench.started(runner, "a")
    began_at = time.monotonic()

    os.kill(runner.pid, signal.SIGKILL)
    await bench.until(lambda: bench.outcomes)

    assert time.monotonic() - began_at < KILLED_WITHIN_SECONDS
    assert kinds(bench.outcomes) == [("a", "crashed", "lost")]


async def test_a_call_sent_to_a_runner_that_is_gone_is_released(bench: Bench) -> None:
    runner = bench.start()
    await bench.run(runner, [call(end, "exit 3", lease="a")])
    await runner.wait_closed()

    outcome = await bench.one(call(pid, lease="late"), runner=runner)

    assert (outcome.lease, outcome.outcome) == ("late", "released")


async def test_closing_lets_the_running_call_end_and_releases_the_rest(bench: Bench) -> None:
    runner = bench.start()
    runner.send([call(sleep, 0.3, lease="a"), call(pid, lease="b")])
    await bench.started(runner, "a")

    await runner.close()

    assert kinds(bench.outcomes) == [("b", "released", None), ("a", "succeeded", None)]
    assert runner.ended_by == "the runner was closed"


async def test_closing_does_not_wait_for_long(bench: Bench) -> None:
    runner = bench.start()
    runner.send([call(sleep, 60, lease="a")])
    await bench.started(runner, "a")

    await runner.close(grace_seconds=0.1)

    assert bench.outcomes == []
    assert bench.exited == [runner]


async def test_many_runners_leave_no_descriptor_and_no_zombie(bench: Bench) -> None:
    await bench.one(call(pid))
    await bench.close()
    before = open_files()
    others = children()

    for _ in range(5):
        runner = bench.start()
        await bench.one(call(pid), runner=runner)
        await runner.close()
        runner = bench.start()
        runner.kill()
        await runner.wait_closed()

    assert open_files() == before
    assert children() == others  # a zombie would be one too


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def agent_that_dies(folder: str) -> str:
    return f"""
import asyncio, os, sys
from pathlib import Path
from task_server.worker.calls import Call
from task_server.worker.launch import RunnerSpec
from task_server.worker.runners import Runner

async def main():
    spec = RunnerSpec(interpreter=Path(sys.executable), directory=Path({folder!r}))
    runner = Runner.start(spec, on_outcomes=print)
    runner.send([Call(lease="a", function="time.sleep", payload=b"[[60], {{}}]")])
    while runner.started is None:
        await asyncio.sleep(0.01)
    print(runner.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_a_runner_ends_with_its_agent(tmp_path: Path) -> None:
    source = Path(process_tree.__file__).parents[2]

    agent = subprocess.run(
        [sys.executable, "-c", agent_that_dies(str(tmp_path))],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        check=False,
    )
    await asyncio.sleep(0.2)

    assert agent.returncode == -9
    assert not process_tree.is_alive(int(agent.stdout))


# --- what functions start -----------------------------------------------------------------------


def daemonise(result: int) -> int:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    time.sleep(0.05)
    return result


def fork_many(count: int) -> int:
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    for _ in range(50):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return count


def fork_and_return() -> int:
    os.fork()
    return os.getpid()


def fork_and_raise() -> None:
    os.fork()
    raise ValueError(str(os.getpid()))


def daemonise_and_die() -> None:
    daemonise(1)
    os.kill(os.getpid(), signal.SIGKILL)


async def test_what_a_call_leaves_running_is_ended_before_the_next(
    bench: Bench, tmp_path: Path
) -> None:
    runner = bench.start()

    outcomes = await bench.run(
        runner, [call(daemonise, 1), call(fork_many, 100), call(daemonise, 3), call(pid)]
    )

    assert [value(outcome) for outcome in outcomes] == [1, 100, 3, seen_pid(runner)]
    inner = runner.confinement.runner(runner.pid)
    assert process_tree.descendants(inner) == [] and inner in strays(tmp_path)
    assert runner.is_open


@pytest.mark.parametrize("function", [fork_and_return, fork_and_raise])
async def test_only_the_runner_itself_answers(bench: Bench, function: Any) -> None:
    runner = bench.start()

    first, second = await bench.run(runner, [call(function), call(pid)])

    assert value(second) == seen_pid(runner)
    assert str(seen_pid(runner)) in str(first.answer) + str(first.error)


async def test_a_crash_ends_what_left_the_session_too(bench: Bench, tmp_path: Path) -> None:
    runner = bench.start()

    outcome = await bench.one(call(daemonise_and_die), runner=runner)
    await runner.wait_closed()

    assert outcome.outcome == "crashed"
    assert strays(tmp_path) == []


def daemonise_and_hang() -> None:
    daemonise(1)
    time.sleep(600)


async def test_a_time_out_ends_the_whole_tree(bench: Bench, tmp_path: Path) -> None:
    runner = bench.start()

    outcome = await bench.one(call(daemonise_and_hang, timeout_seconds=0.5), runner=runner)

    assert kinds([outcome]) == [("lease", "failed", "timeout")]
    assert strays(tmp_path) == []


def fork_bomb() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    until = time.monotonic() + 20
    with contextlib.suppress(BlockingIOError):
        for _ in range(6):
            os.fork()
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):  # it has as many as it may
            if not os.fork():
                os._exit(0)
        time.sleep(0.01)


async def test_processes_that_keep_forking_are_ended(bench: Bench, tmp_path: Path) -> None:
    outcome = await bench.one(call(fork_bomb, timeout_seconds=1))

    assert kinds([outcome]) == [("lease", "failed", "timeout")]
    assert strays(tmp_path) == []


# --- the private socket -------------------------------------------------------------------------


def sockets() -> list[int]:
    """Descriptors of this process's sockets."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            if str(link.readlink()).startswith("socket:"):
                found.append(int(link.name))
        except OSError:
            continue
    return found


def close_sockets() -> None:
    for number in sockets():
        os.close(number)


def cover_sockets() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for number in sockets():
        os.dup2(null, number)


def write_to_sockets(data: bytes) -> int:
    for number in sockets():
        os.write(number, data)
    time.sleep(0.1)
    return 1


@pytest.mark.parametrize("function", [close_sockets, cover_sockets])
async def test_a_function_that_takes_the_socket_away_fails_and_does_not_hang(
    bench: Bench, function: Any
) -> None:
    outcomes = await bench.run(bench.start(), [call(function, lease="a"), call(pid, lease="b")])

    assert kinds(outcomes) == [("a", "crashed", "lost"), ("b", "released", None)]


async def test_a_function_that_takes_the_socket_away_and_goes_on_is_ended(bench: Bench) -> None:
    def close_and_sleep() -> None:
        close_sockets()
        time.sleep(60)

    outcome = await bench.one(call(close_and_sleep))

    assert outcome.error is not None
    assert outcome.error.message == "the runner closed its connection"


def frame(header: bytes, payload: bytes = b"") -> bytes:
    return len(header).to_bytes(4, "big") + len(payload).to_bytes(8, "big") + header + payload


GARBAGE = [
    b"\xff" * 100,
    frame(b"no json"),
    frame(b'{"nonce": 1}'),
    frame(b"[]"),
    b"\x00\x00\x00\x10" + b"\x7f" * 20,
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
async def test_bytes_that_are_no_frame_are_a_crash(bench: Bench, data: bytes) -> None:
    outcomes = await bench.run(
        bench.start(), [call(write_to_sockets, data, lease="a"), call(pid, lease="b")]
    )

    assert kinds(outcomes) == [("a", "crashed", "lost"), ("b", "released", None)]


async def test_a_frame_with_another_nonce_answers_nothing(bench: Bench) -> None:
    forged = frame(b'[1,0,0,0,0,0,0,false,null,"json",1]', b"9")

    outcome = await bench.one(call(write_to_sockets, forged))

    assert value(outcome) == 1


def test_a_frame_that_comes_byte_by_byte_is_read() -> None:
    reader = AnswerReader()
    data = frame(b'[7,0,0,0,0,0,0,false,null,"json",1]', b"9") * 2

    found = [item for byte in data for item in reader.feed(bytes([byte]), limit=10)]

    assert [(header.nonce, payload) for header, payload in found] == [(7, b"9"), (7, b"9")]


def test_a_frame_over_the_limit_is_refused_before_it_came() -> None:
    head = (10).to_bytes(4, "big") + (21).to_bytes(8, "big")

    with pytest.raises(Malformed):
        list(AnswerReader().feed(head, limit=10))


# --- logs ---------------------------------------------------------------------------------------


def say(text: str) -> None:
    sys.stdout.write(text)


def say_in_c(text: str) -> None:
    ctypes.CDLL(None).printf(text.encode())


async def test_each_call_gets_what_it_printed(bench: Bench) -> None:
    wanted = [call(say, f"<{n}>") if n % 3 else call(pid) for n in range(300)]

    outcomes = await bench.run(bench.start(), wanted)

    assert [outcome.log for outcome in outcomes] == [
        f"<{n}>".encode() if n % 3 else b"" for n in range(300)
    ]


async def test_what_c_code_prints_is_in_the_log_too(bench: Bench) -> None:
    outcome = await bench.one(call(say_in_c, "from C"))

    assert outcome.log == b"from C"


def run_echo() -> None:
    subprocess.run(["echo", "from a child"], check=True)


async def test_what_children_print_is_in_the_log_too(bench: Bench) -> None:
    outcome = await bench.one(call(run_echo))

    assert outcome.log == b"from a child\n"


def print_binary(size: int) -> str:
    os.write(1, b"\x00\xff" * 10)
    line = b"y" * 99 + b"\n"
    os.write(1, b"first\n")
    for _ in range(size // 1_000_000):
        os.write(1, line * 10_000)
    os.write(2, b"last\n")
    return "intact"


@pytest.mark.parametrize("size", [3_000_000, 1_000_000_000], ids=["3 MB", "1 GB"])
async def test_a_long_log_is_cut_in_the_middle_and_the_answer_is_intact(
    bench: Bench, size: int
) -> None:
    most = 1 << 20

    outcome = await bench.one(call(print_binary, size, limits=small(log_bytes=most)))

    assert value(outcome) == "intact"
    assert outcome.log.startswith(b"\x00\xff" * 10 + b"first\n")
    assert outcome.log.endswith(b"y\nlast\n")
    head, _, rest = outcome.log.partition(b"\n[... at least ")
    cut, _, tail = rest.partition(b" bytes cut ...]\n")
    assert len(head) + len(tail) == most
    assert 0.9 * size < len(head) + len(tail) + int(cut) <= size + 20 + 6 + 5


def flood() -> None:
    while True:
        os.write(1, b"z" * 1_000_000)


async def test_the_disk_is_not_filled_by_a_call_that_never_stops_printing(bench: Bench) -> None:
    runner = bench.start()
    runner.send([call(flood, timeout_seconds=3)])
    await bench.started(runner, "lease")

    sizes = []
    while not bench.outcomes:
        sizes.append(log_size(runner))
        await asyncio.sleep(0.01)

    assert max(sizes) < 2_000_000_000
    assert len(bench.outcomes[0].log) < (1 << 20) + 100


async def test_a_log_of_many_calls_does_not_grow_for_ever(bench: Bench) -> None:
    runner = bench.start()

    outcomes = await bench.run(runner, [call(say, "x" * 100_000) for _ in range(600)])

    assert {outcome.log for outcome in outcomes} == {b"x" * 100_000}
    assert log_size(runner) < 40_000_000


# --- speed --------------------------------------------------------------------------------------


async def test_thousands_of_calls_a_second_go_through_one_runner(bench: Bench) -> None:
    runner = bench.start()
    await bench.run(runner, [named("math.sqrt", 4)])
    began_at = time.monotonic()

    await bench.run(runner, [named("math.sqrt", 4, lease=str(n)) for n in range(10_000)])

    assert time.monotonic() - began_at < 5  # some 0.3 s; a machine may be busy
