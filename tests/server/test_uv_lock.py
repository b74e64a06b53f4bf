import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.environments.lock import empty_lock
from task_server.environments.requirements import EnvironmentRequest, parse_request
from task_server.server.uv_lock import LockFailed, lock
from tests.environments.small_index import SmallIndex, small_index

# Every index of these tests is on the loopback, unless a test is marked `network`.


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        index.add("greet", "1.0", {"greet.py": "VERSION = 1\n"})
        index.add("greet", "2.0", {"greet.py": "VERSION = 2\n"})
        yield index


def request(*packages: str, python: str = "3.11") -> EnvironmentRequest:
    return parse_request(packages, python=python).environment


async def test_the_newest_version_that_fits_is_locked(index: SmallIndex, tmp_path: Path) -> None:
    environ = index.environ(tmp_path / "cache")

    newest = await lock(request("greet"), environ=environ)
    older = await lock(request("greet<2"), environ=environ)

    assert newest.versions() == {"greet": "2.0"}
    assert older.versions() == {"greet": "1.0"}
    assert all(pin.hashes and pin.marker is None for pin in newest.pins)


async def test_locking_again_gives_the_same_digest(index: SmallIndex, tmp_path: Path) -> None:
    first = await lock(request("greet"), environ=index.environ(tmp_path / "one"))
    second = await lock(request("greet"), environ=index.environ(tmp_path / "other"))

    assert first.digest == second.digest


async def test_another_python_than_this_one_can_be_locked(
    index: SmallIndex, tmp_path: Path
) -> None:
    locked = await lock(request("greet", python="3.13"), environ=index.environ(tmp_path / "c"))

    assert locked.python == "3.13"
    assert locked.versions() == {"greet": "2.0"}


async def test_no_requirements_need_no_uv() -> None:
    assert await lock(request(), uv="/nonexistent/uv", environ={}) == empty_lock("3.11")


@pytest.mark.parametrize(
    ("package", "first_line"),
    [
        ("gret", "'gret' was not found in the package index; check the name"),
        ("greet==99", "no version of greet matches ==99"),
        ("sources-only", "'sources-only' has no wheel that fits"),
    ],
)
async def test_a_request_that_cannot_be_met_fails_for_good(
    index: SmallIndex, tmp_path: Path, package: str, first_line: str
) -> None:
    index.add_source_only("sources_only", "1.0")

    with pytest.raises(LockFailed) as failed:
        await lock(request(package), environ=index.environ(tmp_path / "cache"))

    assert failed.value.message.startswith(first_line)
    assert not failed.value.is_retryable
    assert "/tmp" not in failed.value.message


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_an_index_in_trouble_is_worth_another_try(
    index: SmallIndex, tmp_path: Path, status: int
) -> None:
    index.status = status

    with pytest.raises(LockFailed, match="the package index") as failed:
        await lock(request("greet"), environ=index.environ(tmp_path / "cache"))

    assert failed.value.is_retryable


async def test_an_index_that_is_down_is_worth_another_try(tmp_path: Path) -> None:
    with small_index() as index:
        environ = index.environ(tmp_path / "cache")

    with pytest.raises(LockFailed, match="could not be reached") as failed:
        await lock(request("greet"), environ=environ)

    assert failed.value.is_retryable


async def test_a_slow_index_is_given_up(index: SmallIndex, tmp_path: Path) -> None:
    index.may_answer.clear()

    with pytest.raises(LockFailed, match=r"did not answer within 0\.5 s") as failed:
        await lock(request("greet"), timeout_seconds=0.5, environ=index.environ(tmp_path / "cache"))

    assert failed.value.is_retryable


async def test_cancelling_ends_uv(index: SmallIndex, tmp_path: Path) -> None:
    index.may_answer.clear()
    locking = asyncio.create_task(lock(request("greet"), environ=index.environ(tmp_path / "cache")))
    await asyncio.sleep(0.3)

    locking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await locking
    assert not [line for line in children() if "uv" in line]


async def test_uv_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(LockFailed, match="uv cannot be started") as failed:
        await lock(request("greet"), uv=str(tmp_path / "uv"), environ={})

    assert failed.value.is_retryable


async def test_configuration_of_the_user_is_not_read(index: SmallIndex, tmp_path: Path) -> None:
    environ = index.environ(tmp_path / "cache")
    configuration = tmp_path / ".config" / "uv" / "uv.toml"
    configuration.parent.mkdir(parents=True)
    configuration.write_text("this is no TOML")

    locked = await lock(request("greet"), environ={**environ, "XDG_CONFIG_DIRS": str(tmp_path)})

    assert locked.versions() == {"greet": "2.0"}


@pytest.mark.network
@pytest.mark.timeout(120)
async def test_pins_that_fit_this_python_only_are_locked() -> None:
    # For Python 3.14 there is no answer, and nobody asked for one.
    locked = await lock(request("numpy==1.26.4", "pandas==2.3.3"), environ=os.environ)

    assert locked.versions()["numpy"] == "1.26.4"
    assert locked.versions()["pandas"] == "2.3.3"


@pytest.mark.network
@pytest.mark.timeout(120)
@pytest.mark.parametrize("package", ["uvloop", "pywinpty", "pyobjc-core"])
async def test_packages_with_wheels_for_one_system_only_are_locked(package: str) -> None:
    locked = await lock(request(package), environ=os.environ)

    assert package in locked.versions()


@pytest.mark.network
@pytest.mark.timeout(120)
async def test_a_warm_lock_is_quick() -> None:
    await lock(request("humanize"), environ=os.environ)
    began = time.perf_counter()

    await lock(request("humanize"), environ=os.environ)

    assert time.perf_counter() - began < 5


def children() -> list[str]:
    """The command lines of this process's children."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in pids]
