"""The fence around uv: it writes one environment and its own cache, and reads nothing secret.

What a thread has given up, a process that it starts never has. So the fence is put up in a thread
that does nothing else, and no other program has to run in between.
"""

from __future__ import annotations

import os
import struct
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit

from task_server.worker import child
from task_server.worker.sandbox import landlock, seccomp
from task_server.worker.sandbox.files import SHARED_MEMORY, Files, folders_of

LINKS: Final = 2
"""The version of landlock from which on files may be linked from one folder into another."""
_OF_FILES: Final = 0b1110
"""Capabilities to use files of other users: a cache may belong to whoever became root."""
_PLACES: Final = (
    *("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_FIND_LINKS"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)
_CREDENTIALS: Final = (".netrc", ".local/share/uv/credentials")


def is_possible() -> bool:
    """Whether this machine's kernel can do it."""
    return landlock.version() >= LINKS and seccomp.is_known_machine()


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where uv keeps what it has fetched."""
    home = Path(environ.get("HOME", "/"))
    return Path(environ.get("UV_CACHE_DIR") or home / ".cache" / "uv").absolute()


class Fence:
    """Starts uv."""

    def __init__(self) -> None:
        self._readable: set[Path] = set()

    def let_use(self, interpreter: Path) -> None:
        """Let uv read a Python that environments are made of."""
        self._readable.update(folders_of(interpreter))

    def start(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        folder: Path,
        own: Path,
        readable: Sequence[Path],
        output: IO[bytes],
    ) -> subprocess.Popen[bytes]:
        """Start it in `folder`; it may write `own` and its cache. Raises OSError."""
        cache = cache_folder(environ)
        cache.mkdir(parents=True, exist_ok=True)
        program = Path(command[0]).absolute()
        files = Files(
            own=own,
            readable=(
                *(program, program.resolve(), *self._readable, *readable),
                *places_in((*command, *(environ.get(name, "") for name in _PLACES))),
                *(Path(environ.get("HOME", "/")) / each for each in _CREDENTIALS),
            ),
            writable=(cache,),
        )
        plan = landlock.plan(files, landlock.version())
        # Of this process, not of uv, would be what /proc/self leads to here.
        foreign = (SHARED_MEMORY, "/proc/self")
        plan["paths"] = [each for each in plan["paths"] if each[0] not in foreign]

        def act() -> subprocess.Popen[bytes]:
            _give_up(child.Kernel(), plan)
            return start(command, environ, folder=folder, output=output)

        return _in_own_thread(act)


def start(
    command: Sequence[str], environ: Mapping[str, str], *, folder: Path, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own. Raises OSError."""
    return subprocess.Popen(
        command,
        env=environ,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _give_up(kernel: child.Kernel, plan: dict[str, Any]) -> None:
    kept = _OF_FILES & _capabilities()
    data = struct.pack("=IIIIII", kept, kept, 0, 0, 0, 0)
    kernel.call("capset", struct.pack("=Ii", 0x20080522, 0), data)
    kernel.call("prctl", child.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    child.restrict_files(kernel, plan)
    child.restrict_calls(kernel, seccomp.plan("no local"))


def _capabilities() -> int:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return next(int(line[7:], 16) for line in lines if line.startswith("CapPrm:"))


def _in_own_thread(act: Any) -> subprocess.Popen[bytes]:
    """What `act` gives, run in a thread that ends with it; what it raises is raised here."""
    came: list[subprocess.Popen[bytes]] = []
    failed: list[OSError] = []

    def run() -> None:
        try:
            came.append(act())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="fence")
    thread.start()
    thread.join()
    for error in failed:
        raise error
    return came[0]


def places_in(texts: Sequence[str]) -> list[Path]:
    """The files and folders that options and variables name, as paths or as URLs of files."""
    found = []
    for text in texts:
        for part in text.replace(",", " ").split():
            _, _, bare = part.rpartition("=")
            if bare.startswith("file://"):
                found.append(Path(unquote(urlsplit(bare).path)))
            elif os.path.isabs(bare):  # noqa: PTH117 no path before it is known to be one
                found.append(Path(bare))
    return found
