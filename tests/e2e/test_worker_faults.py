"""Workers that die, sleep, vanish or have a wrong clock or a full disk change no answer."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from task_server.client.client import Client
from task_server.client.future import Future
from task_server.client.requests import list_workers
from task_server.protocol.tasks import Error, TaskView
from tests.e2e.processes import (
    Place,
    figures,
    is_there,
    place,
    resume,
    suspend,
    until,
)
from tests.e2e.test_kill import Load
from tests.environments.small_index import small_index

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

LEASE_SECONDS = 2.0
SWEEP_SECONDS = LEASE_SECONDS / 4
LONGEST_CRASH_WAIT = 2.0
"""Before the second attempt of a task whose first one was lost."""
SLACK_SECONDS = 4.0
"""What a busy machine may add."""
YEAR = 365 * 86400
MIB = 1 << 20


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory, "--lease-seconds", str(LEASE_SECONDS)) as here:
        here.serve()
        yield here


@pytest.fixture
def client(here: Place) -> Iterator[Client]:
    with here.client() as client:
        yield client


def long_at_first(path: str, seconds: float) -> int:
    """How often it ran; only the first time it takes long. Leaves a line for each time."""
    with Path(path).open("a+") as file:
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
        file.write(f"{os.getpid()} {namespace} {time.monotonic()}\n")
        file.seek(0)
        times = len(file.readlines())
    if times == 1:
        time.sleep(seconds)
    return times


class Runs:
    """What `long_at_first` leaves."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def begun(self, times: int = 1) -> None:
        """Wait until it has begun so often."""
        until(lambda: len(self.lines) >= times, what=f"run {times} begins")

    def is_left(self, time: int) -> bool:
        """Whether the process of the n-th run, from 0, is there."""
        pid, namespace, _ = self.lines[time].split()
        return any(is_known_as(each, pid, int(namespace)) for each in Path("/proc").glob("[0-9]*"))

    def began_at(self, time: int) -> float:
        """Its begin on the monotonic clock, which all processes share."""
        return float(self.lines[time].split()[2])


def is_known_as(process: Path, pid: str, namespace: int) -> bool:
    """Whether a process, named by its folder in /proc, has that id in that namespace."""
    with contextlib.suppress(OSError):
        ids = (process / "status").read_text().partition("NSpid:")[2].partition("\n")[0].split()
        is_same = ids[-1] == pid and (process / "ns" / "pid").stat().st_ino == namespace
        return is_same and is_there(int(process.name))
    return False


@pytest.fixture
def runs(here: Place) -> Runs:
    return Runs(here.sign("runs"))


def ended(future: Future[object], seconds: float = 40.0) -> TaskView:
    assert future.refresh(seconds), f"{future} has not ended"
    return future.status()


# ---- a worker that dies


def test_runners_of_a_killed_worker_die_with_it_and_the_task_runs_again_in_time(
    here: Place, client: Client, runs: Runs
) -> None:
    first = here.worker("first", slots=1)
    future = client.submit(long_at_first, str(runs.path), 60)
    runs.begun()
    here.worker("second")

    first.kill()
    killed_at = time.monotonic()

    until(lambda: not runs.is_left(0), 5, "the runner ends with its worker")
    assert future.result(timeout=30) == 2
    waited = runs.began_at(1) - killed_at
    assert waited < LEASE_SECONDS + SWEEP_SECONDS + LONGEST_CRASH_WAIT + SLACK_SECONDS
    assert future.status().attempt == 2
    figures("a task of a killed worker ran again after %.1f s", waited)


def test_a_task_that_is_lost_with_its_worker_three_times_is_not_tried_again(
    here: Place, client: Client
) -> None:
    future = client.submit("time:sleep", 60)

    def runs(attempt: int) -> bool:
        view = future.status()
        return (view.attempt, view.phase) == (attempt, "running")

    for attempt in (1, 2, 3):
        worker = here.worker(slots=1)  # it comes back as itself, so nobody waits for its lease
        until(partial(runs, attempt), 20, f"attempt {attempt} runs")
        worker.kill()
    here.worker(slots=1)

    view = ended(future)
    assert (view.state, view.attempt) == ("failed", 3)
    assert isinstance(view.error, Error) and view.error.kind == "lost"


# ---- a worker that is not heard of


def test_a_machine_that_vanishes_without_a_word_loses_nothing(here: Place) -> None:
    vanished = here.worker("vanished")
    load = Load(here)
    load.has_begun(100)

    suspend(vanished)  # its connections stay open, and nobody closes them
    begun = time.monotonic()
    here.worker("another")

    views = load.check()
    again = sum(view["attempt"] > 1 for view in views)
    seconds = time.monotonic() - begun
    figures("%d tasks answered, %d of them again, in %.1f s", len(views), again, seconds)


