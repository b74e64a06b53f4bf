"""Every error that can reach a caller, and the codes by which it crosses HTTP.

TaskServerError
├── RequestError              the server refused a request; `status` and `code` say how
│   ├── Malformed       400   the body cannot be read
│   ├── Unauthorized    401   no token, or one that is not known
│   ├── Forbidden       403   a token of another kind
│   ├── NotAllowed      403   a package that the server's policy refuses
│   ├── NotFound        404
│   ├── Conflict        409
│   ├── Gone            410
│   ├── TooLarge        413
│   ├── WrongMediaType  415
│   ├── WrongHost       421
│   ├── Invalid         422   readable, but a field is wrong
│   │   ├── NotSupported      a field whose feature does not exist yet
│   │   └── CannotLock        requirements that cannot be resolved
│   ├── NoCommonProtocol 426
│   ├── TooManyRequests 429
│   ├── Unavailable     503   try again
│   └── StorageFull     507   try again later
├── ServerUnreachable         no server answered; start one with `task-server up`
├── ProfileError              the file that says where the server is cannot be used
├── DatabaseUnusable          the database cannot be used; the message says why and what to do
├── NotFinished               an answer was not there in time
└── TaskError                 a task ended without an answer
    ├── TaskFailed            `kind` says why
    │   └── RemoteError       its function raised what cannot be raised here
    ├── TaskCancelled
    └── TaskExpired
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError


class TaskServerError(Exception):
    """Whatever this package raises on purpose."""


class RequestError(TaskServerError):
    """A request that the server refused."""

    status = 500
    code = "internal"
    retryable = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        """Seconds after which trying again makes sense; None where the server gave no time."""


class Malformed(RequestError):
    """The body is not what its content type says."""

    status = 400
    code = "malformed"


class Unauthorized(RequestError):
    """No token, or one that the server does not know."""

    status = 401
    code = "unauthorized"


class Forbidden(RequestError):
    """A valid token of a kind that may not do this."""

    status = 403
    code = "forbidden"


class NotAllowed(RequestError):
    """The policy of the server refuses a package."""

    status = 403
    code = "package_not_allowed"


class NotFound(RequestError):
    """Nothing of that name, or nothing that the caller may see."""

    status = 404
    code = "not_found"


class Conflict(RequestError):
    """The thing exists already in another form or state."""

    status = 409
    code = "conflict"


class Gone(RequestError):
    """It was there, and is no more."""

    status = 410
    code = "gone"


class SessionOver(Gone):
    """The worker's session has ended: join again."""

    code = "session_over"


class TooLarge(RequestError):
    """A body, an answer or an argument over its limit."""

    status = 413
    code = "too_large"


class WrongMediaType(RequestError):
    """A content type or encoding that is not taken."""

    status = 415
    code = "unsupported_media_type"


class WrongHost(RequestError):
    """A Host header that is not this server's."""

    status = 421
    code = "wrong_host"


class Invalid(RequestError):
    """Readable, but a field is wrong. `errors` has one entry for each: index, field, message."""

    status = 422
    code = "invalid"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        errors: Sequence[Mapping[str, object]] | None = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.errors = list(errors) if errors else [{"field": field, "message": message}]


class NotSupported(Invalid):
    """A field whose feature does not exist yet."""

    code = "not_supported"


class CannotLock(Invalid):
    """Requirements for which no versions can be chosen."""

    code = "cannot_lock"


class NoCommonProtocol(RequestError):
    """Worker and server have no version of the protocol in common."""

    status = 426
    code = "no_common_protocol"


class TooManyRequests(RequestError):
    """A rate was exceeded."""

    status = 429
    code = "too_many_requests"
    retryable = True


class Unavailable(RequestError):
    """The server cannot do it now; trying again is safe."""

    status = 503
    code = "unavailable"
    retryable = True


class StorageFull(RequestError):
    """The server has no room for more; running work can still finish."""

    status = 507
    code = "storage_full"
    retryable = True


class ServerUnreachable(TaskServerError):
    """No server answered at the address."""


class ProfileError(TaskServerError):
    """The profile cannot be read, or can be read by others."""


class DatabaseUnusable(TaskServerError):
    """The database cannot be used; the message says why and what to do."""


class NotFinished(TaskServerError, TimeoutError):
    """The answer was not there in time; the task goes on."""


class TaskError(TaskServerError):
    """A task ended without an answer."""

    def __init__(self, message: str, *, task: str = "") -> None:
        super().__init__(message)
        self.task = task
        """Id of the task."""


class TaskFailed(TaskError):
    """The task failed; `kind` is one of WIRE's error kinds."""

    def __init__(
        self, message: str, *, task: str = "", kind: str = "", type: str = "", traceback: str = ""
    ) -> None:
        super().__init__(message, task=task)
        self.kind = kind
        self.type = type
        self.traceback = traceback
        """The remote traceback as text; empty where there is none."""


class RemoteError(TaskFailed):
    """The function raised an exception that cannot be raised here as itself."""


class TaskCancelled(TaskError, CancelledError):
    """The task was cancelled."""


class TaskExpired(TaskError):
    """The task had not started by its `start_by`."""


def _request_errors(root: type[RequestError]) -> list[type[RequestError]]:
    found = [root]
    for child in root.__subclasses__():
        found += _request_errors(child)
    return found


BY_CODE = {cls.code: cls for cls in _request_errors(RequestError)}
"""Code in a reply's body -> class, used by the client."""

BY_STATUS = {cls.status: cls for cls in reversed(_request_errors(RequestError))}
"""Status -> class, for replies without a code."""


def from_reply(
    status: int, code: str, message: str, errors: Sequence[Mapping[str, object]] = ()
) -> RequestError:
    """The error that a reply stands for."""
    cls = BY_CODE.get(code) or BY_STATUS.get(status, RequestError)
    error = cls(message, errors=errors) if issubclass(cls, Invalid) else cls(message)
    if cls is RequestError:
        error.status = status
    return error
