"""Why a function takes as long as it does: its versions, its drift, its arguments."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import Struct

from task_server.environments.lock import parse_lock
from task_server.scheduling.pace import Stretch, change, drift_of, stretches
from task_server.scheduling.statistics import Statistics
from task_server.server.estimator.messages import Explain, Explained, Influence
from task_server.server.service import model
from task_server.server.state import State
from task_server.store.kinds import FunctionKey

ASK_SECONDS = 2.0


class Scaling(Struct):
    """How run time depends on one feature of the arguments."""

    feature: str
    factor: float
    """Between the calls of least and of most time that it makes among those seen."""
    exponent: float | None
    """Run time grows as (1 + number) to this power; null: a category, such as a text."""
    least: float | None
    most: float | None


class Arguments(Struct):
    """What the arguments of a function explain."""

    scaling: list[Scaling]
    """The strongest first."""
    drift: float | None
    """Times as long of late as before, with the same arguments; null: no change that is sure."""


class Stay(Struct):
    """A function's calls in one environment."""

    environment: str
    python: str | None
    calls: int
    typical_seconds: float
    """Geometric mean."""
    first_at: datetime
    last_at: datetime
    changed: dict[str, list[str | None]]
    """Package -> version in the environment used before, and in this one; null: not there."""
    slower: float | None
    """Times as long as in the environment used before; null: no change that is sure."""
    drift: float | None
    """Times as long of late as before, in this environment; null: no change that is sure."""


async def by_environment(
    state: State, known: Statistics, arguments: Arguments | None
) -> list[Stay]:
    """The function's environments, in the order in which they were first used.

    A batch ends with its short calls, and larger arguments take longer: that is no drift. So it is
    told of what `arguments` leave unexplained, and only while it is known whether they matter.
    """
    are_alike = arguments is not None and not arguments.scaling
    found: list[Stay] = []
    before: Stretch | None = None
    versions: dict[str, str] = {}
    for stretch in stretches(known.paces):
        python, own = await _versions(state, stretch.environment)
        found.append(
            Stay(
                environment=stretch.environment,
                python=python,
                calls=stretch.all.calls,
                typical_seconds=stretch.all.typical,
                first_at=datetime.fromtimestamp(stretch.first_at, UTC),
                last_at=datetime.fromtimestamp(stretch.last_at, UTC),
                changed={} if before is None else _changed(versions, own),
                slower=None if before is None else change(before.all, stretch.all),
                drift=stretch.drift() if are_alike else None,
            )
        )
        before, versions = stretch, own
    if found and arguments is not None and arguments.scaling:
        found[-1].drift = arguments.drift
    return found


async def explained(state: State, key: FunctionKey) -> Arguments | None:
    """What the model has seen its time depend on; None while the model is away or off."""
    if not state.estimator.is_on:
        return None
    told = await state.estimator.ask(Explain(model.name_of(key)), seconds=ASK_SECONDS)
    if not isinstance(told, Explained):
        return None
    return Arguments(list(map(_scaling, told.influences)), drift_of(told.unexplained))


def _scaling(told: Influence) -> Scaling:
    return Scaling(told.feature, told.factor, told.exponent, told.least, told.most)


async def _versions(state: State, environment: str) -> tuple[str | None, dict[str, str]]:
    found = await state.store.environment(environment)
    if found is None:
        return None, {}
    return found[0], {"python": found[0], **parse_lock(found[1], python=found[0]).versions()}


def _changed(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str | None]]:
    return {
        name: [before.get(name), after.get(name)]
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }
