"""The estimator at work in a server: it learns from arguments, and the server does without it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from task_server.server.estimator import process
from task_server.server.estimator.messages import Save, Saved
from task_server.server.etas import BatchEtas
from task_server.server.upkeep import keep_model, learn, refine
from tests.server.asgi import App, application
from tests.server.working import Worker, joined

pytestmark = pytest.mark.timeout(90)


def task(size: int, **fields: Any) -> dict[str, Any]:
    """A call whose time grows with its argument."""
    return {"function": "math:factorial", "args": [size], **fields}


async def ran(app: App, worker: Worker, sizes: Iterable[int]) -> None:
    """Calls that took a millisecond for each of their argument."""
    for size in sizes:
        await app.ask("POST", "/v1/tasks", task(size))
        (taken,) = await worker.take(1)
        await worker.succeed(taken, seconds=size / 1000)


async def asked(app: App, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """The estimates of calls."""
    calls: list[dict[str, Any]] = (await app.ask("POST", "/v1/estimates", list(tasks))).json[
        "calls"
    ]
    return calls


async def learned(app: App, *, calls: int, of: dict[str, Any] | None = None) -> dict[str, Any]:
    """The first estimate that rests on so many calls that were learned from."""
    while True:
        (told,) = await asked(app, of or task(100))
        if told["basis"]["model"] == "arguments" and told["basis"]["calls"] >= calls:
            return told
        await asyncio.sleep(0.05)


async def by_table(app: App) -> dict[str, Any]:
    """The first estimate that the model has no part in."""
    while True:
        (told,) = await asked(app, task(100))
        if told["basis"]["model"] == "history":
            return told
        await asyncio.sleep(0.01)


async def until(app: App, seconds: float) -> Any:
    """What fits until so many seconds from now."""
    moment = datetime.fromtimestamp(app.state.clock() + seconds, UTC).isoformat()
    return (await app.ask("GET", f"/v1/capacity?finish_by={moment}")).json


async def ended(app: App) -> None:
    """Wait until the estimator does not run."""
    while True:
        if app.state.estimator.pid is None:
            return
        await asyncio.sleep(0.02)


def test_the_servers_process_never_imports_numpy() -> None:
    program = (
        "import sys, task_server.server.run, task_server.cli.application\n"
        "sys.exit('numpy' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_estimates_follow_the_arguments(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        await ran(app, worker, [10, 2000, 50, 400, 100, 1000, 20, 200] * 3)
        await learned(app, calls=24)

        small, large = await asked(app, task(10), task(2000))

    assert small["known"] and small["basis"]["error_factor"] > 1.0
    assert small["p50"] == pytest.approx(0.01, rel=0.5)
    assert large["p50"] == pytest.approx(2.0, rel=0.5)
    for told in (small, large):
        assert 0 < told["p10"] <= told["p50"] <= told["p90"] <= told["p99"]


async def test_a_total_of_many_calls_is_between_those_of_its_calls(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        await ran(app, worker, [100] * 20)
        await learned(app, calls=20)

        body = {"defaults": {"function": "math:factorial"}, "tasks": [{"args": [100]}] * 3000}
        told = (await app.ask("POST", "/v1/estimates", body)).json

    total = told["total"]["core_seconds"]
    assert "calls" not in told
    assert total["p10"] <= total["p50"] <= total["p90"]
    assert total["p50"] == pytest.approx(300.0, rel=0.5)


async def test_etas_are_simulated_on_the_fleet(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)  # two slots
        await ran(app, worker, [1000, 8000] * 15)
        await learned(app, calls=30)
        tasks = [task(1000)] * 4 + [task(8000)]

        told = (await app.ask("POST", "/v1/estimates", tasks)).json
        batch = (await app.ask("POST", "/v1/tasks", tasks)).json["batch"]
        at_first = (await app.ask("GET", f"/v1/batches/{batch}")).json

    # The long one alone takes as long: a total over two slots would say 6 s.
    asked = told["eta"]
    assert asked["p50"] == pytest.approx(8.0, rel=0.2)
    assert asked["p10"] <= asked["p50"] <= asked["p90"]
    # Nor do more slots make it end sooner, which a share of the work would say.
    assert [each["slots"] for each in told["eta_by_slots"]] == [2, 4, 8]
    assert told["eta_by_slots"][0]["eta"] == asked
    assert told["eta_by_slots"][2]["eta"]["p50"] == pytest.approx(8.0, rel=0.2)
    assert at_first["eta"]["p50"] == pytest.approx(8.0, rel=0.2)
    assert at_first["core_seconds"]["p50"] == pytest.approx(12.0, rel=0.2)


async def test_capacity_is_simulated_on_the_fleet(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)  # two slots
        await ran(app, worker, [1000, 8000] * 15)
        await learned(app, calls=30)
        await app.ask("POST", "/v1/tasks", [task(8000)] + [task(1000)] * 4)

        told = [(await until(app, seconds)) for seconds in (20.0, 5.0)]

    # A total of 12 s over two slots would say 6 s, and that a third is enough for 5 s.
    assert told[0]["eta"]["p50"] == pytest.approx(8.0, rel=0.2)
    assert told[0]["slots_needed"]["p50"] == 1
    assert told[1]["slots_needed"] == {"p50": None, "p90": None}
    assert told[0]["queued"]["p50"] == pytest.approx(12.0, rel=0.2)


async def test_a_batchs_eta_follows_what_runs(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        await ran(app, worker, [1000, 8000] * 15)
        await learned(app, calls=30)
        batch = (await app.ask("POST", "/v1/tasks", [task(8000)] * 2)).json["batch"]
        await worker.take(2)
        clock = app.state.clock
        app.state.clock = lambda: clock() + 60.0

        outlived = (await app.ask("GET", f"/v1/batches/{batch}")).json

    assert outlived["counts"]["running"] == 2
    assert outlived["eta"]["p50"] > 20.0


async def test_a_batchs_eta_follows_its_own_pace(tmp_path: Path) -> None:
    """Nothing is predicted of what lies between two calls; here that is as long as they are."""
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        await ran(app, worker, [1000] * 30)
        await learned(app, calls=30)
        batch = (await app.ask("POST", "/v1/tasks", [task(1000)] * 80)).json["batch"]
        clock, passed = app.state.clock, 0.0
        app.state.clock = lambda: clock() + passed
        app.state.etas = BatchEtas(app.state.clock)
        told = []
        for _ in range(20):
            told.append((await app.ask("GET", f"/v1/batches/{batch}")).json["eta"])
            await worker.succeed(*await worker.take(2), seconds=1.0)
            passed += 2.0

    assert told[0]["p50"] == pytest.approx(40.0, rel=0.2)
    truth = (80 - 2 * 19) / 2 * 2.0
    assert told[-1]["p10"] <= truth <= told[-1]["p90"]
    assert told[-1]["p50"] == pytest.approx(truth, rel=0.35)


async def order_of(app: App) -> list[int]:
    """The arguments of what waits, in the order in which it is to start."""
    ((kind, count),) = await app.state.store.queued(None)
    found = await app.state.store.waiting_in(kind.lane, (float("-inf"), 0.0, 0), count)
    return [json.loads(b"{" + (each.call.payload or b"") + b"}")["args"][0] for each in found]


async def ordered(app: App, wanted: list[int]) -> None:
    """Wait until what waits stands in this order."""
    while True:
        if await order_of(app) == wanted:
            return
        await asyncio.sleep(0.1)


async def test_what_waits_is_ordered_by_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refine, "LOOK_SECONDS", 0.05)
    async with application(tmp_path, model="on") as app:
        worker = await joined(app, slots=4)
        await ran(app, worker, [1000, 30_000] * 15)
        await learned(app, calls=30)

        for size in (30_000, 1000, 30_000, 1000):
            await app.ask("POST", "/v1/tasks", task(size))
        await ordered(app, [1000, 1000, 30_000, 30_000])

        (first, *_) = await worker.take(4)
        await app.ask("POST", "/v1/tasks", [task(1000), task(30_000), task(1000)])
        await ordered(app, [30_000, 1000, 1000])

        view = (await app.ask("GET", f"/v1/tasks/{first['id']}")).json
        assert view["estimate"]["p50"] == pytest.approx(1.0, rel=0.3)


async def test_what_came_unknown_is_priced_once_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refine, "LOOK_SECONDS", 0.05)
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        told = (await app.ask("POST", "/v1/tasks", [task(5000)] * 20)).json
        last = f"/v1/tasks/{told['ids'][-1]}"
        assert not (await app.ask("GET", last)).json["estimate"]["known"]

        for taken in await worker.take(2):
            await worker.succeed(taken, seconds=5.0)
        while True:
            told = (await app.ask("GET", last)).json["estimate"]
            if told["known"]:
                break
            await asyncio.sleep(0.1)

        assert told["p50"] == pytest.approx(5.0, rel=0.5)


async def test_what_the_client_says_of_a_pickle_is_learned_from(tmp_path: Path) -> None:
    def pickled(rows: float) -> dict[str, Any]:
        call = {"encoding": "pickle", "data": "gAQp"}
        return {"function": "math:exp", "call": call, "features": {"0 rows": rows, "0 type": "f"}}

    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        for rows in [10, 2000, 50, 400, 100, 1000, 20, 200] * 3:
            await app.ask("POST", "/v1/tasks", pickled(rows))
            (taken,) = await worker.take(1)
            assert "features" not in taken
            await worker.succeed({**taken, "args": [1]}, seconds=rows / 1000)
        await learned(app, calls=24, of=pickled(10))

        small, large = await asked(app, pickled(10), pickled(2000))

    assert small["p50"] == pytest.approx(0.01, rel=0.5)
    assert large["p50"] == pytest.approx(2.0, rel=0.5)


async def test_the_server_goes_on_by_the_table_while_the_estimator_is_away(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        await ran(app, worker, [100] * 10)
        await learned(app, calls=10)
        estimator = app.state.estimator
        assert estimator.pid is not None

        os.kill(estimator.pid, signal.SIGKILL)
        without = await by_table(app)
        again = await learned(app, calls=10)

    assert math.isclose(without["p50"], again["p50"], rel_tol=0.5)


async def test_an_estimator_that_nobody_uses_ends_and_comes_back_with_what_it_knew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(learn, "LOOK_SECONDS", 0.05)
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        await ran(app, worker, [10, 2000] * 10)
        await learned(app, calls=20)
        monkeypatch.setattr(learn, "IDLE_SECONDS", 0.0)
        await ended(app)
        monkeypatch.setattr(learn, "IDLE_SECONDS", 300.0)

        while_away = await by_table(app)
        again = await learned(app, calls=20)

    assert while_away["known"]
    assert again["basis"]["calls"] == 20 and app.state.estimator.starts == 2


async def test_keeping_what_was_learned_is_no_use_of_the_estimator(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        await ran(app, await joined(app), [100])
        await learned(app, calls=1)
        estimator = app.state.estimator
        used_at = estimator.used_at

        saved = await estimator.ask(Save(), seconds=10)

        assert isinstance(saved, Saved)
        assert estimator.used_at == used_at


def test_the_estimator_needs_no_event_loop() -> None:
    program = (
        "import sys, task_server.server.estimator.__main__; sys.exit('asyncio' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_the_estimator_ends_with_its_server(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        await ran(app, await joined(app), [100])
        await learned(app, calls=1)
        pid = app.state.estimator.pid

    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        await ran(app, await joined(app), [10, 2000, 50, 400, 100, 1000, 20, 200] * 3)
        before = await learned(app, calls=24)

    async with application(tmp_path, model="on") as app:
        await ran(app, await joined(app), [100])
        after = await learned(app, calls=before["basis"]["calls"] + 1)

    assert after["basis"]["calls"] == 25


async def test_every_call_is_learned_once_though_the_estimator_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep_model, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(keep_model, "SAVED_BYTES", 1e9)
    monkeypatch.setattr(process, "FIRST_WAIT_SECONDS", 0.1)
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        for round_ in range(1, 4):
            await ran(app, worker, [100] * 10)
            told = await learned(app, calls=10 * round_)
            assert told["basis"]["calls"] == 10 * round_
            assert app.state.estimator.pid is not None
            os.kill(app.state.estimator.pid, signal.SIGKILL)
            await by_table(app)


async def test_without_the_model_nothing_is_started(tmp_path: Path) -> None:
    async with application(tmp_path, model="off") as app:
        await ran(app, await joined(app), [100] * 3)

        (told,) = await asked(app, task(100))

        assert told["basis"]["model"] == "history"
        assert app.state.estimator.starts == 0


@pytest.mark.parametrize(
    "features",
    [
        {"": 1},
        {"a" * 101: 1},
        {"a": "x" * 201},
        {f"f{i}": i for i in range(49)},
        {"a": True},
        {"a": None},
        {"a": [1]},
        [1],
    ],
)
async def test_odd_features_are_refused(tmp_path: Path, features: object) -> None:
    async with application(tmp_path) as app:
        for body in (task(1, features=features), [task(1, features=features)]):
            reply = await app.refused(422, "POST", "/v1/tasks", body)
            assert "features" in reply.body.decode()


async def test_a_function_shows_what_its_time_depends_on(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        await ran(app, worker, [10, 2000, 50, 400, 100, 1000, 20, 200] * 3)
        await learned(app, calls=24)

        told = (await app.ask("GET", "/v1/functions/math:factorial")).json

    (scaling,) = told["scaling"]
    assert scaling["feature"] == "0" and scaling["exponent"] == pytest.approx(1.0, abs=0.15)
    assert scaling["factor"] == pytest.approx(200, rel=0.5)
    assert (scaling["least"], scaling["most"]) == pytest.approx((10, 2000), rel=0.05)


async def test_a_batch_that_ends_with_its_short_calls_is_no_drift(tmp_path: Path) -> None:
    async with application(tmp_path, model="on") as app:
        worker = await joined(app)
        await ran(app, worker, range(6400, 0, -100))  # long ones first, as a batch's go
        await learned(app, calls=64)

        told = (await app.ask("GET", "/v1/functions/math:factorial")).json

    (stay,) = told["environments"]
    assert (told["drift"], stay["drift"]) == (None, None)


async def test_without_the_model_larger_arguments_are_no_drift(tmp_path: Path) -> None:
    async with application(tmp_path, model="off") as app:
        worker = await joined(app)
        await ran(app, worker, range(100, 6500, 100))

        told = (await app.ask("GET", "/v1/functions/math:factorial")).json

    (stay,) = told["environments"]
    assert (told["drift"], stay["drift"]) == (None, None)


async def test_without_the_model_a_function_shows_the_rest(tmp_path: Path) -> None:
    async with application(tmp_path, model="off") as app:
        worker = await joined(app)
        await ran(app, worker, [10])

        told = (await app.ask("GET", "/v1/functions/math:factorial")).json

    assert told["scaling"] is None and told["drift"] is None
    (stay,) = told["environments"]
    assert stay["calls"] == 1 and stay["python"] == "3.11" and stay["changed"] == {}
