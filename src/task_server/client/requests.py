"""What is said to a server and what comes back, without any I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from task_server import errors

JSON = "application/json"
BYTES = "application/octet-stream"
NDJSON = "application/x-ndjson"

T = TypeVar("T")


class Request(Struct, frozen=True):
    """One request; `path` holds the query too."""

    method: str
    path: str
    body: bytes | None = None
    content_type: str = JSON


class Reply(NamedTuple):
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Problem(Struct):
    """An error's body, as `/v1` and as the plain API write it."""

    detail: str | None = None
    code: str | None = None
    errors: list[dict[str, object]] = []
    error: _PlainProblem | str | None = None


class _PlainProblem(Struct):
    code: str | None = None
    message: str | None = None


def headers_of(request: Request, token: str | None) -> dict[str, str]:
    """The headers that go with a request."""
    headers = {"Accept": "application/json, */*"}
    if request.body is not None:
        headers["Content-Type"] = request.content_type
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


# Tasks


def submit_task(task: bytes, *, wait: float | None = None) -> Request:
    """Submit one TASK; with `wait` (seconds) the reply may be its end."""
    return Request("POST", "/v1/tasks" + _query(wait=wait), task)


def submit_tasks(body: bytes, *, batch: str | None = None) -> Request:
    """Submit many, as a closed batch of their own or into an open one."""
    return Request("POST", "/v1/tasks" + _query(batch=batch), body)


def read_task(task: str, *, wait: float | None = None) -> Request:
    """Look at a task; with `wait` (seconds) the reply comes when it has ended or time is up."""
    return Request("GET", f"/v1/tasks/{_part(task)}" + _query(wait=wait))


def explain_task(task: str) -> Request:
    """Why a task waits, or where it is."""
    return Request("GET", f"/v1/tasks/{_part(task)}/explain")


def read_answer(task: str) -> Request:
    """The answer alone."""
    return Request("GET", f"/v1/tasks/{_part(task)}/answer")


def read_logs(task: str) -> Request:
    """What the task printed."""
    return Request("GET", f"/v1/tasks/{_part(task)}/logs")


def cancel_task(task: str) -> Request:
    """Cancel a task."""
    return Request("POST", f"/v1/tasks/{_part(task)}/cancel")


def list_tasks(**filters: str | int | None) -> Request:
    """A page of tasks: state, function, batch, tag, cursor, limit."""
    return Request("GET", "/v1/tasks" + _query(**filters))


def estimate(body: bytes) -> Request:
    """What the calls of a submit's body would take."""
    return Request("POST", "/v1/estimates", body)


# Batches


def open_batch(body: bytes) -> Request:
    """Open a batch, to be filled by several requests."""
    return Request("POST", "/v1/batches", body)


def close_batch(batch: str) -> Request:
    """Nothing more will come."""
    return Request("POST", f"/v1/batches/{_part(batch)}/close")


def read_batch(batch: str, *, wait: float | None = None) -> Request:
    """Progress and ETA; with `wait` (seconds) the reply comes when it is done or time is up."""
    return Request("GET", f"/v1/batches/{_part(batch)}" + _query(wait=wait))


def follow_batch(batch: str) -> Request:
    """Stream how far a batch is, as server-sent events."""
    return Request("GET", f"/v1/batches/{_part(batch)}/events")


def cancel_batch(batch: str, *, unstarted: bool = False) -> Request:
    """Close a batch and cancel what has not ended of it, or what has not started."""
    query = _query(only="unstarted" if unstarted else None)
    return Request("POST", f"/v1/batches/{_part(batch)}/cancel" + query)


def read_answers(batch: str, *, order: str, cursor: str | None, wait: float) -> Request:
    """Stream a batch's answers as NDJSON, from `cursor` on."""
    query = _query(order=order, cursor=cursor, wait=wait)
    return Request("GET", f"/v1/batches/{_part(batch)}/answers" + query)


# Blobs


def has_blob(digest: str) -> Request:
    """Ask whether a blob is there: 200 or 404."""
    return Request("HEAD", f"/v1/blobs/{_part(digest)}")


def put_blob(digest: str, content: bytes | None = None) -> Request:
    """Store a blob; without content the transport adds that of a file."""
    return Request("PUT", f"/v1/blobs/{_part(digest)}", content, BYTES)


