"""Whatever a function does, its task ends clearly, and the worker goes on."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from task_server import errors
from task_server.client.client import Client
from task_server.client.future import Future
from task_server.client.requests import get_blob, read_answer
from task_server.protocol.tasks import Error, TaskView
from tests.e2e.processes import Place, Process, place

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory) as here:
        here.serve()
        yield here


@pytest.fixture(scope="module")
def worker(server: Place) -> Process:
    return server.worker()


@pytest.fixture
def client(server: Place, worker: Process) -> Iterator[Client]:
    """A client; after each test the same server and the same worker still answer."""
    with server.client() as client:
        yield client
        assert client.call("math:factorial", 20) == math.factorial(20)
    assert server.server is not None and server.server.is_alive() and worker.is_alive()
    assert "Traceback" not in server.server.output(), server.server.output()
    assert "Traceback" not in worker.output(), worker.output()


def ended(future: Future[Any], seconds: float = 30.0) -> TaskView:
    """The task, once it has ended."""
    assert future.refresh(seconds), f"{future} has not ended"
    return future.status()


def failure(future: Future[Any], seconds: float = 30.0) -> Error:
    """Why the task failed."""
    view = ended(future, seconds)
    assert view.state == "failed" and isinstance(view.error, Error), view
    assert view.error.type and view.error.message and view.ended_at is not None
    return view.error


# ---- what is not there


@pytest.mark.network
@pytest.mark.parametrize(
    ("package", "version", "named"),
    [
        ("no-such-package-of-anybodys-6f1c", None, "no-such-package-of-anybodys-6f1c"),
        ("humanize", "0.0.0.1", "humanize"),
    ],
)
def test_a_package_that_cannot_be_had(
    client: Client, package: str, version: str | None, named: str
) -> None:
    future = client.submit("humanize:intcomma", 1, package=package, version=version)

    error = failure(future)

    assert error.kind == "environment" and named in error.message
    assert "Traceback" not in error.message + error.traceback
    with pytest.raises(errors.TaskFailed) as caught:
        future.result()
    assert caught.value.kind == "environment"


@pytest.mark.parametrize(
    ("function", "kind", "type_name", "said"),
    [
        ("asyncio.windows_utils:pipe", "import", "ImportError", "win32"),
        ("no_such_module_6f1c:f", "import", "ModuleNotFoundError", "no_such_module_6f1c"),
        ("math:no_such_function", "not_found", "", "no_such_function"),
        ("math.no_such_function", "not_found", "", "no_such_function"),
        ("no_such_builtin_6f1c", "not_found", "", "no_such_builtin_6f1c"),
        ("math:pi", "not_found", "", "pi"),
        ("os.path:join.no.such", "not_found", "", "no"),
    ],
)
def test_a_function_that_is_not_there(
    client: Client, function: str, kind: str, type_name: str, said: str
) -> None:
    error = failure(client.submit(function, 1))

    assert error.kind == kind and said in error.message
    assert error.type == type_name or not type_name
    assert type_name in error.traceback


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "said"),
    [
        ("math:factorial", (), {}, "argument"),
        ("json:dumps", (1,), {"no_such_argument": 2}, "no_such_argument"),
        ("textwrap:shorten", ("text",), {}, "width"),
    ],
)
def test_arguments_that_do_not_fit(
    client: Client, function: str, args: tuple[object, ...], kwargs: dict[str, object], said: str
) -> None:
    future = client.submit(function, *args, **kwargs)

    error = failure(future)

    assert (error.kind, error.type) == ("exception", "TypeError") and said in error.message
    with pytest.raises(TypeError, match=said):
        future.result()


def test_an_exception_has_type_message_and_traceback(client: Client) -> None:
    view = ended(client.submit("statistics:mean", []))

    assert isinstance(view.error, Error)
    assert view.error.kind == "exception" and view.error.type.endswith("StatisticsError")
    assert view.error.message == "mean requires at least one data point"
    assert "statistics.py" in view.error.traceback and view.error.exit is None
    assert (view.attempt, view.answer) == (1, msgspec.Raw())


def test_a_failed_run_is_tried_again_as_often_as_asked(client: Client) -> None:
    view = ended(client.options(retries={"max": 2, "backoff": 0.1}).submit("math:sqrt", -1))

    assert (view.state, view.attempt) == ("failed", 3)


# ---- ends of the process


def leave() -> None:
    sys.exit("gone for lunch")


def leave_at_once() -> None:
    print("about to leave", flush=True)  # noqa: T201  (its log is looked at)
    os._exit(3)


def leave_well() -> None:
    os._exit(0)


def abort() -> None:
    os.abort()


def shoot() -> None:
    os.kill(os.getpid(), 9)


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


def test_sys_exit_is_an_exception(client: Client) -> None:
    error = failure(client.submit(leave))

    assert (error.kind, error.type) == ("exception", "SystemExit")
    assert "gone for lunch" in error.message and "leave" in error.traceback


@pytest.mark.parametrize(
    ("function", "exit", "said"),
    [
        (leave_at_once, 3, "status 3"),
        (leave_well, 0, "status 0"),
        (abort, -6, "SIGABRT"),
        (shoot, -9, "SIGKILL"),
        (crash, -11, "SIGSEGV"),
    ],
)
def test_a_process_that_ends_is_lost_and_says_how(
    client: Client, function: Callable[[], None], exit: int, said: str
) -> None:
    begun = time.monotonic()
    future = client.options(at_most_once=True).submit(function)

    error = failure(future)

    assert (error.kind, error.exit) == ("lost", exit) and said in error.message
    assert time.monotonic() - begun < 5
    assert future.status().attempt == 1
    assert ("about to leave" in future.logs()) is (function is leave_at_once)


def test_a_task_that_always_crashes_stops_after_three(client: Client) -> None:
    beside = [client.submit("time:sleep", 0.05) for _ in range(20)]
    future = client.submit(leave_at_once)

    error = failure(future, 50)

    assert (error.kind, error.exit, future.status().attempt) == ("lost", 3, 3)
    assert future.logs().count("about to leave") == 3
    assert {ended(each).state for each in beside} == {"succeeded"}


# ---- time


def hang() -> None:
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


@pytest.mark.parametrize("function", ["time:sleep", hang])
def test_a_run_over_its_time_is_ended_within_a_second(
    client: Client, function: str | Callable[[], None]
) -> None:
    args = (60,) if isinstance(function, str) else ()
    future = client.options(timeout=0.5).submit(function, *args)

    error = failure(future)

    assert (error.kind, error.type) == ("timeout", "TimeoutError") and "0.5 s" in error.message
    run_seconds = future.status().run_seconds
    assert run_seconds is not None and 0.5 <= run_seconds < 1.5


# ---- what is printed


def printed(lines: int) -> int:
    for line in range(lines):
        print(f"line {line:07}", "x" * 88)  # noqa: T201  (its log is looked at)
    print("the end", file=sys.stderr)  # noqa: T201
    return lines


def test_what_is_printed_is_kept(client: Client) -> None:
    future = client.submit(printed, 3)

    assert ended(future).state == "succeeded"
    logs = future.logs()
    assert all(f"line {line:07}" in logs for line in range(3)) and "the end" in logs


def test_a_failed_task_has_its_log_too(client: Client) -> None:
    def fail() -> None:
        printed(1)
        raise ValueError("after all")

    future = client.submit(fail)

    assert failure(future).type == "ValueError"
    assert "line 0000000" in future.logs()


def test_twenty_megabytes_printed_are_cut_in_the_middle(client: Client) -> None:
    future = client.submit(printed, 200_000)

    assert future.result(timeout=40) == 200_000
    logs = future.logs()
    assert len(logs.encode()) < 1.1 * MIB
    assert "line 0000000" in logs and "line 0199999" in logs and "the end" in logs


# ---- answers


def test_an_answer_of_a_megabyte_goes_through_a_blob(client: Client) -> None:
    future = client.submit("operator:mul", "x", MIB)

    assert future.result(timeout=30) == "x" * MIB
    assert isinstance(future.status().blob, str)
    assert client.session.send(read_answer(future.id)).body == b'"%s"' % (b"x" * MIB)


def test_an_argument_of_five_megabytes_arrives(client: Client) -> None:
    assert client.call("builtins:len", "x" * 5 * MIB) == 5 * MIB
    assert client.call(lambda data: data[::-1], b"ab" * MIB) == b"ba" * MIB


@pytest.mark.parametrize("encoding", ["json", "auto", "pickle"])
@pytest.mark.parametrize("function", [threading.Lock, lambda: (n for n in range(3))])
def test_an_answer_that_cannot_travel_is_a_clear_failure(
    client: Client, encoding: Any, function: Callable[[], object]
) -> None:
    error = failure(client.options(result_encoding=encoding).submit(function))

    assert error.kind == "not_serialisable" and ("pickle" in error.message)


class Thing:
    """Something that pickles and is no JSON."""

    def __init__(self, number: int) -> None:
        self.number = number


def test_an_answer_that_is_no_json_is_not_thrown_away(client: Client) -> None:
    future = client.options(result_encoding="json").submit(lambda: [1, complex(1, 2)])

    view = ended(future)

    assert view.state == "succeeded"
    number, told = msgspec.json.decode(view.answer)
    assert number == 1 and told["$type"].endswith("complex") and told["$repr"] == "(1+2j)"
    assert client.session.send(get_blob(told["$blob"])).status == 200


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def depth_of(value: list[Any]) -> int:
    depth = 0
    while value:
        value, depth = value[0], depth + 1
    return depth


def same(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    "value",
    [
        -(2**64),
        1e-320,
        -0.0,
        math.inf,
        "\ud800",
        "\u0000\u2028\U0001f600",
        {"$bytes": "x"},
        {"$blob": "sha256:" + "0" * 64},
        {"": {"": [[], {}]}},
        {1: 2, (3,): {4}},
        [True, 1, 1.0, None],
        "x" * 70_000,
        range(3),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_odd_values_go_there_and_come_back(client: Client, value: Any) -> None:
    assert repr(client.call(same, value)) == repr(value)


def test_an_integer_of_many_digits_comes_back(client: Client) -> None:
    assert client.call("builtins:pow", 10, 4000) == 10**4000
    assert client.call("builtins:pow", 10, 5000) == 10**5000
    assert client.call(same, 10**5000) == 10**5000


def test_a_deep_answer_comes_back(client: Client) -> None:
    assert depth_of(client.call(nested, 100)) == 100
    assert depth_of(client.call(nested, 400)) == 400


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (math.nan, {"$float": "nan"}),
        ((1, {2}), [1, [2]]),
        (b"ab", {"$bytes": "YWI="}),
        ({1: 2}, {"1": 2}),
    ],
)
def test_odd_values_are_told_as_json(client: Client, value: object, told: object) -> None:
    future = client.options(result_encoding="json").submit(same, value)

    assert ended(future).state == "succeeded"
    assert msgspec.json.decode(client.session.send(read_answer(future.id)).body) == told


@pytest.mark.parametrize("encoding", ["json", "auto"])
def test_a_long_integer_or_half_a_letter_never_ends_a_task_without_an_end(
    client: Client, encoding: Any
) -> None:
    futures = [
        client.options(result_encoding=encoding).submit(function, *args)
        for function, args in [("builtins:pow", (10, 5000)), ("builtins:chr", (0xD800,))]
    ]

    assert {ended(future).state for future in futures} == {"succeeded"}


def test_a_recursive_answer_is_a_clear_failure(client: Client) -> None:
    def recursive() -> list[Any]:
        value: list[Any] = []
        value.append(value)
        return value

    error = failure(client.options(result_encoding="json").submit(recursive))

    assert error.kind == "not_serialisable"


def test_a_message_of_ten_megabytes_is_shortened(client: Client) -> None:
    def fail() -> None:
        raise ValueError("x" * 10 * MIB)

    error = failure(client.submit(fail))

    assert error.type == "ValueError" and len(error.message) < MIB
