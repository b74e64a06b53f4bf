"""The memory of a server through which many large answers go at once.

    python -m bench.large [--answers 100] [--mib 64] [--blobs s3://BUCKET/PREFIX]

A worker that speaks HTTP uploads all answers at the same time, then as many readers read them all;
each content is its own, made on the way and checked by its digest. Without --blobs they lie on
this machine's disk until the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench.bed import Server
from bench.http import Connection
from bench.memory import peak_rss_mb
from task_server.client.client import Client
from task_server.server.administration import create_token
from task_server.settings import database_url_in

MIB = 2**20
STAND_STILL_SECONDS = 2.0
"""How long all replies stand open and nobody reads on: what is sent too early piles up then."""
LEASE_SECONDS = 900
SILENCE_SECONDS = 600.0


class Target(Struct, frozen=True):
    """A server, and who uses it."""

    url: str
    process: int
    user: str
    """A user's token."""
    worker: str
    """A worker's token."""


class Peaks(Struct, frozen=True):
    """The most memory that the server had had in use, in MB, and how long it took."""

    start: float
    argument: float
    """After one argument of that size was submitted by the Python client."""
    uploads: float
    downloads: float
    upload_seconds: float
    download_seconds: float


class Answer(Struct, frozen=True):
    """One answer, never held whole."""

    number: int
    mib: int

    def pieces(self) -> Iterator[bytes]:
        """Its content, a MiB at a time."""
        rest = random.Random(self.number).randbytes(MIB - 16)
        for place in range(self.mib):
            yield b"%07d %07d\n" % (self.number, place) + rest

    def digest(self) -> str:
        """Hex."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()


class Loader:
    """The worker and the readers, each with a connection of its own."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._worker: dict[str, str] = {}
        self._number = 0

    def submit(self, count: int) -> list[str]:
        """Submit tasks; gives their ids."""
        tasks = [{"function": "builtins:len", "args": [[number]]} for number in range(count)]
        told = self._ask("/v1/tasks", {"tasks": tasks}, self._target.user)
        return [str(each) for each in told["ids"]]

    def lease(self, count: int) -> dict[str, str]:
        """Join, and take so many tasks: id -> lease."""
        join: dict[str, object] = {"name": "loader", "protocol": [1, 1], "slots": count}
        join["pythons"] = [f"{sys.version_info.major}.{sys.version_info.minor}"]
        self._worker = self._ask("/v1/workers", join, self._target.worker)
        leases: dict[str, str] = {}
        while len(leases) < count:
            reply = self._exchange([], want=count - len(leases))
            leases |= {task["id"]: task["lease"] for task in reply["tasks"]}
        return leases

    def upload(self, answer: Answer, digest: str) -> None:
        """Store an answer as a blob."""
        with self._connected(self._target.worker) as connection:
            connection.put(f"/v1/blobs/sha256:{digest}", answer.pieces(), answer.mib * MIB)

    def report(self, digests: dict[str, str]) -> None:
        """Report blobs as what the attempts came to: lease -> digest."""
        reports = [
            {"lease": lease, "outcome": "succeeded", "encoding": "pickle", "blob": f"sha256:{it}"}
            for lease, it in digests.items()
        ]
        reply = self._exchange(reports, want=0)
        statuses = {each["status"] for each in reply["decisions"]}
        if statuses != {200} or len(reply["decisions"]) != len(digests):
            raise RuntimeError(f"reports were decided {statuses}")

    def download(self, task: str, opened: threading.Barrier) -> str:
        """Read an answer, once all are being read; gives its digest."""
        with self._connected(self._target.user) as connection:
            pieces = connection.stream(f"/v1/tasks/{task}/answer")
            digest = hashlib.sha256(next(pieces))
            opened.wait(SILENCE_SECONDS)
            time.sleep(STAND_STILL_SECONDS)
            for piece in pieces:
                digest.update(piece)
            return digest.hexdigest()

    def _exchange(self, reports: list[dict[str, str]], *, want: int) -> dict[str, Any]:
        self._number += 1
        body = {
            "session": self._worker["session"],
            "number": self._number,
            "seen": self._number - 1,
            "want": want,
            "wait": 1,
            "draining": False,
            "reports": reports,
        }
        path = f"/v1/workers/{self._worker['worker']}/exchange"
        return self._ask(path, body, self._target.worker)

    def _ask(self, path: str, body: object, token: str) -> dict[str, Any]:
        with self._connected(token) as connection:
            told: dict[str, Any] = json.loads(connection.post(path, json.dumps(body).encode()))
            return told

    def _connected(self, token: str) -> closing[Connection]:
        return closing(Connection(self._target.url, token, timeout=SILENCE_SECONDS))


