from __future__ import annotations

import pytest

from task_server.protocol.workers import Limits
from task_server.worker.sandbox.layers import Layers
from task_server.worker.sandbox.limits import (
    LEAST_MEMORY,
    RunnerLimits,
    kernel_limits,
    share_of_memory,
)


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


def test_a_task_has_what_it_requires_whatever_others_have() -> None:
    usual = RunnerLimits(memory_bytes=1 << 30, cpus=1.0)

    asked = usual.at_most(Limits(memory=4 << 30, cpu=2.5, gpus=1), memory_bytes=8 << 30)

    assert (asked.memory_bytes, asked.cpus, asked.has_gpus) == (4 << 30, 2.5, True)


def test_no_task_has_more_memory_than_the_machine_or_less_than_a_start_takes() -> None:
    usual = RunnerLimits(memory_bytes=1 << 30)

    most = usual.at_most(Limits(memory=9 << 30), memory_bytes=8 << 30)
    least = usual.at_most(Limits(memory=1), memory_bytes=8 << 30)

    assert (most.memory_bytes, least.memory_bytes) == (8 << 30, LEAST_MEMORY)
    assert usual.at_most(Limits(), memory_bytes=8 << 30) == usual


def test_what_is_kept_free_for_a_task_lifts_a_slots_share_and_no_bound() -> None:
    share = RunnerLimits(memory_bytes=1 << 30)
    bound = RunnerLimits(memory_bytes=1 << 30, is_share=False)
    less, more = Limits(reserved=1 << 29), Limits(reserved=4 << 30)

    assert share.at_most(more, memory_bytes=8 << 30).memory_bytes == 4 << 30
    assert share.at_most(less, memory_bytes=8 << 30).memory_bytes == 1 << 30
    assert bound.at_most(more, memory_bytes=8 << 30).memory_bytes == 1 << 30


def test_runners_are_told_apart_by_what_is_kept_free_only_where_it_is_more_than_they_have() -> None:
    usual = RunnerLimits(memory_bytes=1 << 30)

    assert usual.told_apart(Limits(reserved=1 << 29)) is None
    assert usual.told_apart(Limits(cpu=2.0, reserved=1 << 29)) == Limits(cpu=2.0)
    assert usual.told_apart(Limits(reserved=4 << 30)) == Limits(reserved=4 << 30)
    assert usual.told_apart(None) is None


def test_drivers_of_gpus_may_take_address_space_without_end() -> None:
    limits = RunnerLimits(memory_bytes=1 << 30, has_gpus=True)

    assert "RLIMIT_AS" not in kernel_limits(limits, Layers(), own_threads=0)
