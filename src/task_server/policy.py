"""Which packages may be installed, and where names have to come from: settings as decisions."""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from packaging.utils import canonicalize_name

Patterns = tuple[str, ...]

_PATTERN = re.compile(r"[A-Za-z0-9._*?-]+", re.ASCII)
_PRIVATE_NAME = "private"


def parse_patterns(text: str | None) -> Patterns:
    """Names such as `numpy, acme-*`, normalised. Raises ValueError for what is no name."""
    patterns = [each for each in re.split(r"[\s,]+", text or "") if each]
    for each in patterns:
        if not _PATTERN.fullmatch(each):
            raise ValueError(f"{each!r} is not the name of a package, nor one with * or ? in it")
    return tuple(dict.fromkeys(str(canonicalize_name(each)) for each in patterns))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns stands for this normalised name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be installed; `allowed` None: everything that is not denied."""

    allowed: Patterns | None = None
    denied: Patterns = ()

    @classmethod
    def read(cls, allowed: str | None, denied: str | None) -> "Policy":
        """From settings. Raises ValueError."""
        return cls(None if allowed is None else parse_patterns(allowed), parse_patterns(denied))

    @property
    def is_open(self) -> bool:
        """Whether everything may be installed."""
        return self.allowed is None and not self.denied

    def refused(self, names: Iterable[str]) -> list[str]:
        """Those of these normalised names that may not be installed, sorted."""
        return sorted({name for name in names if self._refuses(name)})

    def denied_of(self, names: Iterable[str]) -> list[str]:
        """Those of these names that are denied by name, sorted."""
        return sorted({name for name in names if matches(name, self.denied)})

    def _refuses(self, name: str) -> bool:
        is_unlisted = self.allowed is not None and not matches(name, self.allowed)
        return is_unlisted or matches(name, self.denied)


EVERYTHING = Policy()


@dataclass(frozen=True, slots=True)
class PrivateIndex:
    """An index that `names` come from, and from nowhere else. `url` is without credentials."""

    url: str
    names: Patterns
    username: str = ""
    password: str = ""

    @classmethod
    def read(cls, url: str | None, names: str | None) -> "PrivateIndex | None":
        """From settings; None without both. Raises ValueError when one is missing."""
        patterns = parse_patterns(names)
        if not url and not patterns:
            return None
        if not url or not patterns:
            raise ValueError("a private index needs both its URL and the names that it is for")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the private index is a URL that begins with https:// or http://")
        host = parts.netloc.rpartition("@")[2]
        bare = urlunsplit((parts.scheme, host, parts.path, "", ""))
        username, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(bare, patterns, username, password)

    @property
    def argument(self) -> str:
        """The index on uv's command line, which everybody on the machine can read."""
        return f"{_PRIVATE_NAME}={self.url}"

    @property
    def environ(self) -> dict[str, str]:
        """What uv's process needs to be let in."""
        given = {"USERNAME": self.username, "PASSWORD": self.password}
        prefix = f"UV_INDEX_{_PRIVATE_NAME.upper()}_"
        return {f"{prefix}{name}": value for name, value in given.items() if value}

    def has(self, name: str) -> bool:
        """Whether this normalised name comes from here."""
        return matches(name, self.names)


Place = tuple[str, int]
"""A host in small letters, and a port."""
_PORTS = {"http": 80, "https": 443}


def place_of(url: str) -> Place | None:
    """Where a URL leads; None if it is none of http or https."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    return parts.hostname.rstrip("."), port or _PORTS[parts.scheme]


def parse_hosts(text: str) -> frozenset[Place]:
    """Of NAME or NAME:PORT, separated by commas. Raises ValueError."""
    found = set()
    for each in filter(None, (part.strip() for part in text.split(","))):
        place = place_of(f"https://{each}")
        if place is None or not re.fullmatch(r"[\w.:\[\]-]+", each):
            raise ValueError(f"{each[:100]!r} is not a host; write NAME or NAME:PORT, with commas")
        found.add(place)
    return frozenset(found)
