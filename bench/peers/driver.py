"""Runs one peer, by the interpreter of its environment, and measures what it is asked for.

    python -m bench.peers.driver NAME FOLDER [redis [option of redis-server ...]]

Asked by lines on stdin (`rate 2000 60`, `calls 200`, `echoes 10 1048576`), it answers each with one
line of JSON, an object with `error` if it could not. Standard library only, besides the peer.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from bench.peers.contract import Peer
from bench.peers.processes import Processes

WARM_TASKS = 100
WAVE = 10_000
"""Tasks submitted before it is looked whether there is time for more."""


def main() -> None:
    """Start, answer, stop."""
    name, folder, *redis = sys.argv[1:]
    # What the peer prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    processes = Processes(Path(folder))
    try:
        if redis:
            processes.redis(redis[1:])
        peer: Peer = importlib.import_module(f"bench.peers.{name}").Peer(processes)
        _check(peer.submit(WARM_TASKS), math.inf)
        _tell(answers, {"ready": True})
        for line in sys.stdin:
            _tell(answers, _measure(peer, *line.split()))
        peer.stop()
    except Exception as error:  # whatever a peer may raise: its row says so
        _tell(answers, {"error": f"{type(error).__name__}: {error}"[:300]})
    finally:
        processes.stop()


def _tell(answers: IO[str], said: dict[str, object]) -> None:
    answers.write(json.dumps(said) + "\n")
    answers.flush()


def _measure(peer: Peer, what: str, *numbers: str) -> dict[str, object]:
    counts = [int(number) for number in numbers]
    if what == "rate":
        return {"value": _rate(peer, *counts)}
    return {"value": _p50(peer, *counts)}


def _rate(peer: Peer, tasks: int, seconds: int) -> float | None:
    """Tasks a second, from the first submit to the last answer within so many seconds.

    None if the submits alone take longer.
    """
    started = time.perf_counter()
    end = started + seconds
    waves = []
    for first in range(0, tasks, WAVE):
        waves.append(peer.submit(min(WAVE, tasks - first)))
        if time.perf_counter() > end:
            return None
    answered = sum(_check(wave, end) for wave in waves)
    return answered / (time.perf_counter() - started)


def _check(answers: Iterable[float], end: float) -> int:
    """How many came by then, after one of each wave at least; all are as they should be."""
    answered = 0
    for number, answer in enumerate(answers):
        if answer != math.sqrt(number):
            raise RuntimeError(f"the answer of task {number} is {answer}")
        answered += 1
        if time.perf_counter() > end:
            break
    return answered


def _p50(peer: Peer, calls: int, length: int = 0) -> float:
    """Milliseconds of calls one after another: square roots, or so many bytes there and back."""
    seconds = []
    for number in range(calls):
        content = os.urandom(length)
        started = time.perf_counter()
        answer = peer.echo(content) if length else peer.call(number)
        seconds.append(time.perf_counter() - started)
        if answer != (content if length else math.sqrt(number)):
            raise RuntimeError("an answer is wrong")
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    main()
