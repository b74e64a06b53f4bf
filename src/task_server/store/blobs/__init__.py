"""Large payloads, in a directory or in S3: `contract` says what both do."""

from task_server.store.blobs.contract import Blobs, KeptBlob, OpenBlob, absent, check_name, name_of
from task_server.store.blobs.opening import open_blobs

__all__ = ["Blobs", "KeptBlob", "OpenBlob", "absent", "check_name", "name_of", "open_blobs"]
