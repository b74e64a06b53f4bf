"""Answers that are not acknowledged yet, on the worker's disk: a restart or a partition loses none.

Reports go out at once; what is still not acknowledged a moment later is written here, in groups
with one fsync each. Where the server answers fast, nothing is ever written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from task_server.protocol.workers import Report

log = logging.getLogger(__name__)

GRACE_SECONDS = 0.01
"""How long a report may be on its way before it is written."""
REWRITE_BYTES = 64 << 20

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Report).decode


class Spool:
    """The reports that were not acknowledged, in memory and, after a moment, on disk."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = directory / "reports.ndjson"
        self.pending: dict[str, Report] = {}
        """By lease, oldest first."""
        self._unwritten: list[Report] = []
        self._written: set[str] = set()
        self._has_lines = False
        """The file."""
        self._writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        """When what is still pending will be written."""

    def open(self) -> None:
        """Read what an earlier start left."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        self._has_lines = bool(data)
        # The last line of a crash, cut off, was never counted on; the next must not begin in it.
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._path, whole)
        for line in data[:whole].splitlines():
            try:
                report = _decode(line)
            except msgspec.DecodeError:
                continue  # a damaged disk: the others are whole
            self.pending[report.lease] = report
            self._written.add(report.lease)
        if self.pending:
            log.info("%d answers of an earlier start are still to be delivered", len(self.pending))

    def add(self, reports: Iterable[Report]) -> None:
        """Attempts ended."""
        for report in reports:
            self.pending[report.lease] = report
            self._unwritten.append(report)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(GRACE_SECONDS, self._write_waiting)

    def acknowledge(self, leases: Iterable[str]) -> None:
        """The server has decided these."""
        for lease in leases:
            self.pending.pop(lease, None)
            self._written.discard(lease)
        if not self.pending:
            self._unwritten.clear()
            if self._has_lines:
                self._has_lines = False
                with contextlib.suppress(FileNotFoundError):  # it could not be written
                    os.truncate(self._path, 0)

    def _write_waiting(self) -> None:
        """Write what has waited long enough, after what is being written."""
        self._timer = None
        if self._writer is not None and not self._writer.done():
            self._writer.add_done_callback(lambda _: self._write_waiting())
            return
        waiting = [each for each in self._unwritten if each.lease in self.pending]
        self._unwritten = []
        if waiting:
            self._writer = asyncio.ensure_future(self._write_all(waiting))

    async def _write_all(self, waiting: list[Report]) -> None:
        try:
            await asyncio.to_thread(self._write, waiting, list(self.pending.values()))
        except OSError as error:
            log.error("the spool cannot be written: %s; answers are kept in memory", error)
        self._has_lines = True  # also what was acknowledged meanwhile
        self._written.update(each.lease for each in waiting)

    def _write(self, new: list[Report], pending: list[Report]) -> None:
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < REWRITE_BYTES:
            _append(self._path, new, size)
            return
        # Mostly acknowledged by now: what is still pending takes the place of all.
        partial = self._path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        _append(partial, pending, 0)
        partial.rename(self._path)
        sync_folder(self._path.parent)

    async def settle(self) -> None:
        """Wait until everything that is pending is on disk."""
        while self._unwritten or not (self._writer is None or self._writer.done()):
            if self._timer is not None:
                self._timer.cancel()
            self._write_waiting()
            if self._writer is not None:
                await asyncio.wait((self._writer,))


def _append(path: Path, reports: list[Report], size: int) -> None:
    """Add reports to a file of that size; all of them, or none."""
    data = memoryview(b"".join(_encode(report) + b"\n" for report in reports))
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fdatasync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)  # half a line would spoil the next one
        raise
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
