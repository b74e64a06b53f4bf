"""Wheels that users uploaded. Their content lies in the blob store, which keeps what is named here.

A name belongs to each owner apart: what one has uploaded, another never gets.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from task_server.errors import Conflict
from task_server.store.records import blobs
from task_server.store.records.sql import Rows, fetch_in, first


class Package(Struct, frozen=True, kw_only=True):
    """One uploaded wheel. `name` and `version` are normalised, `uploaded_at` is Unix seconds."""

    owner: int
    name: str
    version: str
    filename: str
    digest: str
    """Of the blob: `sha256:HEX`."""
    size: int
    requires_python: str | None
    metadata: str
    uploaded_at: float


_COLUMNS = "owner, name, version, filename, digest, size, requires_python, metadata, uploaded_at"
_NAMES = _COLUMNS.split(", ")


def _package(row: tuple[object, ...]) -> Package:
    return Package(**dict(zip(_NAMES, row, strict=True)))  # type: ignore[arg-type]  # as declared


async def add(rows: Rows, package: Package, *, began: float) -> bool:
    """Note a wheel whose content was stored since `began`; False when it was there already.

    Raises Conflict for other content under the same file name, Unavailable when the content may
    have been deleted again.
    """
    await blobs.keep(
        rows,
        package.digest,
        package.owner,
        size=package.size,
        now=package.uploaded_at,
        began=began,
    )
    made = await rows.execute(
        f"INSERT INTO packages ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (owner, filename) DO NOTHING",
        *(getattr(package, name) for name in _NAMES),
    )
    if made:
        return True
    found = await first(
        rows,
        "SELECT digest FROM packages WHERE owner = ? AND filename = ?",
        package.owner,
        package.filename,
    )
    if found is None or found[0] != package.digest:
        raise Conflict(
            f"{package.filename} was uploaded before with other content; raise the version, or"
            f" remove {package.name} {package.version} first"
        )
    return False


async def listed(rows: Rows, *, owner: int | None, name: str | None = None) -> list[Package]:
    """Wheels of an owner (None: of all), of one name (None: of all), oldest first."""
    found = await rows.fetch(
        f"SELECT {_COLUMNS} FROM packages WHERE (CAST(? AS integer) IS NULL OR owner = ?)"
        " AND (CAST(? AS text) IS NULL OR name = ?) ORDER BY package",
        owner,
        owner,
        name,
        name,
    )
    return [_package(row) for row in found]


async def with_content(rows: Rows, digests: Iterable[str]) -> list[Package]:
    """Wheels that have one of these contents, whoever uploaded them."""
    found = await fetch_in(
        rows,
        f"SELECT {_COLUMNS} FROM packages WHERE digest IN ({{keys}}) ORDER BY package",
        sorted(digests),
    )
    return [_package(row) for row in found]


async def remove(rows: Rows, *, owner: int, name: str, version: str | None) -> int:
    """Forget the wheels of a name, or of one version of it; how many."""
    return await rows.execute(
        "DELETE FROM packages WHERE owner = ? AND name = ?"
        " AND (CAST(? AS text) IS NULL OR version = ?)",
        owner,
        name,
        version,
        version,
    )


async def contents(rows: Rows) -> list[tuple[int, str, str, str]]:
    """Owner, name, file name and digest of every wheel, oldest first."""
    found = await rows.fetch("SELECT owner, name, filename, digest FROM packages ORDER BY package")
    return [(int(owner), name, filename, digest) for owner, name, filename, digest in found]


async def mark(rows: Rows) -> tuple[int, int]:
    """Changes whenever a wheel comes or goes."""
    row = await first(rows, "SELECT count(*), coalesce(max(package), 0) FROM packages")
    assert row is not None
    return int(row[0]), int(row[1])
