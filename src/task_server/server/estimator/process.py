"""The server's end of the estimator: starts it, starts it again, asks it, and does without it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
import time

import msgspec

from task_server.server.estimator.messages import (
    HEAD,
    Failed,
    Reply,
    Request,
    Save,
    frame,
    read_reply,
)

log = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""One that lived for so long starts again at once."""
END_SECONDS = 2.0
"""How long one may take to end by itself."""
MAXIMUM_OPEN = 64
"""Requests that wait at once; what comes then does without an answer."""


class EstimatorProcess:
    """The child process. It starts when it is first needed."""

    def __init__(self, *, is_on: bool = True) -> None:
        self.is_on = is_on
        self.starts = 0
        """How often it was started: whoever taught it has to begin anew when that changes."""
        self.pid: int | None = None
        """None: it does not run now."""
        self.used_at = time.monotonic()
        """When it was last asked something, or there was something to learn."""
        self._is_resting = False
        self._needed = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._open: dict[int, asyncio.Future[Reply | None]] = {}
        self._numbers = itertools.count(1)

    def need(self) -> None:
        """Have it started, if it does not run."""
        self.used_at = time.monotonic()
        if self.is_on:
            self._needed.set()

    def rest(self) -> None:
        """Let it end and its memory be others', until it is needed again."""
        if self._writer is not None and not self._open:
            self._is_resting = True
            self._needed.clear()
            self._let_go()

    async def ask(self, request: Request, *, seconds: float) -> Reply | None:
        """Its reply; None when it is away, failed, or took longer than that."""
        if not isinstance(request, Save):  # to keep what it knows is no use of it
            self.need()
        if self._writer is None or len(self._open) >= MAXIMUM_OPEN:
            return None
        number = next(self._numbers)
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._open[number] = future
        try:
            self._writer.write(frame(number, request))
            async with asyncio.timeout(seconds):
                await self._writer.drain()
                reply = await future
        except (OSError, TimeoutError, ValueError) as error:
            log.warning("the estimator did not answer: %s", error or type(error).__name__)
            return None
        finally:
            self._open.pop(number, None)
        if isinstance(reply, Failed):
            log.warning("the estimator could not answer: %s", reply.message)
            return None
        return reply

    # ---- its life

    async def run(self) -> None:
        """Keep it running until cancelled, from when it is needed."""
        failures = 0
        while self.is_on:
            await self._needed.wait()
            began = time.monotonic()
            self._is_resting = False
            try:
                await self._live()
            except (OSError, msgspec.DecodeError) as error:
                log.warning("the estimator: %s", error)
            if self._is_resting:
                continue
            failures = 0 if time.monotonic() - began > STEADY_SECONDS else failures + 1
            wait = min(FIRST_WAIT_SECONDS * 2.0 ** (failures - 1), LONGEST_WAIT_SECONDS)
            log.warning("the estimator ended; it is started again in %.0f s", wait)
            await asyncio.sleep(wait)

    async def _live(self) -> None:
        """One life of it, from its start to its end."""
        ours, its = socket.socketpair()
        with its:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "task_server.server.estimator",
                    str(its.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=(its.fileno(),),
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                )
            except BaseException:
                ours.close()
                raise
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self.pid = process.pid
        self.starts += 1
        try:
            await self._read(reader)
        finally:
            self._let_go()
            await _end(process)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                (size,) = HEAD.unpack(await reader.readexactly(HEAD.size))
                number, reply = read_reply(await reader.readexactly(size))
            except asyncio.IncompleteReadError:
                return
            future = self._open.get(number)
            if future is not None and not future.done():
                future.set_result(reply)

    def _let_go(self) -> None:
        self.pid = None
        if self._writer is not None:
            self._writer.close()  # the end of its requests: it ends
            self._writer = None
        for future in self._open.values():
            if not future.done():
                future.set_result(None)


async def _end(process: asyncio.subprocess.Process) -> None:
    """See it end; one that does not is killed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
            return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
