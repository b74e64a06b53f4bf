"""What the estimator reads of tasks that have ended."""

from __future__ import annotations

from task_server.store.attempts import Used
from task_server.store.records.models import FunctionModel, ModelChange, ModelHead
from tests.store.world import World, failed, new_task, spec, succeeded


async def run(world: World, *payloads: bytes, seconds: float = 1.0, **kind: object) -> None:
    """Submit tasks with these arguments, and have them answered."""
    worker = await world.worker()
    await world.submit(*(new_task(payload=each) for each in payloads), kind=spec(**kind))
    for dealt in (await worker.exchange(want=len(payloads))).tasks:
        await worker.exchange(succeeded(dealt, used=Used(run_seconds=seconds)))


async def test_what_ended_is_read_by_place(world: World) -> None:
    await run(world, b'"args":[1],"kwargs":{}', b'"args":[2],"kwargs":{}', seconds=3.0)

    last = (await world.store.last_places())[world.store.server]
    found = await world.store.ended_attempts(world.store.server, range(1, last + 1))

    assert [each.payload for each in found] == [
        b'"args":[1],"kwargs":{}',
        b'"args":[2],"kwargs":{}',
    ]
    assert [each.n for each in found] == [last - 1, last]
    assert {each.used.run_seconds for each in found} == {3.0}
    assert all(each.is_success and each.worker for each in found)
    assert found[0].size == len(b'"args":[1],"kwargs":{}')


async def test_arguments_that_lie_beside_the_row_are_read_if_they_are_not_large(
    world: World,
) -> None:
    beside, large = (b'"args":["' + b"x" * count + b'"],"kwargs":{}' for count in (5_000, 50_000))
    await run(world, beside, large)

    found = await world.store.ended_attempts(world.store.server, range(1, 100))

    assert [(each.payload, each.size) for each in found] == [
        (beside, len(beside)),
        (None, len(large)),
    ]


async def test_what_a_client_says_of_arguments_is_kept_with_the_task(world: World) -> None:
    worker = await world.worker()
    told = b'{"rows":1000.0}'
    await world.submit(new_task(features=told), new_task())
    dealt = (await worker.exchange(want=2)).tasks

    await worker.exchange(*map(succeeded, dealt))

    found = await world.store.ended_attempts(world.store.server, range(1, 100))
    assert [each.features for each in found] == [told, None]
    assert all(each.payload == b'"args":[4],"kwargs":{}' for each in dealt)


async def test_a_failure_is_read_with_its_error(world: World) -> None:
    worker = await world.worker()
    await world.submit(count=1)
    (dealt,) = (await worker.exchange(want=1)).tasks

    await worker.exchange(failed(dealt, error=b'{"kind":"timeout"}'))

    (found,) = await world.store.ended_attempts(world.store.server, range(1, 100))
    assert not found.is_success and found.error == b'{"kind":"timeout"}'


async def test_what_was_cancelled_or_deleted_is_passed_over(world: World) -> None:
    await run(world, b'"args":[1],"kwargs":{}')
    cancelled = await world.submit(count=1)
    await world.store.cancel(None, cancelled.ids)
    accepted = await world.submit(new_task(payload=b'"args":[2],"kwargs":{}'))
    worker = await world.worker()
    await worker.exchange(*map(succeeded, (await worker.exchange(want=1)).tasks))
    await world.store.delete(None, accepted.ids[0])
    world.has_purged = True

    found = await world.store.ended_attempts(world.store.server, range(1, 100))

    assert [each.payload for each in found] == [b'"args":[1],"kwargs":{}']


async def test_the_first_calls_of_some_functions_are_found_among_many(world: World) -> None:
    await run(world, *[b'"args":[1],"kwargs":{}'] * 5)
    await run(world, *[b'"args":[1],"kwargs":{}'] * 3, function="exp")
    statistics = world.store.statistics((0, "", "math:exp"))
    assert statistics is not None
    server = world.store.server
    last = (await world.store.last_places())[server]

    found = await world.store.places_of(
        server, after=0, until=last, functions=[statistics.function], limit=100
    )
    some = await world.store.places_of(
        server, after=found[0], until=last, functions=[statistics.function], limit=1
    )

    assert found == [last - 2, last - 1, last]
    assert some == [last - 1]


# ---- the model that is kept


def change(version: int, *functions: tuple[int, bytes], gone: tuple[int, ...] = ()) -> ModelChange:
    """What was learned up to ten places for each version."""
    head = ModelHead(version, {1: version * 10}, b"shared %d" % version)
    return ModelChange(head, functions, gone)


async def called(world: World, *names: str) -> list[int]:
    """The numbers of functions, called once."""
    for name in names:
        await run(world, b'"args":[1],"kwargs":{}', function=name)
    found = (world.store.statistics((0, "", f"math:{name}")) for name in names)
    return [each.function for each in found if each is not None]


async def test_a_model_is_there_after_a_kill(world: World) -> None:
    sqrt, exp = await called(world, "sqrt", "exp")
    assert await world.store.model_version() == 0 and await world.store.model_head() is None

    assert await world.store.keep_model(change(1, (sqrt, b"a"), (exp, b"b")))
    await world.kill()

    assert await world.store.model_version() == 1
    assert await world.store.model_head() == ModelHead(1, {1: 10}, b"shared 1")
    assert await world.store.function_models(since=0, after=0, limit=9) == [
        FunctionModel(sqrt, (0, "", "math:sqrt"), b"a"),
        FunctionModel(exp, (0, "", "math:exp"), b"b"),
    ]


async def test_only_what_has_changed_is_read_again(world: World) -> None:
    sqrt, exp, log = await called(world, "sqrt", "exp", "log")
    await world.store.keep_model(change(1, (sqrt, b"a"), (exp, b"b"), (log, b"c")))

    await world.store.keep_model(change(2, (exp, b"B"), gone=(log,)))

    read = world.store.function_models
    assert [each.state for each in await read(since=1, after=0, limit=9)] == [b"B"]
    assert [each.function for each in await read(since=0, after=0, limit=1)] == [sqrt]
    assert [each.function for each in await read(since=0, after=sqrt, limit=9)] == [exp]


async def test_a_model_grows_only_from_the_one_that_is_kept(world: World) -> None:
    (sqrt,) = await called(world, "sqrt")
    await world.store.keep_model(change(1, (sqrt, b"a")))
    await world.store.keep_model(change(2, (sqrt, b"b")))

    for version in (1, 2, 4):
        assert not await world.store.keep_model(change(version, (sqrt, b"other")))

    assert await world.store.model_head() == ModelHead(2, {1: 20}, b"shared 2")
    (kept,) = await world.store.function_models(since=0, after=0, limit=9)
    assert kept.state == b"b"


async def test_a_function_that_has_gone_is_not_kept(world: World) -> None:
    (sqrt,) = await called(world, "sqrt")

    await world.store.keep_model(change(1, (sqrt, b"a"), (sqrt + 1000, b"b")))

    kept = await world.store.function_models(since=0, after=0, limit=9)
    assert [each.function for each in kept] == [sqrt]
