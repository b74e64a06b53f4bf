"""Byte code, compiled once per wheel and hard-linked into every environment that has the wheel.

uv writes none, and a read-only environment never gets any, so every start would compile anew.
The files are "unchecked": a time of change inside would be wrong as soon as uv's cache extracts
the wheel again. What binds them to their sources is their key in the store: the hashes that the
lock allows for the distribution, and its RECORD.
"""

import asyncio
import contextlib
import csv
import hashlib
import json
import logging
import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

from task_server.environments.lock import Lock, Pin
from task_server.worker.environment_folders import SEALED

log = logging.getLogger(__name__)

COMPILE_SECONDS = 900.0

# Runs in the environment's interpreter as `-I -S`: no .pth file is processed, nothing imported.
# In: a JSON line {"folder", "work": [[source, target, SHA-256], ...]} per distribution.
# Out: the folder, when it is done. A source that does not compile is left out, and so is one that
# is not what the wheel had: the store is for all environments, and a function may have changed it.
_COMPILER: Final = """
import base64, hashlib, json, os, py_compile, sys
os.nice(19)
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for line in sys.stdin:
    job = json.loads(line)
    for source, target, wanted in job["work"]:
        try:
            py_compile.compile(source, target, doraise=True, quiet=2, invalidation_mode=mode)
            with open(source, "rb") as file:
                found = hashlib.sha256(file.read()).digest()
            if "sha256=" + base64.urlsafe_b64encode(found).decode().rstrip("=") != wanted:
                os.unlink(target)
            else:
                os.chmod(target, 0o444)
        except Exception:
            pass
    print(job["folder"], flush=True)
"""


@dataclass(frozen=True, slots=True)
class Distribution:
    """One installed wheel: its key in the store, and its byte code to be, by source.

    Both paths are relative to site-packages. `hashes` are those of the sources, as RECORD has them.
    """

    key: str
    compiled: Mapping[str, str]
    hashes: Mapping[str, str]


