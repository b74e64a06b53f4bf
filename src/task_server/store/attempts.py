"""A task's attempts in the store: how one is leased, what it reports, what becomes of that."""

from __future__ import annotations

from msgspec import Struct

from task_server.scheduling.timeouts import RunLimit
from task_server.store.kinds import Kind
from task_server.store.states import Encoding


class LeaseKey(Struct, frozen=True):
    """What a lease's text says: where its row is, and the secret that proves it."""

    number: int
    attempt: int
    secret: bytes

    @property
    def text(self) -> str:
        """As it travels."""
        return f"{self.number:x}.{self.attempt:x}.{self.secret.hex()}"

    @classmethod
    def parse(cls, text: str) -> LeaseKey | None:
        """None when the text is not a lease."""
        try:
            number, attempt, secret = text.split(".")
            key = cls(int(number, 16), int(attempt, 16), bytes.fromhex(secret))
        except ValueError:
            return None
        is_sane = 0 <= key.number < 2**62 and 0 <= key.attempt < 2**31 and len(key.secret) == 16
        return key if is_sane else None


class Used(Struct, omit_defaults=True):
    """What an attempt used, as kept with its task."""

    run_seconds: float = 0.0
    install_seconds: float = 0.0
    import_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    resolved: dict[str, str | None] | None = None
    worker: str | None = None
    sandbox: int = 0
    """Level that held it, 0 to 4."""


class AttemptReport(Struct):
    """How an attempt ended, as the worker says."""

    lease: LeaseKey | None
    """None: a text that is no lease, or a plain worker that names the task alone."""
    outcome: str
    encoding: Encoding
    answer: bytes
    """The answer, the blob's digest or the error, as kept and given out."""
    error_kind: str = ""
    unfit: bool = False
    pause_seconds: float = 0.0
    used: Used | None = None
    log: bytes = b""
    task: bytes | None = None
    """Id, for plain workers."""


class Decided(Struct):
    """What became of one report."""

    status: int
    duplicate: bool = False


DONE = Decided(200)
"""What becomes of nearly every report: it ended its task."""


class Dealt(Struct):
    """A leased task."""

    number: int
    id: bytes
    kind: Kind
    attempt: int
    secret: bytes
    payload: bytes
    limit: RunLimit | None = None
    """Of its run, where the task leaves that to the server."""

    @property
    def plain_seconds(self) -> float:
        """What a plain worker's lease needs at least: the time that its run may take, and more."""
        stated = self.kind.spec.timeout if self.limit is None else self.limit.seconds
        return stated + 60.0 if stated else 0.0
