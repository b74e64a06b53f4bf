"""A database on the network is refused; what lies on a disk of this machine is not."""

import ctypes
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.errors import DatabaseUnusable
from task_server.store.sqlite.connection import open_writer
from task_server.store.sqlite.filesystem import check_filesystem, kind_of
from task_server.store.sqlite.store import SqliteStore

MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
28 27 0:25 / /users rw shared:1 master:2 - nfs4 server:/users rw,vers=4.2
29 28 0:26 / /users/local rw - xfs /dev/vdb rw
30 27 0:27 / /mnt/two\\040words rw - fuse.sshfs me@there:/ rw
31 27 0:28 / /covered rw - nfs server:/x rw
32 31 0:29 / /covered rw - ext4 /dev/vdc rw
33 27 0:30 / /host rw - 9p drivers rw
34 27 0:31 / /windows rw - cifs //server/share rw
35 27 0:32 / /cluster rw - lustre 10.0.0.1@tcp:/fs rw
36 27 0:33 / /merged rw - fuse.mergerfs 1:2 rw
37 27 0:34 / /auto rw - autofs systemd-1 rw
38 37 0:35 / /auto rw - ceph 10.0.0.1:/ rw
39 27 0:36 / /containers rw - fuse.fuse-overlayfs none rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/users/me/t.db", "nfs4"),
        ("/mnt/two words/t.db", "fuse.sshfs"),
        ("/windows/t.db", "cifs"),
        ("/cluster/group/me/t.db", "lustre"),
        ("/auto/t.db", "ceph"),
    ],
)
def test_a_file_on_the_network_is_refused(mounts: Path, path: str, kind: str) -> None:
    with pytest.raises(DatabaseUnusable, match=f"network file system.*{kind}") as caught:
        check_filesystem(Path(path), mounts)

    assert path in str(caught.value) and "--data" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/t.db",
        "/users/local/t.db",
        "/homes/t.db",
        "/covered/t.db",
        "/merged/t.db",
        "/containers/t.db",
    ],
)
def test_a_file_on_a_disk_of_this_machine_is_not(
    mounts: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_filesystem(Path(path), mounts)

    assert caplog.records == []


def test_a_folder_of_the_host_is_told_of(mounts: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_filesystem(Path("/host/t.db"), mounts)

    assert "/host/t.db" in caplog.text and "9p" in caplog.text


def test_a_link_is_followed(mounts: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/users/me")

    assert kind_of(tmp_path / "data" / "t.db", mounts) == "nfs4"


def test_where_no_list_of_mounts_is_nothing_is_refused(tmp_path: Path) -> None:
    check_filesystem(tmp_path / "t.db", tmp_path / "nothing")


@pytest.fixture
def on_the_network(tmp_path: Path) -> Iterator[Path]:
    """A folder on a real file system of the network, whose server is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "there"
    folder.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    failed = libc.mount(b"me@there:/", bytes(folder), b"fuse.sshfs", 0, options)
    os.close(device)
    if failed:
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(bytes(folder), 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
async def test_no_store_opens_on_a_mounted_network(on_the_network: Path) -> None:
    path = on_the_network / "data" / "t.db"

    for work in (open_writer, lambda path: SqliteStore(path, clock=lambda: 0.0)):
        with pytest.raises(DatabaseUnusable, match=r"fuse\.sshfs"):
            work(path)
