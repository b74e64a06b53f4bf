"""What a runner is asked to do and what came of it, and the frames in which both travel.

A frame is the lengths of header and payload, a JSON header, the payload; before those of calls
stands the nonce, so that like calls have equal headers. `child.py` has the other side. Whatever
comes from a runner is a stranger's bytes: it is checked here, never unpickled.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import Struct

from task_server.protocol.tasks import Error, ErrorKind, Resolved
from task_server.protocol.workers import Usage

ANSWER_BYTES = 64 << 20
LOG_BYTES = 1 << 20
MAX_HEADER = 4 << 20

START_BITS = 0xFFFFFFFF
"""The part of a call's nonce that permits it to start."""

HEAD = struct.Struct("!IQ")
CALL_HEAD = struct.Struct("!QIQ")


class CallLimits(Struct, frozen=True):
    """Bounds of what one call may give back, in bytes."""

    answer_bytes: int = ANSWER_BYTES
    log_bytes: int = LOG_BYTES


class Call(Struct, frozen=True, kw_only=True):
    """One attempt, with all that a runner needs for it."""

    lease: str
    function: str = ""
    """`module:qualname`, dotted, or a name; unused when `pickled`."""
    module: str | None = None
    package: str | None = None
    pickled: bytes | None = None
    """A function by value."""
    encoding: Literal["json", "pickle"] = "json"
    payload: bytes = b"[[],{}]"
    """`[args, kwargs]` as JSON, or `(args, kwargs)` pickled; the path of them if `is_in_file`."""
    is_in_file: bool = False
    result_encoding: str = "json"
    timeout_seconds: float = 0.0
    """0: none."""
    timeout_why: str = ""
    blobs: dict[str, str] = {}
    """Digest -> path of a file that the runner may read."""
    limits: CallLimits = CallLimits()


class Outcome(Struct, frozen=True, kw_only=True):
    """How one call ended."""

    lease: str
    outcome: Literal["succeeded", "failed", "crashed", "released"]
    encoding: Literal["json", "pickle"] | None = None
    answer: bytes = b""
    """The value as JSON or its pickle."""
    error: Error | None = None
    resolved: Resolved | None = None
    usage: Usage | None = None
    log: bytes = b""
    side_blobs: list[tuple[str, bytes]] = []
    """Digest and content of what the answer names by `$blob`: to be stored before the report."""


class Malformed(Exception):
    """Bytes from a runner that are no frame of ours."""


class AnswerHeader(Struct, array_like=True):
    """Header of a frame from the runner; the first frame has the nonce alone."""

    nonce: int
    run_seconds: float = 0.0
    import_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    log_start: int = 0
    log_end: int = 0
    has_children: bool = False
    resolved: Resolved | None = None
    encoding: Literal["json", "pickle"] | None = None
    answer_bytes: int = 0
    sides: list[tuple[str, int]] = []
    error: Error | None = None


class _CallHeader(Struct, omit_defaults=True):
    function: str
    encoding: str
    result_encoding: str
    limit: int
    module: str | None = None
    package: str | None = None
    pickled: int = 0
    in_file: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AnswerHeader).decode


def control_frame(header: object) -> bytes:
    """A frame without a call."""
    data = _encode(header)
    return CALL_HEAD.pack(0, len(data), 0) + data


def call_frame(call: Call, nonce: int) -> bytes:
    """The frame that asks for one call."""
    pickled = call.pickled
    header = _call_header(
        call.function,
        call.encoding,
        call.result_encoding,
        call.limits.answer_bytes,
        call.module,
        call.package,
        0 if pickled is None else len(pickled),
        call.is_in_file,
    )
    if call.blobs:
        header = header[:-1] + b',"blobs":%s}' % _encode(call.blobs)
    payload = call.payload if pickled is None else pickled + call.payload
    return CALL_HEAD.pack(nonce, len(header), len(payload)) + header + payload


@lru_cache(maxsize=256)
def _call_header(
    function: str,
    encoding: str,
    result_encoding: str,
    limit: int,
    module: str | None,
    package: str | None,
    pickled: int,
    in_file: bool,
) -> bytes:
    """The header of calls that differ in their arguments alone."""
    return _encode(
        _CallHeader(function, encoding, result_encoding, limit, module, package, pickled, in_file)
    )


