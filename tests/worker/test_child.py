"""What the process that runs users' functions makes of calls, answers and failures."""

from __future__ import annotations

import ast
import base64
import datetime
import decimal
import hashlib
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple

import cloudpickle
import msgspec
import pytest

from task_server.worker.calls import Call, Outcome, control_frame
from task_server.worker.launch import CHILD, compiled_child
from tests.worker.running import Bench, by_value, call, named, small

by_value(__name__)

NESTED_TOO_DEEP = 200


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.close()


def answer(outcome: Outcome) -> Any:
    """The value that came back."""
    assert outcome.error is None, outcome.error
    if outcome.encoding == "pickle":
        return pickle.loads(outcome.answer)
    return msgspec.json.decode(outcome.answer)  # stricter than the standard library's


def error(outcome: Outcome) -> Any:
    """The failure that came back."""
    assert outcome.outcome == "failed"
    assert outcome.error is not None
    return outcome.error


def give_back(value: object) -> object:
    return value


async def as_json(bench: Bench, make: Any, *args: object) -> Any:
    """The JSON that the value of `make(*args)` becomes."""
    return answer(await bench.one(call(make, *args)))


# --- the file -----------------------------------------------------------------------------------


def test_child_imports_the_standard_library_alone() -> None:
    tree = ast.parse(CHILD.read_text(), feature_version=(3, 9))

    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    }
    imported |= {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }

    assert imported <= sys.stdlib_module_names


# --- answers ------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Place:
    name: str
    at: Point
    kind: ClassVar[str] = "place"
    tags: list[str] = field(default_factory=list)


class Series:
    def tolist(self) -> list[object]:
        return [1, 2.5, None]


class Frame:
    def to_dict(self) -> dict[str, object]:
        return {"column": Series()}


class Odd:
    def __init__(self) -> None:
        self.size = 3

    def __repr__(self) -> str:
        return "Odd " * 1000


class WholeNumber(int):
    def __str__(self) -> str:
        return "not this"


UTC = datetime.UTC
BYTES = {"$bytes": base64.b64encode(b"\x00\xff").decode()}

