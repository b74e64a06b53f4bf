"""The server keeps to the executable model of delivery, over HTTP and across kills.

TASK_SERVER_MODEL_SECONDS sets how long runs are begun.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.e2e.http_delivery import HttpWorld
from tests.e2e.http_machine import HttpMachine
from tests.e2e.processes import figures
from tests.e2e.watched import DATABASES, database_for, watched_place

SECONDS = float(os.environ.get("TASK_SERVER_MODEL_SECONDS", "35"))
RUNS = 2
"""Begun at a time."""
STEPS = 100
PHASES = [Phase.generate, Phase.explain]
"""A failure is not made shorter: each of its tries would kill servers."""

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(SECONDS * 2 + 120)]


@pytest.fixture(params=DATABASES)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpWorld]:
    options = ("--lease-seconds", "100000", "--plain-lease-seconds", "100000")
    with watched_place(tmp_path_factory, *options, database=database_for(request)) as place:
        place.serve()
        world = HttpWorld(place)
        yield world
        world.close()


def test_the_server_does_what_the_model_does(world: HttpWorld) -> None:
    class Machine(HttpMachine):
        pass

    Machine.world = world
    end = time.monotonic() + SECONDS
    runs = 0
    while time.monotonic() < end:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=RUNS,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=PHASES,
                suppress_health_check=list(HealthCheck),
            ),
        )
        runs += RUNS
    figures("%d runs of up to %d steps", runs, STEPS)
