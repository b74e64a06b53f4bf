"""A network with nothing in it but the way to the package indexes, for processes of the worker's.

A thread that entered it never leaves it, and what it starts is in it too.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from task_server.worker import child

T = TypeVar("T")

_NEW_NETWORK: Final = 0x40000000
_OF_THREAD: Final = "/proc/thread-self/ns/net"


class OwnNetwork:
    """Made when it is first entered."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._way_out: socket.socket | None = None

    def enter(self) -> None:
        """Move the calling thread there. Raises OSError."""
        kernel = child.Kernel()
        if self._number is not None:
            kernel.call("setns", self._number, _NEW_NETWORK)
            return
        kernel.call("unshare", _NEW_NETWORK)
        child.raise_loopback(kernel)
        self._way_out = socket.create_server((child.LOOPBACK, child.WAY_PORT))
        self._number = os.open(_OF_THREAD, os.O_RDONLY)

    def take_way_out(self) -> socket.socket | None:
        """The socket that listens there; once, and only when somebody has entered."""
        taken, self._way_out = self._way_out, None
        return taken

    def close(self) -> None:
        """It is gone when all in it have ended."""
        if self._way_out is not None:
            self._way_out.close()
        if self._number is not None:
            os.close(self._number)
            self._number = None


def missing() -> str:
    """Why this process cannot have one; "" if it can."""

    def make() -> None:
        network = OwnNetwork()
        try:
            network.enter()
        finally:
            network.close()

    try:
        in_own_thread(make)
    except OSError as error:
        return str(error.strerror or error)
    return ""


def in_own_thread(act: Callable[[], T]) -> T:
    """What `act` gives, run in a thread that ends with it; what it raises is raised here."""
    came: list[T] = []
    failed: list[OSError] = []

    def run() -> None:
        try:
            came.append(act())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="apart")
    thread.start()
    thread.join()
    for error in failed:
        raise error
    return came[0]
