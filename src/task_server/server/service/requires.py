"""What users say that a task requires, checked."""

from __future__ import annotations

import math
import re

from task_server.errors import Invalid
from task_server.protocol import tasks as wire
from task_server.scheduling.requires import NOTHING, Requires

LEAST_CPU = 0.01
MAXIMUM_CPU = 65536
MAXIMUM_MEMORY = 2**60
MAXIMUM_GPU = 4096
MAXIMUM_LABELS = 32
LABEL_LETTERS = 200
_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?(?:([kKMGTP])(i?))?B")
_POWERS = {"k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def read_requires(asked: wire.Requires | None) -> Requires:
    """What a task requires. Raises Invalid with the field."""
    if asked is None:
        return NOTHING
    return Requires(
        cpu=_cpu(asked.cpu or 0.0),
        memory=_memory(0 if asked.memory is None else asked.memory),
        gpu=_gpu(asked.gpu or 0),
        labels=_labels(asked.labels or {}),
    )


def _cpu(cores: float) -> float:
    if cores and not LEAST_CPU <= cores <= MAXIMUM_CPU:
        message = f"requires.cpu is a number of cores from {LEAST_CPU} to {MAXIMUM_CPU}"
        raise Invalid(message, field="requires.cpu")
    return float(cores)


def _memory(said: float | str) -> int:
    size = bytes_in(said) if isinstance(said, str) else said
    if size is None or not 0 <= size <= MAXIMUM_MEMORY:
        message = f"requires.memory is a number of bytes, or a text such as 2GiB, not {said!r:.60}"
        raise Invalid(message, field="requires.memory")
    return math.ceil(size)


def bytes_in(text: str) -> float | None:
    """The bytes that a text such as `2GiB`, `1.5 GB` or `100B` stands for; None: it is no size."""
    found = _MEMORY.fullmatch(text.strip())
    if found is None:
        return None
    number, letter, is_binary = found.groups()
    base = 1024.0 if is_binary else 1000.0
    return float(number) * math.pow(base, _POWERS.get(letter or "", 0))


def _gpu(count: int) -> int:
    if not 0 <= count <= MAXIMUM_GPU:
        message = f"requires.gpu is a whole number up to {MAXIMUM_GPU}"
        raise Invalid(message, field="requires.gpu")
    return count


def _labels(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    texts = [*labels, *labels.values()]
    if len(labels) > MAXIMUM_LABELS or not all(_is_label(text) for text in texts):
        message = (
            f"requires.labels are at most {MAXIMUM_LABELS} names with values,"
            f" each of 1 to {LABEL_LETTERS} printable letters"
        )
        raise Invalid(message, field="requires.labels")
    return tuple(sorted(labels.items()))


def _is_label(text: str) -> bool:
    return 0 < len(text) <= LABEL_LETTERS and text.isprintable()
