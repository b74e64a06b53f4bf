"""The simulation of bench/: it runs everything once, and knows who waited."""

from __future__ import annotations

from bench.simulated_fleet import Machine, makespan, run
from bench.simulated_prices import Model, Prices, Table, Truth
from bench.simulated_traces import Job, arriving, made


def waited(prices: Prices | None, count: int = 400) -> list[Job]:
    """Calls at 90 % load that have all run."""
    jobs = arriving(made(count), slots=8, load=0.9)
    run(jobs, prices)
    return jobs


def mean_wait(jobs: list[Job]) -> float:
    return sum(job.wait for job in jobs) / len(jobs)


def test_every_call_starts_once_it_is_ready_and_no_slot_idles_while_it_waits() -> None:
    jobs = waited(Truth())

    changes = sorted([(job.started_at, 1) for job in jobs] + [(_end(job), -1) for job in jobs])
    running, most = 0, 0
    for _, change in changes:
        running += change
        most = max(most, running)
    assert most == 8 and running == 0
    assert all(job.wait >= 0 for job in jobs)


def _end(job: Job) -> float:
    return job.started_at + job.seconds


def test_who_knows_how_long_calls_take_has_them_wait_less() -> None:
    fifo, table, truth = (mean_wait(waited(each)) for each in (None, Table(), Truth()))

    assert truth < 0.5 * fifo and truth < table < fifo


def test_the_model_is_asked_when_calls_come_and_told_when_they_have_ended() -> None:
    jobs = waited(Model(), count=60)

    assert all(0 < abs(job.predicted) <= job.predicted_high for job in jobs)
    assert jobs[0].predicted < 0 < jobs[-1].predicted, "of the first it is a guess"


def test_a_batch_is_done_sooner_with_the_longest_first() -> None:
    jobs = made(100)
    as_submitted = makespan(jobs, None)

    longest_first = makespan(jobs, Truth())

    work = sum(job.seconds for job in jobs)
    assert max(work / 8, max(job.seconds for job in jobs)) <= longest_first <= as_submitted


def test_with_placement_calls_are_done_sooner_where_half_of_the_machines_are_slow() -> None:
    def seconds(*, by_placement: bool) -> float:
        jobs = arriving(made(1000), slots=8, load=0.2)
        machines = [Machine(name, 0.25 if name % 2 else 1.0) for name in range(8)]
        run(jobs, Table(), machines=machines, by_placement=by_placement)
        return sum(job.ended_at - job.ready_at for job in jobs)

    assert seconds(by_placement=True) < 0.9 * seconds(by_placement=False)
