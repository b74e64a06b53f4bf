"""Submit: a body becomes tasks, priced and stored, once."""

from __future__ import annotations

from hashlib import blake2b

from msgspec import Struct

from task_server.errors import Invalid
from task_server.protocol import ids
from task_server.protocol.payload import check_text
from task_server.protocol.tasks import Estimate, NewBatch
from task_server.scheduling.totals import Ahead
from task_server.server.access import Caller
from task_server.server.service import estimate
from task_server.server.service.payload_blobs import blobs_needed, some_at_once, store_large
from task_server.server.service.pythons import check_python_is_somewhere
from task_server.server.service.requests import MAXIMUM_ERRORS, Body, Read, Reader, check_id
from task_server.server.service.reserve import with_reserved
from task_server.server.state import State
from task_server.store.kinds import KindSpec
from task_server.store.submissions import (
    Accepted,
    BatchSpec,
    IdempotencyKey,
    NewTask,
    StoredBlob,
    Submission,
)


class Prepared(Struct):
    """A submission ready to be stored, and what its estimate rests on."""

    submission: Submission
    counts: list[int]
    """Tasks of each spec."""
    before: Ahead
    is_single: bool


async def read_body(
    state: State, caller: Caller, body: bytes, *, is_lines: bool
) -> tuple[Body, Reader]:
    """Read a submit's body. Raises Malformed, Invalid, NotSupported.

    Whether its blobs are there is not looked at: an estimate does not need them.
    """
    check_text(body)
    reader = Reader(
        caller.owner,
        kinds=state.specs,
        now=state.clock(),
        uploads=await state.uploads.of(caller.owner),
        refreshed=await state.refreshes.known(),
    )
    return reader.read(body, is_lines=is_lines), reader


async def _check_named(state: State, read: Body) -> None:
    """Arguments in a blob must be there before the task is."""
    named = read.named()
    if not named:
        return
    sizes = await some_at_once(state.blobs.size, list(named))
    missing = [index for index, size in zip(named.values(), sizes, strict=True) if size is None]
    if not missing:
        return
    message = "there is no such blob; PUT it first"
    if read.is_single:
        raise Invalid(message, field="call.blob")
    told = missing[:MAXIMUM_ERRORS]
    errors = [{"index": index, "field": "call.blob", "message": message} for index in told]
    raise Invalid(f"task {missing[0]}: {message}", errors=errors)


async def prepare(
    state: State,
    caller: Caller,
    body: bytes,
    *,
    into: bytes | None = None,
    key: str | None = None,
    is_lines: bool = False,
    sent: bytes | None = None,
) -> Prepared:
    """Read, check and price a body; large parts are in the blob store when this returns.

    `sent` is the request's body where `body` was made from it.
    """
    state.space.check_intake()
    state.budget.check_intake()
    began = state.clock()
    read, reader = await read_body(state, caller, body, is_lines=is_lines)
    await _check_named(state, read)
    if reader.blobs:
        await some_at_once(state.blobs.put_bytes, list(reader.blobs.values()))
    await _check_specs(state, read)
    stored = [StoredBlob(name, len(data)) for name, data in reader.blobs.items()]
    stored += await store_large(state, read.tasks)
    tasks = await _tasks(state, read.tasks, at=began)
    before = await estimate.ahead(state)
    known = [state.store.statistics(spec.function_key) for spec in read.specs]
    specs = with_reserved(state, read.specs, known, slot_bytes=before.slot_bytes)
    prices = [
        estimate.price_known(state, each, spec.owner)
        for spec, each in zip(specs, known, strict=True)
    ]
    counts = [0] * len(specs)
    for task in tasks:
        counts[task.spec] += 1
    batch = None
    if not read.is_single and into is None:
        batch = batch_spec(read.batch or NewBatch(), state.clock(), is_open=False)
    submission = Submission(
        caller.owner,
        specs,
        prices,
        tasks,
        batch=batch,
        into=into,
        key=None if key is None else IdempotencyKey(key, _digest(sent or body)),
        stored=stored,
        began=began,
        slots=before.slots,
    )
    state.budget.add(len(body))
    return Prepared(submission, counts, before, read.is_single)


async def store(state: State, prepared: Prepared) -> Accepted:
    """Store what was prepared; on disk when this returns."""
    try:
        return await state.store.submit(prepared.submission)
    except Invalid as error:
        raise _told(error, is_single=prepared.is_single) from None


def told(state: State, prepared: Prepared) -> Estimate:
    """What the tasks cost, as far as was known when they came."""
    submission = prepared.submission
    piles = estimate.piles_of(state, submission.specs, submission.prices, prepared.counts)
    return estimate.of_submit(piles, prepared.before)


def _told(error: Invalid, *, is_single: bool) -> Invalid:
    """What the store found wrong with tasks, in the words of who sent one or many."""
    if not is_single:
        return Invalid(f"task {error.errors[0]['index']}: {error.message}", errors=error.errors)
    errors = [
        {name: value for name, value in each.items() if name != "index"} for each in error.errors
    ]
    return Invalid(error.message, errors=errors)


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()


async def _tasks(state: State, read: list[Read], *, at: float) -> list[NewTask]:
    """Tasks to store; ids are made where the client made none."""
    made = iter(ids.new_ids([task.id for task in read].count(None), at=at))
    return [
        NewTask(
            next(made) if task.id is None else task.id,
            None if task.id is None else task.digest,
            task.payload,
            task.spec,
            task.run_after,
            task.start_by,
            task.finish_by,
            task.after,
            blobs,
            task.features,
        )
        for task, blobs in zip(read, await blobs_needed(state, read), strict=True)
    ]


def batch_spec(asked: NewBatch, now: float, *, is_open: bool) -> BatchSpec:
    """A batch to make. Raises Invalid for a bad id."""
    if asked.expected is not None and asked.expected < 0:
        raise Invalid("expected is a number of tasks", field="expected")
    given = None if asked.id is None else check_id(asked.id, now, "batch.id")
    digest = _digest(repr((asked.name, asked.expected, asked.order)).encode())
    return BatchSpec(
        given or ids.new_id(at=now),
        digest,
        asked.name,
        asked.expected,
        asked.order == "submit",
        is_open,
    )


async def _check_specs(state: State, read: Body) -> None:
    for number, spec in enumerate(read.specs):
        try:
            await _check_spec(state, spec)
        except Invalid as error:
            if read.is_single:
                raise
            index = next(i for i, task in enumerate(read.tasks) if task.spec == number)
            errors = [{"index": index, **each} for each in error.errors]
            raise Invalid(f"task {index}: {error.message}", errors=errors) from None


async def _check_spec(state: State, spec: KindSpec) -> None:
    """What only the server's state can tell. Raises Invalid with the ways out."""
    by_value = spec.pickle is not None
    await check_python_is_somewhere(state, spec.python, by_value=by_value, is_plain=spec.plain)
    if spec.pickle is not None and await state.blobs.size(spec.pickle) is None:
        raise Invalid("there is no such blob; PUT it first", field="function.pickle")
    if spec.environment is None or state.store.knows_request(spec.request):
        return
    if spec.request.startswith("lock "):
        known = await state.store.environment(spec.environment)
        if known is None:
            message = "no lock of that digest is known here; submit with package instead"
            raise Invalid(message, field="environment")
    else:
        await state.store.keep_empty_lock(spec.python, now=state.clock())
