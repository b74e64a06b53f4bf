"""The estimator's loop: `python -m task_server.server.estimator DESCRIPTOR`, started by the server.

It ends when the other end of its socket is closed, so also when the server is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import BinaryIO

from task_server.process import log_to_stderr
from task_server.server.estimator.learner import Learner
from task_server.server.estimator.messages import HEAD, Failed, Reply, Request, frame, read_request

NICENESS = 5
"""Whoever runs tasks or serves requests on this machine comes first."""


def serve(reading: BinaryIO, writing: BinaryIO) -> None:
    """Answer requests until there are no more."""
    learner = Learner()
    while head := _exactly(reading, HEAD.size):
        data = _exactly(reading, *HEAD.unpack(head))
        if data is None:
            return
        number, request = read_request(data)
        writing.write(frame(number, _answer(learner, request)))
        writing.flush()


def _answer(learner: Learner, request: Request) -> Reply:
    try:
        return learner.answer(request)
    except Exception as error:  # one odd call must not take from all others what was learned
        return Failed(f"{type(error).__name__}: {error}")


def _exactly(reading: BinaryIO, size: int) -> bytes | None:
    data = reading.read(size)
    return data if len(data) == size else None


def main() -> None:
    """Serve the socket whose descriptor was given."""
    # A signal to the group is meant for the server, which has a last word for its estimator.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    log_to_stderr()
    with socket.socket(fileno=int(sys.argv[1])) as server:
        try:
            serve(server.makefile("rb"), server.makefile("wb"))
        except (BrokenPipeError, ConnectionResetError):
            return  # the server went away in the middle of a frame


if __name__ == "__main__":
    main()
