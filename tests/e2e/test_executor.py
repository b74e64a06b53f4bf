"""The executor against a real server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest

from task_server import errors
from task_server.client.client import Client
from task_server.client.executor import Executor
from tests.e2e.conftest import Running
from tests.e2e.processes import Place, place, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SECONDS = 60.0


@pytest.fixture
def executor(client: Client) -> Iterator[Executor]:
    with Executor(client=client) as executor:
        yield executor


def square(x: int) -> tuple[int, int]:
    return x, x * x


def fail(x: int) -> None:
    raise LookupError(x)


def test_functions_of_all_kinds_run(executor: Executor) -> None:
    by_value = executor.submit(square, 7)
    by_name = executor.submit("operator:add", 1, 2)
    standard = executor.submit(math.comb, 5, 2)

    assert by_value.result(SECONDS) == (7, 49)
    assert by_name.result(SECONDS) == 3
    assert standard.result(SECONDS) == 10


def test_many_futures_work_with_the_standard_library(executor: Executor) -> None:
    futures = [executor.submit(square, n) for n in range(500)]
    called: list[int] = []
    for future in futures:
        future.add_done_callback(lambda future: called.append(future.result()[0]))

    finished = {future.result() for future in concurrent.futures.as_completed(futures, SECONDS)}
    done, not_done = concurrent.futures.wait(futures, SECONDS)

    assert finished == {(n, n * n) for n in range(500)}
    assert len(done) == 500 and not not_done
    until(lambda: sorted(called) == list(range(500)))


def test_an_exception_comes_back_as_itself_with_the_remote_traceback(executor: Executor) -> None:
    future = executor.submit(fail, 3)

    assert isinstance(future.exception(SECONDS), LookupError)
    with pytest.raises(LookupError) as caught:
        future.result(SECONDS)
    assert caught.value.args == (3,) and "in fail" in str(caught.value.__cause__)


def test_large_arguments_and_answers_go_through(executor: Executor) -> None:
    data = bytes(300_000)

    futures = [executor.submit(lambda value, n: value + bytes(n), data, n) for n in range(4)]

    assert [len(future.result(SECONDS)) for future in futures] == [300_000 + n for n in range(4)]


def test_an_event_loop_runs_calls_in_it(executor: Executor) -> None:
    async def main() -> list[tuple[int, int]]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, square, n) for n in range(5)]
        wrapped = asyncio.wrap_future(executor.submit(square, 5))
        return [*await asyncio.gather(*calls), await wrapped, await executor.submit(square, 6)]

    assert asyncio.run(main()) == [(n, n * n) for n in range(7)]


def test_what_runs_and_what_waits_is_cancelled(executor: Executor) -> None:
    running = [executor.submit(time.sleep, 60) for _ in range(2)]
    waiting = executor.submit(time.sleep, 60)
    until(lambda: all(future.running() for future in running), SECONDS)

    assert waiting.cancel() and waiting.cancelled()
    assert running[0].cancel() and running[1].cancel()

    with pytest.raises(concurrent.futures.CancelledError):
        running[0].result(SECONDS)


def test_a_future_is_asked_for_by_another_program(executor: Executor, running: Running) -> None:
    future = executor.submit(square, 7)
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer).result(60))"

    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=running.environ,
        input=pickle.dumps(future),
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"(7, 49)\n", b"")
    assert running.token is not None and running.token.encode() not in pickle.dumps(future)


def test_map_gives_answers_in_order(executor: Executor) -> None:
    assert list(executor.map(square, range(1500))) == [(n, n * n) for n in range(1500)]
    assert list(executor.map(pow, [2, 3], [5, 2, 9])) == [32, 9]
    assert list(executor.map("operator:add", range(3), range(3))) == [0, 2, 4]
    assert list(executor.map(square, range(40), buffersize=5)) == [(n, n * n) for n in range(40)]


def test_map_raises_an_answer_in_its_place_and_cancels_the_rest(executor: Executor) -> None:
    def late(n: int) -> int:
        import time

        time.sleep(60 * (n > 2))
        return 1 // (n - 2)

    answers = executor.map(late, range(8))
    began = time.monotonic()

    assert [next(answers), next(answers)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(answers)
    assert list(answers) == []
    assert executor.submit(square, 1).result(SECONDS) == (1, 1)
    assert time.monotonic() - began < SECONDS


def test_map_waits_no_longer_than_its_timeout(executor: Executor) -> None:
    with pytest.raises(TimeoutError):
        list(executor.map(time.sleep, [0, 60], timeout=1))
    with pytest.raises(TimeoutError):
        list(executor.map(time.sleep, [0, 60], timeout=1, buffersize=2))


def test_answers_of_map_are_there_after_shutdown(client: Client) -> None:
    with Executor(client=client) as executor:
        answers = executor.map(square, range(20))

    assert list(answers) == [(n, n * n) for n in range(20)]


def test_shutdown_lets_what_runs_go_on_and_cancels_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def work(sign: str, seconds: float) -> None:
        with open(sign, "a") as file:  # noqa: PTH123  # what is sent by value is small
            file.write(".")
        time.sleep(seconds)

    with place(tmp_path_factory) as here:
        here.serve()
        here.worker(slots=2)
        executor = Executor(url=here.url, token=here.token("user"))
        # It was short until now, so that several are leased ahead of those that wait.
        list(executor.map(work, [str(here.sign("short"))] * 100, [0.0] * 100))
        sign = here.sign("long")
        futures = [executor.submit(work, str(sign), 60.0) for _ in range(20)]
        shutdown = threading.Thread(
            target=executor.shutdown, kwargs={"cancel_futures": True}, daemon=True
        )
        until(lambda: sign.stat().st_size == 2, SECONDS)

        shutdown.start()
        until(lambda: sum(future.cancelled() for future in futures) == 18, SECONDS)

        going_on = [future for future in futures if not future.cancelled()]
        assert sign.stat().st_size == 2 and all(future.running() for future in going_on)
        assert shutdown.is_alive()
        assert all(future.cancel() for future in going_on)
        shutdown.join(SECONDS)
        assert not shutdown.is_alive()


def test_a_program_ends_when_its_futures_have(running: Running) -> None:
    program = """
        import time
        from task_server import Executor

        executor = Executor()
        for n in range(3):
            future = executor.submit(time.sleep, 0.2)
            future.add_done_callback(lambda future: print(future.state, flush=True))
        """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=running.environ,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "succeeded\n" * 3, "")


def test_an_executor_without_a_server_says_how_to_start_one() -> None:
    executor = Executor(url="http://127.0.0.1:9", token="none")

    future = executor.submit(square, 1)

    with pytest.raises(errors.ServerUnreachable, match="task-server up"):
        future.result(SECONDS)
    executor.shutdown()


def test_a_server_that_is_killed_twice_loses_nothing_of_5000_calls(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with place(tmp_path_factory, "--lease-seconds", "5") as here:
        here.choose_port()
        here.serve()
        here.worker("one")
        with Executor(url=here.url, token=here.token("user")) as executor:
            futures = [executor.submit(math.sqrt, n) for n in range(2500)]
            assert futures[0].result(SECONDS) == 0.0
            breaks = threading.Thread(target=_kill_twice, args=(here,))
            breaks.start()
            mapped = list(executor.map(math.sqrt, range(2500)))
            breaks.join()

            assert mapped == [math.sqrt(n) for n in range(2500)]
            assert [future.result(SECONDS) for future in futures] == mapped


def _kill_twice(here: Place) -> None:
    for _ in range(2):
        time.sleep(0.2)
        assert here.server is not None
        here.server.kill()
        here.serve()
