"""What server and estimator say to each other: frames of MessagePack, each behind its length."""

from __future__ import annotations

import struct

import msgspec
from msgspec import Struct

HEAD = struct.Struct(">I")
"""Length of a frame."""
MAXIMUM_FRAME = 256 * 2**20


class Known(Struct, array_like=True, frozen=True):
    """A function, as a call of it is told."""

    function: int
    """Number of the function; 0: it has none yet."""
    name: str
    """Dotted: whose, package, module, name."""
    versions: dict[str, str]
    """Of what may change its run time: Python, its package, its pickle."""


class Arguments(Struct, array_like=True, frozen=True):
    """The arguments of one call."""

    payload: bytes
    """As `NewTask.payload`; empty where they are too large to be looked at."""
    size: int
    """Bytes of the arguments."""
    features: bytes | None
    """What the client said of them: names to numbers and texts, as JSON."""


class Sample(Struct, array_like=True):
    """A call that has ended."""

    known: Known
    arguments: Arguments
    worker: str | None
    outcome: str
    """succeeded, failed or timeout."""
    seconds: float


class Learn(Struct, tag=True):
    """Learn from calls, in this order."""

    samples: list[Sample]


class Learned(Struct, tag=True):
    """What a `Learn` came to."""

    cpu_seconds: float
    calls: dict[int, int]
    """Function -> how many of its calls were learned from by now, of those in the samples."""
    varied: list[int]
    """Those of them whose calls take longer or shorter by what they are called with."""


Range = tuple[float, float, float]
"""p10, p50 and p90 in seconds."""


class Fleet(Struct, array_like=True, frozen=True):
    """Who will do the work, and what they have to do first."""

    slots: list[tuple[str, int]]
    """Worker and number of its slots."""
    running: list[Range]
    """What is left of the calls that run."""
    own: int
    """How many of these, the first, belong to what is asked about."""
    ahead: Range
    """Core-seconds of work that waits and goes first."""


class Ask(Struct, tag=True):
    """How long will these calls take?"""

    known: list[Known]
    calls: list[tuple[int, Arguments]]
    """Which of `known`, and its arguments."""
    count: int
    """For how many calls these stand."""
    in_order: bool = False
    """They start in this order; else the long ones first."""
    fleet: Fleet | None = None
    """None: nobody is there to do it, or only the calls are of interest."""
    times: list[int] = []
    """How many times as many slots as these to look at, too."""
    within: float | None = None
    """Seconds. On how many slots are all done by then? None: that is not asked."""


class Basis(Struct, array_like=True):
    """What the estimates of one function rest on."""

    calls: int
    """Of that function that were learned from."""
    error_factor: float | None
    """How far off its estimates were of late: 1.3 is by 30 % either way. None: not known."""


class Told(Struct, tag=True):
    """The answer to an `Ask`."""

    quantiles: list[tuple[float, float, float, float]]
    """p10, p50, p90 and p99 of each call in seconds."""
    total: Range
    """Of all calls together, in core-seconds."""
    eta: Range | None
    """Until all are done on the fleet."""
    bases: list[Basis]
    """One a function asked of."""
    functions: int
    """Of how many functions it has learned anything."""
    cpu_seconds: float
    """What the answer cost."""
    etas: list[Range] = []
    """One of each `times` that was asked for."""
    slots: list[int | None] = []
    """At p50 and p90 those for `within`, if it was asked for; None: no number is enough."""


class Explain(Struct, tag=True):
    """What does a function's run time depend on?"""

    name: str
    """As `Known` has it."""


class Influence(Struct, array_like=True, frozen=True):
    """One feature of its calls."""

    feature: str
    factor: float
    """Between the calls of least and of most time that it makes."""
    exponent: float | None
    """Time grows as (1 + number) to this power; None: a category."""
    least: float | None
    most: float | None


class Explained(Struct, tag=True):
    """The answer to an `Explain`, the strongest first."""

    calls: int
    """That were learned from."""
    influences: list[Influence]
    unexplained: list[float] = []
    """Of the last calls, the newest last: log seconds beyond what these influences explain."""


class Load(Struct, tag=True):
    """Take back what was saved."""

    shared: bytes | None
    """What all functions share. None: keep it as it is."""
    functions: list[tuple[int, str, bytes]]
    """Number, name and state."""
    is_first: bool
    """Forget everything else before."""


class Save(Struct, tag=True):
    """Give what was learned, so that it can be kept."""


class Saved(Struct, tag=True):
    """What a `Load` can take back."""

    shared: bytes
    functions: list[tuple[int, bytes]]
    """Number and state of those with news since the last `Save` or `Load`."""
    gone: list[int]
    """Those that were forgotten since."""


class Failed(Struct, tag=True):
    """It could not be done."""

    message: str


Request = Learn | Ask | Explain | Load | Save
Reply = Learned | Told | Explained | Saved | Failed

_encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(tuple[int, Request])
_replies = msgspec.msgpack.Decoder(tuple[int, Reply])


def frame(number: int, message: Request | Reply) -> bytes:
    """A message and its number, ready to be sent; a reply bears the number of its request."""
    data = _encode((number, message))
    if len(data) > MAXIMUM_FRAME:
        raise ValueError(f"a message of {len(data)} bytes is too large")
    return HEAD.pack(len(data)) + data


def read_request(data: bytes) -> tuple[int, Request]:
    """What the server said. Raises msgspec.DecodeError."""
    return _requests.decode(data)


def read_reply(data: bytes) -> tuple[int, Reply]:
    """What the estimator said. Raises msgspec.DecodeError."""
    return _replies.decode(data)
