"""What happens at other servers: told by them at once, and looked for each second besides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from task_server.store.group_commit import LoopGroupCommit, Operation
from task_server.store.postgres.connection import Readers
from task_server.store.postgres.group import Group
from task_server.store.postgres.loading import look_for_lanes, places, refresh
from task_server.store.postgres.memory import Memory
from task_server.store.postgres.news import News, Told
from task_server.store.records.sql import Rows
from task_server.store.rows import Ended
from task_server.store.states import Encoding, State

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""News may be lost: after so long it is looked for."""
PIECE = 20_000
"""Places looked through at once for tasks that somebody waits for."""

_ENDED = """
SELECT t.number, t.id, k.owner, t.batch, coalesce(t.position, -1), t.state, t.server, t.n,
       t.encoding, t.outcome
  FROM tasks t JOIN kinds k ON k.kind = t.kind
 WHERE t.server = ? AND t.n > ? AND t.n <= ? AND (t.id = ANY(?::bytea[]) OR t.batch = ANY(?))
 ORDER BY t.n"""
_HAVE_NEWS = """
SELECT 1
  FROM unnest(?::bigint[], ?::bigint[]) AS w(session, number)
  JOIN sessions s ON s.session = w.session
 WHERE s.is_over = 1 OR s.number <> w.number
    OR EXISTS (SELECT FROM stops x WHERE x.session = s.session)
 LIMIT 1"""


