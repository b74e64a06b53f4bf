"""Sends calls whose function and options are settled: what Client and RemoteFunction share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import msgspec

from task_server.client import requests
from task_server.client.batch import Batch
from task_server.client.estimate import Estimate, estimate_of, joined, sum_of
from task_server.client.future import Future
from task_server.client.payloads import encode_arguments
from task_server.client.session import LONGEST_WAIT, Session
from task_server.client.submission import (
    CALLS_AN_ESTIMATE,
    Arguments,
    Call,
    chunks_of,
    items_of,
    many,
    single,
)
from task_server.client.watch import Watcher
from task_server.errors import TaskServerError
from task_server.protocol import tasks as wire
from task_server.protocol.ids import new_id, to_text
from task_server.protocol.tasks import TaskView

BatchOrder = Literal["predicted", "submit"]


class Caller:
    """Submits to one server."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.watcher = Watcher()

    def submit(
        self,
        call: Call,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        wait: float | None = None,
    ) -> Future[Any]:
        """Submit one task; with `wait` the server may take that many seconds to end it."""
        payload = encode_arguments(args, kwargs)
        self.session.store((*call.contents, *payload.contents))
        task = to_text(new_id())
        request = requests.submit_task(single(call, payload, task), wait=wait)
        reply = self.session.send(request, wait=wait or 0.0)
        if reply.status == 200:
            future = self.future(task)
            future.settle(requests.value_of(reply, TaskView))
            return future
        submitted = requests.value_of(reply, wire.SubmittedOne)
        return self.future(submitted.id, estimate_of(submitted.estimate, single=True))

    def call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Submit one task and wait for its answer."""
        return self.submit(call, args, kwargs, wait=LONGEST_WAIT).result()

    def submit_all(
        self,
        call: Call,
        calls: Iterable[Arguments],
        *,
        name: str | None = None,
        order: BatchOrder | None = None,
    ) -> Batch:
        """Submit many tasks as one batch: in one request if they fit, else in several."""
        self.session.store(call.contents)
        batch = _NewBatch(self.session, call, name, order)
        chunks = chunks_of(items_of(call, calls))
        items, contents = next(chunks, ([], []))
        self.session.store(contents)
        following = next(chunks, None)
        if items and following is None:
            return batch.send_whole(items)
        batch.open()
        try:
            if items:
                batch.add(items)
            while following is not None:
                items, contents = following
                self.session.store(contents)
                batch.add(items)
                following = next(chunks, None)
        except BaseException:
            batch.abandon()
            raise
        return batch.close()

    def estimate(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Estimate:
        """What one call would take; nothing is stored for it."""
        body = single(call, encode_arguments(args, kwargs), None)
        return self._estimate(body, is_single=True)

    def estimate_all(self, call: Call, calls: Iterable[Arguments]) -> Estimate:
        """What many calls would take together."""
        found: Estimate | None = None
        given = items_of(call, calls, with_ids=False)
        for items, _ in chunks_of(given, most=CALLS_AN_ESTIMATE):
            part = self._estimate(many(call, items, None), is_single=False)
            found = part if found is None else joined(found, part)
        if found is None:
            raise ValueError("there is nothing to estimate: no calls were given")
        return found

    def future(self, task: str, estimate: Estimate | None = None) -> Future[Any]:
        """A future for a task that the server has."""
        return Future(self.session, self.watcher, task, estimate)

    def _estimate(self, body: bytes, *, is_single: bool) -> Estimate:
        reply = self.session.send(requests.estimate(body))
        return estimate_of(requests.value_of(reply, wire.Estimate), single=is_single)


class _NewBatch:
    """A batch on its way to the server."""

    def __init__(
        self, session: Session, call: Call, name: str | None, order: BatchOrder | None
    ) -> None:
        self._session = session
        self._call = call
        self._id = to_text(new_id())
        given = {"id": self._id, "name": name, "order": order}
        self._fields = {key: value for key, value in given.items() if value is not None}
        self._total = 0
        self._estimates: list[Estimate] = []

    def send_whole(self, items: list[bytes]) -> Batch:
        self._post(items, self._fields, None)
        return self._batch()

    def open(self) -> None:
        self._session.send(requests.open_batch(msgspec.json.encode(self._fields)))

    def add(self, items: list[bytes]) -> None:
        self._post(items, None, self._id)

    def close(self) -> Batch:
        self._session.send(requests.close_batch(self._id))
        return self._batch()

    def abandon(self) -> None:
        # The reason is on its way to the caller; that the server is away too adds nothing to it.
        with suppress(TaskServerError):
            self._session.send(requests.cancel_batch(self._id))

    def _post(self, items: list[bytes], fields: dict[str, str] | None, batch: str | None) -> None:
        body = many(self._call, items, fields)
        reply = self._session.send(requests.submit_tasks(body, batch=batch))
        submitted = requests.value_of(reply, wire.Submitted)
        self._total += len(items)
        self._estimates.append(estimate_of(submitted.estimate, single=False))

    def _batch(self) -> Batch:
        estimate = sum_of(self._estimates) if self._estimates else None
        return Batch(self._session, self._id, self._total, estimate)
