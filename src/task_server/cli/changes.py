"""What made a function slower or faster, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

MANY = 3
"""More packages that changed at once are counted, not named."""


def changes(stays: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each environment that changed its time, and one for a drift in the last."""
    for stay in stays:
        if stay["slower"] is not None:
            yield f"{_times(stay['slower'])} since {_named(stay)}"
    if stays and stays[-1]["drift"] is not None:
        yield f"{_times(stays[-1]['drift'])} of late, in the same environment"


def dependences(scaling: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each feature that its time depends on."""
    for each in scaling:
        times = f"up to {each['factor']:.2g} times"
        if each["exponent"] is None:
            yield f"{times} by {_feature(each['feature'])}"
        else:
            seen = f"seen {each['least']:g} to {each['most']:g}"
            yield f"{times} by {_feature(each['feature'])}: power {each['exponent']:.2g} ({seen})"


def _times(factor: float) -> str:
    return f"{factor:.2g}x slower" if factor > 1 else f"{1 / factor:.2g}x faster"


def _named(stay: dict[str, Any]) -> str:
    changed = [
        f"{name} {versions[1] or 'went'}" for name, versions in sorted(stay["changed"].items())
    ]
    if not changed:
        return f"environment {stay['environment'][:12]}"
    more = f" and {len(changed) - MANY} more" if len(changed) > MANY else ""
    return ", ".join(changed[:MANY]) + more


def _feature(name: str) -> str:
    """`0 length` is of the first argument."""
    place, _, rest = name.partition(" ")
    if not place.isdigit():
        return name
    return f"argument {int(place) + 1}{f', its {rest}' if rest else ''}"
