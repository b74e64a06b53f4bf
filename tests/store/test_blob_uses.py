"""What needs a blob keeps it; what nothing needs goes, unless somebody counts on it again."""

import hashlib
from typing import Any

import pytest

from task_server.errors import Invalid, Unavailable
from task_server.protocol.ids import new_id
from task_server.store.attempts import AttemptReport, Dealt
from task_server.store.records.blobs import RENEW_SECONDS
from task_server.store.rows import TaskFilter
from task_server.store.states import Encoding
from task_server.store.submissions import NewTask, StoredBlob, Submission
from tests.store.retained import KEEP, count, delete, purge
from tests.store.world import (
    GUESS,
    SPEC,
    World,
    batch,
    failed,
    new_task,
    spec,
    succeeded,
)

UNUSED = 24 * 3600.0


def named(content: str) -> str:
    return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


async def keep(world: World, name: str, owner: int = 1) -> None:
    await world.store.keep_blob(name, owner, size=10, now=world.clock.now)


async def retire(world: World) -> list[str]:
    """Forget what nothing needs; what is to be deleted now."""
    now = world.clock.now
    await world.store.retire_blobs("sha256:", "sha256:g", before=now - UNUSED, now=now)
    return await world.store.deletable_blobs(before=now)


async def test_a_blob_that_nothing_needs_is_kept_for_a_day(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(UNUSED - 1)
    assert await retire(world) == []
    world.clock.advance(1)

    assert await retire(world) == [name]

    assert not await world.store.has_blob(name, 1)


async def test_storing_it_again_makes_it_young(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(UNUSED - 1)
    await keep(world, name)
    world.clock.advance(UNUSED - 1)

    assert await retire(world) == []


async def test_so_does_somebody_who_counts_on_it(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(UNUSED - 1)
    await world.store.renew_blob(name, now=world.clock.now)
    world.clock.advance(UNUSED - 1)

    assert await retire(world) == []


async def test_content_stays_as_long_as_anybody_has_it(world: World) -> None:
    name = named("a")
    await keep(world, name, 1)
    world.clock.advance(UNUSED)
    await keep(world, name, 2)

    assert await retire(world) == []
    assert not await world.store.has_blob(name, 1)
    assert await world.store.has_blob(name, 2)
    world.clock.advance(UNUSED)

    assert await retire(world) == [name]


async def test_a_blob_that_is_stored_again_just_then_stays(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(UNUSED)
    now = world.clock.now

    await world.together(
        keep(world, name),
        world.store.retire_blobs("sha256:", "sha256:g", before=now - UNUSED, now=now),
    )

    assert await world.store.has_blob(name, 1)
    assert await world.store.deletable_blobs(before=now) == []


@pytest.mark.parametrize("is_young", [False, True])
async def test_arguments_are_kept_as_long_as_their_task(world: World, is_young: bool) -> None:
    name = named("arguments")
    await keep(world, name)
    task = new_task(new_id(at=world.clock.now) if is_young else None, blobs=(name,))
    await world.submit(task)
    world.clock.advance(9 * UNUSED)
    assert await retire(world) == []
    worker = await world.worker()
    await worker.report(failed(await worker.take_one()))
    world.clock.advance(KEEP.failed - 1)
    await purge(world)
    assert await retire(world) == []
    world.clock.advance(1)

    assert await purge(world) == 1

    assert await retire(world) == [name]
    assert await count(world, "blob_uses") == 0


async def test_a_blob_of_two_tasks_is_kept_for_both(world: World) -> None:
    name = named("arguments")
    await keep(world, name)
    first, second = new_task(blobs=(name,)), new_task(blobs=(name,))
    await world.submit(first, second)
    world.clock.advance(UNUSED)
    await world.store.cancel(1, [first.id, second.id])
    await delete(world, 1, first.id)
    assert await retire(world) == []

    await delete(world, 1, second.id)

    assert await retire(world) == [name]


def answered(dealt: Dealt, blob: str) -> AttemptReport:
    """The report of an answer in a blob."""
    report = succeeded(dealt, blob.encode())
    report.encoding = Encoding.JSON_BLOB
    return report


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("is_named_inside", [False, True])
async def test_answers_are_kept_as_long_as_their_task(
    world: World, is_late: bool, is_named_inside: bool
) -> None:
    name = named("answer")
    task = new_task()
    await world.submit(task)
    worker = await world.worker()
    dealt = await worker.take_one()
    if is_late:
        await world.advance(100)
        await worker.join()
    await keep(world, name, 0)
    report = (
        succeeded(dealt, b'{"$type":"a.B","$blob":"%s"}' % name.encode())
        if is_named_inside
        else answered(dealt, name)
    )
    assert await worker.report(report) == [200]
    world.clock.advance(UNUSED)
    assert await retire(world) == []

    await delete(world, 1, task.id)

    assert await retire(world) == [name]


async def test_a_function_is_kept_as_long_as_a_kind_needs_it(world: World) -> None:
    name = named("function")
    await keep(world, name)
    await world.submit(kind=spec(pickle=name))
    world.clock.advance(9 * UNUSED)

    assert await retire(world) == []


async def test_an_answer_that_is_not_there_is_not_taken(world: World) -> None:
    name, other = named("answer"), named("other")
    await keep(world, other, 0)
    task = new_task()
    await world.submit(task)
    worker = await world.worker()
    dealt = await worker.take_one()

    assert await worker.report(answered(dealt, name)) == [422]
    assert await world.state(task.id) == "running"

    assert await worker.report(answered(dealt, other)) == [200]
    assert (await world.task(task.id)).outcome == other.encode()


async def test_a_late_answer_that_is_not_there_is_not_taken_either(world: World) -> None:
    task = new_task()
    await world.submit(task)
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.advance(100)
    await worker.join()

    report = answered(dealt, named("answer"))
    assert await worker.report(report) == [422]

    assert await world.state(task.id) in ("queued", "delayed")


# ---- a submit


async def refused(world: World, *tasks: NewTask, **options: Any) -> list[tuple[object, object]]:
    before = await count(world, "tasks")
    with pytest.raises(Invalid) as caught:
        await world.submit(*tasks, batch=batch(), **options)
    assert (await count(world, "tasks"), await count(world, "batches")) == (before, 0)
    return [(each["index"], each["field"]) for each in caught.value.errors]


async def test_arguments_must_be_there_before_their_task(world: World) -> None:
    here, away, theirs = named("here"), named("away"), named("theirs")
    await keep(world, here)
    await keep(world, theirs, 2)
    call = b'"call":{"encoding":"json","blob":"%s"}'

    found = await refused(
        world,
        new_task(blobs=(here,)),
        new_task(blobs=(here, away)),
        new_task(blobs=(theirs,), payload=call % theirs.encode()),
    )

    assert found == [(1, "args"), (2, "call.blob")]


async def test_a_function_must_be_there_before_its_task(world: World) -> None:
    kind = spec(pickle=named("function"))

    assert await refused(world, new_task(), kind=kind) == [(0, "function.pickle")]
    await keep(world, named("function"))

    await world.submit(kind=kind)


async def test_what_a_worker_stored_may_be_an_argument(world: World) -> None:
    await keep(world, named("answer"), 0)

    await world.submit(new_task(blobs=(named("answer"),)))


async def test_naming_a_blob_keeps_it_though_the_task_goes_at_once(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(UNUSED - 1)
    task = new_task(blobs=(name,))
    await world.submit(task)
    await world.store.cancel(1, [task.id])
    await delete(world, 1, task.id)
    world.clock.advance(UNUSED - 1)

    assert await retire(world) == []


async def test_a_blob_is_not_renewed_by_every_request(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(RENEW_SECONDS - 1)
    await world.submit(new_task(blobs=(name,), digest=None))
    (row,) = await world.store.tasks(TaskFilter(owner=None))
    await world.store.cancel(1, [row.id])
    await delete(world, 1, row.id)
    world.clock.advance(UNUSED - RENEW_SECONDS + 1)

    assert await retire(world) == [name]


async def store(world: World, name: str, *, began: float) -> None:
    """A submit whose large arguments the server has put into the blob store."""
    await world.store.submit(
        Submission(
            1,
            [SPEC],
            [GUESS],
            [new_task(blobs=(name,))],
            stored=[StoredBlob(name, 10)],
            began=began,
        )
    )


async def test_what_is_stored_for_a_submit_is_its_owners(world: World) -> None:
    name = named("large")

    await store(world, name, began=world.clock.now)

    assert await world.store.has_blob(name, 1)
    world.clock.advance(9 * UNUSED)
    assert await retire(world) == []


async def test_a_function_by_value_may_come_with_its_submit(world: World) -> None:
    function = spec(pickle=named("function"))
    stored = [StoredBlob(named("function"), 10)]
    began = world.clock.now

    accepted = await world.store.submit(
        Submission(1, [function], [GUESS], [new_task()], stored=stored, began=began)
    )

    assert len(accepted.ids) == 1
    assert await world.store.has_blob(named("function"), 1)


# ---- while it is deleted


async def test_a_submit_and_a_deletion_never_both_win(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(UNUSED)
    now = world.clock.now

    submitted, _ = await world.together(
        world.submit(new_task(blobs=(name,))),
        world.store.retire_blobs("sha256:", "sha256:g", before=now - UNUSED, now=now),
    )

    assert not isinstance(submitted, Exception)
    assert await world.store.deletable_blobs(before=now) == []
    assert await world.store.has_blob(name, 1)


async def test_a_submit_that_comes_too_late_is_told_so(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(UNUSED)
    assert await retire(world) == [name]

    with pytest.raises(Invalid, match="PUT it first"):
        await world.submit(new_task(blobs=(name,)))


async def test_content_stored_while_it_is_deleted_must_be_stored_again(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(UNUSED)
    began = world.clock.now
    assert await retire(world) == [name]
    world.clock.advance(1)

    for work in (
        world.store.keep_blob(name, 1, size=1, now=world.clock.now, began=began),
        store(world, name, began=began),
    ):
        with pytest.raises(Unavailable):
            await work
    await world.store.deleted_blobs([name], at=world.clock.now)
    for work in (
        world.store.keep_blob(name, 1, size=1, now=world.clock.now, began=began),
        store(world, name, began=began),
    ):
        with pytest.raises(Unavailable):
            await work
    assert await count(world, "tasks") == 0
    world.clock.advance(1)
    again = world.clock.now
    await world.store.keep_blob(name, 1, size=1, now=again, began=again)

    assert await world.store.has_blob(name, 1)
    assert await world.store.deletable_blobs(before=again) == []


async def test_a_deletion_that_was_cut_off_is_done_again(world: World) -> None:
    name = named("a")
    await keep(world, name)
    world.clock.advance(UNUSED)
    assert await retire(world) == [name]
    await world.kill()

    assert await world.store.deletable_blobs(before=world.clock.now) == [name]


async def test_content_that_somebody_has_is_not_deleted(world: World) -> None:
    owned, ownerless = named("a"), named("b")
    await keep(world, owned)

    await world.store.retire_content([owned, ownerless], now=world.clock.now)

    await keep(world, owned, 2)  # nothing stands in the way
    assert await world.store.known_blobs([owned, ownerless]) == {owned}
    assert await world.store.deletable_blobs(before=world.clock.now) == [ownerless]


async def test_deletions_are_forgotten_once_no_upload_can_care(world: World) -> None:
    name = named("a")
    await world.store.retire_content([name], now=world.clock.now)
    await world.store.forget_deletions(before=world.clock.now)
    assert await count(world, "blob_deletions") == 1, "it has not been done"
    await world.store.deleted_blobs([name], at=world.clock.now)

    await world.store.forget_deletions(before=world.clock.now - 1)
    assert await count(world, "blob_deletions") == 1
    await world.store.forget_deletions(before=world.clock.now)

    assert await count(world, "blob_deletions") == 0