class AnswerReader:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview, *, limit: int) -> Iterator[tuple[AnswerHeader, bytes]]:
        """The frames that are whole now. Raises Malformed.

        `limit` bounds a payload: answers and side blobs each take at most what a call may give.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= HEAD.size:
                header_size, payload_size = HEAD.unpack_from(buffer, at)
                if header_size > MAX_HEADER or payload_size > 2 * limit:
                    raise Malformed(f"a frame of {header_size + payload_size} bytes")
                start = at + HEAD.size
                end = start + header_size + payload_size
                if len(buffer) < end:
                    break
                with memoryview(buffer) as view:
                    header = _header(view[start : start + header_size])
                    payload = bytes(view[start + header_size : end])
                at = end
                yield header, payload
        finally:
            del buffer[:at]


def _header(data: memoryview) -> AnswerHeader:
    try:
        return _decode(data)
    except msgspec.MsgspecError as error:
        raise Malformed(str(error)) from error


def outcome_of(call: Call, header: AnswerHeader, payload: bytes, log: bytes) -> Outcome:
    """What a frame says of its call. Raises Malformed when it contradicts itself."""
    usage = Usage(
        run_seconds=header.run_seconds,
        import_seconds=header.import_seconds,
        cpu_seconds=header.cpu_seconds,
        peak_bytes=header.peak_bytes,
    )
    if header.error is not None:
        return Outcome(
            lease=call.lease,
            outcome="failed",
            error=header.error,
            resolved=header.resolved,
            usage=usage,
            log=log,
        )
    return Outcome(
        lease=call.lease,
        outcome="succeeded",
        encoding=header.encoding,
        answer=payload[: header.answer_bytes] if header.sides else payload,
        resolved=header.resolved,
        usage=usage,
        log=log,
        side_blobs=_sides(header, payload) if header.sides else _nothing_else(header, payload),
    )


def _nothing_else(header: AnswerHeader, payload: bytes) -> list[tuple[str, bytes]]:
    if header.encoding is None or header.answer_bytes != len(payload):
        raise Malformed("an answer of another length than it says")
    return []


def _sides(header: AnswerHeader, payload: bytes) -> list[tuple[str, bytes]]:
    sides = []
    at = header.answer_bytes
    for digest, size in header.sides:
        if size < 0:
            raise Malformed("a part of negative length")
        sides.append((digest, payload[at : at + size]))
        at += size
    if header.encoding is None or at != len(payload) or header.answer_bytes < 0:
        raise Malformed("an answer of another length than its parts")
    return sides


def lost(call: Call, message: str, *, exit: int | None, usage: Usage, log: bytes) -> Outcome:
    """The outcome of a call whose runner ended under it."""
    error = _error("lost", "RunnerLost", message, exit=exit)
    return Outcome(lease=call.lease, outcome="crashed", error=error, usage=usage, log=log)


def timed_out(call: Call, *, usage: Usage, log: bytes) -> Outcome:
    """The outcome of a call that ran for too long."""
    why = f", {call.timeout_why}" if call.timeout_why else ""
    error = _error("timeout", "TimeoutError", f"timed out after {call.timeout_seconds:g} s{why}")
    return Outcome(lease=call.lease, outcome="failed", error=error, usage=usage, log=log)


def out_of_memory(call: Call, limit: int | None, *, usage: Usage, log: bytes) -> Outcome:
    """The outcome of a call that took more memory than it may; `usage` has the peak."""
    may = f" than the {limit >> 20} MiB it may" if limit else ""
    message = f"took more memory{may}: at its peak {usage.peak_bytes >> 20} MiB"
    error = _error("out_of_memory", "MemoryError", message)
    return Outcome(lease=call.lease, outcome="failed", error=error, usage=usage, log=log)


def released(call: Call) -> Outcome:
    """The outcome of a call that never started."""
    return Outcome(lease=call.lease, outcome="released")


def _error(kind: ErrorKind, type_name: str, message: str, *, exit: int | None = None) -> Error:
    return Error(kind=kind, type=type_name, message=message, exit=exit)
