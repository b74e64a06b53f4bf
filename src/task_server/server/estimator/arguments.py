"""From arguments as they travel to a call as the model sees it."""

from __future__ import annotations

import msgspec

from task_server.prediction.predictor import Call
from task_server.server.estimator.messages import Arguments, Known


class _Plain(msgspec.Struct):
    args: list[object] = []
    kwargs: dict[str, object] = {}
    call: msgspec.Raw = msgspec.Raw()


_plain = msgspec.json.Decoder(_Plain)
_features = msgspec.json.Decoder(dict[str, float | str])


def call_of(known: Known, arguments: Arguments, worker: str | None = None) -> Call:
    """The call. Arguments that are not JSON are known by their size and the client's features."""
    plain = _read(arguments.payload)
    kwargs = dict(plain.kwargs)
    if bytes(plain.call) or not arguments.payload:
        kwargs["arguments"] = {"bytes": arguments.size}
    if arguments.features:
        kwargs["features"] = _features.decode(arguments.features)
    return Call(known.name, plain.args, kwargs, worker, known.versions)


def _read(payload: bytes) -> _Plain:
    try:
        return _plain.decode(b"{" + payload + b"}")
    except (msgspec.DecodeError, RecursionError):
        return _Plain()  # stored before it was checked as it is now: its size has to do
