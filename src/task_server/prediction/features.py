"""What of a call's arguments may tell how long it takes: numbers and categories by name."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log1p

MAXIMUM = 48
"""Features of one call."""
DEPTH = 3
"""How deep mappings are looked into."""
LONG_TEXT = 40
"""Texts beyond this many characters are known by their digest."""
FINITE = 1e3
"""The logarithm of any number is less, but that of an infinite one."""
FEW = 3
"""Lists up to this length are looked at member by member."""


@dataclass(slots=True, frozen=True)
class Features:
    """Of one call. Numbers are signed logarithms: sign(x) log(1 + |x|)."""

    numbers: Mapping[str, float]
    categories: Mapping[str, str]
    digest: int
    """The same for the same arguments, also after a restart."""


def features_of(args: Sequence[object], kwargs: Mapping[str, object]) -> Features:
    """The features of arguments: plain values, or summaries such as `{"type": "ndarray", ...}`."""
    found = _Found()
    for index, value in enumerate(args):
        found.add(str(index), value, 0)
    for name, value in kwargs.items():
        found.add(name, value, 0)
    numbers, categories = found.numbers, found.categories
    text = "\0".join((*numbers, "", *categories, "", *categories.values()))
    seen = text.encode(errors="replace") + struct.pack(f"<{len(numbers)}d", *numbers.values())
    digest = hashlib.blake2b(seen, digest_size=7).digest()
    return Features(numbers, categories, int.from_bytes(digest, "big"))


def signed_log(value: float) -> float:
    """sign(x) log(1 + |x|)."""
    return math.copysign(math.log1p(abs(value)), value)


class _Found:
    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.categories: dict[str, str] = {}

    def add(self, name: str, value: object, depth: int) -> None:
        if len(self.numbers) + len(self.categories) >= MAXIMUM:
            return
        if type(value) is float or type(value) is int:  # most are
            self._number(name, value)
        elif isinstance(value, bool) or value is None:
            self.categories[name] = str(value)
        elif isinstance(value, (int, float)):
            self._number(name, value)
        elif isinstance(value, str):
            self._text(name, value)
        elif isinstance(value, (list, tuple)):
            self._members(name, value, depth)
        elif isinstance(value, Mapping):
            self._mapping(name, value, depth)
        else:
            self.categories[name] = type(value).__name__

    def _number(self, name: str, value: float) -> None:
        try:
            number = log1p(value) if value >= 0 else -log1p(-value)
        except OverflowError:
            number = signed_log(1e308 if value > 0 else -1e308)
        if -FINITE < number < FINITE:
            self.numbers[name] = number
        else:
            self.categories[name] = str(float(value))

    def _text(self, name: str, value: str) -> None:
        if len(value) > LONG_TEXT:
            value_seen = hashlib.blake2b(value.encode(errors="replace"), digest_size=8).hexdigest()
        else:
            value_seen = value
        self.categories[name] = value_seen
        self.numbers[f"{name} length"] = math.log1p(len(value))

    def _members(self, name: str, value: Sequence[object], depth: int) -> None:
        self.numbers[f"{name} length"] = math.log1p(len(value))
        numbers = [each for each in value if type(each) in (int, float)]
        if not numbers or len(numbers) < len(value):
            return
        finite = [_finite(each) for each in numbers]
        self._number(f"{name} sum", math.fsum(finite))
        self._number(f"{name} maximum", max(finite))
        if len(numbers) <= FEW:
            for index, each in enumerate(numbers):
                self.add(f"{name} {index}", each, depth + 1)
            self._number(f"{name} product", math.prod(finite))

    def _mapping(self, name: str, value: Mapping[object, object], depth: int) -> None:
        shape = value.get("shape")
        if isinstance(shape, (list, tuple)):
            self._array(name, value, shape)
        elif depth < DEPTH:
            for key, each in value.items():
                self.add(f"{name}.{key}", each, depth + 1)

    def _array(self, name: str, value: Mapping[object, object], shape: Sequence[object]) -> None:
        self.categories[f"{name} type"] = f"{value.get('type')} {value.get('dtype')}"
        sizes = [_finite(each) for each in shape if isinstance(each, (int, float))]
        for index, size in enumerate(sizes[:FEW]):
            self._number(f"{name} {index}", size)
        self._number(f"{name} size", math.prod(sizes))


def _finite(value: object) -> float:
    """As a number that sums and products can bear."""
    try:
        number = float(value)  # type: ignore[arg-type]  # an int or a float
    except OverflowError:
        return 1e100
    return min(max(number, -1e100), 1e100) if number == number else 0.0
