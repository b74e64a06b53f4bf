import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.environments.lock import Lock, Pin
from task_server.worker.bytecode import Bytecode, distributions
from task_server.worker.environments import Environment, Environments
from task_server.worker.interpreters import pythons
from tests.environments.small_index import SmallIndex, small_index, wheel
from tests.folders import let_damage

PYTHON = f"3.{sys.version_info.minor}"
TAG = f"cpython-3{sys.version_info.minor}"
SOURCES = {
    "greet/__init__.py": "from greet.words import hello\n",
    "greet/words.py": "def hello():\n    return 'hello'\n",
    "greet/broken.py": "this is no Python\n",
    "greet/tests/test_words.py": "assert True\n",
}


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        index.add("greet", "1.0", SOURCES)
        index.add("other", "1.0", {"other.py": "import greet\n"})
        yield index


def lock_of(index: SmallIndex, *names: str) -> Lock:
    return Lock(PYTHON, tuple(_pin(index, name) for name in names))


def _pin(index: SmallIndex, name: str) -> Pin:
    digest = index.sha256(f"{name}-1.0-py3-none-any.whl")
    return Pin(name, "1.0", None, (f"sha256:{digest}",))


async def build(
    index: SmallIndex, lock: Lock, directory: Path, *, cache: str = "cache", wait: bool = True
) -> Environment:
    environ = index.environ(directory.parent / cache)
    interpreters = {PYTHON: pythons()[PYTHON]}
    environments = Environments(directory, environ=environ, pythons=interpreters)
    await environments.open()

    async def fetch(digest: str) -> str:
        return lock.text

    environment = await environments.ready(lock.digest, fetch)
    if wait:
        await environments.compiled()
    await environments.close()
    return environment


def packages(environment: Environment) -> Path:
    assert environment.site_packages is not None
    return environment.site_packages


