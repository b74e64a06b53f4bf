"""What is known of one function, and what that says of its next call."""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul

from msgspec import Struct

from task_server.scheduling.accuracy import Accuracy, Call
from task_server.scheduling.histogram import Histogram
from task_server.scheduling.memory import Peaks, needed_after
from task_server.scheduling.pace import Pace

SHORT_SECONDS = 0.025
"""Functions with a median below this are dealt several to a slot."""
UNKNOWN_SECONDS = 1.0
"""The guess for a function of which nothing is known, nor of its owner, nor of this server."""
EACH_CALLS, SAMPLE = 1000, 8
"""So many first calls tell of the pace, of those behind them one in so many: they are short."""
Run = tuple[float, float, float, float, float, int, float, float]
"""An attempt that ended: seconds that it ran, queued, installed, imported and had of a processor,
its peak in bytes; p50 (negative: a guess) and p90 as of its lease."""
_LEVELS = (0.1, 0.5, 0.9, 0.99)
_SUMS = (
    "calls",
    "failures",
    "run_seconds",
    "square_seconds",
    "queue_seconds",
    "install_seconds",
    "import_seconds",
    "cpu_seconds",
)


class Price(Struct, frozen=True):
    """Predicted seconds of one call."""

    p10: float
    p50: float
    p90: float
    p99: float
    calls: int
    """Calls of this function that it rests on."""
    model: str
    """`history`, or for an unknown function `owner`, `server`, `guess`."""

    @property
    def is_known(self) -> bool:
        """False: nothing of this function has been measured."""
        return self.calls > 0


