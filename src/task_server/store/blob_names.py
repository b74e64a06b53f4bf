"""Which blobs arguments and outcomes name, found in their bytes without parsing them."""

from __future__ import annotations

import re

from task_server.store.attempts import AttemptReport
from task_server.store.states import Encoding

# Inside a JSON text a quote has a backslash before it, so this is a member of an object.
_REFERENCE = re.compile(rb'"\$blob"\s*:\s*"(sha256:[0-9a-f]{64})"')
_CALL_IN_BLOB = re.compile(rb'"call":\{"encoding":"([a-z]+)","blob":"(sha256:[0-9a-f]{64})"')


def blobs_in(data: bytes) -> tuple[str, ...]:
    """The blobs that stand for values in JSON, as `{"$blob": "sha256:HEX"}`."""
    if b'"$blob"' not in data:
        return ()
    return tuple(dict.fromkeys(name.decode() for name in _REFERENCE.findall(data)))


def blobs_of_payload(payload: bytes) -> tuple[str, ...]:
    """The blobs that arguments need, as `NewTask.payload` holds them."""
    if b'blob"' not in payload:
        return ()
    call = _CALL_IN_BLOB.match(payload)
    return (call[2].decode(),) if call is not None else blobs_in(payload)


def json_blob_of(payload: bytes) -> str | None:
    """The blob of JSON that the arguments lie in."""
    call = _CALL_IN_BLOB.match(payload) if b'blob"' in payload else None
    return call[2].decode() if call is not None and call[1] == b"json" else None


def blobs_of_report(report: AttemptReport) -> tuple[str, ...]:
    """The blobs that an answer needs."""
    if report.encoding.is_blob:
        return (report.answer.decode(),)
    return blobs_in(report.answer) if report.encoding is Encoding.JSON else ()
