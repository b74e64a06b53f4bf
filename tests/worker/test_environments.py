import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from task_server.environments.lock import Lock, Pin, empty_lock, parse_lock
from task_server.environments.requirements import parse_request
from task_server.server.uv_lock import lock as resolve
from task_server.worker.environments import BuildFailed, Environment, Environments
from task_server.worker.interpreters import pythons
from tests.environments.small_index import SmallIndex, small_index, wheel
from tests.folders import let_damage

PYTHON = f"3.{sys.version_info.minor}"
Open = Callable[..., Awaitable[Environments]]


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        index.add("greet", "1.0", {"greet.py": "def hello():\n    return 'hello'\n"})
        yield index


@pytest.fixture
async def opened(index: SmallIndex, tmp_path: Path) -> AsyncIterator[Open]:
    made: list[Environments] = []

    async def start(**options: object) -> Environments:
        environ = index.environ(tmp_path / "cache")
        settings = {"environ": environ, "pythons": {PYTHON: pythons()[PYTHON]}, **options}
        environments = Environments(tmp_path / "environments", **settings)  # type: ignore[arg-type]
        made.append(environments)
        await environments.open()
        return environments

    yield start
    for environments in made:
        await environments.close()


def lock_of(index: SmallIndex, name: str = "greet", version: str = "1.0") -> Lock:
    digest = index.sha256(f"{name}-{version}-py3-none-any.whl")
    return Lock(PYTHON, (Pin(name, version, None, (f"sha256:{digest}",)),))


class Fetch:
    """Gives the text of a lock, and counts how often."""

    def __init__(self, lock: Lock | str) -> None:
        self.text = lock if isinstance(lock, str) else lock.text
        self.times = 0

    async def __call__(self, digest: str) -> str:
        self.times += 1
        return self.text


