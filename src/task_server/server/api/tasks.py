"""`/v1/tasks`."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Sequence

from task_server.errors import Conflict, Gone, Invalid, NotFound
from task_server.protocol import ids
from task_server.protocol.tasks import Submitted, SubmittedOne
from task_server.server.api.blobs import reply_with
from task_server.server.http import (
    BYTES,
    NDJSON,
    Call,
    Reply,
    check_json,
    cursor_in,
    encode,
    problem,
    seconds_in,
)
from task_server.server.routing import USER, Route
from task_server.server.service import submit, views
from task_server.server.state import State
from task_server.store.rows import Ended, TaskFilter, TaskRow
from task_server.store.states import BY_WORD, Encoding
from task_server.store.states import State as TaskState
from task_server.store.submissions import Accepted

MAXIMUM_WAIT = 60.0
MAXIMUM_PAGE = 1000


async def post(state: State, call: Call) -> Reply:
    """Submit one task or many."""
    is_lines = check_json(call, NDJSON) == NDJSON
    query = call.query("wait", "batch")
    wait = seconds_in(query, "wait", most=MAXIMUM_WAIT)
    into = identifier(query["batch"], "batch") if "batch" in query else None
    body = await call.body(state.settings.body_bytes)
    prepared = await submit.prepare(
        state,
        call.caller,
        body,
        into=into,
        key=idempotency_key(call),
        is_lines=is_lines,
    )
    if prepared.is_single:
        return await _post_one(state, call, prepared, wait)
    if wait:
        raise Invalid("wait is for a single task; wait for a batch's answers", field="wait")
    accepted = await submit.store(state, prepared)
    told = submit.told(state, prepared)
    batch = into or accepted.batch
    if into is not None:
        row = await state.store.batch(into, call.caller.owner)
        if row is not None:
            state.waiting.touch(row.batch)
    specs = prepared.submission.specs
    if batch is not None and not accepted.duplicate and len(specs) == 1:
        state.totals.note(batch, specs[0].function_key, told)
    reply = Submitted(
        batch=ids.to_text(batch) if batch else "",
        ids=ids.to_texts(accepted.ids),
        duplicate=accepted.duplicate,
        estimate=told,
    )
    return Reply(encode(reply), 202)


async def _post_one(state: State, call: Call, prepared: submit.Prepared, wait: float) -> Reply:
    task = prepared.submission.tasks[0].id
    if not wait:
        return _accepted(state, prepared, await submit.store(state, prepared))
    with state.waiting.task(task) as ended:
        accepted = await submit.store(state, prepared)
        if accepted.ids[0] == task and not accepted.duplicate:
            await call.wait(ended, seconds=wait)
            row = _told(ended) or await find(state, call, task)
        else:
            row = await wait_for(state, call, accepted.ids[0], wait)
    if row.state.is_terminal:
        return await _shown(state, call, row)
    return _accepted(state, prepared, accepted)


def _accepted(state: State, prepared: submit.Prepared, accepted: Accepted) -> Reply:
    told = submit.told(state, prepared)
    return Reply(encode(SubmittedOne(ids.to_text(accepted.ids[0]), accepted.duplicate, told)), 202)


async def _shown(state: State, call: Call, row: TaskRow) -> Reply:
    note_read(state, call, row)
    await views.read_versions(state, [row])
    return Reply(encode(views.task_view(state, row)))


def idempotency_key(call: Call) -> str | None:
    """The request's `Idempotency-Key`."""
    value = call.header(b"idempotency-key")
    if value is None:
        return None
    if not 0 < len(value) <= 255:
        raise Invalid("Idempotency-Key has 1 to 255 letters", field="Idempotency-Key")
    return value.decode("latin-1")


def identifier(text: str, what: str = "task") -> bytes:
    """The id in a path. Raises NotFound for what cannot be one, as for one that is not there."""
    found = ids.from_text(text)
    if found is None:
        raise NotFound(f"there is no {what} of that id")
    return found


def absent(state: State, identifier: bytes, what: str = "task") -> NotFound | Gone:
    """The error for an id that is not there, or another's: by its age alone."""
    if ids.made_at(identifier) < state.clock() - state.keep.shortest:
        return Gone(f"the {what} of that id, if there was one, is past its retention")
    return NotFound(f"there is no {what} of that id")


async def absent_task(state: State, task: bytes, owner: int | None) -> NotFound | Gone:
    """The error for a task that this owner (None: anybody) does not see, or sees no more."""
    if await state.store.is_gone(task, owner):
        return Gone("the task of that id was deleted, or is past its retention")
    return absent(state, task)


def note_read(state: State, call: Call, row: TaskRow) -> None:
    """What a task came to is given out; to its owner that is the first read, or a later one."""
    if row.state.is_terminal and row.spec.owner == call.caller.owner:
        state.first_reads.note(row.number)


async def find(state: State, call: Call, task: bytes) -> TaskRow:
    """The task. Raises NotFound or Gone."""
    row = await state.store.task(task, call.caller.sees)
    if row is None:
        raise await absent_task(state, task, call.caller.sees)
    return row


async def wait_for(state: State, call: Call, task: bytes, seconds: float) -> TaskRow:
    """The task, once it has ended or time is up."""
    with state.waiting.task(task) as ended:
        row = await find(state, call, task)
        if row.state.is_terminal or not seconds:
            return row
        await call.wait(ended, seconds=seconds)
    return _told(ended) or await find(state, call, task)


def _told(ended: asyncio.Future[Ended | None]) -> TaskRow | None:
    """The task that has ended, where the news bring all of it."""
    end = ended.result() if ended.done() else None
    return None if end is None else end.task


