"""A guard: a piece of source that delivery rests on, and the tests that miss it."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

SOURCE = Path(__file__).parents[2] / "src"
STORE = 'tests/store --ignore=tests/store/test_model.py -k "not postgres"'


class Guard(Struct, frozen=True):
    """A piece of source that something depends on."""

    file: str
    """Below src/task_server."""
    name: str
    """What happens without it."""
    text: str
    """Found once in the file."""
    without: str = ""
    """What is put in its place."""
    tests: str = STORE
    """Arguments of pytest: these must fail then."""
