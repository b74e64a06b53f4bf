"""The guards, one file for each part of the source."""

from tests.mutations.guards import Guard
from tests.mutations.lists import (
    client,
    faults,
    learning,
    operations,
    packages,
    postgres,
    requires,
    retention,
    sandbox,
    scheduling,
    sqlite,
    transitions,
    worker,
)

GUARDS: list[Guard] = [
    *transitions.GUARDS,
    *sqlite.GUARDS,
    *retention.GUARDS,
    *postgres.GUARDS,
    *worker.GUARDS,
    *requires.GUARDS,
    *scheduling.GUARDS,
    *learning.GUARDS,
    *faults.GUARDS,
    *operations.GUARDS,
    *client.GUARDS,
    *sandbox.GUARDS,
    *packages.GUARDS,
]
