"""`task-server` with one fault: killed between a commit and its reply, or never syncing.

The first argument is the fault: `KIND:N` kills the process when the N-th outcome of that kind is on
disk and nobody has been told; `unsynced` has SQLite leave all syncing to the kernel.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

from task_server.cli import main
from task_server.store.attempts import Decided
from task_server.store.group_commit import Operation
from task_server.store.sessions import ExchangeResult
from task_server.store.submissions import Accepted

IS_OF_KIND: dict[str, Callable[[object], bool]] = {
    "submit": lambda result: isinstance(result, Accepted) and not result.duplicate,
    "lease": lambda result: isinstance(result, ExchangeResult) and bool(result.tasks),
    "answer": lambda result: isinstance(result, ExchangeResult) and bool(result.decisions),
    "plain_answer": lambda result: isinstance(result, Decided),
}


def kill_before_reply(kind: str, number: int) -> None:
    """End the process before the N-th outcome of that kind is told."""
    answer = Operation.answer
    seen = 0

    def tell(operation: Operation[Any]) -> None:
        nonlocal seen
        seen += operation.error is None and IS_OF_KIND[kind](operation.result)
        if seen >= number:
            os.kill(os.getpid(), signal.SIGKILL)
        answer(operation)

    Operation.answer = tell  # type: ignore[assignment,method-assign]  # the fault


def never_sync() -> None:
    """Have every connection leave syncing to the kernel, whatever it is told."""
    connect = sqlite3.connect

    class Careless(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            return super().execute(
                sql.replace("synchronous = FULL", "synchronous = OFF"), *arguments
            )

    def careless(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, **options, factory=Careless)

    sqlite3.connect = careless  # type: ignore[assignment]  # the fault


if __name__ == "__main__":
    fault, _, count = sys.argv.pop(1).partition(":")
    if fault == "unsynced":
        never_sync()
    else:
        kill_before_reply(fault, int(count))
    main()
