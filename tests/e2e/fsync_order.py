"""Whether what a reply tells was on disk before the reply left, read off a trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from tests.e2e.system_calls import RECEIVING, SENDING, Call

WRITING = frozenset({"write", "pwrite64", "writev", "pwritev", "pwritev2"})


class Claim(Struct, frozen=True):
    """A request that succeeded, and what the database has to hold since."""

    request: bytes
    """Bytes that stand in this request alone."""
    stored: bytes | None = None
    """Bytes that were written for it; None: whatever was written while it was under way."""


class _Served(Struct):
    """A request and its reply, as places in the order of what happened."""

    received: int
    replied: int
    status: bytes


def faults_in(
    calls: Sequence[Call], claims: Iterable[Claim], *, is_database: Callable[[str], bool]
) -> list[str]:
    """What is wrong with the order of each claim; empty when all is well."""
    served = _served(calls)
    written = [call for call in calls if call.name in WRITING and is_database(call.file)]
    synced = [call for call in calls if call.has_synced and is_database(call.file)]
    found = []
    for claim in claims:
        requests = [each for data, each in served if claim.request in data]
        if len(requests) != 1 or not requests[0].status.startswith(b"2"):
            found.append(f"{claim.request!r}: not one request with its success, but {requests}")
        elif why := _fault(claim, requests[0], written, synced):
            found.append(f"{claim.request!r}: {why}")
    return found


def _fault(claim: Claim, request: _Served, written: list[Call], synced: list[Call]) -> str:
    first = next((call for call in written if _is_for(call, claim, request)), None)
    if first is None or first.ended is None:
        return "the reply left before anything was written"
    file = first.file
    for sync in synced:
        began_after = sync.begun > first.ended and sync.file == file
        if began_after and sync.ended is not None and sync.ended < request.replied:
            return ""
    return "the reply left before what was written was synced"


def _is_for(call: Call, claim: Claim, request: _Served) -> bool:
    is_between = request.received < call.begun < request.replied
    return is_between and (claim.stored is None or claim.stored in call.data)


def _served(calls: Sequence[Call]) -> list[tuple[bytes, _Served]]:
    """Every request with its bytes, and where the first byte of its reply was sent."""
    by_connection: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.file.startswith("TCP"):
            by_connection[call.file].append(call)
    return [each for connection in by_connection.values() for each in _on_one(connection)]


def _on_one(calls: list[Call]) -> list[tuple[bytes, _Served]]:
    served = []
    received, at = b"", -1
    for call in calls:
        if call.name in RECEIVING and call.ended is not None:
            received += call.data
            at = call.ended
        elif call.name in SENDING and call.data.startswith(b"HTTP/1.1 "):
            served.append((received, _Served(at, call.begun, call.data[9:12])))
            received = b""
    return served
