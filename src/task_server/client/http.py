"""Requests over `http.client`, on connections that are kept."""

from __future__ import annotations

import http.client
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from task_server.client.address import CONNECT_SECONDS, IDLE_SECONDS, address_of, unreachable
from task_server.client.requests import Reply, Request, headers_of
from task_server.errors import ServerUnreachable

if TYPE_CHECKING:
    import ssl

KEPT_CONNECTIONS = 32
CHUNK_BYTES = 64 * 1024


class Stream(Protocol):
    """A reply whose body is read piece by piece. Leaving it early closes its connection."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def __enter__(self) -> Stream: ...

    def __exit__(self, *exception: object) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        """Pieces as they arrive; raises ServerUnreachable when the reply is cut."""
        ...


class Transport(Protocol):
    """Carries requests to one server. Raises ServerUnreachable when that fails."""

    @property
    def url(self) -> str: ...

    def request(self, request: Request, *, timeout: float) -> Reply:
        """Send and read the whole reply; `timeout` in seconds of silence."""
        ...

    def upload(self, request: Request, path: Path, *, timeout: float) -> Reply:
        """Send with a file's content as the body."""
        ...

    def stream(self, request: Request, *, timeout: float) -> Stream:
        """Send, and read the reply piece by piece."""
        ...

    def close(self) -> None:
        """Close what is open; the transport can still be used."""
        ...


class _Kept(NamedTuple):
    connection: http.client.HTTPConnection
    since: float


class HttpTransport:
    """A pool of kept connections, for use by many threads."""

    def __init__(
        self, url: str, token: str | None = None, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.url = url
        self._token = token
        self._address = address_of(url)
        self._tls = tls
        self._kept: deque[_Kept] = deque(maxlen=KEPT_CONNECTIONS)
        self._is_closed = False
        self._process = os.getpid()

    def request(self, request: Request, *, timeout: float) -> Reply:
        """Send and read the whole reply."""
        connection, response = self._respond(request, timeout)
        try:
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        self._keep(connection, response)
        return Reply(response.status, _headers(response), body)

    def upload(self, request: Request, path: Path, *, timeout: float) -> Reply:
        """Send with a file's content as the body."""
        connection = self._connect()
        try:
            response = self._upload_once(connection, request, path, timeout)
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        self._keep(connection, response)
        return Reply(response.status, _headers(response), body)

    def stream(self, request: Request, *, timeout: float) -> HttpStream:
        """Send, and read the reply piece by piece."""
        connection, response = self._respond(request, timeout)
        return HttpStream(self, connection, response)

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are done."""
        self._is_closed = True
        while self._kept:
            self._kept.pop().connection.close()

    def _respond(
        self, request: Request, timeout: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._idle()
        if connection is not None:
            try:
                return connection, self._send(connection, request, timeout)
            except ServerUnreachable as error:
                # The server had closed it before it saw the request, or it died with the request:
                # both are cured by asking again, since ids are made by the client.
                if not isinstance(error.__cause__, ConnectionError):
                    raise
        connection = self._connect()
        return connection, self._send(connection, request, timeout)

    def _send(
        self, connection: http.client.HTTPConnection, request: Request, timeout: float
    ) -> http.client.HTTPResponse:
        path = self._address.prefix + request.path
        try:
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(timeout)
            headers = headers_of(request, self._token)
            connection.request(request.method, path, request.body, headers)
            return _response(connection)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error

    def _upload_once(
        self, connection: http.client.HTTPConnection, request: Request, path: Path, timeout: float
    ) -> http.client.HTTPResponse:
        headers = headers_of(request, self._token)
        headers["Content-Type"] = request.content_type
        headers["Content-Length"] = str(path.stat().st_size)
        connection.connect()
        connection.sock.settimeout(timeout)
        with path.open("rb") as content:
            connection.request(
                request.method, self._address.prefix + request.path, content, headers
            )
        return _response(connection)

    def _idle(self) -> http.client.HTTPConnection | None:
        self._leave_those_of_the_parent()
        while self._kept:
            try:
                kept = self._kept.pop()
            except IndexError:  # another thread was quicker
                return None
            if time.monotonic() - kept.since < IDLE_SECONDS:
                return kept.connection
            kept.connection.close()
        return None

    def _leave_those_of_the_parent(self) -> None:
        if self._process != os.getpid():
            self._kept.clear()
            self._process = os.getpid()

    def _connect(self) -> http.client.HTTPConnection:
        host, port, tls, _ = self._address
        if not tls:
            return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=self._tls)

    def _keep(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        if self._is_closed or response.will_close or not response.isclosed():
            connection.close()
        else:
            self._kept.append(_Kept(connection, time.monotonic()))

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        return unreachable(self.url, error)


class HttpStream:
    """A reply that is being read."""

    def __init__(
        self,
        transport: HttpTransport,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        self.status = response.status
        self.headers = _headers(response)
        self._transport = transport
        self._connection = connection
        self._response = response

    def __enter__(self) -> HttpStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._transport._keep(self._connection, self._response)

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self._response.read1(CHUNK_BYTES):
                yield piece
            self._check_complete()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._transport._unreachable(error) from error

    def _check_complete(self) -> None:
        # Unlike read(), read1() takes the end of the connection for the end of the body.
        left = self._response.length
        if left:
            raise http.client.IncompleteRead(b"", left)
        self._response.read()


def _response(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """The reply's status and headers, whole. Raises OSError or HTTPException."""
    response = connection.getresponse()
    if response.length is None and not response.chunked:
        # To http.client, headers that break off are the end of the headers, and without a length
        # whatever follows them, or nothing, is the body.
        raise http.client.IncompleteRead(b"")
    return response


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}
