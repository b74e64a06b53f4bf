"""Ray on two processors of this machine, without its dashboard."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import cast

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray

from bench.peers.processes import Processes

AT_ONCE = 1000
"""Answers fetched together."""


@ray.remote
def sqrt(number: float) -> float:
    """A no-op."""
    return math.sqrt(number)


@ray.remote
def echo(content: bytes) -> bytes:
    """There and back."""
    return content


class Peer:
    """A cluster of one machine."""

    def __init__(self, processes: Processes) -> None:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )

    def submit(self, count: int) -> Iterator[float]:
        """A reference each."""
        return _answers([sqrt.remote(number) for number in range(count)])

    def call(self, number: float) -> float:
        """One."""
        return cast(float, ray.get(sqrt.remote(number)))  # an answer may be anything

    def echo(self, content: bytes) -> bytes:
        """There and back."""
        return cast(bytes, ray.get(echo.remote(content)))

    def stop(self) -> None:
        """End its processes."""
        ray.shutdown()


def _answers(references: Sequence[object]) -> Iterator[float]:
    for start in range(0, len(references), AT_ONCE):
        yield from ray.get(references[start : start + AT_ONCE])
