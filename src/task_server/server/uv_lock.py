"""Resolve what a task asks for into a lock, with uv, once for all workers."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from task_server.environments import uv as uv_text
from task_server.environments.lock import BadLock, Lock, empty_lock, parse_lock
from task_server.environments.requirements import EnvironmentRequest
from task_server.environments.uv_output import explain

LOCK_SECONDS = 120.0


class LockFailed(Exception):
    """A request that could not be locked; `is_retryable` says whether trying later may help.

    `is_away`: the index did not answer, so it is no fault of the request.
    """

    def __init__(self, message: str, *, is_retryable: bool, is_away: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.is_retryable = is_retryable
        self.is_away = is_away


async def lock(
    request: EnvironmentRequest,
    *,
    uv: str = "uv",
    timeout_seconds: float = LOCK_SECONDS,
    environ: Mapping[str, str] | None = None,
    index: str | None = None,
    exclude_newer: str | None = None,
) -> Lock:
    """The newest versions with wheels that fit `request`, for Linux, macOS and Windows.

    `uv` is looked for beside this Python first. `environ` (None: this process's) is filtered
    before uv sees it. `exclude_newer` is an absolute time (RFC 3339). Raises
    LockFailed; the first line of its message names the cause.
    """
    if not request.requirements:
        return empty_lock(request.python)
    with tempfile.TemporaryDirectory(prefix="task-server-lock-") as name:
        folder = Path(name)
        _write(folder, request)
        command = uv_text.compile_command(
            _program(uv),
            folder=folder,
            python=request.python,
            interpreter=Path(sys.executable),
            index=index,
            exclude_newer=exclude_newer,
        )
        visible = uv_text.compile_environment(os.environ if environ is None else environ, folder)
        output = await _run(command, visible, folder, timeout_seconds)
    return _parse(output, request.python)


def _program(uv: str) -> str:
    # Installed with us it lies beside our interpreter, which need not be on the PATH.
    beside = Path(sys.executable).parent / uv
    return str(beside) if beside.exists() else uv


def _write(folder: Path, request: EnvironmentRequest) -> None:
    (folder / uv_text.PROJECT_FILE).write_text(uv_text.project_file(request.python))
    (folder / uv_text.REQUIREMENTS_FILE).write_text("\n".join(request.requirements) + "\n")


def _parse(output: str, python: str) -> Lock:
    try:
        return parse_lock(output, python=python)
    except BadLock as error:
        raise LockFailed(f"uv gave no lock that can be used: {error}", is_retryable=False) from None


async def _run(
    command: Sequence[str], environ: Mapping[str, str], folder: Path, timeout_seconds: float
) -> str:
    process = await _start(command, environ, folder)
    try:
        async with asyncio.timeout(timeout_seconds):
            output, errors = await process.communicate()
    except TimeoutError:
        message = f"the package index did not answer within {timeout_seconds:g} s"
        raise LockFailed(message, is_retryable=True, is_away=True) from None
    finally:
        await _end(process)
    if process.returncode:
        raise _failed(process.returncode, errors.decode(errors="replace"))
    return output.decode()


async def _start(
    command: Sequence[str], environ: Mapping[str, str], folder: Path
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            env=environ,
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise LockFailed(f"uv cannot be started: {error.strerror}", is_retryable=True) from None


def _failed(returncode: int, errors: str) -> LockFailed:
    if returncode < 0:
        return LockFailed(f"uv was killed by signal {-returncode}", is_retryable=True)
    failure = explain(errors)
    return LockFailed(failure.message, is_retryable=failure.is_retryable, is_away=failure.is_away)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()  # reads the pipes to their end, so that they are closed
