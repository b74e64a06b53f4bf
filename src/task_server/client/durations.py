"""Seconds as people write them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Such as `3 ms`, `0.8 s`, `2 min 5 s`, `3 h 10 min`."""
    if seconds < 0.1:
        return f"{max(seconds, 0.0) * 1000:.2g} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def span(low: float, high: float) -> str:
    """Such as `1-3 ms`."""
    low_text, high_text = duration(low), duration(high)
    if low_text == high_text:
        return low_text
    number, _, unit = low_text.partition(" ")
    if high_text.partition(" ")[2] == unit:
        return f"{number}-{high_text}"
    return f"{low_text} - {high_text}"
