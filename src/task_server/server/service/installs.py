"""What a task asks to be installed, in any of the ways that there are to say so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from msgspec import UNSET, Struct, UnsetType
from packaging.specifiers import SpecifierSet

from task_server.environments.requirements import (
    BadRequirement,
    Requested,
    check_python,
    parse_request,
    requirement_lines,
)
from task_server.environments.script import Script, parse_script
from task_server.errors import Invalid, NotAllowed
from task_server.policy import Policy
from task_server.protocol.tasks import FunctionByValue, Task
from task_server.server.service.uploads import OwnUploads

T = TypeVar("T")

_MINORS = range(9, 30)
"""Minor versions of Python 3 that a script's `requires-python` may lead to."""


class Installs(Struct, frozen=True):
    """The packages as they were named, the first one first; the Python; what that comes to."""

    packages: tuple[str, ...]
    python: str
    requested: Requested


def read_installs(
    task: Task, *, default_python: str, uploads: OwnUploads | None, policy: Policy
) -> Installs:
    """What a task asks to be installed. Raises Invalid, NotAllowed."""
    try:
        script = _script(task)
        named, more = _named(task), (*_lines(task), *_checked(script.dependencies, "script"))
        python = _python(task, script, default_python)
        requested = _requested(task, more, python)
    except BadRequirement as error:
        raise Invalid(error.message, field=error.field) from None
    _check_policy(requested, policy)
    return Installs((*named, *more), python, _with_uploads(requested, uploads))


def given(value: T | UnsetType | None, default: T) -> T:
    """The value of a field, or the default if it is absent."""
    return default if value is UNSET or value is None else value


def _named(task: Task) -> tuple[str, ...]:
    package = given(task.package, "")
    if isinstance(package, str):
        return (package,) if package else ()
    return tuple(package)


def _lines(task: Task) -> list[str]:
    return requirement_lines(given(task.requirements, ""))


def _script(task: Task) -> Script:
    text = given(task.script, "")
    return parse_script(text) if text else Script(())


def _checked(requirements: Iterable[str], field: str) -> list[str]:
    found = list(requirements)
    try:
        parse_request(found, python="3.11")
    except BadRequirement as error:
        raise BadRequirement(field, error.message) from None
    return found


def _requested(task: Task, more: tuple[str, ...], python: str) -> Requested:
    own = parse_request(given(task.package, None), given(task.version, None), python=python)
    if not more:
        return own
    both = parse_request([*own.environment.requirements, *more], python=python)
    first = own.package or parse_request(more[0], python=python).package
    return replace(both, package=first)


def _with_uploads(requested: Requested, uploads: OwnUploads | None) -> Requested:
    environment = requested.environment
    if uploads is None or not environment.requirements:
        return requested
    own = replace(environment, uploads=uploads.key_of(environment.names))
    return replace(requested, environment=own)


def _python(task: Task, script: Script, default: str) -> str:
    asked = given(task.python, None)
    by_value = task.function if isinstance(task.function, FunctionByValue) else None
    if by_value is not None:
        if asked is not None and asked != by_value.python:
            message = f"the function was pickled by Python {by_value.python}; python says {asked}"
            raise BadRequirement("python", message)
        asked = by_value.python
    if asked is not None:
        return _fitting(check_python(asked), script)
    # The server's own, else the nearest that is newer: `>=3.13` is what its author has.
    own = int(default.partition(".")[2])
    for minor in sorted(_MINORS, key=lambda minor: (minor < own, abs(minor - own))):
        if _fits(f"3.{minor}", script):
            return f"3.{minor}"
    raise BadRequirement("script", f"no Python is {script.requires_python}")


def _fitting(python: str, script: Script) -> str:
    if not _fits(python, script):
        message = f"the script needs Python {script.requires_python}, and python says {python}"
        raise BadRequirement("python", message)
    return python


def _fits(python: str, script: Script) -> bool:
    if not script.requires_python:
        return True
    # Which patch a worker has is not known here: the latest decides.
    versions = SpecifierSet(script.requires_python)
    return versions.contains(f"{python}.0") or versions.contains(f"{python}.99")


def _check_policy(requested: Requested, policy: Policy) -> None:
    if policy.is_open:
        return
    refused = policy.refused(requested.environment.names)
    if refused:
        raise NotAllowed(
            f"package not allowed: {', '.join(refused)}; this server's administrator says which"
            " packages tasks may name"
        )
