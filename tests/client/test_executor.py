from __future__ import annotations

import atexit
import base64
import concurrent.futures
import functools
import gc
import itertools
import json
import math
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Unpack

import pytest

from task_server import errors
from task_server.client.client import Client
from task_server.client.executor import Executor
from task_server.client.executor_future import ExecutorFuture
from task_server.client.options import Options
from task_server.client.sender import WAITING_TASKS
from tests.client.batch_server import BatchServer
from tests.client.scripted import problem

SECONDS = 20.0


@contextmanager
def executor_of(
    server: BatchServer, client: Client | None = None, **options: Unpack[Options]
) -> Iterator[Executor]:
    executor = Executor(client=client or Client(transport=server), **options)
    try:
        yield executor
        executor.shutdown()
    except BaseException:
        # A test that failed must not keep the process from ending.
        atexit.unregister(executor._sender.finish)
        raise


def held(server: BatchServer, executor: Executor, count: int) -> list[ExecutorFuture[Any]]:
    """A submit is under way, and `count` more wait behind it."""
    server.gate.clear()
    first = executor.submit(math.sqrt, -1)
    server.until(lambda: server.paths("POST", "/v1/tasks"))
    return [first, *(executor.submit(math.sqrt, n) for n in range(count))]


def test_what_is_submitted_while_a_request_is_under_way_goes_in_one() -> None:
    server = BatchServer()

    with executor_of(server) as executor:
        futures = held(server, executor, 500)
        server.gate.set()
        answers = [future.result(SECONDS) for future in futures]

    assert answers == [-1, *range(500)]
    assert [len(submit) for submit in server.submits] == [1, 500]
    assert len(server.paths("GET", "/v1/batches")) == 1
    assert server.paths("GET", "/v1/tasks") == []


