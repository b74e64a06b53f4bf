"""What is taken for a wheel: nothing that lies, leads out of its folder, or fetches from a URL."""

import io
import zipfile
from collections.abc import Mapping

import pytest

from task_server.environments.wheels import MAX_METADATA_BYTES, BadWheel, read_wheel
from tests.environments.small_index import wheel

NAME = "greet-1.0-py3-none-any.whl"
HEAD = "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n"


def packed(files: Mapping[str, str]) -> io.BytesIO:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content


def saying(metadata: str) -> io.BytesIO:
    return packed({"greet-1.0.dist-info/METADATA": metadata})


def test_a_wheel_says_its_normalised_name_version_and_needs() -> None:
    content = packed(
        {
            "My_Greet-1.0.0.dist-info/METADATA": "Name: My.Greet\nVersion: 1.0.0\n"
            "Requires-Python: >=3.9\nRequires-Dist: numpy>=1; extra == 'fast'\n"
        }
    )

    found = read_wheel(content, "My_Greet-1.0.0-py3-none-any.whl")

    assert (found.name, found.version, found.requires_python) == ("my-greet", "1.0.0", ">=3.9")
    assert "Requires-Dist: numpy>=1" in found.metadata


def test_a_wheel_as_tools_build_it_is_taken() -> None:
    found = read_wheel(io.BytesIO(wheel("greet", "1.0", {"greet.py": "X = 1\n"})), NAME)

    assert (found.name, found.version, found.filename) == ("greet", "1.0", NAME)


@pytest.mark.parametrize(
    "filename",
    [
        "",
        "greet",
        "greet-1.0.tar.gz",
        "greet-1.0.whl",
        "greet-x-py3-none-any.whl",
        "-r-1.0-py3-none-any.whl",
        "gr\u00e9et-1.0-py3-none-any.whl",
        "../greet-1.0-py3-none-any.whl",
        "a/greet-1.0-py3-none-any.whl",
        "<b>-1.0-py3-none-any.whl",
        "g" * 300 + NAME,
    ],
)
def test_a_name_that_is_no_wheels_is_refused(filename: str) -> None:
    with pytest.raises(BadWheel):
        read_wheel(saying(HEAD), filename)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (io.BytesIO(b""), "not a zip archive"),
        (io.BytesIO(b"PK\x03\x04 and no more"), "not a zip archive"),
        (packed({"greet.py": ""}), "must have one file"),
        (packed({"other-1.0.dist-info/METADATA": HEAD}), "not that of greet 1.0"),
        (packed({"greet-2.0.dist-info/METADATA": HEAD}), "not that of greet 1.0"),
        (saying("Name: other\nVersion: 1.0\n"), "says inside"),
        (saying("Name: greet\nVersion: 2.0\n"), "says inside"),
        (saying(""), "says inside"),
        (saying(HEAD + "Requires-Dist: x @ https://example.org/x.whl\n"), "upload that"),
        (saying(HEAD + "Requires-Dist: --index-url=x\n"), "no requirement"),
        (saying(HEAD + "Requires-Python: whatever\n"), "no set of versions"),
        (saying(HEAD + "x" * MAX_METADATA_BYTES), "METADATA has more than"),
        (packed({"../out.py": "", "greet-1.0.dist-info/METADATA": HEAD}), "leads out"),
        (packed({"/etc/out": "", "greet-1.0.dist-info/METADATA": HEAD}), "leads out"),
    ],
)
def test_content_that_is_no_wheel_or_lies_is_refused(content: io.BytesIO, said: str) -> None:
    with pytest.raises(BadWheel, match=said):
        read_wheel(content, NAME)


def test_damage_anywhere_is_refused_or_harmless() -> None:
    whole = saying(HEAD + "Summary: " + "a b c " * 50).getvalue()
    for place in range(len(whole)):
        damaged = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        try:
            found = read_wheel(io.BytesIO(damaged), NAME)
        except BadWheel:
            continue
        assert (found.name, found.version) == ("greet", "1.0")
