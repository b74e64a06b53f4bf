"""What a runner may reach of the machine's files; landlock and the private tree both follow it."""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
"""Programs and libraries."""
CONFIGURATION = tuple(
    f"/etc/{name}"
    for name in (
        *("alternatives", "ca-certificates", "crypto-policies", "gai.conf", "host.conf", "hosts"),
        *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf"),
        *("fonts", "OpenCL", "pki", "protocols", "resolv.conf", "services", "ssl", "timezone"),
    )
)
"""What libraries look up; nothing that names users or holds secrets."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SHARED_MEMORY = "/dev/shm"
ABOUT_ITSELF = (
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/loadavg"),
    *("/proc/version", "/proc/filesystems", "/proc/sys/kernel", "/proc/sys/vm"),
    "/sys/devices/system",
)
"""Of the kernel's files those that libraries ask how large the machine is."""


class Right(enum.Enum):
    """What may be done below a path."""

    READ = enum.auto()
    """Read, list and run."""
    OPEN = enum.auto()
    """Read what one knows the name of."""
    SHARE = enum.auto()
    """Make and use files without seeing those of others."""
    DEVICE = enum.auto()
    WRITE = enum.auto()


class Files(Struct, frozen=True, kw_only=True):
    """What one runner may reach beside the system's programs and libraries."""

    own: Path
    """Its folder."""
    readable: tuple[Path, ...] = ()
    """Environment, interpreter, `child.py`, and what the worker was told to show."""
    nameable: tuple[Path, ...] = ()
    """Folders whose files it may read and not list: their names are secrets."""
    writable: tuple[Path, ...] = ()
    devices: tuple[str, ...] = ()
    """Beside the harmless ones."""
    is_private: bool = False
    """Whether /proc, /tmp and /dev are the runner's own."""

    def rights(self) -> Iterator[tuple[str, Right]]:
        """Every path with what may be done below it."""
        for path in (*SYSTEM, *self._of_machine(), *map(str, self.readable)):
            yield path, Right.READ
        for path in map(str, self.nameable):
            yield path, Right.OPEN
        for path in (*DEVICES, *self.devices):
            yield path, Right.DEVICE
        for path in (str(self.own), *map(str, self.writable)):
            yield path, Right.WRITE
        if self.is_private:
            yield "/tmp", Right.WRITE
            yield SHARED_MEMORY, Right.WRITE
        else:
            yield SHARED_MEMORY, Right.SHARE

    def _of_machine(self) -> Iterator[str]:
        """Where a tree of its own has nothing else, a folder stands for all below it."""
        names = (*CONFIGURATION, *ABOUT_ITSELF)
        if not self.is_private:
            return iter(names)
        whole = ("/etc", "/proc")
        return iter((*whole, *(name for name in names if not name.startswith(whole))))


@functools.lru_cache(maxsize=256)
def folders_of(interpreter: Path) -> tuple[Path, ...]:
    """The folders that an interpreter needs: its environment, and the Python that this is made of.

    Those of the system are left out: they can be read anyhow.
    """
    environment = interpreter.parent.parent
    found = [environment] if (environment / "pyvenv.cfg").exists() else []
    base = Path(_home_of(environment) or interpreter.parent)
    found += [base.parent, (base / interpreter.name).resolve().parent.parent]
    found.append(interpreter.resolve().parent.parent)
    return tuple(path for path in dict.fromkeys(found) if not is_of_system(path))


def _home_of(environment: Path) -> str | None:
    try:
        lines = (environment / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return None
    pairs = (line.partition("=") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == "home"), None)


@functools.lru_cache(maxsize=256)
def is_of_system(path: Path) -> bool:
    """Whether `path` is a folder that every runner can read."""
    return any(path.is_relative_to(folder) for folder in SYSTEM) or path == Path("/")
