"""The plain API: shapes for clients and workers written in any language, in an afternoon."""

from __future__ import annotations

from msgspec import Raw, Struct


class PlainTask(Struct):
    """Body of `POST /user/submit_task`; fields that are not known are ignored."""

    function: str | None = None
    module: str | None = None
    package: str | None = None
    version: str | None = None
    args: Raw = Raw()
    kwargs: Raw = Raw()


class PlainException(Struct):
    """How a plain worker tells an exception, if not as text."""

    type: str | None = None
    message: str | None = None
    traceback: str | None = None


class PlainAnswer(Struct):
    """Body of `POST /worker/submit_answer`."""

    id: str
    answer: Raw = Raw()
    sucsess: bool | None = None
    success: bool | None = None
    exception: str | PlainException | None = None
    time: float | None = None
