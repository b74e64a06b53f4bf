"""The peers there are."""

from __future__ import annotations

from msgspec import Struct

NO_FSYNC = ("--save", "")
"""Redis keeps all in memory alone."""
FSYNC = (*NO_FSYNC, "--appendonly", "yes", "--appendfsync", "always")


class Entry(Struct, frozen=True):
    """One of them."""

    title: str
    module: str
    """Of this package; its requirements are in a file of the same name."""
    is_durable: bool = False
    """Whether a submit and an answer are fsynced before they are acknowledged."""
    redis: tuple[str, ...] | None = None
    """Options of the Redis server that it needs."""
    is_own: bool = False
    """Runs in this project's environment."""


OURS: dict[str, Entry] = {
    "process-pool": Entry("ProcessPoolExecutor(2)", "process_pool", is_own=True),
    "task-server": Entry("task-server, Executor.map", "task_server", is_durable=True, is_own=True),
}
"""Always measured: the reference and this project."""

PEERS: dict[str, Entry] = {
    "celery": Entry("Celery, Redis", "celery", redis=NO_FSYNC),
    "celery-fsync": Entry("Celery, Redis that fsyncs", "celery", is_durable=True, redis=FSYNC),
    "ray": Entry("Ray", "ray"),
    "dask": Entry("Dask", "dask"),
    "huey": Entry("Huey, Redis", "huey", redis=NO_FSYNC),
    "saq": Entry("saq, Redis", "saq", redis=NO_FSYNC),
    "rq": Entry("RQ, Redis, no fork", "rq", redis=NO_FSYNC),
    "dramatiq": Entry("Dramatiq, Redis, 8 threads", "dramatiq", redis=NO_FSYNC),
}
"""By the name that `--peers` takes."""
