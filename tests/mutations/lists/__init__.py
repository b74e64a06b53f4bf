"""The guards, one file for each part of the source."""

from tests.mutations.guards import Guard
from tests.mutations.lists import sqlite, transitions, worker

GUARDS: list[Guard] = [*transitions.GUARDS, *sqlite.GUARDS, *worker.GUARDS]
