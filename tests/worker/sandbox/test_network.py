"""The internet alone: real sockets in a real control group, in a network that leads nowhere."""

from __future__ import annotations

import errno
import ipaddress
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from task_server.protocol.workers import Limits
from task_server.worker.sandbox import cgroups, network
from task_server.worker.sandbox.cgroups import Group
from task_server.worker.sandbox.choice import Machine, SandboxTooWeak, choose
from task_server.worker.sandbox.limits import RunnerLimits
from tests.folders import let_others_enter
from tests.worker.sandbox.test_probes import PYTHON, wishes

LIMITS = RunnerLimits(memory_bytes=256 << 20, network="internet")
GROUPS = cgroups.found()
WHY_NOT = "no control groups here" if GROUPS is None else GROUPS.without_internet

# Begins in a network of its own, whose one way out is a device that swallows everything.
SENDER = """
import json, socket, subprocess, sys
for command in (
    "link set lo up", "link add swallow type veth peer name nowhere", "link set nowhere up",
    "link set swallow up",
    "addr add 198.51.100.1/24 dev swallow", "-6 addr add 2600::1/64 dev swallow nodad",
    "route add default dev swallow", "-6 route add default dev swallow",
):
    subprocess.run(["ip", *command.split()], check=True)
listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
own_port = listener.getsockname()[1]
print("ready", flush=True)
sys.stdin.readline()
def tried(kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as one:
        one.setblocking(False)
        try:
            if kind == socket.SOCK_DGRAM:
                one.sendto(b"x", (address, port))
            else:
                one.connect((address, port))
        except OSError as error:
            return error.errno
    return 0
print(json.dumps([
    [tried(socket.SOCK_STREAM, address, port or own_port),
     tried(socket.SOCK_DGRAM, address, port or own_port)]
    for address, port in json.loads(sys.argv[1])
]))
"""
ALLOWED = [[errno.EINPROGRESS, 0]]
"""Of a connection and a datagram: both on their way."""
DENIED = [[errno.EPERM, errno.EPERM]]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Group]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("needs the programs ip and unshare")
    assert GROUPS is not None
    resolvers = tmp_path / "resolv.conf"
    resolvers.write_text("search here\nnameserver 10.0.0.53\nnameserver fd00::53\n")
    monkeypatch.setattr(network, "RESOLVERS", resolvers)
    made = GROUPS.make(LIMITS)
    yield made
    made.remove()


def sent(group: Group, *addresses: tuple[str, int]) -> list[list[int]]:
    """What came of a connection and a datagram to each."""
    command = ["unshare", "--net", sys.executable, "-c", SENDER, json.dumps(addresses)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdin is not None and sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
        for each in group.entrances:
            Path(each).write_text(str(sender.pid))
        told, _ = sender.communicate("go\n", timeout=20)
    return msgspec.json.decode(told, type=list[list[int]])


def test_the_internet_is_reached_and_all_that_is_nearer_is_not(group: Group) -> None:
    near = ["127.0.0.1", "::1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255"]
    near += ["192.168.1.1", "100.64.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255"]
    near += ["fd00::1", "fe80::1", "ff02::1", "2002:a00:1::1", "2001:0:1::1", "64:ff9b::a00:1"]
    near += ["::ffff:127.0.0.1", "::ffff:10.0.0.1"]
    far = ["8.8.8.8", "172.32.0.1", "100.128.0.1", "11.0.0.1", "2606:4700::1", "::ffff:8.8.8.8"]

    came = sent(group, *((address, 443) for address in [*near, *far]))

    refused = dict(zip(near, came, strict=False))
    assert {each for each, how in refused.items() if how[0] != errno.EPERM} <= {"fe80::1"}
    assert [each for each, how in refused.items() if 0 in how or errno.EINPROGRESS in how] == []
    assert came[len(near) :] == ALLOWED * len(far)


def test_no_service_of_the_machine_is_reached_at_a_public_address_of_its_own(group: Group) -> None:
    [(connection, datagram), *_] = sent(group, ("198.51.100.1", 0))

    # A connection begins, and no packet of it leaves.
    assert (connection, datagram) == (errno.EINPROGRESS, errno.EPERM)


def test_the_resolvers_answer_questions_and_nothing_else(group: Group) -> None:
    asked = sent(group, ("10.0.0.53", 53), ("10.0.0.53", 80), ("10.0.0.54", 53))
    asked += sent(group, ("fd00::53", 53), ("fd00::53", 80), ("fd00::54", 53))

    assert asked == [*ALLOWED, *DENIED, *DENIED, *ALLOWED, *DENIED, *DENIED]


def test_resolvers_are_read_as_the_machine_does(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# nameserver 1.1.1.1\nnameserver 9.9.9.9\n nameserver fe80::1%eth0\n"
        "nameserver none\noptions edns0\n"
    )

    assert network.resolvers_in(file) == [*map(ipaddress.ip_address, ("9.9.9.9", "fe80::1"))]
    assert network.resolvers_in(tmp_path / "missing") == []


def test_a_task_gets_no_more_of_the_network_than_the_worker_gives() -> None:
    def network_of(asked: str) -> str:
        return LIMITS.at_most(Limits(network=asked), memory_bytes=1 << 30).network

    assert [network_of(each) for each in ("none", "index-only", "internet", "full")] == [
        *("none", "index-only", "internet", "internet")
    ]
    with pytest.raises(ValueError, match="there are none, index-only, internet, full"):
        network_of("lan")


@pytest.mark.e2e
async def test_a_worker_holds_its_tasks_to_the_internet(tmp_path: Path) -> None:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    let_others_enter(tmp_path)

    chosen = await choose(
        wishes(tmp_path, network="internet"), interpreter=PYTHON, directory=tmp_path
    )

    assert chosen.examined.probes["connect"] == "denied"
    assert chosen.examined.layers.cgroup


async def test_a_worker_that_cannot_hold_them_says_what_is_missing(tmp_path: Path) -> None:
    poor = msgspec.structs.replace(Machine.here(), groups=None)

    with pytest.raises(SandboxTooWeak, match="internet cannot be held here: this worker cannot"):
        await choose(
            wishes(tmp_path, network="internet"),
            interpreter=PYTHON,
            directory=tmp_path,
            machine=poor,
        )
