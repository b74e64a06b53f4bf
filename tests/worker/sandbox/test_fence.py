"""The fence around the installer: what an installer that means harm comes to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from task_server.worker.sandbox import fence
from task_server.worker.sandbox.fence import Fence, places_in, start

PYTHON = Path("/usr/bin/python3.11")

pytestmark = pytest.mark.skipif(not fence.is_possible(), reason="this kernel has no landlock")

TRIES = """
import ctypes, json, os
from pathlib import Path

def tried(act):
    try:
        act()
    except OSError:
        return "denied"
    return "allowed"

secret, own, other, cache, outside, agent = os.environ["TARGETS"].split(":")
libc = ctypes.CDLL(None, use_errno=True)

def trace():
    if libc.ptrace(16, int(agent), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "")

def unshare():
    if libc.unshare(0x10000000) < 0:
        raise OSError(ctypes.get_errno(), "")

def capabilities():
    found = (ctypes.c_uint * 6)()
    libc.capget((ctypes.c_uint * 2)(0x20080522, 0), found)
    return found[0] | found[3] << 32

print(json.dumps({
    "read a secret": tried(lambda: Path(secret).read_text()),
    "list the worker's data": tried(lambda: os.listdir(Path(secret).parent)),
    "write another environment": tried(lambda: Path(other, "new").touch()),
    "remove another environment": tried(lambda: Path(other, "there").unlink()),
    "write outside": tried(lambda: Path(outside, "new").touch()),
    "read the worker's variables": tried(lambda: Path(f"/proc/{agent}/environ").read_bytes()),
    "trace the worker": tried(trace),
    "make namespaces": tried(unshare),
    "read the machine's users": tried(lambda: Path("/etc/shadow").read_text()),
    "write its environment": tried(lambda: Path(own, "new").touch()),
    "write its cache": tried(lambda: Path(cache, "new").touch()),
    "link from its cache": tried(lambda: os.link(Path(cache, "new"), Path(own, "linked"))),
    "capabilities": capabilities(),
}))
"""


def came_of(folder: Path, *, is_fenced: bool) -> dict[str, object]:
    """What the tries come to in an installer."""
    for name in ("own", "other", "outside", "data"):
        (folder / name).mkdir()
    (folder / "other" / "there").touch()
    (folder / "data" / "token").write_text("secret")
    (folder / "cache").mkdir()
    places = [folder / name for name in ("data/token", "own", "other", "cache", "outside")]
    script = folder / "own" / "uv"
    script.write_text(f"#!{PYTHON} -I\n{TRIES}")
    script.chmod(0o755)
    # Nobody is to be traced who might let it happen.
    targets = ":".join((*map(str, places), str(os.getpid() if is_fenced else 0)))
    environ = {"UV_CACHE_DIR": str(folder / "cache"), "PATH": os.defpath, "TARGETS": targets}
    with tempfile.TemporaryFile() as output:
        process = _started([str(script)], environ, folder, output, is_fenced=is_fenced)
        assert process.wait(60) == 0
        output.seek(0)
        found: dict[str, object] = json.loads(output.read())
    return found


def _started(
    command: list[str], environ: dict[str, str], folder: Path, output: object, *, is_fenced: bool
) -> subprocess.Popen[bytes]:
    if not is_fenced:
        return start(command, environ, folder=folder, output=output)  # type: ignore[arg-type]
    made = Fence()
    made.let_use(PYTHON)
    return made.start(
        command,
        environ,
        folder=folder,
        own=folder / "own",
        readable=(),
        output=output,  # type: ignore[arg-type]
    )


@pytest.mark.skipif(not PYTHON.exists(), reason="the script needs a Python of the system")
def test_an_installer_reads_no_secret_and_writes_its_own_alone(tmp_path: Path) -> None:
    found = came_of(tmp_path, is_fenced=True)

    allowed = {what for what, came in found.items() if came == "allowed"}
    assert allowed == {"write its environment", "write its cache", "link from its cache"}
    assert int(str(found["capabilities"])) & ~0b1110 == 0, "only those to use files of others"


@pytest.mark.skipif(not PYTHON.exists(), reason="the script needs a Python of the system")
def test_without_it_the_same_installer_reads_the_token(tmp_path: Path) -> None:
    found = came_of(tmp_path, is_fenced=False)

    assert found["read a secret"] == found["write another environment"] == "allowed"


def test_the_worker_itself_gives_up_nothing(tmp_path: Path) -> None:
    came_of(tmp_path, is_fenced=True)

    assert (tmp_path / "data" / "token").read_text() == "secret"
    (tmp_path / "outside" / "new").touch()
    assert subprocess.run([sys.executable, "-c", "0"], check=False).returncode == 0


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    environ = {"UV_CACHE_DIR": str(tmp_path / "cache")}

    with tempfile.TemporaryFile() as output, pytest.raises(FileNotFoundError):
        Fence().start(
            [str(tmp_path / "uv")],
            environ,
            folder=tmp_path,
            own=tmp_path,
            readable=(),
            output=output,
        )


def test_indexes_that_are_folders_can_be_read() -> None:
    texts = (
        "https://one.example/simple",
        "file:///srv/a%20b/simple,/srv/wheels",
        "x=file:///srv/c",
    )

    found = places_in(texts)

    assert found == [Path("/srv/a b/simple"), Path("/srv/wheels"), Path("/srv/c")]
