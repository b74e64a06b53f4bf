"""Landlock: which files a runner reaches, given up by itself and for ever (Linux 5.13)."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Any

from task_server.worker.sandbox.files import Files, Right

_CREATE = 444
_ABI_ONLY = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE_FILE, _MAKE_CHAR, _MAKE_REG, _MAKE_BLOCK = 1 << 5, 1 << 6, 1 << 8, 1 << 11
_TRUNCATE, _DEVICE_CONTROL = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_CREATE_DEVICES = _MAKE_CHAR | _MAKE_BLOCK
_RIGHTS = {
    Right.READ: _READ,
    Right.OPEN: _READ_FILE,
    Right.SHARE: _READ_FILE | _WRITE_FILE | _MAKE_REG | _REMOVE_FILE | _TRUNCATE,
    Right.DEVICE: _READ_FILE | _WRITE_FILE | _TRUNCATE | _DEVICE_CONTROL,
    Right.WRITE: 0xFFFF & ~_CREATE_DEVICES & ~_DEVICE_CONTROL,
}
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights each version knows; from 5 on all 16."""
_SCOPES = 0b11
"""Abstract sockets and signals stay inside (version 6)."""


def version() -> int:
    """Of the kernel's interface; 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    with contextlib.suppress(OSError, AttributeError):
        call = ctypes.CDLL(None).syscall
        call.restype = ctypes.c_long
        return max(0, int(call(ctypes.c_long(_CREATE), None, ctypes.c_long(0), _ABI_ONLY)))
    return 0


def plan(files: Files, version: int) -> dict[str, Any]:
    """What the runner asks of the kernel."""
    known = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    scopes = _SCOPES if version >= 6 else 0
    return {
        "attributes": (known, 0, scopes),
        "size": 8 if version < 4 else 16 if version < 6 else 24,
        "paths": [(path, _RIGHTS[right] & known) for path, right in files.rights()],
    }