PLAIN_VALUES: list[tuple[object, object]] = [
    (None, None),
    (True, True),
    (10**40, 10**40),
    (0.1, 0.1),
    ("é\u0000\U0001f600", "é\u0000\U0001f600"),
    ([1, [2, {"a": []}]], [1, [2, {"a": []}]]),
    ((1, (2,)), [1, [2]]),
    ({3}, [3]),
    (frozenset({3}), [3]),
    (Point(1, 2), {"x": 1, "y": 2}),
    (Place("home", Point(1, 2)), {"name": "home", "at": {"x": 1, "y": 2}, "tags": []}),
    (OrderedDict(b=1, a=(2,)), {"b": 1, "a": [2]}),
    ({1: "a", None: "b", False: "c", 2.5: "d"}, {"1": "a", "null": "b", "false": "c", "2.5": "d"}),
    ({(1, 2): "pair"}, {"(1, 2)": "pair"}),
    ({datetime.date(2026, 1, 2): 1}, {"2026-01-02": 1}),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (datetime.time(3, 4, 5), "03:04:05"),
    (b"\x00\xff", BYTES),
    (bytearray(b"\x00\xff"), BYTES),
    (Series(), [1, 2.5, None]),
    (Frame(), {"column": [1, 2.5, None]}),
    (decimal.Decimal("1.10"), "1.10"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (PurePosixPath("/a/b"), "/a/b"),
    (WholeNumber(7), 7),
    ([math.nan, math.inf, -math.inf], [{"$float": "nan"}, {"$float": "inf"}, {"$float": "-inf"}]),
    (math.nan, {"$float": "nan"}),
]


async def test_values_become_json_as_the_wire_says(bench: Bench) -> None:
    calls = [call(give_back, value, lease=str(n)) for n, (value, _) in enumerate(PLAIN_VALUES)]

    outcomes = await bench.run(bench.start(), calls)

    for outcome, (value, wanted) in zip(outcomes, PLAIN_VALUES, strict=True):
        assert answer(outcome) == wanted, value
        assert outcome.encoding == "json"
        assert outcome.side_blobs == []


async def test_json_keeps_the_order_of_keys_and_the_text_of_numbers(bench: Bench) -> None:
    outcome = await bench.one(call(give_back, {"z": 1e300, "a": 0.1 + 0.2, "m": -0.0}))

    assert outcome.answer == b'{"z":1e+300,"a":0.30000000000000004,"m":-0.0}'


async def test_what_only_pickles_is_named_in_the_answer_and_travels_beside_it(bench: Bench) -> None:
    outcome = await bench.one(call(give_back, {"deep": [deque([1, 2])], "n": 1}))

    stub = answer(outcome)["deep"][0]
    [(digest, data)] = outcome.side_blobs
    assert stub == {"$type": "collections.deque", "$repr": "deque([1, 2])", "$blob": digest}
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert pickle.loads(data) == deque([1, 2])


async def test_the_repr_of_what_only_pickles_is_short(bench: Bench) -> None:
    outcome = await bench.one(call(Odd))

    assert len(answer(outcome)["$repr"]) == 1000
    assert answer(outcome)["$type"].endswith("test_child.Odd")


async def test_many_parts_that_only_pickle_travel_as_one(bench: Bench) -> None:
    outcome = await bench.one(call(give_back, [deque([n]) for n in range(100)]))

    [(digest, data)] = outcome.side_blobs
    assert answer(outcome)["$blob"] == digest
    assert len(pickle.loads(data)) == 100


@pytest.mark.parametrize(
    "value",
    ["lone \ud800", ["a", {"b": "\udfff"}], 10**5000, {1: 1, "1": 2}, {"\ud800": 1}],
    ids=["surrogate", "nested surrogate", "5000 digits", "two keys alike", "surrogate key"],
)
async def test_what_json_cannot_say_is_still_answered(bench: Bench, value: object) -> None:
    outcome = await bench.one(call(give_back, value))

    assert outcome.outcome == "succeeded"
    answer(outcome)
    assert len(outcome.side_blobs) == 1


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


async def test_nesting_deeper_than_the_server_takes_travels_as_a_pickle(bench: Bench) -> None:
    outcome = await bench.one(call(nested, NESTED_TOO_DEEP))

    assert answer(outcome)["$type"] == "list"
    assert pickle.loads(outcome.side_blobs[0][1]) == nested(NESTED_TOO_DEEP)


def endless(kind: str) -> Any:
    value: list[Any] = [1]
    value.append({"again": value} if kind == "dict" else value)
    return value


@pytest.mark.parametrize("kind", ["list", "dict"])
async def test_a_value_that_contains_itself_is_a_typed_failure(bench: Bench, kind: str) -> None:
    outcome = await bench.one(call(endless, kind))

    assert error(outcome).kind == "not_serialisable"


async def test_a_value_that_contains_itself_is_pickled_where_pickles_are_taken(
    bench: Bench,
) -> None:
    outcome = await bench.one(call(endless, "list", result_encoding="auto"))

    value = answer(outcome)
    assert value[1] is value


def a_lock() -> object:
    return threading.Lock()


@pytest.mark.parametrize("encoding", ["json", "auto", "pickle"])
async def test_what_does_not_pickle_either_is_not_serialisable(bench: Bench, encoding: str) -> None:
    outcome = await bench.one(call(a_lock, result_encoding=encoding))

    assert error(outcome).kind == "not_serialisable"
    assert "_thread.lock" in error(outcome).message
    assert "/child.py" not in error(outcome).traceback


class Evil:
    def __reduce__(self) -> str:
        raise SystemExit("caught")

    def __repr__(self) -> str:
        raise KeyboardInterrupt

    def __del__(self) -> None:
        raise ValueError


class EvilList:
    def tolist(self) -> Any:
        raise ZeroDivisionError


def make_evil() -> object:
    return Evil()


def make_evil_list() -> object:
    return EvilList()


async def test_objects_with_evil_methods_fail_or_pickle_and_the_runner_goes_on(
    bench: Bench,
) -> None:
    runner = bench.start()

    evil, listed, after = await bench.run(
        runner, [call(make_evil), call(make_evil_list), call(give_back, 1)]
    )

    assert error(evil).kind == "not_serialisable"
    assert listed.outcome == "succeeded"
    assert len(listed.side_blobs) == 1
    assert answer(after) == 1


def text_of(size: int) -> str:
    return "x" * size


@pytest.mark.parametrize("encoding", ["json", "auto", "pickle"])
async def test_an_answer_over_the_limit_is_too_big(bench: Bench, encoding: str) -> None:
    wanted = call(text_of, 5000, result_encoding=encoding, limits=small(answer_bytes=4096))

    outcome = await bench.one(wanted)

    assert error(outcome).kind == "too_big"
    assert "4,096" in error(outcome).message


def bytes_of(size: int) -> bytes:
    return b"x" * size


@pytest.mark.parametrize("encoding", ["auto", "pickle"])
async def test_what_its_encoding_adds_does_not_make_an_answer_too_big(
    bench: Bench, encoding: str
) -> None:
    for function in (bytes_of, text_of):
        wanted = call(function, 4096, result_encoding=encoding, limits=small(answer_bytes=4096))
        assert len(answer(await bench.one(wanted))) == 4096


def queue_of(size: int) -> object:
    return deque([b"x" * size])


async def test_a_part_over_the_limit_is_too_big(bench: Bench) -> None:
    outcome = await bench.one(call(queue_of, 9000, limits=small(answer_bytes=4096)))

    assert error(outcome).kind == "too_big"


async def test_an_answer_of_many_megabytes_arrives(bench: Bench) -> None:
    outcome = await bench.one(call(text_of, 40 << 20))

    assert len(answer(outcome)) == 40 << 20


AUTO_VALUES: list[tuple[object, str]] = [
    ({"a": [1, 2.5, None, True, "x"]}, "json"),
    ((1, 2), "pickle"),
    ([1, (2,)], "pickle"),
    ({1: 2}, "pickle"),
    (math.inf, "pickle"),
    ("\ud800", "pickle"),
    (10**5000, "pickle"),
    (WholeNumber(1), "pickle"),
    (OrderedDict(a=1), "pickle"),
]


async def test_auto_is_json_only_where_nothing_changes(bench: Bench) -> None:
    calls = [call(give_back, value, result_encoding="auto") for value, _ in AUTO_VALUES]

    outcomes = await bench.run(bench.start(), calls)

    for outcome, (value, encoding) in zip(outcomes, AUTO_VALUES, strict=True):
        assert (outcome.encoding, outcome.side_blobs) == (encoding, [])
        assert answer(outcome) == value


# --- arguments ----------------------------------------------------------------------------------


def from_json(payload: object, blobs: dict[str, str] | None = None, **options: Any) -> Call:
    """A call that gives back its first argument."""
    data = json.dumps([[payload], {}]).encode()
    return Call(lease="l", function="functions:same", payload=data, blobs=blobs or {}, **options)


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    """A folder of packages with one module."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "functions.py").write_text("def same(value):\n    return value\n")
    return folder


async def test_bytes_and_blobs_in_arguments_are_put_in_place(
    bench: Bench, functions: Path, tmp_path: Path
) -> None:
    files = {"bytes": b"\x00raw", "json": b'{"a": 1}', "pickle": pickle.dumps((1, 2))}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    blobs = {f"sha256:{name}": str(tmp_path / name) for name in files}
    arguments = {
        "inline": {"$bytes": "AP8="},
        "list": [{"$blob": "sha256:bytes"}],
        "path": {"$blob": "sha256:bytes", "as": "path"},
        "json": {"$blob": "sha256:json", "as": "json"},
        "pickle": {"$blob": "sha256:pickle", "as": "pickle"},
        "ordinary": {"$blob": "sha256:bytes", "other": 1},
    }
    runner = bench.start(site_packages=functions)

    outcome = await bench.one(from_json(arguments, blobs, result_encoding="pickle"), runner=runner)

    assert answer(outcome) == {
        "inline": b"\x00\xff",
        "list": [b"\x00raw"],
        "path": str(tmp_path / "bytes"),
        "json": {"a": 1},
        "pickle": (1, 2),
        "ordinary": {"$blob": "sha256:bytes", "other": 1},
    }


@pytest.mark.parametrize("encoding", ["json", "pickle"])
async def test_arguments_in_a_file_are_read_from_there(
    bench: Bench, functions: Path, tmp_path: Path, encoding: Literal["json", "pickle"]
) -> None:
    argument = ["x" * 300_000, {"$bytes": "AP8="}]
    file = tmp_path / "arguments"
    file.write_bytes(
        pickle.dumps(([argument], {}))
        if encoding == "pickle"
        else json.dumps([[argument], {}]).encode()
    )
    runner = bench.start(site_packages=functions)

    outcome = await bench.one(
        Call(
            lease="l",
            function="functions:same",
            encoding=encoding,
            payload=bytes(file),
            is_in_file=True,
            result_encoding="pickle",
        ),
        runner=runner,
    )

    assert answer(outcome) == (argument if encoding == "pickle" else [argument[0], b"\x00\xff"])


async def test_arguments_in_a_file_that_is_not_there_are_a_failure(
    bench: Bench, functions: Path, tmp_path: Path
) -> None:
    runner = bench.start(site_packages=functions)
    call = Call(
        lease="l", function="functions:same", payload=bytes(tmp_path / "none"), is_in_file=True
    )

    outcome = await bench.one(call, runner=runner)

    assert error(outcome).kind == "exception"
    assert "the arguments could not be read" in error(outcome).message


async def test_large_values_come_back_whole_in_whatever_pieces_they_are_pickled(
    bench: Bench, functions: Path
) -> None:
    value = [bytes([n % 256]) * (1 + n * 3000) for n in range(200)] + [bytearray(b"y" * 200_000)]
    runner = bench.start(site_packages=functions)
    payload = pickle.dumps(([value], {}))

    outcome = await bench.one(
        Call(
            lease="l",
            function="functions:same",
            encoding="pickle",
            payload=payload,
            result_encoding="pickle",
        ),
        runner=runner,
    )

    assert answer(outcome) == value


async def test_a_blob_that_is_not_there_is_a_failure(bench: Bench, functions: Path) -> None:
    runner = bench.start(site_packages=functions)

    outcome = await bench.one(from_json({"$blob": "sha256:none"}), runner=runner)

    assert error(outcome).kind == "not_found"
    assert "sha256:none" in error(outcome).message


async def test_arguments_that_do_not_fit_are_a_type_error_that_names_the_function(
    bench: Bench, functions: Path
) -> None:
    runner = bench.start(site_packages=functions)

    outcome = await bench.one(named("functions:same", 1, 2), runner=runner)

    assert (error(outcome).kind, error(outcome).type) == ("exception", "TypeError")
    assert "same()" in error(outcome).message


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (pickle.dumps(5), "exception"),
        (b"no pickle", "exception"),
        (b"cno_such_module\nname\n.", "import"),
    ],
    ids=["no pair", "garbage", "missing module"],
)
async def test_arguments_that_cannot_be_read_are_a_failure(
    bench: Bench, payload: bytes, kind: str
) -> None:
    outcome = await bench.one(Call(lease="l", function="len", encoding="pickle", payload=payload))

    assert error(outcome).kind == kind


# --- which callable -----------------------------------------------------------------------------


def distribution(
    site: Path, name: str, files: dict[str, str], *, top_level: str | None = None
) -> None:
    """Put a distribution into a folder of packages as an installer does."""
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    listed = [*files, f"{info.name}/RECORD", "../../bin/tool"]
    (info / "RECORD").write_text("".join(f"{path},sha256=x,1\n" for path in listed))
    if top_level is not None:
        (info / "top_level.txt").write_text(top_level)


CODE = "def run():\n    return __name__\n"

BY_PACKAGE = [
    ("plain", "plain", {"plain/__init__.py": CODE}, None, "plain"),
    ("one file", "six", {"six.py": CODE}, None, "six"),
    ("spelled", "My.Thing", {"my_thing/__init__.py": CODE}, None, "my_thing"),
    ("top level", "Pillow", {"PIL/__init__.py": CODE}, "PIL\n", "PIL"),
    ("private", "yaml", {"yaml/__init__.py": CODE, "_yaml/__init__.py": CODE}, None, "yaml"),
    (
        "namesake",
        "attrs",
        {"attr/__init__.py": CODE, "attrs/__init__.py": CODE},
        "attr\nattrs\n",
        "attrs",
    ),
    ("namespace", "protobuf", {"google/protobuf/__init__.py": CODE}, None, "google.protobuf"),
    ("namespace file", "ruamel.yaml", {"ruamel/yaml.py": CODE}, None, "ruamel.yaml"),
    (
        "nested namesake",
        "google-cloud-storage",
        {
            "google/cloud/storage/__init__.py": CODE,
            "google/cloud/storage_control/__init__.py": CODE,
        },
        None,
        "google.cloud.storage",
    ),
    (
        "only what is there",
        "other-name",
        {"thing/__init__.py": CODE},
        "thing\nnot_installed\n",
        "thing",
    ),
]


@pytest.mark.parametrize(
    ("name", "files", "top_level", "module"),
    [case[1:] for case in BY_PACKAGE],
    ids=[case[0] for case in BY_PACKAGE],
)
async def test_a_package_names_its_module_by_its_metadata(
    bench: Bench,
    tmp_path: Path,
    name: str,
    files: dict[str, str],
    top_level: str | None,
    module: str,
) -> None:
    distribution(tmp_path / "site", name, files, top_level=top_level)
    runner = bench.start(site_packages=tmp_path / "site")

    outcome = await bench.one(named("run", package=f"{name}[extra]>=1.0"), runner=runner)

    assert answer(outcome) == module
    assert outcome.resolved is not None
    assert (outcome.resolved.module, outcome.resolved.rule) == (module, "package")


async def test_a_package_with_several_modules_lists_them(bench: Bench, tmp_path: Path) -> None:
    distribution(tmp_path / "site", "both", {"one.py": CODE, "two.py": CODE})
    runner = bench.start(site_packages=tmp_path / "site")

    outcome = await bench.one(named("run", package="both"), runner=runner)

    assert error(outcome).kind == "not_found"
    assert "one, two" in error(outcome).message


async def test_another_distribution_in_the_same_namespace_does_not_matter(
    bench: Bench, tmp_path: Path
) -> None:
    distribution(tmp_path / "site", "acme-first", {"acme/first.py": CODE})
    distribution(tmp_path / "site", "acme-second", {"acme/second.py": CODE})
    runner = bench.start(site_packages=tmp_path / "site")

    outcome = await bench.one(named("run", package="acme-second"), runner=runner)

    assert answer(outcome) == "acme.second"


BY_NAME: list[tuple[str, list[object], object, str, str]] = [
    ("len", [[1, 2]], 2, "builtins", "builtin"),
    ("str.upper", ["a"], "A", "builtins", "builtin"),
    ("math.factorial", [5], 120, "math", "stdlib"),
    ("os.path.basename", ["/a/b"], "b", "os.path", "stdlib"),
    ("datetime.date.fromisoformat", ["2026-01-02"], "2026-01-02", "datetime", "stdlib"),
    ("math:sqrt", [16], 4.0, "math", "module"),
    ("xml.sax.saxutils:escape", ["<"], "&lt;", "xml.sax.saxutils", "module"),
]


async def test_names_without_a_package_are_builtins_or_of_the_standard_library(
    bench: Bench,
) -> None:
    calls = [named(name, *args, lease=name) for name, args, *_ in BY_NAME]

    outcomes = await bench.run(bench.start(), calls)

    for outcome, (name, _, value, module, rule) in zip(outcomes, BY_NAME, strict=True):
        assert answer(outcome) == value, name
        assert outcome.resolved is not None
        assert (outcome.resolved.module, outcome.resolved.rule) == (module, rule)


async def test_dots_are_attributes_else_submodules(bench: Bench, tmp_path: Path) -> None:
    files = {"pkg/__init__.py": "", "pkg/sub.py": "class Thing:\n  def of(): return 5\n"}
    distribution(tmp_path / "site", "pkg", files)
    runner = bench.start(site_packages=tmp_path / "site")

    outcomes = await bench.run(
        runner,
        [named("sub.Thing.of", package="pkg"), named("sub.Thing.of", module="pkg")],
    )

    assert [answer(outcome) for outcome in outcomes] == [5, 5]


NOT_FOUND = [
    ("sqr", {"module": "math"}, "sqrt"),
    ("math.sqrt", {"module": "math"}, "before a colon"),
    ("lenn", {}, "len"),
    ("no_such_package.run", {}, "Name the package"),
    ("pi", {"module": "math"}, "not a function"),
    ("run", {"package": "not-installed"}, "not installed"),
    ("", {}, "not a name"),
    ("a b", {"module": "math"}, "not a name"),
    ("run", {"module": "..x"}, "not a name"),
    ("math:", {}, "not a name"),
    ("f" * 10_000, {"module": "math"}, "math has no"),
]


@pytest.mark.parametrize(("function", "options", "hint"), NOT_FOUND)
async def test_a_name_that_is_not_there_is_not_found_and_told_why(
    bench: Bench, function: str, options: dict[str, Any], hint: str
) -> None:
    outcome = await bench.one(named(function, **options))

    assert error(outcome).kind == "not_found"
    assert hint in error(outcome).message
    assert len(error(outcome).message) < 1000


@pytest.mark.parametrize(
    ("source", "type_name"),
    [
        ("import not_there_at_all", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
    ],
)
async def test_a_module_that_fails_to_import_is_an_import_failure_with_its_traceback(
    bench: Bench, tmp_path: Path, source: str, type_name: str
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "bad.py").write_text(source)
    runner = bench.start(site_packages=tmp_path / "site")

    bad, after = await bench.run(runner, [named("bad:run"), named("len", [])])

    assert (error(bad).kind, error(bad).type) == ("import", type_name)
    assert "--package" not in error(bad).message  # which has it is known
    assert "bad.py" in error(bad).traceback
    assert "/child.py" not in error(bad).traceback
    assert answer(after) == 0


async def test_a_module_that_is_not_there_is_an_import_failure_that_asks_for_its_package(
    bench: Bench,
) -> None:
    outcome = await bench.one(named("no_such_module.inner:run"))

    assert error(outcome).kind == "import"
    assert "No module named 'no_such_module'" in error(outcome).message
    assert "--package NAME" in error(outcome).message


async def test_path_files_of_the_environment_are_not_processed(
    bench: Bench, functions: Path, tmp_path: Path
) -> None:
    (functions / "evil.pth").write_text(f"import os; os.mkdir({str(tmp_path / 'touched')!r})\n")
    runner = bench.start(site_packages=functions)

    outcome = await bench.one(from_json(1), runner=runner)

    assert answer(outcome) == 1
    assert not (tmp_path / "touched").exists()


async def test_the_time_to_import_is_told_once_and_apart(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.2)\ndef run(): time.sleep(0.1)\n")
    runner = bench.start(site_packages=tmp_path)

    first, second = await bench.run(runner, [named("slow:run"), named("slow:run")])

    assert first.usage and second.usage
    assert 0.2 <= first.usage.import_seconds < 1
    assert 0.1 <= first.usage.run_seconds < 0.2
    assert second.usage.import_seconds == 0


def burn() -> int:
    return len(bytearray(200 << 20)) + sum(range(3_000_000))


async def test_usage_tells_processor_time_and_peak_memory(bench: Bench) -> None:
    runner = bench.start()

    little, much = await bench.run(runner, [named("len", []), call(burn)])

    assert little.usage and much.usage
    assert 1 << 20 < little.usage.peak_bytes < 100 << 20
    assert much.usage.peak_bytes > 200 << 20
    assert 0.01 < much.usage.cpu_seconds < 10


async def test_a_call_does_not_have_the_peak_of_one_before_it(bench: Bench) -> None:
    runner = bench.start()

    much, little = await bench.run(runner, [call(burn), named("len", [])])

    assert much.usage and little.usage
    assert little.usage.peak_bytes < much.usage.peak_bytes - (100 << 20)


async def test_a_function_by_value_that_cannot_be_read_is_an_import_failure(bench: Bench) -> None:
    outcome = await bench.one(Call(lease="l", pickled=b"cno_such_module\nname\n."))

    assert error(outcome).kind == "import"


def path_names() -> list[str]:
    return sys.path


async def test_cloudpickle_comes_last_on_the_path_and_only_for_functions_by_value(
    bench: Bench, functions: Path
) -> None:
    (functions / "functions.py").write_text("import sys\ndef path(): return sys.path\n")
    runner = bench.start(site_packages=functions)

    by_name, by_value = await bench.run(runner, [named("functions:path"), call(path_names)])

    assert answer(by_name)[-1] == str(functions)
    assert answer(by_value) == [*answer(by_name), str(bench.folder / "cloudpickle")]


async def test_arguments_of_the_callers_own_classes_can_be_read(bench: Bench) -> None:
    source = (
        "class Own:\n    def __init__(self, x): self.x = x\n    def __len__(self): return self.x"
    )
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(source, space)
    payload = cloudpickle.dumps(((space["Own"](7),), {}))

    outcome = await bench.one(Call(lease="l", function="len", encoding="pickle", payload=payload))

    assert answer(outcome) == 7


# --- failures -----------------------------------------------------------------------------------


class Unhappy(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even a text")


class BaseUnhappy(BaseException):
    pass


def cycle() -> Exception:
    error = ValueError("round")
    error.__cause__ = RuntimeError("and round")
    error.__cause__.__cause__ = error
    return error


RAISED: dict[str, Any] = {
    "evil text": Unhappy,
    "base": lambda: BaseUnhappy("quite"),
    "cycle": cycle,
    "surrogate": lambda: ValueError("lone \ud800 here"),
    "huge": lambda: ValueError("x" * 100_000_000),
    "memory": MemoryError,
    "interrupt": KeyboardInterrupt,
    "exit": lambda: SystemExit("exit"),
}


def fail(kind: str) -> None:
    if kind == "recursion":
        fail(kind)
    raise RAISED[kind]()


FAILURES = [
    ("evil text", "Unhappy", "RuntimeError"),
    ("base", "BaseUnhappy", "quite"),
    ("cycle", "ValueError", "round"),
    ("surrogate", "ValueError", "lone \\ud800 here"),
    ("huge", "ValueError", "xxx"),
    ("memory", "MemoryError", ""),
    ("interrupt", "KeyboardInterrupt", ""),
    ("recursion", "RecursionError", "recursion"),
    ("exit", "SystemExit", "exit"),
]


@pytest.mark.parametrize("encoding", ["json", "auto"])
async def test_whatever_is_raised_becomes_a_bounded_text(bench: Bench, encoding: str) -> None:
    runner = bench.start()

    outcomes = await bench.run(
        runner,
        [call(fail, kind, lease=kind, result_encoding=encoding) for kind, *_ in FAILURES],
    )

    for outcome, (_, type_name, text) in zip(outcomes, FAILURES, strict=True):
        kind = "out_of_memory" if type_name == "MemoryError" else "exception"
        assert error(outcome).kind == kind
        assert error(outcome).type.rpartition(".")[2] == type_name
        assert text in error(outcome).message
        assert len(error(outcome).message) < 11_000
        assert len(error(outcome).traceback) < 101_000
        assert "in fail" in error(outcome).traceback
        assert "/child.py" not in error(outcome).traceback
    assert runner.is_open


class Precise(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def fail_precisely() -> None:
    raise Precise(7)


async def test_the_child_runs_as_byte_code_too(bench: Bench) -> None:
    child = compiled_child(Path(sys.executable), bench.folder)
    runner = bench.start(child=child)

    good, bad = await bench.run(runner, [call(give_back, 1), call(fail, "base")])

    assert (child.suffix, answer(good)) == (".pyc", 1)
    assert "/child.py" not in error(bad).traceback
    assert compiled_child(Path(sys.executable), bench.folder) == child


async def test_the_exception_itself_travels_to_callers_in_python(bench: Bench) -> None:
    runner = bench.start()

    as_value, as_text = await bench.run(
        runner,
        [call(fail_precisely, result_encoding="auto"), call(fail_precisely)],
    )

    assert pickle.loads(base64.b64decode(error(as_value).pickle)).code == 7
    assert error(as_text).pickle is None


# --- what is put back ---------------------------------------------------------------------------


class FullStream:
    def write(self, text: str) -> int:
        raise OSError("full")

    def flush(self) -> None:
        raise SystemExit


def change_everything() -> None:
    import locale

    Path("left.txt").write_text("left")
    Path("folder").mkdir()
    os.chdir("/")
    os.environ["HOME"] = "/nowhere"
    os.environ["ADDED"] = "1"
    del os.environ["LANG"]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    locale.setlocale(locale.LC_ALL, "C")
    sys.stdout.close()
    sys.stdout = FullStream()
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    os.close(0)
    os.close(1)


def surroundings() -> dict[str, Any]:
    import locale
    import time

    sys.stdout.write("printed\n")
    sys.stderr.write("and told\n")
    time.sleep(0.3)
    return {
        "folder": str(Path.cwd()),
        "files": sorted(path.name for path in Path.cwd().iterdir()),
        "variables": dict(os.environ),
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGALRM)],
        "locale": locale.setlocale(locale.LC_ALL),
        "input": os.read(0, 10).hex(),
    }


async def test_what_a_call_changes_is_put_back_before_the_next(bench: Bench) -> None:
    runner = bench.start()

    before, _, after = await bench.run(
        runner, [call(surroundings), call(change_everything), call(surroundings)]
    )

    assert answer(after) == answer(before)
    assert before.log == after.log == b"printed\nand told\n"


async def test_a_runner_sees_no_variables_but_the_allowed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")

    seen = answer(await bench.one(call(surroundings)))["variables"]

    assert set(seen) <= {
        *("PATH", "LANG", "TZ", "HOME", "TMPDIR", "TASK_SERVER_RUNNER", "LC_CTYPE"),
        *(f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")),
    }
    assert seen["HOME"] == str(bench.folder / "runner-0")


def main_names() -> list[str]:
    return sorted(name for name in vars(sys.modules["__main__"]) if not name.startswith("__"))


async def test_main_is_empty_for_functions(bench: Bench) -> None:
    assert answer(await bench.one(call(main_names))) == []


@pytest.mark.parametrize("named_folder", ["", "else"], ids=["no folder", "another folder"])
def test_an_other_folder_than_the_one_that_was_made_for_it_is_left_alone(
    tmp_path: Path, named_folder: str
) -> None:
    for name in ("somebodys", "else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    setup = {"nonce": 1, "folder": str(tmp_path / named_folder) if named_folder else None}
    ours, frames = socket.socketpair()
    starts, _ = pair = socket.socketpair()
    with ours, frames, pair[0], pair[1]:
        ours.send(control_frame(setup))
        ended = subprocess.run(
            [sys.executable, "-I", "-S", CHILD, str(frames.fileno()), str(starts.fileno()), "0"],
            cwd=tmp_path / "somebodys",
            pass_fds=(frames.fileno(), starts.fileno()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
        )

    assert ended.returncode == 1 and b"not the folder that was made for functions" in ended.stderr
    assert [(tmp_path / name / "file").exists() for name in ("somebodys", "else")] == [True, True]
