"""What was measured, as shown and as written to a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct
from rich.table import Table

Unit = Literal["tasks/s", "ms", "us"]
REFERENCES: dict[str, str] = {"tasks/s": "reference: submit all", "ms": "reference: one by one"}
"""Which figure of the reference a ratio is to, by unit."""


class Figure(Struct, frozen=True):
    """One figure of one round."""

    name: str
    value: float
    unit: Unit
    target: float | None = None
    """As a ratio to the reference, else in the unit itself."""
    is_ratio: bool = True
    """Whether the reference does the same, so that a ratio to it says something."""


class Result(Struct, frozen=True):
    """The best of all rounds."""

    name: str
    value: float
    unit: Unit
    ratio: float | None
    """To the reference of the same run; None where it does nothing like it."""
    target: float | None
    is_met: bool | None


def is_better(unit: Unit, value: float, than: float) -> bool:
    """Whether a value is at least as good as another."""
    return value >= than if unit == "tasks/s" else value <= than


def best_of(rounds: Iterable[Sequence[Figure]]) -> list[Result]:
    """The best value of each figure, in the order in which they first came."""
    best: dict[str, Figure] = {}
    for figures in rounds:
        for figure in figures:
            old = best.get(figure.name)
            if old is None or is_better(figure.unit, figure.value, old.value):
                best[figure.name] = figure
    return [_result(figure, best) for figure in best.values()]


def _result(figure: Figure, best: dict[str, Figure]) -> Result:
    ratio, compared = None, figure.value
    if figure.is_ratio:
        compared = ratio = figure.value / best[REFERENCES[figure.unit]].value
    is_met = None if figure.target is None else is_better(figure.unit, compared, figure.target)
    return Result(figure.name, figure.value, figure.unit, ratio, figure.target, is_met)


def table(results: Iterable[Result]) -> Table:
    """For people."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("scenario", no_wrap=True)
    for column in ("best", "", "x reference", "target", ""):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for result in results:
        shown.add_row(
            result.name,
            f"{result.value:,.0f}" if result.value >= 1000 else f"{result.value:.3g}",
            result.unit,
            "" if result.ratio is None else f"{result.ratio:.2f}",
            _target(result),
            {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[result.is_met],
        )
    return shown


def _target(result: Result) -> str:
    if result.target is None:
        return ""
    sign = ">=" if result.unit == "tasks/s" else "<="
    unit = "x" if result.ratio is not None else f" {result.unit}"
    return f"{sign} {result.target:g}{unit}"
