"""Blobs on a worker's disk do not pile up for ever."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from task_server.worker import blob_files
from task_server.worker.blob_files import BlobFiles

SIZE = 1000


def kept(files: BlobFiles, name: str, *, used_ago: float = 3600.0) -> Path:
    """A blob that was used last so many seconds ago."""
    partial = files.folder / f"{name}.partial"
    partial.write_bytes(b"x" * SIZE)
    path = files.keep(partial, f"sha256:{name}")
    used_at = time.time() - used_ago
    os.utime(path, (used_at, used_at))
    return path


@pytest.fixture
def in_use() -> set[Path]:
    return set()


@pytest.fixture
def files(tmp_path: Path, in_use: set[Path]) -> BlobFiles:
    return BlobFiles(tmp_path / "blobs", lambda: in_use)


def test_those_used_longest_ago_go_first(files: BlobFiles) -> None:
    first, second, third = (kept(files, name) for name in "abc")
    assert files.find("sha256:a") == first

    files.make_room(2 * SIZE)

    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    assert files.find("sha256:b") is None


def test_what_held_attempts_need_stays(files: BlobFiles, in_use: set[Path]) -> None:
    first, second = kept(files, "a"), kept(files, "b")
    in_use.add(first)

    files.make_room(0)

    assert [path.exists() for path in (first, second)] == [True, False]


def test_what_was_just_asked_for_stays(files: BlobFiles) -> None:
    path = kept(files, "a", used_ago=1.0)

    files.make_room(0)

    assert path.exists()


def test_more_than_their_share_of_the_disk_is_not_kept(
    files: BlobFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_files, "SHARE", 1 << 62)
    monkeypatch.setattr(blob_files, "LOOK_SECONDS", 0.0)
    paths = [kept(files, name) for name in "abc"]

    assert [path.exists() for path in paths] == [False, False, True]


def test_half_a_download_of_a_killed_worker_goes(files: BlobFiles) -> None:
    left = files.folder / "tmp1.partial"
    left.write_bytes(b"x")

    again = BlobFiles(files.folder, set)

    assert not left.exists()
    assert again.find("sha256:nothing") is None