def test_a_worker_that_slept_beyond_its_lease_ends_what_it_no_longer_holds(
    here: Place, client: Client, runs: Runs
) -> None:
    sleeper = here.worker("sleeper", slots=1)
    future = client.submit(long_at_first, str(runs.path), 60)
    runs.begun()

    asleep = suspend(sleeper)
    until(lambda: future.status().state != "running", 20, "the lease runs out")
    assert runs.is_left(0)
    here.worker("another", slots=1)
    answer = future.result(timeout=30)
    resume(sleeper, asleep)

    until(lambda: not runs.is_left(0), 10, "what it no longer holds is ended")
    view = future.status()
    assert (answer, view.state, view.attempt) == (2, "succeeded", 2)
    assert sleeper.is_alive() and client.call("math:sqrt", 9) == 3.0
    assert len(runs.lines) == 2


def test_an_answer_that_comes_after_its_lease_is_taken_while_the_task_is_open(
    here: Place, client: Client, runs: Runs
) -> None:
    sleeper = here.worker("sleeper", slots=1)
    future = client.submit(long_at_first, str(runs.path), 1.5)
    runs.begun()

    os.kill(sleeper.pid, signal.SIGSTOP)  # the worker alone: the function goes on and ends
    until(lambda: future.status().state == "queued", 20, "the lease runs out, and the pause after")
    resume(sleeper, [])

    view = ended(future)
    assert (view.state, future.result(), len(runs.lines)) == ("succeeded", 1, 1)


# ---- a worker's clock


@pytest.mark.parametrize("seconds", [-YEAR, YEAR])
def test_a_worker_whose_clock_is_wrong_by_a_year_makes_no_difference(
    here: Place, client: Client, seconds: int
) -> None:
    program = Path(__file__).with_name("wrong_clock.py")
    here.worker(slots=1, command=(sys.executable, str(program), str(seconds)))

    long = client.submit("time:sleep", 2.5 * LEASE_SECONDS)  # renewed a few times
    short = [client.submit("math:sqrt", number * number) for number in range(20)]

    assert ended(long).state == "succeeded"
    assert [each.result(timeout=20) for each in short] == list(range(20))
    for view in (long.status(), short[-1].status()):
        assert view.attempt == 1 and view.started_at and view.ended_at
        assert view.submitted_at <= view.started_at <= view.ended_at
        assert abs(datetime.now(UTC) - view.ended_at) < timedelta(minutes=1)
    (worker,) = json.loads(client.session.send(list_workers()).body)["workers"]
    assert worker["state"] == "live"


# ---- a worker's disk


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 48 MiB at `folder`; skips where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"no small disk can be mounted here: {found.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, *, but: int = 0) -> Path:
    """Leave no space but so many bytes on a folder's disk; gives the file that takes the rest."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            free = os.statvfs(folder)
            try:
                os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - but)
                return filler
            except OSError as error:  # another took some of it meanwhile
                if error.errno != errno.ENOSPC:
                    raise


def test_a_full_disk_of_a_worker_fails_no_task_and_costs_no_longer_than_it_lasts(
    here: Place, client: Client
) -> None:
    with small_disk(here.folder / "worker"):
        worker = here.worker(slots=1)
        assert client.call("math:sqrt", 9) == 3.0
        filler = fill(here.folder / "worker")

        futures = [client.submit("builtins:len", bytes([n]) * MIB) for n in range(3)]
        worker.waits_for("is full: no tasks are taken")
        until(lambda: {each.status().state for each in futures} == {"queued"})
        attempts = [each.status().attempt for each in futures]
        time.sleep(2 * LEASE_SECONDS)
        assert [each.status().attempt for each in futures] == attempts, "they go to and fro"
        filler.unlink()

        assert [each.result(timeout=20) for each in futures] == [MIB] * 3
        assert worker.is_alive()
        worker.kill()


def test_what_a_full_disk_turns_away_another_worker_takes(here: Place, client: Client) -> None:
    with small_disk(here.folder / "full"):
        full = here.worker("full", slots=2)
        fill(here.folder / "full")
        futures = [client.submit("builtins:len", bytes([n]) * MIB) for n in range(5)]
        full.waits_for("is full: no tasks are taken")

        here.worker("roomy")

        assert [each.result(timeout=20) for each in futures] == [MIB] * 5
        assert {each.status().worker for each in futures} == {"roomy"}
        assert full.is_alive()
        full.kill()


def test_an_environment_that_does_not_fit_on_a_disk_is_built_where_it_does(
    here: Place, client: Client
) -> None:
    with small_index() as index, small_disk(here.folder / "small"):
        index.add("large", "1.0", {"large.py": "def f(): return 1", "data": "x" * 30 * MIB})
        environ = index.environ(here.folder / "cache")
        assert here.server is not None and here.server.stop() == 0
        here.serve(environ=environ)
        small = here.worker("small", environ=environ)
        fill(here.folder / "small", but=20 * MIB)
        future = client.submit("large:f", package="large")
        small.waits_for("no space is left on the disk of this machine")
        assert client.call("math:sqrt", 9) == 3.0, "what fits goes on"
        assert future.status().state == "queued"

        here.worker("roomy", environ=environ)

        assert (future.result(timeout=30), future.status().worker) == (1, "roomy")
        assert small.is_alive()
        small.kill()
