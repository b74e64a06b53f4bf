from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.environments.lock import empty_lock
from task_server.worker import interpreters
from task_server.worker.environments import BuildFailed, Environments
from task_server.worker.interpreters import pythons

PYTHON = f"3.{sys.version_info.minor}"
UV = """#!{python}
import json, os, sys
if "list" in sys.argv:
    rows = [("3.{minor}.7", "cpython", "default"), ("3.15.0a2", "cpython", "default"),
            ("3.12.1", "cpython", "freethreaded"), ("3.10.1", "pypy", "default")]
    print(json.dumps([
        dict(version=version, implementation=implementation, variant=variant, path={path!r},
             version_parts=dict(zip(("major", "minor"), map(int, version.split(".")[:2]))))
        for version, implementation, variant in rows
    ]))
elif {works!r}:
    folder = sys.argv[sys.argv.index("--install-dir") + 1]
    target = os.path.join(folder, "cpython-3.{minor}.7-linux", "bin")
    os.makedirs(target)
    os.symlink({path!r}, os.path.join(target, "python3.{minor}"))
else:
    sys.exit("error: Failed to download Python\\n  cause: connection refused")
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    pythons.cache_clear()
    yield
    pythons.cache_clear()


def fake_uv(folder: Path, *, works: bool = True) -> str:
    """A uv that knows one interpreter, and can fetch it unless told otherwise."""
    path = folder / "uv"
    text = UV.format(
        python=sys.executable,
        minor=sys.version_info.minor,
        works=works,
        path=str(Path(sys.executable).resolve()),
    )
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


async def no_lock(digest: str) -> str:
    return empty_lock(PYTHON).text


def test_the_scripts_of_pyenv_are_not_started_to_find_its_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shims, name = tmp_path / "shims", "python3.15"
    shims.mkdir()
    (shims / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (shims / name).chmod(0o755)
    (tmp_path / "version").write_text("3.15.10\n3.14.1\n")
    for version in ("3.15.2", "3.15.10"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
        (tmp_path / "versions" / version / "bin" / name).symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(shims))
    started: list[Path] = []
    monkeypatch.setattr(interpreters, "_starts", lambda path, _: started.append(path))
    monkeypatch.setattr(interpreters, "_managed", list)

    pythons()

    ours = [path.parts[-3] for path in started if path.is_relative_to(tmp_path)]
    assert ours == ["3.14.1", "3.15.10"], "what was chosen, not all that is installed"
    assert not (tmp_path / "started").exists()


def test_a_path_that_leads_where_nothing_can_be_read_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", f"/{'x' * 300}/shims")  # as little to be read as another's home

    assert PYTHON in pythons()


def test_an_interpreter_that_uv_installed_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_uv(tmp_path)
    monkeypatch.setattr(interpreters, "_candidates", lambda name: iter(()))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    assert list(pythons()) == [PYTHON]


def test_without_uv_there_are_those_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    assert PYTHON in pythons()


async def test_pythons_are_fetched_only_if_that_is_set(tmp_path: Path) -> None:
    environments = Environments(tmp_path / "environments", uv=fake_uv(tmp_path), pythons={})
    await environments.open()

    assert environments.pythons == []
    with pytest.raises(BuildFailed, match=f"no Python {PYTHON}"):
        await environments.ready(empty_lock(PYTHON).digest, no_lock)


async def test_a_python_is_fetched_when_it_is_needed(tmp_path: Path) -> None:
    environments = Environments(
        tmp_path / "environments",
        uv=fake_uv(tmp_path),
        pythons={},
        downloads=tmp_path / "pythons",
    )
    await environments.open()
    assert environments.pythons == [PYTHON]  # no alpha, no other implementation
    assert not (tmp_path / "pythons").exists()

    environment = await environments.ready(empty_lock(PYTHON).digest, no_lock)

    assert environment.interpreter.is_relative_to(tmp_path / "pythons")
    assert environment.site_packages is None
    await environments.close()


async def test_a_python_that_cannot_be_fetched_is_this_workers_trouble(tmp_path: Path) -> None:
    environments = Environments(
        tmp_path / "environments",
        uv=fake_uv(tmp_path, works=False),
        pythons={},
        downloads=tmp_path / "pythons",
    )
    await environments.open()

    with pytest.raises(BuildFailed, match="could not be fetched") as failed:
        await environments.ready(empty_lock(PYTHON).digest, no_lock)

    assert failed.value.is_unfit
    assert "connection refused" in failed.value.message
    await environments.close()


def test_the_list_of_the_real_uv_is_understood() -> None:
    rows = interpreters._listed("--only-downloads")

    assert "3.12" in {python for python, _ in rows}
