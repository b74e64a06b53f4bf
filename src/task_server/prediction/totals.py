"""What many calls will take together: by simulation, never by adding quantiles.

Errors of one moment go together: a normal deviate for all calls of a draw, one for each function,
one for each call, mapped through each call's own error quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from task_server.prediction.history import Floats
from task_server.prediction.intervals import LEVELS
from task_server.prediction.predictor import Estimates

DRAWS = 300
TOGETHER = 0.25
"""Share of the variance that all calls of a draw have in common."""
OF_A_FUNCTION = 0.45
"""Share that calls of one function have in common beside that."""
WIDER = 1.05
"""Times the deviates: the quantiles of errors are of calls one ahead, a total's lie further off."""
SEED = 1
_ENDS = np.array([0.0, *LEVELS, 1.0])


def total_seconds(
    estimates: Estimates, functions: Sequence[str], levels: Sequence[float]
) -> Floats:
    """Quantiles of the sum of all calls, in core-seconds, one a level."""
    found: Floats = np.quantile(draw(estimates, functions).sum(axis=1), levels)
    return found


def draw(estimates: Estimates, functions: Sequence[str], draws: int = DRAWS) -> Floats:
    """Possible times of all calls: draws x calls, seconds."""
    random = np.random.default_rng(SEED)
    numbers: dict[str, int] = {}
    which = np.array([numbers.setdefault(each, len(numbers)) for each in functions], np.intp)
    alone = 1.0 - TOGETHER - OF_A_FUNCTION
    deviates = (
        random.standard_normal((draws, 1)) * TOGETHER**0.5
        + random.standard_normal((draws, len(numbers)))[:, which] * OF_A_FUNCTION**0.5
        + random.standard_normal((draws, len(which))) * alone**0.5
    )
    levels = _normal(deviates * WIDER)
    around = estimates.around
    least = 2 * around[:, :1] - around[:, 1:2]
    most = around[:, -1:] + 0.5 * (around[:, -1:] - around[:, -2:-1])
    ends = np.concatenate([least, around, most], axis=1)
    errors = np.empty_like(levels)
    for call in range(len(which)):
        errors[:, call] = np.interp(levels[:, call], _ENDS, ends[call])
    found: Floats = np.exp(np.clip(estimates.medians + errors, -25.0, 25.0))
    return found


def _normal(deviates: Floats) -> Floats:
    """The normal distribution's share below each deviate, by a logistic curve: within 0.0002.

    The approximation of Bowling and others, Journal of Industrial Engineering and Management 2009.
    """
    found: Floats = 1.0 / (1.0 + np.exp(-0.07056 * deviates**3 - 1.5976 * deviates))
    return found
