"""What `task-server token` does: to the database itself, beside a running server or without."""

from __future__ import annotations

import time

from msgspec import Struct

from task_server.errors import NotFound
from task_server.server.service.views import moment
from task_server.store.opening import change
from task_server.store.records import tokens


class TokenRow(Struct):
    """A token as listed; times as RFC 3339."""

    id: str
    kind: str
    name: str
    created_at: str
    revoked_at: str | None


def create_token(database_url: str, *, kind: tokens.Kind, name: str) -> str:
    """Make a token; it is shown this once."""
    return change(database_url, lambda rows: tokens.insert(rows, kind, name, now=time.time()))


def list_tokens(database_url: str) -> list[TokenRow]:
    """All tokens, oldest first."""
    return [_row(token) for token in change(database_url, tokens.listed)]


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
    is_number = token_id.isascii() and token_id.isdigit() and len(token_id) < 19
    if not is_number or not change(
        database_url, lambda rows: tokens.revoke(rows, int(token_id), now=time.time())
    ):
        raise NotFound(f"there is no token {token_id!r}; `task-server token ls` lists them")