def run(environment: Environment, code: str) -> str:
    path = f"import sys; sys.path.append({str(environment.site_packages)!r}); "
    command = [str(environment.interpreter), "-I", "-S", "-c", path + code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


async def test_an_environment_is_built_from_its_lock(opened: Open, index: SmallIndex) -> None:
    environments = await opened(now=lambda: 1000.0)
    lock = lock_of(index)

    environment = await environments.ready(lock.digest, Fetch(lock))

    assert run(environment, "import greet; print(greet.hello())") == "hello"
    assert environments.states()[lock.digest] == "ready"
    manifest = json.loads((environment.interpreter.parents[1] / "manifest.json").read_text())
    assert manifest["digest"] == lock.digest
    assert manifest["versions"] == {"greet": "1.0"}
    assert manifest["built_at"] == 1000.0


async def test_no_packages_need_no_building(opened: Open) -> None:
    environments = await opened(uv="/nonexistent/uv")
    fetch = Fetch(empty_lock(PYTHON))

    environment = await environments.ready(empty_lock(PYTHON).digest, fetch)

    assert environment.site_packages is None
    assert environment.interpreter == pythons()[PYTHON]
    assert fetch.times == 0


async def test_however_many_ask_at_once_it_is_built_once(opened: Open, index: SmallIndex) -> None:
    environments = await opened()
    lock = lock_of(index)
    fetch = Fetch(lock)

    ready = [environments.ready(lock.digest, fetch) for _ in range(20)]
    waiting = asyncio.gather(*ready)
    await asyncio.sleep(0)
    assert environments.states()[lock.digest] == "building"

    assert len(set(await waiting)) == 1
    assert fetch.times == 1


async def test_two_workers_in_one_folder_build_once(
    opened: Open, index: SmallIndex, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = await opened(), await opened()
    lock = lock_of(index)

    with caplog.at_level("INFO"):
        first, second = await asyncio.gather(
            one.ready(lock.digest, Fetch(lock)), other.ready(lock.digest, Fetch(lock))
        )

    assert first == second
    assert [record.msg for record in caplog.records].count("built environment %s in %.2f s") == 1


async def test_a_cache_on_another_file_system_is_copied(opened: Open, index: SmallIndex) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        environments = await opened(environ=index.environ(Path(elsewhere) / "cache"))
        lock = lock_of(index)

        environment = await environments.ready(lock.digest, Fetch(lock))

    assert run(environment, "import greet; print(greet.hello())") == "hello"


async def test_a_warm_environment_is_found_after_a_restart(opened: Open, index: SmallIndex) -> None:
    lock = lock_of(index)
    before = await (await opened()).ready(lock.digest, Fetch(lock))
    index.status = 500
    fetch = Fetch(lock)

    restarted = await opened()

    assert restarted.states()[lock.digest] == "ready"
    assert await restarted.ready(lock.digest, fetch) == before
    assert fetch.times == 0


@pytest.mark.parametrize("damage", ["replaced", "missing", "no manifest", "no interpreter"])
async def test_a_damaged_environment_is_built_again(
    opened: Open, index: SmallIndex, damage: str
) -> None:
    lock = lock_of(index)
    environment = await (await opened()).ready(lock.digest, Fetch(lock))
    folder = environment.interpreter.parents[1]
    site_packages = environment.site_packages
    assert site_packages is not None
    let_damage(folder)
    if damage == "replaced":
        (site_packages / "greet.py").unlink()
        (site_packages / "greet.py").touch()
    elif damage == "missing":
        shutil.rmtree(site_packages)
    else:
        (folder / ("manifest.json" if damage == "no manifest" else "bin/python")).unlink()

    again = await (await opened()).ready(lock.digest, Fetch(lock))

    assert run(again, "import greet; print(greet.hello())") == "hello"


@pytest.mark.parametrize("content", ["", "def hello():\n    return 'jello'\n"])
async def test_what_was_written_in_place_is_not_taken_from_the_cache_again(
    opened: Open, index: SmallIndex, content: str
) -> None:
    lock = lock_of(index)
    environment = await (await opened()).ready(lock.digest, Fetch(lock))
    assert environment.site_packages is not None
    source = environment.site_packages / "greet.py"
    assert source.stat().st_nlink > 1, "uv's cache has the same file"
    source.chmod(0o644)
    source.write_text(content)

    again = await (await opened()).ready(lock.digest, Fetch(lock))

    assert run(again, "import greet; print(greet.hello())") == "hello"


async def test_nobody_may_write_an_environment(opened: Open, index: SmallIndex) -> None:
    environments, lock = await opened(), lock_of(index)
    environment = await environments.ready(lock.digest, Fetch(lock))
    await environments.compiled()

    folder = environment.interpreter.parents[1]

    there = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    assert any(path.suffix == ".pyc" for path in there)
    writable = [path for path in there if path.stat().st_mode & 0o222]
    assert [path.name for path in writable] == ["manifest.json", "used"]


async def test_environments_of_one_python_begin_as_copies_of_one(
    opened: Open, index: SmallIndex, tmp_path: Path
) -> None:
    index.add("other", "1.0", {"other.py": ""})
    uv, log = tmp_path / "uv", tmp_path / "log"
    real = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    uv.write_text(f'#!/bin/sh\necho "$1" >> "{log}"\nexec "{real}" "$@"\n')
    uv.chmod(0o755)
    environments = await opened(uv=str(uv), has_fence=False)

    one, other = (lock_of(index, name) for name in ("greet", "other"))
    made = [await environments.ready(lock.digest, Fetch(lock)) for lock in (one, other)]

    assert log.read_text().split().count("venv") == 1
    assert run(made[0], "import greet; print(greet.hello())") == "hello"
    assert run(made[1], "import other; print('greet' in sys.modules)") == "False"


async def test_what_a_crash_left_is_swept_and_never_used(
    opened: Open, index: SmallIndex, tmp_path: Path
) -> None:
    lock = lock_of(index)
    partial = tmp_path / "environments" / f"{lock.digest}.partial"
    partial.mkdir(parents=True)
    (partial / "manifest.json").write_text("{}")

    environments = await opened()

    assert not partial.exists()
    assert lock.digest not in environments.states()


@pytest.mark.parametrize("text", [empty_lock(PYTHON).text, "--index-url http://x.example\n", ""])
async def test_a_lock_that_is_not_the_one_asked_for_is_refused(
    opened: Open, index: SmallIndex, text: str
) -> None:
    environments = await opened()

    with pytest.raises(BuildFailed, match="the lock that came"):
        await environments.ready(lock_of(index).digest, Fetch(text))


async def test_a_lock_that_cannot_be_fetched_raises_what_fetching_raised(opened: Open) -> None:
    environments = await opened()

    async def fetch(digest: str) -> str:
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await environments.ready("0" * 64, fetch)
    assert environments.states()["0" * 64] == "failed"


async def test_another_file_than_the_locked_one_is_never_installed(
    opened: Open, index: SmallIndex, tmp_path: Path
) -> None:
    environments = await opened()
    lock = lock_of(index)
    index.files["greet-1.0-py3-none-any.whl"] = wheel("greet", "1.0", {"greet.py": "evil = 1\n"})

    with pytest.raises(BuildFailed, match="another hash") as failed:
        await environments.ready(lock.digest, Fetch(lock))

    assert failed.value.is_retryable
    assert environments.states()[lock.digest] == "failed"
    assert not list((tmp_path / "environments").glob("*.partial"))


async def test_an_index_in_trouble_is_worth_another_try(opened: Open, index: SmallIndex) -> None:
    environments = await opened()
    lock = lock_of(index)
    index.status = 503

    with pytest.raises(BuildFailed, match="could not be reached") as failed:
        await environments.ready(lock.digest, Fetch(lock))
    index.status = 200
    environment = await environments.ready(lock.digest, Fetch(lock))

    assert failed.value.is_retryable
    assert not failed.value.is_unfit
    assert environments.states()[lock.digest] == "ready"
    assert run(environment, "import greet") == ""


async def test_wheels_for_other_systems_only_fail_for_good(opened: Open, index: SmallIndex) -> None:
    index.add("windows_only", "1.0", {"w.py": ""}, tag="win_amd64")
    digest = index.sha256("windows_only-1.0-py3-none-win_amd64.whl")
    lock = Lock(PYTHON, (Pin("windows-only", "1.0", None, (f"sha256:{digest}",)),))

    with pytest.raises(BuildFailed, match="no wheel that fits") as failed:
        await (await opened()).ready(lock.digest, Fetch(lock))

    assert not failed.value.is_retryable


async def test_a_build_that_takes_too_long_is_killed(opened: Open, index: SmallIndex) -> None:
    environments = await opened(build_seconds=0.5)
    lock = lock_of(index)
    index.may_answer.clear()

    with pytest.raises(BuildFailed, match=r"not built within 0\.5 s") as failed:
        await environments.ready(lock.digest, Fetch(lock))

    assert failed.value.is_retryable
    assert not children()


async def test_a_build_goes_on_as_long_as_somebody_waits(opened: Open, index: SmallIndex) -> None:
    environments = await opened()
    lock = lock_of(index)
    index.may_answer.clear()
    first, second = (
        asyncio.create_task(environments.ready(lock.digest, Fetch(lock))) for _ in range(2)
    )
    await until(lambda: index.requests == 0 and bool(children()))

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    index.may_answer.set()

    assert (await second).digest == lock.digest


async def test_a_build_ends_when_nobody_waits_and_can_start_again(
    opened: Open, index: SmallIndex
) -> None:
    environments = await opened()
    lock = lock_of(index)
    index.may_answer.clear()
    only = asyncio.create_task(environments.ready(lock.digest, Fetch(lock)))
    await until(lambda: bool(children()))

    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    await until(lambda: not children())
    assert lock.digest not in environments.states()
    index.may_answer.set()

    assert (await environments.ready(lock.digest, Fetch(lock))).digest == lock.digest


async def test_an_installer_that_is_killed_is_worth_another_try(
    opened: Open, index: SmallIndex, tmp_path: Path
) -> None:
    suicidal = tmp_path / "uv"
    suicidal.write_text("#!/bin/sh\nkill -9 $$\n")
    suicidal.chmod(0o755)
    lock = lock_of(index)

    with pytest.raises(BuildFailed, match="killed by signal 9") as failed:
        await (await opened(uv=str(suicidal))).ready(lock.digest, Fetch(lock))

    assert failed.value.is_retryable


async def test_what_a_killed_installer_left_is_never_used(
    opened: Open, index: SmallIndex, tmp_path: Path
) -> None:
    uv, flag = tmp_path / "uv", tmp_path / "was killed"
    real = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    uv.write_text(
        f'#!/bin/sh\n"{real}" "$@" || exit\n'
        f'case "$*" in *install*) [ -e "{flag}" ] || {{ touch "{flag}"; kill -9 $$; }};; esac\n'
    )
    uv.chmod(0o755)
    environments, lock = await opened(uv=str(uv), has_fence=False), lock_of(index)

    with pytest.raises(BuildFailed, match="killed by signal 9"):
        await environments.ready(lock.digest, Fetch(lock))
    assert flag.exists() and environments.states().get(lock.digest) != "ready"
    assert not (tmp_path / "environments" / lock.digest).exists()

    environment = await environments.ready(lock.digest, Fetch(lock))
    assert run(environment, "import greet; print(greet.hello())") == "hello"


async def test_packages_in_the_cache_need_no_index(
    opened: Open, index: SmallIndex, tmp_path: Path
) -> None:
    environments, lock = await opened(), lock_of(index)
    await environments.ready(lock.digest, Fetch(lock))
    let_damage(tmp_path / "environments" / lock.digest)
    shutil.rmtree(tmp_path / "environments" / lock.digest)
    asked, index.status = index.requests, 503

    environment = await (await opened()).ready(lock.digest, Fetch(lock))

    assert run(environment, "import greet; print(greet.hello())") == "hello"
    assert index.requests == asked


async def test_what_an_installer_did_by_half_is_not_taken_for_installed(
    opened: Open, index: SmallIndex, tmp_path: Path
) -> None:
    uv, site = tmp_path / "uv", f"lib/python{PYTHON}/site-packages"
    real = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    half = f"cd workshop-*.partial/{site} && mkdir greet-1.0.dist-info; exit 2"
    uv.write_text(f'#!/bin/sh\ncase "$*" in *--offline*) {half};; esac\nexec "{real}" "$@"\n')
    uv.chmod(0o755)
    environments, lock = await opened(uv=str(uv), has_fence=False), lock_of(index)

    with pytest.raises(BuildFailed):
        await environments.ready(lock.digest, Fetch(lock))

    assert index.requests == 0
    assert not (tmp_path / "environments" / lock.digest).exists()


async def test_a_python_that_is_not_here_is_this_machines_fault(
    opened: Open, index: SmallIndex
) -> None:
    lock = empty_lock("3.99")

    with pytest.raises(BuildFailed, match=r"this machine has no Python 3\.99") as failed:
        await (await opened()).ready(lock.digest, Fetch(lock))

    assert failed.value.is_unfit


async def test_uv_that_is_missing_is_this_machines_fault(opened: Open, index: SmallIndex) -> None:
    lock = lock_of(index)

    with pytest.raises(BuildFailed, match="uv cannot be started") as failed:
        await (await opened(uv="/nonexistent/uv")).ready(lock.digest, Fetch(lock))

    assert failed.value.is_unfit


async def test_a_full_disk_is_this_machines_fault(
    opened: Open, index: SmallIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lock_of(index)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("task_server.worker.building.settle", full)

    with pytest.raises(BuildFailed, match="no space is left on the disk") as failed:
        await (await opened()).ready(lock.digest, Fetch(lock))

    assert (failed.value.is_retryable, failed.value.is_unfit) == (True, True)


async def test_a_folder_that_cannot_be_made_is_this_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BuildFailed, match="cannot be written") as failed:
        await Environments(tmp_path / "file" / "environments").open()

    assert failed.value.is_unfit


def test_the_interpreters_of_this_machine_really_start() -> None:
    found = pythons()

    assert PYTHON in found
    for python, interpreter in found.items():
        told = subprocess.check_output([interpreter, "-V"], text=True)
        assert told.startswith(f"Python {python}.")


def test_the_interpreter_of_the_system_comes_first() -> None:
    if not Path(f"/usr/bin/python{PYTHON}").exists():
        pytest.skip("this machine has no Python of the system with this version")

    assert pythons()[PYTHON] == Path(f"/usr/bin/python{PYTHON}")


@pytest.mark.network
@pytest.mark.timeout(120)
async def test_a_package_of_the_real_index_is_ready_quickly(tmp_path: Path) -> None:
    lock = await resolve(parse_request("humanize", python=PYTHON).environment)
    assert parse_lock(lock.text) == lock
    for attempt in ("cold", "warm"):
        environments = Environments(tmp_path / attempt)
        await environments.open()
        began = time.perf_counter()
        environment = await environments.ready(lock.digest, Fetch(lock))
        seconds = time.perf_counter() - began
        await environments.close()

    assert run(environment, "import humanize; print(humanize.naturalsize(10**6))") == "1.0 MB"
    assert seconds < 5


async def until(holds: Callable[[], bool]) -> None:
    """Wait for other processes, at most ten seconds."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(0.01)


_BEFORE: set[str] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Children of other tests of this process are nothing of ours."""
    _BEFORE.clear()
    _BEFORE.update(children())


def children() -> list[str]:
    """The process ids of this process's children, without those of other tests."""
    every = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [each for each in every if each not in _BEFORE]
