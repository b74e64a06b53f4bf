"""What a runner is made to try when the worker starts. It runs in the sandbox, as a function does.

Standard library alone, Python 3.9: it is copied to where runners can read it, and imported there.
Each probe gives "denied" when it was held, "allowed" when not, or what else came of it.
"""

# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

Facts = dict[str, Any]
"""What the agent tells: paths, ports and process ids that a function should not get at."""

SYSTEM_CALLS = {"x86_64": (101, 250, 435), "aarch64": (117, 219, 435)}  # ptrace, keyctl, clone3
NEW_USER = 0x10000000
PR_GET_NO_NEW_PRIVS = 39


def denied(error: OSError) -> bool:
    return error.errno in (
        *(errno.EPERM, errno.EACCES, errno.ENOENT, errno.ESRCH, errno.EROFS, errno.ENOSYS),
        *(errno.ECONNREFUSED, errno.ENETUNREACH, errno.EFBIG, errno.EAGAIN, errno.EDQUOT),
    )


def tried(act: Callable[[], object]) -> str:
    """What comes of it."""
    try:
        act()
    except OSError as error:
        return "denied" if denied(error) else repr(error)
    except BaseException as error:
        return repr(error)
    return "allowed"


def apart(act: Callable[[], object]) -> None:
    """Do it in a process of its own: where it is allowed it changes the process for good."""
    child = os.fork()
    if not child:
        try:
            act()
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    status = os.waitpid(child, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), "")


def read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def find(name: str, folder: str) -> None:
    """A tree of its own has the folder, but nothing in it that is not the runner's."""
    if name not in os.listdir(folder):
        raise PermissionError(errno.EACCES, "")


def write(path: str) -> None:
    with open(path, "w") as file:
        file.write("written by a probe")


def connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(2)
        one.connect(address)


def call(which: int, *arguments: int) -> None:
    """A system call that no function of Python makes."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = SYSTEM_CALLS[platform.machine()][which]
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")


def make_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_USER) < 0:
        raise OSError(ctypes.get_errno(), "")


def clone_with_hidden_flags() -> None:
    try:
        call(2, 0, 0)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise
        # The call is there: it only minds the arguments.


def gain_privileges() -> None:
    if ctypes.CDLL(None).prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1:
        raise PermissionError(errno.EPERM, "")


def become_root() -> None:
    try:
        os.setresuid(0, 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a user namespace without root
            raise
        raise PermissionError(errno.EPERM, "") from error


def write_too_much() -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY:
        return
    number = os.open("large", os.O_WRONLY | os.O_CREAT)
    try:
        os.pwrite(number, b"x", limit)
    finally:
        os.close(number)
        os.unlink("large")  # noqa: PTH108


def dump_core() -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        raise PermissionError(errno.EPERM, "")


def fork_without_end(limit: int) -> None:
    """Start one process after the other, until the kernel says no."""
    children = []
    try:
        for _ in range(limit + 5):
            child = os.fork()
            if not child:
                signal.pause()
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def outlive() -> None:
    """Leave a process behind that has left the session and its parent."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()


def works() -> str:
    """What functions rely on: "yes", or what does not work."""
    try:
        write("file")
        read("file")
        os.unlink("file")  # noqa: PTH108
        subprocess.run([sys.executable, "-I", "-S", "-c", "0"], check=True, timeout=20)
        thread = threading.Thread(target=time.sleep, args=(0,))
        thread.start()
        thread.join()
        first, second = socket.socketpair()
        first.close()
        second.close()
        read("/dev/urandom")
        write(os.devnull)
    except BaseException as error:
        return repr(error)
    return "yes"


def probe(facts: Facts) -> dict[str, str]:
    """Try everything but to fork and to take memory without end."""
    found = {
        "read the worker's token": tried(lambda: read(facts["secret"])),
        "list the worker's data": tried(lambda: find("secret", facts["data"])),
        "write into an environment": tried(lambda: write(facts["environment"] + "/probe")),
        "read another task's folder": tried(lambda: read(facts["other"])),
        "write outside": tried(lambda: write(facts["outside"])),
        "read the worker's variables": tried(lambda: read(f"/proc/{facts['agent']}/environ")),
        "signal the worker": tried(lambda: os.kill(facts["agent"], 0)),
        "read the machine's users": tried(lambda: read("/etc/shadow")),
        "call the machine's services": tried(lambda: connect(socket.AF_UNIX, facts["service"])),
        "call hidden services": tried(lambda: connect(socket.AF_UNIX, facts["abstract"])),
        "connect": tried(lambda: connect(socket.AF_INET, ("127.0.0.1", facts["port"]))),
        "become root": tried(lambda: apart(become_root)),
        "gain privileges": tried(gain_privileges),
        "trace processes": tried(lambda: apart(lambda: call(0, 0, 0, 0, 0))),
        "read the kernel's keys": tried(lambda: call(1, 0, -3 & 0xFFFFFFFF, 1)),
        "make namespaces": tried(lambda: apart(make_namespace)),
        "hide flags of clone": tried(clone_with_hidden_flags),
        "write a file past its limit": tried(write_too_much),
        "leave a core dump": tried(dump_core),
        "fork past the limit": tried(lambda: fork_without_end(facts["processes"])),
        "works": works(),
    }
    outlive()
    return found


def take_memory(size_bytes: int) -> int:
    """Hold that much at once."""
    return len(bytes(1) * size_bytes)
