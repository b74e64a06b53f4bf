"""A value that is stored at the server."""

from __future__ import annotations

from typing import Literal, NoReturn

BlobForm = Literal["bytes", "path", "json", "pickle"]


class Blob:
    """A stored value that can be passed as an argument; `client.put` makes one."""

    __slots__ = ("digest", "form", "size")

    def __init__(self, digest: str, form: BlobForm, size: int) -> None:
        self.digest = digest
        """`sha256:HEX`."""
        self.form = form
        """What the function gets: the bytes, a path of a file with them, or the value in them."""
        self.size = size

    def __repr__(self) -> str:
        return f"<Blob {self.digest} as {self.form}, {self.size} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Blob cannot be pickled into another value; pass it as an argument of its own,"
            " or inside lists and dicts that hold nothing but plain JSON"
        )
