"""Headers of scripts (PEP 723) and texts of requirements files."""

import pytest

from task_server.environments.requirements import BadRequirement, requirement_lines
from task_server.environments.script import Script, parse_script

SCRIPT = """#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "requests<3",
#
#   "rich",
# ]
#
# [tool.uv]
# index-url = "https://example.org"
# ///

import requests
"""


@pytest.mark.parametrize("text", [SCRIPT, SCRIPT.replace("\n", "\r\n")])
def test_a_header_tells_what_a_script_needs(text: str) -> None:
    assert parse_script(text) == Script(("requests<3", "rich"), ">=3.11")


def test_a_header_may_say_little() -> None:
    assert parse_script("# /// script\n# ///\n") == Script((), "")
    assert parse_script("# /// other\n# ///\n# /// script\n# ///") == Script((), "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\n", "no block"),
        ("# /// script\n# ///\n# /// script\n# ///\n", "two such blocks"),
        ("# /// script\n# dependencies = []\n", "no end"),
        ("# /// script\nx\n# ///\n", "no end"),
        ("# /// script\n# dependencies = [\n# ///\n", "not TOML"),
        ('# /// script\n# dependencies = "x"\n# ///\n', "list of texts"),
        ("# /// script\n# dependencies = [1]\n# ///\n", "list of texts"),
        ("# /// script\n# requires-python = 3\n# ///\n", "is text"),
        ('# /// script\n# requires-python = "new"\n# ///\n', "no set of versions"),
        ("# /// script\n" + "#\n" * 600_000 + "# ///\n", "longer than"),
        ("# /// script\n" + "# x\n" * 200_000, "no end"),
    ],
)
def test_a_header_that_is_wrong_is_refused_at_once(text: str, said: str) -> None:
    with pytest.raises(BadRequirement, match=said) as refused:
        parse_script(text)

    assert refused.value.field == "script"


def test_a_requirements_file_has_comments_and_blank_lines() -> None:
    text = "# all of it\r\nnumpy>=1,<3  # fast\n\n \tpandas[parquet] == 2.2\t\n#end"

    assert requirement_lines(text) == ["numpy>=1,<3", "pandas[parquet] == 2.2"]
    assert requirement_lines("") == []


@pytest.mark.parametrize(
    "line",
    [
        "-r other.txt",
        "--index-url=https://x",
        "-e .",
        "git+https://x/y",
        "x @ file:///x",
        "./x",
        "https://x/y.whl",
        "x; python_version > '3'",
        "x\\",
        "a b",
        "x\0y",
        "\u0430",
        "--hash=x",
    ],
)
def test_other_lines_are_refused_with_their_number(line: str) -> None:
    with pytest.raises(BadRequirement, match=r"^line 2: ") as refused:
        requirement_lines(f"numpy\n{line}\n")

    assert refused.value.field == "requirements"


def test_what_is_too_long_is_refused() -> None:
    for text in ("#" * 70_000, "numpy\n" * 101):
        with pytest.raises(BadRequirement):
            requirement_lines(text)
