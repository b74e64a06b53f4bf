"""Work for a server that is killed: who submits it, who reads its answers, and what became of it.

Answers are all distinct, each is read as soon as it is there and once more at the end. A request
without ids whose reply was lost may have been taken or not, but only as a whole.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from msgspec import Struct

from task_server.protocol import ids
from tests.e2e.watched import WatchedPlace
from tests.e2e.wire import Connection, Reply

PAUSE_SECONDS = 0.02
OPEN = ("queued", "delayed", "running")
LIST = 10
"""Tasks in a list."""
LONG = 25_000
"""Repetitions that make an answer of more than 64 KiB."""


def call(number: int) -> tuple[dict[str, object], object]:
    """A task and its answer, which no other number has."""
    if number % 50 == 0:
        return {"function": "operator:mul", "args": [f"{number:07} ", LONG]}, f"{number:07} " * LONG
    if number % 10 == 5:
        first = number * 10_000
        return {"function": "sum", "args": [[first] + [1] * 2_000]}, first + 2_000
    return {"function": "operator:add", "args": ["answer ", str(number)]}, f"answer {number}"


class Outcome(Struct):
    """What became of a load."""

    acknowledged: int
    lost: list[str]
    """Acknowledged tasks that are absent or have no answer."""
    changed: list[str]
    """Tasks whose answer was another one later, or is wrong."""
    partial: list[str]
    """Requests of which a part was taken."""
    surplus: list[str]
    """Tasks that nobody submitted."""
    unknown: int
    """Requests without ids whose reply was lost,"""
    unknown_taken: int
    """and how many of them had been taken."""
    second_attempts: int
    """Tasks that were started more than once."""
    given_up: list[str]
    """Tasks whose runner or worker died each time that they were started."""

    @property
    def faults(self) -> list[str]:
        """Whatever must not be."""
        named = (("lost", self.lost), ("changed", self.changed), ("partial", self.partial))
        return [
            f"{what}: {each}"
            for what, found in (*named, ("surplus", self.surplus))
            for each in found
        ]


class Owner:
    """A user, who submits in one way until told to stop."""

    numbers = itertools.count(1)

    def __init__(self, place: WatchedPlace, name: str, pause_seconds: float) -> None:
        self.pause_seconds = pause_seconds
        self.place = place
        self.name = name
        self.connection = place.connection(place.token("user", name))
        self.reading = place.connection(place.token("user", name))
        self.expected: dict[str, object] = {}
        """Acknowledged tasks and what they come to."""
        self.answers: dict[str, bytes] = {}
        """What was read first."""
        self.unknown: dict[str, list[object]] = {}
        """By tag: what the tasks come to of requests without a reply."""
        self.error: BaseException | None = None
        self.is_stopping = threading.Event()
        self.is_read_out = threading.Event()
        """Set once nothing more is to be waited for."""
        self._threads = [
            threading.Thread(target=self._keep, args=(work,), daemon=True)
            for work in (self._submit_all, self._read_all)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Submit no more; what is under way is repeated until it is acknowledged."""
        self.is_stopping.set()
        self._threads[0].join(60)
        assert not self._threads[0].is_alive(), f"{self.name} still submits"

    def end(self) -> None:
        self.is_read_out.set()
        self._threads[1].join(60)

    def _keep(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.error = error

    # ---- submitting

    def _submit_all(self) -> None:
        while not self.is_stopping.is_set():
            self.submit()
            time.sleep(self.pause_seconds)

    def submit(self) -> None:
        """One request, repeated if that is safe."""
        raise NotImplementedError

    def calls(self, count: int) -> list[tuple[dict[str, object], object]]:
        return [call(next(self.numbers)) for _ in range(count)]

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Reply | None:
        """The reply of a success; None when nobody knows what became of it."""
        try:
            reply = self.connection.ask("POST", path, json.dumps(body).encode(), headers)
        except OSError:
            return None
        assert reply.status in (200, 202, 503), reply
        return None if reply.status == 503 else reply

    def post_until_taken(
        self, path: str, body: object, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        while (reply := self.post(path, body, headers)) is None:
            time.sleep(PAUSE_SECONDS)
        return reply.told

    # ---- reading

    def _read_all(self) -> None:
        while not self.is_read_out.is_set():
            missing = [task for task in list(self.expected) if task not in self.answers]
            for task in missing[:100]:
                self.read_first(task)
            time.sleep(PAUSE_SECONDS)

    def read_first(self, task: str) -> None:
        """Read an answer, if it is there."""
        answer = self.read(task)
        if answer is not None:
            self.answers[task] = answer

    def read(self, task: str) -> bytes | None:
        try:
            reply = self.reading.ask("GET", f"/v1/tasks/{task}/answer?wait=1")
        except OSError:
            time.sleep(PAUSE_SECONDS)
            return None
        if reply.status in (202, 503):
            return None
        return reply.body if reply.status == 200 else b"%d " % reply.status + reply.body

    # ---- what became of it

    def has_open(self) -> bool:
        """Whether a task of this owner has not ended."""
        pages = [self.reading.ask("GET", f"/v1/tasks?limit=1&state={state}") for state in OPEN]
        return any(page.told["tasks"] for page in pages)

    def listed(self) -> list[dict[str, Any]]:
        """All tasks of this owner."""
        found: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            query = f"&cursor={cursor}" if cursor else ""
            page = self.reading.ask("GET", f"/v1/tasks?limit=200{query}").told
            found += page["tasks"]
            cursor = page["next"]
        return found


class WithIds(Owner):
    """Lists and single tasks with ids made here, repeated until they are acknowledged."""

    def submit(self) -> None:
        count = LIST if next(self.numbers) % 3 else 1
        calls = self.calls(count)
        made = [ids.to_text(each) for each in ids.new_ids(count)]
        items = [{"id": task, **fields} for task, (fields, _) in zip(made, calls, strict=True)]
        told = self.post_until_taken("/v1/tasks", items if count > 1 else items[0])
        assert (told.get("ids") or [told.get("id")]) == made
        self.expected.update({task: answer for task, (_, answer) in zip(made, calls, strict=True)})


class WithKeys(Owner):
    """The plain API with an `Idempotency-Key`, repeated until it is acknowledged."""

    def submit(self) -> None:
        ((fields, answer),) = self.calls(1)
        key = {"Idempotency-Key": f"key {next(self.numbers)}"}
        told = self.post_until_taken("/user/submit_task", fields, key)
        self.expected[told["id"]] = answer


class WithoutIds(Owner):
    """Lists without ids, each sent once."""

    def submit(self) -> None:
        tag = f"request {next(self.numbers)}"
        calls = self.calls(LIST)
        items = [{**fields, "tags": [tag]} for fields, _ in calls]
        answers = [answer for _, answer in calls]
        try:
            reply = self.connection.ask("POST", "/v1/tasks", json.dumps(items).encode())
        except ConnectionRefusedError:
            return  # there is no server
        except OSError:
            self.unknown[tag] = answers
            return
        if reply.status == 503:
            self.unknown[tag] = answers
            return
        self.expected.update(zip(reply.told["ids"], answers, strict=True))


class Load:
    """Three owners at work."""

    def __init__(self, place: WatchedPlace, pause_seconds: float) -> None:
        self.owners: list[Owner] = [
            WithIds(place, "with ids", pause_seconds),
            WithKeys(place, "with keys", pause_seconds),
            WithoutIds(place, "without ids", pause_seconds),
        ]

    @property
    def acknowledged(self) -> int:
        return sum(len(owner.expected) for owner in self.owners)

    def start(self) -> None:
        for owner in self.owners:
            owner.start()

    def check_health(self) -> None:
        """Raise what ended an owner's thread."""
        for owner in self.owners:
            if owner.error is not None:
                raise owner.error

    def finish(self, seconds: float = 60.0) -> Outcome:
        """Stop submitting, wait for the answers, and say what became of everything."""
        for owner in self.owners:
            owner.stop()
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(_is_open(owner) for owner in self.owners):
            self.check_health()
            time.sleep(0.1)
        for owner in self.owners:
            owner.end()
        self.check_health()
        return _outcome(self.owners)


def _is_open(owner: Owner) -> bool:
    return len(owner.answers) < len(owner.expected) or (bool(owner.unknown) and owner.has_open())


def _outcome(owners: list[Owner]) -> Outcome:
    outcome = Outcome(0, [], [], [], [], 0, 0, 0, [])
    for owner in owners:
        views = {view["id"]: view for view in owner.listed()}
        outcome.acknowledged += len(owner.expected)
        outcome.second_attempts += sum(view["attempt"] > 1 for view in views.values())
        _compare_answers(owner, outcome)
        _compare_unknown(owner, views, outcome)
    return outcome


def _compare_answers(owner: Owner, outcome: Outcome) -> None:
    for task, answer in owner.expected.items():
        first, last = owner.answers.get(task), owner.read(task)
        if first is None or last is None:
            outcome.lost.append(f"{owner.name} {task}")
        elif first == last and last.startswith(b"409 ") and b'"kind":"lost"' in last:
            outcome.given_up.append(f"{owner.name} {task}")
        elif first != last or json.loads(last) != answer:
            outcome.changed.append(f"{owner.name} {task}: {first[:100]!r}, {last[:100]!r}")


def _compare_unknown(owner: Owner, views: dict[str, Any], outcome: Outcome) -> None:
    others = [view for task, view in views.items() if task not in owner.expected]
    taken = Counter(tag for view in others for tag in view["tags"])
    outcome.lost += [f"{owner.name} {task}" for task in owner.expected if task not in views]
    outcome.unknown += len(owner.unknown)
    outcome.unknown_taken += len(taken)
    outcome.surplus += [view["id"] for view in others if not view["tags"]]
    for tag, count in taken.items():
        if count != len(owner.unknown.get(tag, ())):
            outcome.partial.append(f"{tag}: {count} tasks")
        if any(view["state"] != "succeeded" for view in others if tag in view["tags"]):
            outcome.lost.append(f"{tag}: an answer is missing")


@contextmanager
def load_on(place: WatchedPlace, *, pause_seconds: float = PAUSE_SECONDS) -> Iterator[Load]:
    """A load at work until it is finished, or the block ends; owners rest between requests."""
    load = Load(place, pause_seconds)
    load.start()
    try:
        yield load
    finally:
        for owner in load.owners:
            owner.is_stopping.set()
            owner.is_read_out.set()


def connection_to(place: WatchedPlace, kind: Literal["user", "worker", "admin"]) -> Connection:
    """A connection with a new token."""
    return place.connection(place.token(kind))
