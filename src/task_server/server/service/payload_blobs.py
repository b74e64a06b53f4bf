"""Blobs that arguments lie in or name: stored where they are large, and told with the task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from task_server.server.service.arguments import call_of
from task_server.server.service.requests import Read
from task_server.server.state import State
from task_server.store.blob_names import blobs_in, blobs_of_payload, json_blob_of
from task_server.store.submissions import StoredBlob

BLOBS_AT_ONCE = 32
"""Of one request."""

T = TypeVar("T")
R = TypeVar("R")


async def some_at_once(work: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """What `work` gives for each, in order; a far store would make one by one slow."""
    done: list[R] = []
    for start in range(0, len(items), BLOBS_AT_ONCE):
        done += await asyncio.gather(*map(work, items[start : start + BLOBS_AT_ONCE]))
    return done


async def store_large(state: State, tasks: Sequence[Read]) -> list[StoredBlob]:
    """Put large arguments into the blob store; the payloads name them from then on."""
    large = [(task, *task.large) for task in tasks if task.large is not None]
    if not large:
        return []
    names = await some_at_once(state.blobs.put_bytes, [data for _, _, data in large])
    stored = []
    for (task, encoding, data), name in zip(large, names, strict=True):
        task.payload = call_of(encoding, blob=name)
        stored.append(StoredBlob(name, len(data)))
    return stored


async def blobs_needed(state: State, tasks: Sequence[Read]) -> list[tuple[str, ...]]:
    """The blobs that each task's arguments need, also those named inside of a blob of JSON."""
    found = [blobs_of_payload(each.payload) if b'blob"' in each.payload else () for each in tasks]
    if not any(found):
        return found
    outer = {name for task in tasks if (name := json_blob_of(task.payload)) is not None}
    if not outer:
        return found
    names = sorted(outer)
    inside = await some_at_once(lambda name: _inside(state, name), names)
    by_name = dict(zip(names, inside, strict=True))
    return [blobs + by_name.get(blobs[0], ()) if blobs else blobs for blobs in found]


async def _inside(state: State, name: str) -> tuple[str, ...]:
    """The blobs that a blob of JSON names; what is larger than a request may be is not read."""
    size = await state.blobs.size(name)
    if size is None or size > state.settings.body_bytes:
        return ()
    return await asyncio.to_thread(blobs_in, await state.blobs.read(name))