def imported(environment: Environment, code: str) -> str:
    """What `python -v` tells about the imports of `code`."""
    path = f"import sys; sys.path.append({str(environment.site_packages)!r}); "
    command = [str(environment.interpreter), "-I", "-S", "-B", "-v", "-c", path + code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def compiled(environment: Environment) -> set[str]:
    folder = packages(environment)
    return {str(path.relative_to(folder)) for path in folder.rglob("*.pyc")}


async def test_byte_code_is_compiled_after_the_build(index: SmallIndex, tmp_path: Path) -> None:
    environment = await build(index, lock_of(index, "greet"), tmp_path / "environments")

    assert compiled(environment) == {
        f"greet/__pycache__/__init__.{TAG}.pyc",
        f"greet/__pycache__/words.{TAG}.pyc",
    }


async def test_an_import_takes_the_byte_code_and_compiles_nothing(
    index: SmallIndex, tmp_path: Path
) -> None:
    environment = await build(index, lock_of(index, "greet"), tmp_path / "environments")

    told = imported(environment, "import greet; assert greet.hello() == 'hello'")

    for module in ("__init__", "words"):
        pyc = f"{environment.site_packages}/greet/__pycache__/{module}.{TAG}.pyc"
        assert f"code object from '{pyc}'" in told
    assert f"code object from '{environment.site_packages}/greet/__init__.py'" not in told


async def test_a_later_environment_shares_it_at_once(index: SmallIndex, tmp_path: Path) -> None:
    first = await build(index, lock_of(index, "greet"), tmp_path / "environments")

    second = await build(
        index, lock_of(index, "greet", "other"), tmp_path / "environments", wait=False
    )

    pyc = f"greet/__pycache__/words.{TAG}.pyc"
    assert (packages(first) / pyc).samefile(packages(second) / pyc)
    assert f"{second.site_packages}/{pyc}" in imported(second, "import greet")


async def test_it_stays_valid_when_the_sources_are_extracted_anew(
    index: SmallIndex, tmp_path: Path
) -> None:
    lock = lock_of(index, "greet")
    first = await build(index, lock, tmp_path / "environments")
    old = (packages(first) / "greet" / "words.py").stat()
    let_damage(first.interpreter.parents[1])
    first.interpreter.parents[1].rename(tmp_path / "away")

    second = await build(index, lock, tmp_path / "environments", cache="new", wait=False)

    source = packages(second) / "greet" / "words.py"
    os.utime(source, (old.st_mtime + 100, old.st_mtime + 100))  # byte code knows whole seconds
    assert source.stat().st_ino != old.st_ino
    told = imported(second, "import greet")
    assert f"code object from '{second.site_packages}/greet/__pycache__/words.{TAG}.pyc'" in told


async def test_a_traceback_names_the_source_of_its_own_environment(
    index: SmallIndex, tmp_path: Path
) -> None:
    await build(index, lock_of(index, "greet"), tmp_path / "environments")

    second = await build(index, lock_of(index, "greet", "other"), tmp_path / "environments")

    name = "import greet.words; print(greet.words.hello.__code__.co_filename, file=sys.stderr)"
    assert imported(second, name).splitlines().count(f"{second.site_packages}/greet/words.py") == 1


async def test_a_wheel_cannot_put_its_byte_code_into_another_package(
    index: SmallIndex, tmp_path: Path
) -> None:
    good = lock_of(index, "greet")
    first = await build(index, good, tmp_path / "environments")
    record = (packages(first) / "greet-1.0.dist-info" / "RECORD").read_text()
    first_key = {d.key for d in distributions(packages(first), good)}
    forged = wheel("greet", "1.0", {**SOURCES, "greet/words.py": "evil = 1\n"}, record)
    index.files["greet-1.0-py3-none-any.whl"] = forged
    bad = lock_of(index, "greet")

    second = await build(index, bad, tmp_path / "environments", cache="other")

    second_key = {d.key for d in distributions(packages(second), bad)}
    assert not first_key & second_key


async def test_a_source_that_was_changed_is_not_compiled_for_others(
    index: SmallIndex, tmp_path: Path
) -> None:
    lock = lock_of(index, "greet")
    changed = await build(index, lock, tmp_path / "environments", wait=False)
    let_damage(tmp_path / "environments" / lock.digest)
    shutil.rmtree(tmp_path / "environments" / "bytecode", ignore_errors=True)
    for path in packages(changed).rglob("*.pyc"):
        path.unlink()
    source = packages(changed) / "greet" / "words.py"
    text = source.read_text()
    source.unlink()  # its content is shared with uv's cache
    source.write_text(text.replace("def", "evil = 1\ndef"))
    store = Bytecode(tmp_path / "environments" / "bytecode")

    missing = store.link(packages(changed), lock)
    await store.compile(missing, packages(changed), interpreter=changed.interpreter)

    names = {path.rpartition("/")[2].partition(".")[0] for path in compiled(changed)}
    assert "__init__" in names and "words" not in names


async def test_paths_that_lead_out_of_the_environment_are_left_alone(tmp_path: Path) -> None:
    information = tmp_path / "greet-1.0.dist-info"
    information.mkdir()
    (information / "RECORD").write_text("../evil.py,,\n/etc/evil.py,,\na/../../evil.py,,\na.py,,\n")
    lock = Lock(PYTHON, (Pin("greet", "1.0", None, ("sha256:" + "0" * 64,)),))

    (distribution,) = distributions(tmp_path, lock)

    assert list(distribution.compiled) == ["a.py"]


async def test_what_a_crash_left_half_compiled_is_swept(tmp_path: Path) -> None:
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    partial = tmp_path / f"greet-00.partial-{dead.stdout.strip()}"
    running = tmp_path / f"greet-00.partial-{os.getppid()}"
    for folder in (partial, running):
        folder.mkdir()

    Bytecode(tmp_path).sweep()

    assert not partial.exists()
    assert running.exists()


async def test_an_interpreter_that_fails_costs_only_the_byte_code(
    index: SmallIndex, tmp_path: Path
) -> None:
    lock = lock_of(index, "greet")
    environment = await build(index, lock, tmp_path / "environments", wait=False)
    store = Bytecode(tmp_path / "store")
    missing = store.link(packages(environment), lock)

    for interpreter in ("/bin/false", "/nonexistent"):
        await store.compile(missing, packages(environment), interpreter=Path(interpreter))

    assert len(missing) == 1
    assert list((tmp_path / "store").iterdir()) == []
