"""Which heads of requests are taken, beside what the parser takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

MAXIMUM_HEADER_BYTES = 1 << 15
"""Of all headers of a request together."""
MAXIMUM_TARGET_BYTES = 1 << 13
"""Of its path and query."""
VERSIONS = ("1.1", "1.0")
_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*")

Repeated = Sequence[tuple[bytes, bytes]]


class Refused(Exception):
    """A head that is not taken: status and reason."""


def check_head(
    version: str, target: bytes, fields: Mapping[bytes, bytes], repeated: Repeated
) -> None:
    """Raise Refused unless a request with this head may come in."""
    if version not in VERSIONS:
        raise Refused(b"400 Bad Request", b"this server speaks HTTP/1.1")
    if len(target) > MAXIMUM_TARGET_BYTES:
        raise Refused(b"414 URI Too Long", b"the path and query are too long")
    _check_host(fields.get(b"host", None if version == "1.1" else b""), repeated)
    if b"transfer-encoding" in fields:
        _check_codings(fields[b"transfer-encoding"], repeated, is_known=version == "1.1")


def check_size(fields: Mapping[bytes, bytes], repeated: Repeated) -> None:
    """Raise Refused for headers that are too large together."""
    size = sum(len(name) + len(value) for name, value in (*fields.items(), *repeated))
    if size > MAXIMUM_HEADER_BYTES:
        raise Refused(b"431 Request Header Fields Too Large", b"the headers are too large")


def _check_host(host: bytes | None, repeated: Repeated) -> None:
    """One host, as RFC 9112 wants it: servers on the way may take another of two."""
    if host is None or _HOST.fullmatch(host) is None:
        raise Refused(b"400 Bad Request", b"the header Host is missing, or is no host")
    if repeated and _has(repeated, b"host"):
        raise Refused(b"400 Bad Request", b"a request has one header Host")


def _check_codings(coding: bytes, repeated: Repeated, *, is_known: bool) -> None:
    if not is_known:
        raise Refused(b"400 Bad Request", b"HTTP/1.0 knows no Transfer-Encoding")
    if coding.lower() != b"chunked" or _has(repeated, b"transfer-encoding"):
        raise Refused(b"501 Not Implemented", b"the one transfer coding here is chunked")


def _has(headers: Repeated, name: bytes) -> bool:
    return any(other == name for other, _ in headers)