def measure(target: Target, *, answers: int, mib: int) -> Peaks:
    """Send that many answers of that many MiB up and down at once."""
    start = peak_rss_mb(target.process)
    _submit_argument(target, mib)
    argument = peak_rss_mb(target.process)
    all_answers = [Answer(number, mib) for number in range(answers)]
    digests = [answer.digest() for answer in all_answers]
    # An argument's task would be dealt too: it is left alone, for its attempt never ends.
    loader = Loader(target)
    tasks = loader.submit(answers)
    leases = loader.lease(answers + 1)
    with ThreadPoolExecutor(answers) as threads:
        begun = time.monotonic()
        list(threads.map(loader.upload, all_answers, digests))
        upload_seconds = time.monotonic() - begun
        uploads = peak_rss_mb(target.process)
        loader.report({leases[task]: digest for task, digest in zip(tasks, digests, strict=True)})
        begun = time.monotonic()
        opened = threading.Barrier(answers)
        read = list(threads.map(lambda task: loader.download(task, opened), tasks))
        download_seconds = time.monotonic() - begun - STAND_STILL_SECONDS
    if read != digests:
        raise RuntimeError("an answer came back with another content")
    downloads = peak_rss_mb(target.process)
    return Peaks(start, argument, uploads, downloads, upload_seconds, download_seconds)


def _submit_argument(target: Target, mib: int) -> None:
    with Client(target.url, target.user) as client:
        client.submit(len, random.Random(0).randbytes(mib * MIB))


@contextmanager
def serving(folder: Path, blobs: str | None) -> Iterator[Target]:
    """A server with its data in a folder."""
    data = folder / "data"
    options = ("--lease-seconds", str(LEASE_SECONDS), *(("--blobs", blobs) if blobs else ()))
    server = Server(data, *options)
    try:
        database = database_url_in(data)
        yield Target(
            url=server.url,
            process=server.process_id,
            user=create_token(database, kind="user", name="reader"),
            worker=create_token(database, kind="worker", name="loader"),
        )
    finally:
        server.stop()


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < 1.5 * needed:
        raise SystemExit(
            f"{needed / MIB:.0f} MiB of answers need 1.5 times as much below {folder}, which has"
            f" {free / MIB:.0f} MiB; choose --data or fewer --answers"
        )


def main(arguments: Sequence[str]) -> int:
    """Measure and show; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.large",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--mib", type=int, default=64, help="size of each")
    parser.add_argument("--blobs", help="where the server keeps them, as its --blobs")
    parser.add_argument("--data", type=Path, help="where the data directory is made")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="task-server-bench-", dir=asked.data) as folder:
        _check_room(Path(folder), asked.answers * asked.mib * MIB)
        with serving(Path(folder), asked.blobs) as target:
            peaks = measure(target, answers=asked.answers, mib=asked.mib)
    total = asked.answers * asked.mib
    print(f"{asked.answers} answers of {asked.mib} MiB at once; most memory in use by the server:")
    print(f"  at the start            {peaks.start:6.0f} MB")
    print(f"  after one such argument {peaks.argument:6.0f} MB")
    print(f"  after all uploads       {peaks.uploads:6.0f} MB  {peaks.upload_seconds:5.0f} s")
    print(f"  after all downloads     {peaks.downloads:6.0f} MB  {peaks.download_seconds:5.0f} s")
    print(f"  ({total} MiB each way)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
