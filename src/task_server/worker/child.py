"""The process that runs users' functions: it reads a call, runs it and writes one answer.

Started by path, `PYTHON -I -S child.py FRAMES STARTS PARENT`, in the interpreter of an environment:
so it is one file, imports the standard library alone, and speaks Python 3.9.

FRAMES is a socket for frames: lengths of header and payload, a JSON header, the payload. STARTS is
a socket with four bytes for each call that may start. The agent reads those of calls it wants back,
so what it takes is exactly what has not started, even while a function never lets go of the GIL.

The parts, in order: frames, start, the sandbox, which callable, arguments, answers, failures, what
is put back between calls, and the loop.
"""

# pathlib and contextlib would have to be imported at every start.
# ruff: noqa: PTH102, PTH103, PTH108, PTH109, PTH118, PTH120, PTH121, PTH123, PTH208, PTH211, SIM105

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]
import builtins
import faulthandler
import json
import os
import struct
import sys
import time
import types

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` is a fifth of what is imported before a runner takes calls
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Users' functions replace attributes of modules; what the loop needs is bound here.
_getpid, _fstat, _stat = os.getpid, os.fstat, os.stat
_read, _write, _writev = os.read, os.write, os.writev
_open = open
_perf_counter, _process_time = time.perf_counter, time.process_time

HEAD = struct.Struct("!IQ")
CALL_HEAD = struct.Struct("!QIQ")  # with the nonce of a call first
START = struct.Struct("<I")
READ_BYTES = 1 << 16
MAX_PARTS = 1000  # of one write; Linux takes 1024
PICKLE_PROTOCOL = 5
MAX_DEPTH = 128  # of JSON, as the server accepts it
MAX_SIDES = 32  # a value with more parts that are not JSON is pickled as a whole
MAX_REPR = 1_000
MAX_MESSAGE = 10_000
MAX_TRACEBACK = 100_000
MAX_EXCEPTION_PICKLE = 64 * 1024
FRAMING_BYTES = 4096  # what pickle or JSON adds to a value of just the largest size
MAX_FUNCTIONS = 256  # kept ready to call
PEAK_BYTES = 16 << 20  # a peak so far above the least is a call's own
MAX_KEPT_HEADER = 4096  # of calls; like calls have the same


OUR_FILE = (lambda: None).__code__.co_filename  # also where this file runs as byte code


class Failure(Exception):
    """A call that has no answer, for a reason that `error.kind` of the wire names."""

    def __init__(self, kind: str, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.cause = cause


# --- frames ---------------------------------------------------------------------------------


_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode
_decode = json.JSONDecoder().decode


class Frame:
    """What the agent sent: a header and the bytes it speaks of."""

    __slots__ = ("header", "nonce", "payload")

    def __init__(self, nonce: int, header: dict[str, Any], payload: bytes) -> None:
        self.nonce = nonce
        self.header = header
        self.payload = payload


class Link:
    """The two sockets to the agent. Only the process that made it ever writes."""

    def __init__(self, frames: int, starts: int) -> None:
        self.frames = frames
        self.starts = starts
        self.pid = 0
        self._buffer = b""
        self._at = 0
        self._kept: list[Frame] = []
        self._headers: dict[bytes, dict[str, Any]] = {}

    def own(self) -> None:
        """From now on only this process has the sockets: what it forks loses them."""
        self.pid = _getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.close)

    def close(self) -> None:
        """Let the sockets go."""
        close(self.frames)
        close(self.starts)

    def wait_for_start(self) -> int | None:
        """The call that may start now, by the low bits of its nonce; None when the agent left."""
        data = _read(self.starts, START.size)
        return START.unpack(data)[0] if len(data) == START.size else None

    def call(self, start: int) -> Frame:
        """The frame of that call; those before it were taken back."""
        while True:
            frame = self._kept.pop(0) if self._kept else self.next_frame()
            if frame.nonce & 0xFFFFFFFF == start:
                return frame

    def wait_for_go_on(self) -> None:
        """Wait until the agent has ended what the last call left running."""
        while True:
            frame = self.next_frame()
            if "go_on" in frame.header:
                return
            self._kept.append(frame)

    def next_frame(self) -> Frame:
        """The next frame as sent. Raises EOFError when the agent left."""
        nonce, header_size, payload_size = CALL_HEAD.unpack(self._take(CALL_HEAD.size))
        header = self._header(self._take(header_size))
        return Frame(nonce, header, self._take(payload_size) if payload_size else b"")

    def _header(self, data: bytes) -> dict[str, Any]:
        """A header as sent. Calls of one function have the same, which is read once."""
        header = self._headers.get(data)
        if header is None:
            header = _decode(data.decode())
            if len(self._headers) >= MAX_FUNCTIONS:
                self._headers.clear()
            if len(data) <= MAX_KEPT_HEADER:
                self._headers[data] = header
        return header

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._buffer):
            self._fill(size)
            end = size
        taken = self._buffer[self._at : end]
        self._at = end
        return taken

    def _fill(self, size: int) -> None:
        parts = [self._buffer[self._at :]]
        missing = size - len(parts[0])
        while missing > 0:
            data = _read(self.frames, max(READ_BYTES, min(missing, 1 << 20)))
            if not data:
                raise EOFError
            parts.append(data)
            missing -= len(data)
        self._buffer = b"".join(parts)
        self._at = 0

    def send(self, header: bytes, parts: list[bytes]) -> None:
        """Write one frame; a forked child that came here ends instead."""
        if _getpid() != self.pid:
            os._exit(0)
        size = sum(map(len, parts))
        left: list[bytes | memoryview] = [HEAD.pack(len(header), size) + header, *parts]
        if size <= READ_BYTES:
            left = [b"".join(left)]
        while left:
            written = _writev(self.frames, left[:MAX_PARTS])
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = memoryview(left[0])[written:]


def close(number: int) -> None:
    """Close a descriptor, should it be open."""
    try:
        os.close(number)
    except OSError:
        pass


# --- start ----------------------------------------------------------------------------------

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SIGKILL = 9


def flush_nothing(stream: None) -> None:
    """Stand in for the C library's `fflush` where it cannot be had."""


def die_with(parent: int) -> Callable[[None], object]:
    """End when the agent ends, adopt what functions leave behind; gives C's `fflush`."""
    if not sys.platform.startswith("linux"):
        return flush_nothing
    try:
        import ctypes

        libc = ctypes.PyDLL(None)
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return flush_nothing
    if parent and os.getppid() != parent:  # it ended before the first line above
        os._exit(1)
    return libc.fflush


def private(number: int) -> int:
    """Move an inherited descriptor where functions that close the low ones do not reach it."""
    try:
        import fcntl

        moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 200)
    except (ImportError, OSError):
        os.set_inheritable(number, False)
        return number
    os.close(number)
    return moved


def check_folder(setup: dict[str, Any]) -> None:
    """End unless this is the folder that the agent made for it: what is in there is removed."""
    folder = setup.get("folder")
    if not folder or not os.path.samefile(folder, "."):
        sys.exit("this is not the folder that was made for functions")


def hide_main() -> types.ModuleType:
    """Put an empty `__main__` in place of this file; gives this file's, to be kept alive.

    Pickles then never find our names, and `multiprocessing` does not start this file again.
    """
    ours = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    return ours


# --- the sandbox ----------------------------------------------------------------------------
# What to do the agent has decided, and tried at its start; here it is done, before any foreign
# code. Whatever fails ends the runner: nothing ever runs with less than was decided.

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
SECCOMP_MODE_FILTER = 2
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_SETATTR, LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 442, 444, 445, 446
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
LANDLOCK_OF_FILES = 0b1100000000000111  # of all rights those that a file can have
READ_ONLY = 1
LOOPBACK, WAY_PORT = "127.0.0.1", 3128  # of a network of one's own
MOUNT_ATTRIBUTES = {"ro": 7, "rw": 6, "dev": 10}  # READ_ONLY, no set-uid 2, no devices 4, exec 8


class Kernel:
    """System calls that Python has no function for. They raise OSError."""

    def __init__(self) -> None:
        import ctypes

        self.ctypes = ctypes
        self.libc = ctypes.CDLL(None, use_errno=True)

    def call(self, name: str, *arguments: Any) -> int:
        """A function of the C library, with integers as wide as the machine's."""
        wide = self.ctypes.c_long
        result = getattr(self.libc, name)(
            *(wide(each) if isinstance(each, int) else each for each in arguments)
        )
        if result < 0:
            number = self.ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return int(result)

    def mount(self, source: str, target: str, kind: str, flags: int, options: str = "") -> None:
        texts = [os.fsencode(each) if each else None for each in (source, target, kind)]
        self.call("mount", *texts, flags, options.encode() or None)


def enter_sandbox(plan: dict[str, Any], link: Link) -> int:
    """Give up what functions must not have; gives what `Meter` takes, opened while that can be."""
    for path in plan.get("groups") or ():
        write_to(path, "0")  # a control group counts and limits this process from here on
    if "oom_score" in plan:
        write_to("/proc/self/oom_score_adj", str(plan["oom_score"]))
    set_limits(plan.get("limits") or {})
    if not plan.get("is_confined"):
        return open_peak()
    kernel = Kernel()
    if plan.get("namespace"):
        enter_namespaces(kernel, plan["namespace"], link)
    peak = open_peak()
    if plan.get("uid"):
        os.setgroups([])
        os.setresgid(plan["gid"], plan["gid"], plan["gid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
        kernel.call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # its own /proc would be root's
    drop_capabilities(kernel)
    kernel.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if plan.get("landlock"):
        restrict_files(kernel, plan["landlock"])
    if plan.get("seccomp"):
        restrict_calls(kernel, plan["seccomp"])
    return peak


def write_to(path: str, text: str, *, if_absent: int = 0) -> None:
    """A file that is there, such as the kernel's; Python's own files take four times as long."""
    number = os.open(path, os.O_WRONLY | os.O_CLOEXEC | if_absent, 0o644)
    _write(number, text.encode())
    os.close(number)


def open_peak() -> int:
    """Where this process lets its peak of memory begin anew, -1 where the system has no such."""
    try:
        return private(os.open("/proc/self/clear_refs", os.O_WRONLY))
    except OSError:
        return -1


def set_limits(limits: dict[str, int]) -> None:
    for name, wanted in limits.items():
        number = getattr(resource, name, None)
        if number is not None:
            most = resource.getrlimit(number)[1]
            value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            resource.setrlimit(number, (value, value))


def drop_capabilities(kernel: Kernel) -> None:
    """Those that a user namespace gave; a change of the uid takes the others."""
    kernel.call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))


def restrict_files(kernel: Kernel, plan: dict[str, Any]) -> None:
    """Landlock: only what lies below `paths` can be reached from now on."""
    attributes = struct.pack("=QQQ", *plan["attributes"])[: plan["size"]]
    rules = kernel.call("syscall", LANDLOCK_CREATE, attributes, len(attributes), 0)
    for path, rights in plan["paths"]:
        try:
            number = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # not here: nothing to reach
        is_folder = _fstat(number).st_mode & 0o170000 == 0o040000
        rule = struct.pack("=Qi", rights if is_folder else rights & LANDLOCK_OF_FILES, number)
        kernel.call("syscall", LANDLOCK_ADD, rules, 1, rule, 0)
        os.close(number)
    kernel.call("syscall", LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def restrict_calls(kernel: Kernel, program: str) -> None:
    """Seccomp: a program of the kernel's decides which system calls there are."""
    code = bytes.fromhex(program)
    buffer = kernel.ctypes.create_string_buffer(code, len(code))
    program_at = struct.pack("@HP", len(code) // 8, kernel.ctypes.addressof(buffer))
    kernel.call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program_at, 0, 0)


def enter_namespaces(kernel: Kernel, plan: dict[str, Any], link: Link) -> None:
    """Go on two processes further down: this one waits, the next is the namespace's first.

    The first process of a namespace takes no signals from inside, so no function runs in it.
    """
    uid, gid = os.getuid(), os.getgid()
    kernel.call("unshare", plan["flags"])
    if plan["maps_user"]:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1")):
            write_to(f"/proc/self/{name}", text)
        write_to("/proc/self/gid_map", f"{gid} {gid} 1")
    tell, told = os.pipe()
    alive, is_alive = os.pipe()
    first = os.fork()
    if first:
        link.close()
        close(told)
        end_like(first, tell)
    close(tell)
    close(is_alive)
    kernel.call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    os.set_blocking(alive, False)
    try:
        if not os.read(alive, 1):
            os._exit(1)  # the process above ended before the line above
    except BlockingIOError:
        pass
    close(alive)
    furnish(kernel, plan)
    second = os.fork()
    if second:
        link.close()
        reap_until(second, told)
    close(told)


def end_like(pid: int, tell: int) -> NoReturn:
    """Wait for the namespace's first process, and end as the runner in it did."""
    os.waitpid(pid, 0)
    data = os.read(tell, 4)
    status = int.from_bytes(data, "little") if data else SIGKILL
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (SIGKILL, 19):
            _signal.signal(number, _signal.SIG_DFL)
        os.kill(_getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def reap_until(pid: int, told: int) -> NoReturn:
    """Be the first process of a namespace: collect what ends, and leave with `pid`."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            os.write(told, status.to_bytes(4, "little"))
            os._exit(0)


def furnish(kernel: Kernel, plan: dict[str, Any]) -> None:
    """Make the tree that functions see, and leave the machine's."""
    root, folder = plan["root"], os.getcwd()
    kernel.mount("", "/", "", MS_REC | MS_PRIVATE)
    kernel.mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for kind, path, what, how in plan["tree"]:
        PLACES[kind](kernel, root + path, what, how)  # of `seal` the path is empty
    os.chdir(root)
    kernel.call("syscall", PIVOT_ROOT[os.uname().machine], b".", b".")
    kernel.call("umount2", b".", MNT_DETACH)
    set_mount(kernel, "/", READ_ONLY, 0)
    os.chdir(folder)
    if plan["has_own_network"]:
        raise_loopback(kernel)
    if plan.get("door"):
        hand_out_way(plan["door"])


def make_folder(path: str) -> None:
    """Should it not be there; with those above it."""
    try:
        os.mkdir(path)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_folder(os.path.dirname(path))
        os.mkdir(path)


def place_mount(kernel: Kernel, path: str, what: str, how: str) -> None:
    make_folder(path)
    flags = MS_NOSUID | MS_NODEV | (MS_NOEXEC if what == "proc" else 0)
    kernel.mount(what, path, what, flags, how)


def place_link(kernel: Kernel, path: str, what: str, how: str) -> None:
    make_folder(os.path.dirname(path))
    os.symlink(what, path)


def place_file(kernel: Kernel, path: str, what: str, how: str) -> None:
    make_folder(os.path.dirname(path))
    write_to(path, what, if_absent=os.O_CREAT)


def place_folder(kernel: Kernel, path: str, what: str, how: str) -> None:
    """A folder of the machine, at the same path or another."""
    make_folder(path)
    place_part(kernel, path, what, how)


def place_node(kernel: Kernel, path: str, what: str, how: str) -> None:
    """A file or device of the machine."""
    try:
        os.mknod(path)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_folder(os.path.dirname(path))
        os.mknod(path)
    place_part(kernel, path, what, how)


def place_part(kernel: Kernel, path: str, what: str, how: str) -> None:
    kernel.mount(what, path, "", MS_BIND | MS_REC)
    if how:  # else it is sealed with others
        set_mount(kernel, path, MOUNT_ATTRIBUTES[how], AT_RECURSIVE)


def seal(kernel: Kernel, root: str, what: str, how: str) -> None:
    """Let nothing that is there already be written; more may be added to the tree."""
    set_mount(kernel, root, MOUNT_ATTRIBUTES["ro"], AT_RECURSIVE)
    set_mount(kernel, root, 0, 0, clear=READ_ONLY)


PLACES = {
    "mount": place_mount,
    "link": place_link,
    "file": place_file,
    "folder": place_folder,
    "node": place_node,
    "seal": seal,
}


def set_mount(kernel: Kernel, path: str, attributes: int, flags: int, clear: int = 0) -> None:
    what = struct.pack("=QQQQ", attributes, clear, 0, 0)
    kernel.call("syscall", MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, what, len(what))


def raise_loopback(kernel: Kernel) -> None:
    """Switch on `lo` of a network of one's own, which begins with it switched off."""
    import fcntl

    number = kernel.call("socket", 2, 2, 0)
    fcntl.ioctl(number, 0x8914, struct.pack("16sh22x", b"lo", 0x41))
    os.close(number)


def hand_out_way(door: int) -> None:
    """Make a socket listen in here, for the agent to answer what comes to it, and let it go."""
    import _socket

    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind((LOOPBACK, WAY_PORT))
    listener.listen(128)
    through = _socket.socket(fileno=door)
    number = struct.pack("i", listener.fileno())
    through.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, number)])
    through.close()
    listener.close()


# --- which callable -------------------------------------------------------------------------


class Callee:
    """A callable that is ready, and `{"module", "rule"}` as JSON."""

    __slots__ = ("function", "resolved")

    def __init__(self, function: Callable[..., object], resolved: str) -> None:
        self.function = function
        self.resolved = resolved


def resolve(function: str, module: str | None, package: str | None) -> Callee:
    """Find a callable by name. Raises Failure: import, not_found."""
    named, _, qualname = function.rpartition(":")
    parts = qualname.split(".")
    where = named or module or ""
    check_names(parts + (where.split(".") if where else []))
    if where:
        return walk(where, parts, "module")
    if package:
        return walk(import_name(package), parts, "package")
    if hasattr(builtins, parts[0]):
        return walk("builtins", parts, "builtin")
    where = standard_module(parts)
    return walk(where, parts[where.count(".") + 1 :], "stdlib")


def check_names(parts: list[str]) -> None:
    for part in parts:
        if not part.isidentifier():
            raise Failure("not_found", f"{shown(part)} is not a name in Python")


def import_module(name: str) -> types.ModuleType:
    """Import by dotted name; whatever the import raises becomes a Failure."""
    try:
        __import__(name)  # leaves no frames of importlib in the traceback
        return sys.modules[name]
    except BaseException as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            hint = "; name the package that has it (`package`, or --package NAME)"
        raise Failure("import", f"import of {name} failed{hint}", error) from error


def walk(where: str, parts: list[str], rule: str) -> Callee:
    """Follow the dots: attributes, else submodules."""
    found: object = import_module(where)
    path = where
    for part in parts:
        found = step(found, path, part)
        path = f"{path}.{part}"
    if not callable(found):
        raise Failure("not_found", f"{path} is a {type_name(type(found))}, not a function")
    module = getattr(found, "__module__", None)
    module = module if isinstance(module, str) and rule == "builtin" else where
    return Callee(found, json.dumps({"module": module, "rule": rule}))


def step(owner: object, path: str, part: str) -> object:
    try:
        return getattr(owner, part)
    except AttributeError:
        if not isinstance(owner, types.ModuleType):
            raise Failure("not_found", missing(owner, path, part)) from None
    except BaseException as error:  # a lazy module that imports on access
        raise Failure("import", f"access to {path}.{part} failed", error) from error
    name = f"{path}.{part}"
    try:
        __import__(name)
        return sys.modules[name]
    except ModuleNotFoundError as error:
        if error.name == name:
            raise Failure("not_found", missing(owner, path, part)) from None
        raise Failure("import", f"import of {name} failed", error) from error
    except BaseException as error:
        raise Failure("import", f"import of {name} failed", error) from error


def missing(owner: object, path: str, part: str) -> str:
    """Say that a name is not there, and which ones are like it."""
    import difflib

    near = difflib.get_close_matches(part, [name for name in dir(owner) if name[:1] != "_"])
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if part == path:
        hint = "; the module's own name, dots and all, goes before a colon, as in os.path:join"
    return f"{path} has no {shown(part)}{hint}"


def standard_module(parts: list[str]) -> str:
    """The longest importable standard-library module that the name begins with."""
    known = getattr(sys, "stdlib_module_names", None)  # Python 3.9: whatever can be imported
    if len(parts) > 1 and (known is None or parts[0] in known):
        for length in range(len(parts) - 1, 0, -1):
            name = ".".join(parts[:length])
            try:
                __import__(name)
                return name
            except ModuleNotFoundError:
                continue
            except BaseException as error:
                raise Failure("import", f"import of {name} failed", error) from error
    hint = missing(builtins, "Python itself", parts[0])
    raise Failure("not_found", f"{hint}. Name the package or the module of {'.'.join(parts)!r}")


def import_name(package: str) -> str:
    """The module that an installed distribution is imported by, from its metadata."""
    wanted = normalised(package)
    folder = distribution(wanted)
    if folder is None:
        raise Failure("not_found", f"package {shown(package)} is not installed here")
    node: dict[str, Any] | None = importable(folder)
    path: list[str] = []
    while node is not None and "__init__" not in node:
        name = choose(node, path, wanted, package)
        path.append(name)
        node = node[name]
    return ".".join(path)


def normalised(name: str) -> str:
    """The name of a distribution as all its spellings share it, without extras and versions."""
    import re

    found = re.match(r"[\s]*([A-Za-z0-9][A-Za-z0-9._-]*)", name)
    return re.sub(r"[-_.]+", "-", found.group(1)).lower() if found else ""


def distribution(wanted: str) -> str | None:
    """The `.dist-info` folder of a distribution; None where it is not installed."""
    for entry in sys.path:
        try:
            names = os.listdir(entry)
        except OSError:
            continue
        for name in names:
            if not name.endswith(".dist-info"):
                continue
            if normalised(name[: -len(".dist-info")].rpartition("-")[0]) == wanted:
                return os.path.join(entry, name)
    return None


def lines_of(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().split("\n")
    except OSError:
        return []


def importable(folder: str) -> dict[str, Any]:
    """What a distribution installed, as a tree, its top as `top_level.txt` says if there is one."""
    tree = code_tree(lines_of(os.path.join(folder, "RECORD")))
    tops = [name.strip() for name in lines_of(os.path.join(folder, "top_level.txt"))]
    named = {name: tree.get(name) for name in tops if name in tree or (name and not tree)}
    return named or tree


def code_tree(record: list[str]) -> dict[str, Any]:
    """Modules by name; a folder is a dict, in which `__init__` tells a package from a namespace."""
    tree: dict[str, Any] = {}
    for line in record:
        *folders, file = line.split(",")[0].strip('"').split("/")
        name, _, suffix = file.partition(".")
        code = suffix.rpartition(".")[2] in ("py", "so", "pyd")
        if not code or not all(part.isidentifier() for part in (*folders, name)):
            continue
        node: dict[str, Any] | None = tree
        for part in folders:
            node = node.setdefault(part, {}) if node is not None else None
        if node is not None:
            node.setdefault(name, None)
    return tree


def choose(node: dict[str, Any], path: list[str], wanted: str, package: str) -> str:
    """The one public child; of several the one named like the distribution."""
    names = sorted(name for name in node if not name.startswith("_"))
    if len(names) == 1:
        return names[0]
    same = [
        name for name in names if wanted in (normalised(name), normalised(".".join((*path, name))))
    ]
    if len(same) == 1:
        return same[0]
    if not names:
        raise Failure("not_found", f"package {shown(package)} holds no public module")
    listed = ", ".join(".".join((*path, name)) for name in names[:20])
    raise Failure(
        "not_found", f"package {shown(package)} holds several modules: {listed}; name one"
    )


def unpickled_function(data: bytes) -> Callee:
    import pickle

    try:
        function = pickle.loads(data)
    except BaseException as error:
        raise Failure("import", "the function could not be unpickled", error) from error
    if not callable(function):
        raise Failure("not_found", f"the pickle holds a {type_name(type(function))}, no function")
    module = getattr(function, "__module__", None)
    module = module if isinstance(module, str) else None
    return Callee(function, json.dumps({"module": module, "rule": "pickle"}))


# --- arguments ------------------------------------------------------------------------------


def arguments(header: dict[str, Any], payload: bytes) -> tuple[list[Any], dict[str, Any]]:
    """What to call with. Raises Failure: import, not_found, exception."""
    try:
        args, kwargs = read_arguments(header, payload)
        return list(args), dict(kwargs)
    except Failure:
        raise
    except BaseException as error:
        kind = "import" if isinstance(error, (ImportError, AttributeError)) else "exception"
        raise Failure(kind, "the arguments could not be read", error) from error


def read_arguments(header: dict[str, Any], payload: bytes) -> Any:
    is_in_file = header.get("in_file", False)
    if header["encoding"] == "pickle":
        import pickle

        if not is_in_file:
            return pickle.loads(payload)
        with _open(payload, "rb") as file:
            return pickle.load(file)  # what is large is read into its place, not copied there
    if is_in_file:
        with _open(payload, "rb") as file:
            payload = file.read()
    call = _decode(payload.decode())
    if b'"$blob"' in payload or b'"$bytes"' in payload:
        return filled(call, header.get("blobs") or {})
    return call


def filled(value: Any, blobs: dict[str, str]) -> Any:
    """Put stored blobs and bytes in the places that stand for them."""
    if type(value) is list:
        return [filled(item, blobs) for item in value]
    if type(value) is not dict:
        return value
    if value.keys() == {"$bytes"} and isinstance(value["$bytes"], str):
        import base64

        return base64.b64decode(value["$bytes"], validate=True)
    if "$blob" in value and value.keys() <= {"$blob", "as"}:
        return blob(value["$blob"], value.get("as", "bytes"), blobs)
    return {key: filled(item, blobs) for key, item in value.items()}


def blob(digest: str, form: str, blobs: dict[str, str]) -> object:
    path = blobs.get(digest)
    if path is None:
        raise Failure("not_found", f"blob {shown(digest)} is not here")
    if form == "path":
        return path
    with open(path, "rb") as file:
        if form == "bytes":
            return file.read()
        if form == "json":
            return _decode(file.read().decode())
        if form == "pickle":
            import pickle

            return pickle.load(file)
    raise Failure("exception", f"a blob cannot be read as {shown(form)}")


# --- answers --------------------------------------------------------------------------------


class Answer:
    """An encoded value, and the pickles of its parts that are not JSON, by digest."""

    __slots__ = ("encoding", "parts", "sides", "size")

    def __init__(self, encoding: str, parts: list[bytes], sides: list[tuple[str, bytes]]) -> None:
        self.encoding = encoding
        self.parts = parts
        self.sides = sides
        self.size = sum(map(len, parts))


SCALARS = frozenset((type(None), bool, int, float, str))
TEXT = frozenset((str,))


def encoded(value: object, how: str, limit: int) -> Answer:
    """Encode an answer. Raises Failure: not_serialisable, too_big."""
    if isinstance(value, (str, bytes, bytearray)) and len(value) > limit:
        raise too_big(len(value), limit)  # before it is copied
    data = None if how == "pickle" else exact_json(value)
    if data is not None:
        answer = Answer("json", [data], [])
    elif how == "json":
        answer = plain_json(value, limit)
    else:
        answer = Answer("pickle", pickled(value), [])
    if answer.size > limit + FRAMING_BYTES:
        raise too_big(answer.size, limit)
    return answer


def too_big(size: int, limit: int) -> Failure:
    return Failure("too_big", f"the answer takes {size:,} bytes, more than the limit of {limit:,}")


def exact_json(value: object) -> bytes | None:
    """JSON of a value made of nothing else but JSON's own types; None for any other."""
    if value is None:
        return b"null"
    try:
        return _encode(value).encode() if is_exact(value, MAX_DEPTH) else None
    except Exception:  # NaN, a lone surrogate, 4,300 digits, changed by a thread meanwhile
        return None


def is_exact(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in SCALARS:
        return True
    if depth == 0:
        return False
    if kind is dict:
        if not set(map(type, value)) <= TEXT:
            return False
        value = value.values()
    elif kind is not list:
        return False
    return set(map(type, value)) <= SCALARS or all(is_exact(item, depth - 1) for item in value)


class Parts(list):  # type: ignore[type-arg]
    """What was written to it; large bytes are the value's own, not a copy."""

    def write(self, part: Any) -> None:
        self.append(bytes(part))


def pickled(value: object) -> list[bytes]:
    """Pickle by the standard library, else by cloudpickle where the environment has it."""
    import pickle

    parts = Parts()
    try:
        pickle.Pickler(parts, PICKLE_PROTOCOL).dump(value)
        return parts
    except BaseException as error:
        data = cloudpickled(value)
        if data is not None:
            return [data]
        name = type_name(type(value))
        message = f"the answer, a {name}, does not pickle: {message_of(error)}"
        raise Failure("not_serialisable", message, error) from error


def cloudpickled(value: object) -> bytes | None:
    try:
        cloudpickle = __import__("cloudpickle")  # not of the standard library: where there is one
        data = cloudpickle.dumps(value, PICKLE_PROTOCOL)
        return data if isinstance(data, bytes) else None
    except BaseException:
        return None


class NotPlain(Exception):
    """The value as a whole must travel as a pickle."""


class Items(list):  # type: ignore[type-arg]
    """What becomes an array."""


class Pairs(list):  # type: ignore[type-arg]
    """What becomes an object: names and values."""


NOTHING = object()


def plain_json(value: object, limit: int) -> Answer:
    """JSON by the rules of the wire. Raises Failure: not_serialisable, too_big."""
    walk = Plain(limit)
    try:
        made = walk.plain(value, MAX_DEPTH)
    except (NotPlain, RecursionError):
        walk = Plain(limit)
        made = walk.side(value)
    return Answer("json", [_encode(made).encode()], list(walk.sides.items()))


class Plain:
    """One walk through a value, which puts it into JSON's own types."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sides: dict[str, bytes] = {}
        self.side_bytes = 0
        self.around: set[int] = set()

    def plain(self, value: Any, depth: int) -> Any:
        """The value in JSON's own types, at most `depth` deep."""
        if type(value) in SCALARS:
            return value if exact_json(value) is not None else self.odd_scalar(value)
        if id(value) in self.around:
            raise Failure("not_serialisable", "the answer contains itself")
        if depth == 0:
            raise NotPlain
        self.around.add(id(value))
        made = self.unfolded(value, depth)
        self.around.discard(id(value))
        return made

    def odd_scalar(self, value: Any) -> Any:
        if type(value) is float:
            return {"$float": "nan" if value != value else "inf" if value > 0 else "-inf"}
        return self.side(value)

    def unfolded(self, value: Any, depth: int) -> Any:
        try:
            simpler = simplified(value)
        except Exception:  # a method of its own that fails: what remains is to pickle it
            simpler = NOTHING
        if simpler is NOTHING:
            return self.side(value)
        if type(simpler) is Pairs:
            return {name: self.plain(item, depth - 1) for name, item in simpler}
        if type(simpler) is not Items:
            return self.plain(simpler, depth)
        if set(map(type, simpler)) <= SCALARS and exact_json(list(simpler)) is not None:
            return list(simpler)  # long arrays, at the speed of C
        return [self.plain(item, depth - 1) for item in simpler]

    def side(self, value: object) -> dict[str, str]:
        """Keep the pickle of a part beside the answer, and say in its place what it is."""
        import hashlib

        data = b"".join(pickled(value))
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.sides[digest] = data
        self.side_bytes += len(data)
        if self.side_bytes > self.limit + FRAMING_BYTES:
            raise too_big(self.side_bytes, self.limit)
        if len(self.sides) > MAX_SIDES:
            raise NotPlain
        return {"$type": type_name(type(value)), "$repr": repr_of(value), "$blob": digest}


def simplified(value: Any) -> Any:
    """Items, Pairs, or a value one step nearer to JSON; NOTHING where there is none."""
    for applies, convert in CONVERSIONS:
        if applies(value):
            return convert(value)
    return NOTHING


def is_a(value: object, module: str, *names: str) -> bool:
    """Whether it is of a class of a module that is loaded: none is imported to find out."""
    home = sys.modules.get(module)
    kinds = tuple(filter(None, (getattr(home, name, None) for name in names)))
    return isinstance(value, kinds)


def is_namedtuple(value: object) -> bool:
    return isinstance(value, tuple) and isinstance(getattr(type(value), "_fields", None), tuple)


def is_dataclass(value: object) -> bool:
    return hasattr(type(value), "__dataclass_fields__")


def is_moment(value: object) -> bool:
    return is_a(value, "datetime", "date", "time")  # a datetime is a date


def is_mapping(value: object) -> bool:
    return isinstance(value, dict) or is_a(value, "collections.abc", "Mapping")


def is_text(value: object) -> bool:
    return any(
        is_a(value, module, name)
        for module, name in (("decimal", "Decimal"), ("uuid", "UUID"), ("pathlib", "PurePath"))
    )


def has(method: str) -> Callable[[Any], bool]:
    """Whether its class has that method; asking the value itself would wake dynamic attributes."""
    return lambda value: not isinstance(value, type) and hasattr(type(value), method)


def bytes_of(value: Any) -> dict[str, str]:
    import base64

    return {"$bytes": base64.b64encode(value).decode()}


def scalar_of(value: Any) -> Any:
    """A subclass of a scalar as the scalar, whatever its own methods say."""
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else str.__str__(value)


def fields_of(value: Any) -> Pairs:
    import dataclasses

    return Pairs((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))


def pairs_of(items: Iterable[tuple[object, Any]]) -> Pairs:
    """Names and values. Raises ValueError when two keys have one spelling: none may be lost."""
    pairs = Pairs((key_text(key), item) for key, item in items)
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError
    return pairs


def key_text(key: object) -> str:
    """How a key of a mapping is spelled in JSON. Raises ValueError where it cannot be."""
    if isinstance(key, str):
        text = str.__str__(key)
    elif key is None or type(key) in (bool, int, float):
        text = json.dumps(key)
    else:
        text = key.isoformat() if is_moment(key) else str(key)  # type: ignore[attr-defined]
    text.encode()
    return text


CONVERSIONS: list[tuple[Callable[[Any], bool], Callable[[Any], Any]]] = [
    (lambda value: isinstance(value, (int, float, str)), scalar_of),
    (lambda value: isinstance(value, (bytes, bytearray, memoryview)), bytes_of),
    (is_namedtuple, lambda value: pairs_of(zip(value._fields, value))),
    (lambda value: isinstance(value, (list, tuple, set, frozenset)), Items),
    (is_dataclass, fields_of),
    (is_mapping, lambda value: pairs_of(value.items())),
    (is_moment, lambda value: value.isoformat()),
    (has("tolist"), lambda value: value.tolist()),
    (has("to_dict"), lambda value: value.to_dict()),
    (is_text, str),
]


# --- failures -------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Text that every UTF-8 decoder takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def cut(text: str, most: int) -> str:
    """The head and the tail of a text, with a note of what is missing between."""
    if len(text) > most:
        left = len(text) - most
        text = f"{text[: most // 5]}\n[... {left:,} characters ...]\n{text[-most * 4 // 5 :]}"
    return clean(text)


def shown(name: object) -> str:
    return repr_of(name)[:100]


def repr_of(value: object) -> str:
    try:
        return clean(repr(value)[:MAX_REPR])
    except BaseException as error:
        return f"<{type_name(type(value))} whose repr raises {type_name(type(error))}>"


def type_name(kind: type) -> str:
    """`module.Class`, or `Class` for a builtin."""
    try:
        module, name = kind.__module__, kind.__qualname__
        whole = name if module == "builtins" else f"{module}.{name}"
        return clean(str(whole)[:MAX_REPR])
    except BaseException:
        return "?"


def message_of(error: BaseException) -> str:
    try:
        return cut(str(error), MAX_MESSAGE)
    except BaseException as other:
        return f"<its text cannot be had: str() raises {type_name(type(other))}>"


TRACEBACK_HEAD = "Traceback (most recent call last):\n"


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, without the frames of this file."""
    try:
        import traceback

        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == OUR_FILE:
            trace = trace.tb_next
        whole = "".join(traceback.TracebackException(type(error), error, trace).format())
        # What a builtin raises has no frame but ours: it still reads as a traceback.
        return cut(whole if trace is not None else TRACEBACK_HEAD + whole, MAX_TRACEBACK)
    except BaseException:  # MemoryError, a recursion of causes, evil methods
        return ""


def exception_pickle(error: BaseException) -> str | None:
    """The exception itself, for callers in Python; None where it does not pickle."""
    import base64

    try:
        data = b"".join(pickled(error))
    except BaseException:
        return None
    return base64.b64encode(data).decode() if len(data) <= MAX_EXCEPTION_PICKLE else None


def failure_of(error: BaseException, result_encoding: str) -> bytes:
    """`error` of the wire as JSON, whatever the exception does to hinder it."""
    try:
        made = described(error, result_encoding)
    except BaseException as other:
        name = type_name(type(other))
        made = {"kind": "exception", "type": type_name(type(error)), "message": f"({name})"}
    return json.dumps(made).encode()


def described(error: BaseException, result_encoding: str) -> dict[str, Any]:
    if not isinstance(error, Failure):
        kind = "out_of_memory" if isinstance(error, MemoryError) else "exception"
        made: dict[str, Any] = {"kind": kind, **told(error, message_of(error))}
        travels = None if result_encoding == "json" else exception_pickle(error)
        return made if travels is None else {**made, "pickle": travels}
    if error.cause is None:
        kind = {"not_found": "LookupError"}.get(error.kind, "ValueError")
        return {"kind": error.kind, "type": kind, "message": cut(error.message, MAX_MESSAGE)}
    if error.kind == "not_serialisable":
        return {"kind": error.kind, **told(error.cause, cut(error.message, MAX_MESSAGE))}
    text = f"{error.message}: {message_of(error.cause)}"
    return {"kind": error.kind, **told(error.cause, cut(text, MAX_MESSAGE))}


def told(error: BaseException, message: str) -> dict[str, Any]:
    return {"type": type_name(type(error)), "message": message, "traceback": traceback_of(error)}


# --- what is put back between calls ---------------------------------------------------------

SIGNALS = [
    getattr(_signal, name)
    for name in (
        *("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE"),
        *("SIGALRM", "SIGCHLD", "SIGUSR1", "SIGUSR2"),
    )
    if hasattr(_signal, name)
]


class Surroundings:
    """The process as a function finds it: what one call changes, the next does not see."""

    def __init__(self, flush_c: Callable[[None], object]) -> None:
        self.folder = os.getcwd()
        self.flush_c = flush_c
        self.log = private(os.dup(1))
        self.null = private(os.open(os.devnull, os.O_RDONLY))
        self.environ = os.environ
        self.variables = dict(os.environ)
        self.raw_variables = dict(self._raw())
        self.signals = [(number, _signal.getsignal(number)) for number in SIGNALS]
        self.locale = _locale.setlocale(_locale.LC_ALL, None)
        self.main: types.ModuleType | None = None
        self.streams: list[Any] = []
        self.descriptors: list[tuple[int, int, tuple[int, int]]] = []
        for number, source in ((0, self.null), (1, self.log), (2, self.log)):
            os.dup2(source, number)
            self.descriptors.append((number, source, identity(number)))
        self._open_streams()
        self._empty_folder()
        faulthandler.enable(self.log)  # where it crashed stands in the log

    def _raw(self) -> Any:
        return getattr(os.environ, "_data", os.environ)

    def log_size(self) -> int:
        """The length of the log by now."""
        return _fstat(self.log).st_size

    def flush(self) -> None:
        """Bring to the log what was printed, wherever it still waits."""
        for stream in (sys.stdout, sys.stderr):
            if stream is not self.streams[1] and stream is not self.streams[2]:  # ours keep nothing
                try:
                    stream.flush()
                except BaseException:  # a function may have left anything there
                    pass
        self.flush_c(None)

    def put_back(self) -> None:
        """Undo what the last call changed; about 5 us when it changed nothing."""
        self._put_back_streams()
        self._put_back_folder()
        if os.environ is not self.environ or self._raw() != self.raw_variables:
            self._put_back_variables()
        for number, handler in self.signals:
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        if _signal.getitimer(_signal.ITIMER_REAL)[0]:
            _signal.setitimer(_signal.ITIMER_REAL, 0)
        if _locale.setlocale(_locale.LC_ALL, None) != self.locale:
            _locale.setlocale(_locale.LC_ALL, self.locale)

    def _put_back_streams(self) -> None:
        for number, source, wanted in self.descriptors:
            if identity(number) != wanted:
                os.dup2(source, number)
        stdin, stdout, stderr = self.streams
        are_ours = sys.stdin is stdin and sys.stdout is stdout and sys.stderr is stderr
        if not are_ours or stdin.closed or stdout.closed or stderr.closed:
            self._open_streams()

    def _open_streams(self) -> None:
        self.streams = [open_stream(number) for number in range(3)]
        sys.stdin, sys.stdout, sys.stderr = self.streams
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = self.streams  # type: ignore[misc]

    def _put_back_folder(self) -> None:
        try:
            here = _stat(".")
        except OSError:
            here = None
        if here is None or (here.st_dev, here.st_ino, here.st_mtime_ns) != self.untouched:
            self._empty_folder()

    def _empty_folder(self) -> None:
        """Make the working folder as new: there, empty, and the current one."""
        try:
            os.makedirs(self.folder, exist_ok=True)
            os.chdir(self.folder)
            for entry in os.scandir(self.folder):
                remove(entry)
            os.utime(self.folder, ns=(0, 0))  # so that any later change shows
        except OSError:
            pass
        found = _stat(".")
        self.untouched = (found.st_dev, found.st_ino, found.st_mtime_ns)

    def _put_back_variables(self) -> None:
        os.environ = self.environ  # noqa: B003 the object itself, should it have been replaced
        for name in set(os.environ) - set(self.variables):
            del os.environ[name]
        os.environ.update(self.variables)
        self.raw_variables = dict(self._raw())


def identity(number: int) -> tuple[int, int]:
    """Which file a descriptor stands for; (0, 0) when it is closed."""
    try:
        found = _fstat(number)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def open_stream(number: int) -> Any:
    """A standard stream; what is written is in the log at once, also when the process dies."""
    import io

    mode = "r" if number == 0 else "w"
    raw = io.FileIO(number, mode, closefd=False)
    buffer: Any = io.BufferedReader(raw) if number == 0 else raw
    errors = "strict" if number == 0 else "backslashreplace"
    stream = io.TextIOWrapper(buffer, "utf-8", errors, write_through=True)
    stream.mode = mode  # type: ignore[misc]
    return stream


def remove(entry: os.DirEntry[str]) -> None:
    import shutil

    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
        return
    try:
        os.unlink(entry.path)
    except OSError:
        pass


# --- the loop -------------------------------------------------------------------------------


def reap() -> bool:
    """Collect children that have ended; whether others still run."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    except ChildProcessError:
        return False


def has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    except AttributeError:  # macOS before Python 3.13
        pass
    return reap()


def peak_bytes() -> int:
    """The most memory that this program has held, 0 where the system does not tell."""
    try:
        with open("/proc/self/status", "rb") as file:
            return int(file.read().partition(b"VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0


class Meter:
    """What a call uses. `peak`: see `open_peak`; -1: a call has the peak of those before, too."""

    def __init__(self, peak: int = -1) -> None:
        self.restart = peak
        self.unit = 1 if sys.platform == "darwin" else 1024
        # A new program begins with the peak of the one that started it: until it has more itself,
        # the figure is the agent's, and our own must be asked for.
        self.inherited = self._peak()
        self.own = self.least = peak_bytes()
        self.asked_at = _perf_counter()
        self.children = self._children()

    def begin(self) -> None:
        """A call begins: what those before it held at their peak is not its."""
        if self.own > self.least + PEAK_BYTES:
            self.asked_at = 0.0  # that of the call before was its own: ask anew
        if self.restart >= 0:
            try:
                _write(self.restart, b"5")
            except OSError:
                self.restart = -1

    def _peak(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * self.unit if resource else 0

    def _children(self) -> float:
        if not resource:
            return 0.0
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def peak(self) -> int:
        """The most memory held since the call began, in bytes."""
        peak = self._peak()
        if peak > self.inherited:
            return peak
        now = _perf_counter()
        if now - self.asked_at > 0.05:
            self.own, self.asked_at = peak_bytes(), now
            self.least = min(self.least, self.own)
        return self.own

    def children_seconds(self) -> float:
        """CPU time of children that ended since this was asked last."""
        before, self.children = self.children, self._children()
        return self.children - before


class Runner:
    """Runs calls, one after the other, until the agent leaves."""

    def __init__(
        self, link: Link, surroundings: Surroundings, meter: Meter, setup: dict[str, Any]
    ) -> None:
        self.link = link
        self.surroundings = surroundings
        self.meter = meter
        self.cloudpickle: str | None = setup.get("cloudpickle")
        self.callees: dict[object, Callee] = {}

    def run(self) -> None:
        """Serve until the agent closes its end."""
        link = self.link
        while True:
            start = link.wait_for_start()
            if start is None:
                return
            frame = link.call(start)
            if self.serve(frame):
                link.wait_for_go_on()
                reap()
            self.surroundings.put_back()

    def serve(self, frame: Frame) -> bool:
        """Run one call and send its answer; whether processes of it are left."""
        log_start = self.surroundings.log_size()
        self.meter.begin()
        cpu = _process_time()
        times = [0.0, 0.0]
        callee, body, parts = self.outcome(frame.header, frame.payload, times)
        self.surroundings.flush()
        children = has_children()
        used = _process_time() - cpu + self.meter.children_seconds()
        log_end = self.surroundings.log_size()
        numbers = (
            f"{times[0]:.7f},{times[1]:.7f},{used:.7f},{self.meter.peak()},{log_start},{log_end}"
        )
        left = "true" if children else "false"
        resolved = callee.resolved if callee else "null"
        head = f"[{frame.nonce},{numbers},{left},{resolved},"
        self.link.send(head.encode() + body + b"]", parts)
        return children

    def outcome(
        self, header: dict[str, Any], payload: bytes, times: list[float]
    ) -> tuple[Callee | None, bytes, list[bytes]]:
        """The callable, the rest of the answer's header and its payload."""
        callee = None
        how = header["result_encoding"]
        try:
            callee, payload = self.callee(header, payload, times)
            if header["encoding"] == "pickle":
                self.offer_cloudpickle()
            args, kwargs = arguments(header, payload)
            answer = encoded(self.called(callee, args, kwargs, times), how, header["limit"])
        except BaseException as error:
            self.end_if_forked()
            return callee, b"null,0,[]," + failure_of(error, how), []
        sides = [[digest, len(data)] for digest, data in answer.sides]
        listed = json.dumps(sides) if sides else "[]"
        body = f'"{answer.encoding}",{answer.size},{listed},null'
        return callee, body.encode(), [*answer.parts, *(data for _, data in answer.sides)]

    def called(
        self, callee: Callee, args: list[Any], kwargs: dict[str, Any], times: list[float]
    ) -> object:
        began = _perf_counter()
        try:
            return callee.function(*args, **kwargs)
        finally:
            times[0] = _perf_counter() - began

    def end_if_forked(self) -> None:
        """A child that the function forked, and that came back here, ends: it has no answer."""
        if _getpid() != self.link.pid:
            os._exit(0)

    def callee(
        self, header: dict[str, Any], payload: bytes, times: list[float]
    ) -> tuple[Callee, bytes]:
        """The callable and the bytes of its arguments; found once, then kept."""
        size = header.get("pickled", 0)
        if size:
            key: object = payload[:size]
            payload = payload[size:]
        else:
            key = (header["function"], header.get("module"), header.get("package"))
        found = self.callees.get(key)
        if found is None:
            began = _perf_counter()
            try:
                found = self.found(key)
            finally:
                times[1] = _perf_counter() - began
            if len(self.callees) >= MAX_FUNCTIONS:
                self.callees.clear()
            self.callees[key] = found
        return found, payload

    def found(self, key: Any) -> Callee:
        if isinstance(key, tuple):
            return resolve(*key)
        self.offer_cloudpickle()
        return unpickled_function(key)

    def offer_cloudpickle(self) -> None:
        """Put the worker's own cloudpickle last on the path, for what was pickled by it."""
        if self.cloudpickle and self.cloudpickle not in sys.path:
            sys.path.append(self.cloudpickle)


def main() -> NoReturn:
    """Set the process up and serve."""
    frames, starts, parent = map(int, sys.argv[1:4])
    die_with(parent)
    link = Link(private(frames), private(starts))
    setup = link.next_frame().header
    check_folder(setup)
    sys.argv = [""]
    sys.dont_write_bytecode = True  # environments stay as they were built
    plan = setup.get("sandbox") or {}
    peak = enter_sandbox(plan, link)
    link.own()
    # Once more: it is another process now, or another user's, for whom the first is void.
    flush_c = die_with(0 if plan.get("namespace") else parent)
    surroundings = Surroundings(flush_c)
    if setup.get("site_packages"):
        sys.path.append(setup["site_packages"])
    surroundings.main = hide_main()
    link.send(b"[%d]" % setup["nonce"], [])
    try:
        Runner(link, surroundings, Meter(peak), setup).run()
    except (EOFError, OSError) as error:  # the agent left, or a function closed our sockets
        os.write(surroundings.log, f"connection to the worker lost: {error!r}\n".encode())
        os._exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
