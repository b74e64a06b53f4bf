"""Guards of what is learned and ordered ahead: prices of what waits, models, environments."""

from tests.mutations.guards import Guard


def _guard(file: str, name: str, text: str, without: str, *, tests: str, only: str) -> Guard:
    return Guard(f"store/{file}.py", name, text, without, f"tests/store/{tests}.py -k '{only}'")


GUARDS = [
    _guard(
        "contract_learning",
        "a new price takes a task out of its batch",
        "batch=None if batch_due_at is None else InBatch(batch_due_at, bool(in_order)),",
        "batch=None,",
        tests="test_reprice",
        only="not postgres",
    ),
    _guard(
        "sqlite/reprice",
        "a task starts by its old price until the next restart",
        "    waiting.due_at, waiting.tie = at\n",
        "",
        tests="test_reprice",
        only="not postgres",
    ),
    _guard(
        "postgres/reprice",
        "a task that comes first now is passed",
        "        group.queue(lane, due_at)\n",
        "        pass\n",
        tests="test_reprice",
        only="postgres",
    ),
    _guard(
        "records/models",
        "two servers mix what they have learned",
        '" WHERE function = ? AND version = ?",',
        "\" WHERE function = ? AND ? != ''\",",
        tests="test_learning",
        only="not postgres",
    ),
    _guard(
        "records/orders",
        "what a worker tells of an older round counts",
        '" WHERE number = ? AND round = ?"',
        '" WHERE number = ? AND ? >= 0"',
        tests="test_orders",
        only="not postgres",
    ),
    _guard(
        "records/orders",
        "an order has no end",
        '" WHERE o.until > ? ORDER BY o.number",',
        '" WHERE ? >= 0 ORDER BY o.number",',
        tests="test_orders",
        only="not postgres",
    ),
]
