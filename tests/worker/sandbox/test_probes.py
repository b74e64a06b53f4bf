"""The sandbox is tried here with each mixture of layers that this machine may have."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from task_server.settings import WorkerSettings
from task_server.worker.launch import CHILD, RunnerSpec
from task_server.worker.sandbox import choice
from task_server.worker.sandbox.choice import Machine, SandboxTooWeak, Wishes, choose, wishes_of
from task_server.worker.sandbox.layers import Layers, Network
from task_server.worker.sandbox.probes import HELD_BY, Examined, examine
from task_server.worker.sandbox.sandbox import Policy, Sandbox
from task_server.worker.sandbox.uids import Uids
from tests.folders import let_others_enter


def can_make_namespaces() -> bool:
    """Whether this machine lets us, asked of another program."""
    options = ["--mount", "--pid", "--fork", "--mount-proc"]
    options += [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
    try:
        return subprocess.run(["unshare", *options, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


MACHINE = msgspec.structs.replace(Machine.here(), namespaces=can_make_namespaces())
MIXTURES = list(MACHINE.mixtures(4, may_run_as_root=False))
SYSTEM_PYTHON = Path("/usr/bin/python3.11")
PYTHON = SYSTEM_PYTHON if SYSTEM_PYTHON.exists() else Path(sys.executable)

pytestmark = pytest.mark.e2e


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of a worker's that other users can enter."""
    let_others_enter(tmp_path)
    yield tmp_path
    assert list(tmp_path.glob("probe-*")) == []


def wishes(folder: Path, **values: object) -> Wishes:
    settings = WorkerSettings(server="http://127.0.0.1:1", slots=2)
    return wishes_of(msgspec.structs.replace(settings, **values), folder)


async def examined(layers: Layers, folder: Path, network: Network = "full") -> Examined:
    policy: Policy = wishes(folder, network=network).policy

    def make(root: Path) -> Sandbox:
        uids = Uids(64000, 64999)
        return Sandbox(layers, policy, root=root, uids=uids, groups=MACHINE.groups)

    return await examine(make, interpreter=PYTHON, child=CHILD, directory=folder)


@pytest.mark.parametrize("layers", MIXTURES, ids=str)
async def test_each_mixture_holds_what_it_says(layers: Layers, folder: Path) -> None:
    found = await examined(layers, folder)

    assert found.not_held == []
    assert found.probes["works"] == "yes"
    assert HELD_BY.keys() <= found.probes.keys()


@pytest.mark.parametrize("layers", [each for each in MIXTURES if each.level], ids=str)
async def test_without_a_network_nothing_is_reached(layers: Layers, folder: Path) -> None:
    found = await examined(layers, folder, network="none")

    assert found.not_held == [] and found.probes["connect"] == "denied"


async def test_a_layer_that_is_off_is_missed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes can find a door open: a sandbox that says more than it holds is seen through."""
    everybodys = folder / "open"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(everybodys))
    [bare] = [each for each in MIXTURES if each == Layers(uid=each.uid)]
    found = await examined(bare, folder)
    claimed = msgspec.structs.replace(found, layers=Layers(landlock=7, seccomp=True))

    assert "write outside" in claimed.not_held and "trace processes" in claimed.not_held


async def test_the_best_that_works_is_taken(folder: Path) -> None:
    chosen = await choose(wishes(folder), interpreter=PYTHON, directory=folder)

    assert chosen.level == max(layers.level for layers in MIXTURES)


async def test_no_more_is_taken_than_is_wished(folder: Path) -> None:
    chosen = await choose(wishes(folder, max_sandbox=1), interpreter=PYTHON, directory=folder)

    assert not chosen.examined.layers.namespace and chosen.level <= 2


async def test_what_a_machine_lacks_is_done_without(folder: Path) -> None:
    poor = msgspec.structs.replace(MACHINE, namespaces=False, groups=None, landlock=0)

    chosen = await choose(wishes(folder), interpreter=PYTHON, directory=folder, machine=poor)

    assert chosen.level == 0


async def test_a_sandbox_that_is_too_weak_is_refused_and_says_what_to_do(folder: Path) -> None:
    poor = msgspec.structs.replace(MACHINE, namespaces=False, groups=None, landlock=0)

    with pytest.raises(SandboxTooWeak, match=r"--min-sandbox asks for 3.*doctor"):
        await choose(
            wishes(folder, min_sandbox=3), interpreter=PYTHON, directory=folder, machine=poor
        )


@pytest.mark.parametrize(
    ("network", "highest", "lack", "why"),
    [
        ("none", 0, {}, "--max-sandbox 0 refuses tasks no system calls"),
        ("none", 4, {"seccomp": False}, "this worker cannot refuse"),
        ("index-only", 2, {}, "--max-sandbox 2 does without"),
        ("index-only", 4, {"namespaces": False}, "this worker cannot give"),
    ],
)
async def test_a_worker_that_cannot_hold_tasks_to_its_network_does_not_start(
    folder: Path, network: Network, highest: int, lack: dict[str, bool], why: str
) -> None:
    machine = msgspec.structs.replace(MACHINE, **{"seccomp": True, "namespaces": True, **lack})

    with pytest.raises(SandboxTooWeak, match=f"--network {network} cannot be held here: {why}"):
        await choose(
            wishes(folder, network=network, max_sandbox=highest),
            interpreter=PYTHON,
            directory=folder,
            machine=machine,
        )


async def test_a_worker_whose_layers_come_to_nothing_does_not_open_the_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing_works(*_: object, **__: object) -> Examined:
        raise OSError("refused")

    monkeypatch.setattr(choice, "examine", nothing_works)

    with pytest.raises(SandboxTooWeak, match=r"a process alone: no seccomp.* --network none needs"):
        await choose(
            wishes(folder, network="none", i_know_root_runners=True),
            interpreter=PYTHON,
            directory=folder,
        )


@pytest.mark.parametrize("network", ["none", "index-only", "internet"])
def test_a_runner_that_cannot_be_held_to_its_network_is_not_started(
    folder: Path, network: Network
) -> None:
    sandbox = Sandbox(Layers(), wishes(folder).policy, root=folder)
    limits = msgspec.structs.replace(sandbox.policy.limits, network=network)
    spec = RunnerSpec(interpreter=PYTHON, directory=folder / "runner")

    with pytest.raises(OSError, match=f"which --network {network} needs"):
        sandbox.confine(spec, limits)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes other users")
async def test_a_folder_that_runners_cannot_enter_is_named(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    poor = msgspec.structs.replace(MACHINE, namespaces=False)

    with pytest.raises(SandboxTooWeak, match=rf"cannot enter {closed}.*chmod"):
        await choose(wishes(closed), interpreter=PYTHON, directory=closed, machine=poor)


@pytest.mark.parametrize(
    ("server", "lowest"), [("http://127.0.0.1:8900", 0), ("https://tasks.example.org", 1)]
)
def test_a_worker_of_another_machines_server_asks_for_more(server: str, lowest: int) -> None:
    assert wishes_of(WorkerSettings(server=server), Path("/")).lowest == lowest
