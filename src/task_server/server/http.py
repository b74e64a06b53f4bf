"""HTTP as the endpoints see it: a call comes in, a reply goes out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine
from functools import lru_cache
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Raw, Struct

from task_server.errors import Invalid, Malformed, RequestError, TooLarge, WrongMediaType
from task_server.protocol.payload import check_payload, check_text
from task_server.protocol.tasks import Problem
from task_server.server.access import Caller
from task_server.server.bodies import FREE_BYTES, Bodies
from task_server.server.request import Disconnected, Request

T = TypeVar("T")

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
BYTES = b"application/octet-stream"
PROBLEM = b"application/problem+json"

MAXIMUM_QUERY_FIELDS = 100
MAXIMUM_CURSOR = 2**63 - 1
PIECE_BYTES = 1 << 18
"""Of a streamed body, at least, but the last: who reads it is woken for each."""

encode = msgspec.json.Encoder().encode
_anything = msgspec.json.Decoder(Raw)


class Reply(Struct):
    """What an endpoint answers: bytes, or a stream of them."""

    body: bytes | AsyncIterable[bytes]
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    size: int | None = None
    """Bytes of a stream, where known."""


class Call:
    """A request of somebody who may make it; `params` are the fields of its path."""

    __slots__ = ("_bodies", "_held_bytes", "caller", "departure", "params", "request")

    def __init__(
        self, request: Request, caller: Caller, bodies: Bodies, params: dict[str, str] | None = None
    ) -> None:
        self.request = request
        self.caller = caller
        self.params = params or {}
        self.departure = request.departure
        self._bodies = bodies
        self._held_bytes = 0

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name (lower case)."""
        return self.request.fields.get(name)

    def query(self, *allowed: str, ignores_others: bool = False) -> dict[str, str]:
        """The query's fields. Raises Invalid for one that is not allowed, or that stands twice."""
        text = self.request.query
        return _fields(text, allowed, ignores_others).copy() if text else {}

    async def body(self, limit: int) -> bytes:
        """The whole body, which has room among the others until `end`.

        Raises TooLarge, before reading it if its length is stated; Unavailable without room.
        """
        request = self.request
        length = request.fields.get(b"content-length", b"")
        stated = int(length[:20]) if length.isdigit() else 0
        if stated > limit:
            raise TooLarge(f"the body may have {limit} bytes")
        if request.is_whole and request.waiting_bytes <= min(limit, FREE_BYTES):
            return (await request.read())[0]  # as nearly always
        await self._hold(stated)
        size, pieces, has_more = 0, [], True
        while has_more:
            piece, has_more = await self.request.read()
            size += len(piece)
            if size > limit:
                raise TooLarge(f"the body may have {limit} bytes")
            await self._hold(size)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _hold(self, size: int) -> None:
        """Have room for a body of which so many bytes are known."""
        if size > max(self._held_bytes, FREE_BYTES):
            # What is not known before comes in steps, lest each piece waits.
            wanted = max(size, 2 * self._held_bytes) - self._held_bytes
            await self._bodies.take(wanted, own_bytes=self._held_bytes)
            self._held_bytes += wanted

    def end(self) -> None:
        """The request is done: its body is needed no more."""
        if self._held_bytes:
            self._bodies.give_back(self._held_bytes)
            self._held_bytes = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, not in the smallest pieces."""
        has_more = True
        while has_more:
            piece, has_more = await self.request.read(PIECE_BYTES)
            yield piece

    async def unless_gone(self, awaited: asyncio.Future[T]) -> T:
        """Wait for `awaited`, or raise Disconnected (and cancel it) when the caller goes away."""
        await self.wait(awaited)
        return awaited.result()

    async def while_there(self, work: Coroutine[object, object, T]) -> T:
        """Do it; it is cancelled, and Disconnected raised, when the caller goes away.

        As `unless_gone` without a task of its own for the work: a parked exchange is one each.
        """
        task = asyncio.current_task()
        assert task is not None
        leave = task.cancel
        self.departure.tell(leave)
        try:
            if self.departure.has_happened:
                work.close()
                raise Disconnected
            return await work
        except asyncio.CancelledError:
            if self.departure.has_happened:
                task.uncancel()
                raise Disconnected from None
            raise
        finally:
            self.departure.forget(leave)

    async def wait(self, awaited: asyncio.Future[T], *, seconds: float | None = None) -> None:
        """As `unless_gone`, and no longer than so many seconds."""
        if not awaited.done() and not self.departure.has_happened:
            await self._one_of(awaited, seconds)
        if self.departure.has_happened and not awaited.done():
            awaited.cancel()
            await asyncio.wait((awaited,))
            raise Disconnected

    async def _one_of(self, awaited: asyncio.Future[T], seconds: float | None) -> None:
        """Wait until it is done, the caller has gone, or time is up."""
        loop = asyncio.get_running_loop()
        news = loop.create_future()

        def wake(_: object = None) -> None:
            if not news.done():
                news.set_result(None)

        timer = None if seconds is None else loop.call_later(seconds, wake)
        awaited.add_done_callback(wake)
        self.departure.tell(wake)
        try:
            await news
        finally:
            self.departure.forget(wake)
            awaited.remove_done_callback(wake)
            if timer is not None:
                timer.cancel()

    async def stream(self, pieces: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
        """The pieces of a reply, which ends when nobody listens any more."""
        try:
            while True:
                piece = asyncio.ensure_future(_next(pieces))
                found = await self.unless_gone(piece)
                if found is None:
                    return
                yield found
        finally:
            await pieces.aclose()


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)


@lru_cache(maxsize=256)
def _fields(query: bytes, allowed: tuple[str, ...], ignores_others: bool) -> dict[str, str]:
    text = query.decode("latin-1")
    if text.count("&") >= MAXIMUM_QUERY_FIELDS:
        raise Invalid(f"more than {MAXIMUM_QUERY_FIELDS} query fields")
    pairs = parse_qsl(text, keep_blank_values=True)
    found = dict(pairs)
    for key, _ in pairs:
        if key not in allowed and not ignores_others:
            raise Invalid(f"unknown query field {key[:100]!r}", field=key[:100])
    if len(found) != len(pairs):
        raise Invalid("a query field stands twice")
    return found


def check_json(call: Call, *others: bytes) -> bytes:
    """The content type, which must be JSON (or one of `others`); lower case, without parameters."""
    fields = call.request.fields
    if fields.get(b"content-encoding", b"identity") != b"identity":
        raise WrongMediaType("compressed bodies are not taken; send it without Content-Encoding")
    content_type = fields.get(b"content-type", b"")
    if content_type == JSON:
        return JSON
    kind, _, parameters = content_type.lower().partition(b";")
    kind, parameters = kind.strip(), parameters.replace(b" ", b"").replace(b'"', b"")
    if kind not in (JSON, *others) or parameters not in (b"", b"charset=utf-8"):
        raise WrongMediaType("send the header Content-Type: application/json, in UTF-8")
    return kind


def seconds_in(query: dict[str, str], name: str, *, most: float) -> float:
    """A duration from the query, at most `most`; 0 when absent. Raises Invalid."""
    text = query.get(name, "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < float("inf"):
        raise Invalid(f"{name} is a number of seconds from 0 to {most:g}", field=name)
    return min(seconds, most)


def cursor_in(query: dict[str, str]) -> int | None:
    """Where a page begins, None when the query does not say. Raises Invalid."""
    text = query.get("cursor")
    if text is None:
        return None
    is_number = len(text) <= 16 and re.fullmatch("[0-9a-f]+", text) is not None
    if not is_number or int(text, 16) > MAXIMUM_CURSOR:
        raise Invalid("cursor is what the page before said", field="cursor")
    return int(text, 16)


def check_object(body: bytes) -> None:
    """Raise Malformed unless the body is text that begins like a JSON object."""
    check_text(body)
    if body.lstrip()[:1] != b"{":
        raise Malformed("the body is not a JSON object")


def decode(raw: bytes, decoder: msgspec.json.Decoder[T], *, prefix: str = "") -> T:
    """Decode an envelope. Raises Malformed for what is no JSON, Invalid naming the field else."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        _check_syntax(raw)  # a field can be wrong before the text breaks off
        raise invalid(str(error), prefix) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(raw, error) from None


