from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from task_server.protocol.tasks import Error
from task_server.protocol.workers import Report, Usage
from task_server.worker import spool as spool_module
from task_server.worker.spool import GRACE_SECONDS, Spool


def report(lease: str, answer: object = 1) -> Report:
    return Report(
        lease=lease,
        outcome="succeeded",
        encoding="json",
        answer=Raw(msgspec.json.encode(answer)),
        usage=Usage(run_seconds=0.5),
        log="bG9n",
    )


def failure(lease: str) -> Report:
    error = Error(kind="exception", type="ValueError", message="no\nuse", traceback="Trace\r\n")
    return Report(lease=lease, outcome="failed", error=error)


def opened(folder: Path) -> Spool:
    """A worker's next start."""
    spool = Spool(folder)
    spool.open()
    return spool


def file(folder: Path) -> Path:
    return folder / "reports.ndjson"


async def test_what_is_not_acknowledged_survives_a_restart(tmp_path: Path) -> None:
    reports = [report("a", ["ü", None]), failure("b"), report("c", "x\u2028\x85" * 10_000)]
    spool = opened(tmp_path)
    spool.add(reports)
    await spool.settle()

    again = opened(tmp_path)

    assert list(again.pending.values()) == reports
    assert msgspec.json.encode(again.pending["b"]) == msgspec.json.encode(reports[1])


async def test_what_is_acknowledged_at_once_is_never_written(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.add([report("a")])
    spool.acknowledge(["a"])
    await spool.settle()
    await asyncio.sleep(2 * GRACE_SECONDS)

    assert spool.pending == {} and not file(tmp_path).exists()


async def test_what_is_acknowledged_later_does_not_come_back(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.add([report("a"), report("b")])
    await spool.settle()
    spool.acknowledge(["b", "a", "unknown"])

    assert opened(tmp_path).pending == {} and file(tmp_path).stat().st_size == 0


async def test_what_others_are_acknowledged_beside_stays(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.add([report("a"), report("b")])
    await spool.settle()
    spool.acknowledge(["a"])

    # The acknowledged one may come back too: delivering it again is harmless.
    assert "b" in opened(tmp_path).pending


@pytest.mark.parametrize("cut", [1, 20, 60])
async def test_a_last_line_that_was_cut_off_costs_no_other(tmp_path: Path, cut: int) -> None:
    spool = opened(tmp_path)
    spool.add([report("a"), report("b")])
    await spool.settle()
    os.truncate(file(tmp_path), file(tmp_path).stat().st_size - cut)

    after_crash = opened(tmp_path)
    after_crash.add([report("c")])
    await after_crash.settle()

    assert list(after_crash.pending) == ["a", "c"]
    assert list(opened(tmp_path).pending) == ["a", "c"]


async def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.add([report("a"), report("b")])
    await spool.settle()
    content = file(tmp_path).read_bytes()
    file(tmp_path).write_bytes(b"\x00\xff\x00 what\n\n" + content)

    assert list(opened(tmp_path).pending) == ["a", "b"]


async def test_reports_of_one_moment_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    spool = opened(tmp_path)
    for number in range(1000):
        spool.add([report(str(number))])
    await spool.settle()

    assert len(synced) == 1
    assert len(opened(tmp_path).pending) == 1000


async def test_reports_that_come_while_it_writes_are_written_too(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(50):
        spool.add([report(str(number))])
        await asyncio.sleep(GRACE_SECONDS / 10)
    await spool.settle()

    assert len(opened(tmp_path).pending) == 50


async def test_a_full_disk_leaves_no_half_line_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    spool.add([report("a")])
    await spool.settle()
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(data)[:50])

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        spool.add([report("b")])
        await spool.settle()
    spool.add([report("c")])
    await spool.settle()

    assert list(spool.pending) == ["a", "b", "c"]
    assert list(opened(tmp_path).pending) == ["a", "c"]


async def test_the_file_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "REWRITE_BYTES", 10_000)
    spool = opened(tmp_path)
    spool.add([report("kept")])
    for number in range(50):
        spool.add([report(str(number), "x" * 1000)])
        await spool.settle()
        spool.acknowledge([str(number)])

    assert file(tmp_path).stat().st_size < 15_000
    assert "kept" in opened(tmp_path).pending


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    async def write() -> None:
        spool = opened(tmp_path / "spool")
        spool.add([report("a")])
        await spool.settle()

    asyncio.run(write())

    assert file(tmp_path / "spool").stat().st_mode & 0o077 == 0
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
