from __future__ import annotations

import concurrent.futures
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from task_server import errors
from task_server.client.client import Client
from tests.e2e.conftest import Running
from tests.e2e.processes import until

SECONDS = 60.0
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


class Odd(Exception):
    """An exception that only this module has."""


def shifted(x: int, by: int = 1) -> tuple[int, int]:
    print("shifting", x)  # noqa: T201  (its log is looked at)
    return x, x + by


def fail(message: str) -> None:
    raise Odd(message, 7)


def test_a_function_of_python_is_called_by_name(client: Client) -> None:
    assert client.call("math:factorial", 20) == math.factorial(20)
    assert client.call("math:factorial", 200) == math.factorial(200)
    assert client.call(math.hypot, 3, 4) == 5.0
    assert client.call("builtins:sorted", [3, 1, 2], reverse=True) == [3, 2, 1]


def test_a_function_of_ours_goes_by_value_and_keeps_types(client: Client) -> None:
    assert client.call(shifted, 5, by=2) == (5, 7)
    assert client.call(lambda values: {v * v for v in values}, (1, 2)) == {1, 4}


def test_values_come_back_exactly(client: Client) -> None:
    def same(value: Any) -> Any:
        return value

    for value in (None, -0.0, 1e-300, 10**300, "\u0000ü", b"x", [1, {"a": (2,)}], math.inf):
        assert repr(client.call(same, value)) == repr(value)


def test_large_arguments_and_answers_travel_as_blobs(client: Client) -> None:
    data = bytes(range(256)) * 4000

    assert client.call(lambda value: value[::-1], data) == data[::-1]
    assert client.call(lambda table: len(table), "x" * 6_000_000) == 6_000_000


def test_estimates_of_pickled_arguments_know_what_is_in_them(client: Client) -> None:
    def nap(pause: tuple[int, str]) -> None:
        import time

        time.sleep(pause[0] / 1000)

    list(client.map(nap, [(10 * (n % 10), "ms") for n in range(100)]))
    function = client.function(nap)

    # It is learned from a moment after it has ended.
    until(
        lambda: 2 * function.estimate((10, "ms")).p50 < function.estimate((90, "ms")).p50, SECONDS
    )


