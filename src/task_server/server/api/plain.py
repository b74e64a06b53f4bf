"""`/user` and `/worker`: the plain API, for programs written in an afternoon."""

from __future__ import annotations

import asyncio

import msgspec

from task_server.environments.lock import parse_lock
from task_server.errors import Conflict, Gone, Invalid, NotFound
from task_server.protocol import ids
from task_server.protocol.payload import check_keys, check_payload
from task_server.protocol.plain import PlainAnswer, PlainException, PlainTask
from task_server.protocol.tasks import Error
from task_server.server.api.blobs import OF_WORKERS, reply_with
from task_server.server.api.tasks import (
    MAXIMUM_WAIT,
    absent_task,
    idempotency_key,
    identifier,
    note_read,
    wait_for,
)
from task_server.server.http import (
    JSON,
    Call,
    Reply,
    check_json,
    check_object,
    decode,
    encode,
    seconds_in,
)
from task_server.server.routing import USER, WORKER, Route
from task_server.server.service import estimate, submit
from task_server.server.service.arguments import INLINE_BYTES
from task_server.server.service.views import task_view
from task_server.server.state import State
from task_server.store.attempts import AttemptReport, Dealt, Used
from task_server.store.rows import TaskRow
from task_server.store.states import Encoding
from task_server.store.states import State as TaskState

_tasks = msgspec.json.Decoder(PlainTask)
_answers = msgspec.json.Decoder(PlainAnswer)


async def _object(state: State, call: Call) -> bytes:
    """The body, which is one JSON object."""
    check_json(call)
    body = await call.body(state.settings.plain_body_bytes)
    check_object(body)
    return body


def _wait(call: Call) -> float:
    """Seconds to wait; like unknown fields of a body, those of a query are ignored here."""
    query = call.query("wait", ignores_others=True)
    return seconds_in(query, "wait", most=MAXIMUM_WAIT)


# ---- users


async def submit_task(state: State, call: Call) -> Reply:
    """Submit one task; with `wait` the reply tells its end if it came in time."""
    wait = _wait(call)
    body = await _object(state, call)
    read = decode(body, _tasks)
    check_keys(body, bytes(read.args), bytes(read.kwargs))
    prepared = await submit.prepare(
        state, call.caller, encode(_as_task(read)), key=idempotency_key(call), sent=body
    )
    accepted = await submit.store(state, prepared)
    task = accepted.ids[0]
    told: dict[str, object] = {"sucsess": True, "success": True, "id": ids.to_text(task)}
    if accepted.duplicate:
        told["duplicate"] = True
    if wait:
        return await _reply(state, call, told, await wait_for(state, call, task, wait))
    return Reply(encode(told))


def _as_task(read: PlainTask) -> dict[str, object]:
    given = {
        "function": read.function,
        "module": read.module or None,
        "package": read.package,
        "version": read.version,
    }
    task: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if bytes(read.args):
        task["args"] = read.args
    if bytes(read.kwargs):
        task["kwargs"] = read.kwargs
    return task


def _outcome(state: State, row: TaskRow) -> dict[str, object]:
    view = task_view(state, row)
    if row.state is TaskState.SUCCEEDED:
        if bytes(view.answer) or row.encoding is None:
            return {"answer": view.answer}
        return {"answer": {"$blob": view.blob}}
    if not row.state.is_terminal:
        return {"state": view.state}
    if isinstance(view.error, Error):
        error = view.error
        told = {"type": error.type, "message": error.message, "traceback": error.traceback}
    else:
        told = {"type": view.state, "message": f"the task is {view.state}", "traceback": ""}
    return {"state": view.state, "error": told}


async def request_answer(state: State, call: Call) -> Reply:
    """The answer of a task, or how far it is."""
    wait = _wait(call)
    row = await wait_for(state, call, identifier(call.params["id"]), wait)
    is_there = row.state is TaskState.SUCCEEDED
    told: dict[str, object] = {"sucsess": is_there, "success": is_there}
    if not row.state.is_terminal:
        told["reason"] = await _reason(state, row)
    return await _reply(state, call, told, row)


async def _reply(state: State, call: Call, told: dict[str, object], row: TaskRow) -> Reply:
    """What is told, and what the task came to; a large answer is streamed."""
    note_read(state, call, row)
    if row.encoding is not Encoding.JSON_BLOB or row.outcome is None:
        return Reply(encode({**told, **_outcome(state, row)}))
    blob = await state.blobs.open(row.outcome.decode())
    before = encode(told)[:-1] + b',"answer":'
    return reply_with(call, blob, content_type=JSON, before=before, after=b"}")


async def _reason(state: State, row: TaskRow) -> str:
    if row.state is TaskState.RUNNING:
        return "a worker has it"
    if row.state is TaskState.DELAYED:
        return "it waits for other tasks" if row.pending else "it waits for its time"
    if row.request_state != 1:
        return "its environment is being locked"
    has_workers = await estimate.slots(state) > 0
    return "it waits for a free worker" if has_workers else "no worker is connected"


