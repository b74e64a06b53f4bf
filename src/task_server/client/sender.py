"""Collects what is submitted and sends it in few requests, into one open batch.

Nothing waits to be collected: whatever is there goes as one request, and while that is under way
the next one gathers. Every request may be repeated, since ids are made here.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal

import msgspec
from msgspec import Struct

from task_server.client import requests
from task_server.client.executor_future import ExecutorFuture
from task_server.client.payloads import Content
from task_server.client.receiver import Receiver
from task_server.client.session import Session
from task_server.client.submission import BYTES_A_REQUEST, TASKS_A_REQUEST, Call, many
from task_server.errors import Conflict, Gone, Invalid, NotFound, TaskServerError
from task_server.protocol.ids import new_id, to_text
from task_server.protocol.tasks import BatchView, Submitted

WAITING_TASKS = 10_000
WAITING_BYTES = 32 * 1024 * 1024
"""What may wait to be sent; whoever submits more waits too."""
_OF_ARGUMENTS = frozenset({"id", "args", "kwargs", "call", "features"})
"""Fields that are a task's own; what is wrong with others is wrong with all of the same call."""

log = logging.getLogger(__name__)


class Item(Struct, eq=False):
    """One task to be sent."""

    future: ExecutorFuture[Any]
    call: Call
    members: bytes
    """Its id and its arguments, as JSON members."""
    contents: tuple[Content, ...]
    stage: Literal["waiting", "under way", "done"] = "waiting"

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return len(self.members) + sum(len(content.data) for content in self.contents)


