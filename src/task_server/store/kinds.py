"""What the tasks of one list share: all of a task but its id and its arguments."""

from __future__ import annotations

import msgspec
from msgspec import Struct

FunctionKey = tuple[int, str, str]
"""Owner (0: by name), distribution, name."""
AUTO = -1.0
"""A `timeout` by how long the function's calls took."""
UNTIL_READ = -1.0
"""A `keep` that ends with the first read."""


class KindSpec(Struct, frozen=True, kw_only=True, array_like=True):
    """A task without its id and arguments: what the members of a list share."""

    owner: int
    function: str
    module: str | None
    package: tuple[str, ...]
    version: str | None
    distribution: str
    """Normalised name of the first package; empty without one."""
    python: str
    request: str
    """Canonical text of the environment request; empty: the empty environment."""
    environment: str | None
    """Digest of a lock that the task itself names."""
    pickle: str | None
    """`sha256:HEX` of a function by value."""
    timeout: float | None
    """Seconds, 0 for none; None: not stated; AUTO: fixed when it is leased."""
    max_attempts: int
    backoff: float
    retry_on: tuple[str, ...]
    priority: int
    at_most_once: bool
    result_encoding: str
    isolation: str
    tags: tuple[str, ...]
    plain: bool
    """A plain worker can run it."""
    keep: float | None = None
    """Seconds that its payloads are kept after its end, or UNTIL_READ; None: not stated."""
    sandbox: int = 0
    """Level that a worker has to reach, 0 to 4."""
    requires: str = ""
    """`Requires.text`."""

    @property
    def function_key(self) -> FunctionKey:
        """Whose statistics a task belongs to: a function by value is its owner's alone."""
        name = f"{self.module}:{self.function}" if self.module else self.function
        return (self.owner if self.pickle else 0, self.distribution, name)


class Kind(Struct):
    """A stored KindSpec."""

    number: int
    spec: KindSpec
    function: int
    lane: int
    retry_on: frozenset[str]
    head: bytes = b""
    """The part of an assignment that all its tasks share, as JSON; made when first leased."""

    @classmethod
    def read(cls, number: int, function: int, lane: int, data: bytes) -> Kind:
        """From its row: `data` is the spec as MessagePack."""
        spec = msgspec.msgpack.decode(data, type=KindSpec)
        return cls(number, spec, function, lane, frozenset(spec.retry_on))
