"""Why a queued task waits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.scheduling.explain import Held, Host, Need, lack_of, standing
from task_server.scheduling.requires import Free, Requires

GIB = 2**30


def host(slots: int = 4, *, held: list[Held] | None = None, **options: Any) -> Host:
    has: dict[str, Any] = {"cpu": 4.0, "memory": 8 * GIB, "gpu": 2, "labels": {"rack": "b"}}
    facts = {name: options.pop(name) for name in list(options) if name in has}
    fields: dict[str, Any] = {"pythons": ("3.11",), "sandbox": 3, **options}
    free = Free(slots=slots, **{**has, **facts})
    return Host(slots=slots, free=free, held=held or (), **fields)


def need(**options: Any) -> Need:
    fields: dict[str, Any] = {"python": "3.11", "is_plain": False}
    return Need(**{**fields, **options})


def requiring(**requires: Any) -> Need:
    return need(requires=Requires(**requires))


def held(low: float, high: float, **requires: Any) -> Held:
    return Held(low=low, high=high, requires=Requires(**requires) if requires else None)


@pytest.mark.parametrize(
    "wants,has,lack",
    [
        (need(), host(), None),
        (need(python="3.9"), host(), "python"),
        (need(sandbox=4), host(), "sandbox"),
        (requiring(labels=(("rack", "a"),)), host(), "labels"),
        (requiring(cpu=5.0), host(), "cpu"),
        (requiring(memory=9 * GIB), host(), "memory"),
        (requiring(gpu=3), host(), "gpu"),
        (need(), host(is_broken=True), "environment"),
        (need(), host(slots=1, held=[held(1, 2)]), "free_slot"),
        (requiring(cpu=4.0), host(held=[held(1, 2)]), "free_cpu"),
        (requiring(memory=8 * GIB), host(held=[held(1, 2, memory=1)]), "free_memory"),
        (requiring(gpu=2), host(held=[held(1, 2, gpu=1)]), "free_gpu"),
        (requiring(cpu=3.0, memory=8 * GIB, gpu=2), host(held=[held(1, 2)]), None),
    ],
)
def test_the_first_thing_that_a_worker_lacks(wants: Need, has: Host, lack: str | None) -> None:
    assert lack_of(wants, has) == lack


@pytest.mark.parametrize("is_plain,lack", [(True, None), (False, "plain")])
def test_a_plain_worker_has_what_is_plain(is_plain: bool, lack: str | None) -> None:
    plain = Host(slots=1, pythons=(), sandbox=0, free=None)

    assert lack_of(need(is_plain=is_plain), plain) == lack


def test_workers_are_counted_by_what_they_lack() -> None:
    wants = requiring(memory=6 * GIB)
    hosts = [
        host(),
        host(memory=GIB),
        host(memory=GIB),
        host(pythons=("3.9",)),
        host(held=[held(3, 5, memory=4 * GIB)]),
    ]

    found = standing(wants, hosts)

    assert (found.total, found.free, found.fit) == (5, 1, 2)
    assert found.lacks == {"memory": 2, "python": 1, "free_memory": 1}
    assert (found.next_low, found.next_high) == (0.0, 0.0)


def test_the_next_slot_is_the_first_that_has_all_of_it() -> None:
    wants = requiring(memory=8 * GIB)
    slow = host(held=[held(30, 90, memory=1)])
    quick = host(held=[held(1, 2, memory=1), held(12, 40, memory=1), held(99, 999)])

    found = standing(wants, [slow, quick])

    assert (found.next_low, found.next_high) == (12, 40)
    assert found.lacks == {"free_memory": 2}


def test_nothing_is_expected_where_no_worker_ever_can() -> None:
    found = standing(requiring(gpu=9), [host(), host()])

    assert (found.fit, found.next_low, found.next_high) == (0, None, None)


@given(
    st.integers(0, 8),
    st.integers(0, 2),
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 100), st.integers(0, 8), st.integers(0, 2)),
        max_size=6,
    ),
)
def test_what_is_expected_lies_between_now_and_the_end_of_all(
    memory: int, gpu: int, running: list[tuple[float, float, int, int]]
) -> None:
    tasks = [
        held(min(one, other), max(one, other), memory=size * GIB, gpu=gpus)
        for one, other, size, gpus in running
    ]

    found = standing(requiring(memory=memory * GIB, gpu=gpu), [host(held=tasks)])

    assert found.fit == 1 and found.next_low is not None and found.next_high is not None
    assert 0 <= found.next_low <= found.next_high
    assert found.next_high <= max((each.high for each in tasks), default=0.0)
    assert (found.next_high == 0) or not found.free or found.next_low == 0