class Following:
    """Mixed into the store."""

    memory: Memory
    on_ended: Callable[[Sequence[Ended]], None]
    on_new_requests: Callable[[], None]
    on_changed: Callable[[Collection[int]], None]
    watched: Callable[[], tuple[Collection[bytes], Collection[int]]]
    _commits: LoopGroupCommit
    _group: Group
    _news: News
    _readers: Readers

    def _begin_to_follow(self) -> None:
        self._followed: dict[int, int] = {}
        """Server -> place up to which its ended tasks were looked through."""
        self._to_follow: dict[int, int] = {}
        self._following: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._tellings: set[asyncio.Task[None]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._has_more = False
        """Something may have changed since the look that is under way began."""
        self._is_waking = False
        self._looks_for_news = False

    # ---- this server's news

    def _tell_others(self, group: Group) -> None:
        """Tell the others."""
        if group.is_unsure:
            self._tell_unsure(group)
        self._followed[self.memory.server] = group.next_n - 1
        self._news.tell(
            lanes={*group.queued, *group.left},
            sessions=group.told,
            batches=group.grown,
            ended=group.next_n - 1 if group.ended else 0,
            requests=bool(group.requests),
        )

    def _tell_unsure(self, group: Group) -> None:
        """What the commit of unknown end has ended, if it was one, nobody was told of."""
        own = self.memory.server
        start = self._followed.get(own, group.first_n - 1)
        task = asyncio.ensure_future(self._read_unsure(own, start, group.first_n - 1))
        self._tellings.add(task)
        task.add_done_callback(self._tellings.discard)

    async def _read_unsure(self, own: int, start: int, end: int) -> None:
        try:
            await self._read_ended(own, start, end)
        except Exception as error:
            # Who waits asks again when its time is up.
            log.warning("what an unconfirmed commit has ended cannot be read: %r", error)

    # ---- news of the others

    def _hear(self, told: Told) -> None:
        for lane in self.memory.active if told.lanes is None else told.lanes:
            self.memory.wake_lane(lane)
        has_sessions = told.sessions is None or any(
            session in self.memory.waiters for session in told.sessions
        )
        if told.batches is None or told.batches:
            self._tell_changed(told.batches)
        if told.ended:
            self._follow(told.server, told.ended)
        if told.requests or told.lanes is None:
            self._look_around()
        if has_sessions or (told.lanes and self.memory.parked):
            self._wake(looks_for_news=has_sessions)

    def _hear_gap(self) -> None:
        """News may have been lost: everything may have changed."""
        for lane in self.memory.active:
            self.memory.wake_lane(lane)
        self._tell_changed(None)
        self._look_around()
        self._wake(looks_for_news=True)

    def _tell_changed(self, batches: Collection[int] | None) -> None:
        _, watched = self.watched()
        changed = set(watched) if batches is None else set(watched).intersection(batches)
        if changed:
            self.on_changed(changed)

    def _wake(self, *, looks_for_news: bool) -> None:
        """Have a group look for work for those who are parked here."""
        self._looks_for_news |= looks_for_news
        if self._is_waking or self._commits.is_closed:
            return
        self._is_waking = True
        self._commits.put(Operation(self._begin_look, rows=0))

    def _begin_look(self, operation: Operation[None]) -> None:
        self._group.looks_for_news |= self._looks_for_news
        self._is_waking = self._looks_for_news = False
        operation.settle(None)

    # ---- tasks that ended elsewhere

    def _follow(self, server: int, place: int) -> None:
        self._to_follow[server] = max(self._to_follow.get(server, 0), place)
        if self._following is None or self._following.done():
            self._following = asyncio.ensure_future(self._catch_up())

    async def _catch_up(self) -> None:
        while self._to_follow:
            server, place = self._to_follow.popitem()
            try:
                await self._follow_to(server, place)
            except Exception as error:
                log.warning("what server %d has ended cannot be read now: %r", server, error)
                self._to_follow[server] = max(place, self._to_follow.get(server, 0))
                await asyncio.sleep(LOOK_SECONDS)

    async def _follow_to(self, server: int, place: int) -> None:
        """Tell those who wait what ended since the last time.

        Who begins to wait after this reads the store, and finds what has ended till now.
        """
        start = self._followed.get(server, 0)
        while start < place:
            end = place
            if any(self.watched()):
                end = min(start + PIECE, place)
                await self._read_ended(server, start, end)
            start = self._followed[server] = max(end, self._followed.get(server, 0))

    async def _read_ended(self, server: int, start: int, end: int) -> None:
        tasks, batches = self.watched()
        values = (server, start, end, list(tasks), list(batches))
        rows = await self._readers.read(lambda rows: rows.fetch(_ENDED, *values))
        if rows:
            self.on_ended([_ended(row) for row in rows])

    # ---- each second

    def _look_around(self) -> None:
        self._has_more = True
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.ensure_future(self._refresh_all())

    async def _refresh_all(self) -> None:
        while self._has_more:
            self._has_more = False
            try:
                await self._refresh()
            except Exception as error:
                log.warning("what others changed cannot be read, the next look goes on: %r", error)

    async def _refresh(self) -> None:
        memory = self.memory
        before = {request.text: request.state for request in memory.requests.values()}
        has_news = await self._readers.read(self._read_news)
        after = {request.text: request.state for request in memory.requests.values()}
        if after != before:
            self.on_new_requests()
        if has_news or after != before or (memory.parked and memory.active):
            self._wake(looks_for_news=has_news)

    async def _read_news(self, rows: Rows) -> bool:
        """Whether a session that is parked here has something to hear."""
        await refresh(rows, self.memory)
        if self.memory.parked:
            await look_for_lanes(rows, self.memory)
        for server, place in (await places(rows)).items():
            if server != self.memory.server and place > self._followed.get(server, 0):
                self._follow(server, place)
        asked = {session: waiter.number for session, waiter in self.memory.waiters.items()}
        if not asked:
            return False
        return bool(await rows.fetch(_HAVE_NEWS, list(asked), list(asked.values())))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._look_around()

    async def _stop_following(self) -> None:
        begun = (self._looking, self._following, self._refreshing, *self._tellings)
        tasks = [each for each in begun if each is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ended(row: tuple[Any, ...]) -> Ended:
    number, task, owner, batch, position, state, server, n, encoding, outcome = row
    known = None if encoding is None else Encoding(encoding)
    return Ended(number, task, owner, batch, position, State(state), server, n, known, outcome)
