"""Resolve what a task asks for into a lock, with uv, once for all workers."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from task_server.environments import uv as uv_text
from task_server.environments.lock import (
    PRIVATE,
    UPLOADED,
    BadLock,
    Lock,
    empty_lock,
    parse_lock,
)
from task_server.environments.requirements import EnvironmentRequest
from task_server.environments.uploads import Uploaded, write_index
from task_server.environments.uv_output import explain, too_young, undated
from task_server.machine import program
from task_server.policy import EVERYTHING, Patterns, Policy, PrivateIndex, matches

log = logging.getLogger(__name__)

LOCK_SECONDS = 120.0
END_SECONDS = 10.0
"""How long to wait for a uv that was killed."""

_ROUNDS = 20


class LockFailed(Exception):
    """A request that could not be locked; `is_retryable` says whether trying later may help.

    `is_away`: the index did not answer, so it is no fault of the request. `output` is what uv
    wrote, as it came.
    """

    def __init__(
        self, message: str, *, is_retryable: bool, is_away: bool = False, output: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.is_retryable = is_retryable
        self.is_away = is_away
        self.output = output


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every lock. `young`: names that the cool-down does not hold for."""

    cool_down_seconds: float = 0.0
    young: Patterns = ()
    private: PrivateIndex | None = None
    policy: Policy = EVERYTHING


_NO_RULES = Rules()


@dataclass(frozen=True, slots=True)
class Known:
    """What was found out about the surroundings, and holds for the next locks too."""

    checked: set[str] = field(default_factory=set)
    """Programs whose version was found right."""
    undated: set[str] = field(default_factory=set)
    """Indexes that do not tell when files were uploaded."""


