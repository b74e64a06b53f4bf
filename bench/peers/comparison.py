"""The same work by all, in the same rounds."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.memory import pss_mb
from bench.peers.catalogue import OURS, PEERS, Entry
from bench.peers.environment import ROOT, interpreter_of
from bench.processors import below, with_children

START_SECONDS = 300.0
STOP_SECONDS = 30.0
MEASURE_SECONDS = 600.0
IDLE_SECONDS = 3.0
BACKLOG = 50_000
MIB = 1 << 20


class Amounts(Struct, frozen=True):
    """How much of everything each does in a round."""

    tasks: int
    calls: int
    echoes: int
    rate_seconds: int
    backlog_seconds: int


QUICK = Amounts(tasks=1000, calls=50, echoes=5, rate_seconds=20, backlog_seconds=30)
FULL = Amounts(tasks=5000, calls=300, echoes=20, rate_seconds=30, backlog_seconds=120)


class Row(Struct):
    """The best of what one reached, in all rounds."""

    name: str
    title: str
    is_durable: bool
    rate: float | None = None
    """Tasks a second."""
    ratio: float | None = None
    """Of that to the reference's best."""
    call_ms: float | None = None
    """One by one, p50."""
    echo_ms: float | None = None
    """Of 1 MiB, p50."""
    memory_mb: float | None = None
    """Proportional set size of all its processes, idle; without the client."""
    backlog_rate: float | None = None
    """Tasks a second when 50,000 are submitted at once; None if that alone takes too long."""
    error: str = ""
    """Why it was not measured, or not further."""


class _Failed(Exception):
    """What a peer could not do."""


def rows_of(names: Sequence[str]) -> list[Row]:
    """Empty rows of the reference, this project, and the peers of these names."""
    entries = OURS | {name: PEERS[name] for name in names}
    return [Row(name, each.title, each.is_durable) for name, each in entries.items()]


def compare(
    rows: Sequence[Row],
    *,
    rounds: int,
    amounts: Amounts,
    parent: Path | None,
    tell: Callable[[str], None],
) -> None:
    """Fill the rows; what is there when it is interrupted is true."""
    for number in range(rounds):
        for row in rows:
            if row.error:
                continue
            tell(f"round {number + 1} of {rounds}: {row.title}")
            entry = OURS.get(row.name) or PEERS[row.name]
            try:
                _measure(row, entry, amounts, parent, is_last=number == rounds - 1)
            except _Failed as failed:
                row.error = str(failed)
            _relate(rows)


def _relate(rows: Sequence[Row]) -> None:
    reference = next(row.rate for row in rows if row.name == "process-pool")
    for row in rows:
        row.ratio = row.rate / reference if row.rate and reference else None


def _measure(
    row: Row, entry: Entry, amounts: Amounts, parent: Path | None, *, is_last: bool
) -> None:
    with _driver(entry, parent) as driver:
        time.sleep(IDLE_SECONDS)
        row.memory_mb = _least(row.memory_mb, pss_mb(below([driver.process.pid])))
        rate = driver.ask(f"rate {amounts.tasks} {amounts.rate_seconds}")
        row.rate = max(filter(None, (row.rate, rate)), default=None)
        row.call_ms = _least(row.call_ms, driver.ask(f"calls {amounts.calls}"))
        row.echo_ms = _least(row.echo_ms, driver.ask(f"echoes {amounts.echoes} {MIB}"))
        if is_last:
            row.backlog_rate = driver.ask(f"rate {BACKLOG} {amounts.backlog_seconds}")


def _least(*values: float | None) -> float | None:
    return min(filter(None, values), default=None)


class _Driver:
    """The process that runs a peer."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def ask(self, what: str) -> float | None:
        """Have something measured; None if there was no time for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n".encode())
        self.process.stdin.flush()
        return self.read(MEASURE_SECONDS)["value"]

    def read(self, seconds: float) -> dict[str, float | None]:
        """Its next answer. Raises _Failed if it has none in time, or an error."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise _Failed("it ended" if ready else f"no answer in {seconds:.0f} s")
        told = msgspec.json.decode(line)
        if "error" in told:
            raise _Failed(told["error"])
        answer: dict[str, float | None] = told
        return answer


@contextmanager
def _driver(entry: Entry, parent: Path | None) -> Iterator[_Driver]:
    try:
        python = Path(sys.executable) if entry.is_own else interpreter_of(entry.module)
    except RuntimeError as error:
        raise _Failed(str(error)) from None
    with tempfile.TemporaryDirectory(
        prefix="bench-peer-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        Path(folder).chmod(0o711)  # our runners work for other users
        command = [str(python), "-m", "bench.peers.driver", entry.module, folder]
        if entry.redis is not None:
            command += ["redis", *entry.redis]
        with (Path(folder) / "driver.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        driver = _Driver(process)
        try:
            driver.read(START_SECONDS)
            yield driver
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it stop by itself; whatever it leaves is ended by its id."""
    started = with_children([process.pid])[1:]
    try:
        process.communicate(timeout=STOP_SECONDS)  # closes its stdin: it stops
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
