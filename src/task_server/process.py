"""What the processes of server and worker set up alike."""

from __future__ import annotations

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


def settle_heap() -> None:
    """Keep the collector of cycles from looking again and again at what stays: after the start.

    A full collection holds up everything else for some 50 ms with it, and hardly a millisecond
    without. Nearly all that requests make goes without it, by counts of references: it looks
    rarely, or each batch and each of thousands of parked requests would be looked through.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The fastest event loop there is on this platform."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop
    return uvloop.new_event_loop
