"""How a worker comes to a server: what it says of itself, and the name it is known by."""

from __future__ import annotations

import logging
import platform
from pathlib import Path

import msgspec

from task_server import errors
from task_server.client.aio import AsyncTransport
from task_server.client.requests import refusal
from task_server.machine import available_cpus
from task_server.options import labels_of
from task_server.protocol.workers import PROTOCOL, Join, Joined
from task_server.settings import WorkerSettings
from task_server.worker.sandbox.limits import share_of_memory

log = logging.getLogger(__name__)

JSON = {"Content-Type": "application/json"}
_encode = msgspec.json.Encoder().encode
_joined = msgspec.json.Decoder(Joined).decode


class Refused(errors.TaskServerError):
    """The server does not want this worker: its token, or its version."""


def check_refused(error: errors.RequestError) -> None:
    """Raise Refused for what no later try will change."""
    if error.status in (401, 403, 426):
        raise Refused(f"the server refuses this worker: {error}")


class Membership:
    """One worker's with one server."""

    def __init__(
        self, settings: WorkerSettings, transport: AsyncTransport, identity: Path, *, version: str
    ) -> None:
        """`identity`: the file that keeps what the server knows this worker by."""
        self._settings = settings
        self._transport = transport
        self._path = identity
        self._version = version

    async def ask(self, *, level: int, gpus: int, pythons: list[str]) -> Joined:
        """Present the worker; `level`: of its sandbox.

        Raises Refused, or ServerUnreachable, RequestError or DecodeError, to be tried again.
        """
        presentation = Join(
            name=self._settings.name,
            protocol=(PROTOCOL, PROTOCOL),
            slots=self._settings.slots,
            worker=self._identity(),
            labels=labels_of(self._settings.labels),
            cpu=float(available_cpus()),
            memory=share_of_memory(1),
            gpu=gpus,
            pythons=pythons,
            sandbox=level,
            platform=platform.platform(),
            version=self._version,
        )
        reply = await self._transport.request("POST", "/v1/workers", _encode(presentation), JSON)
        if reply.status >= 300:
            error = refusal(reply)
            check_refused(error)
            raise error
        joined = _joined(reply.body)
        self._keep_identity(joined.worker)
        return joined

    def _identity(self) -> str | None:
        """What the server knows this worker by; None if it has never joined."""
        return (self._path.read_text().strip() if self._path.exists() else "") or None

    def _keep_identity(self, worker: str) -> None:
        if worker == self._identity():
            return  # writing it again on a full disk would lose it
        try:
            self._path.write_text(worker)
        except OSError as error:
            log.error("the worker's identity cannot be kept: %s; it will join anew", error)