def test_a_stored_blob_is_an_argument(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")

    def read(path: str) -> bytes:
        from pathlib import Path

        return Path(path).read_bytes()

    assert client.call(lambda value: value, client.put(b"data")) == b"data"
    assert client.call(lambda value: value, client.put([1, (2,)])) == [1, (2,)]
    assert client.call(read, client.put(file)) == b"content"


def test_a_remote_exception_is_raised_as_itself(client: Client) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        client.call("operator:truediv", 1, 0)
    assert "Traceback" in str(caught.value.__cause__)

    with pytest.raises(Odd) as own:
        client.call(fail, "so odd")
    assert own.value.args == ("so odd", 7)


def test_what_does_not_exist_says_so(client: Client) -> None:
    with pytest.raises(errors.TaskFailed) as caught:
        client.call("math:no_such_function", 1)

    assert caught.value.kind in ("not_found", "import")


def test_submit_gives_a_future(client: Client) -> None:
    future = client.submit("time:sleep", 0.3)

    with pytest.raises(errors.NotFinished):
        future.result(timeout=0)
    assert future.result(timeout=30) is None
    assert future.done() and future.state == "succeeded"
    assert future.estimate is not None and future.estimate.p10 <= future.estimate.p90


def test_what_a_task_prints_is_in_its_log(client: Client) -> None:
    future = client.submit(shifted, 41)
    future.result(timeout=30)

    assert "shifting 41" in future.logs()


def test_a_running_task_is_cancelled(client: Client) -> None:
    future = client.submit("time:sleep", 60)
    end = time.monotonic() + 30
    while not future.running() and time.monotonic() < end:
        time.sleep(0.02)

    assert future.cancel()

    with pytest.raises(errors.TaskCancelled):
        future.result(timeout=30)


def test_a_timeout_ends_a_run(client: Client) -> None:
    with pytest.raises(errors.TaskFailed) as caught:
        client.options(timeout=0.3).call("time:sleep", 60)

    assert caught.value.kind == "timeout"


def test_map_gives_answers_in_order(client: Client) -> None:
    batch = client.map("math:factorial", range(100))

    assert list(batch) == [math.factorial(n) for n in range(100)]
    assert batch.progress() == 1.0 and batch.done()
    assert batch.status().counts["succeeded"] == 100
    assert list(client.batch(batch.id))[:3] == [1, 1, 2]


def test_a_map_of_several_requests(client: Client) -> None:
    batch = client.map("operator:add", range(2500), range(2500))

    assert list(batch) == [2 * n for n in range(2500)]


def test_an_empty_map(client: Client) -> None:
    assert list(client.map("math:factorial", [])) == []


def test_as_completed_gives_each_answer_once(client: Client) -> None:
    batch = client.map(lambda n: 1 // (n - 3), range(20))

    answers = {answer.index: answer for answer in batch.as_completed()}

    assert sorted(answers) == list(range(20))
    assert isinstance(answers[3].exception(), ZeroDivisionError)
    assert answers[4].result() == 1


def test_a_batch_is_waited_for_and_cancelled(client: Client) -> None:
    done = client.map("math:sqrt", range(10))
    assert done.wait(timeout=30).progress == 1.0

    slow = client.map("time:sleep", [60] * 10)
    with pytest.raises(errors.NotFinished):
        slow.wait(timeout=0.2)
    slow.cancel()

    assert slow.wait(timeout=30).counts["cancelled"] == 10


def test_futures_work_with_the_standard_library(client: Client) -> None:
    futures = [client.submit("math:factorial", n) for n in range(30)]

    done = concurrent.futures.wait(futures, timeout=30)

    assert not done.not_done
    assert {future.result() for future in done.done} == {math.factorial(n) for n in range(30)}


def test_estimates_are_known_after_calls(client: Client) -> None:
    list(client.map("math:isqrt", range(50)))

    estimate = client.estimate("math:isqrt", 7)
    many = client.estimate_map("math:isqrt", range(100))

    assert estimate.known and 0 <= estimate.p10 <= estimate.p50 <= estimate.p90 < 5
    assert many.core_seconds.p50 > 0 and many.eta is not None


def test_the_command_line_calls(running: Running) -> None:
    called = running.command("call", "math:factorial", "20")
    failed = running.command("call", "operator:truediv", "1", "0")
    late = running.command("call", "time:sleep", "5", "--wait", "0.2")

    assert (called.returncode, called.stdout) == (0, f"{math.factorial(20)}\n")
    assert called.stderr.count("\n") == 1 and "s" in called.stderr
    assert failed.returncode == 1 and "ZeroDivisionError" in failed.stderr
    assert late.returncode == 124


def test_the_command_line_follows_a_task(running: Running) -> None:
    task = running.command("submit", "math:sqrt", "16").stdout.strip()

    assert running.command("wait", task).returncode == 0
    assert running.command("answer", task).stdout == "4.0\n"
    assert json.loads(running.command("status", task, "-o", "json").stdout)["state"] == "succeeded"
    assert task in running.command("ls", "--limit", "5").stdout
    assert running.command("cancel", task).returncode == 1
    assert running.command("status", "nothing").returncode == 4


def test_the_command_line_maps_a_file(running: Running) -> None:
    mapped = running.command("map", "operator:add", "-", input="[1, 2]\n[3, 4]\n")

    assert (mapped.returncode, mapped.stdout) == (0, "3\n7\n")


def test_the_command_line_shows_workers_and_functions(running: Running, client: Client) -> None:
    client.call("math:sqrt", 4)

    workers = json.loads(running.command("workers", "ls", "-o", "json").stdout)
    functions = running.command("functions", "ls")

    assert len(workers) == 1
    assert functions.returncode == 0 and "sqrt" in functions.stdout


def test_tokens_are_made_listed_and_revoked(running: Running) -> None:
    data = ("--data", str(running.data))
    made = running.command("token", "create", "--kind", "user", "--name", "mine", *data)
    token = made.stdout.strip()
    with Client(running.url, token) as mine:
        assert mine.call("math:sqrt", 9) == 3.0

        rows = json.loads(running.command("token", "ls", "-o", "json", *data).stdout)
        row = next(row for row in rows if row["name"] == "mine")
        assert running.command("token", "revoke", str(row["id"]), *data).returncode == 0

        time.sleep(1.1)
        with pytest.raises(errors.Unauthorized):
            mine.call("math:sqrt", 9)


@pytest.mark.network
def test_a_package_is_installed_for_a_call(client: Client) -> None:
    assert client.call("humanize:intcomma", 1234567, package="humanize") == "1,234,567"
