"""What the endpoints and services work with; passed in, never global."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from task_server.policy import Policy
from task_server.scheduling.totals import Ahead
from task_server.server.access import Access
from task_server.server.bodies import Bodies
from task_server.server.descriptors import Descriptors
from task_server.server.estimator.process import EstimatorProcess
from task_server.server.etas import BatchEtas
from task_server.server.refusals import Refusals
from task_server.server.service.orders import OrderBook
from task_server.server.service.refresh import Refreshes
from task_server.server.service.specs import Specs
from task_server.server.service.uploads import Uploads
from task_server.server.upkeep.budget import Budget
from task_server.server.upkeep.first_reads import FirstReads
from task_server.server.upkeep.space import Space
from task_server.server.upkeep.totals import Totals
from task_server.server.waiting import Waiting
from task_server.settings import ServerSettings
from task_server.store.blobs import Blobs
from task_server.store.contract import Store
from task_server.store.records.retention import Keep


class State(Struct):
    """The parts of a running server."""

    settings: ServerSettings
    clock: Callable[[], float]
    store: Store
    blobs: Blobs
    access: Access
    waiting: Waiting
    bodies: Bodies
    descriptors: Descriptors
    space: Space
    budget: Budget
    first_reads: FirstReads
    orders: OrderBook
    uploads: Uploads
    policy: Policy
    specs: Specs
    refreshes: Refreshes
    estimator: EstimatorProcess
    totals: Totals
    etas: BatchEtas
    keep: Keep
    """How long ended tasks are kept."""
    default_python: str
    """Minor version that a task gets if it names none."""
    refusals: Refusals
    """Workers that take no tasks."""
    is_stopping: bool = False
    ahead: Ahead | None = None
    """Everybody's open work, remembered for a moment."""
    pythons: dict[str, float] = {}
    """Python -> until when it is believed that a worker has it."""
    versions: dict[str, dict[str, str]] = {}
    """Environment -> what is in it, of those that were asked for."""
