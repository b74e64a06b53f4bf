"""Numbers as people read them, and what workers lack in words."""

from __future__ import annotations

from collections.abc import Mapping

from task_server.scheduling.explain import Lack, Need
from task_server.scheduling.statistics import SHORT_SECONDS

_SIZES = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def size(count: int) -> str:
    """Bytes, such as `16 GiB`."""
    for unit, factor in _SIZES:
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} bytes"


def span(low: float, high: float) -> str:
    """Seconds between two, such as `12-40 s` or `2-5 min`."""
    unit, factor = _unit(high)
    first, last = f"{low / factor:.2g}", f"{high / factor:.2g}"
    return f"{last} {unit}" if first == last else f"{first}-{last} {unit}"


def time(seconds: float) -> str:
    """Seconds, such as `1.5 s` or `2 h`."""
    return span(seconds, seconds)


def _unit(seconds: float) -> tuple[str, float]:
    if seconds < 0.95:
        return "ms", 0.001
    if seconds < 100:
        return "s", 1.0
    return ("min", 60.0) if seconds < 6000 else ("h", 3600.0)


def count_of(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _cores(number: float) -> str:
    return f"{number:g} core" if number == 1 else f"{number:g} cores"


def lacking(lack: Lack, number: int, need: Need) -> str:
    """That so many workers lack it."""
    return f"{count_of(number, 'worker')} {_have_not(lack, need, is_one=number == 1)}"


def _have_not(lack: Lack, need: Need, *, is_one: bool) -> str:
    requires = need.requires
    cores, memory = _cores(requires.cpu), size(requires.memory or requires.reserved)
    labels = ", ".join(f"{name}={value}" for name, value in requires.labels)
    gpus = count_of(requires.gpu, "GPU")
    has, reaches, asks = ("has", "does", "asks") if is_one else ("have", "do", "ask")
    stops, takes = ("stops", "takes") if is_one else ("stop", "take")
    words: Mapping[Lack, str] = {
        "plain": "of the plain API cannot run it",
        "python": f"{has} no Python {need.python}",
        "sandbox": f"{reaches} not reach level {need.sandbox} of the sandbox",
        "labels": f"{has} not the labels {labels}",
        "cpu": f"{has} not {cores} for tasks",
        "memory": f"{has} not {memory} for tasks",
        "gpu": f"{has} not {gpus}",
        "environment": "could not build its environment of late",
        "draining": f"{stops} and {takes} no more tasks",
        "paused": f"{asks} for no tasks now: the disk is full, or what runs hangs",
        "free_slot": f"{has} no free slot",
        "free_cpu": f"{has} not {cores} free",
        "free_memory": f"{has} not {memory} free",
        "free_gpu": f"{has} not {gpus} free",
    }
    return words[lack]


def wanted(lacks: Mapping[Lack, int], need: Need) -> str:
    """What most workers that fit lack for now, such as `16 GiB free`."""
    requires = need.requires
    words: Mapping[Lack, str] = {
        "free_slot": "a free slot",
        "free_cpu": f"{_cores(requires.cpu)} free",
        "free_memory": f"{size(requires.memory or requires.reserved)} free",
        "free_gpu": f"{count_of(requires.gpu, 'GPU')} free",
    }
    found = [(number, lack) for lack, number in lacks.items() if lack in words]
    return words[max(found)[1]] if found else "what it needs"


def held(worker: str, phase: str | None, *, elapsed: float, told_within: float) -> str:
    """What a worker does with a task that it has had for so long, as far as it has told."""
    so_long = f"{worker} has had it for {time(elapsed)}"
    if phase == "running":
        return f"{so_long} and runs it"
    if phase == "installing":
        return f"{so_long} and builds its environment"
    if elapsed <= told_within:
        return f"{so_long}; whether it has started is told within {time(told_within)}"
    return f"{so_long}; it waits behind others there, or the worker does not tell what it does"


def ahead() -> str:
    """Why a worker has more tasks than slots."""
    return (
        f"calls of its function take less than {time(SHORT_SECONDS)}, so a worker has several of"
        " them for each slot"
    )


def limit(seconds: float, why: str) -> str:
    """When a run is ended that leaves its time limit to the server."""
    return f"it is ended after {time(seconds)}: {why}"


def kept_free(count: int) -> str:
    """Why so much memory is kept for a task that states none."""
    return (
        f"{size(count)} of memory are kept free for it, as 95 of 100 calls of its function took no"
        " more, or as it ran out of less"
    )


def warm(build_seconds: float) -> str:
    """Why it goes to none of the workers that have room."""
    took = time(build_seconds)
    return f"a worker that has its environment is free soon; another would build it for {took}"
