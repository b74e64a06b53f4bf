"""What runs in an event loop here runs in each kind of loop that workers use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from task_server.process import loop_factory


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """By name."""
    return {"asyncio": asyncio.new_event_loop, "fastest": loop_factory()}
