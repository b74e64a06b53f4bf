"""What is to be called, and with which options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from task_server.client.functions import Target, callable_target, check_reachable, named
from task_server.client.options import Options, merged
from task_server.client.payloads import INLINE_BYTES
from task_server.client.submission import Call, call_of

Function = Callable[..., Any] | str | Mapping[str, Any]
"""A callable, `"module:qualname"`, or a mapping with package, version, module, function."""

_NAME_PACKAGES = frozenset({"package", "requirements", "script", "environment"})


class Calls:
    """Makes the shared part of a submit from a function, under the same options."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def with_options(self, options: Options) -> Calls:
        """The same with other options; None takes one back."""
        return Calls(merged(self._options, options))

    def settle(
        self, function: Function, kwargs: dict[str, Any], *, inline_bytes: int = INLINE_BYTES
    ) -> tuple[Call, dict[str, Any]]:
        """The shared part of a call, and the keywords that are for the function."""
        if callable(function):
            return self._call_of(self._by_callable(function), inline_bytes), kwargs
        package, version = kwargs.pop("package", None), kwargs.pop("version", None)
        return self._call_of(self._by_name(function, package, version)), kwargs

    def of(self, function: Function, package: str | list[str] | None, version: str | None) -> Call:
        """The shared part of calls whose keywords are all for the function."""
        if not callable(function):
            return self._call_of(self._by_name(function, package, version))
        calls = self
        if package is not None or version is not None:
            calls = self.with_options(Options(package=package, version=version))
        return calls._call_of(calls._by_callable(function))

    def _by_name(
        self,
        function: str | Mapping[str, Any],
        package: str | list[str] | None,
        version: str | None,
    ) -> Target:
        target = named(function, package, version)
        if "package" not in target.fields and self._options.keys().isdisjoint(_NAME_PACKAGES):
            check_reachable(target.fields)
        return target

    def _by_callable(self, function: Callable[..., Any]) -> Target:
        has_packages = not self._options.keys().isdisjoint(_NAME_PACKAGES)
        return callable_target(function, packages=has_packages)

    def _call_of(self, target: Target, inline_bytes: int = INLINE_BYTES) -> Call:
        return call_of(target, self._options, inline_bytes=inline_bytes)
