"""Packages of the user's own, from the upload to the answer; never those of others' names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.client import requests
from task_server.client.client import Client
from task_server.client.profile import read_profile
from task_server.errors import Conflict, NotAllowed, TaskFailed
from tests.e2e.processes import COMMAND, Place, clean_environ, place, until
from tests.environments.small_index import SmallIndex, small_index, wheel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

NAME = "acme_tools-1.0-py3-none-any.whl"
BACKEND = """
import os, time, zipfile
MOMENT = time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"]))[:6]
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "acme_tools-3.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as archive:
        def write(name, text):
            archive.writestr(zipfile.ZipInfo(name, MOMENT), text)
        write("acme_tools.py", open("acme_tools.py").read())
        information = "acme_tools-3.0.dist-info"
        write(f"{information}/METADATA",
              "Metadata-Version: 2.1\\nName: acme-tools\\nVersion: 3.0\\n")
        write(f"{information}/WHEEL",
              "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        write(f"{information}/RECORD", "")
    return name
"""


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    """The public index, where a stranger has taken the name."""
    with small_index() as index:
        index.add("acme_tools", "99.0", {"acme_tools.py": "def name(): return 'a stranger'\n"})
        yield index


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory, index: SmallIndex) -> Iterator[Place]:
    with place(tmp_path_factory) as here:
        here.serve(environ=index.environ(here.folder / "cache of server"))
        here.worker(environ=index.environ(here.folder / "cache of worker"))
        yield here


def tools(version: str, said: str) -> bytes:
    return wheel("acme_tools", version, {"acme_tools.py": f"def name(): return {said!r}\n"})


def command(here: Place, token: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"TASK_SERVER_URL": here.url, "TASK_SERVER_TOKEN": token}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environ() | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_uploaded_wheel_runs_for_its_owner_and_nobody_else(here: Place, tmp_path: Path) -> None:
    token = here.token("user", "somebody")
    path = tmp_path / NAME
    path.write_bytes(tools("1.0", "mine"))

    uploaded = command(here, token, "packages", "upload", str(path))
    listed = command(here, token, "packages", "ls", "-o", "json")

    assert (uploaded.returncode, uploaded.stdout) == (0, "acme-tools==1.0\n"), uploaded.stderr
    assert NAME in listed.stdout
    with here.client("somebody") as mine, here.client("another") as other:
        future = mine.submit("acme_tools:name", package="acme-tools")
        assert future.result(timeout=40) == "mine"
        lock = future.status().environment
        assert other.call("acme_tools:name", package="acme-tools") == "a stranger"
        path.write_bytes(tools("1.0", "changed"))
        with pytest.raises(Conflict, match="other content"):
            mine.upload(path)

        removed = command(here, token, "packages", "rm", "acme-tools")
        assert removed.returncode == 0, removed.stderr
        # What is installed stays, and a lock names it exactly.
        replayed = mine.options(environment=lock).submit("acme_tools:name")
        assert replayed.result(timeout=40) == "mine"


def test_uv_publishes_to_the_server(here: Place, tmp_path: Path) -> None:
    token = here.token("user", "somebody")
    path = tmp_path / "acme_tools-2.0-py3-none-any.whl"
    path.write_bytes(tools("2.0", "published"))
    uv = Path(sys.executable).parent / "uv"

    published = subprocess.run(
        [str(uv), "publish", "--no-config", "--publish-url", f"{here.url}/v1/packages", str(path)],
        env=clean_environ() | {"UV_PUBLISH_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert published.returncode == 0, published.stderr
    with here.client("somebody") as client:
        assert client.call("acme_tools:name", package="acme-tools>=1") == "published"

    target = tmp_path / "installed"
    index = here.url.replace("://", f"://__token__:{token}@") + "/v1/packages/simple/"
    installed = subprocess.run(
        [str(uv), "pip", "install", "--no-config", "--target", str(target), "acme-tools"],
        env=clean_environ() | {"UV_DEFAULT_INDEX": index, "UV_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    assert "published" in (target / "acme_tools.py").read_text()


def test_a_project_is_built_and_uploaded(here: Place, tmp_path: Path) -> None:
    (tmp_path / "acme_tools.py").write_text("def name(): return 'built'\n")
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "acme-tools"\nversion = "3.0"\n'
    )

    with here.client() as client:
        package = client.upload(tmp_path)

        assert package == "acme-tools==3.0"
        assert client.call("acme_tools:name", package=package) == "built"
        assert client.upload(tmp_path) == package, "nothing has changed"


def test_a_script_and_a_requirements_file_say_what_to_install(here: Place, tmp_path: Path) -> None:
    token = here.token("user", "somebody")
    script, requirements = tmp_path / "script.py", tmp_path / "requirements.txt"
    script.write_text('# /// script\n# dependencies = ["acme-tools"]\n# ///\nimport acme_tools\n')
    requirements.write_text("# what is needed\nacme-tools >= 1\n")

    by_script = command(here, token, "call", "acme_tools:name", "--script", str(script))
    by_file = command(here, token, "call", "acme_tools:name", "-r", str(requirements))
    refreshed = command(here, token, "env", "refresh", "-r", str(requirements), "-o", "json")
    nothing = command(here, token, "call", "acme_tools:name", "-r", str(tmp_path / "absent"))

    assert (by_script.returncode, by_script.stdout) == (0, '"a stranger"\n'), by_script.stderr
    assert (by_file.returncode, by_file.stdout) == (0, '"a stranger"\n'), by_file.stderr
    assert '"is_changed": false' in refreshed.stdout, refreshed.stderr
    assert nothing.returncode == 2 and "--requirements" in nothing.stderr


def test_what_an_allowed_package_needs_comes_along_with_up(
    tmp_path_factory: pytest.TempPathFactory, index: SmallIndex
) -> None:
    index.files["needy-1.0-py3-none-any.whl"] = wheel(
        "needy", "1.0", {}, metadata="Requires-Dist: acme-tools\n"
    )
    with place(tmp_path_factory) as here:
        profile = here.folder / "profile.json"
        environ = index.environ(here.folder / "cache") | {
            "TASK_SERVER_ALLOWED_PACKAGES": "needy",
            "TASK_SERVER_PROFILE": str(profile),
        }
        options = ["--port", "0", "--slots", "1", "--ballast-bytes", "1048576"]
        up = here.run([*COMMAND, "up", *options, "--data", str(here.data)], "up", environ)
        up.waits_for("ready on")
        known = read_profile(profile)
        assert known is not None

        with Client(known.url, known.token) as client:
            with pytest.raises(NotAllowed):
                client.submit("acme_tools:name", package="acme-tools")
            assert client.call("acme_tools:name", package="needy") == "a stranger"
        assert up.stop(30) == 0


def test_a_lock_whose_wheel_was_removed_is_not_made_up_from_the_public_index(
    tmp_path_factory: pytest.TempPathFactory, index: SmallIndex, tmp_path: Path
) -> None:
    path = tmp_path / NAME
    path.write_bytes(tools("1.0", "mine"))
    with place(tmp_path_factory) as here:
        here.serve(environ=index.environ(here.folder / "cache of server"))
        with here.client() as client:
            client.upload(path)
            future = client.submit("acme_tools:name", package="acme-tools")
            until(lambda: future.status().phase == "waiting", 20, "its versions are chosen")
            client.session.send(requests.remove_package("acme-tools", None))
            here.worker(environ=index.environ(here.folder / "cache of worker"))

            with pytest.raises(TaskFailed, match=r"acme-tools 1\.0 was uploaded .* and removed"):
                future.result(timeout=60)

            assert client.call("acme_tools:name", package="acme-tools") == "a stranger"
