"""After a loss of power at any moment the database is whole and holds what was acknowledged."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from task_server.protocol import ids
from tests.e2e.power_cuts import cuts_of, leave
from tests.e2e.power_load import Recording, record
from tests.e2e.processes import figures
from tests.e2e.system_calls import Call
from tests.e2e.watched import WatchedPlace, needs_strace, watched_place

NO_BALLAST = ("--ballast-bytes", "0")
"""It is made by `fallocate`, which the replay does not know."""

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(170)]

CUTS = int(os.environ.get("TASK_SERVER_POWER_CUTS", "150"))
SEED = int(os.environ.get("TASK_SERVER_SEED", secrets.randbelow(2**32)))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A server's first start, its work, and two restarts: after a kill and in order."""
    needs_strace()
    with watched_place(tmp_path_factory, "--auth", "none", *NO_BALLAST) as here:
        return record(here, seed=SEED, lives=["kill", "stop", "kill"])


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where what is left after a cut lies for a moment."""
    return tmp_path


def test_power_lost_at_any_moment_loses_nothing(recording: Recording, work: Path) -> None:
    figures("TASK_SERVER_SEED=%d", SEED)

    cuts = list(cuts_of(recording, work, seed=SEED, count=CUTS))

    assert sum(cut.facts > 0 for cut in cuts) > CUTS / 2
    assert [cut for cut in cuts if cut.faults] == []


def test_a_server_starts_on_what_a_loss_of_power_left(
    recording: Recording, tmp_path_factory: pytest.TempPathFactory
) -> None:
    last = max(fact.left for fact in recording.facts)
    for share in (0.3, 0.6, 0.9):
        at = round(last * share)
        with watched_place(tmp_path_factory, "--auth", "none", *NO_BALLAST) as here:
            leave(recording, at, here.data, random.Random(f"{SEED} {share}"))

            here.serve()

            check_facts(here, recording, at)
            assert here.server is not None and here.server.stop() == 0


def check_facts(here: WatchedPlace, recording: Recording, at: int) -> None:
    connection = here.connection()
    facts = [fact for fact in recording.facts if fact.left <= at and fact.task is not None]
    assert facts
    for fact in facts:
        view = connection.ask("GET", f"/v1/tasks/{ids.to_text(fact.task or b'')}").told
        if fact.state == "succeeded":
            told = view.get("blob") or msgspec.json.encode(view["answer"]).decode()
            assert told.encode() == fact.answer
        if fact.state == "cancelled":
            assert view["state"] == "cancelled"


# ---- the check itself can fail


def of_log(call: Call) -> bool:
    return call.file.endswith("-wal")


def of_database(call: Call) -> bool:
    return call.file.endswith(".db")


def of_folder(call: Call) -> bool:
    return call.file.endswith("/server")


def of_blobs(call: Call) -> bool:
    return call.file.endswith(".partial")


def of_blob_names(call: Call) -> bool:
    return "/blobs" in call.file and not call.file.endswith(".partial")


@pytest.mark.parametrize("left_out", [of_log, of_database, of_folder, of_blobs, of_blob_names])
def test_every_sync_is_needed(
    recording: Recording, work: Path, left_out: Callable[[Call], bool]
) -> None:
    calls = [call for call in recording.calls if not (call.has_synced and left_out(call))]
    assert len(calls) < len(recording.calls)
    doctored = msgspec.structs.replace(recording, calls=calls)

    cuts = cuts_of(doctored, work, seed=SEED, count=60)

    assert any(cut.faults for cut in cuts)


def test_a_server_that_does_not_sync_loses_much(
    tmp_path_factory: pytest.TempPathFactory, work: Path
) -> None:
    needs_strace()
    with watched_place(tmp_path_factory, "--auth", "none", *NO_BALLAST) as here:
        here.break_server("unsynced")
        recording = record(here, seed=SEED, lives=["kill"])

    cuts = list(cuts_of(recording, work, seed=SEED, count=20))

    assert sum(bool(cut.faults) for cut in cuts) > 5
