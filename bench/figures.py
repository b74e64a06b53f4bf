"""What was measured: one figure of one round, and the best of all rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from bench.processors import Shares
from bench.targets import Target

Unit = Literal["tasks/s", "ms", "MB", "% of a core", "x"]
Verdict = Literal["goal", "must", "missed"]


class Figure(Struct, frozen=True):
    """What a scenario measured once."""

    name: str
    value: float
    unit: Unit
    is_ratio: bool = True
    """Whether the reference does the same, so that a ratio to it says something."""
    is_best_high: bool | None = None
    """None: as the unit has it."""


class Measured(Struct, frozen=True):
    """A figure of one round with what was measured around it."""

    figure: Figure
    reference: float | None = None
    """What the reference reached just before, in the same unit."""
    shares: Shares | None = None
    """Processor time of one task, by process."""


class Result(Struct, frozen=True):
    """The best of all rounds."""

    name: str
    value: float
    unit: Unit
    reference: float | None
    """The best of the reference in the same rounds; None where it does nothing like it."""
    ratio: float | None
    must: float | None
    goal: float | None
    """Both as ratios where there is a ratio, else in the unit itself."""
    verdict: Verdict | None
    shares: Shares | None
    """Of the best round: microseconds of processor time a task."""
    rounds: list[float]
    """The values of all rounds, in order."""


def is_better(figure: Figure, value: float, than: float) -> bool:
    """Whether a value is at least as good as another."""
    is_best_high = figure.is_best_high
    if is_best_high is None:
        is_best_high = figure.unit in ("tasks/s", "x")
    return value >= than if is_best_high else value <= than


def best_of(
    rounds: Sequence[Sequence[Measured]], targets: dict[str, Target] | None = None
) -> list[Result]:
    """The best value of each figure, in the order in which they first came.

    A ratio is that of two bests: the figure's to the reference's beside it.
    """
    found: dict[str, list[Measured]] = {}
    for measured in rounds:
        for each in measured:
            found.setdefault(each.figure.name, []).append(each)
    return [_result(each, (targets or {}).get(name)) for name, each in found.items()]


def _result(measured: Sequence[Measured], target: Target | None) -> Result:
    best = measured[0]
    for each in measured[1:]:
        if is_better(each.figure, each.figure.value, best.figure.value):
            best = each
    figure = best.figure
    reference = _best_reference(figure, measured)
    ratio = figure.value / reference if reference else None
    compared = figure.value if ratio is None else ratio
    return Result(
        name=figure.name,
        value=figure.value,
        unit=figure.unit,
        reference=reference,
        ratio=ratio,
        must=target.must if target else None,
        goal=target.goal if target else None,
        verdict=None if target is None else _verdict(figure, compared, target),
        shares=best.shares,
        rounds=[each.figure.value for each in measured],
    )


def _best_reference(figure: Figure, measured: Sequence[Measured]) -> float | None:
    values = [each.reference for each in measured if each.reference is not None]
    if not values or not figure.is_ratio:
        return None
    return max(values) if is_better(figure, 2.0, 1.0) else min(values)


def _verdict(figure: Figure, compared: float, target: Target) -> Verdict:
    if is_better(figure, compared, target.goal):
        return "goal"
    return "must" if is_better(figure, compared, target.must) else "missed"
