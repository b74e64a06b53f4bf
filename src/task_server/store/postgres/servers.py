"""A server's number, and who leads: rows that live servers renew every second.

Whoever does not renew in time is taken for dead; its number and the lead go to others. A server
that was only slow finds that out by its own clock (`is_held`) or by its row, and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable

from task_server.errors import Unavailable
from task_server.store.postgres.connection import (
    PROBE_SECONDS,
    RETRY_SECONDS,
    UNREACHABLE,
    Connection,
    connect_to_keep,
    is_conflict,
    is_lost,
)

log = logging.getLogger(__name__)

RENEW_SECONDS = 1.0
TRY_SECONDS = 2.0
TERM_SECONDS = 10.0
"""A server that is silent for so long is dead to the others."""
LEAD_SECONDS = 5.0
"""The same for the lead: what only the leader does goes on within so many seconds."""
GAP_SECONDS = 3.0
"""A leader that could not reach the database for so long: nobody else could renew either."""
JUMP_SECONDS = 5.0
"""The database's clock and ours drifting apart by so much: somebody set it."""
UPKEEP = "upkeep"

_NOW = "extract(epoch FROM clock_timestamp())::float8"
_REUSE = f"""
UPDATE servers SET name = $1, alive_until = {_NOW} + $2
 WHERE server = (SELECT server FROM servers WHERE alive_until < {_NOW}
                  ORDER BY server LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING server"""
# Two servers that start may choose the same number here: the second finds none and looks again.
_ADD = f"""
INSERT INTO servers (server, name, alive_until)
SELECT coalesce(max(server), 0) + 1, $1, {_NOW} + $2 FROM servers
ON CONFLICT DO NOTHING RETURNING server"""
_RENEW = f"""
UPDATE servers SET alive_until = {_NOW} + $3 WHERE server = $1 AND name = $2
RETURNING {_NOW}, extract(epoch FROM pg_postmaster_start_time())::float8,
  EXISTS (SELECT FROM servers o WHERE o.server <> $1 AND o.alive_until > {_NOW})"""
_OTHERS = f"SELECT name, alive_until FROM servers WHERE server <> $1 AND alive_until > {_NOW}"
_LEAD = f"""
INSERT INTO leader (name, server, until) VALUES ('{UPKEEP}', $1, {_NOW} + $2)
ON CONFLICT (name) DO UPDATE SET server = excluded.server, until = excluded.until
 WHERE leader.until < {_NOW} OR leader.server = excluded.server
RETURNING until"""
_LEAVE = "UPDATE servers SET alive_until = 0 WHERE server = $1 AND name = $2"
_ABDICATE = f"UPDATE leader SET until = 0 WHERE name = '{UPKEEP}' AND server = $1"


class NumberTaken(Exception):
    """Another server has this one's number."""


