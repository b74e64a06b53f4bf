"""Killing a server under load, and what it left."""

from __future__ import annotations

import random
import time

from task_server.store.maintenance import check
from tests.e2e.watched import WatchedPlace


def kill_and_restart(here: WatchedPlace, chance: random.Random) -> float:
    """Let the server work for a while, kill it, and start it again; some while they start.

    Gives the seconds from its start until it was ready.
    """
    assert here.server is not None
    time.sleep(chance.uniform(0.1, 1.2))
    here.server.kill()
    if chance.random() < 0.2:
        starting = here.begin_to_serve()
        time.sleep(chance.uniform(0.2, 0.8))
        starting.kill()
    begun = time.monotonic()
    here.serve()
    return time.monotonic() - begun


def findings(here: WatchedPlace) -> list[str]:
    """What is wrong with the database, by `task-server db check`; nothing when it is whole."""
    return [
        f"{each.what}: {each.count}, for example {each.example}"
        for each in check(here.database, here.data / "blobs")
    ]
