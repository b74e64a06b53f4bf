"""A plugin of pytest: what a test that failed leaves behind is bounded in time, too.

pytest-timeout ends a test once, and forgets the time of one that failed in any way: where its
clean-up hung, the whole run hung.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import pytest

SETTINGS = pytest.StashKey[Any]()


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, object, object]:
    """Time out again and again: each step of a clean-up may hang."""
    done = yield
    item.stash[SETTINGS] = settings
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, settings.timeout)
    return done


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Give a clean-up the time of a test of its own."""
    if (settings := item.stash.get(SETTINGS, None)) is not None:
        item.ihook.pytest_timeout_set_timer(item=item, settings=settings)
