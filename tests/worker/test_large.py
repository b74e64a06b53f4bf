"""Large answers on the worker's disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from task_server.protocol.workers import Report
from task_server.worker import large
from task_server.worker.large import LargeAnswers

NAME = "sha256:" + 64 * "a"
REPORT = Report(lease="a.1.00", outcome="succeeded", encoding="json", blob=NAME)
UPLOADS = [(NAME, b"x" * 100_000)]


@pytest.fixture
def answers(tmp_path: Path) -> LargeAnswers:
    made = LargeAnswers(tmp_path / "large")
    assert made.open() == []
    return made


def found(tmp_path: Path) -> list[tuple[Report, large.Uploads]]:
    """What the next start finds."""
    return LargeAnswers(tmp_path / "large").open()


async def test_what_is_acknowledged_soon_is_never_written(
    answers: LargeAnswers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "GRACE_SECONDS", 0.02)
    keeping = asyncio.ensure_future(answers.keep(REPORT, UPLOADS))
    await asyncio.sleep(0)

    answers.forget([REPORT.lease])
    await keeping

    assert not answers.has(REPORT.lease)
    assert list((tmp_path / "large").iterdir()) == []


async def test_what_is_not_acknowledged_soon_is_there_for_the_next_start(
    answers: LargeAnswers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "GRACE_SECONDS", 0.02)

    await answers.keep(REPORT, UPLOADS)

    assert found(tmp_path) == [(REPORT, UPLOADS)]
    answers.forget([REPORT.lease])
    assert found(tmp_path) == []


async def test_a_worker_that_ends_writes_what_is_on_its_way(
    answers: LargeAnswers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "GRACE_SECONDS", 60.0)
    keeping = asyncio.ensure_future(answers.keep(REPORT, UPLOADS))
    await asyncio.sleep(0)
    keeping.cancel()

    await answers.settle()

    assert found(tmp_path) == [(REPORT, UPLOADS)]


async def test_what_is_acknowledged_while_it_is_written_is_removed(
    answers: LargeAnswers, tmp_path: Path
) -> None:
    keeping = asyncio.ensure_future(answers.keep(REPORT, UPLOADS))
    await asyncio.sleep(0)
    settling = asyncio.ensure_future(answers.settle())
    await asyncio.sleep(0)

    answers.forget([REPORT.lease])
    await settling
    await keeping

    assert list((tmp_path / "large").iterdir()) == []
