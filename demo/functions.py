"""Functions of the demo. No worker has this file: they travel by value, with each call."""

from __future__ import annotations

import math


def accuracy_on_irises(seed: int) -> float:
    """Train a classifier on two thirds of the iris flowers; how many of the rest it gets right."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    flowers, kinds = load_iris(return_X_y=True)
    known, unknown, known_kinds, unknown_kinds = train_test_split(
        flowers, kinds, test_size=50, stratify=kinds, random_state=seed
    )
    model = LogisticRegression(max_iter=1000).fit(known, known_kinds)
    return float(model.score(unknown, unknown_kinds))


def thumbnail(picture: bytes, width: int) -> bytes:
    """The picture as a PNG of that width."""
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(picture))
    small = image.resize((width, image.height * width // image.width))
    out = io.BytesIO()
    small.save(out, "PNG")
    return out.getvalue()


def longest_run(text: str) -> tuple[str, int]:
    """The letter that is repeated most often in a row, and how often."""
    best, run, last = ("", 0), 0, ""
    for letter in text:
        run = run + 1 if letter == last else 1
        last = letter
        best = max(best, (letter, run), key=lambda found: found[1])
    return best


def count_primes(start: int, end: int) -> int:
    """How many primes there are from `start` on, below `end`; slowly."""
    return sum(map(_is_prime, range(start, end)))


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def primes_by_sieve(width: int, count: int) -> list[int]:
    """The same for each of `count` ranges of that width, quickly."""
    end = width * count
    sieve = bytearray([0, 0]) + bytearray([1]) * (end - 2)
    for number in range(2, math.isqrt(end) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, end, number)))
    return [sum(sieve[start : start + width]) for start in range(0, end, width)]
