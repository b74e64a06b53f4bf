"""Connections to PostgreSQL: how they are made, what they are told, and what their errors mean."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg

from task_server.errors import DatabaseUnusable, Unavailable
from task_server.store.records.sql import Work

CONNECT_SECONDS = 5.0
COMMIT_SECONDS = 10.0
RETRY_SECONDS = 5.0
"""How long work is tried again while the database is away."""
PROBE_SECONDS = 1.0
"""The same once it is known to be away: whoever asks is told quickly."""
STARTING_SECONDS = 15.0
"""How long a server waits at its start for a database that starts too."""
READERS = 4
UNREACHABLE = "the database cannot be reached; trying again is safe"

T = TypeVar("T")

_COMMON = {
    "application_name": "task-server",
    "client_encoding": "utf8",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "30s",
    "statement_timeout": "10s",
    "jit": "off",
}
_PINNED = {
    # Plans made while the tables were empty cost a hundredfold later: indexes, nested loops only.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "plan_cache_mode": "force_generic_plan",
}
_READING = {"default_transaction_read_only": "on"}
_MIGRATING = {"statement_timeout": "0"}
_KEEPING = {"synchronous_commit": "off", "statement_timeout": "2s"}


class Connection(asyncpg.Connection):
    """A connection whose COMMIT means what it says."""

    __slots__ = ("_warnings",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._warnings: list[str] = []

    async def commit(self) -> None:
        """COMMIT. Raises Unconfirmed when it is done, but not as durable as promised.

        Raises TimeoutError when nobody knows: PostgreSQL has no time limit for it.
        """
        self._warnings.clear()
        self.add_log_listener(self._warn)
        try:
            await self.execute("COMMIT", timeout=COMMIT_SECONDS)
        finally:
            self.remove_log_listener(self._warn)
        if self._warnings:
            raise Unconfirmed(self._warnings[0])

    def _warn(self, _: object, message: asyncpg.PostgresLogMessage) -> None:
        # A wait for a standby that is cut short ends in a warning, not in an error.
        if message.severity_en == "WARNING":
            self._warnings.append(message.message or "")


class Unconfirmed(Exception):
    """A COMMIT that no standby confirmed: it may be lost with the database's machine."""


# ---- errors


def is_conflict(error: BaseException) -> bool:
    """True when the same transaction, run again, will do: others were in its way."""
    return isinstance(error, (asyncpg.SerializationError, asyncpg.DeadlockDetectedError))


_LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has become a standby
    asyncpg.InternalClientError,
)


def is_lost(error: BaseException) -> bool:
    """True when the connection is of no more use; another one may be."""
    if isinstance(error, asyncpg.InterfaceError):
        return "clos" in str(error)  # "connection is closed", "... was closed in the middle ..."
    return isinstance(error, _LOST)


def pause(tries: int) -> float:
    """Seconds before the next try, different for everybody who met."""
    return random.uniform(0.5, 1.0) * min(0.01 * 2.0 ** min(tries, 10), 0.5)


async def retrying(work: Callable[[], Awaitable[T]], *, seconds: float = RETRY_SECONDS) -> T:
    """Do work that may be done again, until it is done. Raises Unavailable when time is up."""
    end = time.monotonic() + seconds
    tries = 0
    while True:
        try:
            async with asyncio.timeout(max(end - time.monotonic(), 0.0)):
                return await work()
        except Exception as error:
            if not (is_conflict(error) or is_lost(error)):
                raise
            if time.monotonic() >= end:
                raise Unavailable(UNREACHABLE) from error
        await asyncio.sleep(pause(tries))
        tries += 1


# ---- connecting


