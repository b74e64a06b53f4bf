"""Guards of the order of starts, and of how long tasks wait for a better worker."""

from tests.mutations.guards import Guard


def _guard(file: str, name: str, text: str, without: str) -> Guard:
    return Guard(f"scheduling/{file}.py", name, text, without, f"tests/scheduling/test_{file}.py")


GUARDS = [
    _guard(
        "order",
        "later members of a batch pass what came between",
        "due_at = max(batch.due_at, ready_at)",
        "due_at = batch.due_at",
    ),
    _guard(
        "order",
        "a wanted end passes what came long before",
        "due_at = min(due_at, max(finish_by - predicted_high, ready_at))",
        "due_at = min(due_at, finish_by - predicted_high)",
    ),
    _guard(
        "order",
        "long work waits without end",
        "return min(AGEING * rounded_up(min(seconds, LONGEST_SECONDS)), LONGEST_SECONDS)",
        "return AGEING * rounded_up(seconds)",
    ),
    _guard(
        "placement",
        "tasks wait for a warm worker without end",
        "return now - since < seconds",
        "return True",
    ),
    _guard(
        "progress",
        "time in which others had the slots makes a batch slow",
        "return self.is_alone and self.ended > 0",
        "return self.ended > 0",
    ),
    _guard(
        "progress",
        "what the model learns counts twice",
        "return Pace(self.logarithms - self.calls * math.log(new / old), self.calls)",
        "return self",
    ),
    _guard(
        "progress",
        "what runs takes no time",
        "share = max(share, 0.5 * (total - ended) / max(total - look.ended, 1))",
        "",
    ),
]
