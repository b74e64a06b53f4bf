"""Intake stops while disk or memory is short, and begins again by itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.errors import StorageFull, Unavailable
from task_server.server.upkeep import memory
from task_server.server.upkeep.ballast import Ballast
from task_server.server.upkeep.space import Space
from task_server.settings import GIB, ServerSettings
from tests.small_disk import MIB, SmallDisk, small_disk

SIZE = 64 * MIB
WATERMARK = SIZE // 10
BALLAST = SIZE // 8


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", mebibytes=SIZE // MIB) as disk:
        yield disk


def space_on(disk: SmallDisk, **settings: object) -> Space:
    made = Space(ServerSettings(data=disk.folder, **settings), disk.folder)  # type: ignore[arg-type]
    made.begin()
    return made


def takes_tasks(space: Space) -> bool:
    space.look()
    try:
        space.check_intake()
    except StorageFull as error:
        assert error.retry_after and "disk" in error.message
        return False
    return True


def ballast(disk: SmallDisk) -> int:
    """The room that the ballast holds now."""
    path = disk.folder / "ballast"
    return path.stat().st_blocks * 512 if path.exists() else 0


# ---- the disk


def test_the_watermark_is_the_smaller_of_share_and_bytes(disk: SmallDisk) -> None:
    space = space_on(disk, ballast_bytes=0)
    disk.fill(leaving=WATERMARK + MIB)
    assert takes_tasks(space)
    disk.fill(leaving=WATERMARK - MIB)
    assert not takes_tasks(space)

    smaller = space_on(disk, ballast_bytes=0, free_disk_bytes=MIB)

    assert takes_tasks(smaller)
    disk.fill(leaving=MIB // 2)
    assert not takes_tasks(smaller)


def test_it_begins_again_only_well_above_the_watermark(disk: SmallDisk) -> None:
    space = space_on(disk, ballast_bytes=0)
    disk.fill(leaving=WATERMARK - MIB)
    assert not takes_tasks(space)

    disk.clear()
    disk.fill(leaving=WATERMARK + WATERMARK // 100)
    assert not takes_tasks(space)
    disk.clear()
    disk.fill(leaving=WATERMARK + WATERMARK // 10)

    assert takes_tasks(space)


def test_the_ballast_is_there_from_the_start_and_holds_real_room(disk: SmallDisk) -> None:
    before = disk.free_bytes

    space_on(disk)

    assert ballast(disk) == BALLAST and before - disk.free_bytes >= BALLAST
    assert (disk.folder / "ballast").stat().st_mode & 0o077 == 0


def test_on_a_disk_that_is_nearly_full_at_the_start_there_is_no_ballast(disk: SmallDisk) -> None:
    disk.fill(leaving=BALLAST)

    space = space_on(disk)

    assert ballast(disk) == 0 and not takes_tasks(space)


def test_a_write_that_finds_the_disk_full_gets_the_ballasts_room_at_once(disk: SmallDisk) -> None:
    space = space_on(disk)
    disk.fill()

    assert space.make_room() is True
    assert space.make_room() is False

    assert disk.free_bytes >= BALLAST
    with pytest.raises(StorageFull):
        space.check_intake()


def test_a_disk_with_nothing_left_loses_the_ballast_before_a_write_fails(disk: SmallDisk) -> None:
    space = space_on(disk)
    disk.fill(leaving=BALLAST // 16)

    assert not takes_tasks(space)

    assert ballast(disk) == 0 and disk.free_bytes >= BALLAST


def test_the_room_of_the_ballast_is_not_for_new_tasks(disk: SmallDisk) -> None:
    space = space_on(disk)
    disk.fill()
    space.make_room()
    assert disk.free_bytes > WATERMARK

    assert not takes_tasks(space)
    assert ballast(disk) == 0, "made again, it would take the room from those who need it"


def test_with_room_the_ballast_is_made_again_and_tasks_are_taken(disk: SmallDisk) -> None:
    space = space_on(disk)
    disk.fill()
    space.make_room()
    assert not takes_tasks(space)

    disk.clear()

    assert takes_tasks(space) and ballast(disk) == BALLAST


def test_a_server_that_starts_on_a_full_disk_has_the_ballasts_room(disk: SmallDisk) -> None:
    space_on(disk)
    disk.fill()

    space = space_on(disk)

    assert disk.free_bytes >= BALLAST and not takes_tasks(space)


def test_each_disk_is_watched(disk: SmallDisk, tmp_path: Path) -> None:
    with small_disk(tmp_path / "blobs", mebibytes=16) as second:
        space = space_on(disk, blobs=str(second.folder))
        assert takes_tasks(space)
        second.fill()

        assert not takes_tasks(space)


def test_a_ballast_that_cannot_be_made_leaves_nothing(disk: SmallDisk) -> None:
    disk.fill(leaving=MIB)
    made = Ballast(disk.folder / "ballast", 2 * MIB)

    with pytest.raises(OSError, match="No space"):
        made.make()

    assert ballast(disk) == 0 and made.missing_bytes == 2 * MIB


# ---- memory


def test_over_the_limit_of_memory_no_tasks_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    used = memory.resident_bytes()
    little = Space(ServerSettings(data=folder, ballast_bytes=0, memory_bytes=used // 2), folder)
    enough = Space(ServerSettings(data=folder, ballast_bytes=0, memory_bytes=used * 4), folder)
    for space in (little, enough):
        space.begin()

    with pytest.raises(Unavailable, match="short of memory") as caught:
        little.check_intake()

    assert caught.value.retry_after
    enough.check_intake()


def test_with_memory_again_tasks_are_taken(tmp_path: Path) -> None:
    limit = memory.resident_bytes() + 64 * MIB
    settings = ServerSettings(data=tmp_path, ballast_bytes=0, memory_bytes=limit)
    space = Space(settings, tmp_path)
    held = b"x" * (128 * MIB)
    space.begin()
    with pytest.raises(Unavailable):
        space.check_intake()

    del held
    space.look()

    space.check_intake()


def test_the_limit_of_memory_is_a_share_of_what_there_is(tmp_path: Path) -> None:
    space = Space(ServerSettings(data=tmp_path, ballast_bytes=0), tmp_path)

    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < space.memory.limit_bytes <= 0.75 * total


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/one/two\n", "one/memory.max"),
        ("9:cpu:/x\n4:memory:/one/two\n0::/\n", "memory/memory.limit_in_bytes"),
        ("4:cpu,memory:/one\n", "memory/one/memory.limit_in_bytes"),
    ],
)
def test_the_limits_of_all_groups_above_the_process_count(
    tmp_path: Path, groups: str, file: str
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    root = tmp_path / "fs"
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(f"{3 * GIB}\n")

    found = list(memory._group_limits(tmp_path / "cgroup", root))

    assert root / file in found
    assert all(each.is_relative_to(root) for each in found)
