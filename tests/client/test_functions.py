from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import pytest

from task_server.client.functions import (
    callable_target,
    check_reachable,
    is_own,
    is_standard,
    named,
    pickled,
)
from task_server.errors import TaskServerError

LOAD = "import pickle, sys; print(pickle.load(sys.stdin.buffer)(*map(int, sys.argv[1:])))"


def double(x: int) -> int:
    return 2 * x


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two modules of a user's, of which one uses the other."""
    (tmp_path / "my_numbers.py").write_text("FACTOR = 3\ndef triple(x):\n    return FACTOR * x\n")
    (tmp_path / "my_work.py").write_text(
        "import my_numbers\ndef work(x):\n    return my_numbers.triple(x) + 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import my_work  # type: ignore[import-not-found]

    yield my_work
    del sys.modules["my_work"], sys.modules["my_numbers"]


def run_elsewhere(data: bytes, *args: int) -> str:
    """Unpickle and call in an interpreter that has none of our modules."""
    place = str(Path(cloudpickle.__file__).parent.parent)
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, args)],
        input=data,
        capture_output=True,
        check=True,
        env={"PYTHONPATH": place},
        cwd="/",
    )
    return ran.stdout.decode().strip()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (math.factorial, "math:factorial"),
        (len, "builtins:len"),
        (str.upper, "builtins:str.upper"),
        (functools.reduce, "_functools:reduce"),
    ],
)
def test_functions_of_python_itself_go_by_name(function: Callable[..., Any], name: str) -> None:
    target = callable_target(function, packages=False)

    assert target.fields == {"function": name} and target.pickle is None


def test_an_installed_function_goes_by_name_when_a_package_is_named() -> None:
    target = callable_target(msgspec.json.format, packages=True)

    assert target.fields == {"function": "msgspec.json:format"} or target.pickle is None


def test_an_installed_function_without_its_package_is_refused_with_the_way_out() -> None:
    with pytest.raises(TaskServerError, match=r"client\.options\(package=\.\.\.\)"):
        callable_target(cloudpickle.dumps, packages=False)


def test_an_own_function_goes_by_value() -> None:
    target = callable_target(double, packages=False)

    assert target.fields == {} and target.pickle is not None
    assert target.name.endswith(":double")
    assert run_elsewhere(target.pickle, 21) == "42"


def test_what_an_own_function_uses_of_other_own_modules_goes_with_it(own_modules: Any) -> None:
    target = callable_target(own_modules.work, packages=False)

    assert target.pickle is not None
    assert run_elsewhere(target.pickle, 5) == "16"
    assert target.name == "my_work:work"


def test_own_classes_in_arguments_are_carried_too(own_modules: Any) -> None:
    exec("class Adder:\n    def __call__(self, x):\n        return x + 1", own_modules.__dict__)

    assert run_elsewhere(pickled(own_modules.Adder()), 4) == "5"


def test_what_others_told_cloudpickle_stays_as_it_was(own_modules: Any) -> None:
    cloudpickle.register_pickle_by_value(own_modules)
    told = cloudpickle.list_registry_pickle_by_value()
    try:
        pickled(own_modules.work)

        assert cloudpickle.list_registry_pickle_by_value() == told
    finally:
        cloudpickle.unregister_pickle_by_value(own_modules)


def test_partials_lambdas_and_bound_methods_go_by_value() -> None:
    for function in (functools.partial(double, 4), lambda: 8, (8).__abs__):
        target = callable_target(function, packages=False)

        assert target.pickle is not None
        assert run_elsewhere(target.pickle) == "8"


def test_modules_are_told_apart() -> None:
    assert is_standard("json.decoder") and not is_standard("__main__")
    assert is_own("__main__") and is_own(__name__)
    assert not is_own("msgspec") and not is_own("task_server.client")


def test_a_name_can_have_a_package_and_a_version() -> None:
    target = named("humanize:intcomma", "humanize", "4.9")

    assert target.fields == {
        "function": "humanize:intcomma",
        "package": "humanize",
        "version": "4.9",
    }


def test_a_mapping_names_a_function() -> None:
    assert named({"module": "math", "function": "sqrt", "package": None}).fields == {
        "module": "math",
        "function": "sqrt",
    }


@pytest.mark.parametrize(
    ("function", "package", "message"),
    [
        ({"function": "f", "timeout": 3}, None, "unknown keys"),
        ({"function": "f", "package": "a"}, "b", "given twice"),
        ({"module": "math"}, None, "name is missing"),
        ("", None, "name is missing"),
        (None, None, "a function is a callable, or its name .*, not NoneType"),
        (3, "a", "pass the function itself, not what it returns"),
    ],
)
def test_a_name_that_says_too_much_or_too_little_is_refused(
    function: Any, package: str | None, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        named(function, package)


@pytest.mark.parametrize(
    "fields",
    [
        {"function": "my_work:work"},
        {"function": "work", "module": "my_work"},
        {"function": "__main__:f"},
        {"function": "my_work.inner:f"},
    ],
)
def test_a_name_in_ones_own_code_is_refused_with_the_two_ways_out(
    own_modules: Any, fields: dict[str, str]
) -> None:
    with pytest.raises(TaskServerError, match=r"pass the function itself.*or upload the project"):
        check_reachable(fields)


@pytest.mark.parametrize(
    "function", ["math:factorial", "len", "str.upper", "no_such_module:f", "msgspec:convert", ":f"]
)
def test_other_names_are_left_to_the_workers(own_modules: Any, function: str) -> None:
    check_reachable({"function": function})
