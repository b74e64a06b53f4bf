"""JSON that is carried and never parsed: one look at C speed for what must not get through.

The envelope is decoded by msgspec; arguments and answers stay the bytes that came (DELIVERY, R7 and
section 6). msgspec skips them without checking depth, length of integers, size of exponents or
lone surrogates; each function here is a few searches over the bytes unless something looks odd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import accumulate

from task_server.errors import Invalid, Malformed

MAXIMUM_DEPTH = 128
MAXIMUM_DIGITS = 4300
"""Python's own limit for int(text); a million digits would take it 8.6 s."""

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAXIMUM_DIGITS + 1))
_BIG_EXPONENT = re.compile(rb"[0-9][eE][+-]?0*[1-9][0-9]{2,}")
# Begins only where digits begin, so that the time is linear.
_WITH_EXPONENT = re.compile(rb"(?<![0-9.])[0-9]+(?:\.[0-9]+)?[eE][+-]?[0-9]{3,}")
_SURROGATE = re.compile(
    rb"\\(?:[^u]|u(?:[^dD]|[dD][0-7])|(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]|(u[dD][89a-fA-F])))"
)
_KEYS = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:')
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_ZEROS = b"0" * (MAXIMUM_DIGITS + 1)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes(1 if c in b"[{" else 255 if c in b"]}" else 0 for c in range(256))
SMALL = 512


def check_text(body: bytes) -> None:
    """Raise Malformed unless the bytes are UTF-8 without a byte order mark."""
    if body[:3] == b"\xef\xbb\xbf":
        raise Malformed("the body begins with a byte order mark; send UTF-8 without one")
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8") from None


def check_payload(raw: bytes, field: str) -> None:
    """Raise for JSON that could not be carried to the function and back unharmed.

    Malformed for depth, Invalid for numbers and lone surrogates; `field` names it.
    """
    if raw.count(b"[") + raw.count(b"{") > MAXIMUM_DEPTH and depth_of(raw) > MAXIMUM_DEPTH:
        raise Malformed(f"{field} is nested deeper than {MAXIMUM_DEPTH}")
    if len(raw) > SMALL or b"e" in raw or b"E" in raw or b"\\" in raw:
        _check_odd(raw, field)


def check_payloads(raws: Sequence[bytes], field: str) -> None:
    """`check_payload` for each; many small ones are looked at together."""
    joined = b",".join(raws)
    # None of up to MAXIMUM_DEPTH bytes can be too deep, nor hold an integer that is too long.
    is_plain = b"\\u" not in joined and _BIG_EXPONENT.search(joined) is None
    for raw in raws:
        if len(raw) > MAXIMUM_DEPTH or not is_plain:
            check_payload(raw, field)


def _check_odd(raw: bytes, field: str) -> None:
    if len(raw) > MAXIMUM_DIGITS and _ZEROS in raw.translate(_DIGITS_TO_ZERO):
        _refuse_number(_LONG_NUMBER, raw, field, f"an integer of over {MAXIMUM_DIGITS} digits")
    if b"e" in raw or b"E" in raw:
        _refuse_number(_BIG_EXPONENT, raw, field, "a number that no float can hold")
    if b"\\u" in raw and _has_lone_surrogate(raw):
        raise Invalid(f"{field} holds a lone surrogate, which is not text", field=field)


def _refuse_number(pattern: re.Pattern[bytes], raw: bytes, field: str, what: str) -> None:
    if pattern.search(raw) is None:
        return
    bare = _STRINGS.sub(b'""', raw)  # digits inside of strings are no numbers
    if pattern is _LONG_NUMBER:
        is_bad = pattern.search(bare) is not None
    else:
        is_bad = any(abs(float(each)) == float("inf") for each in _WITH_EXPONENT.findall(bare))
    if is_bad:
        raise Invalid(f"{field} holds {what}; send it as text", field=field)


def _has_lone_surrogate(raw: bytes) -> bool:
    return any(found.group(2) is not None for found in _SURROGATE.finditer(raw))


def depth_of(raw: bytes) -> int:
    """How deep arrays and objects are nested, brackets in strings not counted."""
    bare = _STRINGS.sub(b"", raw).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(1 if step == 1 else -1 for step in bare), default=0)


def check_few_keys(raw: bytes, quoted: tuple[bytes, ...], *payloads: bytes) -> None:
    """`check_keys` where only these keys, given with their quotes, can stand in the envelope."""
    for key in quoted:
        if raw.count(key) > 1:
            check_keys(raw, *payloads)
            return


def check_keys(raw: bytes, *payloads: bytes) -> None:
    """Raise Malformed when a key of the envelope stands twice in `raw`.

    `payloads` are the opaque parts inside of it, whose keys are nobody's business.
    """
    for payload in payloads:
        if len(payload) > 2:
            raw = raw.replace(payload, b"0", 1)
    names = _KEYS.findall(raw)
    if len(names) != len(set(names)) or any(b"\\" in name for name in names):
        json.loads(raw, object_pairs_hook=_refuse_twice)


def _refuse_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"the key {twice[:100]!r} stands twice")
    return found
