"""What is to be stored of a submission."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from task_server.scheduling.order import InBatch
from task_server.store.group_commit import Operation
from task_server.store.kinds import Kind
from task_server.store.places import Places
from task_server.store.postgres.found import Awaited
from task_server.store.submissions import Accepted, NewTask, Submission


class Plan(Struct, eq=False):
    """A submission that stores something."""

    submission: Submission
    operation: Operation[Accepted]
    new: list[NewTask]
    batch_id: bytes | None
    shared: InBatch | None
    """What the members of its batch have in common from now on."""
    places: Places
    batch: int | None = None
    position: int = 0
    awaited: dict[bytes, Awaited] = {}
    """Tasks that are there and that new ones wait for."""
    pending: Counter[bytes] = Counter()
    """How many each new task waits for."""
    kinds: list[Kind] = []
