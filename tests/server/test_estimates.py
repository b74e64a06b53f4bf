"""Estimates from the table: what is known, what is not, what waits, what runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from task_server.store.sqlite.store import SqliteStore
from tests.server.asgi import App, application
from tests.server.working import joined

TASK = {"function": "math:sqrt", "args": [4]}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path) as running:
        yield running


async def ran(app: App, seconds: float, *, times: int = 1, function: str = "math:sqrt") -> None:
    worker = await joined(app)
    for _ in range(times):
        await app.ask("POST", "/v1/tasks", {"function": function, "args": [4]})
        await worker.succeed(*await worker.take(1), seconds=seconds)


async def test_an_unknown_function_is_said_to_be_unknown(app: App) -> None:
    told = (await app.ask("POST", "/v1/estimates", TASK)).json

    call = told["calls"][0]
    assert call["known"] is False and call["basis"]["calls"] == 0
    assert 0 < call["p10"] < call["p50"] < call["p90"] <= call["p99"]
    assert told["total"]["unknown_tasks"] == 1
    assert told["eta"] is None


async def test_an_unknown_function_costs_what_the_owners_first_calls_cost(app: App) -> None:
    await ran(app, 3.0, function="math:exp")

    told = (await app.ask("POST", "/v1/estimates", TASK)).json

    assert told["calls"][0]["p50"] == pytest.approx(3.0)
    assert told["calls"][0]["basis"]["model"] == "owner"


async def test_a_known_function_costs_what_it_did_cost(app: App) -> None:
    await ran(app, 0.5, times=20)

    told = (await app.ask("POST", "/v1/estimates", [TASK] * 10)).json

    call = told["calls"][0]
    assert call["known"] is True and call["basis"] == {
        "calls": 20,
        "model": "history",
        "error_factor": None,
    }
    assert call["p50"] == pytest.approx(0.5, rel=0.2)
    assert told["total"]["core_seconds"]["p50"] == pytest.approx(5.0, rel=0.01)
    assert told["eta"]["p50"] == pytest.approx(2.5, rel=0.1)  # two slots


async def test_every_submit_tells_its_estimate(app: App) -> None:
    await ran(app, 0.5)

    told = (await app.ask("POST", "/v1/tasks", TASK)).json

    assert told["estimate"]["total"]["core_seconds"]["p50"] == pytest.approx(0.5, rel=0.01)


async def test_the_time_left_is_zero_when_idle_and_counts_what_waits(app: App) -> None:
    idle = (await app.ask("GET", "/user/estimate_time_left")).json
    await ran(app, 2.0)
    await app.ask("POST", "/v1/tasks", [TASK] * 5)
    await app.ask("POST", "/v1/tasks", TASK, token="other")

    left = (await app.ask("GET", "/user/estimate_time_left")).json
    everybodys = (await app.ask("GET", "/user/estimate_time_left", token="admin")).json

    assert idle["time"] == 0.0 and idle["unknown_tasks"] == 0
    assert left["time"] == pytest.approx(10.0, rel=0.2)
    assert left["low"] <= left["time"] <= left["high"]
    assert everybodys["time"] == pytest.approx(12.0, rel=0.2)


async def test_a_prediction_that_was_outlived_is_corrected(app: App) -> None:
    await ran(app, 0.001, times=3)
    worker = await joined(app)
    await app.ask("POST", "/v1/tasks", TASK)
    await worker.take(1)
    clock = app.state.clock
    app.state.clock = lambda: clock() + 30.0

    left = (await app.ask("GET", "/user/estimate_time_left")).json

    assert left["time"] > 10.0


@pytest.mark.parametrize(("told", "seconds"), [({}, 30.0), ({"time": 2.0}, 2.0)])
async def test_a_plain_worker_that_tells_no_time_took_from_lease_to_answer(
    app: App, told: dict[str, float], seconds: float
) -> None:
    await app.ask("POST", "/v1/tasks", TASK)
    task = (await app.ask("GET", "/worker/request_task", token="worker")).json["id"]
    store = app.state.store
    assert isinstance(store, SqliteStore)
    clock = store._clock
    store._clock = lambda: clock() + 30.0

    await app.ask(
        "POST", "/worker/submit_answer", {"id": task, "answer": 2.0, **told}, token="worker"
    )

    (shown,) = (await app.ask("GET", "/v1/functions")).json["functions"]
    view = (await app.ask("GET", f"/v1/tasks/{task}")).json
    assert shown["run_seconds"]["mean"] == pytest.approx(seconds, rel=0.05)
    assert view["run_seconds"] == pytest.approx(seconds, rel=0.05)


async def test_functions_show_their_statistics(app: App) -> None:
    await ran(app, 0.25, times=3)

    (shown,) = (await app.ask("GET", "/v1/functions")).json["functions"]
    one = (await app.ask("GET", "/v1/functions/math:sqrt")).json

    assert shown.items() <= one.items()
    assert shown["function"] == "math:sqrt" and shown["calls"] == 3
    assert shown["run_seconds"]["mean"] == pytest.approx(0.25)


async def test_the_table_is_there_after_a_restart(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        await ran(app, 0.25, times=3)
        before = (await app.ask("POST", "/v1/estimates", TASK)).json["calls"]

    async with application(tmp_path) as app:
        after = (await app.ask("POST", "/v1/estimates", TASK)).json["calls"]

    assert after == before


async def test_estimates_are_judged_by_what_was_said_before_the_run(app: App) -> None:
    await ran(app, 1.0)  # the first was a guess
    await ran(app, 2.0, times=2)
    first = (await app.ask("GET", "/v1/functions/math:sqrt/accuracy")).json
    worker = await joined(app)
    said = (await app.ask("POST", "/v1/tasks", TASK)).json["estimate"]["total"]["core_seconds"]
    await worker.succeed(*await worker.take(1), seconds=1000.0)

    told = (await app.ask("GET", "/v1/functions/math:sqrt/accuracy")).json

    assert (first["judged"], first["guessed"]) == (2, 1)
    assert (told["judged"], told["guessed"]) == (3, 1)
    assert told["function"] == "math:sqrt" and told["recent"]["calls"] == 3
    assert told["all"]["error_factor"] > first["all"]["error_factor"] > 1.0
    assert said["p90"] < 1000.0 and told["all"]["at_most_p90"] == pytest.approx(2 / 3)


async def test_the_accuracy_is_there_after_a_restart(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        await ran(app, 0.25, times=3)
        before = (await app.ask("GET", "/v1/functions/math:sqrt/accuracy")).json

    async with application(tmp_path) as app:
        after = (await app.ask("GET", "/v1/functions/math:sqrt/accuracy")).json

    assert after == before and after["judged"] == 2


async def test_a_function_that_was_never_called_has_no_accuracy(app: App) -> None:
    await app.refused(404, "GET", "/v1/functions/math:sqrt/accuracy")


async def test_an_estimate_tells_what_more_slots_would_buy(app: App) -> None:
    await ran(app, 0.5, times=20)

    told = (await app.ask("POST", "/v1/estimates", [TASK] * 2000)).json

    slots = [each["slots"] for each in told["eta_by_slots"]]
    etas = [each["eta"]["p50"] for each in told["eta_by_slots"]]
    assert slots == [2, 4, 8]
    assert etas[0] == told["eta"]["p50"] == pytest.approx(500.0, rel=0.1)
    assert etas[1] == pytest.approx(etas[0] / 2) and etas[2] == pytest.approx(etas[0] / 4)


async def test_more_slots_do_not_shorten_a_single_call(app: App) -> None:
    await ran(app, 0.5, times=20)

    told = (await app.ask("POST", "/v1/estimates", TASK)).json

    assert len({each["eta"]["p50"] for each in told["eta_by_slots"]}) == 1


async def test_without_workers_an_estimate_tells_what_the_first_slots_would_do(app: App) -> None:
    told = (await app.ask("POST", "/v1/estimates", [TASK] * 100)).json

    assert told["eta"] is None
    assert [each["slots"] for each in told["eta_by_slots"]] == [1, 2, 4]
    p50s = [each["eta"]["p50"] for each in told["eta_by_slots"]]
    assert p50s == [100.0, 50.0, 25.0]


async def test_a_submit_does_not_tell_what_more_slots_would_buy(app: App) -> None:
    told = (await app.ask("POST", "/v1/tasks", [TASK] * 3)).json

    assert "eta_by_slots" not in told["estimate"]


async def test_the_time_left_lies_between_its_bounds_for_calls_that_vary_widely(app: App) -> None:
    for seconds in (0.001, 0.001, 0.001, 0.001, 0.001, 1000.0):
        await ran(app, seconds)
    await app.ask("POST", "/v1/tasks", [TASK] * 2000)

    left = (await app.ask("GET", "/user/estimate_time_left")).json

    assert left["low"] <= left["time"] <= left["high"]
    assert left["time"] == pytest.approx(2000 * 0.001, rel=0.3)


async def test_unknown_tasks_are_counted_while_they_wait_and_while_they_run(app: App) -> None:
    await app.ask("POST", "/v1/tasks", [TASK] * 3)
    worker = await joined(app)
    await worker.take(2)
    now = app.state.clock()
    app.state.clock = lambda: now + 0.9  # nearly what a guess takes

    left = (await app.ask("GET", "/user/estimate_time_left")).json

    assert left["unknown_tasks"] == 3
    assert left["eta_seconds"] == pytest.approx(left["time"] / 2)


async def test_without_workers_there_is_no_eta_of_what_is_left(app: App) -> None:
    await app.ask("POST", "/v1/tasks", TASK)

    left = (await app.ask("GET", "/user/estimate_time_left")).json

    assert left["eta_seconds"] is None and left["time"] == 1.0


async def test_a_version_that_made_it_slower_is_named(app: App) -> None:
    await ran(app, 1.0)
    store, now = app.state.store, app.state.clock()
    known = store.statistics((0, "", "math:sqrt"))
    assert known is not None
    for version, seconds, at in (("2.3", 1.0, now + 100), ("2.4", 2.3, now + 200)):
        lock = f"numpy=={version} --hash=sha256:{'a' * 64}\n"
        await store.refresh(
            version, environment=f"lock {version}", python="3.11", lock=lock, now=at
        )
        for number in range(20):
            spread = 1 + number / 1000
            run = (seconds * spread, 0.0, 0.0, 0.0, 0.0, 0, 1.0, 2.0)
            known.count_all([run], environment=f"lock {version}", at=at + number)

    told = (await app.ask("GET", "/v1/functions/math:sqrt")).json

    _, before, after = told["environments"]
    assert before["slower"] is None and before["calls"] == 20
    assert after["slower"] == pytest.approx(2.3, rel=0.01)
    assert after["changed"] == {"numpy": ["2.3", "2.4"]} and told["drift"] is None


async def test_the_totals_of_batches_are_judged_as_they_were_told(app: App) -> None:
    await ran(app, 1.0, times=5)
    worker = await joined(app)
    for count, seconds in ((2, 1.0), (2, 2.0)):
        await app.ask("POST", "/v1/tasks", [TASK] * count)
        await worker.succeed(*await worker.take(count), seconds=seconds)
    await app.ask("POST", "/v1/tasks", [TASK, {**TASK, "function": "math:exp"}])

    await app.state.totals.flush()
    await app.state.totals.judge()
    told = (await app.ask("GET", "/v1/functions/math:sqrt/accuracy")).json

    assert told["batches"]["batches"] == told["recent_batches"]["batches"] == 2
    assert told["batches"]["error_factor"] == pytest.approx(2**0.5, rel=0.2)
    assert told["batches"]["bias_factor"] > 1.0
    assert told["batches"]["within"] in (0.5, 1.0)


async def test_large_arguments_are_estimated_without_being_sent(app: App) -> None:
    await ran(app, 0.5)
    call = {"encoding": "pickle", "blob": f"sha256:{'a' * 64}"}
    task = {"function": "math:sqrt", "call": call}

    told = (await app.ask("POST", "/v1/estimates", task)).json

    assert told["calls"][0]["known"] and told["calls"][0]["p50"] == pytest.approx(0.5, rel=0.2)
    await app.refused(422, "POST", "/v1/tasks", task)