def shown(url: str) -> str:
    """The address of a database as it can be shown: without password."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    query = parse_qs(parts.query)
    host = host or query.get("host", ["localhost"])[0]
    return f"{user.partition(':')[0]}{at}{host}{parts.path}"


def _is_readable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parse_qs(parts.query, strict_parsing=bool(parts.query))
        return "@" not in parts.path and not parts.fragment
    except ValueError:
        return False


async def connect(url: str, *, seconds: float | None = None) -> Connection:
    """A connection for the verbs, with its planner pinned; `seconds`: how long it may take."""
    return await _connect(url, {**_COMMON, **_PINNED}, seconds)


async def connect_to_migrate(url: str) -> Connection:
    """A connection whose statements may take as long as they need."""
    return await _connect(url, {**_COMMON, **_MIGRATING})


async def connect_to_keep(url: str) -> Connection:
    """A connection for what is renewed every second: short waits, and nothing that must last."""
    return await _connect(url, {**_COMMON, **_KEEPING})


async def _connect(url: str, told: dict[str, str], seconds: float | None = None) -> Connection:
    return await asyncpg.connect(
        url,
        timeout=CONNECT_SECONDS if seconds is None else seconds,
        connection_class=Connection,
        server_settings=told,
    )


async def first_connection(url: str) -> Connection:
    """The first connection of a server or a command. Raises DatabaseUnusable: why, what to do."""
    if not _is_readable(url):
        raise DatabaseUnusable(
            "the database's URL cannot be read; it is postgresql://USER:PASSWORD@HOST:PORT/NAME,"
            " with every special sign in it written as %XX"
        )
    end = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            return await connect_to_migrate(url)
        except asyncpg.CannotConnectNowError as error:  # it starts, too
            if time.monotonic() > end:
                raise unusable(url, error) from error
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise unusable(url, error) from error
        await asyncio.sleep(0.2)


def unusable(url: str, error: Exception) -> DatabaseUnusable:
    """What to tell of a database that cannot be used."""
    address = shown(url)
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        told = f"{error}; check user and password of --database (or PGUSER, PGPASSWORD)"
    elif isinstance(error, asyncpg.InvalidCatalogNameError):
        told = f"{error}; make it first: createdb"
    elif isinstance(error, TimeoutError):
        told = f"no reply within {CONNECT_SECONDS:g} s; does PostgreSQL run there?"
    elif isinstance(error, OSError):
        told = f"{error.strerror or error}; does PostgreSQL run there?"
    elif isinstance(error, asyncpg.PostgresError):
        told = str(error)
    else:  # of the URL: its words may hold the password
        return DatabaseUnusable(
            f"the database's URL has something that is not understood ({type(error).__name__});"
            " it is postgresql://USER:PASSWORD@HOST:PORT/NAME"
        )
    return DatabaseUnusable(f"database {address}: {told}")


# ---- reading


class Readers:
    """A few connections that only read, lent in turn."""

    def __init__(self, pool: asyncpg.Pool, patience: Callable[[], float]) -> None:
        self._pool = pool
        self._patience = patience

    @classmethod
    async def open(
        cls, url: str, *, patience: Callable[[], float] = lambda: RETRY_SECONDS
    ) -> Readers:
        """Begin to lend; `patience`: how many seconds a read may take when the database is away."""
        return cls(
            await asyncpg.create_pool(
                url,
                min_size=0,
                max_size=READERS,
                timeout=CONNECT_SECONDS,
                reset=_keep_as_it_is,
                server_settings={**_COMMON, **_READING},
            ),
            patience,
        )

    async def read(self, work: Work[T]) -> T:
        """Read what is committed. Raises Unavailable when the database is away, or too slow."""

        async def once() -> T:
            async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
                try:
                    return await work(PgRows(connection))
                except (asyncio.CancelledError, OSError):
                    connection.terminate()  # else it would wait for a reply that nobody wants
                    raise

        try:
            return await retrying(once, seconds=self._patience())
        except asyncpg.QueryCanceledError as error:
            raise Unavailable("the database took too long; trying again is safe") from error

    async def close(self) -> None:
        """End the connections, also those in use."""
        self._pool.terminate()


async def _keep_as_it_is(_: object) -> None:
    """Readers change nothing of a connection: there is nothing to reset."""


class PgRows:
    """A connection as the records see it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a SELECT, or of a RETURNING."""
        return [tuple(row) for row in await self._connection.fetch(numbered(sql), *values)]

    async def execute(self, sql: str, *values: object) -> int:
        """How many rows a statement changed."""
        tag: str = await self._connection.execute(numbered(sql), *values)
        count = tag.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0


_QUOTED_OR_MARK = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|\?")


@lru_cache(1000)
def numbered(sql: str) -> str:
    """The statement with `$1, $2 ...` where it has `?`, but for those inside quotes."""
    count = 0

    def replace(found: re.Match[str]) -> str:
        nonlocal count
        if found[0] != "?":
            return found[0]
        count += 1
        return f"${count}"

    return _QUOTED_OR_MARK.sub(replace, sql)
