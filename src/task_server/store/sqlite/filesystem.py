"""Which file systems a database may lie on.

The servers and tools of one file agree on its log by shared memory and by locks, and those end at
the machine: on a file system that several machines mount, a second one would ruin the database.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from task_server.errors import DatabaseUnusable

log = logging.getLogger(__name__)

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = re.compile(
    r"nfs4?|cifs|smb3?|smbfs|ncpfs|afs|coda|ceph|lustre|gpfs|beegfs|orangefs|pvfs2|ocfs2|gfs2|davfs"
    r"|glusterfs|fuse\.(sshfs|glusterfs|ceph(-fuse)?|davfs2?|s3fs|gcsfuse|goofys|rclone|juicefs"
    r"|mount-s3|blobfuse2?|moosefs|lizardfs|smbnetfs|curlftpfs)"
)
"""File systems of the network, or of several machines on one disk."""
SHARED_WITH_HOST = re.compile(r"9p|virtiofs|vboxsf|prl_fs|fuse\.(grpcfuse|osxfs)")
"""Folders of a virtual machine's host: safe as long as nothing there opens the file."""

_ESCAPED = re.compile(r"\\([0-7]{3})")


def check_filesystem(path: Path, mounts: Path = MOUNTS) -> None:
    """Raise DatabaseUnusable when `path` lies on the network. Silent where no list of mounts is."""
    kind = kind_of(path, mounts)
    if NETWORK.fullmatch(kind):
        raise DatabaseUnusable(
            f"database {path} lies on a network file system ({kind}), where SQLite cannot keep it"
            " safe; choose a folder on a local disk with --data, or use PostgreSQL"
        )
    if SHARED_WITH_HOST.fullmatch(kind):
        log.warning(
            "database %s lies on a folder of the host (%s): nothing there may open the file",
            path,
            kind,
        )


def kind_of(path: Path, mounts: Path = MOUNTS) -> str:
    """The kind of file system under a path, as `ext4`; empty when that cannot be known."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    # Not strict: a file system whose server is gone answers nothing but its name.
    target = path.absolute().resolve(strict=False)
    found, depth = "", -1
    for line in lines:
        fields, _, described = line.partition(" - ")
        point = Path(_unescaped(fields.split()[4]))
        # The later of two mounts at one place covers the earlier.
        if target.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = described.split()[0], len(point.parts)
    return found


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
