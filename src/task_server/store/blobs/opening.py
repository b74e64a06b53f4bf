"""From settings to a store of blobs."""

from __future__ import annotations

from pathlib import Path

from task_server.errors import TaskServerError
from task_server.settings import ServerSettings
from task_server.store.blobs.contract import Blobs
from task_server.store.blobs.directory import DirectoryBlobs


async def open_blobs(settings: ServerSettings) -> Blobs:
    """The store that `blobs` names. Raises TaskServerError or OSError when it cannot be used."""
    where, most = settings.blobs, settings.blob_bytes
    if where is None or not where.startswith("s3://"):
        return DirectoryBlobs(_directory(settings), maximum_bytes=most)
    try:
        from task_server.store.blobs.s3 import S3Blobs
    except ModuleNotFoundError as error:
        raise TaskServerError(
            f"blobs in S3 need {error.name}; run: pip install 'task-server[s3]'"
        ) from error
    blobs = S3Blobs(where, maximum_bytes=most)
    await blobs.check()
    return blobs


def _directory(settings: ServerSettings) -> Path:
    if settings.blobs is None:
        return settings.data.expanduser() / "blobs"
    return Path(settings.blobs).expanduser()
