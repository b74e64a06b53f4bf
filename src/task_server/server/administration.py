"""What `task-server token` does: to the database itself, beside a running server or without."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from task_server.errors import NotFound
from task_server.server.app import sqlite_path
from task_server.server.service.views import moment
from task_server.store.records import tokens
from task_server.store.sqlite.connection import open_writer


class TokenRow(Struct):
    """A token as listed; times as RFC 3339."""

    id: str
    kind: str
    name: str
    created_at: str
    revoked_at: str | None


@contextmanager
def _database(url: str) -> Iterator[sqlite3.Connection]:
    connection = open_writer(sqlite_path(url))
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()


def create_token(database_url: str, *, kind: tokens.Kind, name: str) -> str:
    """Make a token; it is shown this once."""
    with _database(database_url) as connection:
        return tokens.insert(connection, kind, name, now=time.time())


def list_tokens(database_url: str) -> list[TokenRow]:
    """All tokens, oldest first."""
    with _database(database_url) as connection:
        return [_row(token) for token in tokens.listed(connection)]


def _row(token: tokens.Token) -> TokenRow:
    created, revoked = moment(token.created_at), moment(token.revoked_at)
    return TokenRow(
        str(token.id),
        token.kind,
        token.name,
        created.isoformat(timespec="seconds") if created else "",
        revoked.isoformat(timespec="seconds") if revoked else None,
    )


def revoke_token(database_url: str, token_id: str) -> None:
    """Make a token invalid. Raises NotFound."""
    with _database(database_url) as connection:
        is_number = token_id.isascii() and token_id.isdigit()
        if not is_number or not tokens.revoke(connection, int(token_id), now=time.time()):
            raise NotFound(f"there is no token {token_id!r}; `task-server token ls` lists them")
