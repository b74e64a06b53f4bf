"""`concurrent.futures.Executor` whose workers are a server's."""

from __future__ import annotations

import atexit
import concurrent.futures
import itertools
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Unpack

from task_server.client.batch import Batch
from task_server.client.caller import Caller
from task_server.client.calls import Calls, Function
from task_server.client.client import Client
from task_server.client.executor_future import ExecutorFuture
from task_server.client.options import Options
from task_server.client.payloads import encode_arguments
from task_server.client.sender import Item, Sender
from task_server.client.submission import Arguments, Call, members_of
from task_server.errors import TaskServerError
from task_server.protocol.ids import new_id, to_text

OUTAGE_SECONDS = 120.0
"""How long a server that was reached before may be away: it is restarted, say."""
KNOWN_FUNCTIONS = 128
"""Functions whose pickles are kept."""
INLINE_BYTES = 1024
"""A larger pickle of a function that is called again and again is sent once, as a blob."""
_LASTING = frozenset({FunctionType, str})
_RESERVED = frozenset({"package", "version"})


class Executor(concurrent.futures.Executor):
    """Runs calls on a server's workers, as other executors do in threads or processes.

    `packages` are what its functions need; `url` and `token` are found as by `Client`, and the
    other options are those of `Client.options`. What is submitted at the same moment goes in one
    request, and answers stream back over one connection. A plain function is pickled when it is
    first submitted; what it refers to is as it was then.
    """

    def __init__(
        self,
        packages: str | Sequence[str] | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        client: Client | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._client = Client(url, token) if client is None else client
        self._is_clients_owner = client is None
        if packages:
            options["package"] = packages
        self._calls = self._client.calls.with_options(options)
        # What it does by itself waits for an absent server; who asks a future is told of it sooner.
        self._caller = Caller(self._client.session.patient(OUTAGE_SECONDS))
        self._known = _KnownFunctions()
        self._sender = Sender(self._caller.session)
        self._batches: set[Batch] = set()
        """Of `map`, whose answers were not all taken."""
        weakref.finalize(self, self._sender.close).atexit = False
        # A program does not end before its futures have, as with other executors.
        atexit.register(self._sender.finish)

    def submit(self, fn: Function, /, *args: Any, **kwargs: Any) -> ExecutorFuture[Any]:
        """Call `fn(*args, **kwargs)` on a worker; returns at once, before it is sent.

        What is wrong with the call shows on the future. Waits only while thousands of calls wait
        to be sent. Raises RuntimeError after `shutdown`.
        """
        self._check_open()
        session = self._client.session
        id = to_text(new_id())
        future: ExecutorFuture[Any] = ExecutorFuture(
            session, self._caller.watcher, id, self._sender
        )
        try:
            call, kwargs = self._settle(fn, kwargs)
            payload = encode_arguments(args, kwargs)
        except Exception as error:  # pickling runs the arguments' own code
            future.fail(error)
            return future
        item = Item(future, call, members_of(call, payload, id), payload.contents)
        self._sender.put(item)
        return future

    def map(
        self,
        fn: Function,
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """The answers of `fn` for the items of the iterables, in their order.

        All items are taken and submitted before it returns, and held by the server, not here;
        with `buffersize` at most that many are under way, and further items are taken as answers
        are. TimeoutError when the next answer is not there `timeout` seconds after this call. An
        answer that is an exception is raised in its place; that, and closing the iterator, cancels
        the rest. `chunksize` changes nothing: calls travel together anyhow.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        self._check_open()
        end = None if timeout is None else time.monotonic() + timeout
        calls: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        if buffersize is not None:
            first = [self.submit(fn, *args) for args in itertools.islice(calls, buffersize)]
            # The iterator keeps no executor alive that nobody else holds.
            return _window(weakref.ref(self), fn, calls, deque(first), end)
        return self._map_all(fn, calls, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `wait` return when all have ended.

        With `cancel_futures` those that have not started are cancelled.
        """
        self._sender.close()
        if cancel_futures:
            self._sender.withdraw_all()
            self._sender.wait_until_sent()
            self._sender.cancel_unstarted()
            for batch in list(self._batches):
                batch.cancel(unstarted=True)
        if not wait:
            return
        self._sender.wait()
        for batch in list(self._batches):
            batch.wait()
        atexit.unregister(self._sender.finish)
        if self._is_clients_owner:
            self._client.close()

    def _check_open(self) -> None:
        if self._sender.is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _settle(self, fn: Function, kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
        if not _is_lasting(fn) or not kwargs.keys().isdisjoint(_RESERVED):
            return self._calls.settle(fn, kwargs)
        return self._known.call_of(fn, self._calls), kwargs

    def _map_all(
        self, fn: Function, calls: Iterator[tuple[Any, ...]], end: float | None
    ) -> Iterator[Any]:
        first = next(calls, None)
        if first is None:
            return iter(())
        call, _ = self._settle(fn, {})
        arguments: Iterator[Arguments] = ((args, {}) for args in itertools.chain([first], calls))
        batch = self._caller.submit_all(call, arguments, name="executor", order="submit")
        self._batches.add(batch)
        left = None if end is None else end - time.monotonic()
        return _answers(batch, left, self._batches)


class _KnownFunctions:
    """What was made of functions when they were first seen; those used longest ago go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: OrderedDict[Any, Call] = OrderedDict()

    def call_of(self, function: Any, calls: Calls) -> Call:
        """The shared part of its calls; kept, as is the function itself."""
        with self._lock:
            if function not in self._calls:
                self._calls[function], _ = calls.settle(function, {}, inline_bytes=INLINE_BYTES)
            self._calls.move_to_end(function)
            while len(self._calls) > KNOWN_FUNCTIONS:
                self._calls.popitem(last=False)
            return self._calls[function]


def _is_lasting(function: Function) -> bool:
    """Whether the same object is the same function later; an object with methods may change."""
    if type(function) is BuiltinFunctionType:
        return isinstance(function.__self__, ModuleType)
    return type(function) in _LASTING


def _answers(batch: Batch, timeout: float | None, open_batches: set[Batch]) -> Iterator[Any]:
    is_done = False
    try:
        for answer in batch.answers(timeout=timeout):
            yield answer.result()
        is_done = True
    finally:
        open_batches.discard(batch)
        if not is_done:
            with suppress(TaskServerError):  # why it ended is on its way to the caller
                batch.cancel()


def _window(
    executor: Callable[[], Executor | None],
    fn: Function,
    calls: Iterator[tuple[Any, ...]],
    futures: deque[ExecutorFuture[Any]],
    end: float | None,
) -> Iterator[Any]:
    try:
        while futures:
            current = executor()
            args = None if current is None else next(calls, None)
            if current is not None and args is not None:
                futures.append(current.submit(fn, *args))
            del current
            yield _result(futures, end)
    finally:
        for future in futures:
            with suppress(TaskServerError):  # why it ended is on its way to the caller
                future.cancel()


def _result(futures: deque[ExecutorFuture[Any]], end: float | None) -> Any:
    """The next answer; a future that has none yet is left to be cancelled with the others."""
    answer = futures[0].result(None if end is None else max(end - time.monotonic(), 0.0))
    futures.popleft()
    return answer
