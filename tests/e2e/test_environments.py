"""Environments prepared ahead on real workers, from an index of a few wheels."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.processes import COMMAND, Place, clean_environ, place, until
from tests.environments.small_index import SmallIndex, small_index

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        for name in ("greet", "other"):
            index.add(name, "1.0", {f"{name}.py": f"def name(): return {name!r}\n"})
        index.add("broken", "1.0", {"broken.py": "raise OSError('libfoo.so.1 is missing')\n"})
        yield index


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory, index: SmallIndex) -> Iterator[Place]:
    with place(tmp_path_factory) as here:
        here.serve(environ=index.environ(here.folder / "cache"))
        yield here


def start_worker(here: Place, index: SmallIndex, name: str, **environ: str) -> None:
    here.worker(name, environ={**index.environ(here.folder / "cache"), **environ})


def command(here: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `task-server` as somebody."""
    settings = {"TASK_SERVER_URL": here.url, "TASK_SERVER_TOKEN": here.token("user", "somebody")}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environ() | settings,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def built(here: Place, worker: str) -> set[str]:
    """Digests of the environments on a worker's disk."""
    return {
        path.parent.name for path in (here.folder / worker).glob("environments/*/manifest.json")
    }


def test_prepare_installs_and_imports_on_all_workers_and_those_that_join(
    here: Place, index: SmallIndex
) -> None:
    start_worker(here, index, "one")
    start_worker(here, index, "two")

    prepared = command(here, "env", "prepare", "greet")

    assert prepared.returncode == 0, prepared.stderr
    digest = prepared.stdout.splitlines()[-1]
    assert {"one: ready", "two: ready"} <= set(prepared.stderr.splitlines())
    assert built(here, "one") == built(here, "two") == {digest}
    start_worker(here, index, "three")
    until(lambda: built(here, "three") == {digest}, 60)
    index.status = 500  # whatever comes now needs the index no more
    with here.client() as client:
        assert client.call("greet:name", package="greet") == "greet"
        assert client.prepare("greet").wait(60).environment == digest
    listed = command(here, "env", "ls")
    assert digest in listed.stdout and "greet" in listed.stdout


def test_a_module_that_cannot_be_imported_is_told_with_its_log(
    here: Place, index: SmallIndex
) -> None:
    start_worker(here, index, "one")

    prepared = command(here, "env", "prepare", "broken")

    assert prepared.returncode == 1
    assert "one: failed" in prepared.stderr
    assert "libfoo.so.1 is missing" in prepared.stderr


def test_gc_removes_what_is_neither_in_use_nor_wanted(here: Place, index: SmallIndex) -> None:
    start_worker(here, index, "one")
    wanted = command(here, "env", "prepare", "greet").stdout.splitlines()[-1]
    with here.client() as client:
        assert client.call("other:name", package="other") == "other"
        assert len(built(here, "one")) == 2

        collected = command(here, "env", "gc")

        assert "removed 1 environment, " in collected.stdout, collected.stdout
        assert built(here, "one") == {wanted}
        command(here, "env", "gc", wanted)
        assert built(here, "one") == set()
        assert client.call("greet:name", package="greet") == "greet"
        assert client.call("other:name", package="other") == "other"


def test_a_worker_keeps_its_limit_but_never_removes_what_is_in_use(
    here: Place, index: SmallIndex
) -> None:
    index.add("slow", "1.0", {"slow.py": "import time\ndef sleep(s):\n    time.sleep(s)\n"})
    start_worker(here, index, "one", TASK_SERVER_ENVIRONMENTS_BYTES="1")
    with here.client() as client:
        slow = client.submit("slow:sleep", 60, package="slow")
        until(lambda: client.status(slow.id).phase == "running", 60)
        in_use = built(here, "one")
        wanted = client.prepare("greet").wait(60).environment
        assert client.call("other:name", package="other") == "other"

        until(lambda: built(here, "one") == {*in_use, wanted}, 60)

        assert slow.state == "running"
        assert slow.cancel()
        assert client.call("other:name", package="other") == "other"


def test_eight_tasks_for_one_new_environment_build_it_once(here: Place, index: SmallIndex) -> None:
    worker = here.worker("one", slots=8, environ=index.environ(here.folder / "cache"))

    with here.client() as client:
        futures = [client.submit("greet:name", package="greet") for _ in range(8)]
        answers = [future.result(timeout=60) for future in futures]

    assert answers == ["greet"] * 8
    assert worker.output().count("built environment") == 1
