"""The tree of a runner: what is to be read only cannot be written, wherever it lies."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from task_server.settings import WorkerSettings
from task_server.worker.sandbox.choice import Machine, wishes_of
from task_server.worker.sandbox.files import Files
from task_server.worker.sandbox.layers import Layers
from task_server.worker.sandbox.namespaces import plan
from task_server.worker.sandbox.sandbox import Sandbox
from task_server.worker.sandbox.uids import Uids
from tests.folders import let_others_enter
from tests.worker.running import Bench, by_value, call

by_value(__name__)


@pytest.fixture(params=["/tmp", "/var/tmp"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Runners in a tree of their own, which nothing but that tree keeps from writing.

    Their folder lies where runners have a folder of their own, too.
    """
    with tempfile.TemporaryDirectory(dir=request.param) as folder:
        async with _bench(Path(folder)) as made:
            yield made


@asynccontextmanager
async def _bench(tmp_path: Path) -> AsyncIterator[Bench]:
    let_others_enter(tmp_path)
    mixtures = Machine.here().mixtures(4, may_run_as_root=False)
    layers = next((each for each in mixtures if each.namespace), None)
    if layers is None:
        pytest.skip("this machine has no namespaces")
    (tmp_path / "open" / "closed").mkdir(parents=True)
    (tmp_path / "read").mkdir()
    (tmp_path / "root").mkdir()
    for each in ("open", "open/closed", "read"):
        (tmp_path / each).chmod(0o777)
    settings = WorkerSettings(
        server="http://127.0.0.1:1",
        readable=f"{tmp_path / 'read'}{os.pathsep}{tmp_path / 'open' / 'closed'}",
        writable=str(tmp_path / "open"),
    )
    made = Bench(tmp_path, _sandbox(layers, settings, tmp_path))
    yield made
    await made.close()


def _sandbox(layers: Layers, settings: WorkerSettings, folder: Path) -> Sandbox:
    layers = msgspec.structs.replace(layers, landlock=0, cgroup=False)
    policy = wishes_of(settings, folder).policy
    return Sandbox(layers, policy, root=folder / "root", uids=Uids(64000, 64999))


def written(folders: list[str]) -> list[str]:
    """Those of the folders in which a file can be made."""
    done = []
    for folder in folders:
        try:
            Path(folder, "file").write_text("written")
        except OSError:
            continue
        done.append(folder)
    return done


@pytest.mark.e2e
async def test_only_what_is_to_be_written_can_be(bench: Bench) -> None:
    inside, readable = bench.folder / "open" / "closed", bench.folder / "read"
    writable = bench.folder / "open"
    places = [*map(str, (inside, readable, writable)), "/usr", "/etc", "/", "/tmp", "/dev"]

    outcome = await bench.one(call(written, places))

    assert outcome.error is None
    assert msgspec.json.decode(outcome.answer) == [str(writable), "/tmp"]


def flags(folders: list[str]) -> list[int]:
    """How their file systems are mounted."""
    return [os.statvfs(folder).f_flag & (os.ST_RDONLY | os.ST_NOSUID | 4) for folder in folders]


@pytest.mark.e2e
async def test_all_but_what_is_to_be_written_is_mounted_read_only(bench: Bench) -> None:
    closed = [bench.folder / "open" / "closed", bench.folder / "read"]
    places = [*map(str, closed), "/usr", "/etc/hosts", "/"]

    outcome = await bench.one(call(flags, places))

    assert outcome.error is None
    without_devices = 4
    expected = os.ST_RDONLY | os.ST_NOSUID | without_devices
    assert msgspec.json.decode(outcome.answer) == [expected] * len(places)


def test_what_lies_in_something_writable_comes_after_it(tmp_path: Path) -> None:
    (tmp_path / "open" / "closed").mkdir(parents=True)
    files = Files(
        own=Path("/tmp/own"),
        readable=(tmp_path / "open" / "closed",),
        writable=(tmp_path / "open",),
        is_private=True,
    )

    tree = plan(
        files, root=tmp_path, maps_user=False, has_network=True, uid=64000, shared_bytes=1 << 20
    )["tree"]

    places = [(place[1], place[3]) for place in tree]
    closed = str(tmp_path / "open" / "closed")
    assert places.index((str(tmp_path / "open"), "rw")) < places.index((closed, "ro"))
    sealed = places.index(("", ""))
    assert ("/usr", "") in places[:sealed]
    assert places.index(("/tmp", "mode=1777,size=268435456")) > sealed
