"""The fence around uv: it writes one environment and its own cache, and reads nothing secret.

Of the network it has the package indexes alone, where the worker is root.

What a thread has given up, a process that it starts never has. So the fence is put up in a thread
that does nothing else, and no other program has to run in between.
"""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit

from task_server.worker import child
from task_server.worker.sandbox import landlock, seccomp
from task_server.worker.sandbox.files import SHARED_MEMORY, Files, folders_of
from task_server.worker.sandbox.own_network import OwnNetwork, in_own_thread
from task_server.worker.sandbox.relay import Relay, variables

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
    """Starts uv. With a `relay` that leads to the indexes uv reaches nothing else."""

    def __init__(self, relay: Relay | None = None) -> None:
        self._relay = relay
        self._network = OwnNetwork()
        self._serving: asyncio.Task[asyncio.Server] | None = None
        self._readable: set[Path] = set()

    def note(self, names: Sequence[str]) -> None:
        """Packages that are about to be fetched."""
        if self._relay is not None:
            self._relay.note(names)

    def refused(self) -> list[str]:
        """Places that uv has asked for since this was last called, and was not let through to."""
        return [] if self._relay is None else self._relay.take_refused()

    async def close(self) -> None:
        """Call it when no uv runs any more."""
        self._network.close()
        if self._serving is not None:
            (await self._serving).close()
            self._serving = None

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
        """Start it in `folder`; it may write `own` and its cache. Raises OSError.

        With a relay call it in the agent's loop.
        """
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
            seen = environ
            if self._relay is not None:
                self._network.enter()
                seen = {**environ, **variables()}
            _give_up(child.Kernel(), plan)
            return start(command, seen, folder=folder, output=output)

        process = in_own_thread(act)
        self._serve()
        return process

    def _serve(self) -> None:
        """Answer at the way out of the network, from the first process in it on."""
        listener = self._network.take_way_out()
        if listener is not None and self._relay is not None:
            self._serving = asyncio.ensure_future(self._relay.serve(listener))


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
