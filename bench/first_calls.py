"""First calls of functions whose packages are not on the machine, or only in uv's cache."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.bed import Bed, Place, bed
from bench.figures import Figure
from bench.http import Connection
from bench.sizes import Size

VERSIONS = ("4.9.0", "4.10.0", "4.11.0", "4.12.0", "4.12.3")
"""Of humanize: each makes an environment of its own."""
FURTHER_CALLS = 50


def first_calls(place: Place, parent: Path | None, size: Size) -> list[Figure]:
    """With a cache of their own, empty at first; then again by a fresh server and worker."""
    with tempfile.TemporaryDirectory(prefix="bench-cache-", dir=parent) as cache:
        Path(cache).chmod(0o755)
        variables = {"UV_CACHE_DIR": cache}
        with bed(place, parent, variables=variables) as made:
            cold = _calls(made, VERSIONS)
        with bed(place, parent, variables=variables) as made:
            warm = _calls(made, VERSIONS)
            further = _calls(made, VERSIONS[-1:] * FURTHER_CALLS)
    return [
        Figure("first call, packages from the index", 1000 * statistics.median(cold), "ms"),
        Figure("first call, packages in the cache", 1000 * statistics.median(warm), "ms"),
        Figure("further calls there, p50", 1000 * statistics.median(further), "ms"),
    ]


def _calls(bed: Bed, versions: Sequence[str]) -> list[float]:
    """Seconds until each answer is there."""
    connection = bed.connect()
    return [_call(connection, version) for version in versions]


def _call(connection: Connection, version: str) -> float:
    task = {"function": "humanize:intcomma", "package": "humanize", "version": version}
    body = msgspec.json.encode(task | {"args": [1234567]})
    started = time.perf_counter()
    reply = connection.post("/v1/tasks?wait=60", body)
    took = time.perf_counter() - started
    if msgspec.json.decode(reply).get("answer") != "1,234,567":
        raise RuntimeError(f"a call did not succeed: {reply.decode()}")
    return took
