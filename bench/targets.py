"""What has to be reached and what is aimed at, by database and figure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

DatabaseKind = Literal["sqlite", "postgresql"]


class Target(Struct, frozen=True):
    """Ratios to the reference where the figure has one, else values in the figure's unit."""

    must: float
    goal: float


TARGETS: dict[DatabaseKind, dict[str, Target]] = {
    "sqlite": {
        "batch of 1000": Target(1.5, 3.0),
        "batch of 100": Target(1.4, 2.5),
        "single submits, 16 connections": Target(0.5, 0.7),
        "submit and wait, 64 connections": Target(0.5, 0.8),
        "Executor.map over 10,000": Target(0.7, 1.5),
        "one by one, p50": Target(10.0, 5.0),
        "echo of 1 MiB, p50": Target(4.0, 2.0),
        "1,000,000 queued, submit order": Target(0.9, 1.0),
        "1,000,000 queued, estimates spread": Target(0.4, 0.6),
        "1,000 idle workers: server": Target(5.0, 2.0),
        "idle: server, worker, 2 runners (PSS)": Target(110.0, 70.0),
        "idle: server, worker, 2 runners (PSS), and the estimator": Target(110.0, 70.0),
        "RSS after 1,000,000 tasks to after 100,000": Target(1.2, 1.05),
    },
    "postgresql": {"batch of 1000": Target(0.7, 1.3)},
}
"""With one server; several are measured without a target."""
