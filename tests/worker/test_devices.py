"""Which GPUs a worker has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from task_server.worker.devices import Devices, device_files, devices_of


@pytest.mark.parametrize(
    "said,found",
    [
        ("0,1", ("0", "1")),
        (" 2 , GPU-8932f937 ", ("2", "GPU-8932f937")),
        ("0,0,1", ("0",)),
        ("1,-1,2", ("1",)),
        ("none", ()),
        ("", ()),
    ],
)
def test_a_setting_names_devices_as_cuda_does(said: str, found: tuple[str, ...]) -> None:
    assert devices_of(said, {"CUDA_VISIBLE_DEVICES": "7"}) == found


@pytest.mark.parametrize("visible,found", [("3,4", ("3", "4")), ("", ()), ("-1", ())])
def test_without_it_what_is_visible_to_the_worker(visible: str, found: tuple[str, ...]) -> None:
    assert devices_of(None, {"CUDA_VISIBLE_DEVICES": visible}) == found


@pytest.mark.parametrize(
    "script,found",
    [("echo 0; echo 1", ("0", "1")), ("echo no devices were found; exit 6", ())],
)
def test_else_what_the_driver_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: tuple[str, ...]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.defpath)

    assert devices_of(None, {}) == found


def test_a_machine_without_a_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)

    assert devices_of(None, {}) == ()


def test_a_device_is_given_to_one_at_a_time() -> None:
    devices = Devices(("0", "1", "2"))

    first, second = devices.take(1), devices.take(2)
    devices.give_back(first)

    assert (first, second, devices.free, devices.count) == (("0",), ("1", "2"), 1, 3)
    assert devices.take(1) == ("0",)


def test_a_runner_reaches_the_files_of_its_devices_alone() -> None:
    files = device_files(("1", "3"))

    assert [each for each in files if each[-1].isdecimal()] == ["/dev/nvidia1", "/dev/nvidia3"]
    assert device_files(()) == ()
