"""How soon the first call into a package is answered, and what its environment takes on disk.

    python -m bench.environments [--rounds 5] [--data DIR]

Needs the package index once: then uv's cache is warm, and what is measured is everything else.
Each figure is the median of the rounds; the processor seconds beside it are those of the server and
the worker with all that they started, which other work on the machine does not add to.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct

from bench.bed import Bed, bed
from bench.processors import spent_seconds
from task_server.machine import available_cpus

HUMANIZE = ("4.9.0", "4.10.0", "4.11.0", "4.12.0", "4.12.1", "4.12.2", "4.12.3", "4.13.0", "4.14.0")
AT_ONCE = 8
SETTLE_SECONDS = 120.0
MIB = 1 << 20

Body = Mapping[str, object]


class Round(Struct, frozen=True):
    """One first call."""

    seconds: float
    processor_seconds: float


class Line(Struct, frozen=True):
    """One figure beside its bound, which is infinite where there is none."""

    name: str
    value: float
    unit: str
    most: float
    note: str = ""


def humanize(version: str) -> Body:
    """A call whose environment is that version's."""
    call = {"function": "humanize:intcomma", "args": [1234567]}
    return call | {"package": "humanize", "version": version}


def learn(version: str) -> Body:
    """A call into scikit-learn, in an environment that shares all but humanize with others."""
    call = {"function": "sklearn.datasets:make_blobs", "kwargs": {"n_samples": 3}}
    return call | {"package": ["scikit-learn", f"humanize=={version}"]}


