"""DELIVERY's table as pure functions: what a report, a lost lease or a cancel does to a task.

Each function takes what the store knows and answers with a `Verdict`: the status to tell, and the
`Change` to write. It reads no clock and draws no random number; the caller passes both in. The
store writes a change only if the row is still as it was read (compare and set).
"""

from __future__ import annotations

from msgspec import Struct

from task_server.store.states import State


class Policy(Struct, frozen=True):
    """The limits of DELIVERY, section 2, and how tasks are put in order."""

    max_crashes: int = 3
    max_undelivered: int = 20
    max_releases: int = 5
    late_success: bool = True
    exclusion_seconds: float = 600.0
    by_prediction: bool = True
    """Short work first, with ageing (scheduling/order.py); else as it became ready."""
    by_placement: bool = True
    """Fast workers and warm environments first (scheduling/placement.py)."""
    reserves_memory: bool = True
    """Keep free what calls took before, and more for one that ran out (scheduling/memory.py)."""
    deals_ahead: bool = True
    """Several short tasks to a slot (scheduling/deal.py); else one."""
    shares_fairly: bool = True
    """Who was charged the least is next (scheduling/shares.py); else all are one owner."""
    share_weights: tuple[tuple[str, float], ...] = ()
    """Owners by name who get other than one share."""
    limits_by_prediction: bool = True
    """`timeout: "auto"` by what calls took (scheduling/timeouts.py); else the default."""


class Row(Struct):
    """A task as far as its next state depends on it."""

    number: int
    state: State
    generation: int
    attempt: int
    errors: int
    crashes: int
    undelivered: int
    releases: int
    unstarted: int
    max_attempts: int
    at_most_once: bool
    retry_on: frozenset[str]
    backoff: float


class Issued(Struct, frozen=True):
    """An attempt that was given to a worker in the task's present generation."""

    holds: bool
    """It is the one that runs now."""
    told: tuple[bool, bytes] | None
    """The outcome told for it: success or not, and its digest."""


class Change(Struct):
    """What to write; counters are the new values."""

    state: State
    kind: str = ""
    """Why it failed, for `failed`."""
    wait_seconds: float = 0.0
    """For `delayed`: from now."""
    errors: int = 0
    crashes: int = 0
    undelivered: int = 0
    releases: int = 0
    unstarted: int = 0


class Verdict(Struct):
    """The status of DELIVERY's A-rules, and what changes; `change` None: nothing."""

    status: int
    duplicate: bool = False
    change: Change | None = None


def _keep(row: Row, state: State, *, kind: str = "") -> Change:
    return Change(
        state=state,
        kind=kind,
        errors=row.errors,
        crashes=row.crashes,
        undelivered=row.undelivered,
        releases=row.releases,
        unstarted=row.unstarted,
    )


def retry_wait(row: Row, jitter: float) -> float:
    """T7: seconds until the next attempt; `jitter` in [0, 1) spreads it over the whole range."""
    return min(max(1.0, jitter * row.backoff * 2.0 ** min(row.errors, 32)), 3600.0)


def crash_wait(crashes: int, jitter: float) -> float:
    """T9: seconds until the next attempt."""
    return min(2.0 ** min(crashes, 6), 60.0) * (0.5 + 0.5 * jitter)


def answer(
    row: Row | None,
    issued: Issued | None,
    *,
    any_issued: bool,
    is_success: bool,
    digest: bytes,
    kind: str,
    policy: Policy,
    jitter: float,
) -> Verdict:
    """A1 to A9: a success or a failure reported for an attempt.

    `issued` is the reported attempt, None when this worker was not given it in this generation;
    `any_issued` says whether this worker was given any attempt of it.
    """
    if row is None or not any_issued:
        return Verdict(404)
    if issued is not None and issued.told == (is_success, digest):
        return Verdict(200, duplicate=True)
    if row.state.is_terminal:
        return Verdict(410 if row.state in (State.CANCELLED, State.EXPIRED) else 409)
    if issued is None:
        return Verdict(409)
    if not issued.holds and not (is_success and policy.late_success):
        return Verdict(409)
    if is_success:
        return Verdict(200, change=_keep(row, State.SUCCEEDED))
    return Verdict(200, change=_failed(row, kind, jitter))


def _failed(row: Row, kind: str, jitter: float) -> Change:
    """T7 or T8."""
    may_retry = kind in row.retry_on and row.errors + 1 < row.max_attempts
    change = _keep(
        row, State.DELAYED if may_retry else State.FAILED, kind="" if may_retry else kind
    )
    change.errors += 1
    change.wait_seconds = retry_wait(row, jitter) if may_retry else 0.0
    return change


def crash(row: Row, *, was_delivered: bool, policy: Policy, jitter: float) -> Change:
    """T9: the attempt died without an answer.

    `was_delivered`: the worker is known to have had it, so its death may be the task's fault.
    """
    change = _keep(row, State.DELAYED)
    if row.at_most_once:
        return _keep(row, State.FAILED, kind="lost")
    if was_delivered:
        change.crashes += 1
    else:
        change.undelivered += 1
    if change.crashes >= policy.max_crashes or change.undelivered >= policy.max_undelivered:
        change.state, change.kind = State.FAILED, "lost"
    else:
        change.wait_seconds = crash_wait(change.crashes, jitter)
    return change


def release(row: Row, *, unfit: bool, is_withdrawn: bool, policy: Policy) -> Change:
    """T10: given back unstarted at no cost, or because the worker is unfit for it.

    `is_withdrawn`: it was to be cancelled unless this attempt starts.
    """
    change = _keep(row, State.CANCELLED if is_withdrawn else State.QUEUED)
    if not unfit:
        change.unstarted += 1
        return change
    change.releases += 1
    if change.releases >= policy.max_releases and not is_withdrawn:
        change.state, change.kind = State.FAILED, "environment"
    return change


def exclusion_seconds(*, unfit: bool, pause_seconds: float, policy: Policy) -> float:
    """T10: for how long the worker is given nothing of that environment; 0: it may be at once."""
    longest = policy.exclusion_seconds
    return longest if unfit else min(max(pause_seconds, 0.0), longest)


def cancel(state: State) -> Verdict:
    """T11."""
    if not state.is_terminal:
        return Verdict(200, change=Change(State.CANCELLED))
    return Verdict(200) if state is State.CANCELLED else Verdict(409)


def retry(state: State) -> Verdict:
    """T13: a new generation with all counters at 0."""
    if state not in (State.FAILED, State.CANCELLED, State.EXPIRED):
        return Verdict(409)
    return Verdict(200, change=Change(State.QUEUED))
