from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from task_server.environments.names import BadName, Target, parse_target
from task_server.environments.requirements import (
    BadRequirement,
    EnvironmentRequest,
    parse_request,
)

HOSTILE = [
    " ",
    "   ",
    "..",
    "../x",
    "./x",
    ".",
    "/etc/passwd",
    "a/b",
    "~/x",
    "C:\\x",
    "\\\\host\\share\\x.whl",
    "-r x",
    "-r",
    "--index-url=http://evil.example",
    "--index-url http://evil.example",
    " -e .",
    "-e .",
    "git+https://evil.example/x.git",
    "git+ssh://evil.example/x.git",
    "humanize @ file:///etc/passwd",
    "humanize@file:x",
    "humanize @ https://evil.example/x.whl",
    "https://evil.example/x.whl",
    "http:x",
    "file:x",
    "humanize\nflask",
    "humanize\r",
    "humanize\n",
    "\thumanize",
    "humanize\x00",
    "humanize\x1b[2J",
    "humanize\x7f",
    "humanize; rm -rf x",
    "humanize;python_version<'4'",
    "humanize && ls",
    "humanize | ls",
    "$(ls)",
    "`ls`",
    "${HOME}",
    "humanize > x",
    "humanize < x",
    "humanize 'x'",
    'humanize "x"',
    "humanize # x",
    "humanize*",
    "humanize?",
    "hum%61nize",
    "a" * 10_000,
    "a" * 201,
    "хуманайз",
    "humaniz\u0435",
    "🐍",
    "humanize\u200b",
    "humanize\u2028",
    "\ud800",
    "humanize[",
    "humanize[]",
    "humanize[a,]",
    "humanize[a",
    "humanize]",
    "[a]",
    "==1.0",
    ">=1",
    "_x",
    "x_",
    ",",
    "humanize==",
    "humanize=1",
    "humanize===1.0",
    "humanize>=1,",
    "humanize==1..2",
    "humanize (>=1)",
    "humanize 1.0",
    "humanize flask",
    "humanize,flask",
    "humanize --hash=sha256:00",
]


@pytest.mark.parametrize("package", HOSTILE)
def test_what_is_not_a_name_with_versions_is_refused(package: str) -> None:
    with pytest.raises(BadRequirement) as refused:
        parse_request(package, python="3.11")

    assert refused.value.field == "package"
    assert "pandas[parquet]>=2,<3" in refused.value.message
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("package", HOSTILE)
def test_a_list_is_no_way_round(package: str) -> None:
    with pytest.raises(BadRequirement):
        parse_request(["humanize", package], python="3.11")


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        ("--index-url=x", "option"),
        ("git+https://x", "URL"),
        ("humanize @ x", "direct reference"),
        ("../x", "path"),
        ("x; y", "marker"),
        ("x\ny", "control"),
        ("🐍", "ASCII"),
        ("  ", "blank"),
        ("a" * 500, "longer"),
    ],
)
def test_a_refusal_names_what_is_wrong(package: str, reason: str) -> None:
    with pytest.raises(BadRequirement, match=reason):
        parse_request(package, python="3.11")


@pytest.mark.parametrize("version", [*HOSTILE, "1.2.x", "latest", "1.*", "=1", "===1", ">=", "1 2"])
def test_what_is_not_a_version_is_refused(version: str) -> None:
    if version in ("==1.0", ">=1"):
        return  # hostile as a package only

    with pytest.raises(BadRequirement) as refused:
        parse_request("humanize", version, python="3.11")

    assert refused.value.field == "version"


@pytest.mark.parametrize(
    ("package", "version", "expected"),
    [
        ("humanize", None, "humanize"),
        ("Humanize", "", "humanize"),
        ("ruamel.yaml", None, "ruamel-yaml"),
        ("humanize", "4.9", "humanize==4.9"),
        ("humanize", " 4.9 ", "humanize==4.9"),
        ("torch", "2.1.0+cpu", "torch==2.1.0+cpu"),
        ("humanize", ">=4, <5", "humanize<5,>=4"),
        ("humanize", "~=4.1", "humanize~=4.1"),
        ("humanize", "==4.*", "humanize==4.*"),
        ("humanize>=4,<5", None, "humanize<5,>=4"),
        ("Pandas[Parquet, aws] >= 2, != 2.1", None, "pandas[aws,parquet]!=2.1,>=2"),
        (["humanize"], "", "humanize"),
    ],
)
def test_a_request_has_one_canonical_text(package: Any, version: str | None, expected: str) -> None:
    requested = parse_request(package, version, python="3.11")

    assert requested.environment.requirements == (expected,)
    assert requested.environment.text == f"python 3.11\n{expected}"


def test_the_order_of_a_list_does_not_matter_but_its_first_package_is_kept() -> None:
    one = parse_request(["Numpy>=2", "humanize", "numpy >=2"], python="3.11")
    other = parse_request(["humanize", "numpy>=2"], python="3.11")

    assert one.environment == other.environment
    assert (one.package, other.package) == ("numpy", "humanize")


