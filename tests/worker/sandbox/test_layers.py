from __future__ import annotations

import pytest

from task_server.worker.sandbox.layers import Layers
from task_server.worker.sandbox.limits import RunnerLimits, kernel_limits, share_of_memory


@pytest.mark.parametrize(
    ("layers", "level"),
    [
        (Layers(), 0),
        (Layers(uid=True, cgroup=True), 0),
        (Layers(landlock=3), 0),  # what it may call is not limited
        (Layers(landlock=3, seccomp=True), 1),
        (Layers(landlock=3, seccomp=True, uid=True, cgroup=True), 2),
        (Layers(seccomp=True, namespace=True), 3),
        (Layers(landlock=7, seccomp=True, uid=True, namespace=True), 3),
        (Layers(landlock=7, seccomp=True, namespace=True, cgroup=True), 4),
    ],
)
def test_the_level_is_what_the_layers_come_to(layers: Layers, level: int) -> None:
    assert layers.level == level


def test_memory_is_limited_by_addresses_only_where_it_is_not_counted() -> None:
    limits = RunnerLimits(memory_bytes=1 << 30)

    assert kernel_limits(limits, Layers(), own_threads=0)["RLIMIT_AS"] == 2 << 30
    assert "RLIMIT_AS" not in kernel_limits(limits, Layers(cgroup=True), own_threads=0)


def test_what_the_user_runs_besides_does_not_count_for_the_runner() -> None:
    limits = RunnerLimits(memory_bytes=1 << 30, processes=100)

    assert kernel_limits(limits, Layers(), own_threads=70)["RLIMIT_NPROC"] == 170


def test_slots_share_the_memory() -> None:
    assert 0 < share_of_memory(4) * 4 <= share_of_memory(1)
