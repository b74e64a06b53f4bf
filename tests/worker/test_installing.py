"""Each package comes from its one place, and only what the worker's settings allow."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from task_server.environments.lock import PRIVATE, UPLOADED, Lock, Pin
from task_server.machine import program
from task_server.policy import Policy, PrivateIndex
from task_server.worker.environments import BuildFailed, Environment, Environments
from task_server.worker.indexes import Indexes
from task_server.worker.installing import InstallRules
from task_server.worker.interpreters import pythons
from task_server.worker.sandbox import fence, own_network
from task_server.worker.sandbox.relay import Relay
from tests.environments.small_index import SmallIndex, small_index

PYTHON = f"3.{sys.version_info.minor}"
Build = Callable[..., Awaitable[Environment]]


@pytest.fixture
def public() -> Iterator[SmallIndex]:
    with small_index() as index:
        index.add("greet", "1.0", {"greet.py": "FROM = 'public'\n"})
        index.add("other", "1.0", {"other.py": "FROM = 'public'\n"})
        yield index


@pytest.fixture
def second() -> Iterator[SmallIndex]:
    with small_index() as index:
        index.add("greet", "1.0", {"greet.py": "FROM = 'second'\n"})
        yield index


def pin(index: SmallIndex, name: str, source: str = "") -> Pin:
    digest = index.sha256(f"{name}-1.0-py3-none-any.whl")
    return Pin(name, "1.0", None, (f"sha256:{digest}",), source)


@pytest.fixture
async def build(public: SmallIndex, tmp_path: Path) -> AsyncIterator[Build]:
    made: list[Environments] = []

    async def build(*pins: Pin, **options: object) -> Environment:
        lock = Lock(PYTHON, tuple(sorted(pins, key=lambda pin: pin.name)))
        environments = Environments(
            tmp_path / "environments",
            environ=public.environ(tmp_path / "cache"),
            pythons={PYTHON: pythons()[PYTHON]},
            **options,  # type: ignore[arg-type]
        )
        made.append(environments)
        await environments.open()

        async def text(digest: str) -> str:
            return lock.text

        return await environments.ready(lock.digest, text)

    yield build
    for environments in made:
        await environments.close()


def content(environment: Environment, name: str) -> str:
    assert environment.site_packages is not None
    return (environment.site_packages / f"{name}.py").read_text()


def wheels_of(index: SmallIndex, folder: Path) -> Callable[..., Awaitable[Mapping[str, Path]]]:
    """Uploaded wheels, kept under other names than their own."""

    async def fetch(pins: Sequence[Pin]) -> Mapping[str, Path]:
        found = {}
        for each in pins:
            name = f"{each.name}-{each.version}-py3-none-any.whl"
            (folder / index.sha256(name)).write_bytes(index.files[name])
            found[name] = folder / index.sha256(name)
        return found

    return fetch


needs_own_network = pytest.mark.skipif(
    bool(own_network.missing()) or not fence.is_possible(), reason="uv gets no network of its own"
)


def relay_to(index: SmallIndex, cache: Path) -> Relay:
    return Relay(Indexes(program("uv"), index.environ(cache)), {})


@needs_own_network
async def test_uv_reaches_its_index(build: Build, public: SmallIndex, tmp_path: Path) -> None:
    relay = relay_to(public, tmp_path / "cache")

    environment = await build(pin(public, "greet"), relay=relay)

    assert "'public'" in content(environment, "greet") and relay.take_refused() == []


@needs_own_network
async def test_uv_reaches_nothing_but_its_index(
    build: Build, public: SmallIndex, second: SmallIndex, tmp_path: Path
) -> None:
    relay = relay_to(second, tmp_path / "other")

    with pytest.raises(BuildFailed, match=r"kept from 127\.0\.0\.1:\d+.*--index-hosts") as failed:
        await build(pin(public, "greet"), relay=relay)

    assert public.requests == 0 and failed.value.is_unfit


@needs_own_network
async def test_the_worker_itself_stays_in_its_network(
    build: Build, public: SmallIndex, tmp_path: Path
) -> None:
    before = Path("/proc/self/ns/net").readlink()

    await build(pin(public, "greet"), relay=relay_to(public, tmp_path / "cache"))

    networks = {task.joinpath("ns/net").readlink() for task in Path("/proc/self/task").iterdir()}
    assert networks == {before}


async def test_uploaded_wheels_are_installed_beside_public_ones_without_asking_for_them(
    build: Build, public: SmallIndex, second: SmallIndex, tmp_path: Path
) -> None:
    pins = pin(second, "greet", UPLOADED), pin(public, "other")
    asked: list[str] = []
    answer = public.answer

    def listening(path: str) -> bytes | None:
        asked.append(path)
        return answer(path)

    public.answer = listening  # type: ignore[method-assign]

    environment = await build(*pins, fetch_wheels=wheels_of(second, tmp_path))

    assert "'second'" in content(environment, "greet")
    assert "'public'" in content(environment, "other")
    assert asked and not [path for path in asked if "greet" in path]
    assert not list(environment.interpreter.parents[1].glob("*heels*"))


async def test_an_uploaded_wheel_that_is_gone_is_not_taken_from_the_index(
    build: Build, public: SmallIndex
) -> None:
    async def nothing(pins: Sequence[Pin]) -> Mapping[str, Path]:
        return {}

    with pytest.raises(BuildFailed, match=r"greet 1\.0 was uploaded to the server, and removed"):
        await build(pin(public, "greet", UPLOADED), fetch_wheels=nothing)

    assert public.requests == 0


async def test_what_is_mapped_to_the_private_index_comes_from_there(
    build: Build, public: SmallIndex, second: SmallIndex
) -> None:
    private = PrivateIndex(f"{second.url}/simple/", ("greet",), "me", "secret")

    environment = await build(
        pin(second, "greet", PRIVATE), pin(public, "other"), rules=InstallRules(private=private)
    )

    assert "'second'" in content(environment, "greet")


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_a_private_index_in_trouble_is_not_replaced_by_the_public_one(
    build: Build, public: SmallIndex, second: SmallIndex, status: int
) -> None:
    private = PrivateIndex(f"{second.url}/simple/", ("greet",), "me", "secret-word")
    second.status = status
    public.files = dict(second.files)

    with pytest.raises(BuildFailed) as failed:
        await build(pin(second, "greet", PRIVATE), rules=InstallRules(private=private))

    assert public.requests == 0 and "secret-word" not in str(failed.value)


@pytest.mark.parametrize("source", ["", PRIVATE])
async def test_a_lock_that_says_another_place_than_the_worker_is_for_other_workers(
    build: Build, public: SmallIndex, source: str
) -> None:
    private = PrivateIndex("http://127.0.0.1:1/", ("greet",)) if not source else None

    with pytest.raises(BuildFailed, match="private index") as failed:
        await build(pin(public, "greet", source), rules=InstallRules(private=private))

    assert failed.value.is_unfit


@pytest.mark.parametrize(
    "policy", [Policy(denied=("gre*",)), Policy(allowed=("other",)), Policy(allowed=())]
)
async def test_what_this_worker_does_not_allow_is_for_other_workers(
    build: Build, public: SmallIndex, policy: Policy
) -> None:
    with pytest.raises(BuildFailed, match="this worker does not allow greet") as failed:
        await build(pin(public, "greet"), rules=InstallRules(policy))

    assert failed.value.is_unfit and public.requests == 0


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (InstallRules(most_files=5), "--environment-files allows 5"),
        (InstallRules(most_bytes=50), "--environment-bytes allows 50"),
    ],
)
async def test_an_environment_that_is_too_large_is_not_kept(
    build: Build, public: SmallIndex, tmp_path: Path, rules: InstallRules, said: str
) -> None:
    with pytest.raises(BuildFailed, match=said) as failed:
        await build(pin(public, "greet"), rules=rules)

    assert not failed.value.is_retryable
    assert not [
        each
        for each in (tmp_path / "environments").iterdir()
        if each.suffix not in (".lock", ".skeleton") and each.name != "bytecode"
    ]


async def test_a_bomb_is_stopped_while_it_is_unpacked(build: Build, public: SmallIndex) -> None:
    public.add("bomb", "1.0", {"bomb.txt": "0" * 400_000_000})

    with pytest.raises(BuildFailed, match="far too large") as failed:
        await build(pin(public, "bomb"), rules=InstallRules(most_bytes=1_000_000))

    assert not failed.value.is_retryable


async def test_a_uv_that_is_too_old_is_told(
    build: Build, public: SmallIndex, tmp_path: Path
) -> None:
    old = tmp_path / "old-uv"
    old.write_text('#!/bin/sh\necho "uv 0.4.1 (of long ago)"\n')
    old.chmod(0o755)

    with pytest.raises(BuildFailed, match=r"uv 0\.4\.1 is too old; uv .* or newer") as failed:
        await build(pin(public, "greet"), uv=str(old))

    assert failed.value.is_unfit
