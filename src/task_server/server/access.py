"""Who asks, and what they may. Every route passes through `Access.admit`."""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import Struct

from task_server.errors import Forbidden, Unauthorized
from task_server.store.records.tokens import Token, digest_of

Kind = Literal["user", "worker", "admin"]
FRESH_SECONDS = 0.9
"""How long a verified token is believed: a revoked one ends within a second."""
MAXIMUM_CACHED = 10_000
_MISSING = "no token came with the request; send Authorization: Bearer TOKEN"
_UNKNOWN = "the token is not known here, or expired or revoked"


class Caller(Struct, frozen=True):
    """Who asks."""

    kind: Kind
    owner: int
    token: int

    @property
    def sees(self) -> int | None:
        """The owner whose things it sees; None: everybody's."""
        return None if self.kind == "admin" else self.owner


class Access:
    """Verifies tokens."""

    def __init__(
        self, find: Callable[[bytes], Awaitable[Token | None]], *, everyone: Caller | None
    ) -> None:
        self._find = find
        self._everyone = everyone
        """Without authentication: the one caller there is."""
        self._known: dict[bytes, tuple[Caller, float]] = {}

    async def admit(
        self,
        authorization: bytes | None,
        kinds: frozenset[str],
        *,
        takes_basic: bool = False,
    ) -> Caller:
        """The caller of a request with this one header. Raises Unauthorized, or Forbidden.

        With `takes_basic` the token may also be a password, whatever the user's name.
        """
        if self._everyone is not None:
            return self._everyone
        caller = await self._verify(_as_bearer(authorization) if takes_basic else authorization)
        if caller.kind not in kinds and caller.kind != "admin":
            wanted = " or ".join(sorted(kinds))
            raise Forbidden(f"this needs a token of kind {wanted}; yours is of kind {caller.kind}")
        return caller

    async def _verify(self, authorization: bytes | None) -> Caller:
        if not authorization or authorization[:7].lower() != b"bearer ":
            raise Unauthorized(_MISSING)
        if len(authorization) > 200:
            raise Unauthorized(_UNKNOWN)
        digest = digest_of(authorization[7:].decode("latin-1"))
        known = self._known.get(digest)
        now = time.monotonic()
        if known is not None and now - known[1] < FRESH_SECONDS:
            return known[0]
        token = await self._find(digest)
        if token is None:  # looked up by digest: its timing tells nothing of the token
            self._known.pop(digest, None)
            raise Unauthorized(_UNKNOWN)
        caller = Caller(token.kind, token.owner, token.id)
        if len(self._known) >= MAXIMUM_CACHED:
            self._known.clear()
        self._known[digest] = (caller, now)
        return caller


def _as_bearer(authorization: bytes | None) -> bytes | None:
    """Where a password stands, the token that it is."""
    if authorization and authorization[:6].lower() == b"basic " and len(authorization) <= 400:
        return b"Bearer " + _password(authorization[6:])
    return authorization


def _password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def everyone_is(owner: int) -> Caller:
    """The caller of a server without authentication: one owner who may do everything."""
    return Caller("admin", owner, 0)
