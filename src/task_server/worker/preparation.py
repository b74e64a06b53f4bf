"""What must be there before an attempt can run: its environment, its function, its arguments."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from pathlib import Path
from typing import Literal

from msgspec import UnsetType

from task_server import errors
from task_server.protocol.workers import Assignment, Report
from task_server.worker.absences import Absences
from task_server.worker.attempts import (
    Attempt,
    failed,
    needs_nothing,
    other_call,
    plain_call,
    released,
)
from task_server.worker.calls import Call, CallLimits
from task_server.worker.disk import Disk
from task_server.worker.environments import BuildFailed, Environment, Environments
from task_server.worker.resources import Resources, blobs_in

log = logging.getLogger(__name__)

BUILD_TRIES = 3
BUILD_PAUSE_SECONDS = 1.0


class Preparation:
    """Makes attempts ready to run."""

    def __init__(
        self, environments: Environments, resources: Resources, disk: Disk, limits: CallLimits
    ) -> None:
        self._environments = environments
        self._resources = resources
        self._disk = disk
        self._limits = limits
        self._ready: dict[str, Environment] = {}
        self._absences = Absences()

    def at_once(self, attempt: Attempt) -> Environment | None:
        """The environment, if nothing is to be waited for; the call is made then."""
        environment = self._ready.get(attempt.assignment.environment)
        if environment is None or not needs_nothing(attempt.assignment):
            return None
        attempt.call = plain_call(attempt.assignment, self._limits)
        return environment

    def forget(self, environment: str) -> None:
        """It is removed: the next attempt that needs it has it built."""
        self._ready.pop(environment, None)

    async def prepare(self, attempt: Attempt) -> Environment | Report:
        """Build and fetch what is missing; the report if that cannot be done."""
        try:
            environment = await self._environment(attempt)
            attempt.call = await self._call(attempt)
            return environment
        except BuildFailed as error:
            return self._not_built(attempt, error)
        except errors.RequestError as error:
            return failed(attempt, "not_found", f"what the task needs is not there: {error}")
        except errors.ServerUnreachable as error:
            log.warning("a task cannot be prepared: %s", error)
            return released(attempt)
        except OSError as error:
            log.warning("a task cannot be prepared here: %s", error)
            return released(attempt, unfit=not self._disk.note(error))

    def _not_built(self, attempt: Attempt, error: BuildFailed) -> Report:
        if error.is_unfit:
            log.warning("an environment does not fit here: %s", error)
            return released(attempt, unfit=True)
        if error.is_away:
            seconds = self._absences.note(attempt.assignment.environment, time.monotonic())
            log.warning("an environment is built again in %.0f s: %s", seconds, error)
            return released(attempt, pause_seconds=seconds)
        return failed(attempt, "environment", str(error))

    async def _environment(self, attempt: Attempt) -> Environment:
        digest = attempt.assignment.environment
        found = self._ready.get(digest)
        if found is not None:
            return found
        attempt.phase = "installing"
        begun = time.monotonic()
        found = self._ready[digest] = await self._build(digest)
        self._absences.forget(digest)
        attempt.install_seconds = time.monotonic() - begun
        attempt.phase = "leased"
        return found

    async def _build(self, digest: str) -> Environment:
        for _ in range(BUILD_TRIES - 1):
            try:
                return await self._environments.ready(digest, self._resources.lock)
            except BuildFailed as error:
                if error.is_unfit or not error.is_retryable or self._absences.has(digest):
                    raise
                await asyncio.sleep(BUILD_PAUSE_SECONDS)
        return await self._environments.ready(digest, self._resources.lock)

    async def _call(self, attempt: Attempt) -> Call:
        assignment = attempt.assignment
        if needs_nothing(assignment):
            return plain_call(assignment, self._limits)
        pickled = None
        if not isinstance(assignment.function, str):
            pickled = await self._read_blob(assignment.function.pickle)
        encoding, payload = await self._arguments(assignment)
        if isinstance(payload, Path):
            attempt.files = (payload,)
        blobs = await self._named_in(attempt, payload) if encoding == "json" else {}
        return other_call(
            assignment,
            self._limits,
            encoding=encoding,
            payload=payload,
            pickled=pickled,
            blobs=blobs,
        )

    async def _arguments(
        self, assignment: Assignment
    ) -> tuple[Literal["json", "pickle"], bytes | Path]:
        """Their encoding, and they themselves or the file that they are in."""
        call = assignment.call
        if isinstance(call, UnsetType):
            args, kwargs = bytes(assignment.args) or b"[]", bytes(assignment.kwargs) or b"{}"
            return "json", b"[" + args + b"," + kwargs + b"]"
        if isinstance(call.blob, str):
            return call.encoding, await self._resources.blob(call.blob)
        return call.encoding, base64.b64decode(call.data or "")

    async def _named_in(self, attempt: Attempt, payload: bytes | Path) -> dict[str, str]:
        """Files of the blobs that JSON arguments name."""
        if isinstance(payload, Path):
            payload = await asyncio.to_thread(payload.read_bytes)
        found = {}
        for name in blobs_in(payload):
            path = await self._resources.blob(name)
            attempt.files += (path,)
            found[name] = str(path)
        return found

    async def _read_blob(self, name: str) -> bytes:
        path = await self._resources.blob(name)
        return await asyncio.to_thread(path.read_bytes)
