from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from task_server import errors
from task_server.cli import calls, capacity, environments, functions, tasks, waiting, workers
from task_server.cli.application import run
from task_server.client.batch import Answer, Batch
from task_server.client.client import Client
from task_server.client.requests import Reply, Request
from tests.client.scripted import (
    ESTIMATE,
    ID,
    Handler,
    ScriptedTransport,
    problem,
    reply,
    submitted,
    view,
)

Out = pytest.CaptureFixture[str]
Use = Callable[[Handler], ScriptedTransport]

DONE = view(
    encoding="json",
    answer="1,234,567",
    ended_at="2026-01-01T00:00:00.800000Z",
    install_seconds=0.6,
)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Commands talk to the handler that is given."""

    def use(handler: Handler) -> ScriptedTransport:
        transport = ScriptedTransport(handler)
        for module in (calls, capacity, tasks, workers, functions, environments):
            monkeypatch.setattr(module, "Client", lambda: Client(transport=transport))
        return transport

    return use


def a_server(**fields: Any) -> Handler:
    """Every task ends as DONE, but for `fields`."""

    def handle(request: Request) -> Reply:
        if request.path.startswith("/v1/estimates"):
            return reply(200, ESTIMATE)
        if request.path.endswith("/logs"):
            return Reply(200, {}, b"printed\n")
        if request.path.endswith("/answer"):
            return Reply(200, {"content-type": "application/json"}, b'"1,234,567"')
        if request.method == "POST":
            return submitted()
        return reply(200, {**DONE, **fields})

    return handle


def test_call_prints_the_answer_and_tells_the_rest_on_stderr(use: Use, capsys: Out) -> None:
    transport = use(a_server())

    status = run(["call", "humanize:intcomma", "1234567", "-k", "b=[1]", "-p", "humanize"])

    printed = capsys.readouterr()
    assert status == 0
    assert printed.out == '"1,234,567"\n'
    assert printed.err == "printed\n0.8 s (0.6 s install); next call 1-3 ms\n"
    (body,) = transport.bodies("POST", "/v1/tasks")
    assert body["package"] == "humanize" and body["result_encoding"] == "json"
    assert body["args"] == [1234567] and body["kwargs"] == {"b": [1]}


def test_arguments_are_json_else_text(use: Use) -> None:
    transport = use(a_server())

    run(["submit", "m:f", "-5", "1e3", "null", "NaN", "a b", '"7"', "{", "-k", "x=-1", "-k", "y=="])

    (body,) = transport.bodies("POST", "/v1/tasks")
    assert body["args"] == [-5, 1000.0, None, "NaN", "a b", "7", "{"]
    assert body["kwargs"] == {"x": -1, "y": "="}


def test_task_options_are_passed_on(use: Use) -> None:
    transport = use(a_server())

    options = "--timeout 5 --retries 2 --priority 3 --tag a --tag b --python 3.12 -p x -p y"
    run(["submit", "m:f", *options.split(), "--finish-by", "2030-01-01T18:00:00Z"])

    (body,) = transport.bodies("POST", "/v1/tasks")
    del body["id"]
    assert body == {
        "function": "m:f",
        "args": [],
        "timeout": 5.0,
        "retries": {"max": 2},
        "priority": 3,
        "finish_by": "2030-01-01T18:00:00Z",
        "tags": ["a", "b"],
        "python": "3.12",
        "package": ["x", "y"],
        "result_encoding": "json",
    }


def test_what_a_task_requires_is_passed_on(use: Use) -> None:
    transport = use(a_server())

    options = "--memory 2GiB --cpu 1.5 --gpu 1 --label rack=b --label os=x=y"
    run(["submit", "m:f", *options.split()])
    run(["submit", "m:f", "--memory", "1048576"])

    first, second = transport.bodies("POST", "/v1/tasks")
    labels = {"rack": "b", "os": "x=y"}
    assert first["requires"] == {"memory": "2GiB", "cpu": 1.5, "gpu": 1, "labels": labels}
    assert second["requires"] == {"memory": 1048576}


def test_a_label_without_a_value_is_refused(use: Use, capsys: Out) -> None:
    use(a_server())

    assert run(["call", "m:f", "--label", "rack"]) == 2
    assert "a label is NAME=VALUE" in capsys.readouterr().err


def test_submit_prints_the_id(use: Use, capsys: Out) -> None:
    use(a_server())

    run(["submit", "m:f"])
    run(["submit", "m:f", "-o", "json"])

    assert capsys.readouterr().out == f'{ID}\n{{\n  "id": "{ID}"\n}}\n'


def test_a_failed_task_shows_the_remote_traceback_and_exits_with_1(use: Use, capsys: Out) -> None:
    error = {"kind": "exception", "type": "ZeroDivisionError", "message": "division by zero"}
    use(a_server(state="failed", error={**error, "traceback": "Traceback ...\nboom\n"}))

    status = run(["call", "m:f"])

    printed = capsys.readouterr()
    assert status == 1 and printed.out == ""
    assert "ZeroDivisionError: division by zero" in printed.err
    assert "raise" not in printed.err


def test_what_is_not_finished_in_time_exits_with_124(use: Use, capsys: Out) -> None:
    use(a_server(state="running"))

    assert run(["call", "m:f", "--wait", "0"]) == 124
    assert run(["wait", ID, "--timeout", "0"]) == 124

    printed = capsys.readouterr()
    assert ID in printed.err and "Traceback" not in printed.err


def a_server_without_workers(*states: str) -> Handler:
    """A task has these states, one a look; the last one stays."""
    left = list(states)
    told = {"id": ID, "state": "queued", "phase": "waiting", "reasons": []}

    def handle(request: Request) -> Any:
        if request.path.endswith("/explain"):
            return reply(200, {**told, "summary": "waiting: no worker is there"})
        is_look = request.method == "GET" and request.path.startswith("/v1/tasks")
        return a_server(state=left.pop(0) if is_look and left[1:] else left[0])(request)

    return handle


def test_call_tells_why_its_task_has_not_started_and_goes_on_waiting(
    use: Use, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.0)
    use(a_server_without_workers("queued", "queued", "running", "succeeded"))

    assert run(["call", "m:f"]) == 0

    assert capsys.readouterr().err.startswith("waiting: no worker is there\n")


def test_call_tells_why_its_task_has_not_started_when_it_waits_no_longer(
    use: Use, capsys: Out
) -> None:
    use(a_server_without_workers("queued"))

    assert run(["call", "m:f", "--wait", "0.01"]) == 124

    told, last = capsys.readouterr().err.splitlines()
    assert told == "waiting: no worker is there"
    assert last == f"task-server: task {ID} is queued after 0.01 s"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ServerUnreachable("no server at http://x"), 3),
        (errors.Unauthorized("no such token"), 4),
        (errors.NotFound("no such task"), 4),
        (errors.Invalid("package: no such name"), 4),
        (errors.TaskCancelled("cancelled"), 1),
        (errors.NotFinished("later"), 124),
        (errors.ProfileError("others can read it"), 2),
    ],
)
def test_expected_errors_are_one_line_and_a_status(
    use: Use, capsys: Out, error: Exception, status: int
) -> None:
    def fail(request: Request) -> Reply:
        raise error

    transport = use(fail)
    error.__cause__ = ConnectionRefusedError()

    assert run(["status", ID]) == status
    assert capsys.readouterr().err == f"task-server: {error}\n"
    assert len(transport.requests) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["call"],
        ["call", "m:f", "--no-such-option"],
        ["call", ""],
        ["call", "m:f", "-k", "novalue"],
        ["nothing"],
        ["ls", "-o", "yaml"],
        ["map", "m:f", "/no/such/file"],
        ["serve", "--port", "70000"],
        ["serve", "--auth", "none", "--host", "0.0.0.0"],
        ["worker"],
        ["token", "create", "--kind", "king"],
    ],
)
def test_wrong_usage_exits_with_2(use: Use, capsys: Out, arguments: list[str]) -> None:
    use(a_server())

    assert run(arguments) == 2

    printed = capsys.readouterr()
    assert printed.out == "" and "Usage:" in printed.err and "Traceback" not in printed.err


@pytest.mark.parametrize("command", [[], ["call"], ["token", "create"], ["serve"]])
def test_help_is_asked_for_shortly_too(capsys: Out, command: list[str]) -> None:
    assert run([*command, "-h"]) == 0

    assert capsys.readouterr().out.startswith(f"Usage: {' '.join(['task-server', *command])} ")


def test_a_token_is_all_of_stdout_and_its_database_is_told_beside_it(
    capsys: Out, tmp_path: Path
) -> None:
    assert run(["token", "create", "--kind", "worker", "--data", str(tmp_path)]) == 0

    printed = capsys.readouterr()
    assert re.fullmatch(r"tsw_\w+\n", printed.out)
    database = tmp_path / "task-server.db"
    assert printed.err == f"a worker token for the servers of {database}\n"


def test_wait_tells_how_each_task_ended(use: Use, capsys: Out) -> None:
    use(a_server(state="failed"))

    assert run(["wait", ID, "-o", "ndjson"]) == 1

    assert json.loads(capsys.readouterr().out)["state"] == "failed"


def batch_view(succeeded: int, **counts: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": "b",
        "name": None,
        "open": False,
        "total": 3,
        "expected": None,
        "progress": 0.5,
    }
    told |= {"core_seconds": {"p10": 0.0, "p50": 0.0, "p90": 0.0}, "eta": None}
    return {**told, "counts": {"succeeded": succeeded, **counts}}


@pytest.mark.parametrize(
    ("counts", "state", "status"),
    [
        ({"succeeded": 3}, "succeeded", 0),
        ({"succeeded": 2, "failed": 1}, "failed", 1),
        ({"succeeded": 2, "running": 1}, "running", 124),
    ],
)
def test_wait_takes_batches_too(
    use: Use, capsys: Out, counts: dict[str, int], state: str, status: int
) -> None:
    def handle(request: Request) -> Reply:
        if "/v1/tasks/" in request.path:
            return problem(404, "not_found", "there is no task of that id")
        return reply(200, batch_view(**counts))

    use(handle)

    assert run(["wait", "b", "--timeout", "0", "-o", "ndjson"]) == status

    assert json.loads(capsys.readouterr().out)["state"] == state


def test_waiting_for_what_is_neither_task_nor_batch_is_refused(use: Use, capsys: Out) -> None:
    use(lambda request: problem(404, "not_found", f"nothing at {request.path}"))

    assert run(["wait", "b"]) == 4

    assert "/v1/tasks/b" in capsys.readouterr().err


def test_status_has_a_line_for_what_is_known(use: Use, capsys: Out) -> None:
    use(a_server())

    assert run(["status", ID]) == 0

    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["state"].strip() == "succeeded" and lines["install_seconds"].strip() == "0.6"
    assert "worker" not in lines


def test_an_answer_that_is_not_there_yet_exits_with_124(use: Use) -> None:
    use(lambda request: reply(202, {"state": "queued"}))

    assert run(["answer", ID]) == 124


def test_a_task_that_has_no_answer_exits_with_1(use: Use, capsys: Out) -> None:
    use(lambda request: problem(409, "conflict", "the task is failed, it has no answer"))

    assert run(["answer", ID]) == 1
    assert "it has no answer" in capsys.readouterr().err


def test_waiting_for_a_cancelled_task_shows_it(use: Use, capsys: Out) -> None:
    use(a_server(state="cancelled"))

    assert run(["wait", ID]) == 1
    assert "cancelled" in capsys.readouterr().out


def test_answer_and_logs_print_what_the_server_has(use: Use, capsys: Out) -> None:
    use(a_server())

    run(["answer", ID])
    run(["logs", ID])

    assert capsys.readouterr().out == '"1,234,567"\nprinted\n'


def test_cancel_exits_with_1_when_a_task_had_ended(use: Use, capsys: Out) -> None:
    use(a_server(state="cancelled"))
    assert run(["cancel", ID]) == 0

    use(a_server(state="succeeded"))
    assert run(["cancel", ID]) == 1

    assert capsys.readouterr().out == f"{ID} cancelled\n{ID} had ended before\n"


def test_cancel_takes_batches_too(use: Use, capsys: Out) -> None:
    def handle(request: Request) -> Reply:
        if "/v1/tasks/" in request.path:
            return problem(404, "not_found", "there is no task of that id")
        return reply(200, batch_view(succeeded=2, running=1))

    transport = use(handle)

    assert run(["cancel", "b"]) == 0

    assert capsys.readouterr().out == "b cancelled\n"
    assert transport.requests[-1].method == "POST"
    assert transport.requests[-1].path.startswith("/v1/batches/b/cancel")


def test_who_interrupts_a_map_is_told_what_goes_on(
    use: Use, capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    batches: list[Batch] = []

    def interrupted(batch: Batch) -> Iterator[Answer]:
        batches.append(batch)
        raise KeyboardInterrupt

    taken = {"batch": "b", "ids": [ID], "duplicate": False, "estimate": ESTIMATE}
    use(lambda request: reply(202, taken))
    monkeypatch.setattr(Batch, "answers", interrupted)
    (tmp_path / "calls.ndjson").write_text("1\n")

    assert run(["map", "m:f", str(tmp_path / "calls.ndjson")]) == 130

    assert capsys.readouterr().err.endswith(f"them: task-server cancel {batches[0].id}\n")


def test_ls_filters_and_pages(use: Use, capsys: Out) -> None:
    transport = use(lambda request: reply(200, {"tasks": [view()], "next": "abc"}))

    run(["ls", "--state", "queued", "--tag", "x", "--limit", "5"])

    printed = capsys.readouterr()
    assert transport.requests[0].path == "/v1/tasks?state=queued&tag=x&limit=5"
    assert printed.out.split()[:2] == ["id", "state"] and ID in printed.out
    assert printed.err == "more: --cursor abc\n"


def test_lists_of_other_things(use: Use, capsys: Out) -> None:
    use(
        lambda request: reply(
            200, {"workers": [{"name": "w1"}], "functions": [{"function": "m:f"}], "digest": "d"}
        )
    )

    for command in (["workers", "ls"], ["functions", "ls"], ["env", "show", "d"]):
        assert run([*command, "-o", "ndjson"]) == 0

    out = capsys.readouterr().out.splitlines()
    assert json.loads(out[0]) == {"name": "w1"} and json.loads(out[1]) == {"function": "m:f"}
    assert json.loads(out[2])["digest"] == "d"


JUDGED = {
    "calls": 9,
    "error_factor": 1.31,
    "bias_factor": 0.98,
    "at_most_p50": 0.5,
    "at_most_p90": 0.91,
}


def test_accuracy_is_told_of_all_functions_and_of_one(use: Use, capsys: Out) -> None:
    nothing = {"calls": 0, "error_factor": None}
    rows = [{"function": "m:f", "accuracy": JUDGED}, {"function": "m:g", "accuracy": nothing}]

    def handle(request: Request) -> Reply:
        if request.path.endswith("/m:f/accuracy"):
            batches = {"batches": 5, "error_factor": 1.2, "within": 0.8}
            told = {"all": JUDGED, "recent": JUDGED, "batches": batches}
            return reply(200, {"judged": 9, "guessed": 2, **told})
        return reply(200, {"functions": rows})

    use(handle)
    assert run(["functions", "accuracy"]) == 0
    every = capsys.readouterr().out
    assert run(["functions", "accuracy", "m:f"]) == 0
    one = capsys.readouterr()

    assert "m:f" in every and "1.31" in every and "m:g" not in every
    lines = one.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["function", "all", "recent"]
    assert "5 batches: off by a factor of 1.2, 80% within" in lines[3]
    assert "2 more calls" in one.err


def test_map_prints_an_answer_for_each_line(use: Use, capsys: Out, tmp_path: Path) -> None:
    file = tmp_path / "calls.ndjson"
    file.write_text('[1, 2]\n{"x": 3}\n\n"text"\n')
    error = {"kind": "timeout", "type": "", "message": "1 s", "traceback": ""}
    lines = [
        {"index": 0, "id": "a", "state": "succeeded", "encoding": "json", "answer": 1.50},
        {"index": 1, "id": "b", "state": "failed", "error": error},
        {"index": 2, "id": "c", "state": "succeeded", "encoding": "json", "answer": [2]},
    ]

    def handle(request: Request) -> Any:
        if "/answers" in request.path:
            return [json.dumps(line).encode() + b"\n" for line in lines]
        told = {"batch": "b", "ids": ["a", "b", "c"], "duplicate": False, "estimate": ESTIMATE}
        return reply(202, told)

    transport = use(handle)

    assert run(["map", "m:f", str(file)]) == 1
    table = capsys.readouterr()
    assert run(["map", "m:f", str(file), "-o", "ndjson"]) == 1
    full = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert table.out == "1.5\nnull\n[2]\n"
    assert "1: TaskFailed" in table.err and "1 of 3 tasks have no answer" in table.err
    assert [row["state"] for row in full] == ["succeeded", "failed", "succeeded"]
    body = transport.bodies("POST", "/v1/tasks")[0]
    assert [{k: v for k, v in task.items() if k != "id"} for task in body["tasks"]] == [
        {"args": [1, 2]},
        {"args": [], "kwargs": {"x": 3}},
        {"args": ["text"]},
    ]


def test_estimate_says_when_it_guesses(use: Use, capsys: Out) -> None:
    use(lambda request: reply(200, ESTIMATE))
    run(["estimate", "m:f", "1"])
    assert capsys.readouterr().out.splitlines() == [
        "2 ms, most likely 1-3 ms",
        "99 of 100 take at most 5 ms; from 7 calls, off by a factor of 1.2 so far",
    ]

    total = {**ESTIMATE["total"], "unknown_tasks": 1}  # type: ignore[dict-item]
    use(lambda request: reply(200, {**ESTIMATE, "calls": [], "total": total}))
    run(["estimate", "m:f", "1"])
    assert "a guess" in capsys.readouterr().out


def test_a_refused_log_does_not_hide_the_answer(use: Use, capsys: Out) -> None:
    inner = a_server()

    def handle(request: Request) -> Any:
        if "/logs" in request.path or "/estimates" in request.path:
            return problem(404, "not_found")
        return inner(request)

    use(handle)

    assert run(["call", "m:f"]) == 0
    printed = capsys.readouterr()
    assert printed.out == '"1,234,567"\n' and printed.err == "0.8 s (0.6 s install)\n"


def test_without_typer_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from task_server.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 2
    assert "pip install 'task-server[all]'" in ran.stderr and "Traceback" not in ran.stderr


def test_estimate_takes_a_file_of_calls_and_tells_what_more_slots_would_buy(
    use: Use, capsys: Out, tmp_path: Path
) -> None:
    file = tmp_path / "calls.ndjson"
    file.write_text('[1, 2]\n{"x": 3}\n')
    on_slots = [
        {"slots": 1, "eta": {"p10": 40.0, "p50": 50.0, "p90": 60.0}},
        {"slots": 2, "eta": {"p10": 20.0, "p50": 25.0, "p90": 30.0}},
    ]
    told = {**ESTIMATE, "eta_by_slots": on_slots, "memory_bytes": 2**20, "install_seconds": 0.6}
    transport = use(lambda request: reply(200, told))

    assert run(["estimate", "m:f", "--from", str(file)]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "2 ms, most likely 1-3 ms",
        "done in 40-60 s on 1 slot",
        "done in 20-30 s on 2 slots",
        "up to 1 MiB of memory",
        "0.6 s to install what it needs",
    ]
    (body,) = transport.bodies("POST", "/v1/estimates")
    assert body["tasks"] == [{"args": [1, 2]}, {"args": [], "kwargs": {"x": 3}}]


@pytest.mark.parametrize("arguments", [["1", "--from", "-"], ["--from", "/no/such/file"]])
def test_estimates_from_what_is_no_file_of_calls_are_refused(
    use: Use, capsys: Out, arguments: list[str]
) -> None:
    use(lambda request: reply(200, ESTIMATE))

    assert run(["estimate", "m:f", *arguments]) == 2

    assert "--from" in capsys.readouterr().err


def test_capacity_says_what_fits_until_then(use: Use, capsys: Out) -> None:
    told = {
        "finish_by": "2030-01-01T00:00:00Z",
        "seconds": 3600.0,
        "slots": 4,
        "core_seconds": 14400.0,
        "queued": {"p10": 600.0, "p50": 660.0, "p90": 720.0},
        "unknown_tasks": 0,
        "free": {"p10": 13680.0, "p50": 13740.0, "p90": 13800.0},
        "eta": {"p10": 150.0, "p50": 165.0, "p90": 180.0},
        "slots_needed": {"p50": 1, "p90": None},
    }
    transport = use(lambda request: reply(200, told))

    assert run(["capacity", "--finish-by", "2030-01-01T00:00+00:00"]) == 0
    assert run(["capacity", "--finish-by", "8h", "-o", "json"]) == 0

    printed = capsys.readouterr().out
    assert "slots needed: 1, to be sure no number of them does" in printed
    assert "free: 3 h 49 min of one core" in printed
    assert transport.requests[0].path.startswith("/v1/capacity?finish_by=2030-01-01T00")


def test_a_moment_that_is_none_is_a_usage_error(use: Use, capsys: Out) -> None:
    use(lambda request: reply(200, {}))

    assert run(["capacity", "--finish-by", "soon"]) == 2

    assert "--finish-by" in capsys.readouterr().err


def test_explain_says_it_in_a_sentence_and_then_why(use: Use, capsys: Out) -> None:
    summary = "waiting: 0 of 3 workers have 16 GiB free; next slot expected in 12-40 s"
    reason = {"code": "free_memory", "message": "3 workers have not 16 GiB free"}
    told = {"id": ID, "state": "queued", "phase": "waiting", "summary": summary}
    transport = use(lambda _: reply(200, {**told, "reasons": [reason]}))

    run(["explain", ID])
    run(["explain", ID, "-o", "json"])

    printed = capsys.readouterr().out
    assert printed.startswith(f"{summary}\n- 3 workers have not 16 GiB free\n")
    assert '"code": "free_memory"' in printed
    assert {request.path for request in transport.requests} == {f"/v1/tasks/{ID}/explain"}


def test_functions_show_says_what_made_it_slower(use: Use, capsys: Out) -> None:
    old: dict[str, Any] = {"environment": "a" * 64, "changed": {}, "slower": None, "drift": 5.0}
    changed = {"numpy": ["2.3", "2.4"], "gone": ["1.0", None]}
    new = {"environment": "b" * 64, "changed": changed, "slower": 2.31, "drift": 0.5}
    scaling = [
        {"feature": "0", "factor": 950.0, "exponent": 1.98, "least": 10.0, "most": 400.0},
        {"feature": "kind", "factor": 3.0, "exponent": None, "least": None, "most": None},
        {"feature": "1 length", "factor": 2.0, "exponent": 0.5, "least": 1.0, "most": 9.0},
    ]
    told = {"function": "m:f", "calls": 9, "environments": [old, new], "scaling": scaling}
    use(lambda request: reply(200, told))

    assert run(["functions", "show", "m:f"]) == 0

    assert capsys.readouterr().out.splitlines()[2:] == [
        "2.3x slower since gone went, numpy 2.4",
        "2x faster of late, in the same environment",
        "up to 9.5e+02 times by argument 1: power 2 (seen 10 to 400)",
        "up to 3 times by kind",
        "up to 2 times by argument 2, its length: power 0.5 (seen 1 to 9)",
    ]
