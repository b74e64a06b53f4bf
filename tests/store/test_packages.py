"""Uploaded wheels: whose they are, and that their content stays as long as they do."""

import pytest

from task_server.errors import Conflict
from task_server.store.records.orders import OrderSpec
from task_server.store.records.packages import Package
from task_server.store.records.retention import Keep
from tests.store.world import World

DAY = 86400.0
KEEP = Keep(1.0, 1.0, 1.0)
TEXT = "python 3.11\ngreet"
NEW = "b" * 64


def package(world: World, name: str = "greet", version: str = "1.0", **other: object) -> Package:
    values: dict[str, object] = {
        "owner": 1,
        "name": name,
        "version": version,
        "filename": f"{name}-{version}-py3-none-any.whl",
        "digest": f"sha256:{'a' * 64}",
        "size": 10,
        "requires_python": None,
        "metadata": "Name: greet\n",
        "uploaded_at": world.clock.now,
    }
    return Package(**{**values, **other})  # type: ignore[arg-type]  # as declared


async def test_a_wheel_is_found_by_its_owner_name_and_content(world: World) -> None:
    mine = package(world, requires_python=">=3.9")
    others = package(world, owner=2, digest=f"sha256:{'b' * 64}")
    for each in (mine, others):
        assert await world.store.add_package(each, began=world.clock.now)

    assert await world.store.packages(owner=1) == [mine]
    assert await world.store.packages(owner=None, name="greet") == [mine, others]
    assert await world.store.packages(owner=1, name="other") == []
    assert await world.store.packages_with([others.digest]) == [others]
    assert await world.store.package_contents() == [
        (each.owner, each.name, each.filename, each.digest) for each in (mine, others)
    ]


async def test_the_same_wheel_again_changes_nothing_and_another_is_refused(world: World) -> None:
    first = package(world)
    await world.store.add_package(first, began=world.clock.now)
    mark = await world.store.package_mark()

    assert not await world.store.add_package(package(world), began=world.clock.now)
    with pytest.raises(Conflict, match="uploaded before with other content"):
        other = package(world, digest=f"sha256:{'b' * 64}")
        await world.store.add_package(other, began=world.clock.now)

    assert await world.store.packages(owner=1) == [first]
    assert await world.store.package_mark() == mark


async def test_removing_is_by_name_or_version_and_only_for_the_owner(world: World) -> None:
    for version in ("1.0", "2.0"):
        await world.store.add_package(package(world, version=version), began=world.clock.now)
    before = await world.store.package_mark()

    assert await world.store.remove_package(owner=2, name="greet", version=None) == 0
    assert await world.store.remove_package(owner=1, name="greet", version="1.0") == 1
    after = await world.store.package_mark()
    assert await world.store.remove_package(owner=1, name="greet", version=None) == 1

    assert before != after and await world.store.packages(owner=None) == []


async def test_the_content_of_a_wheel_is_kept_until_the_wheel_is_removed(world: World) -> None:
    wheel = package(world)
    await world.store.add_package(wheel, began=world.clock.now)
    world.clock.advance(30 * DAY)

    async def retired() -> list[str]:
        now = world.clock.now
        await world.store.retire_blobs("sha256:", "sha256:g", before=now - DAY, now=now)
        return await world.store.deletable_blobs(before=now)

    assert await retired() == []
    await world.store.remove_package(owner=1, name="greet", version=None)
    assert await retired() == [wheel.digest]


async def test_a_refreshed_lock_is_the_last_one(world: World) -> None:
    before = await world.store.refresh_mark()
    for digest in ("a" * 64, "b" * 64):
        world.clock.advance(1)
        await world.store.refresh(
            "python 3.11\ngreet",
            environment=digest,
            python="3.11",
            lock=f"# {digest}",
            now=world.clock.now,
        )

    assert await world.store.refreshed() == {"python 3.11\ngreet": "b" * 64}
    assert await world.store.environment("a" * 64) is not None
    assert await world.store.refresh_mark() != before


async def refresh(world: World) -> None:
    now = world.clock.now
    await world.store.refresh(TEXT, environment=NEW, python="3.11", lock="# new", now=now)


async def tidy(world: World) -> None:
    while await world.store.remove_leftovers(KEEP, now=world.clock.now):
        pass


async def test_a_refreshed_lock_that_nobody_needs_goes_in_its_time(world: World) -> None:
    await refresh(world)
    world.clock.advance(DAY - 1)
    await tidy(world)
    assert await world.store.refreshed() == {TEXT: NEW}
    before = await world.store.refresh_mark()
    world.clock.advance(1)

    await tidy(world)

    assert await world.store.refreshed() == {}
    assert await world.store.refresh_mark() != before
    assert await world.store.environment(NEW) is not None, "a task may be replayed with it"


@pytest.mark.parametrize("request_text", [TEXT, f"lock {NEW}"], ids=["an older lock", "tasks"])
async def test_a_refreshed_lock_stays_as_long_as_its_request_has(
    world: World, request_text: str
) -> None:
    await refresh(world)
    await world.store.ask_for_lock(request_text, python="3.11", environment=None)
    world.clock.advance(DAY)
    await tidy(world)
    assert await world.store.refreshed() == {TEXT: NEW}
    while await world.store.forget_unused(keep_seconds=0.0):
        pass

    await tidy(world)

    assert await world.store.refreshed() == {}


async def test_a_refreshed_lock_stays_as_long_as_it_is_ordered(world: World) -> None:
    await refresh(world)
    await world.store.order(OrderSpec(request=TEXT, until=world.clock.now + 2 * DAY), now=0.0)
    world.clock.advance(DAY)
    await tidy(world)
    assert await world.store.refreshed() == {TEXT: NEW}
    world.clock.advance(DAY)

    await tidy(world)

    assert await world.store.refreshed() == {}
