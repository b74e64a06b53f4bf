"""`timeout: "auto"`: how long a run may take, by how long others of its function took."""

from __future__ import annotations

from msgspec import Struct

from task_server.scheduling.statistics import Statistics

TIMES = 3.0
"""How many times its p99 a run may take; of recorded calls, 1 to 3 of 1,000 took longer."""
FLOOR_SECONDS = 60.0
"""The least limit: what is short by nature may wait for a slow disk or a busy machine."""
DEFAULT_SECONDS = 3600.0
"""The limit of a run where none is stated, or too few calls have been measured."""
CALLS = 10
"""So many calls are needed to speak of a p99."""


class RunLimit(Struct, frozen=True):
    """How long one attempt may run, as fixed when it was leased."""

    seconds: float
    why: str


def auto_limit(
    statistics: Statistics, *, predicted_high: float, failures: int, is_on: bool = True
) -> RunLimit:
    """The limit of an attempt that is leased now, after so many failed ones.

    `predicted_high`: p90 of this very call, which may be longer than any that was measured.
    """
    if not is_on:
        return RunLimit(DEFAULT_SECONDS, "the default, as --auto-timeout is default")
    calls = statistics.calls
    if calls < CALLS:
        why = f"the default, as only {calls} calls of the function have been measured"
        return RunLimit(DEFAULT_SECONDS, why)
    p99 = statistics.price().p99
    why = f"{TIMES:g} times the {p99:.3g} s that 99 of 100 calls take at most ({calls} measured)"
    if predicted_high > p99:
        why = (
            f"{TIMES:g} times the {predicted_high:.3g} s that this call was predicted to take (p90)"
        )
    if failures:
        why += f", doubled for each failed attempt ({failures})"
    seconds = TIMES * max(p99, predicted_high) * 2.0 ** min(failures, 10)
    if seconds < FLOOR_SECONDS:
        return RunLimit(FLOOR_SECONDS, f"the least there is; {why} would be less")
    return RunLimit(min(seconds, 1e9), why)
