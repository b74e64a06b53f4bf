"""A server without file descriptors to spare."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path

import pytest

from task_server.server.descriptors import Descriptors
from tests.server.asgi import application

NO_TASK = "01a20baa-7ad8-7000-a2dd-3d6eaf4b0fb9"
NONE_LEFT = OSError(errno.EMFILE, "Too many open files")


def test_it_is_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    descriptors = Descriptors(lambda: now)

    for _ in range(1000):
        assert descriptors.lack(NONE_LEFT)
    assert len(caplog.records) == 1
    now += 1.0
    descriptors.lack(NONE_LEFT)

    assert len(caplog.records) == 2
    assert all(each.exc_info is None for each in caplog.records)


def test_other_errors_are_none_of_its_business(caplog: pytest.LogCaptureFixture) -> None:
    descriptors = Descriptors()

    assert not descriptors.lack(OSError(errno.ENOENT, "No such file"))
    assert not descriptors.lack(ValueError("24"))
    assert not caplog.records


async def test_a_loop_that_cannot_accept_says_so_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(Descriptors().on_loop_error)

    for _ in range(100):
        loop.call_exception_handler({"message": "socket.accept() failed", "exception": NONE_LEFT})
    loop.call_exception_handler({"message": "something else"})

    told = [each.getMessage() for each in caplog.records]
    assert len(told) == 2 and "no file descriptors are left" in told[0]
    assert "something else" in told[1]


async def test_a_request_without_descriptors_is_told_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def task(*_: object) -> None:
        raise NONE_LEFT

    async with application(tmp_path) as app:
        monkeypatch.setattr(app.state.store, "task", task)
        caplog.set_level(logging.WARNING)

        for _ in range(3):
            reply = await app.full(f"/v1/tasks/{NO_TASK}", b"", method="GET")
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")

    assert not [each for each in caplog.records if each.exc_info]
    assert 1 <= len(caplog.records) <= 2