class Statistics:
    """Counts and sums of one function; durations in seconds."""

    __slots__ = (
        "_judged_next",
        "_price",
        "accuracies",
        "accuracy",
        "calls",
        "cpu_seconds",
        "failures",
        "first_seconds",
        "function",
        "histogram",
        "import_seconds",
        "install_seconds",
        "is_short",
        "owner",
        "pace",
        "paces",
        "peak_bytes",
        "peaks",
        "queue_seconds",
        "run_seconds",
        "square_seconds",
    )

    def __init__(self, function: int, owner: int) -> None:
        self.function = function
        self.owner = owner
        self.calls = 0
        self.failures = 0
        self.first_seconds = 0.0
        self.run_seconds = 0.0
        self.square_seconds = 0.0
        self.queue_seconds = 0.0
        self.install_seconds = 0.0
        self.import_seconds = 0.0
        self.cpu_seconds = 0.0
        self.peak_bytes = 0
        self.peaks = Peaks()
        self.histogram = Histogram()
        self.accuracy = Accuracy()
        self._judged_next: list[Call] = []
        self.accuracies = [self.accuracy]
        """With those that are included, for reading alone."""
        self.pace = Pace()
        self.paces = [self.pace]
        self.is_short = False
        self._price: Price | None = None

    def restore(
        self,
        calls: int,
        failures: int,
        first_seconds: float,
        run_seconds: float,
        queue_seconds: float,
        install_seconds: float,
        import_seconds: float,
        cpu_seconds: float,
        peak_bytes: int,
        histogram: bytes,
        accuracy: bytes,
        pace: bytes,
        peaks: bytes,
    ) -> None:
        """Take what was kept."""
        self.calls, self.failures, self.first_seconds = calls, failures, first_seconds
        self.run_seconds, self.queue_seconds = run_seconds, queue_seconds
        self.install_seconds, self.import_seconds = install_seconds, import_seconds
        self.cpu_seconds, self.peak_bytes = cpu_seconds, peak_bytes
        self.histogram, self.peaks = Histogram(histogram), Peaks(peaks)
        self.accuracy, self.pace = Accuracy(accuracy), Pace(pace)
        self.accuracies, self.paces = [self.accuracy], [self.pace]
        self.square_seconds = self.histogram.square_seconds()
        self.settle()

    def copy(self) -> Statistics:
        """One that is counted apart."""
        copied = Statistics(self.function, self.owner)
        for name in self.__slots__:
            setattr(copied, name, getattr(self, name))
        copied.histogram = self.histogram.copy()
        copied.peaks = Peaks(self.peaks.to_bytes())
        copied.accuracy = Accuracy(self.accuracy.to_bytes())
        copied.pace = Pace(self.pace.to_bytes())
        copied._judged_next = []
        copied.accuracies, copied.paces = [copied.accuracy], [copied.pace]
        return copied

    def include(self, other: Statistics) -> None:
        """Count what the other has counted of this function, too."""
        if not self.calls:
            self.first_seconds = other.first_seconds
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.histogram.include(other.histogram)
        self.peaks.include(other.peaks)
        self.accuracies.append(other.accuracy)
        self.paces.append(other.pace)
        self._price = None
        self.settle()

    def count(self, run_seconds: float) -> None:
        """Count one success of which no more is known."""
        self.count_all([(run_seconds, 0.0, 0.0, 0.0, 0.0, 0, -1.0, 0.0)])

    def count_all(
        self, runs: Sequence[Run], *, environment: str | None = None, at: float = 0.0
    ) -> None:
        """Count successes in that environment, at that time: one at least."""
        # A group may end a thousand tasks: hardly any Python code for each of them.
        seconds, *_, predicted, high = zip(*runs, strict=True)
        if not self.calls:
            self.first_seconds = seconds[0]
        log_seconds = self.histogram.add_all(seconds)
        self._judged_next += zip(seconds, log_seconds, predicted, high, strict=True)
        if environment is not None:
            for number, each in enumerate(log_seconds, self.calls + 1):
                if number < EACH_CALLS or not number % SAMPLE:
                    self.pace.count(each, environment=environment, at=at)
        self.calls += len(runs)
        self.run_seconds += sum(seconds)
        self.square_seconds += sum(map(mul, seconds, seconds))
        self._add_used(runs)
        if not self.is_short:  # nothing is kept free for those, and there may be thousands
            self.peaks.add_all([run[5] for run in runs])
        self._price = None

    def count_out_of_memory(self, peak_bytes: int) -> None:
        """Count a call that was ended for want of memory, besides its failure."""
        self.peaks.add_all([needed_after(peak_bytes)])

    def count_failures(self, runs: Sequence[Run]) -> None:
        """Count failures, one at least."""
        self.failures += len(runs)
        self._add_used(runs)

    def _add_used(self, runs: Sequence[Run]) -> None:
        _, queue, install, imports, cpu, peak_bytes, _, _ = zip(*runs, strict=True)
        self.queue_seconds += sum(queue)
        self.install_seconds += sum(install)
        self.import_seconds += sum(imports)
        self.cpu_seconds += sum(cpu)
        self.peak_bytes = max(self.peak_bytes, *peak_bytes)

    def moments(self) -> tuple[float, float]:
        """Mean and variance of the run times."""
        calls = max(self.calls, 1)
        mean = self.run_seconds / calls
        return mean, max(self.square_seconds / calls - mean * mean, 0.0)

    def settle(self) -> None:
        """After a group of counts: whether calls are short enough to be dealt in numbers."""
        self.accuracy.settle(self._judged_next)
        self._judged_next = []
        self.is_short = self.calls > 0 and self.price().p50 < SHORT_SECONDS

    def price(self) -> Price:
        """What the next call takes; widened while few calls were seen."""
        price = self._price
        if price is None:
            p10, p50, p90, p99 = self.histogram.quantiles(_LEVELS)
            spread = 1.0 + 2.0 / max(self.calls, 1)
            price = Price(p10 / spread, p50, p90 * spread, p99 * spread, self.calls, "history")
            self._price = price
        return price


def guess(seconds: float | None, model: str) -> Price:
    """A wide price for a function that was never measured."""
    if seconds is None:
        seconds, model = UNKNOWN_SECONDS, "guess"
    return Price(seconds / 30, seconds, seconds * 30, seconds * 100, 0, model)
