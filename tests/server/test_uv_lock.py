import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.environments.lock import PRIVATE, empty_lock, parse_lock
from task_server.environments.requirements import EnvironmentRequest, parse_request
from task_server.policy import Policy, PrivateIndex
from task_server.server.uv_lock import LockFailed, Rules, lock
from tests.environments.small_index import SmallIndex, small_index, wheel

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


async def test_a_disk_that_takes_nothing_is_worth_another_try(
    index: SmallIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    monkeypatch.setattr("tempfile.tempdir", str(gone))

    with pytest.raises(LockFailed, match="cannot write its temporary folder: No such") as failed:
        await lock(request("greet"), environ=index.environ(tmp_path / "cache"))

    assert failed.value.is_retryable and str(gone) not in failed.value.message
    gone.mkdir()
    assert (await lock(request("greet"), environ=index.environ(tmp_path / "cache"))).pins


async def test_configuration_of_the_user_is_not_read(index: SmallIndex, tmp_path: Path) -> None:
    environ = index.environ(tmp_path / "cache")
    configuration = tmp_path / ".config" / "uv" / "uv.toml"
    configuration.parent.mkdir(parents=True)
    configuration.write_text("this is no TOML")

    locked = await lock(request("greet"), environ={**environ, "XDG_CONFIG_DIRS": str(tmp_path)})

    assert locked.versions() == {"greet": "2.0"}


DAY = 86400.0
NOW = 1_767_225_600.0  # 2026-01-01
WEEK = Rules(cool_down_seconds=7 * DAY)


@pytest.fixture
def dated(index: SmallIndex) -> SmallIndex:
    """greet 1.0 is half a year old, greet 2.0 a day."""
    index.times = {
        "greet-1.0-py3-none-any.whl": "2025-07-01T00:00:00Z",
        "greet-2.0-py3-none-any.whl": "2025-12-31T00:00:00Z",
    }
    return index


async def test_a_version_of_yesterday_is_left_out_for_a_week(
    dated: SmallIndex, tmp_path: Path
) -> None:
    environ = dated.environ(tmp_path / "cache")

    now = await lock(request("greet"), rules=WEEK, environ=environ, now=lambda: NOW)
    later = await lock(request("greet"), rules=WEEK, environ=environ, now=lambda: NOW + 7 * DAY)
    never = await lock(request("greet"), environ=environ, now=lambda: NOW)

    assert now.versions() == {"greet": "1.0"}
    assert later.versions() == never.versions() == {"greet": "2.0"}


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("greet==2.0", "greet 2.0 was uploaded to the package index less than 7 days ago"),
        ("greet>1", "all that fits of greet was uploaded to the package index less than 7 days"),
    ],
)
async def test_a_young_version_needs_a_permit(
    dated: SmallIndex, tmp_path: Path, package: str, said: str
) -> None:
    environ = dated.environ(tmp_path / "cache")

    with pytest.raises(LockFailed) as failed:
        await lock(request(package), rules=WEEK, environ=environ, now=lambda: NOW)

    assert failed.value.message.startswith(said) and "--young-packages" in failed.value.message
    permitted = Rules(cool_down_seconds=7 * DAY, young=("gre*",))
    found = await lock(request(package), rules=permitted, environ=environ, now=lambda: NOW)
    assert found.versions() == {"greet": "2.0"}


async def test_an_index_without_times_is_found_out_and_has_no_cool_down(
    index: SmallIndex, tmp_path: Path
) -> None:
    environ = index.environ(tmp_path / "cache")

    first = await lock(request("greet"), rules=WEEK, environ=environ)
    with pytest.raises(LockFailed, match="no version of greet matches ==99"):
        await lock(request("greet==99"), rules=WEEK, environ=environ)

    assert first.versions() == {"greet": "2.0"}


async def test_what_is_denied_is_not_locked_even_for_another_package(
    index: SmallIndex, tmp_path: Path
) -> None:
    index.files["needy-1.0-py3-none-any.whl"] = wheel(
        "needy", "1.0", {}, metadata="Requires-Dist: greet\n"
    )
    environ = index.environ(tmp_path / "cache")

    with pytest.raises(LockFailed, match="does not allow greet, which the request needs"):
        await lock(request("needy"), rules=Rules(policy=Policy(denied=("greet",))), environ=environ)

    only = Rules(policy=Policy(allowed=("needy",)))
    assert (await lock(request("needy"), rules=only, environ=environ)).versions() == {
        "greet": "2.0",
        "needy": "1.0",
    }


@pytest.fixture
def private() -> Iterator[SmallIndex]:
    with small_index() as private:
        private.add("acme", "1.0", {"acme.py": ""})
        private.files["acme_all-1.0-py3-none-any.whl"] = wheel(
            "acme_all", "1.0", {}, metadata="Requires-Dist: acme\nRequires-Dist: greet\n"
        )
        yield private


def mapped(private: SmallIndex) -> Rules:
    return Rules(private=PrivateIndex(f"{private.url}/simple/", ("acme*",), "me", "secret-word"))


async def test_private_names_come_from_the_private_index_also_when_others_need_them(
    index: SmallIndex, private: SmallIndex, tmp_path: Path
) -> None:
    index.add("acme", "99.0", {"acme.py": "raise SystemExit"})
    environ = index.environ(tmp_path / "cache")

    found = await lock(request("acme-all"), rules=mapped(private), environ=environ)

    assert {pin.name: (pin.version, pin.source) for pin in found.pins} == {
        "acme": ("1.0", PRIVATE),
        "acme-all": ("1.0", PRIVATE),
        "greet": ("2.0", ""),
    }
    assert parse_lock(found.text) == found


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_a_private_name_is_not_taken_from_elsewhere_when_its_index_fails(
    index: SmallIndex, private: SmallIndex, tmp_path: Path, status: int
) -> None:
    index.add("acme", "99.0", {"acme.py": "raise SystemExit"})
    private.status = status

    with pytest.raises(LockFailed) as failed:
        await lock(
            request("acme"), rules=mapped(private), environ=index.environ(tmp_path / "cache")
        )

    assert "secret-word" not in failed.value.message
    assert status != 404 or "must come from the private index" in failed.value.message
    refusal = f"the package index {private.url}/simple/ refused access ({status} "
    assert failed.value.message.startswith(refusal) == (status in (401, 403))


async def test_a_public_name_is_not_taken_from_the_private_index(
    index: SmallIndex, private: SmallIndex, tmp_path: Path
) -> None:
    private.add("greet", "3.0", {"greet.py": ""})

    with pytest.raises(LockFailed, match="greet is in the private index too"):
        await lock(
            request("greet"), rules=mapped(private), environ=index.environ(tmp_path / "cache")
        )


async def test_a_uv_that_is_too_old_is_told(tmp_path: Path) -> None:
    old = tmp_path / "old-uv"
    old.write_text('#!/bin/sh\necho "uv 0.4.1 (of long ago)"\n')
    old.chmod(0o755)

    with pytest.raises(LockFailed, match=r"uv 0\.4\.1 is too old"):
        await lock(request("greet"), uv=str(old), environ={"PATH": "/usr/bin:/bin"})


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
