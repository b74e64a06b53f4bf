"""Whether what an environment holds can be imported: tried in a runner, as a task would do it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Final

from task_server.environments.uv_output import bounded
from task_server.worker.calls import Call, CallLimits, Outcome
from task_server.worker.environments import LOW_PRIORITY, BuildFailed, Environment
from task_server.worker.runners import Runner
from task_server.worker.slots import Slots

IMPORT_SECONDS: Final = 300.0
LOG_BYTES: Final = 2048
# Every module has it, it takes nothing and gives a number: calling it needs the import alone.
_HARMLESS: Final = "__sizeof__"


class Imports:
    """Tries imports, at low priority."""

    def __init__(self, slots: Slots, *, seconds: float = IMPORT_SECONDS) -> None:
        self._slots = slots
        self._seconds = seconds

    async def problem(
        self, environment: Environment, *, modules: Sequence[str], packages: Sequence[str]
    ) -> str:
        """Why something cannot be imported, with what was printed; empty when all can.

        Without `modules` it is the module of each package, as far as a package has just one.
        """
        calls = list(_calls(modules, packages, self._seconds))
        if not calls:
            return ""
        outcomes = await self._run(environment, calls)
        problems = [
            _problem(outcome)
            for outcome in outcomes
            if outcome.outcome != "succeeded" and not (_has_no_module(outcome) and not modules)
        ]
        return bounded("\n".join(problems))

    async def _run(self, environment: Environment, calls: Sequence[Call]) -> list[Outcome]:
        """What they come to, in any order; those behind one that kills its runner get another."""
        found: list[Outcome] = []
        while calls:
            outcomes = await self._run_some(environment, calls)
            found += (outcome for outcome in outcomes if outcome.outcome != "released")
            over = {outcome.lease for outcome in found}
            left = [call for call in calls if call.lease not in over]
            if len(left) == len(calls):
                raise BuildFailed("no runner starts here", is_retryable=True, is_unfit=True)
            calls = left
        return found

    async def _run_some(self, environment: Environment, calls: Sequence[Call]) -> list[Outcome]:
        found: list[Outcome] = []
        all_are_back = asyncio.Event()

        def note(_: Runner, outcomes: list[Outcome]) -> None:
            found.extend(outcomes)
            if len(found) >= len(calls):
                all_are_back.set()

        runner = self._slots.starter.start(environment, on_outcomes=note)
        try:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PGRP, runner.pid, LOW_PRIORITY)
            runner.send(calls)
            await all_are_back.wait()
        finally:
            await runner.close(grace_seconds=0.1)
        return found


def _calls(modules: Sequence[str], packages: Sequence[str], seconds: float) -> Iterator[Call]:
    limits = CallLimits(log_bytes=LOG_BYTES)
    for name in dict.fromkeys(modules or packages):
        yield Call(
            lease=name,
            function=_HARMLESS,
            module=name if modules else None,
            package=None if modules else name,
            timeout_seconds=seconds,
            limits=limits,
        )


def _is_over(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.outcome != "released"


def _has_no_module(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.kind == "not_found"


def _problem(outcome: Outcome) -> str:
    error, printed = outcome.error, outcome.log.decode(errors="replace").strip()
    lines = [f"{outcome.lease} cannot be imported"]
    if error is not None:
        lines[0] += f": {error.message}"
        lines.append((error.traceback or "").strip())
    return "\n".join(line for line in (*lines, printed) if line)
