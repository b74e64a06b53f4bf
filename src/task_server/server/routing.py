"""From a path to an endpoint: every route says who may use it, and passes through one door."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct

from task_server.errors import NotFound, RequestError, Unavailable, WrongHost
from task_server.machine import is_loopback
from task_server.server.access import Caller
from task_server.server.http import Call, Reply, problem
from task_server.server.request import Disconnected, Request
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

    async def answer(self, request: Request, params: dict[str, str]) -> Reply:
        """The handler's reply."""
        state = self._state
        route = self._routes.get(request.method)
        if route is None:
            raise _WrongMethod(sorted(self._routes))
        if state.is_stopping and route.method == "POST" and route.kinds is USER:
            raise Unavailable("the server is stopping; ask again in a moment", retry_after=1.0)
        caller = _NOBODY
        if route.kinds is not PUBLIC:
            caller = await state.access.admit(
                request.only(b"authorization"), route.kinds, takes_basic=route.takes_basic
            )
        call = Call(request, caller, state.bodies, params)
        try:
            return await route.handler(state, call)
        finally:
            call.end()


class Paths:
    """Finds the door of a path: `{name}` stands for one part of it, `{name:path}` for many."""

    def __init__(self, doors: Mapping[str, Door]) -> None:
        self._plain = {path: door for path, door in doors.items() if "{" not in path}
        self._patterns = [
            (_pattern(path), door) for path, door in doors.items() if path not in self._plain
        ]

    def find(self, path: str) -> tuple[Door, dict[str, str]]:
        """The door, and the parts that stand for something. Raises NotFound."""
        door = self._plain.get(path)
        if door is not None:
            return door, {}
        for pattern, door in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                return door, found.groupdict()
        raise NotFound("there is nothing at this path")


class Edge:
    """Answers requests: whatever goes wrong inside becomes a reply that says so."""

    def __init__(self, state: State, routes: Sequence[Route]) -> None:
        self._state = state
        paths: dict[str, list[Route]] = {}
        for route in routes:
            paths.setdefault(route.path, []).append(route)
        self._paths = Paths({path: Door(state, each) for path, each in paths.items()})
        self._only_loopback = is_loopback(state.settings.host)
        self._hosts: set[bytes] = set()
        """Host headers found right, so that each is read once."""

    async def __call__(self, request: Request) -> Reply:
        """The reply. Raises Disconnected when there is nobody to read one."""
        try:
            self._check_host(request)
            door, params = self._paths.find(request.path)
            return await door.answer(request, params)
        except Disconnected:
            raise
        except Exception as error:
            if self._state.descriptors.lack(error):
                error = self._state.descriptors.refusal()
            return _reply_to(error, is_plain=request.path.startswith(("/user/", "/worker/")))

    def _check_host(self, request: Request) -> None:
        """A page of another site must not reach a server of this machine (DNS rebinding)."""
        if not self._only_loopback:
            return
        host = request.fields.get(b"host", b"")
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


def _pattern(path: str) -> re.Pattern[str]:
    named = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
    return re.compile(re.sub(r"\{(\w+):path\}", r"(?P<\1>.+)", named))


class _WrongMethod(RequestError):
    """The path is there, and takes other methods."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"this path takes {' or '.join(allowed)}")
        self.allowed = ", ".join(allowed).encode()


def _reply_to(error: Exception, *, is_plain: bool) -> Reply:
    if not isinstance(error, RequestError):
        log.exception("a request failed")
        error = Unavailable("the server failed here; its log says more")
    reply = problem(error, is_plain=is_plain)
    if isinstance(error, _WrongMethod):
        reply.headers = (*reply.headers, (b"allow", error.allowed))
    return reply