async def get(state: State, call: Call) -> Reply:
    """One task."""
    wait = seconds_in(call.query("wait"), "wait", most=MAXIMUM_WAIT)
    row = await wait_for(state, call, identifier(call.params["id"]), wait)
    return await _shown(state, call, row)


async def answer(state: State, call: Call) -> Reply:
    """The value alone."""
    wait = seconds_in(call.query("wait"), "wait", most=MAXIMUM_WAIT)
    row = await wait_for(state, call, identifier(call.params["id"]), wait)
    if not row.state.is_terminal:
        return Reply(encode({"state": row.state.word}), 202)
    note_read(state, call, row)
    if row.state is not TaskState.SUCCEEDED:
        return _failed(state, row)
    assert row.encoding is not None and row.outcome is not None
    content_type = b"application/json" if row.encoding.word == "json" else BYTES
    if row.encoding.is_blob:
        blob = await state.blobs.open(row.outcome.decode())
        return reply_with(call, blob, content_type=content_type)
    if row.encoding is Encoding.PICKLE:
        return Reply(base64.b64decode(row.outcome), content_type=BYTES)
    return Reply(row.outcome, content_type=content_type)


def _failed(state: State, row: TaskRow) -> Reply:
    view = views.task_view(state, row)
    error = Conflict(f"the task is {row.state.word}, it has no answer")
    reply = problem(error, is_plain=False)
    if view.error:
        assert isinstance(reply.body, bytes)
        reply.body = reply.body[:-1] + b',"state":"%s","error":%s}' % (
            row.state.word.encode(),
            encode(view.error),
        )
    return reply


async def logs(state: State, call: Call) -> Reply:
    """What the attempts printed; `?attempt=` one of them alone."""
    query = call.query("attempt")
    row = await find(state, call, identifier(call.params["id"]))
    kept = await state.store.logs(row.number)
    if "attempt" in query:
        kept = [each for each in kept if str(each[0]) == query["attempt"]]
    return Reply(b"".join(log for _, log in kept), content_type=b"text/plain; charset=utf-8")


async def history(state: State, call: Call) -> Reply:
    """What it came to before it was retried by hand."""
    call.query()
    row = await find(state, call, identifier(call.params["id"]))
    past = await state.store.past_outcomes(row.number)
    return Reply(encode({"id": call.params["id"], "history": [views.past_view(p) for p in past]}))


async def delete(state: State, call: Call) -> Reply:
    """Remove a task that has ended, for good."""
    call.query()
    task = identifier(call.params["id"])
    status = await state.store.delete(call.caller.sees, task)
    if status == 404:
        raise await absent_task(state, task, call.caller.sees)
    if status == 409:
        raise Conflict("it has not ended, or others wait for it still; cancel it first")
    return Reply(encode({"id": call.params["id"], "state": "purged"}))


async def cancel(state: State, call: Call) -> Reply:
    """End a task."""
    return await _change(state, call, state.store.cancel, "it has ended already")


async def retry(state: State, call: Call) -> Reply:
    """Try a task again that ended without an answer."""
    return await _change(state, call, state.store.retry, "only what ended without an answer can be")


Verb = Callable[[int | None, Sequence[bytes]], Awaitable[list[int]]]


async def _change(state: State, call: Call, verb: Verb, why_not: str) -> Reply:
    call.query()
    task = identifier(call.params["id"])
    (status,) = await verb(call.caller.sees, [task])
    if status in (404, 410):
        raise await absent_task(state, task, call.caller.sees)
    if status == 409:
        raise Conflict(why_not)
    row = await find(state, call, task)
    return Reply(encode({"id": call.params["id"], "state": row.state.word}))


async def listed(state: State, call: Call) -> Reply:
    """A page of tasks, newest first."""
    query = call.query("state", "function", "batch", "tag", "cursor", "limit")
    wanted = TaskFilter(
        owner=call.caller.sees,
        state=_state(query.get("state")),
        function=query.get("function"),
        batch=identifier(query["batch"], "batch") if "batch" in query else None,
        tag=query.get("tag"),
        before=cursor_in(query),
        limit=_limit(query.get("limit")) + 1,
    )
    rows = await state.store.tasks(wanted)
    await views.read_versions(state, rows)
    following = None
    if len(rows) == wanted.limit:
        rows = rows[:-1]
        following = f"{rows[-1].number:x}"
    body = encode({"tasks": [views.task_view(state, row) for row in rows], "next": following})
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if following:
        headers = ((b"link", f'</v1/tasks?cursor={following}>; rel="next"'.encode()),)
    return Reply(body, headers=headers)


def _state(text: str | None) -> TaskState | None:
    if text is None:
        return None
    if text not in BY_WORD:
        raise Invalid(f"state is one of {', '.join(BY_WORD)}", field="state")
    return BY_WORD[text]


def _limit(text: str | None) -> int:
    if text is None:
        return 100
    if re.fullmatch("[0-9]{1,9}", text) is None or not 0 < int(text) <= MAXIMUM_PAGE:
        raise Invalid(f"limit is a number from 1 to {MAXIMUM_PAGE}", field="limit")
    return int(text)


ROUTES = [
    Route("POST", "/v1/tasks", post, USER),
    Route("GET", "/v1/tasks/{id}/answer", answer, USER),
    Route("GET", "/v1/tasks", listed, USER),
    Route("GET", "/v1/tasks/{id}", get, USER),
    Route("DELETE", "/v1/tasks/{id}", delete, USER),
    Route("GET", "/v1/tasks/{id}/logs", logs, USER),
    Route("GET", "/v1/tasks/{id}/history", history, USER),
    Route("POST", "/v1/tasks/{id}/cancel", cancel, USER),
    Route("POST", "/v1/tasks/{id}/retry", retry, USER),
]
