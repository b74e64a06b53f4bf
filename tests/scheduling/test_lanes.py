"""The window of a lane, beside a plain sorted list."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from task_server.scheduling.lanes import Candidate, Key, Window
from tests.scheduling.candidates import candidate

SIZE = 5
"""Of the windows here: small, so that they overflow."""


class WindowMachine(RuleBasedStateMachine):
    """A window over a table: tasks come, are dealt from the head, and go elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: dict[int, Candidate] = {}
        """The table: what is queued in the lane."""
        self.window: Window[Candidate] = Window(is_complete=True)
        self.next = 1

    def in_order(self) -> list[Candidate]:
        return sorted(self.queued.values(), key=lambda each: each.key)

    def refill(self) -> None:
        beyond = [each for each in self.in_order() if each.key > self.window.bound]
        self.window.refill(beyond[:SIZE], wanted=SIZE)

    def new(self, due_at: int) -> Candidate:
        task = candidate(self.next, due_at=float(due_at))
        self.next += 1
        self.queued[task.number] = task
        return task

    @rule(due_at=st.integers(0, 6))
    def offer(self, due_at: int) -> None:
        task = self.new(due_at)

        is_taken = self.window.offer(task)

        assert is_taken == (task in self.window.entries)
        self.trim()

    @rule(due=st.lists(st.integers(0, 6), max_size=4))
    def offer_all(self, due: list[int]) -> None:
        tasks = [self.new(due_at) for due_at in due]

        beyond = self.window.offer_all(tasks)

        assert beyond == [each for each in self.in_order() if each in tasks and each in beyond]
        assert all((each in self.window.entries) != (each in beyond) for each in tasks)
        self.trim()

    def trim(self) -> None:
        for over in self.window.trim(SIZE):
            assert over.number in self.queued

    @rule()
    def deal(self) -> None:
        if not self.window.entries and not self.window.is_complete:
            self.refill()
        if self.window.entries:
            head = self.window.entries.pop(0)
            assert head is self.in_order()[0], "a task was passed"
            del self.queued[head.number]
        else:
            assert not self.queued, "a task was forgotten"

    @rule(k=st.integers(0, 100))
    def remove(self, k: int) -> None:
        if self.queued:
            task = self.in_order()[k % len(self.queued)]
            del self.queued[task.number]
            self.window.remove(task.key)

    @rule(size=st.integers(1, SIZE))
    def shrink(self, size: int) -> None:
        self.window.trim(size)

    @rule()
    def restart(self) -> None:
        self.window = Window(is_complete=False)

    @invariant()
    def holds_the_head(self) -> None:
        window = self.window
        known = [each for each in self.in_order() if window.is_complete or each.key <= window.bound]
        assert window.entries == known
        assert len(window.entries) <= SIZE

    def teardown(self) -> None:
        for _ in range(len(self.queued) + 1):
            self.deal()
        assert not self.queued


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)

keys = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 50))


@given(st.lists(keys, unique_by=lambda key: key[2]), keys)
def test_only_the_very_task_is_removed(there: list[Key], key: Key) -> None:
    window: Window[Candidate] = Window(is_complete=True)
    for due_at, tie, number in there:
        window.offer(candidate(number, due_at=float(due_at), tie=float(tie)))

    window.remove((float(key[0]), float(key[1]), key[2]))

    assert [each.key for each in window.entries] == sorted(set(there) - {key})


def test_a_refill_of_nothing_ends_the_look() -> None:
    window: Window[Candidate] = Window(is_complete=False)

    window.refill([], wanted=SIZE)

    assert window.is_complete
