from tests.mutations.guards import Guard

GUARDS: list[Guard] = []
