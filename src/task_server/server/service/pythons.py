"""Whether any worker has the Python that somebody asks for."""

from __future__ import annotations

from task_server.errors import Invalid
from task_server.server.state import State

FRESH_SECONDS = 10.0
"""How long it is believed that a worker with that Python is there: submits do not ask each time."""
UNKNOWN_SECONDS = 1.0
"""The same without any worker: one of any Python may come."""


async def check_python_is_somewhere(
    state: State, python: str, *, by_value: bool = False, is_plain: bool = False
) -> None:
    """Raise Invalid, with the ways out, if there are workers and none has that Python.

    `is_plain`: a worker on the plain API may run it, of which nobody knows what it has.
    """
    now = state.clock()
    if state.pythons.get(python, 0.0) > now:
        return
    sessions = await state.store.sessions()
    live = [session for session in sessions if not session.facts.is_plain]
    if is_plain and len(live) < len(sessions):
        return
    if live and not any(python in session.facts.pythons for session in live):
        offered = sorted({each for session in live for each in session.facts.pythons}, key=_number)
        raise _nowhere(python, ", ".join(offered) or "none", by_value=by_value)
    state.pythons[python] = now + (FRESH_SECONDS if live else UNKNOWN_SECONDS)


def _number(python: str) -> tuple[int, ...]:
    return tuple(int(part) for part in python.split(".") if part.isdecimal())


def _nowhere(python: str, offered: str, *, by_value: bool) -> Invalid:
    if by_value:
        return Invalid(
            f"the function was pickled by Python {python}, and no worker has that"
            f" (they have {offered}); call it from one of those versions, or put it"
            " into a package and name it there",
            field="function",
        )
    return Invalid(
        f"no worker has Python {python} (they have {offered}); ask for one of those, install it on"
        " a worker and start that again, or start a worker with --python-downloads on",
        field="python",
    )
