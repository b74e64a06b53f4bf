"""Room for large request bodies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from task_server.errors import Unavailable
from task_server.server.access import Caller
from task_server.server.bodies import FREE_BYTES, Bodies
from task_server.server.http import Call
from task_server.server.request import Request
from tests.server.asgi import application

MIB = 2**20


async def test_who_finds_no_room_waits_for_it_in_turn() -> None:
    bodies = Bodies(10)
    await bodies.take(8)
    order: list[int] = []

    async def take(size: int) -> None:
        await bodies.take(size)
        order.append(size)

    waiting = [asyncio.create_task(take(size)) for size in (7, 2, 1)]
    await asyncio.sleep(0)
    assert order == []
    bodies.give_back(8)
    await asyncio.gather(*waiting)

    assert order == [7, 2, 1] and bodies.held_bytes == 10


async def test_who_waits_too_long_is_told_to_come_back_and_is_in_nobodys_way() -> None:
    bodies = Bodies(10, wait_seconds=0.05)
    await bodies.take(8)
    large = asyncio.create_task(bodies.take(5))
    await asyncio.sleep(0.02)
    small = asyncio.create_task(bodies.take(2))

    with pytest.raises(Unavailable) as refused:
        await large

    assert refused.value.retry_after
    await small
    assert bodies.held_bytes == 10


async def test_who_goes_away_while_waiting_holds_nothing() -> None:
    bodies = Bodies(10)
    await bodies.take(8)
    waiting = [asyncio.create_task(bodies.take(5)) for _ in range(2)]
    await asyncio.sleep(0)

    waiting[0].cancel()
    bodies.give_back(8)  # the other is admitted, and goes away as well
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    assert bodies.held_bytes == 0


async def test_one_body_alone_always_has_room() -> None:
    bodies = Bodies(10, wait_seconds=0.01)

    await bodies.take(50)
    await bodies.take(50, own_bytes=50)
    with pytest.raises(Unavailable):
        await bodies.take(1)

    bodies.give_back(100)
    assert bodies.held_bytes == 0


def call_of(pieces: list[bytes], bodies: Bodies, *, length: int | None = None) -> Call:
    left = iter(pieces)
    fields = {} if length is None else {b"content-length": str(length).encode()}
    request = Request("POST", "/", b"", fields)

    def come() -> None:
        piece = next(left)
        request.add(piece)
        if piece is pieces[-1]:
            request.complete()

    request.on_read = come
    return Call(request, Caller("user", 1, 1), bodies)


@pytest.mark.parametrize("is_stated", [True, False])
async def test_a_large_body_is_held_until_its_request_ends(is_stated: bool) -> None:
    bodies = Bodies(MIB, wait_seconds=0.01)
    pieces = [bytes([number]) * 2**16 for number in range(48)]
    size = 48 * 2**16
    call = call_of(pieces, bodies, length=size if is_stated else None)

    assert await call.body(64 * MIB) == b"".join(pieces)

    assert bodies.held_bytes >= size
    with pytest.raises(Unavailable):
        await call_of([b"x"], bodies, length=FREE_BYTES + 1).body(64 * MIB)
    assert await call_of([b"x"], bodies, length=1).body(64 * MIB) == b"x", "little needs no room"
    call.end()
    assert bodies.held_bytes == 0


async def test_a_request_that_is_done_gives_its_room_back(tmp_path: Path) -> None:
    large = ["x" * FREE_BYTES]
    async with application(tmp_path) as app:
        taken = await app.ask("POST", "/v1/tasks", {"function": "len", "args": large})
        await app.refused(422, "POST", "/v1/tasks", {"function": "1f", "args": large})

        assert taken.status == 202 and app.state.bodies.held_bytes == 0
