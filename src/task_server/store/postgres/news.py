"""What servers of one database tell each other: which lanes, sessions and tasks have changed.

Telling is never part of a task's transaction (it takes a lock of the whole database at commit), and
news may be lost: whoever needs to know looks again now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from task_server.store.postgres.connection import Connection, connect_to_keep, pause

log = logging.getLogger(__name__)

CHANNEL = "task_server"
GATHER_SECONDS = 0.005
"""News is gathered for so long before it is told."""
PING_SECONDS = 1.0
TRY_SECONDS = 2.0
PAYLOAD_BYTES = 7900
"""PostgreSQL takes 8000."""


class Told(Struct, array_like=True):
    """News of one server."""

    server: int
    lanes: list[int] | None = []
    """With new work; None: perhaps all."""
    sessions: list[int] | None = []
    """With something to hear; None: perhaps all."""
    batches: list[int] | None = []
    """That grew or were closed; None: perhaps all."""
    ended: int = 0
    """Highest place among the tasks that the server has ended; 0: none yet."""
    requests: bool = False
    """Environments are to be locked, or were."""


class News:
    """One connection that tells and listens. `on_gap`: news may have been lost."""

    def __init__(
        self,
        url: str,
        server: int,
        on_news: Callable[[Told], None],
        on_gap: Callable[[], None],
        *,
        has_listeners: Callable[[], bool] = lambda: True,
    ) -> None:
        self._url = url
        self._server = server
        self._on_news = on_news
        self._on_gap = on_gap
        self._has_listeners = has_listeners
        self._connection: Connection | None = None
        self._has_more = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._ended = 0
        self._forget()

    async def start(self) -> None:
        """Begin to listen, and let the others know; from now on `on_gap` tells what is missed."""
        await self._connect()
        self._loop = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Tell and hear no more."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        self._drop()

    def tell(
        self,
        *,
        lanes: Iterable[int] = (),
        sessions: Iterable[int] = (),
        batches: Iterable[int] = (),
        ended: int = 0,
        requests: bool = False,
    ) -> None:
        """Tell the other servers, soon; never waits."""
        self._ended = max(self._ended, ended)
        if not self._has_listeners():
            return
        self._lanes.update(lanes)
        self._sessions.update(sessions)
        self._batches.update(batches)
        self._requests |= requests
        self._has_more.set()

    # ---- the connection

    async def _run(self) -> None:
        tries = 0
        while True:
            try:
                await self._serve()
            except Exception as error:
                # Whatever it is, another connection is the cure, and looking again the safe way.
                log.debug("news stopped: %r", error)
            self._drop()
            await asyncio.sleep(pause(tries))
            with contextlib.suppress(Exception):
                await self._connect()
                self._on_gap()
                tries = -1
            tries += 1

    async def _serve(self) -> None:
        """Tell what there is, until the connection breaks."""
        while self._connection is not None and not self._connection.is_closed():
            try:
                await asyncio.wait_for(self._has_more.wait(), PING_SECONDS)
            except TimeoutError:
                async with asyncio.timeout(TRY_SECONDS):
                    await self._connection.execute("SELECT 1")
                continue
            await asyncio.sleep(GATHER_SECONDS)
            async with asyncio.timeout(TRY_SECONDS):
                await self._notify(self._connection)

    async def _connect(self) -> None:
        self._connection = connection = await connect_to_keep(self._url)
        connection.add_termination_listener(lambda _: self._has_more.set())
        async with asyncio.timeout(TRY_SECONDS):
            await connection.add_listener(CHANNEL, self._hear)
            await self._notify(connection)

    async def _notify(self, connection: Connection) -> None:
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, self._take())

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None

    def _hear(self, connection: object, process: int, channel: str, payload: object) -> None:
        try:
            told = msgspec.json.decode(str(payload), type=Told)
        except msgspec.MsgspecError:
            log.warning("news that cannot be read: is an older server at work?")
            self._on_gap()
            return
        if told.server != self._server:
            self._on_news(told)

    # ---- what is to be told

    def _forget(self) -> None:
        self._lanes: set[int] = set()
        self._sessions: set[int] = set()
        self._batches: set[int] = set()
        self._requests = False
        self._has_more.clear()

    def _take(self) -> str:
        told = Told(
            self._server,
            sorted(self._lanes),
            sorted(self._sessions),
            sorted(self._batches),
            self._ended,
            self._requests,
        )
        self._forget()
        payload = msgspec.json.encode(told)
        if len(payload) > PAYLOAD_BYTES:
            told.lanes = told.sessions = told.batches = None
            payload = msgspec.json.encode(told)
        return payload.decode()
