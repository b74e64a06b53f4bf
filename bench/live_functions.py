"""Ordinary functions of common packages, and arguments for them: what `live_prediction` calls."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from msgspec import Struct

Arguments = tuple[Any, ...]
Chance = random.Random


class Subject(Struct, frozen=True):
    """A function by name, the package that has it, and how its arguments are drawn."""

    name: str
    package: str | None
    draw: Callable[[Chance], Arguments]


def _size(chance: Chance, least: int, most: int) -> int:
    """Evenly on the scale of logarithms, as sizes of work are."""
    share: float = (most / least) ** chance.random()
    return round(least * share)


def _word(chance: Chance) -> str:
    return "".join(chance.choices("abcdefghij", k=chance.randint(3, 12)))


def _words(chance: Chance, count: int) -> list[str]:
    return [_word(chance) for _ in range(count)]


def _numbers(chance: Chance) -> Arguments:
    return ([round(chance.uniform(0, 100), 2) for _ in range(_size(chance, 200, 7_000))],)


def _dictionary(chance: Chance) -> Arguments:
    cutoff = chance.choice([0.4, 0.6, 0.8])
    return (_word(chance), _words(chance, _size(chance, 50, 2_000)), 5, cutoff)


def _polynomial(chance: Chance) -> Arguments:
    return ([round(chance.gauss(0, 1), 3) + 2 for _ in range(_size(chance, 20, 250))],)


def _picture(chance: Chance) -> Arguments:
    width, height = _size(chance, 60, 500), _size(chance, 60, 500)
    return ([width, height], [-2.0, -1.5, 1.0, 1.5], chance.randint(20, 120))


def _graph(chance: Chance) -> Arguments:
    nodes = _size(chance, 50, 3_000)
    return (nodes, nodes * chance.randint(1, 6), chance.randint(0, 10**6))


def _edited(chance: Chance) -> Arguments:
    words = _words(chance, _size(chance, 20, 500))
    changed = [word if chance.random() < 0.9 else _word(chance) for word in words]
    return (f"<p>{' '.join(words)}</p>", f"<p>{' '.join(changed)}</p>")


def _records(chance: Chance) -> Arguments:
    count = _size(chance, 20, 900)
    rows = [{"id": n, "of": {"name": _word(chance), "size": n % 7}} for n in range(count)]
    return (rows,)


def _document(chance: Chance) -> Arguments:
    return ("\n".join(f"{_word(chance)}{n}: {n}" for n in range(_size(chance, 20, 1_200))),)


SUBJECTS = [
    Subject("statistics:pvariance", None, _numbers),
    Subject("difflib:get_close_matches", None, _dictionary),
    Subject("numpy:roots", "numpy", _polynomial),
    Subject("sklearn.datasets:make_spd_matrix", "scikit-learn", lambda c: (_size(c, 10, 220),)),
    Subject("PIL.Image:effect_mandelbrot", "pillow", _picture),
    # How long this takes nobody can tell from the number: the interval has to.
    Subject("sympy:factorint", "sympy", lambda c: (c.getrandbits(c.randint(30, 75)) | 1,)),
    Subject("networkx:gnm_random_graph", "networkx", _graph),
    Subject("lxml.html.diff:htmldiff", "lxml", _edited),
    Subject("pandas:json_normalize", "pandas", _records),
    Subject("yaml:safe_load", "pyyaml", _document),
]
