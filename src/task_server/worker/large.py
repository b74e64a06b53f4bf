"""Answers too large for a report, on the worker's disk until the server has acknowledged them.

They are uploaded at once; as in `spool`, what is acknowledged a moment later is never written.

DIRECTORY/NAME/            one attempt's answer; it appears whole, by renaming
DIRECTORY/NAME/report.json its report
DIRECTORY/NAME/HEX         a blob that is to be uploaded before the report goes out
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from task_server.protocol.workers import Report
from task_server.worker.spool import sync_folder

log = logging.getLogger(__name__)

GRACE_SECONDS = 0.1
"""How long an answer may be on its way before it is written: four fsyncs beside the server's."""
_REPORT = "report.json"
_decode = msgspec.json.Decoder(Report).decode

Uploads = list[tuple[str, bytes]]
"""Names and contents of blobs."""


class LargeAnswers:
    """The large answers that were not acknowledged."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: set[str] = set()
        self._unwritten: dict[str, tuple[Report, Uploads]] = {}

    def open(self) -> list[tuple[Report, Uploads]]:
        """What an earlier start left: to be uploaded and reported again."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = []
        for folder in sorted(self._directory.iterdir()):
            try:
                report = _decode((folder / _REPORT).read_bytes())
                blobs = [path for path in folder.iterdir() if path.name != _REPORT]
                found.append((report, [(f"sha256:{p.name}", p.read_bytes()) for p in blobs]))
                self._kept.add(report.lease)
            except (OSError, msgspec.DecodeError):
                shutil.rmtree(folder, ignore_errors=True)  # a crash came before it was whole
        return found

    def has(self, lease: str) -> bool:
        """Whether the attempt's answer is kept here, or will be once `settle` is done."""
        return lease in self._kept

    async def keep(self, report: Report, uploads: Uploads) -> None:
        """Put an answer on disk, unless it is forgotten soon.

        A full disk is logged: the answer is then in memory alone.
        """
        self._kept.add(report.lease)
        self._unwritten[report.lease] = (report, uploads)
        await asyncio.sleep(GRACE_SECONDS)
        await self._write_out(report.lease)

    async def settle(self) -> None:
        """Put all answers on disk now."""
        for lease in list(self._unwritten):
            await self._write_out(lease)

    async def _write_out(self, lease: str) -> None:
        unwritten = self._unwritten.pop(lease, None)
        if unwritten is None:
            return
        try:
            await asyncio.to_thread(self._write, *unwritten)
        except OSError as error:
            log.error("a large answer cannot be kept on disk: %s", error)
        if lease not in self._kept:  # decided meanwhile
            self._remove(lease)

    def forget(self, leases: Iterable[str]) -> None:
        """The server has decided these."""
        for lease in self._kept.intersection(leases):
            self._kept.discard(lease)
            if self._unwritten.pop(lease, None) is None:
                self._remove(lease)

    def _remove(self, lease: str) -> None:
        shutil.rmtree(self._folder(lease), ignore_errors=True)

    def _folder(self, lease: str) -> Path:
        return self._directory / hashlib.sha256(lease.encode()).hexdigest()[:32]

    def _write(self, report: Report, uploads: Uploads) -> None:
        folder = self._folder(report.lease)
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        try:
            for name, data in uploads:
                _write_synced(partial / name.removeprefix("sha256:"), data)
            _write_synced(partial / _REPORT, msgspec.json.encode(report))
            sync_folder(partial)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
            partial.rename(folder)
            sync_folder(self._directory)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
