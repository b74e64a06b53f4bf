"""What this machine is like, for the defaults and limits of settings."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path


def state_directory() -> Path:
    """Where data lies if nothing else is said: the system's folder for root, else the user's."""
    if os.name == "posix" and os.geteuid() == 0:
        return Path("/var/lib/task-server")
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "task-server"


def program(name: str) -> str:
    """Where a program is that was installed with us: beside our Python, which need not be on PATH.

    Else its name, to be looked for.
    """
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def available_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
