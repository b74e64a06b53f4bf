"""Where a runner in a network of its own hands out the socket that leads to the package indexes.

The runner makes it listen inside, before any function is there, and keeps no hold of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from task_server.worker.sandbox.relay import Relay


class Door:
    """Of one runner. `number` is the descriptor that the runner sends its socket through."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.number = self._theirs.fileno()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: asyncio.Task[asyncio.Server] | None = None

    def open(self) -> None:
        """The runner has started: take what it hands out. Call it in the agent's loop."""
        self._theirs.close()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._ours, self._take)

    def _take(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._ours)
        with contextlib.suppress(OSError):
            _, numbers, _, _ = socket.recv_fds(self._ours, 1, 1)
            for number in numbers:
                listener = socket.socket(fileno=number)
                self._serving = self._loop.create_task(self._relay.serve(listener))

    def close(self) -> None:
        """Nothing gets through any more. Any thread may call it."""
        self._theirs.close()
        if self._loop is None or self._loop.is_closed():
            self._ours.close()
        else:
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._ours)
        self._ours.close()
        if self._serving is not None:
            self._serving.add_done_callback(_stop)


def _stop(serving: asyncio.Task[asyncio.Server]) -> None:
    if not serving.cancelled() and serving.exception() is None:
        serving.result().close()