async def lock(
    request: EnvironmentRequest,
    *,
    uploads: Sequence[Uploaded] = (),
    rules: Rules = _NO_RULES,
    uv: str = "uv",
    timeout_seconds: float = LOCK_SECONDS,
    environ: Mapping[str, str] | None = None,
    index: str | None = None,
    now: Callable[[], float] = time.time,
    known: Known | None = None,
) -> Lock:
    """The newest versions with wheels that fit `request`, for Linux, macOS and Windows.

    A name of `uploads` comes from there alone. `uv` is looked for beside this Python first.
    `environ` (None: this process's) is filtered before uv sees it; `now` gives Unix seconds, for
    the cool-down; `known` remembers from lock to lock. Raises LockFailed; the first line of its
    message names the cause.
    """
    if not request.requirements:
        return empty_lock(request.python)
    with _folder() as folder:
        place = await asyncio.to_thread(_write, folder, request, uploads)
        visible = uv_text.compile_environment(os.environ if environ is None else environ, folder)
        resolver = _Resolver(program(uv), folder, visible, timeout_seconds, known or Known())
        await resolver.check_version()
        resolver.use(request, rules, index, uploads=uploads, place=place)
        output = await resolver.output(now())
        found = _parse(output, request.python, resolver.sources)
    _check_sources(found, rules.private)
    _check_policy(found, rules.policy)
    return found


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for uv; what the disk does to it is a failure that may pass."""
    try:
        with tempfile.TemporaryDirectory(prefix="task-server-lock-") as name:
            yield Path(name)
    except OSError as error:
        message = f"the server cannot write its temporary folder: {error.strerror}"
        raise LockFailed(message, is_retryable=True) from None


class _Resolver:
    """Runs uv until its answer keeps the rules."""

    def __init__(
        self,
        program: str,
        folder: Path,
        environ: dict[str, str],
        timeout_seconds: float,
        known: Known,
    ) -> None:
        self._known = known
        self._program = program
        self._folder = folder
        self._environ = environ
        self._timeout_seconds = timeout_seconds
        self._before: list[str] = []
        self._exempt: set[str] = set()
        self.sources: dict[str, str] = {}
        """Address of an index, to the source of what comes from it."""

    async def check_version(self) -> None:
        """Raise LockFailed for a uv that is too old."""
        if self._program not in self._known.checked:
            wrong = uv_text.too_old(await self._run(uv_text.version_command(self._program)))
            if wrong:
                raise LockFailed(wrong, is_retryable=False)
            self._known.checked.add(self._program)

    def use(
        self,
        request: EnvironmentRequest,
        rules: Rules,
        index: str | None,
        *,
        uploads: Sequence[Uploaded],
        place: str,
    ) -> None:
        """Say what to resolve, and where from."""
        self._request = request
        self._rules = rules
        self._index = index
        if uploads:
            self._before.append(place)
            self.sources[place] = UPLOADED
            self._exempt = {upload.name for upload in uploads}
        if rules.private is not None:
            self._before.append(rules.private.argument)
            self.sources[rules.private.url.rstrip("/")] = PRIVATE
            self._environ.update(rules.private.environ)

    async def output(self, now: float) -> str:
        """What uv resolved. Raises LockFailed."""
        seconds = self._rules.cool_down_seconds
        place = self._index or self._environ.get("UV_DEFAULT_INDEX", "")
        if not seconds or place in self._known.undated:
            return await self._resolve(None)
        moment = datetime.fromtimestamp(now - seconds, UTC).isoformat(timespec="seconds")
        for _ in range(_ROUNDS):
            try:
                return await self._resolve(moment)
            except LockFailed as error:
                if not self._exempted(error):
                    return await self._without_times(error, place)
        raise LockFailed("too many packages are exempt from the cool-down", is_retryable=False)

    def _exempted(self, error: LockFailed) -> bool:
        """Whether one more package that the cool-down does not hold for stood in the way."""
        found = {name for name, _ in too_young(error.output) if matches(name, self._rules.young)}
        private = self._rules.private
        if private is not None:
            found |= {name for name in undated(error.output) if private.has(name)}
        found -= self._exempt
        self._exempt |= found
        return bool(found)

    async def _without_times(self, error: LockFailed, place: str) -> str:
        """Resolve without a cool-down if that failed for want of times, else say what failed."""
        if undated(error.output):
            output = await self._resolve(None)
            self._known.undated.add(place)
            log.warning("the package index does not tell upload times: there is no cool-down")
            return output
        for name, version in too_young(error.output):
            raise LockFailed(self._too_young(name, version), is_retryable=False) from None
        raise error

    def _too_young(self, name: str, version: str) -> str:
        days = self._rules.cool_down_seconds / 86400
        what = f"{name} {version} was" if version else f"all that fits of {name} was"
        return (
            f"{what} uploaded to the package index less than {days:g} days ago; ask for an older"
            " version, wait, or have the server's --young-packages name it"
        )

    async def _resolve(self, exclude_newer: str | None) -> str:
        command = uv_text.compile_command(
            self._program,
            folder=self._folder,
            python=self._request.python,
            interpreter=Path(sys.executable),
            index=self._index,
            before=self._before,
            exclude_newer=exclude_newer,
            exempt=sorted(self._exempt),
        )
        return await self._run(command)

    async def _run(self, command: Sequence[str]) -> str:
        return await _run(command, self._environ, self._folder, self._timeout_seconds)


def _check_sources(found: Lock, private: PrivateIndex | None) -> None:
    """Raise LockFailed unless what is mapped to the private index, and only that, is from there."""
    if private is None:
        return
    for pin in found.pins:
        if private.has(pin.name) and pin.source != PRIVATE:
            message = f"{pin.name} must come from the private index, which does not have it"
            raise LockFailed(message, is_retryable=False)
        if not private.has(pin.name) and pin.source == PRIVATE:
            message = (
                f"{pin.name} is in the private index too, and the server's --private-packages does"
                " not say that it comes from there"
            )
            raise LockFailed(message, is_retryable=False)


def _check_policy(found: Lock, policy: Policy) -> None:
    denied = policy.denied_of(pin.name for pin in found.pins)
    if denied:
        message = f"this server does not allow {', '.join(denied)}, which the request needs"
        raise LockFailed(message, is_retryable=False)


def _write(folder: Path, request: EnvironmentRequest, uploads: Sequence[Uploaded]) -> str:
    """Write what uv reads; gives the URL of the uploads."""
    (folder / uv_text.PROJECT_FILE).write_text(uv_text.project_file(request.python))
    (folder / uv_text.REQUIREMENTS_FILE).write_text("\n".join(request.requirements) + "\n")
    return write_index(folder / "uploads", uploads)


def _parse(output: str, python: str, sources: Mapping[str, str]) -> Lock:
    try:
        return parse_lock(output, python=python, sources=sources)
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
    return LockFailed(
        failure.message,
        is_retryable=failure.is_retryable,
        is_away=failure.is_away,
        output=errors,
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # Reads the pipes to their end, so that they are closed; who left the group may hold them.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await process.communicate()
