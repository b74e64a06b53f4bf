"""Packages that nobody here wrote, called by name alone: the module is found in their metadata."""

from __future__ import annotations

import pytest

from task_server.client.client import Client
from task_server.errors import TaskFailed
from tests.environments.small_index import small_index

pytestmark = [pytest.mark.e2e, pytest.mark.network, pytest.mark.timeout(180)]


KEYS = [bytes(16), bytes(16)]
WRAPPED = {"$bytes": "vzt3tekMqp9QCf6WJuTv4g3tde47GsDV"}
"""One of them as the other hides it (RFC 3394)."""


@pytest.mark.parametrize(
    ("package", "function", "args", "module", "answer"),
    [
        ("humanize", "intcomma", [1234567], "humanize", "1,234,567"),
        ("numpy", "linalg.norm", [[3, 4]], "numpy", 5.0),
        ("pandas", "to_numeric", [["1", "2"]], "pandas", [1, 2]),
        ("scikit-learn", "metrics.accuracy_score", [[1, 0], [1, 1]], "sklearn", 0.5),
        ("pillow", "ImageColor.getrgb", ["red"], "PIL", [255, 0, 0]),
        ("pyyaml", "safe_load", ["a: [1, 2]"], "yaml", {"a": [1, 2]}),
        ("sympy", "factorint", [12], "sympy", {"2": 2, "3": 1}),
        ("networkx", "is_graphical", [[2, 2, 2]], "networkx", True),
        ("lxml", "etree.iselement", [1], "lxml", False),
        ("cryptography", "hazmat.primitives.keywrap.aes_key_wrap", KEYS, "cryptography", WRAPPED),
        ("beautifulsoup4", "dammit.EntitySubstitution.substitute_xml", ["<"], "bs4", "&lt;"),
        ("polars", "Int64.is_numeric", [], "polars", True),
        ("duckdb", "get_table_names", ["select * from here"], "duckdb", ["here"]),
        ("protobuf", "json_format.ParseError", ["x"], "google.protobuf", None),
        ("ruamel.yaml", "compat.version_tnf", ["0.18"], "ruamel.yaml", None),
        ("python-dateutil", "parser.parse", ["2020-01-02"], "dateutil", "2020-01-02T00:00:00"),
    ],
)
def test_the_module_of_a_package_is_found(
    client: Client, package: str, function: str, args: list[object], module: str, answer: object
) -> None:
    future = client.options(result_encoding="json").submit(function, *args, package=package)

    try:
        given = future.result(timeout=120)
    except TaskFailed as error:  # the function's own affair: it was found and called
        assert error.kind == "exception", error
        given = None

    view = client.status(future.id)
    assert answer is None or given == answer
    assert view.resolved is not None and view.resolved.module is not None
    assert view.resolved.module.startswith(module)
    versions = view.resolved.versions or {}
    assert package.replace(".", "-") in versions


def test_a_package_reaches_a_server_of_this_machine(client: Client) -> None:
    with small_index() as server:
        server.files["greet.txt"] = b"hello"

        answer = client.options(result_encoding="json").call(
            "get", f"{server.url}/files/greet.txt", package="requests"
        )

    assert answer["$repr"] == "<Response [200]>" and server.requests == 1


def test_a_version_is_what_was_asked_for(client: Client) -> None:
    old = client.call("importlib.metadata:version", "humanize", package="humanize", version="4.9")
    new = client.call("importlib.metadata:version", "humanize", package="humanize>=4.11")

    assert old.startswith("4.9") and tuple(map(int, new.split(".")[:2])) >= (4, 11)


def test_a_package_without_such_a_version_fails_with_the_cause_first(client: Client) -> None:
    with pytest.raises(TaskFailed) as failed:
        client.call("humanize:intcomma", 1, package="humanize==99.0")

    assert failed.value.kind == "environment"
    assert "no version of humanize matches ==99.0" in str(failed.value).splitlines()[0]
    assert client.call("humanize:intcomma", 1000, package="humanize") == "1,000"
