"""The GPUs of this machine, and which runner has which."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
NONE = "none"
ASK_SECONDS = 10.0
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""How many threads libraries start, each of which takes all processors else."""
_SHARED_FILES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_ASK = ("--query-gpu=index", "--format=csv,noheader")


def devices_of(said: str | None, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The devices that tasks may have, as `CUDA_VISIBLE_DEVICES` names them.

    `said` is the worker's setting; without it those that are visible here, else all that the
    driver lists. It may wait for the driver.
    """
    if said is not None:
        return () if said.strip() == NONE else _listed(said)
    if VISIBLE in environ:
        return _listed(environ[VISIBLE])
    return _installed()


def _listed(text: str) -> tuple[str, ...]:
    """CUDA passes over everything from the first that is no device."""
    found: list[str] = []
    for name in (each.strip() for each in text.split(",")):
        if not name or name.startswith("-") or name in found:
            break
        found.append(name)
    return tuple(found)


def _installed() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        asked = subprocess.run(
            [program, *_ASK], capture_output=True, timeout=ASK_SECONDS, check=True, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()  # it is there, and the driver is not
    return _listed(",".join(asked.stdout.split()))


class Devices:
    """GPUs of a worker, each given to one at a time. `names` None: it does not know of any."""

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self._are_known = names is not None
        self._free = list(names or ())
        self.count = len(self._free)

    @property
    def free(self) -> int:
        """How many nobody has."""
        return len(self._free)

    def take(self, count: int) -> tuple[str, ...]:
        """So many that nobody has; there must be so many."""
        assert count <= len(self._free), "a device would be given twice"
        taken, self._free = self._free[:count], self._free[count:]
        return tuple(taken)

    def give_back(self, names: Iterable[str]) -> None:
        """Nobody has these any more."""
        self._free += names

    def variables(self, names: Sequence[str]) -> dict[str, str]:
        """What shows a process these and no others."""
        return {VISIBLE: ",".join(names)} if names or self._are_known else {}


def thread_variables(cpus: float | None) -> dict[str, str]:
    """What has libraries start as many threads as a task has cores; one if it does not say."""
    return dict.fromkeys(THREADS, str(max(int(cpus or 1), 1)))


def device_files(names: Sequence[str]) -> tuple[str, ...]:
    """The files of these devices; those of all where a name does not say which."""
    if not names:
        return ()
    found = [f"/dev/nvidia{name}" for name in names if name.isdecimal()]
    if len(found) < len(names):
        found = [str(each) for each in Path("/dev").glob("nvidia[0-9]*")]
    return (*found, *_SHARED_FILES)