class Servers:
    """This server among the others. Made by `claim`."""

    def __init__(
        self,
        url: str,
        *,
        on_lost: Callable[[], None],
        on_time: Callable[[float], None] | None = None,
    ) -> None:
        self.on_unreachable: Callable[[], None] = lambda: None
        """Called when the database says nothing any more: nobody should go on waiting for it."""
        self.number = 0
        self.name = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(6).hex()}"
        """Of this start, and never of another."""
        self.has_others = False
        """Another server is live, as of the last renewal."""
        self.is_reachable = True
        """The database answered lately."""
        self._url = url
        self._on_lost = on_lost
        self._on_time = on_time or (lambda now: None)
        self._connection: Connection | None = None
        self._held_until = 0.0
        self._leads_until = 0.0
        self._new_terms: float | None = None
        self._doubted: dict[str, float] = {}
        """Servers that seemed to live when this one came, and until when: they may be dead."""
        self._offset: float | None = None
        self._started_at: float | None = None
        self._loop: asyncio.Task[None] | None = None

    # ---- what it knows; none of these wait

    @property
    def is_held(self) -> bool:
        """Whether the number is surely this server's: nobody else can have taken it yet."""
        return time.monotonic() < self._held_until

    @property
    def leads(self) -> bool:
        """Whether upkeep is this server's: at most one, but for a moment."""
        may = self.is_held and self.is_reachable and not self._doubted
        return may and time.monotonic() < self._leads_until

    def patience(self) -> float:
        """How many seconds work is worth trying again, should the database be away."""
        return RETRY_SECONDS if self.is_reachable else PROBE_SECONDS

    def check(self) -> None:
        """Raise Unavailable unless this server may write."""
        if not self.is_held:
            raise Unavailable(UNREACHABLE)

    def take_new_terms(self) -> float | None:
        """Whether workers may have had no way to renew: then every lease is due a full new term.

        Told once: by how many seconds the database's clock was set ahead meanwhile, or None.
        """
        by, self._new_terms = self._new_terms, None
        return by

    # ---- the life of a number

    async def claim(self) -> int:
        """Take the least number that no live server has, and begin to keep it."""
        begun = time.monotonic()
        connection = await self._connected()
        while not self.number:
            for statement in (_REUSE, _ADD):
                found = await connection.fetchval(statement, self.name, TERM_SECONDS)
                if found is not None:
                    self.number = int(found)
                    break
        self._held_until = begun + TERM_SECONDS
        self._doubted = await self._others(connection)
        # Alone: whoever works here could not renew while there was no server.
        if not self._doubted:
            self._new_terms = 0.0
        await self._renew()
        log.info("this is server %d of its database", self.number)
        self._loop = asyncio.ensure_future(self._keep())
        return self.number

    async def close(self) -> None:
        """Give number and lead to whoever wants them."""
        await self.abandon()
        with contextlib.suppress(Exception):  # they run out by themselves
            async with asyncio.timeout(TRY_SECONDS):
                connection = await self._connected()
                await connection.execute(_ABDICATE, str(self.number))
                await connection.execute(_LEAVE, self.number, self.name)
        self._drop()

    async def abandon(self) -> None:
        """Renew no more, as a server that was killed."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        self._loop = None
        self._drop()

    # ---- renewing

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    await self._renew()
            except NumberTaken:
                log.error("another server has taken number %d: this one stops", self.number)
                self._held_until = 0.0
                self._on_lost()
                return
            except Exception as error:
                self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        if not (is_lost(error) or is_conflict(error)):
            log.exception("a renewal failed")
        elif self.is_reachable:
            log.warning("the database cannot be reached: %s", error or type(error).__name__)
        self._drop()
        self.note_unreachable()
        if isinstance(error, TimeoutError):
            self.on_unreachable()

    def note_unreachable(self) -> None:
        """Somebody did not reach the database; when that works again is found out by renewing."""
        self.is_reachable = False

    async def _renew(self) -> None:
        begun = time.monotonic()
        connection = await self._connected()
        row = await connection.fetchrow(_RENEW, self.number, self.name, TERM_SECONDS)
        if row is None:
            raise NumberTaken
        now, started_at, self.has_others = row
        is_late = begun - (self._held_until - TERM_SECONDS) > GAP_SECONDS
        self._held_until = begun + TERM_SECONDS
        self._notice(now, started_at)
        if self._doubted:
            self._judge(await self._others(connection), now)
        # One in doubt does no upkeep: it leaves the lead to those who have lived here all the time.
        lead = (_LEAD, str(self.number), LEAD_SECONDS)
        until = None if self._doubted else await connection.fetchval(*lead)
        self._leads_until = begun + LEAD_SECONDS if until is not None else 0.0
        if is_late and self.leads:
            self._new_terms = self._new_terms or 0.0
        if not self.is_reachable:
            log.info("the database can be reached again")
        self.is_reachable = True

    async def _others(self, connection: Connection) -> dict[str, float]:
        rows = await connection.fetch(_OTHERS, self.number)
        return {row["name"]: row["alive_until"] for row in rows}

    def _judge(self, others: dict[str, float], now: float) -> None:
        """Do those who were here before this one live, or have some died before it came?

        Nothing runs out until that is known: nobody may have been there to renew at. Those who
        live may have come as late as this one, so one that died is enough for new terms.
        """
        left = {name: others.get(name, 0.0) for name in self._doubted}
        silent = [left[name] for name, until in self._doubted.items() if left[name] <= until]
        if all(until < now + TERM_SECONDS - LEAD_SECONDS for until in silent):
            self._doubted = {}
            if silent:
                self._new_terms = self._new_terms or 0.0

    def _notice(self, now: float, started_at: float) -> None:
        """The database's clock, and whether it is another one than a moment ago."""
        offset = now - time.monotonic()
        moved = 0.0 if self._offset is None else offset - self._offset
        is_set = abs(moved) > JUMP_SECONDS
        is_new = self._started_at not in (None, started_at)
        if is_set or is_new:
            log.warning("the database %s", "has its clock set" if is_set else "was restarted")
            self._new_terms = (self._new_terms or 0.0) + (moved if is_set else 0.0)
        self._offset, self._started_at = offset, started_at
        self._on_time(now)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect_to_keep(self._url)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._connection = None