class Sender:
    """One thread that sends; it is started by the first task."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._changed = threading.Condition()
        self._waiting: deque[Item] = deque()
        self._items: dict[str, Item] = {}
        """Those that wait or are under way, by id."""
        self._waiting_bytes = 0
        self._is_closed = False
        self._is_running = False
        self._is_idle = False
        self._thread: threading.Thread | None = None
        self._receivers: list[Receiver] = []
        """The last one is that of the open batch."""

    def put(self, item: Item) -> None:
        """Send it soon; waits while too much waits already. Raises RuntimeError when closed."""
        with self._changed:
            self._check_open()
            while self._is_full() and not self._is_own_thread():
                self._changed.wait()
                self._check_open()
            self._waiting.append(item)
            self._waiting_bytes += item.size
            self._items[item.future.id] = item
            if self._is_idle:
                self._changed.notify_all()
            elif not self._is_running:
                self._start()

    def withdraw(self, future: ExecutorFuture[Any]) -> bool:
        """Whether it was cancelled before it was sent. Waits while it is under way."""
        with self._changed:
            item = self._items.get(future.id)
            while item is not None and item.stage == "under way" and not self._is_own_thread():
                self._changed.wait()
            if item is None or item.stage == "done":
                return False
            self._drop(item)
        future.withdraw()
        return True

    def withdraw_all(self) -> None:
        """Cancel all that was not sent."""
        with self._changed:
            items = [item for item in self._waiting if item.stage == "waiting"]
            for item in items:
                self._drop(item)
        for item in items:
            item.future.withdraw()

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more."""
        return self._is_closed

    def close(self) -> None:
        """Take no more; what is there is still sent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait_until_sent(self) -> None:
        """After `close`: wait until everything is sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_running)

    def wait(self) -> None:
        """After `close`: wait until everything is sent and all its tasks have ended."""
        self.wait_until_sent()
        for receiver in self._receivers:
            receiver.wait()

    def finish(self) -> None:
        """Close and wait."""
        self.close()
        self.wait()

    def cancel_unstarted(self) -> None:
        """Cancel those that were sent and have not started."""
        for receiver in self._receivers:
            if not receiver.is_idle:
                with suppress(NotFound, Gone):
                    self._session.send(requests.cancel_batch(receiver.batch, unstarted=True))

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _start(self) -> None:
        self._is_running = True
        self._thread = threading.Thread(target=self._run, name="task-server-send", daemon=True)
        self._thread.start()

    def _is_own_thread(self) -> bool:
        """Within a callback of a future that was refused: waiting for itself would be for ever."""
        return threading.current_thread() is self._thread

    def _is_full(self) -> bool:
        return len(self._waiting) >= WAITING_TASKS or self._waiting_bytes >= WAITING_BYTES

    def _drop(self, item: Item) -> None:
        item.stage = "done"
        del self._items[item.future.id]

    def _run(self) -> None:
        while items := self._take():
            try:
                self._send(items)
            except TaskServerError as error:
                self._refuse(items, error)
            except Exception as error:  # a fault of ours must not leave anybody waiting
                log.exception("%d tasks could not be sent", len(items))
                self._refuse(items, error)
            self._note_done(items)
        with suppress(TaskServerError):  # an open batch that nobody adds to harms nobody
            for receiver in self._receivers[-1:]:
                self._session.send(requests.close_batch(receiver.batch))
        with self._changed:
            self._is_running = False
            self._changed.notify_all()

    def _take(self) -> list[Item]:
        """What fits into one request; waits for something. Nothing: all is sent and closed."""
        with self._changed:
            while True:
                items = self._portion()
                if items or self._is_closed:
                    return items
                self._is_idle = True
                self._changed.wait()
                self._is_idle = False

    def _portion(self) -> list[Item]:
        items: list[Item] = []
        size = 0
        was_full = self._is_full()
        while self._waiting and len(items) < TASKS_A_REQUEST:
            if items and size + len(self._waiting[0].members) > BYTES_A_REQUEST:
                break
            item = self._waiting.popleft()
            self._waiting_bytes -= item.size
            if item.stage == "waiting":
                item.stage = "under way"
                items.append(item)
                size += len(item.members)
        if was_full:
            self._changed.notify_all()
        return items

    def _note_done(self, items: Sequence[Item]) -> None:
        with self._changed:
            for item in items:
                if item.stage != "done":
                    self._drop(item)
                    item.future.note_sent()
            self._changed.notify_all()

    def _send(self, items: list[Item]) -> None:
        items = [item for item in items if self._is_stored(item)]
        while items := [item for item in items if item.stage == "under way"]:
            try:
                self._post(items)
                return
            except Invalid as error:
                wrong = _blamed(items, error)
                for item, why in wrong:
                    self._refuse([item], why)
                refused = {item.future.id for item, _ in wrong}
                items = [item for item in items if item.future.id not in refused]

    def _is_stored(self, item: Item) -> bool:
        try:
            self._session.store((*item.call.contents, *item.contents))
        except TaskServerError as error:
            self._refuse([item], error)
            return False
        return True

    def _post(self, items: Sequence[Item]) -> None:
        receiver = self._receivers[-1] if self._receivers else self._open()
        try:
            self._add(items, receiver)
        except (Conflict, NotFound, Gone):
            if not self._is_closed_by_others(receiver.batch):
                raise
            self._add(items, self._open())

    def _add(self, items: Sequence[Item], receiver: Receiver) -> None:
        futures = [item.future for item in items]
        receiver.expect(futures)
        try:
            body = _body(items)
            reply = self._session.send(requests.submit_tasks(body, batch=receiver.batch))
            requests.value_of(reply, Submitted)
        except TaskServerError:
            receiver.forget(future.id for future in futures)
            raise

    def _open(self) -> Receiver:
        fields = {"id": to_text(new_id()), "name": "executor", "order": "submit"}
        self._session.send(requests.open_batch(msgspec.json.encode(fields)))
        receiver = Receiver(self._session, fields["id"])
        self._receivers.append(receiver)
        return receiver

    def _is_closed_by_others(self, batch: str) -> bool:
        """Whether somebody closed or cancelled the batch, from the command line say."""
        try:
            reply = self._session.send(requests.read_batch(batch))
        except (NotFound, Gone):
            return True
        return not requests.value_of(reply, BatchView).open

    def _refuse(self, items: Iterable[Item], error: Exception) -> None:
        for item in items:
            item.future.fail(error)


def _body(items: Sequence[Item]) -> bytes:
    call = items[0].call
    if all(item.call is call for item in items):
        return many(call, [b"{%s}" % item.members for item in items], None)
    own = [b"{%s,%s}" % (item.call.members, item.members) for item in items]
    return b'{"tasks":[%s]}' % b",".join(own)


def _blamed(items: Sequence[Item], error: Invalid) -> list[tuple[Item, Exception]]:
    """The items that the server found wrong, and why: those it names, or all of the same call."""
    found: dict[str, tuple[Item, Exception]] = {}
    for each in error.errors:
        index, field, message = each.get("index"), str(each.get("field")), each.get("message")
        if not isinstance(index, int) or not 0 <= index < len(items):
            return [(item, error) for item in items]
        why = type(error)(str(message), field=field)
        wrong = [items[index]]
        if field.partition(".")[0] not in _OF_ARGUMENTS:
            wrong = [item for item in items if item.call is items[index].call]
        found |= {item.future.id: (item, why) for item in wrong}
    return list(found.values())
