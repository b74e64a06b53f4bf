"""Tokens and their owners. Only digests are kept."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import zlib
from typing import Literal

from msgspec import Struct

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


def insert(connection: sqlite3.Connection, kind: Kind, name: str, *, now: float) -> str:
    """Make a token and give it. Tokens of one name belong to one owner."""
    secret = new_secret(kind)
    connection.execute(
        "INSERT INTO tokens (digest, kind, owner, name, created_at) VALUES (?, ?, ?, ?, ?)",
        (digest_of(secret), kind, _owner(connection, name or None), name, now),
    )
    return secret


def _owner(connection: sqlite3.Connection, name: str | None) -> int:
    row = connection.execute("SELECT owner FROM owners WHERE name = ?", (name,)).fetchone()
    if row is not None:
        return int(row[0])
    cursor = connection.execute("INSERT INTO owners (name) VALUES (?)", (name,))
    return int(cursor.lastrowid or 0)


def owner_named(connection: sqlite3.Connection, name: str) -> int:
    """The owner of that name, made if need be."""
    return _owner(connection, name)


_COLUMNS = "token, kind, owner, ifnull(name, ''), created_at, revoked_at"


def find(connection: sqlite3.Connection, digest: bytes) -> Token | None:
    """The valid token with that digest."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM tokens WHERE digest = ? AND revoked_at IS NULL", (digest,)
    ).fetchone()
    return None if row is None else Token(*row)


def listed(connection: sqlite3.Connection) -> list[Token]:
    """All tokens, oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM tokens ORDER BY token")
    return [Token(*row) for row in rows]


def revoke(connection: sqlite3.Connection, token: int, *, now: float) -> bool:
    """Make a token invalid; False when there is none of that id."""
    cursor = connection.execute(
        "UPDATE tokens SET revoked_at = ifnull(revoked_at, ?) WHERE token = ?", (now, token)
    )
    return cursor.rowcount == 1
