"""What the members of a list share: everything of a task but its id and arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from operator import attrgetter

from msgspec import UnsetType

from task_server.environments.lock import empty_lock
from task_server.environments.names import BadName, parse_target
from task_server.environments.requirements import Requested
from task_server.errors import Invalid, NotSupported
from task_server.policy import EVERYTHING, Policy
from task_server.protocol import ids
from task_server.protocol.tasks import FunctionByValue, Retries, Task
from task_server.protocol.workers import SANDBOX_LEVELS
from task_server.server.service.installs import given as _given
from task_server.server.service.installs import read_installs
from task_server.server.service.requires import read_requires
from task_server.server.service.uploads import OwnUploads
from task_server.store.kinds import AUTO, UNTIL_READ, KindSpec

MAXIMUM_TAGS = 32
MAXIMUM_AFTER = 10_000
REMEMBERED = 1000
"""Specs kept at hand."""
_OF_KIND = (
    "function",
    "module",
    "package",
    "version",
    "python",
    "environment",
    "requirements",
    "script",
    "timeout",
    "retries",
    "priority",
    "at_most_once",
    "keep",
    "requires",
    "require_sandbox",
    "isolation",
    "tags",
    "limit_keys",
    "result_encoding",
)
"""What of a task its spec is made of."""
_said = attrgetter(*_OF_KIND)


class Specs:
    """Makes the specs of tasks; single tasks of one function come again and again."""

    def __init__(self, *, default_python: str, policy: Policy = EVERYTHING) -> None:
        self._default_python = default_python
        self._policy = policy
        self._known: dict[object, KindSpec] = {}
        self._by_outline: dict[object, KindSpec] = {}
        self._refreshed: Mapping[str, str] = {}

    def of(
        self,
        task: Task,
        *,
        owner: int,
        is_plain: bool,
        uploads: OwnUploads | None = None,
        refreshed: Mapping[str, str] | None = None,
    ) -> KindSpec:
        """As `make_spec`, which is asked once for tasks that say the same."""
        self._follow(refreshed)
        said = (owner, is_plain, uploads and uploads.generation, _said(task))
        try:
            known = self._known.get(said)
        except TypeError:  # a list or a dict is in it
            return self._make(task, owner, is_plain=is_plain, uploads=uploads)
        if known is None:
            known = self._make(task, owner, is_plain=is_plain, uploads=uploads)
            self._known[said] = known
        return known

    def _follow(self, refreshed: Mapping[str, str] | None) -> None:
        """Forget what was made when other locks counted, and what has become too much."""
        refreshed = self._refreshed if refreshed is None else refreshed
        if refreshed is not self._refreshed or len(self._known) >= REMEMBERED:
            self._known, self._by_outline, self._refreshed = {}, {}, refreshed

    def of_outline(
        self,
        outline: bytes,
        owner: int,
        *,
        uploads: OwnUploads | None,
        refreshed: Mapping[str, str] | None,
    ) -> KindSpec | None:
        """The spec of a single task of which another one with that outline was read in full."""
        self._follow(refreshed)
        return self._by_outline.get((owner, uploads and uploads.generation, outline))

    def keep_outline(
        self, outline: bytes, owner: int, spec: KindSpec, *, uploads: OwnUploads | None
    ) -> None:
        """A single task with that outline has this spec, and nothing else but arguments and id."""
        if len(self._by_outline) >= REMEMBERED:
            self._by_outline.clear()
        self._by_outline[owner, uploads and uploads.generation, outline] = spec

    def _make(
        self, task: Task, owner: int, *, is_plain: bool, uploads: OwnUploads | None
    ) -> KindSpec:
        return make_spec(
            task,
            owner=owner,
            is_plain=is_plain,
            default_python=self._default_python,
            uploads=uploads,
            policy=self._policy,
            refreshed=self._refreshed,
        )


def make_spec(
    task: Task,
    *,
    owner: int,
    is_plain: bool,
    default_python: str,
    uploads: OwnUploads | None = None,
    policy: Policy = EVERYTHING,
    refreshed: Mapping[str, str] | None = None,
) -> KindSpec:
    """The kind of a task. Raises Invalid, NotSupported, NotAllowed."""
    _check_supported(task)
    function = _given(task.function, None)
    if not function:
        raise Invalid("function is missing", field="function")
    by_value = function if isinstance(function, FunctionByValue) else None
    name = by_value.name if by_value else str(function)
    installs = read_installs(task, default_python=default_python, uploads=uploads, policy=policy)
    packages, python, requested = installs.packages, installs.python, installs.requested
    module, qualname = (None, name) if by_value else _target(task, name)
    retries = _retries(task)
    encoding: str = _given(task.result_encoding, "json")
    request, environment = _request(task, requested, refreshed or {})
    if environment is None and not requested.environment.requirements:
        environment = empty_lock(python).digest
    sandbox = _sandbox(task)
    isolation = _given(task.isolation, "reuse")
    requires = read_requires(_given(task.requires, None)).text
    is_plain = is_plain and by_value is None and encoding == "json" and len(packages) <= 1
    return KindSpec(
        owner=owner,
        function=qualname,
        module=module,
        package=packages,
        version=_given(task.version, None) or None,
        distribution=requested.package or "",
        python=python,
        request=request,
        environment=environment,
        pickle=by_value.pickle if by_value else None,
        timeout=_timeout(task),
        max_attempts=retries.max + 1,
        backoff=retries.backoff,
        retry_on=tuple(sorted(retries.on)),
        priority=_priority(task),
        at_most_once=_given(task.at_most_once, False),
        result_encoding=encoding,
        isolation=isolation,
        tags=_tags(task),
        plain=is_plain and sandbox == 0 and isolation == "reuse" and not requires,
        keep=_keep(task),
        sandbox=sandbox,
        requires=requires,
    )


def _check_supported(task: Task) -> None:
    later = ("limit_keys",)
    for name in later:
        if _given(getattr(task, name), None):
            raise NotSupported(f"{name} is not supported yet", field=name)


def _sandbox(task: Task) -> int:
    level = _given(task.require_sandbox, 0)
    if level not in SANDBOX_LEVELS:
        raise Invalid(
            f"require_sandbox is {level}; levels are 0 to {SANDBOX_LEVELS[-1]}",
            field="require_sandbox",
        )
    return level


def _request(
    task: Task, requested: Requested, refreshed: Mapping[str, str]
) -> tuple[str, str | None]:
    """The text of the request, and the digest of the lock if that is settled."""
    text = requested.environment.text
    environment = _given(task.environment, None) or refreshed.get(text)
    if environment is None:
        return text, None
    if re.fullmatch(r"[0-9a-f]{64}", environment) is None:
        raise Invalid("environment is the digest of a lock", field="environment")
    return f"lock {environment}", environment


def _target(task: Task, function: str) -> tuple[str | None, str]:
    try:
        target = parse_target(function, _given(task.module, None))
    except BadName as error:
        raise Invalid(error.message, field=error.field) from None
    return target.module, target.qualname


def _timeout(task: Task) -> float | None:
    timeout = _given(task.timeout, None)
    if timeout is None:
        return None
    if timeout == "auto":
        return AUTO
    if not isinstance(timeout, float | int) or not 0 <= timeout < 1e9:
        raise Invalid('timeout is a number of seconds, 0 for none, or "auto"', field="timeout")
    return float(timeout)


def _retries(task: Task) -> Retries:
    retries = _given(task.retries, Retries())
    if not 0 <= retries.max <= 100:
        raise Invalid("retries.max is a whole number from 0 to 100", field="retries.max")
    if not 0 <= retries.backoff <= 3600:
        raise Invalid("retries.backoff is seconds, up to 3600", field="retries.backoff")
    return retries


def _priority(task: Task) -> int:
    priority = _given(task.priority, 0)
    if not -10 <= priority <= 10:
        raise Invalid("priority is a whole number from -10 to 10", field="priority")
    return priority


def _tags(task: Task) -> tuple[str, ...]:
    tags = _given(task.tags, [])
    if len(tags) > MAXIMUM_TAGS or any(not 0 < len(tag) <= 200 for tag in tags):
        message = f"tags are at most {MAXIMUM_TAGS} texts of 1 to 200 letters"
        raise Invalid(message, field="tags")
    return tuple(tags)


def _keep(task: Task) -> float | None:
    keep = _given(task.keep, None)
    if keep is None:
        return None
    if keep == "until_read":
        return UNTIL_READ
    if not isinstance(keep, float | int) or not 0 <= keep < 1e9:
        raise Invalid('keep is a number of seconds, or "until_read"', field="keep")
    return float(keep)


def awaited(task: Task) -> tuple[bytes, ...]:
    """Ids of the tasks that have to succeed before. Raises Invalid."""
    after = _given(task.after, None)
    if not after:
        return ()
    if len(after) > MAXIMUM_AFTER:
        raise Invalid(f"after names at most {MAXIMUM_AFTER} tasks", field="after")
    found = []
    for text in after:
        identifier = ids.from_text(text)
        if identifier is None:
            raise Invalid(f"{text[:60]!r} is not the id of a task", field="after")
        found.append(identifier)
    return tuple(dict.fromkeys(found))


def times(task: Task) -> tuple[float | None, float | None, float | None]:
    """`run_after`, `start_by` and `finish_by`, Unix seconds. Raises Invalid."""
    return (
        _moment(task.run_after, "run_after"),
        _moment(task.start_by, "start_by"),
        _moment(task.finish_by, "finish_by"),
    )


def _moment(value: datetime | UnsetType | None, field: str) -> float | None:
    moment = _given(value, None)
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise Invalid(f"{field} needs an offset, like 2030-01-01T00:00:00Z", field=field)
    return moment.timestamp()