def _check_syntax(raw: bytes) -> None:
    try:
        _anything.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _malformed(raw, error) from None


def _malformed(raw: bytes, error: Exception) -> Malformed:
    if b"\\u" in raw:
        check_payload(raw, "body")  # half a letter is JSON, only no text: 422
    return Malformed(f"the body is not valid JSON: {error}")


def invalid(text: str, prefix: str = "") -> Invalid:
    """msgspec's words as an error that names the field."""
    what, _, path = text.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    named = what.split("`")
    if ("unknown field" in what or "missing required field" in what) and len(named) > 2:
        field = f"{field}.{named[1]}".lstrip(".")
    elif field and what.startswith(("Expected", "Invalid")):
        what = f"{field}: {what[0].lower()}{what[1:]}"
    return Invalid(what, field=(prefix + field) or None)


def problem(error: RequestError, *, is_plain: bool) -> Reply:
    """An error as the API in question tells it."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if error.status == 401:
        headers = ((b"www-authenticate", b"Bearer"),)
    if error.retry_after is not None or error.status in (429, 503, 507):
        seconds = max(1, round(error.retry_after or 1))
        headers = (*headers, (b"retry-after", str(seconds).encode()))
    if is_plain:
        told = {"code": error.code, "message": error.message}
        body = encode({"sucsess": False, "success": False, "error": told})
        return Reply(body, error.status, JSON, headers)
    shown = Problem(
        type=f"urn:task-server:{error.code}",
        title=error.code.replace("_", " "),
        status=error.status,
        detail=error.message,
        code=error.code,
        retryable=error.retryable,
        errors=[dict(each) for each in error.errors] if isinstance(error, Invalid) else [],
    )
    return Reply(encode(shown), error.status, PROBLEM, headers)
