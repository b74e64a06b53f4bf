"""Requests as a lean client makes them: one kept connection, bytes in, bytes out."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from bench import wire
from task_server.client.replies import ReplyReader

SECONDS = 90.0
READ_BYTES = 1 << 20


class Connection:
    """One kept connection to a server."""

    def __init__(self, url: str, token: str, *, timeout: float = SECONDS) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._url, self._token = url, token

    def post(self, path: str, body: bytes) -> bytes:
        """The reply's body. Raises RuntimeError when refused."""
        self._socket.sendall(wire.post(self._url, self._token, path, body))
        return self._reply()

    def get(self, path: str) -> bytes:
        """The reply's body. Raises RuntimeError when refused."""
        self._socket.sendall(wire.get(self._url, self._token, path))
        return self._reply()

    def put(self, path: str, pieces: Iterable[bytes], size_bytes: int) -> bytes:
        """The reply's body. Raises RuntimeError when refused."""
        self._socket.sendall(wire.put(self._url, self._token, path, size_bytes))
        for piece in pieces:
            self._socket.sendall(piece)
        return self._reply()

    def stream(self, path: str) -> Iterator[bytes]:
        """The reply's body as it comes."""
        self._socket.sendall(wire.get(self._url, self._token, path))
        reader = ReplyReader(bodiless=False)
        while not reader.is_whole:
            reader.feed(self._read())
            if reader.status >= 300:
                raise RuntimeError(f"{reader.status}: {reader.pieces}")
            yield from reader.pieces
            reader.pieces.clear()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _reply(self) -> bytes:
        """The body of a reply that states its length."""
        data = self._read()
        while (end := data.find(b"\r\n\r\n") + 4) < 4:
            data += self._read()
        size = end + wire.content_length(data[:end])
        if len(data) < size:
            pieces, missing = [data], size - len(data)
            while missing:
                pieces.append(self._read())
                missing -= len(pieces[-1])
            data = b"".join(pieces)
        if data[9:10] > b"2":
            raise RuntimeError(data.decode(errors="replace"))
        return data[end:]

    def _read(self) -> bytes:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data
