"""Commands that call functions: call, submit, map, estimate."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from task_server.cli.estimates import in_words
from task_server.cli.exits import TASK_FAILED
from task_server.cli.output import Format, Output, as_row, note, show_one
from task_server.cli.resources import Cpu, Gpu, Labels, Memory, required
from task_server.cli.waiting import error_of
from task_server.client import requests
from task_server.client.batch import Answer
from task_server.client.client import Client, RemoteFunction
from task_server.client.durations import duration, span
from task_server.client.future import Future
from task_server.client.options import Options
from task_server.client.submission import Arguments
from task_server.errors import RequestError, TaskServerError
from task_server.protocol.tasks import TaskView

TIMES = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


def _not_empty(name: str) -> str:
    if not name:
        raise typer.BadParameter("it is empty")
    return name


FunctionName = Annotated[
    str,
    typer.Argument(
        metavar="FUNCTION", help="module:qualname, such as math:factorial.", callback=_not_empty
    ),
]
ArgumentTexts = Annotated[
    list[str] | None, typer.Argument(metavar="[ARG]...", help="JSON, else taken as text.")
]
Keywords = Annotated[
    list[str] | None, typer.Option("-k", metavar="NAME=VALUE", help="A keyword argument.")
]
Packages = Annotated[
    list[str] | None, typer.Option("-p", "--package", help="What to install; may be repeated.")
]
Requirements = Annotated[
    Path | None, typer.Option("-r", "--requirements", help="A requirements file.")
]
Script = Annotated[
    Path | None, typer.Option(help="A script whose header says what it needs (PEP 723).")
]
Timeout = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS|auto", help="How long the run may take; auto: by its calls so far."
    ),
]
Retries = Annotated[int | None, typer.Option(help="How often a failed run is tried again.")]
Priority = Annotated[int | None, typer.Option(help="-10 to 10, higher first.")]
FinishBy = Annotated[
    datetime | None,
    typer.Option(formats=TIMES, help="When it is wanted; it starts before what has more time."),
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A text to find the task by.")]
Python = Annotated[str | None, typer.Option(help="Minor version, such as 3.11.")]
Wait = Annotated[float | None, typer.Option(help="Seconds to wait before giving up (exit 124).")]

# Negative numbers look like options; `_arguments` refuses what is neither.
_NUMBERS_MAY_BE_NEGATIVE = {"ignore_unknown_options": True}


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(context_settings=_NUMBERS_MAY_BE_NEGATIVE)(call)
    app.command(context_settings=_NUMBERS_MAY_BE_NEGATIVE)(submit)
    app.command("map")(map_file)
    app.command(context_settings=_NUMBERS_MAY_BE_NEGATIVE)(estimate)


def call(
    function: FunctionName,
    arguments: ArgumentTexts = None,
    keywords: Keywords = None,
    package: Packages = None,
    timeout: Timeout = None,
    retries: Retries = None,
    priority: Priority = None,
    finish_by: FinishBy = None,
    tag: Tags = None,
    python: Python = None,
    requirements: Requirements = None,
    script: Script = None,
    memory: Memory = None,
    cpu: Cpu = None,
    gpu: Gpu = None,
    label: Labels = None,
    wait: Wait = None,
) -> None:
    """Call a function, wait, and print its answer as JSON.

    Example: task-server call humanize:intcomma 1234567 -p humanize
    """
    args, kwargs = _arguments(arguments, keywords)
    client = _client(timeout, retries, priority, finish_by, tag, python)
    client = client.options(**files(requirements, script))
    client = client.options(**required(memory, cpu, gpu, label))
    remote = client.function(function, package=_named(package))
    future = remote.submit(*args, **kwargs)
    try:
        error = error_of(client, future, wait)
    except KeyboardInterrupt:
        note(f"the task goes on; to stop it: task-server cancel {future.id}")
        raise
    _show_log(future)
    if error is not None:
        _show_error(error)
        raise typer.Exit(TASK_FAILED)
    answer = client.session.send(requests.read_answer(future.id)).body
    print(answer.decode("utf-8", "replace"), flush=True)
    note(_summary(future.status(), remote, (args, kwargs)))


def submit(
    function: FunctionName,
    arguments: ArgumentTexts = None,
    keywords: Keywords = None,
    package: Packages = None,
    timeout: Timeout = None,
    retries: Retries = None,
    priority: Priority = None,
    finish_by: FinishBy = None,
    tag: Tags = None,
    python: Python = None,
    requirements: Requirements = None,
    script: Script = None,
    memory: Memory = None,
    cpu: Cpu = None,
    gpu: Gpu = None,
    label: Labels = None,
    output: Output = Format.TABLE,
) -> None:
    """Submit a task and print its id.

    Example: task-server submit math:factorial 20000
    """
    args, kwargs = _arguments(arguments, keywords)
    client = _client(timeout, retries, priority, finish_by, tag, python)
    client = client.options(**files(requirements, script))
    client = client.options(**required(memory, cpu, gpu, label))
    future = client.function(function, package=_named(package)).submit(*args, **kwargs)
    if output is Format.TABLE:
        print(future.id)
    else:
        show_one({"id": future.id}, output)


def map_file(
    function: FunctionName,
    file: Annotated[Path, typer.Argument(metavar="FILE.ndjson", help="- for stdin.")],
    package: Packages = None,
    timeout: Timeout = None,
    retries: Retries = None,
    priority: Priority = None,
    finish_by: FinishBy = None,
    tag: Tags = None,
    python: Python = None,
    requirements: Requirements = None,
    script: Script = None,
    memory: Memory = None,
    cpu: Cpu = None,
    gpu: Gpu = None,
    label: Labels = None,
    output: Output = Format.TABLE,
) -> None:
    """Call a function for each line of a file, and print the answers in order, one a line.

    A line is a JSON array of arguments, an object of keyword arguments, or else the only argument.
    A task without an answer prints null, and its error on stderr; -o ndjson tells both.
    """
    client = _client(timeout, retries, priority, finish_by, tag, python)
    client = client.options(**files(requirements, script))
    client = client.options(**required(memory, cpu, gpu, label))
    calls = list(_calls(_lines(file)))
    batch = client.submit_all(function, calls, package=_named(package))
    failures = 0
    try:
        with batch.bar() as bar:
            for answer in batch.answers():
                failures += answer.state != "succeeded"
                with bar.aside():
                    _show_answer(answer, output)
    except KeyboardInterrupt:
        note(f"the tasks go on; to stop them: task-server cancel {batch.id}")
        raise
    if failures:
        note(f"{failures} of {len(batch)} tasks have no answer")
        raise typer.Exit(TASK_FAILED)


def estimate(
    function: FunctionName,
    arguments: ArgumentTexts = None,
    keywords: Keywords = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE.ndjson", help="Many calls; - for stdin.")
    ] = None,
    package: Packages = None,
    python: Python = None,
    requirements: Requirements = None,
    script: Script = None,
    output: Output = Format.TABLE,
) -> None:
    """Predict how long a call would run, or many: nothing is run.

    A line of FILE.ndjson is a call, as for map. Example: seq 1 1000 | task-server estimate
    math:factorial --from -
    """
    client = Client().options(python=python).options(**files(requirements, script))
    if from_file is None:
        args, kwargs = _arguments(arguments, keywords)
        told = client.function(function, package=_named(package)).estimate(*args, **kwargs)
    elif arguments or keywords:
        raise typer.BadParameter("either arguments or --from", param_hint="--from")
    else:
        calls = _calls(_lines(from_file, "--from"))
        try:
            told = client.estimate_all(function, calls, package=_named(package))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--from") from None
    if output is Format.TABLE:
        print("\n".join(in_words(told)))
    else:
        show_one(as_row(told), output)


def _client(
    timeout: str | None,
    retries: int | None,
    priority: int | None,
    finish_by: datetime | None,
    tags: list[str] | None,
    python: str | None,
) -> Client:
    return Client().options(
        timeout=_seconds(timeout),
        retries=retries,
        priority=priority,
        finish_by=finish_by,
        tags=tags or None,
        python=python,
        result_encoding="json",
    )


def _seconds(timeout: str | None) -> float | Literal["auto"] | None:
    if timeout is None or timeout == "auto":
        return None if timeout is None else "auto"
    try:
        return float(timeout)
    except ValueError:
        raise typer.BadParameter("--timeout is a number of seconds, or auto") from None


def files(requirements: Path | None, script: Path | None) -> Options:
    """The options of a client that come from files."""
    found: Options = {}
    if requirements is not None:
        found["requirements"] = "".join(_lines(requirements, "--requirements"))
    if script is not None:
        found["script"] = "".join(_lines(script, "--script"))
    return found


def _named(packages: list[str] | None) -> str | list[str] | None:
    return packages[0] if packages and len(packages) == 1 else packages or None


def _arguments(texts: list[str] | None, keywords: list[str] | None) -> Arguments:
    kwargs: dict[str, Any] = {}
    for text in keywords or ():
        name, sign, value = text.partition("=")
        if not (sign and name):
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="-k")
        kwargs[name] = _value(value)
    return [_positional(text) for text in texts or ()], kwargs


def _positional(text: str) -> Any:
    value = _value(text)
    if text.startswith("-") and value is text:
        raise typer.BadParameter(f"no such option: {text}; as text it is written '\"{text}\"'")
    return value


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return text


def _lines(file: Path, option: str = "FILE.ndjson") -> Iterator[str]:
    if str(file) == "-":
        yield from sys.stdin
        return
    try:
        with file.open(encoding="utf-8") as lines:
            yield from lines
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint=option) from error


def _calls(lines: Iterable[str]) -> Iterator[Arguments]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise typer.BadParameter(
                f"line {number} is not JSON: {error}", param_hint="FILE.ndjson"
            ) from error
        yield _line_arguments(value)


def _line_arguments(value: Any) -> Arguments:
    if isinstance(value, list):
        return value, {}
    if isinstance(value, dict):
        return [], value
    return [value], {}


def _show_answer(answer: Answer, output: Format) -> None:
    row: dict[str, Any] = {"index": answer.index, "id": answer.id, "state": answer.state}
    error = answer.exception()
    if output is Format.TABLE:
        raw = answer.json
        print(
            raw.decode()
            if raw
            else msgspec.json.encode(None if error else answer.result()).decode()
        )
        if error is not None:
            note(f"{answer.index}: {type(error).__name__}: {error}")
        return
    row |= {"error": str(error)} if error else {"answer": answer.result()}
    print(msgspec.json.encode(row).decode())


def _show_error(error: BaseException) -> None:
    if isinstance(error, TaskServerError):
        raise error
    if error.__cause__ is not None:
        note(str(error.__cause__).strip().strip('"').strip())
    note(f"{type(error).__name__}: {error}")


def _show_log(future: Future[Any]) -> None:
    try:
        text = future.logs()
    except RequestError:  # a task without a log, or a server that keeps none
        return
    if text:
        sys.stderr.write(text if text.endswith("\n") else text + "\n")


def _summary(view: TaskView, remote: RemoteFunction, call: Arguments) -> str:
    parts = []
    if view.ended_at is not None:
        parts.append(duration((view.ended_at - view.submitted_at).total_seconds()))
    if view.install_seconds and view.install_seconds >= 0.05:
        parts[-1:] = [f"{' '.join(parts[-1:])} ({duration(view.install_seconds)} install)".strip()]
    try:
        following = remote.estimate(*call[0], **call[1])
    except RequestError:
        return "; ".join(parts)
    if following.known:
        parts.append(f"next call {span(following.p10, following.p90)}")
    return "; ".join(parts)