class Bytecode:
    """The store of compiled wheels in `directory`, on the file system of the environments."""

    def __init__(self, directory: Path, *, compile_seconds: float = COMPILE_SECONDS) -> None:
        self._directory = directory
        self._compile_seconds = compile_seconds
        self._one_at_a_time = asyncio.Semaphore(1)

    def link(self, site_packages: Path, lock: Lock) -> list[Distribution]:
        """Link what the store has into an environment; the distributions that it lacks.

        Waits for the disk: tens of milliseconds in a large environment.
        """
        missing = []
        for distribution in distributions(site_packages, lock):
            if self._folder(distribution).is_dir():
                self._link_one(distribution, site_packages)
            else:
                missing.append(distribution)
        return missing

    async def compile(
        self, missing: Sequence[Distribution], site_packages: Path, *, interpreter: Path
    ) -> None:
        """Compile `missing` into the store at the lowest priority, linking each when it is done.

        Failing is harmless: sources can be imported without. One call works at a time.
        """
        async with self._one_at_a_time:
            partials = {self._partial(distribution): distribution for distribution in missing}
            try:
                async with asyncio.timeout(self._compile_seconds):
                    await self._compile(partials, site_packages, interpreter)
            except (OSError, TimeoutError) as error:
                log.warning("byte code of %s is missing: %s", site_packages, error)
            finally:
                await asyncio.to_thread(_remove, partials)

    def sweep(self) -> None:
        """Remove what a crash left half-compiled; call at start."""
        for partial in self._directory.glob("*.partial-*"):
            if not _is_alive(int(partial.name.rpartition("-")[2])):
                shutil.rmtree(partial, ignore_errors=True)

    async def _compile(
        self, partials: Mapping[Path, Distribution], site_packages: Path, interpreter: Path
    ) -> None:
        jobs = await asyncio.to_thread(_prepare, partials, site_packages)
        process = await asyncio.create_subprocess_exec(
            *(str(interpreter), "-I", "-S", "-c", _COMPILER),
            env={"PATH": os.defpath},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            for job, (partial, distribution) in zip(jobs, partials.items(), strict=True):
                if await _is_compiled(process, job):
                    await asyncio.to_thread(self._publish, partial, distribution, site_packages)
        finally:
            await _end(process)

    def _publish(self, partial: Path, distribution: Distribution, site_packages: Path) -> None:
        # Another process may have been faster: then the folder is there and holds the same.
        with contextlib.suppress(OSError):
            partial.rename(self._folder(distribution))
        self._link_one(distribution, site_packages)

    def _link_one(self, distribution: Distribution, site_packages: Path) -> None:
        folder = self._folder(distribution)
        made: set[str] = set()
        for compiled in distribution.compiled.values():
            place = f"{site_packages}/{compiled.rpartition('/')[0]}"
            if place not in made:
                made.add(place)
                with contextlib.suppress(FileNotFoundError):
                    _open(place)
            # There already, or its source does not compile. Paths would cost more than the link.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.link(f"{folder}/{compiled}", f"{site_packages}/{compiled}")
        for place in made:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(place, SEALED)  # noqa: PTH101 as above

    def _folder(self, distribution: Distribution) -> Path:
        return self._directory / distribution.key

    def _partial(self, distribution: Distribution) -> Path:
        return self._directory / f"{distribution.key}.partial-{os.getpid()}"


def _open(place: str) -> None:
    """Make a folder for byte code that can be written, in one that cannot."""
    try:
        os.mkdir(place)  # noqa: PTH102 as text: there are hundreds
    except FileExistsError:
        os.chmod(place, 0o755)  # noqa: PTH101
    except PermissionError:
        above = os.path.dirname(place)  # noqa: PTH120
        os.chmod(above, 0o755)  # noqa: PTH101
        os.mkdir(place)  # noqa: PTH102
        os.chmod(above, SEALED)  # noqa: PTH101


def distributions(site_packages: Path, lock: Lock) -> Iterator[Distribution]:
    """What is installed in `site_packages` and pinned by `lock`."""
    tag = f"cpython-{lock.python.replace('.', '')}"
    for record_file in sorted(site_packages.glob("*.dist-info/RECORD")):
        name = canonicalize_name(record_file.parent.name.partition("-")[0])
        pins = [pin for pin in lock.pins if pin.name == name]
        if pins:
            record = record_file.read_bytes()
            rows = csv.reader(record.decode(errors="replace").splitlines())
            hashes = {row[0]: row[1] for row in rows if len(row) > 1 and _is_wanted(row[0])}
            compiled = {source: _cached(source, tag) for source in hashes}
            yield Distribution(_key(pins, record, tag), compiled, hashes)


def _key(pins: Sequence[Pin], record: bytes, tag: str) -> str:
    # RECORD alone would not do: a wheel may carry the RECORD of another package, and would then
    # put its byte code into the environments of others. The hashes of the lock are checked
    # against the wheel itself.
    allowed = "\n".join((tag, *(pin.text for pin in pins), ""))
    return f"{pins[0].name}-{hashlib.sha256(allowed.encode() + record).hexdigest()}"


def _is_wanted(source: str) -> bool:
    # As text: an environment has thousands of files, and a path of each costs more than its link.
    if not source.endswith(".py") or source.startswith("/"):
        return False
    parts = source.split("/")
    # Nobody waits for the import of a test, and in numpy and SciPy half of the sources are tests.
    return ".." not in parts and "tests" not in parts


def _cached(source: str, tag: str) -> str:
    folder, slash, name = source.rpartition("/")
    return f"{folder}{slash}__pycache__/{name[:-3]}.{tag}.pyc"


def _prepare(partials: Mapping[Path, Distribution], site_packages: Path) -> list[bytes]:
    jobs = []
    for partial, distribution in partials.items():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        work = [
            (str(site_packages / source), str(partial / compiled), distribution.hashes[source])
            for source, compiled in distribution.compiled.items()
        ]
        jobs.append(json.dumps({"folder": str(partial), "work": work}).encode() + b"\n")
    return jobs


async def _is_compiled(process: asyncio.subprocess.Process, job: bytes) -> bool:
    if process.stdin is None or process.stdout is None:
        return False
    process.stdin.write(job)
    await process.stdin.drain()
    return await process.stdout.readline() != b""


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()  # reads the pipes to their end, so that they are closed


def _remove(partials: Iterable[Path]) -> None:
    for partial in partials:
        shutil.rmtree(partial, ignore_errors=True)


def _is_alive(process_id: int) -> bool:
    if process_id == os.getpid():
        return False  # sweeping comes first: it can only be a namesake of before the start
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but alive
    return True
