"""HTTP by hand: who speaks it decides which reply is read and which is lost."""

from __future__ import annotations

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

SECONDS = 30.0


class Reply(Struct, frozen=True):
    """What came back."""

    status: int
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        """The body, a JSON object."""
        told = json.loads(self.body)
        assert isinstance(told, dict), told
        return told


class Connection:
    """One connection, kept as long as both sides keep it. Raises OSError when it breaks."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._address = urlsplit(url)
        self._token = token
        self._socket: socket.socket | None = None
        self.replies = 0
        """How many this connection has carried."""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Our end of the connection."""
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        """End it; what has come and was not read is lost."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.replies = None, 0

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        """Send a request and read its reply."""
        self.send(self.request(method, path, body, headers))
        return self.receive()

    def lose_reply(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        """Send a request and close the connection once the reply is there, unread.

        Gives the reply all the same, so that a test knows what was lost.
        """
        self.send(self.request(method, path, body, headers))
        try:
            return self._look()
        finally:
            self.close()

    def lose_request(
        self, method: str, path: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Send all of a request but its last byte, and close the connection."""
        self.send(self.request(method, path, body, headers)[:-1])
        self.close()

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """A request's bytes."""
        fields = {"Host": self._address.netloc, "Content-Type": "application/json"}
        fields |= {"Content-Length": str(len(body)), **(headers or {})}
        if self._token:
            fields["Authorization"] = f"Bearer {self._token}"
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        return "\r\n".join(lines).encode() + body

    def send(self, request: bytes) -> None:
        """Send bytes, over a new connection if there is none."""
        if self._socket is None:
            address = (self._address.hostname or "", self._address.port or 80)
            self._socket = socket.create_connection(address, timeout=SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.sendall(request)
        except OSError:
            self.close()
            raise

    def receive(self) -> Reply:
        """Read the reply to what was sent."""
        assert self._socket is not None
        received = b""
        try:
            while (reply := _reply(received)) is None:
                piece = self._socket.recv(1 << 20)
                if not piece:
                    raise ConnectionResetError("the server closed the connection")
                received += piece
        except OSError:
            self.close()
            raise
        self.replies += 1
        return reply

    def _look(self) -> Reply:
        assert self._socket is not None
        end = time.monotonic() + SECONDS
        while True:
            received = self._socket.recv(1 << 22, socket.MSG_PEEK)
            reply = _reply(received)
            if reply is not None:
                return reply
            if not received:
                raise ConnectionResetError("the server closed the connection")
            assert time.monotonic() < end, "no whole reply"
            time.sleep(0.001)


def _reply(received: bytes) -> Reply | None:
    """The reply, once it is whole."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    if len(body) < int(fields["content-length"]):
        return None
    return Reply(int(first.split()[1]), body)