class Course:
    """Makes first calls on one bed."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._connection = bed.connect()

    def call(self, body: Body) -> str:
        """Make a call and wait for its answer; the digest of its environment."""
        reply = self._connection.post("/v1/tasks?wait=60", msgspec.json.encode(body))
        digest: str = _succeeded(reply)["environment"]
        return digest

    def measured(self, body: Body) -> tuple[str, Round]:
        """The same, and what it took."""
        before, begun = spent_seconds(self._bed), time.perf_counter()
        digest = self.call(body)
        took = time.perf_counter() - begun
        return digest, Round(took, spent_seconds(self._bed) - before)

    def keep(self, package: object) -> None:
        """Have the worker keep the environment of a package, whatever else is removed."""
        self._connection.post("/v1/environments?wait=60", msgspec.json.encode({"package": package}))

    def forget(self, digest: str) -> None:
        """Have the worker remove an environment; its lock stays on the server."""
        self._connection.post(
            "/v1/environments/collect?wait=30", msgspec.json.encode({"environments": [digest]})
        )
        _wait(lambda: not (self.folder / digest).exists(), "an environment is not removed")

    def settle(self) -> None:
        """Wait until all byte code is compiled: for two seconds nothing is new, nor half done."""
        store, seen, since = self.folder / "bytecode", set[str](), time.monotonic()
        while time.monotonic() - since < 2:
            found = {each.name for each in store.glob("*")}
            if found != seen or any(".partial-" in name for name in found):
                seen, since = found, time.monotonic()
            time.sleep(0.2)

    def bare(self, digest: str, module: str) -> Round:
        """What a process of the environment takes that imports a module and does no more."""
        folder = self.folder / digest
        packages = next(folder.glob("lib/python3*/site-packages"))
        code = f"import sys; sys.path.append({str(packages)!r}); import {module}"
        before, begun = _children_seconds(), time.perf_counter()
        subprocess.run([folder / "bin" / "python", "-I", "-S", "-B", "-c", code], check=True)
        return Round(time.perf_counter() - begun, _children_seconds() - before)

    @property
    def folder(self) -> Path:
        """Where the worker has its environments."""
        return self._bed.folder / "worker-0" / "environments"

    def size(self) -> int:
        """Bytes on disk of all environments with their byte code; what is shared counts once."""
        inodes = {
            (found.st_dev, found.st_ino): found.st_blocks * 512
            for path in self.folder.rglob("*")
            if (found := path.lstat())
        }
        return sum(inodes.values())

    def built(self) -> int:
        """How many environments the worker says it built so far."""
        return (self._bed.folder / "worker-0.log").read_text().count(" built environment ")

    def at_once(self, body: Body, calls: int) -> None:
        """Make the same call on many connections at once."""
        data = msgspec.json.encode(body)
        connections = [self._bed.connect() for _ in range(calls)]
        with ThreadPoolExecutor(calls) as pool:
            for reply in pool.map(lambda each: each.post("/v1/tasks?wait=60", data), connections):
                _succeeded(reply)


def _succeeded(reply: bytes) -> dict[str, Any]:
    view: dict[str, Any] = msgspec.json.decode(reply)
    if view["state"] != "succeeded":
        raise RuntimeError(f"a call did not succeed: {view}")
    return view


def _children_seconds() -> float:
    """Processor time of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait(is_so: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + SETTLE_SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(0.05)


def fill_cache(parent: Path | None, rounds: int) -> None:
    """Let uv fetch all that is measured, for a worker that nobody uses afterwards."""
    with bed(parent=parent) as place:
        course = Course(place)
        for version in HUMANIZE[: rounds + 1]:
            course.call(humanize(version))
        course.call(learn(HUMANIZE[0]))


def small(course: Course, versions: Sequence[str]) -> list[Line]:
    """First calls of humanize: with locking, and from the lock that is there then."""
    course.call({"function": "len", "args": [[]]})  # the first runner compiles for all
    locking, stored = [], []
    for version in versions:
        digest, round_ = course.measured(humanize(version))
        locking.append(round_)
        course.forget(digest)
        stored.append(course.measured(humanize(version))[1])
    return [
        _line("humanize, from a stored lock", stored, 300),
        _line("humanize, with locking", locking, 600),
    ]


def large(course: Course, versions: Sequence[str]) -> list[Line]:
    """First calls of scikit-learn, when another environment has its byte code."""
    course.keep(learn(versions[0])["package"])
    course.settle()
    stored, bare, sizes = [], [], []
    for version in versions[1:]:
        before = course.size()
        digest = course.call(learn(version))
        course.settle()
        sizes.append(course.size() - before)
        course.forget(digest)
        stored.append(course.measured(learn(version))[1])
        bare.append(course.bare(digest, "sklearn.datasets"))
        course.settle()
    return [
        _line("scikit-learn with its import, from a stored lock", stored, 1000),
        _line("  its import alone, in a bare process", bare, math.inf),
        Line("disk of a further environment", median(sizes) / MIB, "MiB", 5.0),
    ]


def together(course: Course, version: str) -> list[Line]:
    """Tasks at once for an environment that is not there."""
    before = course.built()
    course.at_once(humanize(version), AT_ONCE)
    return [Line(f"builds for {AT_ONCE} tasks at once", course.built() - before, "", 1)]


def _line(name: str, rounds: Sequence[Round], most: float) -> Line:
    processor = 1000 * median(each.processor_seconds for each in rounds)
    value = 1000 * median(each.seconds for each in rounds)
    return Line(name, value, "ms", most, f"{processor:.0f} ms of processor time")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a bound is not kept."""
    parser = argparse.ArgumentParser(prog="python -m bench.environments")
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, len(HUMANIZE)))
    parser.add_argument("--data", type=Path, help="where data directories are made (default: /tmp)")
    asked = parser.parse_args(arguments)
    fill_cache(asked.data, asked.rounds)
    versions = HUMANIZE[: asked.rounds + 1]
    with bed(parent=asked.data) as place:
        course = Course(place)
        lines = small(course, versions[1:])
        lines += together(course, versions[0])
        lines += large(course, versions)
    print(f"on {available_cpus()} processors; load {os.getloadavg()[0]:.1f} at the end")
    for line in lines:
        sign = "kept" if line.value <= line.most else "MISSED"
        bound = "" if line.most == math.inf else f"<= {line.most:6.1f}  {sign}"
        print(f"{line.name:50} {line.value:8.1f} {line.unit:4} {bound:18}  {line.note}")
    return int(any(line.value > line.most for line in lines))


if __name__ == "__main__":
    sys.exit(main())
