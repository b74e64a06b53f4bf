"""What cannot be installed fails with the cause in its first line; others never notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from task_server.client.client import Client
from task_server.errors import Invalid, NotAllowed, TaskFailed
from tests.e2e.processes import Place, place
from tests.environments.small_index import SmallIndex, small_index, wheel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        for version in ("1.0", "2.0"):
            index.add("greet", version, {"greet.py": f"def version(): return {version!r}\n"})
        index.files["old_friend-1.0-py3-none-any.whl"] = wheel(
            "old_friend", "1.0", {}, metadata="Requires-Dist: greet<2\n"
        )
        index.files["lost-1.0-py3-none-any.whl"] = wheel(
            "lost", "1.0", {}, metadata="Requires-Dist: nowhere\n"
        )
        index.files["future-1.0-py3-none-any.whl"] = wheel(
            "future", "1.0", {}, metadata="Requires-Python: >=3.99\n"
        )
        index.add_source_only("sources_only", "1.0")
        index.add("elsewhere", "1.0", {"elsewhere.py": ""}, tag="win32")
        index.add("denied", "1.0", {"denied.py": ""})
        index.add("large", "1.0", {"large.txt": "0" * 3_000_000})
        index.files["broken-1.0-py3-none-any.whl"] = b"PK, but no more of it"
        yield index


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, index: SmallIndex) -> Iterator[Place]:
    with place(tmp_path_factory, "--denied-packages", "denied") as here:
        here.serve(environ=index.environ(here.folder / "cache of server"))
        environ = index.environ(here.folder / "cache of worker")
        here.worker(environ={**environ, "TASK_SERVER_ENVIRONMENT_BYTES": "2000000"})
        yield here


@pytest.fixture
def client(here: Place) -> Iterator[Client]:
    with here.client() as client:
        yield client


@pytest.mark.parametrize(
    ("package", "first_line"),
    [
        ("gret", "'gret' was not found in the package index; check the name"),
        ("greet==99", "no version of greet matches ==99"),
        (["greet>1", "greet<1"], "the requirements cannot be met together"),
        (["greet>=2", "old-friend"], "the requirements cannot be met together"),
        ("lost", "'nowhere' was not found in the package index"),
        ("sources-only", "'sources-only' has no wheel that fits"),
        ("future", "future needs Python >=3.99"),
        ("broken", "'broken' has a wheel that cannot be read"),
        ("large", "the environment has "),
    ],
)
def test_what_cannot_be_installed_says_so_first_and_others_go_on(
    client: Client, package: str | list[str], first_line: str
) -> None:
    bad = client.submit("greet:version", package=package)

    assert client.call("greet:version", package="greet<2") == "1.0"
    assert client.call("math:sqrt", 16) == 4.0
    with pytest.raises(TaskFailed) as failed:
        bad.result(timeout=60)

    assert failed.value.kind == "environment"
    said = str(failed.value).splitlines()[0]
    assert first_line in said, str(failed.value)
    assert "/tmp" not in str(failed.value) and "Traceback" not in str(failed.value)


def test_what_the_server_denies_is_refused_at_once(client: Client) -> None:
    with pytest.raises(NotAllowed, match="package not allowed: denied"):
        client.submit("denied:f", package="denied")


@pytest.mark.parametrize(
    "package",
    [
        "..",
        "/etc/passwd",
        "-r x",
        "--index-url=https://x",
        "-e .",
        "git+https://x/y",
        "a b",
        "x @ file:///x",
        "https://x/y.whl",
        "x\ny",
        "x\0",
        "x; rm -rf /",
        "$(x)",
        "x" * 10_000,
        "\u0430bc",
        "\U0001f600",
        "x[",
        "[extra]",
        "\\\\host\\share",
        " ",
    ],
)
def test_a_package_that_is_no_requirement_is_refused_in_every_field(
    client: Client, package: str
) -> None:
    script = "# /// script\n# dependencies = ['''" + package + "''']\n# ///\n"
    fields = [{"package": package}, {"package": ["greet", package]}, {"requirements": package}]
    if "\n" not in package and "\0" not in package and "\\" not in package:
        fields.append({"script": script})
    for field in fields:
        if field == {"requirements": " "} or field == {"requirements": "x\ny"}:
            continue  # nothing, and two lines: both are a requirements file
        with pytest.raises(Invalid):
            client.options(**field).submit("greet:version")  # type: ignore[arg-type]
