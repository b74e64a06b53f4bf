"""From a path to an endpoint: every route says who may use it, and passes through one door."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router

from task_server.errors import NotFound, RequestError, Unavailable, WrongHost
from task_server.machine import is_loopback
from task_server.server.access import Caller
from task_server.server.http import (
    Call,
    Disconnected,
    Message,
    Receive,
    Reply,
    Scope,
    Send,
    problem,
    send_reply,
)
from task_server.server.state import State

log = logging.getLogger(__name__)

Handler = Callable[[State, Call], Awaitable[Reply]]
USER = frozenset({"user"})
WORKER = frozenset({"worker"})
BOTH = frozenset({"user", "worker"})
PUBLIC: frozenset[str] = frozenset()
_NOBODY = Caller("user", -1, -1)


class Route(Struct, frozen=True):
    """One endpoint: its method, its path, its handler and the kinds of token that may call it."""

    method: str
    path: str
    handler: Handler
    kinds: frozenset[str]
    takes_basic: bool = False
    """The token may come as the password of `Authorization: Basic`, as package tools send it."""


class Door:
    """The methods of one path: admits the caller, then calls the handler."""

    def __init__(self, state: State, routes: Sequence[Route]) -> None:
        self._state = state
        self._routes = {route.method: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        route = self._routes.get(scope["method"])
        if route is None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self._routes))})
        if self._state.is_stopping and route.method == "POST" and route.kinds is USER:
            raise Unavailable("the server is stopping; ask again in a moment", retry_after=1.0)
        caller = _NOBODY
        if route.kinds is not PUBLIC:
            caller = await self._state.access.admit(
                scope["headers"], route.kinds, takes_basic=route.takes_basic
            )
        call = Call(scope, receive, caller, self._state.bodies)
        try:
            reply = await route.handler(self._state, call)
        finally:
            call.end()
        await send_reply(send, reply, with_body=scope["method"] != "HEAD")


class Edge:
    """The ASGI application: whatever goes wrong inside becomes a reply that says so."""

    def __init__(self, state: State, routes: Sequence[Route]) -> None:
        self._state = state
        paths: dict[str, list[Route]] = {}
        for route in routes:
            paths.setdefault(route.path, []).append(route)
        self._router = Router(
            [StarletteRoute(path, Door(state, each)) for path, each in paths.items()],
            redirect_slashes=False,
            default=_no_such_path,
        )
        self._only_loopback = is_loopback(state.settings.host)
        self._hosts: set[bytes] = set()
        """Host headers found right, so that each is read once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            return
        started = _Watched(send)
        try:
            self._check_host(scope)
            await self._router(scope, receive, started)
        except Disconnected:
            pass
        except Exception as error:
            if started.has_begun:
                # Half a reply is out: only cutting it off tells the truth.
                if isinstance(error, RequestError):
                    log.warning("a reply is cut off: %s", error)
                    return
                raise
            if self._state.descriptors.lack(error):
                error = self._state.descriptors.refusal()
            reply = _reply_to(error, is_plain=scope["path"].startswith(("/user/", "/worker/")))
            await send_reply(send, reply, with_body=scope["method"] != "HEAD")

    def _check_host(self, scope: Scope) -> None:
        """A page of another site must not reach a server of this machine (DNS rebinding)."""
        if not self._only_loopback:
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        if host in self._hosts:
            return
        if host and not is_loopback(_without_port(host.decode("latin-1"))):
            raise WrongHost("this server answers only to the names of this machine, as localhost")
        if len(self._hosts) < 100:
            self._hosts.add(host)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


class _Watched:
    """`send`, and whether a reply has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound("there is nothing at this path")


def _reply_to(error: Exception, *, is_plain: bool) -> Reply:
    if isinstance(error, RequestError):
        return problem(error, is_plain=is_plain)
    if isinstance(error, HTTPException):
        wrong = RequestError("this path does not take that method")
        wrong.status, wrong.code = error.status_code, "method_not_allowed"
        reply = problem(wrong, is_plain=is_plain)
        allow = (error.headers or {}).get("Allow", "")
        reply.headers = (*reply.headers, (b"allow", allow.encode()))
        return reply
    log.exception("a request failed")
    return problem(Unavailable("the server failed here; its log says more"), is_plain=is_plain)
