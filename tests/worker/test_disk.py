"""A worker whose disk is full takes no tasks until there is room."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from task_server.worker.disk import AGAIN_SECONDS, LOW_BYTES, LOW_FILES, MORE_BYTES, Disk

BLOCK = 4096


class Volume:
    """What the system says about a disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = 10 * LOW_BYTES
        self.files = 1_000_000
        self.free_files = 500_000
        self.now = 1000.0
        monkeypatch.setattr(os, "statvfs", lambda folder: self._found())
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def _found(self) -> os.statvfs_result:
        free = self.free_bytes // BLOCK
        counts = (free, free, self.files, self.free_files, self.free_files)
        return os.statvfs_result((BLOCK, BLOCK, free, *counts, 0, 255))


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Volume:
    return Volume(monkeypatch)


@pytest.fixture
def disk(volume: Volume, tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_a_disk_with_hardly_anything_left_has_no_room(volume: Volume, disk: Disk) -> None:
    assert disk.has_room()

    volume.free_bytes = LOW_BYTES - BLOCK
    assert not disk.has_room()

    volume.free_bytes = LOW_BYTES
    assert disk.has_room()


def test_a_disk_that_takes_no_more_files_has_no_room(volume: Volume, disk: Disk) -> None:
    volume.free_files = LOW_FILES - 1
    assert not disk.has_room()

    volume.files = 0  # as file systems say that do not count them
    assert disk.has_room()


def test_what_did_not_fit_waits_for_more_room(volume: Volume, disk: Disk) -> None:
    assert disk.note(OSError(errno.ENOSPC, "full"))
    assert not disk.has_room()

    volume.free_bytes += MORE_BYTES
    assert disk.has_room()


def test_after_a_while_others_are_tried_that_may_fit(volume: Volume, disk: Disk) -> None:
    disk.note(OSError(errno.EDQUOT, "full"))
    volume.now += AGAIN_SECONDS - 1
    assert not disk.has_room()

    volume.now += 1
    assert disk.has_room()


def test_other_trouble_is_no_shortage(disk: Disk) -> None:
    assert not disk.note(OSError(errno.EACCES, "closed"))
    assert disk.has_room()


def test_a_folder_that_is_not_there_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    assert Disk(tmp_path / "nowhere").has_room()
