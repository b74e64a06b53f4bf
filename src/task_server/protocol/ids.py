"""Ids of tasks and batches: UUIDv7 (RFC 9562), as text outside and 16 bytes in the store."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from functools import lru_cache

_TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)

REMEMBERED = 16_384
"""Texts kept at hand: each is told at the submit, with the lease and with the answer."""

MANY = 32
"""From here on all texts are written together, in a third of the time of one by one."""
_PLACES = [place for place in range(36) if place not in (8, 13, 18, 23)]

_HEXADECIMAL = re.compile("[0-9a-f]*", re.ASCII)
_VARIANTS = frozenset("89ab")


def new_ids(count: int, *, at: float | None = None) -> list[bytes]:
    """`count` ids that sort by their order here, made at `at` (Unix seconds, default now)."""
    milliseconds = int((time.time() if at is None else at) * 1000)
    head = milliseconds.to_bytes(6, "big")
    # 12 bits of counter after the time keep a list's order; 62 random bits make each unique.
    random = os.urandom(8 * count)
    ids = []
    for i in range(count):
        counter = (0x7000 | (i & 0xFFF)).to_bytes(2, "big")
        tail = random[8 * i : 8 * i + 8]
        ids.append(head + counter + bytes([0x80 | (tail[0] & 0x3F)]) + tail[1:])
        if i & 0xFFF == 0xFFF:
            milliseconds += 1
            head = milliseconds.to_bytes(6, "big")
    return ids


def new_id(*, at: float | None = None) -> bytes:
    """One new id."""
    return new_ids(1, at=at)[0]


@lru_cache(maxsize=REMEMBERED)
def to_text(identifier: bytes) -> str:
    """The usual text of an id, lower case with hyphens."""
    h = identifier.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def to_texts(identifiers: Sequence[bytes]) -> list[str]:
    """The texts of many."""
    count = len(identifiers)
    if count < MANY:
        return list(map(to_text, identifiers))
    texts, digits = bytearray(b"-") * (36 * count), b"".join(identifiers).hex().encode()
    for digit, place in enumerate(_PLACES):  # of all of them at once
        texts[place::36] = digits[digit::32]
    joined = texts.decode()
    return [joined[start : start + 36] for start in range(0, len(joined), 36)]


def from_texts(texts: Sequence[str]) -> list[bytes] | None:
    """What `from_text` gives for each; None when one of them is no id."""
    joined = "".join(texts)
    hyphens = "-" * len(texts)
    is_spelled_so = (
        all(len(text) == 36 for text in texts)
        and all(joined[at::36] == hyphens for at in (8, 13, 18, 23))
        and joined[14::36] == "7" * len(texts)
        and set(joined[19::36]) <= _VARIANTS
    )
    digits = joined.replace("-", "")
    if not is_spelled_so or _HEXADECIMAL.fullmatch(digits) is None:
        return None
    data = bytes.fromhex(digits)
    return [data[i : i + 16] for i in range(0, len(data), 16)]


def from_text(text: str) -> bytes | None:
    """The 16 bytes of an id's text; None when it is not a UUIDv7 in its usual spelling."""
    if _TEXT.fullmatch(text) is None:
        return None
    return bytes.fromhex(text.replace("-", ""))


def made_at(identifier: bytes) -> float:
    """When the id was made, Unix seconds, by whoever made it."""
    return int.from_bytes(identifier[:6], "big") / 1000
