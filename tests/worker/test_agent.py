from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from task_server.machine import available_cpus
from task_server.settings import WorkerSettings
from task_server.store.blobs import name_of
from task_server.worker import agent as agent_module
from task_server.worker import environments, holding, process_tree
from task_server.worker.agent import Agent
from task_server.worker.membership import Refused
from task_server.worker.sandbox.limits import share_of_memory
from tests.e2e.processes import clean_environ
from tests.worker.scripted_server import Response, ScriptedServer, problem, scripted_server

pytestmark = pytest.mark.timeout(60)

LONG = 30.0


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as server:
        yield server


class Worker:
    """An agent at work."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.work = asyncio.ensure_future(agent.run())

    async def runs(self, server: ScriptedServer, seconds: float, **fields: Any) -> str:
        """Deal a task that takes so long, and wait until it runs; gives its lease."""
        await server.reported(server.task("math:sqrt", 1))  # a runner is warm then
        lease = server.task("time:sleep", seconds, **fields)
        await server.until(lambda: not server.tasks)
        await asyncio.sleep(0.1)
        return lease

    async def ends(self) -> None:
        """Wait for its end. Raises Refused."""
        await asyncio.wait_for(asyncio.shield(self.work), 20)

    async def dies(self) -> None:
        """End it without a word to the server."""
        self.work.cancel()
        with contextlib.suppress(asyncio.CancelledError, Refused):
            await self.work


Start = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    monkeypatch.setattr(environments, "pythons", lambda: {"3.11": Path(sys.executable)})
    monkeypatch.setattr(agent_module, "LONGEST_PAUSE", 0.2)
    started: list[Worker] = []

    async def start(*, slots: int = 1, waits: bool = True) -> Worker:
        shared = tmp_path / "shared"
        shared.mkdir(exist_ok=True)
        shared.chmod(0o777)
        settings = WorkerSettings(
            server=server.url,
            token="tsw_x",
            slots=slots,
            data=tmp_path / "worker",
            name="w",
            writable=str(shared),
        )
        started.append(Worker(Agent(settings, version="1")))
        if waits:
            await server.joined(len(server.joins) + 1)
        return started[-1]

    yield start
    for worker in started:
        await worker.dies()
    assert list(process_tree.marked(str(tmp_path))) == []


def value(report: dict[str, Any]) -> Any:
    assert report["outcome"] == "succeeded", report
    return report["answer"]


# ---- work


async def test_it_says_what_tasks_may_have_there(
    server: ScriptedServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    await start()

    (joined,) = server.joins

    assert joined["cpu"] == available_cpus()
    assert joined["memory"] == share_of_memory(1)
    assert joined["gpu"] == 2


async def test_tasks_run_and_are_reported_once(server: ScriptedServer, start: Start) -> None:
    await start(slots=2)
    leases = [server.task("math:factorial", n) for n in range(30)]

    reports = await server.reported(*leases)

    assert [value(each) for each in reports][:6] == [1, 1, 2, 6, 24, 120]
    assert all(each["usage"]["run_seconds"] >= 0 for each in reports)
    assert len(server.reports) == 30


async def test_first_answers_are_reported_while_the_rest_finds_its_slots(
    server: ScriptedServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "AT_ONCE", 1)
    leases = [server.task("math:factorial", n % 10) for n in range(2000)]
    await start(slots=2)

    await server.reported(*leases)

    assert sorted(each["lease"] for each in server.reports) == sorted(leases)
    first = next(each for each in server.exchanges if each.get("reports"))
    assert len(first["reports"]) < 1000


@pytest.mark.parametrize("how", ["drain", "asked back"])
async def test_what_found_no_slot_yet_is_given_back_too(
    server: ScriptedServer, start: Start, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    worker = await start(slots=1)
    held = worker.agent._holding
    running = await worker.runs(server, 0.5)
    with monkeypatch.context() as patched:
        patched.setattr(held, "_place_in_turns", lambda: held._place(2))
        leases = [server.task("math:sqrt", n) for n in range(10)]
        await server.until(lambda: len(held.arrived) == 8)

    if how == "drain":
        worker.agent.drain()
        held._place_in_turns()
        await worker.ends()
    else:
        held.give_back(leases)

    ended, *given_back = await server.reported(running, *leases)
    assert ended["outcome"] == "succeeded"
    assert {each["outcome"] for each in given_back} == {"released"}
    told = [each["lease"] for each in server.reports]
    assert len(told) == len(set(told))


async def test_answers_of_short_calls_gather_while_more_are_to_come(
    server: ScriptedServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "GATHER_SECONDS", LONG)
    await start()
    leases = [server.task("math:factorial", n) for n in range(200)]

    await server.reported(*leases)

    first, *_ = [each["reports"] for each in server.exchanges if each.get("reports")]
    assert len(first) >= 99  # not before half of them are answered


async def test_a_report_goes_along_with_the_exchange_that_parks(
    server: ScriptedServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "FIRST_ANSWER_SECONDS", LONG)
    await start()

    await server.reported(server.task("math:sqrt", 4))

    (reporting,) = [each for each in server.exchanges if each.get("reports")]
    assert reporting["want"] and 0 < reporting["decisions_within"] < 0.1 < reporting["wait"]


async def test_exchanges_are_numbered_and_tell_what_was_seen(
    server: ScriptedServer, start: Start
) -> None:
    await start(slots=3)
    await server.reported(server.task("math:sqrt", 4))
    await server.reported(server.task("math:sqrt", 9))

    first, *later = server.exchanges

    assert first["session"] == "session 1" and first.get("held", []) == []
    asking = [each["number"] for each in server.exchanges if each.get("want")]
    assert asking == sorted(set(asking)) and asking[0] == 1
    assert later[-1]["seen"] >= 2 and first["want"] >= 3
    for before, each in zip(server.exchanges, later, strict=False):
        # What only reports must not end the one that is parked.
        is_answered = each["seen"] >= before["number"]
        assert each.get("want") or is_answered or each["number"] <= before["number"]
    assert all(each.get("wait", 0) <= server.lease_seconds / 3 for each in server.exchanges)


async def test_a_join_tells_what_this_worker_is(server: ScriptedServer, start: Start) -> None:
    worker = await start(slots=3)
    await worker.dies()
    await start(slots=3)

    first, second = server.joins

    assert first["protocol"] == [1, 1] and first["slots"] == 3 and first["name"] == "w"
    assert first["pythons"] == ["3.11"] and first.get("worker") is None
    assert second["worker"] == "worker 1"  # as the server named it


async def test_failures_are_reported_with_their_kind(server: ScriptedServer, start: Start) -> None:
    await start()
    leases = [
        server.task("operator:truediv", 1, 0),
        server.task("math:no_such"),
        server.task("time:sleep", LONG, timeout_seconds=0.2),
        server.task("os:_exit", 3),
        server.task("math:sqrt", 4),
    ]

    *failed, good = await server.reported(*leases)

    assert [each["outcome"] for each in failed] == ["failed", "failed", "failed", "crashed"]
    kinds = [each["error"]["kind"] for each in failed]
    assert kinds == ["exception", "not_found", "timeout", "lost"]
    assert failed[3]["error"]["exit"] == 3
    assert value(good) == 2.0


async def test_the_same_tasks_again_are_ignored(
    server: ScriptedServer, start: Start, tmp_path: Path
) -> None:
    await start(slots=3)
    made = tmp_path / "shared" / "made"
    command = f"mkdir {made} && sleep 0.5"  # fails when it runs twice
    lease = server.task("subprocess:check_call", command, kwargs={"shell": True})
    again = server.tasks[-1]
    await server.until(made.exists)

    server.tasks.append(again)
    other = server.task("math:sqrt", 4)
    await server.reported(lease, other)

    assert sorted(each["lease"] for each in server.reports) == [lease, other]
    assert {each["outcome"] for each in server.reports} == {"succeeded"}


async def test_a_function_by_value_and_arguments_in_blobs_are_fetched(
    server: ScriptedServer, start: Start
) -> None:
    await start()
    function = cloudpickle.dumps(lambda x: x * 2)
    arguments = json.dumps([[21], {}]).encode()
    for data in (function, arguments):
        server.blobs[name_of(data)] = data
    by_value = {"pickle": name_of(function), "name": "m:f"}
    call = {"encoding": "json", "blob": name_of(arguments)}

    first = server.task(by_value, 4)
    second = server.task(by_value, call=call, args=[], kwargs={})
    missing = server.task({"pickle": "sha256:" + "0" * 64, "name": "m:f"})
    good, blob, bad = await server.reported(first, second, missing)

    assert (value(good), value(blob)) == (8, 42)
    assert (bad["outcome"], bad["error"]["kind"]) == ("failed", "not_found")


async def test_a_large_answer_is_uploaded_first(server: ScriptedServer, start: Start) -> None:
    await start()
    server.blob_statuses = [503, 503]

    (report,) = await server.reported(server.task("operator:mul", "x", 100_000))

    assert report["outcome"] == "succeeded" and "answer" not in report
    assert server.blobs[report["blob"]] == b'"%s"' % (b"x" * 100_000)


async def test_an_answer_that_is_refused_is_too_big(server: ScriptedServer, start: Start) -> None:
    await start()
    server.blob_statuses = [413]

    (report,) = await server.reported(server.task("operator:mul", "x", 100_000))

    assert (report["outcome"], report["error"]["kind"]) == ("failed", "too_big")


# ---- short calls behind long ones


async def test_prefetched_calls_behind_a_long_one_move_to_a_free_slot(
    server: ScriptedServer, start: Start
) -> None:
    await start(slots=2)
    long = server.task("time:sleep", LONG)
    short = [server.task("math:sqrt", 4) for _ in range(10)]

    reports = await server.reported(*short)

    assert {each["outcome"] for each in reports} == {"succeeded"}
    assert long not in {each["lease"] for each in server.reports}


async def test_prefetched_calls_behind_long_ones_everywhere_are_given_back(
    server: ScriptedServer, start: Start
) -> None:
    await start(slots=1)
    long = server.task("time:sleep", LONG)
    short = [server.task("math:sqrt", 4) for _ in range(10)]

    reports = await server.reported(*short)

    assert {each["outcome"] for each in reports} == {"released"}
    assert not any(each.get("unfit") for each in reports)
    await server.until(lambda: server.exchanges[-1].get("want", 0) == 0)
    server.tell(stop=[{"lease": long, "why": "cancelled"}])
    assert value((await server.reported(server.task("math:sqrt", 9)))[0]) == 3.0
    assert long not in {each["lease"] for each in server.reports}


async def test_what_is_asked_back_is_given_back_unless_it_has_started(
    server: ScriptedServer, start: Start
) -> None:
    worker = await start()
    running = await worker.runs(server, 0.5)
    behind = server.task("math:sqrt", 4)
    await server.until(lambda: not server.tasks)

    server.tell(give_back=[behind, running, "unknown"])
    (given,) = await server.reported(behind)
    (ended,) = await server.reported(running)

    assert (given["outcome"], ended["outcome"]) == ("released", "succeeded")


async def test_what_is_asked_back_while_it_is_prepared_is_given_back(
    server: ScriptedServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start()
    for_good = asyncio.Event()
    monkeypatch.setattr(worker.agent._preparation, "prepare", lambda attempt: for_good.wait())
    asked, other = (server.task("math:sqrt", 4) for _ in range(2))
    await server.until(lambda: len(worker.agent._holding._preparing) == 2)

    server.tell(give_back=[asked])

    assert (await server.reported(asked))[0]["outcome"] == "released"
    assert set(worker.agent._holding._preparing) == {other}


async def test_what_is_stopped_ends_without_a_report(server: ScriptedServer, start: Start) -> None:
    await start()
    long = server.task("time:sleep", LONG)
    await server.until(lambda: not server.tasks)

    server.tell(stop=[{"lease": long, "why": "cancelled"}, {"lease": "unknown", "why": "gone"}])
    await server.reported(server.task("math:sqrt", 4))

    assert long not in {each["lease"] for each in server.reports}


# ---- lost and refused exchanges


async def test_a_report_is_repeated_until_it_is_decided(
    server: ScriptedServer, start: Start
) -> None:
    refused: list[list[str]] = []

    def fail(asked: dict[str, Any]) -> Response | None:
        if not asked.get("reports") or len(refused) == 3:
            return None
        refused.append([each["lease"] for each in asked["reports"]])
        return problem(503, "unavailable")

    server.decide = fail
    await start()
    lease = server.task("math:sqrt", 4)

    await server.reported(lease)

    assert refused == [[lease]] * 3 and len(server.reports) == 1


async def test_what_may_start_only_once_ends_when_its_lease_may_have_run_out(
    server: ScriptedServer, start: Start
) -> None:
    server.lease_seconds = 3.0
    worker = await start(slots=2)
    plain = await worker.runs(server, LONG)
    once = await worker.runs(server, LONG, at_most_once=True)
    offered: set[str] = set()

    def fail(asked: dict[str, Any]) -> Response:
        offered.update(each["lease"] for each in asked.get("reports", []))
        return problem(503, "unavailable")

    server.decide = fail
    await server.until(lambda: once in offered)
    server.decide = lambda asked: None

    (lost,) = await server.reported(once)
    await server.reported(server.task("math:sqrt", 4))  # its slot is free
    assert (lost["outcome"], lost["error"]["kind"]) == ("crashed", "lost")
    assert plain not in offered and plain not in {each["lease"] for each in server.reports}


async def test_after_a_failed_exchange_all_that_is_held_is_listed(
    server: ScriptedServer, start: Start
) -> None:
    await start()
    long = server.task("time:sleep", LONG)
    await server.until(lambda: not server.tasks)
    before = len(server.exchanges)
    server.decide = lambda asked: problem(503, "unavailable")
    await server.until(lambda: len(server.exchanges) > before + 1)
    server.decide = lambda asked: None
    after = len(server.exchanges)

    await server.until(lambda: len(server.exchanges) > after)

    assert server.held(server.exchanges[after]) == {long}
    assert server.exchanges[after]["held"][0]["phase"] in ("leased", "running")


async def test_what_is_being_reported_counts_as_held(server: ScriptedServer, start: Start) -> None:
    server.takes_reports.clear()
    await start()
    lease = server.task("math:sqrt", 4)
    await server.until(lambda: any(each.get("reports") for each in server.exchanges))
    refused: list[dict[str, Any]] = []

    def fail(asked: dict[str, Any]) -> Response | None:
        if asked.get("reports") or refused:
            return None
        refused.append(asked)
        return problem(503, "unavailable")

    server.decide = fail
    server.tell(stop=[])

    await server.until(lambda: refused and server.exchanges[-1] is not refused[0])

    after = server.exchanges[server.exchanges.index(refused[0]) + 1]
    assert server.held(after) == {lease}
    server.takes_reports.set()
    assert [each["outcome"] for each in await server.reported(lease)] == ["succeeded"]


async def test_a_session_that_is_over_is_followed_by_another(
    server: ScriptedServer, start: Start
) -> None:
    def over(asked: dict[str, Any]) -> Response | None:
        return problem(410, "session_over") if asked["session"] == "session 1" else None

    await start()
    lease = server.task("time:sleep", 0.2)
    await server.until(lambda: not server.tasks)
    server.decide = over

    (report,) = await server.reported(lease)

    assert report["outcome"] == "succeeded"
    assert len(server.joins) == 2 and server.joins[1]["worker"] == "worker 1"
    in_second = [each for each in server.exchanges if each["session"] == "session 2"]
    assert in_second[0]["number"] == 1 and "held" in in_second[0]


async def test_a_full_disk_costs_a_worker_that_joins_again_neither_its_life_nor_its_name(
    server: ScriptedServer, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        path.open("w").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    def over(asked: dict[str, Any]) -> Response | None:
        return problem(410, "session_over") if asked["session"] == "session 1" else None

    await start()
    lease = server.task("time:sleep", 0.2)
    await server.until(lambda: not server.tasks)
    monkeypatch.setattr(Path, "write_text", full)
    server.decide = over

    (report,) = await server.reported(lease)

    assert report["outcome"] == "succeeded"
    assert (tmp_path / "worker" / "identity").read_text() == "worker 1"


@pytest.mark.parametrize("status", [401, 403, 426])
async def test_a_refused_worker_ends(server: ScriptedServer, start: Start, status: int) -> None:
    server.join_status = status

    worker = await start(waits=False)

    with pytest.raises(Refused):
        await worker.ends()


async def test_a_token_that_is_revoked_ends_the_worker(
    server: ScriptedServer, start: Start
) -> None:
    worker = await start()
    server.task("time:sleep", LONG)
    await server.until(lambda: not server.tasks)

    server.decide = lambda asked: problem(401, "unauthorized")

    with pytest.raises(Refused):
        await worker.ends()


@pytest.mark.e2e
async def test_a_refused_worker_exits_with_4(server: ScriptedServer, tmp_path: Path) -> None:
    server.join_status = 401
    command = [sys.executable, "-m", "task_server.cli", "worker", "--server", server.url]

    done = await asyncio.to_thread(
        subprocess.run,
        [*command, "--data", str(tmp_path)],
        env={**clean_environ(), "TASK_SERVER_TOKEN": "tsw_wrong"},
        capture_output=True,
        timeout=30,
    )

    assert done.returncode == 4 and b"refuses" in done.stderr


async def test_a_server_that_fails_at_first_is_joined_later_and_its_refusals_are_told(
    server: ScriptedServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server.join_status = 503
    await start(waits=False)
    await server.until(lambda: len(server.joins) >= 3)
    assert "cannot join: " in caplog.text

    server.join_status = 200

    await server.reported(server.task("math:sqrt", 4))


# ---- draining


async def test_draining_ends_what_runs_and_gives_back_the_rest(
    server: ScriptedServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "task_server.worker.agent")
    worker = await start()
    running = await worker.runs(server, 0.5)
    behind = [server.task("math:sqrt", 4) for _ in range(5)]
    await server.until(lambda: not server.tasks)
    await asyncio.sleep(0.05)

    worker.agent.drain()
    await worker.ends()

    assert "draining: 1 tasks end first; a second signal" in caplog.text
    ended, *given_back = await server.reported(running, *behind)
    assert ended["outcome"] == "succeeded"
    assert {each["outcome"] for each in given_back} == {"released"}
    last = server.exchanges[-1]
    assert last["draining"] is True and last.get("want", 0) == 0


async def test_what_is_dealt_while_it_drains_is_given_back(
    server: ScriptedServer, start: Start
) -> None:
    worker = await start()
    running = await worker.runs(server, 0.5)

    worker.agent.drain()
    late = server.task("math:sqrt", 4)  # an exchange that wanted tasks is parked
    await worker.ends()

    ended, given_back = await server.reported(running, late)
    assert (ended["outcome"], given_back["outcome"]) == ("succeeded", "released")


async def test_the_server_can_drain_a_worker(server: ScriptedServer, start: Start) -> None:
    worker = await start()
    lease = await worker.runs(server, 0.3)

    server.tell(drain=True)

    await worker.ends()
    assert (await server.reported(lease))[0]["outcome"] == "succeeded"


async def test_draining_a_second_time_gives_back_what_runs(
    server: ScriptedServer, start: Start
) -> None:
    worker = await start(slots=2)
    plain = await worker.runs(server, LONG)
    once = await worker.runs(server, LONG, at_most_once=True)

    worker.agent.drain()
    worker.agent.drain()
    await worker.ends()

    given_back, lost = await server.reported(plain, once)
    assert (given_back["outcome"], lost["outcome"]) == ("released", "crashed")
    assert given_back["usage"] == {}, "it had started"


async def test_an_idle_worker_drains_at_once(server: ScriptedServer, start: Start) -> None:
    worker = await start()

    worker.agent.drain()

    await asyncio.wait_for(worker.ends(), 5)


async def test_a_worker_that_never_joined_can_be_stopped(
    server: ScriptedServer, start: Start
) -> None:
    server.join_status = 503
    worker = await start(waits=False)
    await server.until(lambda: server.joins)

    worker.agent.drain()

    await asyncio.wait_for(worker.ends(), 5)


async def test_a_draining_worker_joins_again_to_deliver(
    server: ScriptedServer, start: Start
) -> None:
    worker = await start()
    lease = await worker.runs(server, 0.4)
    server.decide = lambda asked: (
        problem(410, "session_over") if asked["session"] == "session 1" else None
    )

    worker.agent.drain()
    await worker.ends()

    assert (await server.reported(lease))[0]["outcome"] == "succeeded"
    assert len(server.joins) == 2 and len(server.exchanges) < 50


async def test_a_drained_worker_leaves_when_its_answers_cannot_be_delivered(
    server: ScriptedServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "LAST_TRY_SECONDS", 0.3)
    worker = await start()
    lease = server.task("math:sqrt", 4)
    server.decide = lambda asked: problem(503, "unavailable") if asked.get("reports") else None
    await server.until(lambda: any(each.get("reports") for each in server.exchanges))

    worker.agent.drain()
    await asyncio.wait_for(worker.ends(), 5)

    server.decide = lambda asked: None
    await start()
    (report,) = await server.reported(lease)
    assert value(report) == 2.0


async def test_a_second_drain_ends_without_a_server_too(
    server: ScriptedServer, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "LEAVE_SECONDS", 0.3)
    worker = await start(slots=2)
    done, large = server.task("math:sqrt", 4), server.task("operator:mul", "x", 100_000)
    server.blob_statuses = [503] * 100
    server.decide = lambda asked: problem(503, "unavailable") if asked.get("reports") else None
    await server.until(lambda: any(each.get("reports") for each in server.exchanges))
    await server.until(lambda: any(tmp_path.glob("worker/spool/large/*/report.json")))

    worker.agent.drain()
    await asyncio.sleep(0.3)
    assert not worker.work.done()
    worker.agent.drain()
    await asyncio.wait_for(worker.ends(), 5)

    server.decide = lambda asked: None
    server.blob_statuses = []
    await start()
    first, second = await server.reported(done, large)
    assert value(first) == 2.0 and second["outcome"] == "succeeded"
    assert server.blobs[second["blob"]] == b'"%s"' % (b"x" * 100_000)


# ---- restarts


async def test_a_large_answer_outlives_the_worker_that_was_uploading_it(
    server: ScriptedServer, start: Start, tmp_path: Path
) -> None:
    worker = await start()
    server.blob_statuses = [503] * 100
    lease = server.task("operator:mul", "x", 100_000)
    await server.until(lambda: any(tmp_path.glob("worker/spool/large/*/report.json")))
    await worker.dies()
    assert server.reports == []
    server.blob_statuses = []

    await start()
    (report,) = await server.reported(lease)

    assert report["outcome"] == "succeeded" and len(server.reports) == 1
    assert server.blobs[report["blob"]] == b'"%s"' % (b"x" * 100_000)
    await server.until(lambda: not any(tmp_path.glob("worker/spool/large/*")))


async def test_half_a_large_answer_is_forgotten(
    server: ScriptedServer, start: Start, tmp_path: Path
) -> None:
    half = tmp_path / "worker" / "spool" / "large" / "0abc.partial"
    half.mkdir(parents=True)
    (half / "f00d").write_bytes(b"x")

    await start()

    assert not half.exists()


async def test_answers_outlive_the_worker(server: ScriptedServer, start: Start) -> None:
    worker = await start()
    server.decide = lambda asked: problem(503, "unavailable") if asked.get("reports") else None
    leases = [server.task("math:sqrt", n * n) for n in range(5)]
    await server.until(lambda: any(len(e.get("reports", [])) == 5 for e in server.exchanges))
    await asyncio.sleep(0.1)
    await worker.dies()
    server.decide = lambda asked: None

    await start()

    assert [value(each) for each in await server.reported(*leases)] == [0, 1, 2, 3, 4]
    first = next(each for each in server.exchanges if each["session"] == "session 2")
    assert {each["lease"] for each in first["reports"]} == set(leases)
    assert len(server.reports) == 5


async def test_what_a_dead_worker_left_running_is_ended_by_the_next(
    server: ScriptedServer, start: Start, tmp_path: Path
) -> None:
    worker = await start()
    server.task("time:sleep", LONG)
    await server.until(lambda: not server.tasks)
    await asyncio.sleep(0.1)
    left = list(process_tree.marked(str(tmp_path)))
    await worker.dies()

    await start()

    await server.reported(server.task("math:sqrt", 4))
    assert left and not any(map(process_tree.is_alive, left))
