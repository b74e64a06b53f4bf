"""The agent's ends of what leads to a runner: frames both ways, and permissions to start.

A call starts only when the runner reads its four bytes from the second socket. The agent keeps that
socket's other end too, and can read them first: then the call is the agent's again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterable

from task_server.worker.calls import START_BITS

START = struct.Struct("<I")
READ_BYTES = 1 << 20
WRITE_BYTES = 1 << 20


class Channel:
    """Bytes to and from one runner, without ever waiting.

    `on_data` gets what arrived, b"" once at the end; `on_room` tells that all was written.
    """

    def __init__(
        self,
        frames: socket.socket,
        starts: socket.socket,
        starts_of_child: socket.socket,
        *,
        on_data: Callable[[bytes], None],
        on_room: Callable[[], None],
    ) -> None:
        self._frames = frames
        self._starts = starts
        self._starts_of_child = starts_of_child
        self._on_data = on_data
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._out = bytearray()
        self._pause: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self._loop.add_reader(frames, self._on_readable)

    @property
    def unwritten_bytes(self) -> int:
        """What waits for the runner to read."""
        return len(self._out)

    def write(self, data: bytes) -> None:
        """Send; what does not fit goes later. To a runner that is gone: nowhere."""
        if self._out:
            self._out += data
            return
        try:
            written = self._frames.send(data)
        except BlockingIOError:
            written = 0
        except OSError:
            return
        if written < len(data):
            self._out += memoryview(data)[written:]
            self._loop.add_writer(self._frames, self._on_writable)

    def _on_writable(self) -> None:
        try:
            written = self._frames.send(memoryview(self._out)[:WRITE_BYTES])
        except BlockingIOError:
            return
        except OSError:
            written = len(self._out)
        del self._out[:written]
        if not self._out:
            self._loop.remove_writer(self._frames)
            self._on_room()

    def allow(self, nonces: Iterable[int]) -> None:
        """Let these calls start, each after those before it."""
        with contextlib.suppress(OSError):  # it is ending: its exit tells
            self._starts.send(b"".join(START.pack(nonce & START_BITS) for nonce in nonces))

    def take_starts(self) -> list[int]:
        """Take back every permission that was not used: low bits of nonces, in order."""
        data = b""
        with contextlib.suppress(OSError):
            while part := self._starts_of_child.recv(READ_BYTES, socket.MSG_DONTWAIT):
                data += part
        return [start for (start,) in START.iter_unpack(data)]

    def is_allowed_still(self, nonce: int) -> bool:
        """Whether that call, the first of those not done, has a permission it has not used."""
        try:
            data = self._starts_of_child.recv(START.size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return data == START.pack(nonce & START_BITS)

    def no_more(self) -> None:
        """Tell the runner that it may end after the calls it has."""
        with contextlib.suppress(OSError):
            self._starts.shutdown(socket.SHUT_WR)

    def _on_readable(self) -> None:
        try:
            data = self._frames.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._frames)
        self._on_data(data)

    def pause(self, seconds: float) -> None:
        """Read nothing for so long."""
        if self._pause is None and not self._is_stopped:
            self._loop.remove_reader(self._frames)
            self._pause = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._frames, self._on_readable)

    def read_rest(self) -> Iterable[bytes]:
        """What had arrived; to be asked when the process is gone."""
        with contextlib.suppress(OSError):
            while data := self._frames.recv(READ_BYTES):
                yield data

    def stop(self) -> None:
        """Tell of nothing more; permissions can still be taken back."""
        self._is_stopped = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._frames)
        self._loop.remove_writer(self._frames)

    def close(self) -> None:
        """Let the sockets go."""
        self.stop()
        for end in (self._frames, self._starts, self._starts_of_child):
            end.close()