def test_threads_share_requests() -> None:
    server = BatchServer()
    futures: list[ExecutorFuture[Any]] = []

    with executor_of(server) as executor:
        held(server, executor, 0)
        threads = [
            threading.Thread(target=lambda n=n: futures.append(executor.submit(abs, n)))
            for n in range(50)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.gate.set()
        assert sorted(future.result(SECONDS) for future in futures) == list(range(50))

    assert [len(submit) for submit in server.submits] == [1, 50]


def test_different_functions_share_a_request() -> None:
    server = BatchServer()

    with executor_of(server) as executor:
        held(server, executor, 0)
        futures = [executor.submit(function, 4) for function in (math.sqrt, math.exp, "m:f")]
        server.gate.set()
        concurrent.futures.wait(futures, SECONDS)

    assert [task["function"] for task in server.submits[1]] == ["math:sqrt", "math:exp", "m:f"]


def test_a_function_is_pickled_once_and_sent_once_when_it_is_large() -> None:
    server = BatchServer()
    data = bytes(range(256)) * 20

    def own(x: int) -> int:
        return x + len(data)

    with executor_of(server) as executor:
        for n in range(3):
            assert executor.submit(own, n).result(SECONDS) == n

    assert len(server.paths("PUT", "/v1/blobs")) == 1
    (name,) = {task["function"]["pickle"] for task in server.tasks}
    assert name.startswith("sha256:")


def test_an_object_that_may_change_is_pickled_each_time() -> None:
    server = BatchServer()
    values = [1]
    function = functools.partial(max, values)

    with executor_of(server) as executor:
        executor.submit(function, 0).result(SECONDS)
        values.append(2)
        executor.submit(function, 0).result(SECONDS)

    sent = [base64.b64decode(task["function"]["pickle"]) for task in server.tasks]
    assert [pickle.loads(data).args for data in sent] == [([1],), ([1, 2],)]


def test_options_go_with_every_call() -> None:
    server = BatchServer()

    with executor_of(server, priority=3, timeout=5) as executor:
        executor.submit("m:f", 1, package="p", version="1").result(SECONDS)

    (task,) = server.tasks
    assert (task["priority"], task["timeout"]) == (3, 5)
    assert (task["package"], task["version"], task["args"]) == ("p", "1", [1])


def test_packages_are_for_all_functions() -> None:
    server = BatchServer()
    client = Client(transport=server)

    with Executor(["numpy", "scipy>=1"], client=client) as executor:
        executor.submit(lambda x: x, 1).result(SECONDS)

    assert server.tasks[0]["package"] == ["numpy", "scipy>=1"]


def test_what_cannot_be_pickled_shows_on_the_future() -> None:
    class Odd:
        def __reduce__(self) -> str:
            raise ZeroDivisionError

    server = BatchServer()

    with executor_of(server) as executor:
        bad = [executor.submit(abs, threading.Lock()), executor.submit(abs, Odd())]
        assert executor.submit(abs, 1).result(SECONDS) == 1

        locked = bad[0].exception(SECONDS)
        assert isinstance(locked, errors.TaskServerError) and "argument 0" in str(locked)
        assert isinstance(bad[1].exception(SECONDS), ZeroDivisionError)


def test_a_refused_task_does_not_take_others_with_it() -> None:
    def refuse(tasks: list[dict[str, Any]]) -> Any:
        wrong = [index for index, task in enumerate(tasks) if task["args"][0] in (3, 5)]
        told = [{"index": index, "field": "args", "message": f"no {index}"} for index in wrong]
        return problem_with(told) if told else None

    server = BatchServer()
    server.refuse = refuse

    with executor_of(server) as executor:
        futures = held(server, executor, 8)
        server.gate.set()
        outcomes = [future.exception(SECONDS) for future in futures]

    assert [str(outcome) for outcome in outcomes if outcome] == ["no 3", "no 5"]
    assert isinstance(outcomes[4], errors.Invalid)
    assert [task["args"][0] for task in server.tasks] == [-1, 0, 1, 2, 4, 6, 7]


def test_what_is_wrong_with_a_function_refuses_all_its_calls_at_once() -> None:
    def refuse(tasks: list[dict[str, Any]]) -> Any:
        found = [n for n, task in enumerate(tasks) if task["function"] == "bad:f"]
        told = [{"index": n, "field": "function", "message": "bad"} for n in found[:1]]
        return problem_with(told) if told else None

    server = BatchServer()
    server.refuse = refuse

    with executor_of(server) as executor:
        held(server, executor, 0)
        futures = [executor.submit(f, n) for n in range(20) for f in ("bad:f", "good:f")]
        server.gate.set()
        outcomes = [future.exception(SECONDS) for future in futures]

    assert [outcome is None for outcome in outcomes] == [False, True] * 20
    assert len(server.paths("POST", "/v1/tasks")) == 3


def problem_with(told: list[dict[str, Any]]) -> Any:
    reply = problem(422, "invalid")
    body = reply.body[:-1] + b',"errors":' + json.dumps(told).encode() + b"}"
    return reply._replace(body=body)


def test_a_task_is_cancelled_before_it_is_sent() -> None:
    server = BatchServer()

    with executor_of(server) as executor:
        _, second, third = held(server, executor, 2)
        called: list[object] = []
        second.add_done_callback(called.append)

        assert second.cancel()
        server.gate.set()
        assert third.result(SECONDS) == 1

    assert second.cancelled() and called == [second]
    assert [task["args"] for task in server.tasks] == [[-1], [1]]
    assert server.paths("POST", f"/v1/tasks/{second.id}") == []
    with pytest.raises(errors.TaskCancelled):
        second.result(0)


def test_a_task_that_was_sent_is_cancelled_at_the_server() -> None:
    server = BatchServer(answers_at_once=False)

    with executor_of(server) as executor:
        future = executor.submit(math.sqrt, 4)
        server.until(lambda: server.submits)

        future.cancel()

        with pytest.raises(concurrent.futures.CancelledError):
            future.result(SECONDS)
    assert len(server.paths("POST", f"/v1/tasks/{future.id}/cancel")) == 1


def test_a_failure_is_raised_and_a_callback_runs_once() -> None:
    server = BatchServer(answers_at_once=False)
    called: list[object] = []

    with executor_of(server) as executor:
        future = executor.submit(math.sqrt, 4)
        future.add_done_callback(called.append)
        server.until(lambda: server.submits)
        own = base64.b64encode(pickle.dumps(KeyError("x"))).decode()
        error = {"kind": "exception", "type": "KeyError", "message": "x", "traceback": "tb"}
        server.end(server.tasks[0], state="failed", error=error | {"pickle": own})

        with pytest.raises(KeyError) as caught:
            future.result(SECONDS)

    assert "tb" in str(caught.value.__cause__)
    assert called == [future]


def test_a_broken_stream_is_taken_up_where_it_ended() -> None:
    server = BatchServer(answers_at_once=False)
    server.breaks_after = 2

    with executor_of(server) as executor:
        futures = [executor.submit(math.sqrt, n) for n in range(5)]
        server.until(lambda: len(server.tasks) == 5)
        for task in server.tasks:
            server.end(task)
        assert [future.result(SECONDS) for future in futures] == list(range(5))

    assert [path.count("cursor=") for path in server.paths("GET", "/v1/batches")][:1] == [0]
    assert any("cursor=" in path for path in server.paths("GET", "/v1/batches"))


def test_a_server_that_is_away_longer_than_a_client_waits_is_waited_for() -> None:
    server = BatchServer(answers_at_once=False)
    client = Client(transport=server)
    client.session._patience = 0.0

    with executor_of(server, client) as executor:
        future = executor.submit(math.sqrt, 4)
        server.until(lambda: server.submits)
        server.is_away = True
        server.break_streams()
        server.until(lambda: server.paths("GET", "/v1/tasks"))
        server.is_away = False
        server.end(server.tasks[0])

        assert future.result(SECONDS) == 4


def test_a_task_that_is_gone_is_no_longer_waited_for() -> None:
    server = BatchServer(answers_at_once=False)

    with executor_of(server) as executor:
        future = executor.submit(math.sqrt, 4)
        server.until(lambda: server.submits)
        server.has_purged = True
        server.break_streams()

        assert isinstance(future.exception(SECONDS), errors.Gone)


def test_a_batch_that_others_closed_is_followed_by_another() -> None:
    server = BatchServer()

    with executor_of(server) as executor:
        assert executor.submit(abs, 1).result(SECONDS) == 1
        server.close_batches()
        assert executor.submit(abs, 2).result(SECONDS) == 2

    assert len([path for path in server.paths("POST", "/v1/batches") if path.count("/") == 2]) == 2


def test_nothing_is_submitted_after_shutdown() -> None:
    server = BatchServer()
    with executor_of(server) as executor:
        future = executor.submit(abs, 1)

    assert future.done()
    for act in (lambda: executor.submit(abs, 1), lambda: executor.map(abs, [1])):
        with pytest.raises(RuntimeError, match="after shutdown"):
            act()
    executor.shutdown()


def test_an_executor_that_was_idle_goes_on() -> None:
    server = BatchServer()
    others = set(threading.enumerate())

    with executor_of(server) as executor:
        assert executor.submit(abs, 1).result(SECONDS) == 1
        own = set(threading.enumerate()) - others
        (receiver,) = [each for each in own if "receive" in each.name]
        server.break_streams()
        receiver.join(SECONDS)
        assert not receiver.is_alive()

        assert executor.submit(abs, 2).result(SECONDS) == 2


def test_an_executor_that_nobody_holds_sends_what_it_has_and_ends() -> None:
    server = BatchServer()
    executor = Executor(client=Client(transport=server))
    futures = held(server, executor, 3)
    del executor

    server.gate.set()

    assert [future.result(SECONDS) for future in futures] == [-1, 0, 1, 2]
    gc.collect()
    server.until(lambda: any(path.endswith("/close") for path in server.paths("POST", "/v1/b")))


def test_shutdown_without_waiting_still_sends_what_was_submitted() -> None:
    server = BatchServer()
    executor = Executor(client=Client(transport=server))
    futures = held(server, executor, 3)

    executor.shutdown(wait=False)

    server.gate.set()
    assert [future.result(SECONDS) for future in futures] == [-1, 0, 1, 2]
    server.until(lambda: any(path.endswith("/close") for path in server.paths("POST", "/v1/b")))


def test_shutdown_cancels_what_has_not_started() -> None:
    server = BatchServer(answers_at_once=False)
    executor = Executor(client=Client(transport=server))
    first, *others = held(server, executor, 3)
    ended = threading.Thread(target=executor.shutdown, kwargs={"cancel_futures": True})

    ended.start()
    concurrent.futures.wait(others, SECONDS)
    server.gate.set()
    server.until(lambda: any("only=unstarted" in path for path in server.paths("POST", "/v1/b")))
    server.end(server.tasks[0])
    ended.join(SECONDS)

    assert not ended.is_alive()
    assert all(future.cancelled() for future in others)
    assert first.result(SECONDS) == -1
    assert len(server.tasks) == 1


def test_who_submits_too_much_waits() -> None:
    server = BatchServer()
    count = WAITING_TASKS + 500
    futures: list[ExecutorFuture[Any]] = []

    with executor_of(server) as executor:
        held(server, executor, 0)
        many = threading.Thread(
            target=lambda: futures.extend(executor.submit(abs, n) for n in range(count))
        )
        many.start()
        many.join(0.5)
        assert many.is_alive() or len(futures) == 0
        server.gate.set()
        many.join(SECONDS)
        assert [future.result(SECONDS) for future in futures] == list(range(count))

    assert max(len(submit) for submit in server.submits) <= 1000


def test_a_callback_may_submit_and_cancel() -> None:
    server = BatchServer()
    server.refuse = lambda tasks: problem(422, "invalid") if tasks[0]["args"][0] == 0 else None
    more: list[ExecutorFuture[Any]] = []

    with executor_of(server) as executor:
        _, bad, other = held(server, executor, 2)
        bad.add_done_callback(lambda _: more.append(executor.submit(abs, 7)))
        bad.add_done_callback(lambda _: other.cancel())
        server.gate.set()
        assert isinstance(bad.exception(SECONDS), errors.Invalid)
        server.until(lambda: more)
        assert more[0].result(SECONDS) == 7

    assert other.done()


def test_a_window_takes_no_more_than_it_needs() -> None:
    server = BatchServer()
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in itertools.count():
            taken.append(n)
            yield n

    with executor_of(server) as executor:
        answers = executor.map(abs, items(), buffersize=4)
        assert len(taken) == 4
        assert [next(answers) for _ in range(3)] == [0, 1, 2]
        assert len(taken) <= 8
        answers.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [{"chunksize": 0}, {"buffersize": 0}, {"buffersize": "2"}])
def test_wrong_arguments_of_map_are_refused(wrong: dict[str, Any]) -> None:
    with executor_of(BatchServer()) as executor, pytest.raises((ValueError, TypeError)):
        executor.map(abs, [1], **wrong)


def test_an_executor_that_did_nothing_asks_nothing() -> None:
    server = BatchServer()

    with executor_of(server) as executor:
        assert list(executor.map(abs, [])) == []

    assert server.requests == []
