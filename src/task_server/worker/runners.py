"""The agent's handle of one runner: calls go in, outcomes come back, and nothing is left behind.

Calls are sent ahead, so that the runner never waits. Each needs a permission of its own to start,
and the agent can take these back: so it knows at any moment, and without the runner's help, which
calls have started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import NamedTuple

from task_server.alarm import Alarm
from task_server.protocol.workers import Usage
from task_server.worker import process_tree
from task_server.worker.call_queue import CallQueue
from task_server.worker.calls import (
    ANSWER_BYTES,
    START_BITS,
    AnswerHeader,
    AnswerReader,
    Call,
    Malformed,
    Outcome,
    call_frame,
    control_frame,
    lost,
    out_of_memory,
    outcome_of,
    released,
    timed_out,
)
from task_server.worker.channel import Channel
from task_server.worker.exits import START_SECONDS, End, end_text, in_thread, watch
from task_server.worker.launch import Launched, RunnerSpec, launch
from task_server.worker.sandbox.confinement import Confinement

log = logging.getLogger(__name__)

FLOOD_CALLS = 32
FLOOD_SECONDS = 0.0005
PAUSE_SECONDS = 0.001
"""Answers that come faster than that, with so many calls still ahead, are read together later."""
OUT_BYTES = 1 << 20
TICK_SECONDS = 0.25
EXIT_SECONDS = 0.3
"""After the end of the connection, the time that the process has to end too."""
LOG_FILE_BYTES = 16 << 20
START_LOG_BYTES = 2000


class Started(NamedTuple):
    """The call that runs now."""

    lease: str
    since: float
    """On the clock of the event loop."""


class Runner:
    """One process that runs calls in order. Make it with `start`, in the loop's own thread.

    `on_outcomes(runner, outcomes)` gets each call once, in batches, except those taken back and
    the one that was running when it was cancelled or the runner killed. `on_exit(runner)` comes
    last, when the process and all it started are gone.
    """

    def __init__(
        self,
        launched: Launched,
        confinement: Confinement,
        on_outcomes: Callable[[Runner, list[Outcome]], None],
        on_exit: Callable[[Runner], None] | None,
    ) -> None:
        self.pid = launched.process.pid
        self.is_ready = False
        """Whether it ever came as far as taking calls."""
        self.ended_by = ""
        """Why it is gone, for people; empty while it lives."""
        self.calls_done = 0
        self.confinement = confinement
        self._process = launched.process
        self._log = launched.log
        self._mark = launched.mark
        self._hello = launched.nonce
        self._on_outcomes = on_outcomes
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._queue = CallQueue(launched.nonce)
        self._reader = AnswerReader()
        self._channel = Channel(
            launched.frames,
            launched.starts,
            launched.starts_of_child,
            on_data=self._on_data,
            on_room=self._feed,
        )
        self._answer_limit = ANSWER_BYTES
        self._started_at = self._read_at = self._loop.time()
        self._log_start = 0
        self._is_sweeping = False
        self._is_closing = False
        self._ending: End | None = None
        self._was_started = False
        self._dropped: str | None = None
        self._alarm = Alarm(self._loop, self._tick)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = self._loop.create_future()
        watch(self._process, self._on_process_end)

    @classmethod
    def start(
        cls,
        spec: RunnerSpec,
        *,
        on_outcomes: Callable[[Runner, list[Outcome]], None],
        on_exit: Callable[[Runner], None] | None = None,
        confinement: Confinement | None = None,
    ) -> Runner:
        """Start the process; calls may be sent at once. Raises OSError if it cannot be started."""
        confinement = confinement or Confinement()
        try:
            launched = launch(spec, confinement)
        except OSError:
            confinement.end()
            raise
        return cls(launched, confinement, on_outcomes, on_exit)

    # --- what the agent asks -------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it takes calls."""
        return self._ending is None and not self._is_closing

    @property
    def started(self) -> Started | None:
        """What runs now; None when idle. It costs a system call."""
        first = self._queue.first
        if first is None or self._ending or self._channel.is_allowed_still(first.nonce):
            return None
        return Started(first.call.lease, self._started_at)

    @property
    def pending(self) -> int:
        """Calls that it has and has not answered."""
        return len(self._queue)

    def send(self, calls: Sequence[Call]) -> None:
        """Run these after those it has. On a runner that is gone they come back as released."""
        if not self.is_open:
            self._deliver([released(call) for call in calls])
            return
        self._queue.add(calls)
        self._feed()

    def take_back(self, wanted: int | Collection[str]) -> list[str]:
        """Take away calls that have not started: the last n, or these leases. Gives their leases.

        What is not in the list has started, or is done. They get no outcome.
        """
        leases = self._queue.last(wanted) if isinstance(wanted, int) else wanted
        return [call.lease for call in self._take(leases)]

    def _take(self, leases: Collection[str]) -> list[Call]:
        if self._ending:  # what has not started is released soon
            return []
        taken = self._queue.take(leases, self._channel.take_starts)
        self._channel.allow(taken.starts)
        return taken.calls

    def cancel(self, lease: str) -> None:
        """End a call without an outcome: take it back, or end the runner if it has started."""
        if not self._take([lease]) and self._queue.has(lease):
            self._drop(lease)

    def kill(self) -> None:
        """End the runner and all below it. What has not started is released; what runs is gone."""
        first = self._queue.first
        self._drop(first.call.lease if first else None)

    def _drop(self, lease: str | None) -> None:
        if self._ending is None:
            self._dropped = lease
            self._end("killed")

    async def close(self, *, grace_seconds: float = 2.0) -> None:
        """Let it end after the call that it is in, if that takes no longer than `grace_seconds`."""
        if self.is_open:
            taken = self._take(self._queue.last(self.pending))
            self._is_closing = True
            self._deliver([released(call) for call in taken])
            self._channel.no_more()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._closed), grace_seconds)
            self.kill()
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the process and all it started are gone."""
        await asyncio.shield(self._closed)

    # --- to the runner and back ----------------------------------------------------------------

    def _feed(self) -> None:
        """Keep the runner a little ahead."""
        was_idle = self._queue.first is None
        frames: list[bytes] = []
        nonces: list[int] = []
        size = self._channel.unwritten_bytes
        while size < OUT_BYTES and self._may_print() and (sent := self._queue.give()):
            self._answer_limit = max(self._answer_limit, sent.call.limits.answer_bytes)
            frames.append(call_frame(sent.call, sent.nonce))
            nonces.append(sent.nonce)
            size += len(frames[-1])
        if frames:
            self._channel.write(b"".join(frames))
            self._channel.allow(nonces)
            if was_idle:
                self._start_clock()

    def _may_print(self) -> bool:
        """Whether the log has room for more; it is emptied while the runner has no call."""
        if self._log_start > LOG_FILE_BYTES and self._queue.first is None:
            self._log.restart()
            self._log_start = 0
        return self._log_start <= LOG_FILE_BYTES

    def _on_data(self, data: bytes) -> None:
        if not data:
            self._loop.call_later(EXIT_SECONDS, self._end, "broken")
            return
        self._take_answers(data)
        now = self._loop.time()
        if now - self._read_at < FLOOD_SECONDS and self._queue.given > FLOOD_CALLS:
            # Let short calls' answers gather: one by one they cost the agent three times as much.
            self._channel.pause(PAUSE_SECONDS)
        self._read_at = now

    def _take_answers(self, data: bytes) -> None:
        outcomes: list[Outcome] = []
        try:
            for header, payload in self._reader.feed(data, limit=self._answer_limit):
                self._take_answer(header, payload, outcomes)
        except Malformed as error:
            log.warning("runner %d: %s", self.pid, error)
            self._end("malformed")
        if outcomes:
            self.calls_done += len(outcomes)
            if self._ending is None:
                self._start_clock()
                self._feed()
            self._deliver(outcomes)

    def _take_answer(self, header: AnswerHeader, payload: bytes, outcomes: list[Outcome]) -> None:
        first = self._queue.first
        if first is None or header.nonce != first.nonce or not self.is_ready:
            self._take_other(header)
            return
        outcomes.append(outcome_of(first.call, header, payload, self._printed(first.call, header)))
        self._queue.done()
        self._log_start = header.log_end
        if header.has_children:
            self._is_sweeping = True
            self._spawn(self._sweep())

    def _take_other(self, header: AnswerHeader) -> None:
        if header.nonce == self._hello and not self.is_ready:
            self.is_ready = True
            self._start_clock()
        else:
            log.warning("runner %d: a frame that answers no call of it", self.pid)

    def _printed(self, call: Call, header: AnswerHeader) -> bytes:
        if header.log_start == header.log_end and not self._log.is_trimmed:
            return b""
        return self._log.take(header.log_start, header.log_end, call.limits.log_bytes)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        if outcomes:
            self._on_outcomes(self, outcomes)

    async def _sweep(self) -> None:
        """End what the last call left running, then let the next one start."""
        runner = self.confinement.runner(self.pid)
        are_gone = await in_thread(process_tree.end_descendants, runner)
        self._is_sweeping = False
        if not are_gone:
            self._end("killed")
        elif not self._ending:
            self._channel.write(control_frame({"go_on": True}))
            self._start_clock()

    # --- time ----------------------------------------------------------------------------------

    def _start_clock(self) -> None:
        """The next call starts about now."""
        self._started_at = self._loop.time()
        if first := self._queue.first:
            self._alarm.set(self._next_tick(first.call, self._started_at))

    def _next_tick(self, call: Call, now: float) -> float:
        at = now + TICK_SECONDS
        if not call.timeout_seconds or not self.is_ready or self._is_sweeping:
            return at
        return min(at, self._started_at + call.timeout_seconds)

    def _tick(self) -> None:
        """Look after the call that runs: its time, and how much it prints."""
        first = self._queue.first
        if first is None or self._ending:
            return
        now = self._loop.time()
        if not self.is_ready:
            self._end_if(now >= self._started_at + START_SECONDS, "no start")
        elif not self._is_sweeping:
            timeout = first.call.timeout_seconds
            self._end_if(bool(timeout) and now >= self._started_at + timeout, "timeout")
            self._end_if(self.confinement.is_over(self.pid), "memory")
            if self._log.trim(self._log_start, first.call.limits.log_bytes):
                self._log_start = 0
        if not self._ending:
            self._alarm.set(self._next_tick(first.call, now))

    # --- the end -------------------------------------------------------------------------------

    def _end_if(self, is_over: bool, why: End) -> None:
        if is_over:
            self._end(why)

    def _end(self, why: End) -> None:
        """End the process with all below it; `_finish` follows when it is gone."""
        if self._ending is None:
            self._settle(why)
            self._spawn(self._end_tree())

    def _on_process_end(self) -> None:
        if self._ending is None:
            for data in self._channel.read_rest():
                self._take_answers(data)
        if self._ending is None:
            is_clean = self._is_closing and self._process.returncode == 0
            self._settle("closed" if is_clean else "exited")
        self._spawn(self._finish())

    def _settle(self, why: End) -> None:
        """From here on nothing starts, and what has started is known."""
        self._ending = why
        starts = self._channel.take_starts()
        first = self._queue.first
        self._was_started = first is not None and first.nonce & START_BITS not in starts
        self._was_started &= self.is_ready
        self._channel.stop()
        self._alarm.stop()

    async def _end_tree(self) -> None:
        if self._process.returncode is None:
            await in_thread(process_tree.end_tree, self.pid)

    async def _finish(self) -> None:
        if self._ending != "closed":
            await in_thread(process_tree.end_marked, self._mark)
        self.ended_by = end_text(self._ending or "closed", self._process.returncode)
        if not self.is_ready and self._ending not in ("closed", "killed"):
            said = self._log.take(0, None, START_LOG_BYTES).decode(errors="replace").strip()
            self.ended_by += f" before it took calls; it wrote: {said}" if said else ""
            log.warning("%s", self.ended_by)
        outcomes = self._last_outcomes()
        await in_thread(self.confinement.end)
        self._channel.close()
        self._log.close()
        self._closed.set_result(None)
        self._deliver(outcomes)
        if self._on_exit is not None:
            self._on_exit(self)

    def _last_outcomes(self) -> list[Outcome]:
        calls = self._queue.drain()
        outcomes: list[Outcome] = []
        if self._was_started:
            first = calls.pop(0)
            if first.lease != self._dropped:
                outcomes.append(self._broken_off(first))
        return outcomes + [released(call) for call in calls]

    def _broken_off(self, call: Call) -> Outcome:
        usage = Usage(run_seconds=self._loop.time() - self._started_at)
        printed = self._log.take(self._log_start, None, call.limits.log_bytes)
        if self._ending == "timeout":
            return timed_out(call, usage=usage, log=printed)
        if self._ran_out_of_memory():
            usage.peak_bytes = self.confinement.peak_bytes()
            return out_of_memory(call, self.confinement.memory_bytes, usage=usage, log=printed)
        status = self._process.returncode if self._ending == "exited" else None
        return lost(call, self.ended_by, exit=status, usage=usage, log=printed)

    def _ran_out_of_memory(self) -> bool:
        if self._ending == "memory":
            return True
        was_killed = self._process.returncode == -signal.SIGKILL
        return (
            was_killed and self._ending in ("exited", "broken") and self.confinement.has_run_out()
        )

    def _spawn(self, work: Coroutine[object, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