@pytest.mark.parametrize("package", [None, "", [], ()])
def test_no_package_asks_for_the_standard_library_only(package: Any) -> None:
    requested = parse_request(package, "", python="3.12")

    assert requested.environment == EnvironmentRequest((), "3.12")
    assert requested.package is None


@pytest.mark.parametrize(
    ("package", "version", "reason"),
    [
        ("humanize>=4", "4.9", "twice"),
        (["humanize"], "4.9", "list"),
        (None, "4.9", "without package"),
        ("humanize", "  ", "blank"),
    ],
)
def test_a_version_stands_in_one_place_only(package: Any, version: str, reason: str) -> None:
    with pytest.raises(BadRequirement, match=reason) as refused:
        parse_request(package, version, python="3.11")

    assert refused.value.field == "version"


@pytest.mark.parametrize(
    "package", [5, 1.5, True, {"a": 1}, [None], [5], [""], [["a"]], ["a"] * 101]
)
def test_other_types_and_long_lists_are_refused(package: Any) -> None:
    with pytest.raises(BadRequirement):
        parse_request(package, python="3.11")


@pytest.mark.parametrize(
    "python", ["", "3", "2.7", "3.11.2", "3.011", "3.x", "3.11\n", "٣.11", 3.11]
)
def test_a_python_is_a_minor_version(python: Any) -> None:
    with pytest.raises(BadRequirement) as refused:
        parse_request("humanize", python=python)

    assert refused.value.field == "python"


signs = st.text("aZ09-_.[],<>=!~*+ ;@:/\\#$(){}\"'`|&%^?\n\t\x00é🐍", max_size=30)
names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,8}[A-Za-z0-9])?", fullmatch=True)
clauses = st.builds(
    "{}{}".format,
    st.sampled_from(["==", "!=", ">=", "<=", "<", ">", "~="]),
    st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}(a1|\.post2)?", fullmatch=True),
)
requirements = st.builds(
    lambda name, extras, sets: name + (f"[{','.join(extras)}]" if extras else "") + ",".join(sets),
    names,
    st.lists(names, max_size=3),
    st.lists(clauses, max_size=3),
)


@given(st.text(max_size=40) | signs, st.none() | st.text(max_size=20) | signs)
def test_no_text_does_anything_but_parse_or_be_refused(package: str, version: str | None) -> None:
    try:
        requested = parse_request(package, version, python="3.11")
    except BadRequirement:
        return

    for text in requested.environment.requirements:
        parsed = Requirement(text)
        assert parsed.url is None
        assert parsed.marker is None
        assert text.isascii()
        assert text.isprintable()
        assert not text.startswith("-")


@given(requirements)
def test_what_is_accepted_is_what_packaging_reads_and_is_stable(text: str) -> None:
    once = parse_request(text, python="3.11")
    again = parse_request(list(once.environment.requirements), python="3.11")

    assert again == once
    assert Requirement(once.environment.requirements[0]).specifier == Requirement(text).specifier
    assert EnvironmentRequest.from_text(once.environment.text) == once.environment


@pytest.mark.parametrize(
    ("function", "module", "expected"),
    [
        ("naturalsize", None, Target(None, "naturalsize")),
        ("linalg.norm", "", Target(None, "linalg.norm")),
        ("numpy:linalg.norm", None, Target("numpy", "linalg.norm")),
        ("norm", "numpy.linalg", Target("numpy.linalg", "norm")),
        ("numpy:norm", "numpy", Target("numpy", "norm")),
    ],
)
def test_a_function_is_a_dotted_name_behind_a_module(
    function: str, module: str | None, expected: Target
) -> None:
    assert parse_target(function, module) == expected


@pytest.mark.parametrize(
    "function",
    [
        "",
        " ",
        "f()",
        "1f",
        ";",
        "f;g",
        ".f",
        "f.",
        "a..b",
        "a:b:c",
        ":f",
        "m:",
        "a b",
        "a/b",
        "a-b",
    ],
)
def test_a_function_that_is_no_name_is_refused(function: str) -> None:
    with pytest.raises(BadName) as refused:
        parse_target(function)

    assert refused.value.field == "function"
    assert "linalg.norm" in refused.value.message or "args" in refused.value.message


@pytest.mark.parametrize(
    "function", ["f\x00", "f\n", "x" * 10_000, "<lambda>", "f.<locals>.g", "\ud800", None, 5]
)
def test_an_odd_function_is_refused(function: Any) -> None:
    with pytest.raises(BadName) as refused:
        parse_target(function)

    assert refused.value.field == "function"
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(
    "module", ["..", ".x", "a..b", "1a", "a b", "a;b", "a/b", "a\x00", "x" * 10_000, " ", "a:b", 5]
)
def test_a_module_that_is_no_name_is_refused(module: Any) -> None:
    with pytest.raises(BadName) as refused:
        parse_target("f", module)

    assert refused.value.field == "module"


def test_two_different_modules_are_refused() -> None:
    with pytest.raises(BadName, match="'math' but function names 'numpy'"):
        parse_target("numpy:sqrt", "math")
