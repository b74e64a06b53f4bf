"""The states of a task as the tables hold them, and their names outside."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """Where a task is in its life; docs/explanation/delivery.md, section 2."""

    QUEUED = 0
    DELAYED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    EXPIRED = 6

    @property
    def word(self) -> str:
        """The name outside."""
        return _STATE_WORDS[self]

    @property
    def is_terminal(self) -> bool:
        """True once nothing but a manual retry or the end of retention changes it."""
        return self >= State.SUCCEEDED


_STATE_WORDS = tuple(state.name.lower() for state in State)

BY_WORD = {state.word: state for state in State}
TERMINAL = tuple(state for state in State if state.is_terminal)
OPEN = tuple(state for state in State if not state.is_terminal)


class Encoding(IntEnum):
    """How an outcome is held: bytes in place, or the digest of a blob."""

    JSON = 0
    PICKLE = 1
    JSON_BLOB = 2
    PICKLE_BLOB = 3
    ERROR = 4
    PURGED = 5
    """Arguments and outcome are no longer kept; the row holds the id's place for a day."""

    @property
    def word(self) -> str | None:
        """The name outside; None for an error, and for what is no longer kept."""
        return _WORDS[self]

    @property
    def is_blob(self) -> bool:
        """True when the outcome is a blob's digest."""
        return self in BLOBS


BLOBS = (Encoding.JSON_BLOB, Encoding.PICKLE_BLOB)

_WORDS = ("json", "pickle", "json", "pickle", None, None)
