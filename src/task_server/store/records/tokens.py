"""Tokens and their owners. Only digests are kept."""

from __future__ import annotations

import hashlib
import secrets
import zlib
from typing import Literal

from msgspec import Struct

from task_server.store.records.sql import Rows, first

Kind = Literal["user", "worker", "admin"]
PREFIXES: dict[str, Kind] = {"tsu": "user", "tsw": "worker", "tsa": "admin"}
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Token(Struct, frozen=True):
    """A token without its secret. Times are Unix seconds."""

    id: int
    kind: Kind
    owner: int
    name: str
    created_at: float
    revoked_at: float | None


def _base62(value: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        value, rest = divmod(value, 62)
        digits = _ALPHABET[rest] + digits
    return digits


def new_secret(kind: Kind) -> str:
    """A new token: its kind, 256 random bits, and a check that finds typing errors."""
    prefix = next(prefix for prefix, each in PREFIXES.items() if each == kind)
    body = f"{prefix}_{_base62(int.from_bytes(secrets.token_bytes(32), 'big'), 43)}"
    return body + _base62(zlib.crc32(body.encode()), 6)


def digest_of(secret: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(secret.encode()).digest()


async def insert(rows: Rows, kind: Kind, name: str, *, now: float) -> str:
    """Make a token and give it. Tokens of one name belong to one owner."""
    secret = new_secret(kind)
    owner = await (owner_named(rows, name) if name else _new_owner(rows, None))
    await rows.execute(
        "INSERT INTO tokens (digest, kind, owner, name, created_at) VALUES (?, ?, ?, ?, ?)",
        digest_of(secret),
        kind,
        owner,
        name,
        now,
    )
    return secret


async def owner_named(rows: Rows, name: str) -> int:
    """The owner of that name, made if need be."""
    row = await first(rows, "SELECT owner FROM owners WHERE name = ?", name)
    return await _new_owner(rows, name) if row is None else int(row[0])


async def _new_owner(rows: Rows, name: str | None) -> int:
    made = await rows.fetch(
        # Two servers may meet here: the second finds the first one's row.
        "INSERT INTO owners (name) VALUES (?)"
        " ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING owner",
        name,
    )
    return int(made[0][0])


_COLUMNS = "token, kind, owner, coalesce(name, ''), created_at, revoked_at"


async def find(rows: Rows, digest: bytes) -> Token | None:
    """The valid token with that digest."""
    row = await first(
        rows, f"SELECT {_COLUMNS} FROM tokens WHERE digest = ? AND revoked_at IS NULL", digest
    )
    return None if row is None else Token(*row)


async def listed(rows: Rows) -> list[Token]:
    """All tokens, oldest first."""
    found = await rows.fetch(f"SELECT {_COLUMNS} FROM tokens ORDER BY token")
    return [Token(*row) for row in found]


async def revoke(rows: Rows, token: int, *, now: float) -> bool:
    """Make a token invalid; False when there is none of that id."""
    changed = await rows.execute(
        "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) WHERE token = ?", now, token
    )
    return changed == 1
