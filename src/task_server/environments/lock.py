"""A lock: exactly which versions, with which hashes, make up an environment."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from packaging.markers import InvalidMarker, Marker
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from task_server.environments.requirements import BadRequirement, check_python

UPLOADED = "uploaded"
"""Source of what users uploaded to the server."""
PRIVATE = "private"
"""Source of what comes from the private index."""

_SOURCES = {UPLOADED: UPLOADED, PRIVATE: PRIVATE}
_FROM = re.compile(r"# from (\S+)")
_HEAD = re.compile(r"# python (\S+)")
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)(?: *; *(.+))?", re.ASCII)
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")


class BadLock(ValueError):
    """A lock that does not consist of pinned versions with hashes alone."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One distribution of a lock: `marker` says where it is wanted (None: everywhere)."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]
    source: str = ""
    """Where it comes from: UPLOADED, PRIVATE; empty: the index."""

    @property
    def text(self) -> str:
        """The lines of this pin in a requirements file."""
        where = f" ; {self.marker}" if self.marker else ""
        hashes = (f"    --hash={digest}" for digest in self.hashes)
        source = f"\n    # from {self.source}" if self.source else ""
        return " \\\n".join((f"{self.name}=={self.version}{where}", *hashes)) + source


@dataclass(frozen=True, slots=True)
class Lock:
    """The pins of an environment, sorted, for one Python minor."""

    python: str
    pins: tuple[Pin, ...]

    @property
    def text(self) -> str:
        """A requirements file with the Python in its first line; `parse_lock` reads it back."""
        return "".join(f"{line}\n" for line in (f"# python {self.python}", *self._pin_texts()))

    def of(self, source: str) -> "Lock":
        """The part of this lock that comes from there."""
        return Lock(self.python, tuple(pin for pin in self.pins if pin.source == source))

    @property
    def digest(self) -> str:
        """SHA-256 in hex of the text: the name of the environment."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def is_empty(self) -> bool:
        """Whether the standard library is all there is."""
        return not self.pins

    def versions(self, machine: Mapping[str, str] | None = None) -> dict[str, str]:
        """Name to version of what is installed on `machine` (PEP 508 marker variables).

        None: on Linux with this lock's Python.
        """
        variables = {**_linux(self.python), **(machine or {})}
        return {pin.name: pin.version for pin in self.pins if _applies(pin, variables)}

    def _pin_texts(self) -> Iterator[str]:
        return (pin.text for pin in self.pins)


def empty_lock(python: str) -> Lock:
    """The lock of tasks that need nothing but the standard library."""
    return Lock(check_python(python), ())


def parse_lock(
    text: str, *, python: str | None = None, sources: Mapping[str, str] | None = None
) -> Lock:
    """Read a lock from its own text, or from what uv resolved for `python`.

    `sources` maps the addresses of indexes, as uv tells them, to the sources of pins (None: those
    of a lock's own text). Order and other comments do not matter. Raises BadLock for anything but
    pinned, hashed versions: no option, path or URL can come in by a lock.
    """
    head = _HEAD.match(text)
    minor = python or (head.group(1) if head else "")
    if head and head.group(1) != minor:
        raise BadLock(f"the lock is for Python {head.group(1)}, not {minor}")
    try:
        check_python(minor)
    except BadRequirement as error:
        raise BadLock(error.message) from None
    known = _SOURCES if sources is None else sources
    pins = {
        _pin(line, minor, known.get(source.rstrip("/"), ""))
        for line, source in _logical_lines(text)
    }
    return Lock(minor, tuple(sorted(pins, key=lambda pin: (pin.name, pin.version, pin.text))))


def wanted_platforms(python: str) -> str:
    """The marker of the machines that a lock serves: this Python on Linux, macOS and Windows."""
    systems = " or ".join(f"sys_platform == '{name}'" for name in ("darwin", "linux", "win32"))
    return f"python_full_version < '3.{int(python.split('.')[1]) + 1}' and ({systems})"


def _logical_lines(text: str) -> Iterator[tuple[str, str]]:
    """Each requirement, and where a comment behind it says that it is from."""
    content = source = ""
    for line in text.replace("\\\n", " ").splitlines():
        found = _FROM.fullmatch(line.strip())
        if found:
            source = found[1]
        elif stripped := re.sub(r"(?:^|\s)#.*", "", line).strip():
            if content:
                yield content, source
            content, source = stripped, ""
    if content:
        yield content, source


def _pin(line: str, python: str, source: str) -> Pin:
    head, *_ = line.split(" --hash=", 1)
    hashes = _HASH.findall(line)
    match = _PIN.fullmatch(head.strip())
    rest = _HASH.sub("", line.removeprefix(head)).strip()
    if match is None or not hashes or rest:
        raise BadLock(f"{line[:200]!r} is not a pinned version with hashes")
    name, version, marker = match.groups()
    _check(version, marker)
    if marker == wanted_platforms(python):
        marker = None  # says nothing: true wherever this lock is used
    return Pin(str(canonicalize_name(name)), version, marker, tuple(sorted(set(hashes))), source)


def _check(version: str, marker: str | None) -> None:
    try:
        Version(version)
        if marker is not None:
            Marker(marker)
    except (InvalidVersion, InvalidMarker) as error:
        raise BadLock(str(error)) from None


def _applies(pin: Pin, variables: Mapping[str, str]) -> bool:
    return pin.marker is None or Marker(pin.marker).evaluate(dict(variables))


def _linux(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
