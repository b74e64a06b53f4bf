"""`worker`: run an agent until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from importlib.metadata import version

from task_server.errors import TaskServerError
from task_server.process import log_to_stderr, loop_factory, settle_heap
from task_server.settings import WorkerSettings
from task_server.worker import process_tree
from task_server.worker.agent import Agent
from task_server.worker.alone import FolderInUse, hold
from task_server.worker.membership import Refused
from task_server.worker.sandbox.choice import SandboxTooWeak
from task_server.worker.sandbox.hiding import hide_memory

log = logging.getLogger(__name__)

IN_USE = 1
"""Exit status when another worker has the data folder."""
REFUSED = 4
"""Exit status when the server does not want this worker."""
TOO_WEAK = 5
"""Exit status when functions cannot be kept in their place as firmly as asked for."""


def run(settings: WorkerSettings) -> int:
    """Run a worker; gives its exit status."""
    log_to_stderr()
    hide_memory()
    os.umask(0o022)  # what runners share is read by other users
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_run(settings))
    except Refused as error:
        log.error("%s", error)
        return REFUSED
    except FolderInUse as error:
        log.error("%s", error)
        return IN_USE
    except SandboxTooWeak as error:
        log.error("%s", error)
        return TOO_WEAK
    except (OSError, TaskServerError) as error:
        log.error("cannot work: %s", error)
        return 1
    return 0


async def _run(settings: WorkerSettings) -> None:
    data = settings.data.expanduser().absolute()
    with hold(data):
        process_tree.end_marked(f"{data / 'runners'}/")
        agent = Agent(settings, version=version("task-server"))
        settle_heap()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.drain)
        with contextlib.suppress(asyncio.CancelledError):
            await agent.run()
