"""Dramatiq with Redis, pickles, and two processes of eight threads."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import cast

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.encoder import PickleEncoder
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers.processes import REDIS, Processes

MILLISECONDS = 120_000
URL = f"{os.environ[REDIS]}?socket_timeout=600"
"""With redis-py's default a wait for an answer ends after seconds."""
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL, encoder=PickleEncoder())))
dramatiq.set_broker(broker)
dramatiq.set_encoder(PickleEncoder())


@dramatiq.actor(store_results=True)
def sqrt(number: float) -> float:
    """A no-op."""
    return math.sqrt(number)


@dramatiq.actor(store_results=True)
def echo(content: bytes) -> bytes:
    """There and back."""
    return content


class Peer:
    """A worker of two processes."""

    def __init__(self, processes: Processes) -> None:
        processes.python("-m", "dramatiq", "bench.peers.dramatiq", "-p", "2", "-t", "8")

    def submit(self, count: int) -> Iterator[float]:
        """A message each."""
        messages = [sqrt.send(number) for number in range(count)]
        return (message.get_result(block=True, timeout=MILLISECONDS) for message in messages)

    def call(self, number: float) -> float:
        """One."""
        answer = sqrt.send(number).get_result(block=True, timeout=MILLISECONDS)
        return cast(float, answer)  # an answer may be anything

    def echo(self, content: bytes) -> bytes:
        """There and back."""
        return cast(bytes, echo.send(content).get_result(block=True, timeout=MILLISECONDS))

    def stop(self) -> None:
        """Its processes end by themselves."""
