"""Hearing of the end of a process, and saying how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Literal, TypeVar

START_SECONDS = 60.0
"""How long a runner may take until it takes calls."""

End = Literal["exited", "closed", "killed", "timeout", "memory", "broken", "malformed", "no start"]
"""What ended a runner."""

T = TypeVar("T")


def watch(process: subprocess.Popen[bytes], on_exit: Callable[[], None]) -> None:
    """Call back in the loop once the process has ended; it is not a zombie by then."""
    loop = asyncio.get_running_loop()
    if not hasattr(os, "pidfd_open"):
        threading.Thread(target=_wait, args=(process, loop, on_exit), daemon=True).start()
        return
    number = os.pidfd_open(process.pid)

    def on_readable() -> None:
        if process.poll() is None:
            return
        loop.remove_reader(number)
        os.close(number)
        on_exit()

    loop.add_reader(number, on_readable)


def _wait(
    process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop, on_exit: Callable[[], None]
) -> None:
    process.wait()
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(on_exit)


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Run in a thread of its own: those of the loop's pool may all be busy for minutes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        result = function(*args)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=run, daemon=True).start()
    return await done


def end_text(end: End, status: int | None) -> str:
    """Why a runner is gone, for people; `status` is that of its process."""
    if end == "exited":
        return f"the runner {_exit_text(status or 0)}"
    return {
        "closed": "the runner was closed",
        "killed": "the runner was ended by the worker",
        "timeout": "the runner was ended because a call ran for too long",
        "memory": "the runner was ended because it took too much memory",
        "broken": "the runner closed its connection",
        "malformed": "the runner sent what is no answer",
        "no start": f"the runner did not start within {START_SECONDS:g} s",
    }[end]


def _exit_text(status: int) -> str:
    """How a process ended, for people."""
    if status == 0:
        return "exited with status 0 without an answer"
    if status > 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-status} ({name})"
