"""Starting the process of a runner: its sockets, its log, its folder and its variables."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from task_server.worker.calls import control_frame
from task_server.worker.devices import thread_variables
from task_server.worker.logs import RunnerLog
from task_server.worker.process_tree import MARK, end_tree
from task_server.worker.sandbox.confinement import Confinement

CHILD = Path(__file__).with_name("child.py")
SEND_BYTES = 1 << 20
"""That the system may hold of what one end wrote and the other has not read, where it lets us."""
_COMPILE = "import py_compile, sys; py_compile.compile(*sys.argv[1:3], doraise=True)"


@dataclass(frozen=True)
class RunnerSpec:
    """What kind of runner to start."""

    interpreter: Path
    """The environment's Python."""
    directory: Path
    """The runner's own: its HOME, with the working folder that is emptied between calls."""
    site_packages: Path | None = None
    """The environment's packages; None for the standard library alone."""
    cloudpickle: Path | None = None
    """A folder with cloudpickle and nothing else, put last on the path for functions by value."""
    environ: Mapping[str, str] | None = None
    """More variables, or other values; a runner inherits none from the agent."""
    devices: tuple[str, ...] = ()
    """Device files that it may use, beside the harmless ones."""
    child: Path = CHILD
    """`child.py` where the runner's user can read it, or what `compiled_child` made of it."""


@dataclass(frozen=True)
class Launched:
    """A started process and the agent's ends of what leads to it."""

    process: subprocess.Popen[bytes]
    frames: socket.socket
    starts: socket.socket
    starts_of_child: socket.socket
    """The child's end, from which the agent takes back what has not started."""
    log: RunnerLog
    nonce: int
    mark: str


def launch(spec: RunnerSpec, confinement: Confinement) -> Launched:
    """Start the process. Raises OSError when the interpreter cannot be run, or not confined.

    Call it in the thread that lives as long as the agent: the kernel ends the child with the thread
    that started it, not with the process.
    """
    task_directory = spec.directory / "task"
    task_directory.mkdir(parents=True, exist_ok=True)
    mark = f"{spec.directory}/:{secrets.token_hex(8)}"
    nonce = secrets.randbits(40)
    log = RunnerLog(spec.directory)
    frames, frames_of_child = socket.socketpair()
    starts, starts_of_child = socket.socketpair()
    for end in (frames, frames_of_child):  # else a large payload goes in turns of 200 KiB
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
    frames.setblocking(False)
    process = None
    try:
        confinement.own(spec.directory, task_directory)
        process = subprocess.Popen(
            _command(spec, frames_of_child.fileno(), starts_of_child.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=log.write_fd,
            stderr=log.write_fd,
            cwd=task_directory,
            env={**confinement.environ, **_environ(spec, task_directory, mark)},
            pass_fds=(frames_of_child.fileno(), starts_of_child.fileno(), *confinement.descriptors),
            start_new_session=True,
        )
        confinement.started()
        with contextlib.suppress(ConnectionError):  # it has ended already, which is seen to later
            frames.send(_setup_frame(spec, nonce, confinement, task_directory))
    except BaseException:
        if process is not None:
            end_tree(process.pid)
            process.wait()
        log.close()
        frames.close()
        starts.close()
        starts_of_child.close()
        raise
    finally:
        frames_of_child.close()
    log.close_write()
    return Launched(process, frames, starts, starts_of_child, log, nonce, mark)


def _command(spec: RunnerSpec, frames: int, starts: int) -> list[str]:
    child = [str(spec.child), str(frames), str(starts), str(os.getpid())]
    return [str(spec.interpreter), "-I", "-S", *child]


def _environ(spec: RunnerSpec, task_directory: Path, mark: str) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        **thread_variables(None),
        "HOME": str(spec.directory),
        "TMPDIR": str(task_directory),
        **(spec.environ or {}),
        MARK: mark,
    }


def _setup_frame(
    spec: RunnerSpec, nonce: int, confinement: Confinement, task_directory: Path
) -> bytes:
    return control_frame(
        {
            "nonce": nonce,
            "folder": str(task_directory),
            "site_packages": str(spec.site_packages) if spec.site_packages else None,
            "cloudpickle": str(spec.cloudpickle) if spec.cloudpickle else None,
            "sandbox": confinement.plan,
        }
    )


def compiled_child(interpreter: Path, directory: Path) -> Path:
    """`child.py` as byte code of that interpreter, in `directory`: a runner starts 10 ms sooner.

    Made once for each interpreter and version of the file. Waits for a process. Raises OSError or
    CalledProcessError when the interpreter cannot be run.
    """
    binary = interpreter.resolve()
    found = f"{binary} {binary.stat().st_mtime_ns} ".encode()
    name = hashlib.sha256(found + CHILD.read_bytes()).hexdigest()[:32]
    target = directory / f"child-{name}.pyc"
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        command = [str(interpreter), "-I", "-S", "-c", _COMPILE, str(CHILD), str(target)]
        subprocess.run(command, check=True, env={}, capture_output=True)
    return target


def share_cloudpickle(directory: Path) -> Path:
    """Copy the worker's own cloudpickle into `directory`, alone, for `RunnerSpec.cloudpickle`."""
    import cloudpickle

    source = Path(cloudpickle.__file__).parent
    shutil.copytree(source, directory / "cloudpickle", dirs_exist_ok=True)
    return directory
