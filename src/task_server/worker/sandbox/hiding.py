"""Keeping the agent's own memory to itself: it holds the worker's token."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_SET_DUMPABLE = 4


def hide_memory() -> None:
    """Let no other process of this user read this one's memory and variables, nor dump a core."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)
