"""Where a server is, and what is said when it cannot be reached."""

from __future__ import annotations

import socket
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from task_server.errors import ServerUnreachable, TaskServerError

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 60.0
"""A connection unused for longer is not used again: servers close theirs after 75 s."""

PATH_LETTERS = "/%:@!$&'()*+,;=~"
"""Stand in a path as they are, beside letters and digits."""


class Address(NamedTuple):
    """What a server's URL says."""

    host: str
    port: int
    tls: bool
    prefix: str
    """What its paths begin with, such as `/tasks` behind a proxy; mostly empty."""

    @property
    def authority(self) -> str:
        """The host as a request names it, with the port unless it is the usual one."""
        host = self.host if self.host.isascii() else self.host.encode("idna").decode()
        host = f"[{host}]" if ":" in host else host
        return host if self.port == _port(self.tls) else f"{host}:{self.port}"


def address_of(url: str) -> Address:
    """Read a server's URL. Raises TaskServerError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # no number for a port, or half an IPv6 address
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise TaskServerError(f"{url!r} is no server's URL; it looks like http://127.0.0.1:8900")
    tls = parts.scheme == "https"
    prefix = quote(parts.path.rstrip("/"), safe=PATH_LETTERS)
    return Address(host, port or _port(tls), tls, prefix)


def unreachable(url: str, error: BaseException) -> ServerUnreachable:
    """The error for a server that could not be reached because of `error`."""
    if isinstance(error, ConnectionRefusedError):
        message = f"no server at {url} (connection refused); start one with `task-server up`"
        return ServerUnreachable(message)
    if speaks_no_tls(error):
        plain = url.replace("https://", "http://", 1)
        return ServerUnreachable(f"the server at {url} does not speak TLS; name it {plain}")
    if isinstance(error, socket.gaierror):
        host = urlsplit(url).hostname
        return ServerUnreachable(f"no host {host} is known ({error.strerror}); see {url}")
    without_words = "timed out" if isinstance(error, TimeoutError) else type(error).__name__
    return ServerUnreachable(f"lost the server at {url}: {str(error) or without_words}")


def speaks_no_tls(error: BaseException | None) -> bool:
    """Whether what answered at an `https` URL is a server for `http`."""
    return getattr(error, "reason", None) == "WRONG_VERSION_NUMBER"


def _port(tls: bool) -> int:
    return 443 if tls else 80
