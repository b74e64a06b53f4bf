from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from task_server.worker.sandbox import cgroups
from task_server.worker.sandbox.cgroups import Group, Groups
from task_server.worker.sandbox.limits import RunnerLimits

LIMITS = RunnerLimits(memory_bytes=64 << 20, processes=20, cpus=1.5)


def tree(tmp_path: Path, *names: str) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in names}
    for folder in folders.values():
        folder.mkdir()
    return folders


def test_the_first_version_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    folders = tree(tmp_path, "memory", "pids", "cpu")

    Groups(folders, is_second=False).make(LIMITS)

    [memory] = (tmp_path / "memory").iterdir()
    [pids] = (tmp_path / "pids").iterdir()
    [cpu] = (tmp_path / "cpu").iterdir()
    assert (memory / "memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (pids / "pids.max").read_text() == "20"
    assert (cpu / "cpu.cfs_quota_us").read_text() == "150000"


def test_the_first_version_has_no_folder_for_what_is_not_limited(tmp_path: Path) -> None:
    folders = tree(tmp_path, "memory", "pids", "cpu", "network")
    limits = RunnerLimits(memory_bytes=64 << 20, network="full")

    Groups(folders, is_second=False).make(limits)

    assert {name: len(list(each.iterdir())) for name, each in folders.items()} == {
        "memory": 1, "pids": 1, "cpu": 0, "network": 0,
    }  # fmt: skip


def test_the_second_version_has_one_folder_for_all(tmp_path: Path) -> None:
    folder = tree(tmp_path, "all")["all"]

    Groups({"memory": folder, "pids": folder}, is_second=True).make(LIMITS)

    [group] = folder.iterdir()
    assert (group / "memory.max").read_text() == str(64 << 20)
    assert (group / "memory.swap.max").read_text() == "0"
    assert (group / "pids.max").read_text() == "20"
    assert (group / "cpu.max").read_text() == "150000 100000"


def test_a_process_goes_in_by_itself_as_a_single_thread_where_that_is_faster(
    tmp_path: Path,
) -> None:
    folders = tree(tmp_path, "memory", "pids", "network")
    first = Group(folders, is_second=False)
    second = Group(dict.fromkeys(folders, tmp_path), is_second=True)

    assert first.entrances == [
        str(tmp_path / "memory" / "tasks"),
        str(tmp_path / "network" / "cgroup.procs"),
        str(tmp_path / "pids" / "tasks"),
    ]
    assert second.entrances == [str(tmp_path / "cgroup.procs")]


def test_groups_of_agents_that_are_gone_are_removed_and_others_are_not(tmp_path: Path) -> None:
    folder = tree(tmp_path, "all")["all"]
    gone = subprocess.Popen(["true"])
    gone.wait()
    ours, theirs = (folder / f"task-server-{pid}-0" for pid in (os.getpid(), gone.pid))
    ours.mkdir()
    theirs.mkdir()

    Groups({"memory": folder, "pids": folder}, is_second=True).sweep()

    assert list(folder.iterdir()) == [ours], "its runner may be about to be put in"


@pytest.mark.parametrize(
    ("is_second", "events", "peak"),
    [
        (False, "memory.oom_control", "memory.max_usage_in_bytes"),
        (True, "memory.events", "memory.peak"),
    ],
)
def test_what_the_kernel_ended_for_want_of_memory_is_known(
    tmp_path: Path, is_second: bool, events: str, peak: str
) -> None:
    folder = tree(tmp_path, "all")["all"]
    group = Groups({"memory": folder, "pids": folder}, is_second=is_second).make(LIMITS)
    [files] = folder.iterdir()

    (files / events).write_text("under_oom 0\noom_kill 0\n")
    assert not group.has_run_out() and group.peak_bytes() == 0
    (files / events).write_text("under_oom 0\noom_kill 1\n")
    (files / peak).write_text("4096\n")
    assert group.has_run_out() and group.peak_bytes() == 4096


def test_both_versions_are_told_apart() -> None:
    own = cgroups._own_paths("4:memory:/a\n3:cpu,cpuacct:/b\n0::/c\n")
    mounts = cgroups._mounts(
        "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )

    assert own == {"memory": "/a", "cpu": "/b", "cpuacct": "/b", "": "/c"}
    assert mounts["memory"] == Path("/sys/fs/cgroup/memory")
    assert mounts[""] == Path("/sys/fs/cgroup/unified")
