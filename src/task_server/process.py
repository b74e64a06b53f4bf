"""What the processes of server and worker set up alike."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the estimator does without: 3 MB of its memory
    import asyncio


def log_to_stderr() -> None:
    """Log on stderr: stdout is for programs that wait for a line."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


COLLECT_AFTER = (20_000, 50, 50)
"""Objects more than there were, then collections of the younger generation."""

KEPT_BYTES = 8 << 20
"""Of freed memory at the heap's end, for what comes next."""
OWN_BYTES = 4 << 20
"""Larger objects have pages of their own, which go when they do."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt


def settle_heap() -> None:
    """Keep the collector of cycles from looking again and again at what stays: after the start.

    A full collection holds up everything else for some 50 ms with it, and hardly a millisecond
    without. Nearly all that requests make goes without it, by counts of references: it looks
    rarely, or each batch and each of thousands of parked requests would be looked through.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed, rather than give it back and take it again as new pages.

    A piece of a large body is a hundred pages, of each copy of it; a fifth of the processor time
    that such bodies took went to making them anew.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_TRIM_THRESHOLD, KEPT_BYTES)
        set_option(_MMAP_THRESHOLD, OWN_BYTES)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The fastest event loop there is on this platform."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop
    return uvloop.new_event_loop
