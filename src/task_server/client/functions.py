"""Which functions travel by name and which by value, and what a pickle carries with it.

By name go functions of the standard library, and those of installed distributions when a
package is named for them. By value goes everything that a worker cannot import: what is defined
in a script, in a notebook, or in modules that no distribution installed. The user's modules are
carried along as far as a function refers to them, not only the module that it stands in.
"""

from __future__ import annotations

import functools
import importlib.util
import pickle
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
from msgspec import Struct

from task_server.errors import TaskServerError

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
FIELDS = frozenset({"function", "module", "package", "version"})
_SELF = __name__.partition(".")[0]
_UNPICKLABLE = (pickle.PicklingError, TypeError, ValueError, AttributeError, RecursionError)


class Target(Struct, frozen=True):
    """What is to be called: fields of a TASK, and the pickle if it goes by value."""

    fields: dict[str, Any]
    name: str
    """`module:qualname`, for people."""
    pickle: bytes | None = None


def named(
    function: str | Mapping[str, Any],
    package: str | list[str] | None = None,
    version: str | None = None,
) -> Target:
    """A function given by its name, or by a mapping with package, version, module, function."""
    given: dict[str, Any]
    given = {"function": function} if isinstance(function, str) else _mapping(function)
    if unknown := given.keys() - FIELDS:
        raise TypeError(f"unknown keys {sorted(unknown)}; a function has {sorted(FIELDS)}")
    for key, value in (("package", package), ("version", version)):
        if value is None:
            continue
        if given.get(key) is not None:
            raise TypeError(f"{key} is given twice")
        given[key] = value
    fields = {key: value for key, value in given.items() if value is not None}
    if not fields.get("function"):
        raise TypeError("the function's name is missing")
    return Target(fields, str(fields["function"]))


def _mapping(function: object) -> dict[str, Any]:
    if isinstance(function, Mapping):
        return dict(function)
    raise TypeError(
        "a function is a callable, or its name such as 'math:sqrt', not"
        f" {type(function).__name__}: pass the function itself, not what it returns"
    )


def check_reachable(fields: Mapping[str, Any]) -> None:
    """Raise TaskServerError for a name in the user's own code, which no worker can import."""
    module = fields.get("module") or str(fields["function"]).rpartition(":")[0]
    root = str(module).partition(".")[0]
    if root and not is_standard(root) and _lies_here(root):
        name = str(fields["function"]).rpartition(":")[2]
        raise TaskServerError(
            f"{root} is code of your own, which workers do not have; either pass the function"
            f" itself, as client.submit({name}, ...), and it is sent along, or upload the project"
            ' and name it: package = client.upload("PATH"), then package=package'
        )


def _lies_here(root: str) -> bool:
    if root == "__main__":
        return True
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    found = [place for place in places if place and place not in ("built-in", "frozen")]
    return bool(found) and not any(_is_installed(place) for place in found)


def callable_target(function: Callable[..., Any], *, packages: bool) -> Target:
    """How a callable travels; `packages` says whether any package was named for the call.

    Raises TaskServerError for a function of an installed distribution when none was.
    """
    place = _importable_place(function)
    if place is not None:
        module, name = place
        if is_standard(module):
            return Target({"function": f"{module}:{name}"}, f"{module}:{name}")
        if not is_own(module):
            return _installed(module, name, packages=packages)
    data = pickled(function)
    name = _shown_name(function)
    return Target({}, name, data)


def pickled(value: object) -> bytes:
    """The value pickled, with all it needs of the user's own modules in it."""
    with _carrying_own_modules():
        try:
            return cloudpickle.dumps(value)  # type: ignore[no-any-return]
        except _UNPICKLABLE as error:
            raise TaskServerError(f"{_shown_name(value)} cannot be pickled: {error}") from error


def needs_this_python(data: bytes) -> bool:
    """Whether a pickle holds code or classes by value, which other minor versions cannot read."""
    return b"cloudpickle.cloudpickle" in data


def is_standard(module: str) -> bool:
    """Whether a module belongs to Python itself."""
    return module.partition(".")[0] in sys.stdlib_module_names and module != "__main__"


def is_own(module: str) -> bool:
    """Whether a module is the user's own: neither Python's nor installed by a distribution."""
    if is_standard(module) or module.partition(".")[0] == _SELF:
        return False
    found = sys.modules.get(module)
    if found is None or module == "__main__":
        return True
    return not any(_is_installed(place) for place in _places(found))


def _installed(module: str, name: str, *, packages: bool) -> Target:
    if not packages:
        raise TaskServerError(
            f"{module}:{name} comes from an installed package, which the worker must install too;"
            f" name it: client.options(package=...).submit({name}, ...); if no index has it, upload"
            ' it first: client.upload("PATH"), or task-server packages upload'
        )
    return Target({"function": f"{module}:{name}"}, f"{module}:{name}")


def _importable_place(function: Callable[..., Any]) -> tuple[str, str] | None:
    """Module and qualified name under which exactly this object can be imported, if any."""
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if module is None:  # str.upper and its like
        module = getattr(getattr(function, "__objclass__", None), "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        return None
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is function else None


def _shown_name(value: object) -> str:
    while isinstance(value, functools.partial):
        value = value.func
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    module = getattr(value, "__module__", None) or type(value).__module__
    return f"{module}:{name}"


# The user's own modules


def _places(module: ModuleType) -> list[str]:
    file = getattr(module, "__file__", None)
    if file:
        return [file]
    return [str(place) for place in getattr(module, "__path__", ())] or [""]


@functools.cache
def _installed_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots.update(site.getsitepackages())
    roots.add(site.getusersitepackages())
    roots.update(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    return tuple(str(Path(root).resolve()) + "/" for root in roots)


@functools.lru_cache(maxsize=4096)
def _is_installed(place: str) -> bool:
    # Without a place a module is built in, or made by an installed one (six.moves).
    return not place or str(Path(place).resolve()).startswith(_installed_roots())


_lock = threading.RLock()
_judged: set[str] = set()
_own: set[str] = set()


def _own_modules() -> list[ModuleType]:
    new = sys.modules.keys() - _judged
    _judged.update(new)
    _own.update(name for name in new if name != "__main__" and is_own(name))
    loaded = [sys.modules.get(name) for name in _own]
    # Some programs put other things than modules there, or modules under another's name.
    return [each for each in loaded if isinstance(each, ModuleType) and each.__name__ in _own]


@contextmanager
def _carrying_own_modules() -> Iterator[None]:
    """Within, cloudpickle carries the user's own modules by value.

    cloudpickle knows this setting for the whole process only, so it lasts no longer than needed.
    """
    with _lock:
        before = cloudpickle.list_registry_pickle_by_value()
        modules = [each for each in _own_modules() if each.__name__ not in before]
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)
