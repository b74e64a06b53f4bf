"""Requests as a lean client makes them: one kept connection, bytes in, bytes out."""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

SECONDS = 90.0


class Connection:
    """One kept connection to a server."""

    def __init__(self, url: str, token: str, *, timeout: float = SECONDS) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(self, path: str, body: bytes) -> bytes:
        """The reply's body. Raises RuntimeError when refused."""
        self._connection.request("POST", path, body, self._headers)
        return _read(self._connection.getresponse())

    def get(self, path: str) -> bytes:
        """The reply's body. Raises RuntimeError when refused."""
        self._connection.request("GET", path, headers=self._headers)
        return _read(self._connection.getresponse())

    def put(self, path: str, pieces: Iterable[bytes], size_bytes: int) -> bytes:
        """The reply's body. Raises RuntimeError when refused."""
        headers = {**self._headers, "Content-Type": "application/octet-stream"}
        headers["Content-Length"] = str(size_bytes)
        self._connection.request("PUT", path, pieces, headers)
        return _read(self._connection.getresponse())

    def stream(self, path: str) -> Iterator[bytes]:
        """The reply's body as it comes."""
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        if response.status != 200:
            _read(response)
        while piece := response.read1(1 << 20):
            yield piece

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def _read(response: http.client.HTTPResponse) -> bytes:
    body = response.read()
    if response.status >= 300:
        raise RuntimeError(f"{response.status}: {body.decode(errors='replace')}")
    return body