def get_blob(digest: str) -> Request:
    """Fetch a blob."""
    return Request("GET", f"/v1/blobs/{_part(digest)}")


# Packages


def add_package(filename: str, digest: str) -> Request:
    """Name a wheel that is stored as a blob."""
    body = msgspec.json.encode({"filename": filename, "blob": digest})
    return Request("POST", "/v1/packages", body)


def list_packages() -> Request:
    """The wheels that were uploaded."""
    return Request("GET", "/v1/packages")


def remove_package(name: str, version: str | None) -> Request:
    """Forget a package, or one version of it."""
    tail = "" if version is None else f"/{_part(version)}"
    return Request("DELETE", f"/v1/packages/{_part(name)}{tail}")


# What there is


def list_workers() -> Request:
    """The workers."""
    return Request("GET", "/v1/workers")


def list_functions(**filters: str | int | None) -> Request:
    """Functions with their statistics."""
    return Request("GET", "/v1/functions" + _query(**filters))


def read_function(name: str) -> Request:
    """Statistics of one function."""
    return Request("GET", f"/v1/functions/{_part(name)}")


def read_accuracy(name: str) -> Request:
    """How far off the estimates of one function were."""
    return Request("GET", f"/v1/functions/{_part(name)}/accuracy")


def read_capacity(finish_by: str) -> Request:
    """What the fleet can do until a moment (RFC 3339)."""
    return Request("GET", "/v1/capacity" + _query(finish_by=finish_by))


def order_environment(body: bytes, *, wait: float) -> Request:
    """Have an environment ready on workers; the reply comes when it is locked or time is up."""
    return Request("POST", "/v1/environments" + _query(wait=wait, until="locked"), body)


def collect_environments(body: bytes, *, wait: float | None = None) -> Request:
    """Have the environments removed that are neither in use nor wanted."""
    return Request("POST", "/v1/environments/collect" + _query(wait=wait), body)


def list_environments() -> Request:
    """The environments."""
    return Request("GET", "/v1/environments")


def read_environment(digest: str) -> Request:
    """One environment and where it is ready."""
    return Request("GET", f"/v1/environments/{_part(digest)}")


def refresh_environment(body: bytes) -> Request:
    """Choose the versions for these fields of a TASK anew."""
    return Request("POST", "/v1/environments/refresh", body)


# Replies


def accepted(reply: Reply) -> Reply:
    """The reply itself unless it is a refusal, which is raised."""
    if reply.status >= 400:
        raise refusal(reply)
    return reply


def refusal(reply: Reply) -> errors.RequestError:
    """The error that a reply stands for."""
    problem = _problem(reply.body)
    inner = problem.error
    code, message = problem.code, problem.detail
    if isinstance(inner, _PlainProblem):
        code, message = inner.code, inner.message
    elif inner is not None:
        message = message or inner
    text = message or f"the server replied with status {reply.status}"
    error = errors.from_reply(reply.status, code or "", text, problem.errors)
    error.retry_after = _seconds(reply.headers.get("retry-after"))
    return error


def value_of(reply: Reply, kind: type[T]) -> T:
    """The body as `kind`; a refusal is raised."""
    return decoded(accepted(reply).body, lambda body: msgspec.json.decode(body, type=kind))


def decoded(body: bytes, decode: Callable[[bytes], T]) -> T:
    """What `decode` makes of the body; TaskServerError when it is of another shape."""
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the server's reply is not what this client expects: {error}"
        raise errors.TaskServerError(message) from error


def text_of(reply: Reply) -> str:
    """The body as text, for people to read."""
    return reply.body.decode("utf-8", "replace")


def _problem(body: bytes) -> _Problem:
    try:
        return msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Problem()


def _seconds(text: str | None) -> float | None:
    # Retry-After may also be a date; no server of ours sends one.
    return float(text) if text is not None and text.isdecimal() else None


def _query(**values: str | float | None) -> str:
    given = [
        f"{name}={quote(value, safe='') if isinstance(value, str) else value}"
        for name, value in values.items()
        if value is not None
    ]
    return "?" + "&".join(given) if given else ""


def _part(text: str) -> str:
    return quote(text, safe=":")
