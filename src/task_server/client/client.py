"""The client that people hold: call, submit, map, estimate."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Unpack

from task_server.client import requests
from task_server.client.batch import Batch
from task_server.client.blob import Blob, BlobForm
from task_server.client.caller import BatchOrder, Caller
from task_server.client.calls import Calls, Function
from task_server.client.environments import Preparation, order_body
from task_server.client.estimate import Estimate
from task_server.client.future import Future
from task_server.client.http import HttpTransport, Transport
from task_server.client.options import Options
from task_server.client.payloads import Content, digest_of, put_form
from task_server.client.profile import find_server
from task_server.client.session import Session
from task_server.client.submission import Arguments, Call
from task_server.client.upload import upload
from task_server.protocol.explain import Explanation
from task_server.protocol.tasks import BatchView, TaskView

_NO_KEYWORDS: Mapping[str, Any] = {}


class Client:
    """Calls functions on the workers of a server.

    Without `url` and `token` they come from TASK_SERVER_URL and TASK_SERVER_TOKEN, else from the
    profile that `task-server up` leaves. One client may be used by many threads.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        transport: Transport | None = None,
    ) -> None:
        if transport is None:
            server = find_server(url, token)
            transport = HttpTransport(server.url, server.token)
        self.caller = Caller(Session(transport))
        self.calls = Calls(Options())

    @property
    def url(self) -> str:
        """The server's address."""
        return self.session.transport.url

    @property
    def session(self) -> Session:
        """What sends its requests."""
        return self.caller.session

    def upload(self, path: str | Path) -> str:
        """Upload a wheel, or build the project in a folder and upload that.

        Gives what to name as `package`: `name==version`. Workers get packages of that name from
        this server and from nowhere else. Raises Conflict for other content than before.
        """
        return upload(self.session, Path(path))

    def options(self, **options: Unpack[Options]) -> Client:
        """A client that asks for this with every call: `package`, `timeout`, `priority` and so on.

        None takes an option back. The connections are shared.
        """
        other = object.__new__(type(self))
        other.caller = self.caller
        other.calls = self.calls.with_options(options)
        return other

    def call(self, function: Function, /, *args: Any, **kwargs: Any) -> Any:
        """Call `function(*args, **kwargs)` on a worker and wait for the answer.

        For a function given by name the keywords `package` and `version` say what to install.
        Raises what the function raises; TaskFailed, TaskCancelled or TaskExpired if it did not end.
        """
        call, kwargs = self.calls.settle(function, kwargs)
        return self.caller.call(call, args, kwargs)

    def submit(self, function: Function, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Like `call`, but returns at once: as soon as the task is safely on the server's disk."""
        call, kwargs = self.calls.settle(function, kwargs)
        return self.caller.submit(call, args, kwargs)

    def map(
        self,
        function: Function,
        /,
        *iterables: Iterable[Any],
        package: str | list[str] | None = None,
        version: str | None = None,
        name: str | None = None,
        order: BatchOrder | None = None,
    ) -> Batch:
        """Call the function with the items of the iterables, as the builtin `map` does.

        All iterables are consumed before it returns. `name` is shown to people; with
        `order="submit"` tasks start in this order instead of longest first.
        """
        calls = _zipped(iterables)
        return self.submit_all(
            function, calls, package=package, version=version, name=name, order=order
        )

    def submit_all(
        self,
        function: Function,
        calls: Iterable[Arguments],
        *,
        package: str | list[str] | None = None,
        version: str | None = None,
        name: str | None = None,
        order: BatchOrder | None = None,
    ) -> Batch:
        """Like `map`, for `(args, kwargs)` of each call."""
        call = self.calls.of(function, package, version)
        return self.caller.submit_all(call, calls, name=name, order=order)

    def estimate(self, function: Function, /, *args: Any, **kwargs: Any) -> Estimate:
        """How long `call` with the same arguments would run; nothing is run for it."""
        call, kwargs = self.calls.settle(function, kwargs)
        return self.caller.estimate(call, args, kwargs)

    def estimate_map(
        self,
        function: Function,
        /,
        *iterables: Iterable[Any],
        package: str | list[str] | None = None,
        version: str | None = None,
    ) -> Estimate:
        """How long `map` with the same iterables would run in all, and its ETA."""
        return self.estimate_all(function, _zipped(iterables), package=package, version=version)

    def estimate_all(
        self,
        function: Function,
        calls: Iterable[Arguments],
        *,
        package: str | list[str] | None = None,
        version: str | None = None,
    ) -> Estimate:
        """Like `estimate_map`, for `(args, kwargs)` of each call; a generator is not held whole."""
        return self.caller.estimate_all(self.calls.of(function, package, version), calls)

    def function(
        self,
        function: Function,
        /,
        *,
        package: str | list[str] | None = None,
        version: str | None = None,
    ) -> RemoteFunction:
        """A handle whose methods reserve no keywords. A callable is pickled once, here."""
        return RemoteFunction(self.caller, self.calls.of(function, package, version))

    def put(self, value: Any, *, form: BlobForm | None = None) -> Blob:
        """Store a value, to be passed as an argument any number of times.

        A path stores that file, and the function gets the path of a copy. `form` changes what
        the function gets: "bytes", "path", "json" or "pickle".
        """
        if isinstance(value, os.PathLike):
            return self._put_file(Path(value), form or "path")
        data, own_form = put_form(value)
        content = Content(digest_of(data), data)
        self.session.store([content])
        return Blob(content.digest, form or own_form, len(data))

    def prepare(
        self,
        package: str | list[str] | None = None,
        version: str | None = None,
        *,
        python: str | None = None,
        environment: str | None = None,
        modules: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        keep: float | None = None,
    ) -> Preparation:
        """Have an environment built and imported on all workers before its tasks come.

        `environment` is the digest of a lock, in the place of packages; `modules` are imported in
        the place of each package's own; `labels` are those of the workers that are meant; it stays
        there, and workers that join build it, for `keep` seconds (30 days). Returns at once; `wait`
        of the result waits for the workers.
        """
        body = order_body(
            package=package,
            version=version,
            python=python,
            environment=environment,
            modules=modules,
            labels=labels or {},
            keep=keep,
        )
        return Preparation(self.session, body)

    def status(self, task: str) -> TaskView:
        """All that the server tells of a task."""
        reply = self.session.send(requests.read_task(task))
        return requests.value_of(reply, TaskView)

    def explain(self, task: str) -> Explanation:
        """Why a task waits, where it runs or how it ended; `summary` says it in a sentence."""
        reply = self.session.send(requests.explain_task(task))
        return requests.value_of(reply, Explanation)

    def cancel(self, task: str) -> bool:
        """Cancel a task; False if it had ended otherwise before."""
        return self.future(task).cancel()

    def future(self, task: str) -> Future[Any]:
        """A future for a task submitted earlier, perhaps by another program."""
        return self.caller.future(task)

    def batch(self, batch: str) -> Batch:
        """A batch submitted earlier, perhaps by another program."""
        reply = self.session.send(requests.read_batch(batch))
        view = requests.value_of(reply, BatchView)
        return Batch(self.session, batch, view.total)

    def close(self) -> None:
        """Close the connections. Tasks go on."""
        self.session.transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client of {self.url}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Client cannot be pickled, for it holds a token; the function that is sent must"
            " not refer to one"
        )

    def _put_file(self, path: Path, form: BlobForm) -> Blob:
        with path.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        self.session.store_file(digest, path)
        return Blob(digest, form, size)


class RemoteFunction:
    """One function on the workers; every keyword is the function's own."""

    def __init__(self, caller: Caller, call: Call) -> None:
        self._caller = caller
        self._call = call

    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call it and wait for the answer."""
        return self._caller.call(self._call, args, kwargs)

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it, and get the answer later."""
        return self._caller.submit(self._call, args, kwargs)

    def map(self, /, *iterables: Iterable[Any]) -> Batch:
        """Call it with the items of the iterables, as the builtin `map` does."""
        calls = _zipped(iterables)
        return self._caller.submit_all(self._call, calls)

    def estimate(self, /, *args: Any, **kwargs: Any) -> Estimate:
        """How long `call` with the same arguments would run."""
        return self._caller.estimate(self._call, args, kwargs)

    def estimate_map(self, /, *iterables: Iterable[Any]) -> Estimate:
        """How long `map` with the same iterables would run."""
        calls = _zipped(iterables)
        return self._caller.estimate_all(self._call, calls)


def _zipped(iterables: tuple[Iterable[Any], ...]) -> Iterator[Arguments]:
    if not iterables:
        raise TypeError("map() must have at least two arguments")
    return ((args, _NO_KEYWORDS) for args in zip(*iterables, strict=False))
