"""What each peer does: one small file each, run by the interpreter of its own environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from bench.peers.processes import Processes


class Peer(Protocol):
    """A running system with two worker processes, on loopback."""

    def __init__(self, processes: Processes) -> None:
        """Start it."""

    def submit(self, count: int) -> Iterator[float]:
        """Submit square roots of 0, 1, ...; gives their answers in order."""

    def call(self, number: float) -> float:
        """One square root, submitted and waited for."""

    def echo(self, content: bytes) -> bytes:
        """The content, there and back."""

    def stop(self) -> None:
        """What is to be done before its processes end."""