async def estimate_time_left(state: State, call: Call) -> Reply:
    """Seconds of work in the caller's unfinished tasks."""
    owner = call.caller.sees
    piles = await estimate.open_piles(state, owner)
    seconds = estimate.total(piles)
    everybody = await estimate.look_ahead(state)
    eta = estimate.eta(everybody.work, everybody.slots, longest=0.0)
    time = sum((pile.count * pile.price.p50 for pile in piles), start=0.0)
    told = {
        "sucsess": True,
        "success": True,
        "time": time,
        # The bounds are those of a sum of means; calls that vary widely have a smaller median.
        "low": min(seconds.p10, time),
        "high": max(seconds.p90, time),
        "unknown_tasks": sum(pile.tasks for pile in piles if not pile.price.is_known),
        "eta_seconds": None if eta is None else eta.p50,
    }
    return Reply(encode(told))


# ---- workers


async def request_task(state: State, call: Call) -> Reply:
    """Lease one task that a plain worker can run."""
    wait = _wait(call)
    if state.is_stopping:
        wait = 0.0
    lease = state.store.plain_lease(
        call.caller.token,
        wait_until=state.clock() + wait,
        seconds=state.settings.plain_lease_seconds,
    )
    dealt = await call.unless_gone(asyncio.ensure_future(lease))
    if dealt is None:
        told = {"sucsess": False, "success": False, "reason": "no task waits"}
        return Reply(encode(told))
    task = await _plain_task(state, dealt)
    head = b'{"sucsess":true,"success":true,"id":"%s","task":' % ids.to_text(dealt.id).encode()
    return Reply(head + task + b"}")


async def _plain_task(state: State, dealt: Dealt) -> bytes:
    spec = dealt.kind.spec
    version = None
    environment = state.store.environment_of(spec.request)
    if spec.distribution and environment is not None:
        found = await state.store.environment(environment)
        if found is not None:
            version = parse_lock(found[1], python=found[0]).versions().get(spec.distribution)
    shared = {
        "package": spec.package[0] if spec.package else None,
        "version": version,
        "module": spec.module,
        "function": spec.function,
    }
    return encode(shared)[:-1] + b"," + dealt.payload + b"}"


async def submit_answer(state: State, call: Call) -> Reply:
    """A plain worker's answer, or what its function raised."""
    body = await _object(state, call)
    read = decode(body, _answers)
    answer = bytes(read.answer)
    check_keys(body, answer)
    task = ids.from_text(read.id)
    if task is None:
        raise NotFound("no task of that id was given to this worker")
    report = await _with_blob(state, _report(read, task, answer))
    decided = await state.store.plain_answer(call.caller.token, report)
    if decided.status == 404:
        raise await _unknown(state, task)
    if decided.status == 409:
        raise Conflict("the task has another answer already, or runs elsewhere now")
    if decided.status == 410:
        raise Gone("the task was cancelled, expired or is past its retention; drop it")
    told: dict[str, object] = {"sucsess": True, "success": True}
    if decided.duplicate:
        told["duplicate"] = True
    return Reply(encode(told))


async def _unknown(state: State, task: bytes) -> NotFound | Gone:
    error = await absent_task(state, task, None)
    if isinstance(error, Gone):
        return error
    return NotFound("no task of that id was given to this worker")


def _report(read: PlainAnswer, task: bytes, answer: bytes) -> AttemptReport:
    said = read.sucsess if read.sucsess is not None else read.success
    failed = said is False or read.exception is not None
    used = None if read.time is None else Used(run_seconds=max(read.time, 0.0))
    if not failed:
        if not answer:
            raise Invalid("answer is missing", field="answer")
        check_payload(answer, "answer")
        return AttemptReport(None, "succeeded", Encoding.JSON, answer, used=used, task=task)
    error = encode(_error(read.exception))
    return AttemptReport(
        None, "failed", Encoding.ERROR, error, error_kind="exception", used=used, task=task
    )


async def _with_blob(state: State, report: AttemptReport) -> AttemptReport:
    """The report, with a large answer in the blob store."""
    if report.encoding is Encoding.JSON and len(report.answer) > INLINE_BYTES:
        began = state.clock()
        name = await state.blobs.put_bytes(report.answer)
        size = len(report.answer)
        await state.store.keep_blob(name, OF_WORKERS, size=size, now=state.clock(), began=began)
        report.encoding, report.answer = Encoding.JSON_BLOB, name.encode()
    return report


def _error(told: str | PlainException | None) -> Error:
    if isinstance(told, PlainException):
        return Error(
            kind="exception",
            type=told.type or "Exception",
            message=told.message or "",
            traceback=told.traceback or "",
        )
    text = told or "the worker gave no reason"
    return Error(kind="exception", type="Exception", message=text)


ROUTES = [
    Route("POST", "/user/submit_task", submit_task, USER),
    Route("GET", "/user/request_answer/{id}", request_answer, USER),
    Route("GET", "/user/estimate_time_left", estimate_time_left, USER),
    Route("GET", "/worker/request_task", request_task, WORKER),
    Route("POST", "/worker/submit_answer", submit_answer, WORKER),
]
