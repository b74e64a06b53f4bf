"""SQL that both databases understand, and who runs it.

Records and reads are coroutines over `Rows`. On PostgreSQL they wait; on SQLite every step is done
at once, so that `finish_now` can run them in any thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Rows(Protocol):
    """A connection. `?` stands for a value; booleans and NULL are the databases' own."""

    async def fetch(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a SELECT, or of a RETURNING."""

    async def execute(self, sql: str, *values: object) -> int:
        """How many rows a statement changed."""


Work = Callable[[Rows], Coroutine[Any, Any, T]]


class Lends(Protocol):
    """A store that lends connections."""

    async def read(self, work: Work[T]) -> T:
        """Read what is committed."""

    def look(self, work: Work[T]) -> Awaitable[T]:
        """Read a row or two by key, the cheapest way there is."""

    async def write(self, work: Work[T]) -> T:
        """Write in a transaction; when it raises, nothing of it is kept."""


def finish_now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # of this coroutine
    work.close()
    raise RuntimeError("work on this database may not wait")


_SIZES = (256, 64, 16, 4, 1)


def _pieces(sql: str, keys: Iterable[object]) -> Iterator[tuple[str, list[object]]]:
    """`sql` and keys for its `{keys}`: few spellings, so that statements stay prepared."""
    listed = list(keys)
    start = 0
    for size in _SIZES:
        marks = ", ".join("?" * size)
        while len(listed) - start >= size:
            yield sql.replace("{keys}", marks), listed[start : start + size]
            start += size


async def fetch_in(
    rows: Rows, sql: str, keys: Iterable[object], *values: object
) -> list[tuple[Any, ...]]:
    """Rows of `sql`, whose `{keys}` stands for an IN list and comes after the values."""
    found: list[tuple[Any, ...]] = []
    for statement, piece in _pieces(sql, keys):
        found += await rows.fetch(statement, *values, *piece)
    return found


async def execute_in(rows: Rows, sql: str, keys: Iterable[object], *values: object) -> int:
    """How many rows `sql` changed, whose `{keys}` stands for an IN list and comes last."""
    changed = 0
    for statement, piece in _pieces(sql, keys):
        changed += await rows.execute(statement, *values, *piece)
    return changed


async def first(rows: Rows, sql: str, *values: object) -> tuple[Any, ...] | None:
    """The first row, or None."""
    found = await rows.fetch(sql, *values)
    return found[0] if found else None
