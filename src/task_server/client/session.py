"""One server as a client sees it: short outages are waited out, blobs are stored once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from task_server.client import requests
from task_server.client.address import speaks_no_tls
from task_server.client.http import Stream, Transport
from task_server.client.payloads import Content
from task_server.client.requests import Reply, Request
from task_server.errors import (
    NotFound,
    RequestError,
    ServerUnreachable,
    TooManyRequests,
    Unavailable,
)

PATIENCE_SECONDS = 10.0
"""How long a server that was reached before may be away before a request fails."""
SILENCE_SECONDS = 30.0
"""How long a reply may keep silent, beyond the wait that was asked for."""
LONGEST_WAIT = 30.0
"""Seconds that one request asks the server to wait; a proxy may end what is silent for 60."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_KNOWN_BLOBS = 10_000
_BLOB_SECONDS = 300.0
"""How long a stored blob is taken to be there still, needed by no task yet."""

T = TypeVar("T")


class Session:
    """Sends requests until they are answered, for many threads at once."""

    def __init__(
        self,
        transport: Transport,
        *,
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.transport = transport
        self.clock = clock
        self.sleep = sleep
        self._patience = patience
        self._reached = False
        self._stored: dict[str, float] = {}

    def patient(self, patience: float) -> Session:
        """The same, but a server that was reached may be away for `patience` seconds."""
        other = Session(self.transport, patience=patience, clock=self.clock, sleep=self.sleep)
        other._reached, other._stored = self._reached, self._stored
        return other

    def send(self, request: Request, *, wait: float = 0.0) -> Reply:
        """The reply, which the server may delay by `wait` seconds; a refusal is raised.

        Asks again while the server is away or has no time: every request here may be repeated.
        """
        timeout = wait + SILENCE_SECONDS
        return self._persistently(
            lambda: requests.accepted(self.transport.request(request, timeout=timeout))
        )

    def open(self, request: Request, *, wait: float) -> Stream:
        """A reply to be read piece by piece; a refusal is raised."""
        return self._persistently(lambda: self._open(request, wait + SILENCE_SECONDS))

    def store(self, contents: Iterable[Content]) -> None:
        """See to it that the server has these blobs."""
        for content in contents:
            if not self._is_stored(content.digest):
                self.send(requests.put_blob(content.digest, content.data))
                self._remember(content.digest)

    def store_file(self, digest: str, path: Path) -> None:
        """See to it that the server has this file as a blob."""
        if self._is_stored(digest) or self._has(digest):
            return
        request = requests.put_blob(digest)
        self._persistently(
            lambda: requests.accepted(self.transport.upload(request, path, timeout=SILENCE_SECONDS))
        )
        self._remember(digest)

    def fetch(self, digest: str) -> bytes:
        """A blob's bytes."""
        return self.send(requests.get_blob(digest)).body

    def _has(self, digest: str) -> bool:
        try:
            self.send(requests.has_blob(digest))
        except NotFound:
            return False
        return True

    def _is_stored(self, digest: str) -> bool:
        return self.clock() - self._stored.get(digest, float("-inf")) < _BLOB_SECONDS

    def _remember(self, digest: str) -> None:
        if len(self._stored) >= _KNOWN_BLOBS:
            self._stored.clear()
        self._stored[digest] = self.clock()

    def _open(self, request: Request, timeout: float) -> Stream:
        stream = self.transport.stream(request, timeout=timeout)
        if stream.status < 400:
            return stream
        with stream:
            body = b"".join(stream)
        raise requests.refusal(Reply(stream.status, stream.headers, body))

    def _persistently(self, action: Callable[[], T]) -> T:
        pauses = self._pauses()
        while True:
            try:
                result = action()
                self._reached = True
                return result
            except (ServerUnreachable, Unavailable, TooManyRequests) as error:
                pause = next(pauses, None)
                if pause is None or self._is_hopeless(error):
                    raise
                self.sleep(max(pause, getattr(error, "retry_after", None) or 0.0))

    def _pauses(self) -> Iterator[float]:
        """Growing pauses until patience ends."""
        end = self.clock() + self._patience
        pause = _FIRST_PAUSE
        while self.clock() < end:
            yield pause * random.uniform(0.5, 1.0)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_hopeless(self, error: ServerUnreachable | RequestError) -> bool:
        if isinstance(error, RequestError):
            return (error.retry_after or 0.0) > self._patience
        # Nobody listens where this client never found anybody: do not keep the user waiting.
        cause = error.__cause__
        is_nobody = isinstance(cause, ConnectionRefusedError) or speaks_no_tls(cause)
        return not self._reached and is_nobody
