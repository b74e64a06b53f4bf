"""This project, by its Python client: a server on SQLite and a worker with two slots."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

from bench.bed import bed
from bench.peers.processes import Processes
from task_server import Client, Executor


class Peer:
    """`Executor.map` for many, `Client.call` for one."""

    def __init__(self, processes: Processes) -> None:
        self._stack = ExitStack()
        made = self._stack.enter_context(bed(parent=processes.folder))
        self._client = self._stack.enter_context(Client(made.url, made.token))
        self._executor = self._stack.enter_context(Executor(client=self._client))

    def submit(self, count: int) -> Iterator[float]:
        """As one batch, without a chunksize."""
        return self._executor.map(math.sqrt, range(count))

    def call(self, number: float) -> float:
        """One."""
        return cast(float, self._client.call("math:sqrt", number))  # an answer may be anything

    def echo(self, content: bytes) -> bytes:
        """There and back."""
        return cast(bytes, self._client.call("copy:copy", content))

    def stop(self) -> None:
        """End server and worker."""
        self._stack.close()
