"""Answers too large for a report, on the worker's disk until the server has acknowledged them.

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

_REPORT = "report.json"
_decode = msgspec.json.Decoder(Report).decode

Uploads = list[tuple[str, bytes]]
"""Names and contents of blobs."""


class LargeAnswers:
    """The large answers that were not acknowledged."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: set[str] = set()

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
        """Whether the attempt's answer is kept here."""
        return lease in self._kept

    async def keep(self, report: Report, uploads: Uploads) -> None:
        """Put an answer on disk. A full disk is logged: the answer is then in memory alone."""
        self._kept.add(report.lease)
        try:
            await asyncio.to_thread(self._write, report, uploads)
        except OSError as error:
            log.error("a large answer cannot be kept on disk: %s", error)

    def forget(self, leases: Iterable[str]) -> None:
        """The server has decided these."""
        for lease in self._kept.intersection(leases):
            self._kept.discard(lease)
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
