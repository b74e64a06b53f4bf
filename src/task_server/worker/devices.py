"""The GPUs of this machine, and which runner has which."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

VISIBLE = "CUDA_VISIBLE_DEVICES"
NONE = "none"
ASK_SECONDS = 10.0
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
